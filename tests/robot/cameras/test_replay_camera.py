"""Recordings as cameras."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from configs.schema import CameraConfig, RigConfig, load_rig
from robot.cameras.backend import EXIT_ENDED, CameraError, Grab, SourceEndedError, check_camera
from robot.cameras.keeper import CameraKeeper, CameraLife
from robot.cameras.replay_camera import ReplayCamera
from robot.clock import NS_PER_S, FakeClock
from robot.processes import Child
from robot.recording.dataset.layout import VideoCodec
from robot.recording.dataset.video import write_video
from robot.recording.episode import Episode
from robot.recording.synthetic import write_synthetic_episode
from robot.ring import RingReader
from robot.runtime import ring_name

HEIGHT, WIDTH, COUNT = 72, 128, 6


def picture(number: int) -> np.ndarray:
    """A picture whose red tells its number, even after compression."""
    image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    image[:, :, 0] = 20 + 30 * number
    image[:, ::3] += 40
    return image


def number_of(image: np.ndarray) -> int:
    return round((float(image[:, 1::3, 0].mean()) - 20) / 30)


@pytest.fixture
def config(rig: RigConfig) -> CameraConfig:
    return rig.cameras["exterior"].model_copy(update={"backend": "replay"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures, whose names sort wrongly as plain text."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(COUNT):
        image = picture(index)
        cv2.imwrite(str(folder / f"frame{index + 7}.png"), image[:, :, ::-1])
    return folder


def play(camera: ReplayCamera, *, count: int) -> list[Grab]:
    grabs: list[Grab] = []
    while len(grabs) < count:
        grab = camera.grab(timeout_s=0.5)
        if grab is not None:
            grabs.append(grab)
    return grabs


def test_a_folder_of_pictures_plays_in_order_at_the_rigs_rate_and_again(config: CameraConfig, folder: Path) -> None:
    clock = FakeClock()
    camera = ReplayCamera("exterior", config=config.model_copy(update={"source": str(folder)}), clock=clock)
    info = camera.open()
    check_camera(info, config=config.model_copy(update={"source": str(folder)}))
    assert info.backend == "replay"
    assert info.intrinsics.fx == 0.0, "unknown, and not invented"
    grabs = play(camera, count=2 * COUNT + 1)
    assert [number_of(grab.image) for grab in grabs] == [*range(COUNT), *range(COUNT), 0]
    assert [grab.device_seq for grab in grabs] == list(range(2 * COUNT + 1))
    steps = np.diff([grab.receive_ns for grab in grabs])
    np.testing.assert_allclose(steps, NS_PER_S / config.fps, atol=2)
    assert grabs[0].receive_ns - grabs[0].capture_ns == round(config.latency.seconds * 1e9)
    camera.close()


def test_a_recording_that_is_played_once_ends(config: CameraConfig, folder: Path) -> None:
    once = config.model_copy(update={"source": str(folder), "replay_loops": False})
    camera = ReplayCamera("exterior", config=once, clock=FakeClock())
    camera.open()
    play(camera, count=COUNT)
    with pytest.raises(SourceEndedError, match="over after 6 pictures"):
        camera.grab(timeout_s=0.5)


def test_a_folder_may_bring_its_intrinsics(config: CameraConfig, folder: Path) -> None:
    camera = ReplayCamera("exterior", config=config.model_copy(update={"source": str(folder)}), clock=FakeClock())
    lens = {"fx": 100.0, "fy": 101.0, "cx": 63.5, "cy": 35.5, "width": WIDTH, "height": HEIGHT}
    (folder / "intrinsics.json").write_text(json.dumps(lens))
    assert camera.open().intrinsics.fy == 101.0
    (folder / "intrinsics.json").write_text(json.dumps({**lens, "width": 640}))
    with pytest.raises(CameraError, match="expected intrinsics of 128x72 pictures, found 640x72"):
        camera.open()


def test_a_video_plays_at_the_times_in_it(config: CameraConfig, tmp_path: Path) -> None:
    path = tmp_path / "day.mp4"
    write_video(path, (picture(i) for i in range(COUNT)), codec=VideoCodec.H264)
    at = config.model_copy(update={"source": str(path)})
    camera = ReplayCamera("exterior", config=at, clock=FakeClock())
    check_camera(camera.open(), config=at)
    grabs = play(camera, count=COUNT + 1)
    assert [number_of(grab.image) for grab in grabs] == [*range(COUNT), 0]
    np.testing.assert_allclose(np.diff([grab.receive_ns for grab in grabs]), NS_PER_S / 15, atol=2)


def test_an_episode_plays_with_its_serial_intrinsics_and_times(
    rig: RigConfig, config: CameraConfig, tmp_path: Path
) -> None:
    written = write_synthetic_episode(tmp_path, rig=rig, seconds=0.4, fps=15)
    episode = Episode(tmp_path / written.id)
    camera = ReplayCamera("wrist", config=config.model_copy(update={"source": str(episode.folder)}), clock=FakeClock())
    info = camera.open()
    assert (info.backend, info.serial) == ("replay", rig.cameras["wrist"].serial)
    assert info.intrinsics == episode.camera_info("wrist").intrinsics
    grabs = play(camera, count=7)
    for index, grab in enumerate(grabs):
        np.testing.assert_array_equal(grab.image, episode.image("wrist", index % 6))
    recorded = np.diff(episode.frame_times("wrist").capture_ns)
    np.testing.assert_array_equal(np.diff([grab.receive_ns for grab in grabs[:6]]), recorded)
    camera.close()
    with pytest.raises(CameraError, match="camera head: "):
        ReplayCamera("head", config=config.model_copy(update={"source": str(episode.folder)})).open()


def test_a_machine_that_is_too_slow_plays_slower_and_does_not_catch_up(config: CameraConfig, folder: Path) -> None:
    clock = FakeClock()
    camera = ReplayCamera("exterior", config=config.model_copy(update={"source": str(folder)}), clock=clock)
    camera.open()
    grabs = play(camera, count=1)
    clock.advance_ns(NS_PER_S)
    grabs += play(camera, count=COUNT - 1)
    assert [number_of(grab.image) for grab in grabs] == list(range(COUNT)), "nothing is left out"
    steps = np.diff([grab.receive_ns for grab in grabs])
    np.testing.assert_allclose(steps, [NS_PER_S, *[NS_PER_S / config.fps] * (COUNT - 2)], atol=2)


@pytest.mark.parametrize(
    ("prepare", "complaint"),
    [
        (lambda path: None, "expected a recording at"),
        (lambda path: path.mkdir(), "expected pictures .* or a recorded episode in"),
        (lambda path: path.write_bytes(b"no video"), "is no video that can be read"),
    ],
)
def test_what_is_no_recording_is_refused(
    config: CameraConfig, tmp_path: Path, prepare: Callable[[Path], Any], complaint: str
) -> None:
    path = tmp_path / "source"
    prepare(path)
    with pytest.raises(CameraError, match=complaint):
        ReplayCamera("exterior", config=config.model_copy(update={"source": str(path)})).open()


def test_an_svo_file_is_refused_with_what_to_do(config: CameraConfig, tmp_path: Path) -> None:
    (tmp_path / "a.svo2").write_bytes(b"SVO2")
    with pytest.raises(CameraError, match="Export it to MP4"):
        ReplayCamera("exterior", config=config.model_copy(update={"source": str(tmp_path / "a.svo2")})).open()
    with pytest.raises(CameraError, match="needs 'source'"):
        ReplayCamera("exterior", config=config).open()


def test_a_process_that_played_its_recording_once_is_not_started_again(
    rig_path: Path, folder: Path, tmp_path: Path
) -> None:
    content = rig_path.read_text().replace(
        "backend: twin", f"backend: replay\n    source: {folder}\n    replay_loops: false"
    )
    rig_path.write_text(content)
    rig = load_rig(rig_path)

    def start(recover: bool) -> Child:
        arguments = ["--rig", str(rig_path), "--camera", "exterior"]
        return Child("camera", module="robot.cameras", args=arguments, log_path=tmp_path / "camera.log")

    keeper = CameraKeeper("exterior", rig_name=rig.name, start=start)
    with RingReader.wait(ring_name(rig.name, "camera.exterior"), timeout_s=30.0, with_sample=True) as reader:
        assert reader.meta["backend"] == "replay"
        assert keeper.child.process.wait(30.0) == EXIT_ENDED
        assert reader.newest_seq == COUNT - 1
        assert reader.closed
    keeper.tick()
    keeper.tick()
    assert (keeper.state, keeper.restarts) == (CameraLife.DOWN, 0)
    keeper.stop()
