"""The recorder process, with real rings, sockets and files."""

import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.schema import RigConfig
from robot.processes import Child
from robot.recording import (
    Episode,
    EpisodeRequest,
    Label,
    Outcome,
    RecorderClient,
    RecorderUnavailableError,
    RecordingError,
    start_recorder,
)
from robot.recording.meta import EpisodeState, read_meta
from robot.recording.synthetic import SyntheticRig, picture_number, step_at

REQUEST = EpisodeRequest(
    task="cup", prompt="Put the cup on the plate", operator="me", policy={"name": "p", "digest": "d"}
)
SUCCESS = Outcome(Label.SUCCESS)


def send_steps(client: RecorderClient, *, seconds: float) -> int:
    count = round(seconds * 15)
    for tick in range(count):
        client.step(step_at(tick / 15, tick=tick, time_ns=time.monotonic_ns()))
        time.sleep(1 / 15)
    return count


def wait_until_closed(client: RecorderClient, *, timeout_s: float = 10.0) -> str:
    deadline = time.monotonic() + timeout_s
    while client.status().episode is not None:
        assert time.monotonic() < deadline, "the episode was not closed"
        time.sleep(0.05)
    return str(client.status().last_label)


@pytest.mark.realtime
def test_an_episode_holds_all_that_was_published_while_it_lasted(recorder: Child, raw: Path) -> None:
    with RecorderClient("small") as client:
        episode_id = client.start_episode(REQUEST)
        steps = send_steps(client, seconds=1.0)
        client.event("guard", {"joint_limit": 2})
        meta = client.finish(SUCCESS)
    assert meta.id == episode_id
    assert meta == read_meta(raw / episode_id)
    episode = Episode(raw / episode_id)
    assert episode.damage == []
    assert meta.summary.dropped == {}
    assert episode.cameras == ("exterior", "wrist")
    for camera in episode.cameras:
        seq = episode.frame_times(camera).device_seq
        assert len(seq) >= 25
        assert np.all(np.diff(seq) == 1)
        assert picture_number(episode.image(camera, 7)) == seq[7] % 30
    assert len(episode.state) >= 100
    assert np.all(np.diff(episode.state["seq"]) == 1)
    assert episode.steps["tick"].tolist() == list(range(steps))
    assert [(event.name, event.data) for event in episode.events] == [("guard", {"joint_limit": 2})]
    assert episode.camera_info("wrist").intrinsics.width == 256


def test_a_recording_says_who_what_where_and_when(recorder: Child, raw: Path, rig: RigConfig) -> None:
    with RecorderClient("small") as client:
        client.start_episode(REQUEST)
        meta = client.finish(SUCCESS)
    description = meta.description
    assert replace(description.request, calibration={}) == REQUEST
    assert description.request.calibration["hand-eye-wrist"] == "missing"
    assert description.rig == rig.model_dump(mode="json")
    assert abs(description.started_wall_ns / 1e9 - time.time()) < 60
    assert abs(description.started_monotonic_ns - time.monotonic_ns()) < 60e9
    assert set(description.cameras) == {"exterior", "wrist"}
    assert len(description.rig_digest) == 64


def test_tool_poses_are_filled_in_from_the_joints(recorder: Child, raw: Path) -> None:
    from robot.motion.envelope import TOOL_POINT_M
    from robot.motion.kinematics import flange_pose

    with RecorderClient("small") as client:
        client.start_episode(REQUEST)
        send_steps(client, seconds=0.2)
        meta = client.finish(SUCCESS)
    step = Episode(raw / meta.id).steps[-1]
    pose = flange_pose(step["sent_joints_rad"])
    np.testing.assert_allclose(step["sent_tcp_position_m"], pose[:3, :3] @ TOOL_POINT_M + pose[:3, 3], atol=1e-12)
    assert np.isfinite(step["measured_tcp_quaternion_wxyz"]).all()


def test_odd_task_names_are_kept_and_harm_nobody(recorder: Child, raw: Path) -> None:
    recorded = {}
    with RecorderClient("small") as client:
        for task in ("../../etc/passwd", "", "Kaffee ☕ / \n\t'\"$(rm)", "x" * 500):
            client.start_episode(EpisodeRequest(task=task, prompt=task))
            recorded[client.discard().id] = task
    assert {path.name for path in raw.iterdir()} == set(recorded)
    for episode_id, task in recorded.items():
        meta = read_meta(raw / episode_id)
        assert (meta.description.request.task, str(meta.outcome)) == (task, "discarded")


def test_one_episode_at_a_time_and_finishing_needs_one(recorder: Child) -> None:
    with RecorderClient("small") as client:
        with pytest.raises(RecordingError, match="no episode is being recorded"):
            client.finish(SUCCESS)
        client.start_episode(REQUEST)
        with pytest.raises(RecordingError, match="finish it first"):
            client.start_episode(REQUEST)
        client.finish(SUCCESS)


def test_a_second_recorder_of_a_rig_is_refused(recorder: Child, rig_file: Path, tmp_path: Path) -> None:
    with RecorderClient("small"):
        command = [sys.executable, "-m", "robot.recording", "--rig", str(rig_file), "--directory", str(tmp_path / "b")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert (
        done.stderr.strip() == "recorder: a recorder for rig 'small' is already running: use that one, or stop it first"
    )


def test_two_recorders_share_a_folder_without_touching_each_other(
    recorder: Child, raw: Path, rig: RigConfig, rig_file: Path, tmp_path: Path
) -> None:
    other_file = tmp_path / "other.yaml"
    other_file.write_text(rig_file.read_text().replace("name: small", "name: other"))
    other_rig = rig.model_copy(update={"name": "other"})
    with RecorderClient("small") as client, SyntheticRig(other_rig) as rings:
        client.start_episode(REQUEST)
        # Its start-up salvage meets the episode that the first one is writing.
        other = start_recorder(str(other_file), directory=raw, arguments=("--reserve-gib", "0"))
        try:
            with RecorderClient("other", timeout_s=20.0) as second:
                rings.publish_state()
                rings.publish_frames()
                second.start_episode(REQUEST)
                mine, theirs = client.finish(SUCCESS), second.finish(SUCCESS)
        finally:
            other.stop()
    assert mine.outcome == theirs.outcome == SUCCESS
    assert {path.name for path in raw.iterdir()} == {mine.id, theirs.id}
    assert Episode(raw / mine.id).damage == []


def test_without_a_recorder_the_client_says_how_to_start_one(runtime: Path) -> None:
    with pytest.raises(RecorderUnavailableError, match=r"python -m robot\.recording --rig small"):
        RecorderClient("small", timeout_s=0.1)


def test_an_episode_does_not_start_without_its_cameras(runtime: Path, rig_file: Path, raw: Path) -> None:
    child = start_recorder(str(rig_file), directory=raw, arguments=("--reserve-gib", "0"))
    try:
        with RecorderClient("small", timeout_s=20.0) as client:
            with pytest.raises(RecordingError, match=r"camera\.exterior does not exist"):
                client.start_episode(REQUEST)
    finally:
        child.stop()
    assert not list(raw.glob("*"))


def test_a_client_that_vanishes_leaves_an_aborted_episode(recorder: Child, raw: Path) -> None:
    client = RecorderClient("small")
    episode_id = client.start_episode(REQUEST)
    send_steps(client, seconds=0.3)
    client.close()
    with RecorderClient("small") as next_client:
        assert wait_until_closed(next_client) == "aborted:client"
    assert len(Episode(raw / episode_id).steps) >= 3


def test_an_exception_in_the_session_closes_the_episode_and_is_not_masked(recorder: Child, raw: Path) -> None:
    def session() -> None:
        with RecorderClient("small") as client:
            client.start_episode(REQUEST)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        session()
    (folder,) = raw.iterdir()
    assert str(read_meta(folder).outcome) == "aborted:client"


@pytest.mark.realtime
def test_a_silent_camera_ends_the_episode_as_aborted(runtime: Path, rig: RigConfig, rig_file: Path, raw: Path) -> None:
    child = start_recorder(str(rig_file), directory=raw, arguments=("--reserve-gib", "0"))
    try:
        with SyntheticRig(rig) as rings, RecorderClient("small", timeout_s=20.0) as client:
            rings.publish_state()
            rings.publish_frames()
            episode_id = client.start_episode(REQUEST)
            for _ in range(150):
                rings.publish_state()
                client.step(step_at(0.0, tick=0, time_ns=time.monotonic_ns()))  # control goes on undisturbed
                time.sleep(0.01)
            assert wait_until_closed(client) == "aborted:camera"
            client.episode = None
    finally:
        child.stop()
    episode = Episode(raw / episode_id)
    assert {event.data["topic"] for event in episode.events} == {"/camera/exterior/image", "/camera/wrist/image"}
    assert len(episode.state) > 50


def test_sigterm_closes_the_episode_in_order(recorder: Child, raw: Path) -> None:
    client = RecorderClient("small")
    episode_id = client.start_episode(REQUEST)
    send_steps(client, seconds=0.3)
    assert recorder.stop() == 0
    client.close()
    meta = read_meta(raw / episode_id)
    assert (meta.state, str(meta.outcome)) == (EpisodeState.CLOSED, "aborted:recorder-stopped")
    assert Episode(raw / episode_id).damage == []


def test_too_little_space_refuses_to_start(rings: SyntheticRig, rig_file: Path, raw: Path) -> None:
    child = start_recorder(str(rig_file), directory=raw, arguments=("--reserve-gib", "1e9"))
    try:
        with RecorderClient("small", timeout_s=20.0) as client:
            with pytest.raises(RecordingError, match=r"GiB free, expected at least.*make room"):
                client.start_episode(REQUEST)
    finally:
        child.stop()
    assert not list(raw.glob("*"))


def test_a_full_disk_ends_the_recording_and_not_the_control_loop(
    rings: SyntheticRig, rig_file: Path, raw: Path, tmp_path: Path
) -> None:
    limit = 2_000_000
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "robot.recording",
            "--rig",
            str(rig_file),
            "--directory",
            str(raw),
            "--reserve-gib",
            "0",
        ],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        stdout=log,
        stderr=log,
    )
    try:
        with RecorderClient("small", timeout_s=20.0) as client:
            episode_id = client.start_episode(REQUEST)
            deadline = time.monotonic() + 20.0
            while client.status().episode is not None and time.monotonic() < deadline:
                started = time.monotonic()
                client.step(step_at(0.0, tick=0, time_ns=time.monotonic_ns()))
                assert time.monotonic() - started < 1.0
                time.sleep(0.02)
            assert client.status().last_label == "aborted:disk"
            with pytest.raises(RecordingError, match="ended as aborted:disk"):
                client.finish(SUCCESS)
            # The recorder goes on: the next episode is recorded.
            client.start_episode(REQUEST)
            assert client.finish(SUCCESS).outcome == SUCCESS
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        log.close()
    episode = Episode(raw / episode_id)
    assert episode.damage == []
    assert "no space left" in episode.meta.summary.damage[0]
    assert 0.5 * limit < episode.meta.summary.size_bytes <= limit
    assert len(episode.frame_times("wrist")) > 10


def test_a_restarted_camera_is_followed(recorder: Child, raw: Path, rig: RigConfig, rings: SyntheticRig) -> None:
    from robot.ring import Ring
    from robot.runtime import ring_name

    with RecorderClient("small") as client:
        client.start_episode(REQUEST)
        time.sleep(0.2)
        name = ring_name("small", "camera.wrist")
        old = rings._cameras["wrist"]
        replacement = Ring.create(name, dtype=old.dtype, slots=8, meta={})
        rings._cameras["wrist"] = rings._stack.enter_context(replacement)
        time.sleep(0.8)
        meta = client.finish(SUCCESS)
    times = Episode(raw / meta.id).frame_times("wrist")
    assert len(times) > 15
    assert np.all(np.diff(times.capture_ns) > 0)
