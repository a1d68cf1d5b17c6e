"""The real processes together: twin, policy server, cameras, robotd, rollout. Nothing is stood in for."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from robot.daemon import RobotClient
from robot.daemon.lock import holder_pid
from robot.processes import Child
from robot.rollout.main import main
from robot.state import MachineState
from robot.twin.control import TwinControl, TwinFault


def test_a_served_policy_moves_the_arm_and_leaves_its_files(stack: Any, tmp_path: Path) -> None:
    result_file = tmp_path / "result.json"
    rollout = stack.rollout("plain", "--task", "cup", "--seconds", "3", "--json", str(result_file))
    code, out, err = rollout.wait()
    assert code == 0, out + err
    assert "RANDOM WEIGHTS" in out
    result = json.loads(result_file.read_text())
    assert result == json.loads((rollout.output / "summary.json").read_text())
    assert result["policy"]["trained"] is False
    (episode,) = result["episodes"]
    assert (episode["task"], episode["seed"], episode["reason"]) == ("cup", 0, "time limit")
    assert 44 <= episode["ticks"] + episode["missed_ticks"] <= 46
    assert episode["chunks"] >= 2

    steps = rollout.steps()
    assert len(steps) == episode["ticks"]
    joints = np.array([step["joints_rad"] for step in steps])
    assert np.ptp(joints, axis=0).max() > 0.01, "the arm must have moved"
    followed = {step["followed_observation_ns"] for step in steps if step["followed_observation_ns"]}
    assert followed <= {step["chunk"]["observation_time_ns"] for step in steps if step["chunk"]}

    with av.open(episode["video"]) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == episode["video_frames"] >= 12
    assert frames[0].shape == (180, 640, 3)
    assert frames[0].std() > 10.0
    assert json.loads((rollout.output / "episode-000-cup" / "episode.json").read_text())["state"] == "closed"
    assert holder_pid(stack.rig.name) is None, "the station it started must be gone"


def test_killing_the_server_holds_the_arm_and_ctrl_c_ends_in_order(stack: Any, wait_for: Callable[..., Any]) -> None:
    rollout = stack.rollout("killed", "--task", "can", "--seconds", "60")
    wait_for(lambda: [s for s in rollout.steps() if s["machine_state"] == "STREAMING"], what="the arm streams")
    stack.server.kill()
    killed_ns = time.monotonic_ns()
    with RobotClient.connect(stack.rig, name="onlooker") as robot:

        def holds() -> bool:
            state = robot.state()
            return state.machine_state is MachineState.HOLDING and bool(np.abs(state.joint_speed_rad_s).max() < 0.01)

        wait_for(holds, what="the arm holds after the chunk's end")
        still = robot.state().joints_rad
        time.sleep(0.5)
        np.testing.assert_allclose(robot.state().joints_rad, still, atol=2e-3)
        stack.start_server()
        wait_for(
            lambda: robot.state().source_id > killed_ns,
            what="the arm follows a chunk from an observation made after the restart",
        )
        rollout.process.send_signal(signal.SIGINT)
        rollout.process.send_signal(signal.SIGINT)
        code, out, err = rollout.wait()
    assert code == 130, out + err
    assert "Traceback" not in err
    steps = rollout.steps()
    assert any(step["link"] == "reconnecting" for step in steps)
    after_kill = [step for step in steps if step["chunk"] and step["chunk"]["observation_time_ns"] > killed_ns]
    assert after_kill
    episode = json.loads((rollout.output / "episode-000-can" / "episode.json").read_text())
    assert (episode["state"], episode["reason"], episode["success"]) == ("closed", "stopped by the operator", False)
    with av.open(episode["video"]) as container:
        assert sum(1 for _ in container.decode(video=0)) > 10
    assert holder_pid(stack.rig.name) is None
    with TwinControl.connect(stack.rig) as twin:
        assert twin.status()["alarms"] == []


@pytest.mark.slow
def test_after_a_collision_a_simulated_rig_goes_on_with_the_next_episode(
    stack: Any, wait_for: Callable[..., Any], tmp_path: Path
) -> None:
    result_file = tmp_path / "result.json"
    rollout = stack.rollout(
        "collided", "--task", "cup", "--episodes", "2", "--seconds", "3", "--json", str(result_file)
    )
    wait_for(lambda: [s for s in rollout.steps() if s["machine_state"] == "STREAMING"], what="the arm streams")
    with TwinControl.connect(stack.rig) as control:
        control.fault(TwinFault.COLLISION)
    code, out, err = rollout.wait()
    assert code == 0, out + err
    first, second = json.loads(result_file.read_text())["episodes"]
    assert first["reason"] == "the arm ran into something"
    assert not first["success"]
    assert not first["aborted"], "it is a failure of the policy, not a void trial"
    assert second["reason"] == "time limit"


def test_a_lease_that_somebody_holds_is_one_clear_line(stack: Any, tmp_path: Path) -> None:
    robotd = Child(
        "robotd", module="robot.daemon", args=("--rig", str(stack.rig_path)), log_path=tmp_path / "robotd.log"
    )
    try:
        with RobotClient.connect(stack.rig, name="somebody", timeout_s=20.0) as holder:
            holder.acquire()
            code, _, err = stack.rollout("leased", "--seconds", "1").wait()
            assert code == 1
            assert "controlled by 'somebody'" in err
            assert err.strip().count("\n") == 0
            assert robotd.running, "a robotd that was there before is left running"
    finally:
        robotd.stop()


@pytest.mark.slow
def test_ctrl_c_on_the_way_to_the_start_pose_holds_there(
    stack: Any, wait_for: Callable[..., Any], tmp_path: Path
) -> None:
    robotd = Child(
        "robotd", module="robot.daemon", args=("--rig", str(stack.rig_path)), log_path=tmp_path / "robotd.log"
    )
    try:
        with RobotClient.connect(stack.rig, name="test", timeout_s=20.0) as robot:
            robot.acquire()
            robot.enable()
            away = np.array(stack.rig.start.joints_rad) + np.array([0.9, 0, 0, 0, 0, 0])
            robot.move_to(away, gripper=0.0)
            robot.release()
            rollout = stack.rollout("moving", "--seconds", "30")
            wait_for(lambda: robot.state().machine_state is MachineState.MOVING, what="the arm goes to its start")
            rollout.process.send_signal(signal.SIGINT)
            code, out, err = rollout.wait()
            assert code == 130, out + err
            assert "Traceback" not in err
            state = robot.state()
            assert np.abs(state.joint_speed_rad_s).max() < 0.01
            assert np.abs(state.joints_rad - stack.rig.start.joints_rad).max() > 0.05, "it must not have gone on"
            assert robot.status().lease is None
            assert not list(rollout.output.glob("episode-*"))
    finally:
        robotd.stop()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--server", "ws://127.0.0.1:9"], "is the policy server running"),
        (["--server", "127.0.0.1:9"], "--server: expected an address such as ws://127.0.0.1:8000, got '127.0.0.1:9'"),
        (["--rig", "nosuchrig"], "no such file"),
        (["--task", "nosuchtask"], "no such file"),
        (["--episodes", "0"], "--episodes: expected 1 or more, got 0"),
        (["--seconds", "0"], "--seconds: expected more than 0, got 0"),
        (["--replan-ticks", "16"], "--replan-ticks: expected 1 to 15"),
    ],
)
def test_what_cannot_work_ends_with_one_clear_line(
    refused: Callable[..., str], arguments: list[str], words: str
) -> None:
    assert words in refused(*arguments)


def test_without_a_twin_the_rollout_says_how_to_start_one(
    stack: Any, refused: Callable[..., str], tmp_path: Path
) -> None:
    text = stack.rig_path.read_text().replace(f"control_port: {stack.rig.twin.control_port}", "control_port: 9")
    path = tmp_path / "elsewhere.yaml"
    path.write_text(text.replace("name: closedloop", "name: elsewhere"))
    assert "launch/twin --rig elsewhere" in refused("--rig", str(path))


def test_a_start_pose_outside_the_box_is_refused_before_anything_moves(
    stack: Any, refused: Callable[..., str], tmp_path: Path
) -> None:
    text = stack.rig_path.read_text()
    path = tmp_path / "outside.yaml"
    path.write_text(text.replace("- 0.72", "- 0.25"))
    assert path.read_text() != text
    assert "start.joints_rad of rig 'closedloop' is outside its limits" in refused("--rig", str(path))


@pytest.fixture
def refused(stack: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command with the stack's rig and server unless told otherwise; gives the one line it ends with."""

    def run(*arguments: str) -> str:
        usual = {"--rig": str(stack.rig_path), "--server": f"ws://127.0.0.1:{stack.server_port}"}
        filled = [part for key, value in usual.items() if key not in arguments for part in (key, value)]
        assert main([*filled, "--output", str(tmp_path), *arguments]) == 1
        text = capsys.readouterr().err.strip()
        assert text.count("\n") == 0, text
        return text

    return run
