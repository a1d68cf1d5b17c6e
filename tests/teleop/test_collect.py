"""Whole sessions on a twin: the scripted operator, a keyboard on a pseudo-terminal, and replay."""

import contextlib
import importlib
import json
import os
import pty
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from configs.schema import CONFIGS, RigConfig, load_rig
from robot.daemon import RobotClient
from robot.daemon.lock import holder_pid
from robot.processes import Child
from robot.recording import Episode, Label, list_episodes
from robot.recording.meta import EpisodeState
from robot.recording.tool import main as episodes_main
from robot.state import MachineState
from robot.station import Station
from robot.twin.control import TwinControl
from robot.twin.faults import TwinFault
from teleop.collect import main
from teleop.guided_path import load_take
from teleop.replay import main as replay_main

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True)
class Cell:
    """A running twin and the rig file that leads to it."""

    rig: RigConfig
    path: Path


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    folder = tmp_path_factory.mktemp("teleop")
    patch = pytest.MonkeyPatch()
    patch.setenv("NOVA_PI_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
    patch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", "egl"))
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
    dashboard, feedback, slow, control = (listener.getsockname()[1] for listener in listeners)
    for listener in listeners:
        listener.close()
    content = yaml.safe_load((CONFIGS / "rigs" / "twin.yaml").read_text())
    content["name"] = "teleop"
    content["arm"].update(dashboard_port=dashboard, feedback_port=feedback, slow_feedback_port=slow)
    content["twin"]["control_port"] = control
    for camera in content["cameras"].values():
        camera.update(width=320, height=180)
    path = folder / "teleop.yaml"
    path.write_text(yaml.safe_dump(content))
    rig = load_rig(path)
    twin = Child(
        "twin", module="robot.twin.server", args=("--rig", str(path), "--headless"), log_path=folder / "twin.log"
    )
    try:
        TwinControl.wait(rig, timeout_s=60.0).close()
        yield Cell(rig, path)
    finally:
        twin.stop()
        patch.undo()


@pytest.fixture(scope="module")
def station(cell: Cell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    """Cameras and robotd that are there already, as beside another program: the sessions below use them."""
    with Station(cell.path, log_dir=tmp_path_factory.mktemp("logs")) as station:
        yield station


def collect_arguments(cell: Cell, output: Path, *more: str) -> list[str]:
    return ["--rig", str(cell.path), "--task", "cup", "--output", str(output), "--reserve-gib", "0.05", *more]


def test_a_keyboard_session_moves_the_arm_labels_the_episode_and_ends_on_quit(
    cell: Cell, station: Station, tmp_path: Path, wait_for: Callable[..., None]
) -> None:
    output = tmp_path / "raw"
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "teleop.collect", *collect_arguments(cell, output, "--episodes", "2")]
    process = subprocess.Popen(
        [*command, "--countdown", "0"], stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    output_fd = process.stdout.fileno()
    os.set_blocking(output_fd, False)
    said = ""

    def says(words: str) -> bool:
        nonlocal said
        with contextlib.suppress(BlockingIOError):
            said += os.read(output_fd, 65536).decode()
        assert process.poll() is None, said
        return words in said

    try:
        wait_for(lambda: says("set up the scene"), what="the prompt")
        os.write(master, b"\r")
        wait_for(lambda: says("recording"), what="the recording")
        time.sleep(0.3)
        os.write(master, b" ")
        for _ in range(25):
            os.write(master, b"a")
            time.sleep(0.04)
        os.write(master, b"gn")
        wait_for(lambda: says("failure"), what="the end of the episode")
        said = said[said.index("failure") :]
        wait_for(lambda: says("set up the scene"), what="the next prompt")
        os.write(master, b"q")
        assert process.wait(30) == 130
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
        os.close(master)
        os.close(slave)
    (meta,) = list_episodes(output).episodes
    assert meta.outcome.label is Label.FAILURE
    steps = Episode(output / meta.id).steps
    assert steps["engaged"].any()
    way = steps["measured_tcp_position_m"][-1] - steps["measured_tcp_position_m"][0]
    assert way[1] > 0.02, "the key for left moves the tool along the base's y"


def test_the_expert_collects_an_episode_that_can_be_replayed_and_the_session_knows_that_it_is_done(
    cell: Cell, station: Station, tmp_path: Path
) -> None:
    output, report = tmp_path / "raw", tmp_path / "collect.json"
    arguments = collect_arguments(
        cell, output, "--device", "expert", "--episodes", "1", "--seconds", "40", "--operator", "Ada"
    )
    assert main([*arguments, "--json", str(report)]) == 0
    (record,) = json.loads(report.read_text())["episodes"]
    assert record["label"] == "success"
    (meta,) = list_episodes(output).episodes
    assert (meta.outcome.label, meta.description.request.operator) == (Label.SUCCESS, "Ada")
    steps = Episode(output / meta.id).steps
    assert len(steps) == record["steps"]
    engaged = steps[steps["engaged"] == 1]
    assert len(engaged) > 30
    assert np.isfinite(engaged["requested_joints_rad"]).all()
    assert np.nanmax(np.abs(engaged["sent_joints_rad"] - engaged["requested_joints_rad"])) < 0.1
    assert np.nanmax(np.abs(engaged["measured_joints_rad"] - engaged["sent_joints_rad"])) < 0.35
    assert {0.0, 1.0} <= set(engaged["requested_gripper"].tolist())
    assert np.isfinite(engaged["device_raw"][:, :6]).all()
    assert holder_pid(cell.rig.name) is not None, "the station that was there must stay"

    assert main(arguments) == 0, "called again, nothing is left to do"
    assert len(list_episodes(output).episodes) == 1

    assert episodes_main(["trim", str(output), meta.id, "--start", "1", "--end", "4.5"]) == 0
    tracked = tmp_path / "replay.json"
    assert replay_main([str(output / meta.id), "--rig", str(cell.path), "--json", str(tracked)]) == 0
    found = json.loads(tracked.read_text())
    assert found["ok"]
    assert found["tracking"]["joint_rms_rad"] < 0.1


@pytest.mark.slow
def test_a_path_that_a_hand_led_is_driven_again_without_the_hand_and_recorded(
    cell: Cell, station: Station, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "raw"
    master, slave = pty.openpty()
    monkeypatch.setattr(sys, "stdin", os.fdopen(slave))
    led: list[np.ndarray] = []

    def operate() -> None:
        """An operator: starts, pushes the arm to the left, closes the jaws, says done, starts the drive, approves."""
        with RobotClient.connect(cell.rig, name="onlooker") as onlooker, TwinControl.connect(cell.rig) as twin:
            _press(master, b"\r", until=lambda: onlooker.state().machine_state is MachineState.DRAG)
            led.append(onlooker.state().tcp_position_m)
            for _ in range(2):
                twin.fault(TwinFault.PUSH, force_n=[0, 30, 0], duration_s=0.4)
                time.sleep(0.6)
            _press(master, b"g", until=lambda: onlooker.state().gripper > 0.5)
            led.append(onlooker.state().tcp_position_m)
            os.write(master, b"y")
            _press(master, b"\r", until=lambda: onlooker.state().machine_state is MachineState.STREAMING, every_s=0.5)
            _press(master, b"", until=lambda: _labels(output) == [Label.UNCONFIRMED])
            _press(master, b"y", until=lambda: _labels(output) == [Label.SUCCESS])

    hand = threading.Thread(target=operate)
    hand.start()
    arguments = ["--device", "drag", "--episodes", "1", "--countdown", "0"]
    try:
        assert main(collect_arguments(cell, output, *arguments)) == 0
    finally:
        hand.join()
        os.close(master)
    (meta,) = list_episodes(output).episodes
    assert meta.description.request.extra["device"] == "drag"
    steps = Episode(output / meta.id).steps
    way = steps["measured_tcp_position_m"][-1] - steps["measured_tcp_position_m"][0]
    assert led[1][1] - led[0][1] > 0.02
    np.testing.assert_allclose(way, led[1] - led[0], atol=0.03)
    assert steps["sent_gripper"][-1] == 1.0
    (kept,) = (output / "guided").glob("*.npz")
    assert load_take(kept).task == "cup"


def test_lerobots_tools_drive_the_rig_through_the_plug_in(
    cell: Cell, station: Station, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, plugins = Path(__file__).parent, Path(__file__).parents[2] / "teleop" / "lerobot_plugin"
    for folder in (plugins / "lerobot_robot_nova5", plugins / "lerobot_camera_zed", here / "lerobot_stub"):
        monkeypatch.syspath_prepend(str(folder))
    robots = importlib.import_module("lerobot_robot_nova5")
    cameras = importlib.import_module("lerobot_camera_zed")
    assert importlib.import_module("lerobot.robots").RobotConfig.choices["nova5"] is robots.Nova5Config
    assert "lerobot_robot_nova5" in (plugins / "lerobot_robot_nova5" / "pyproject.toml").read_text()
    robot = robots.Nova5(robots.Nova5Config(id="one", rig=str(cell.path), log_dir=str(tmp_path)))
    keys = [*(f"joint_{number}.pos" for number in range(1, 7)), "gripper.pos"]
    assert list(robot.action_features) == keys
    size = (cell.rig.cameras["wrist"].height, cell.rig.cameras["wrist"].width, 3)
    assert robot.observation_features["wrist"] == size
    robot.connect()
    try:
        seen = robot.get_observation()
        assert set(seen) == set(robot.observation_features)
        assert seen["exterior"].shape == size
        action = {key: seen[key] for key in keys}
        for _ in range(12):
            action["joint_1.pos"] += 0.01
            taken = robot.send_action(action)
            time.sleep(1 / 15)
        assert taken["joint_1.pos"] == pytest.approx(action["joint_1.pos"], abs=1e-6)
        assert robot.get_observation()["joint_1.pos"] > seen["joint_1.pos"] + 0.05
        far = robot.send_action({**action, "joint_1.pos": action["joint_1.pos"] + 2.0})
        assert far["joint_1.pos"] < action["joint_1.pos"] + 0.5, "what is returned is what is followed"
    finally:
        robot.disconnect()
    assert not robot.is_connected
    with pytest.raises(ValueError, match="change the rig file"):
        cameras.ZedConfig(rig=str(cell.path), camera="wrist", width=17)
    camera = cameras.Zed(cameras.ZedConfig(rig=str(cell.path), camera="wrist", log_dir=str(tmp_path)))
    camera.connect()
    assert camera.async_read(timeout_ms=2000).shape == size
    assert camera.capture_ns > 0
    camera.disconnect()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rig", "nosuchrig"], "no such file"),
        (["--episodes", "0"], "--episodes: expected 1 or more"),
        (["--speed", "1.5"], "speed_scale: expected more than 0 and at most 1"),
        (["--device", "gamepad", "--port", "nosuchdevice"], "is the device plugged in"),
        (["--device", "leader"], "calibration file"),
        (["--device", "expert", "--rig", "lab", "--frame", "view"], "--view-yaw-deg"),
        (["--reserve-gib", "1000000"], "GiB free"),
    ],
)
def test_what_cannot_work_ends_with_one_clear_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ["--output", str(tmp_path / "raw")]
    small = [] if "--reserve-gib" in arguments else ["--reserve-gib", "0.05"]
    assert main([*usual, *small, *arguments]) == 1
    text = capsys.readouterr().err.strip()
    assert words in text
    assert text.count("\n") == 0, text


def _labels(output: Path) -> list[Label]:
    """Of the episodes that are closed."""
    closed = (meta for meta in list_episodes(output).episodes if meta.state is EpisodeState.CLOSED)
    return [meta.outcome.label for meta in closed]


def _press(master: int, keys: bytes, *, until: Callable[[], bool], every_s: float = 1.0) -> None:
    """Press keys until something happens, as a person does who is not sure that the first press was heard."""
    deadline_s = time.monotonic() + 60.0
    while not until():
        assert time.monotonic() < deadline_s, f"{keys!r} did nothing"
        os.write(master, keys)
        again_s = time.monotonic() + every_s
        while time.monotonic() < again_s and not until():
            time.sleep(0.02)


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """``wait_for(look, what=...)`` until ``look()`` is true."""

    def wait(look: Callable[[], bool], *, what: str) -> None:
        deadline_s = time.monotonic() + 60.0
        while not look():
            assert time.monotonic() < deadline_s, f"{what}: not within 60 s"
            time.sleep(0.05)

    return wait
