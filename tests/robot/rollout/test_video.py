"""The film of an episode: both cameras, playable even when the process was killed."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from configs.schema import load_rig
from robot.cameras import frame_dtype
from robot.processes import Child
from robot.ring import Ring
from robot.runtime import ring_name

HEIGHT, WIDTH = 72, 128


@pytest.fixture
def cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two cameras at 15 fps: the exterior one sees red, the wrist one blue."""
    monkeypatch.setenv("NOVA_PI_RUNTIME_DIR", str(tmp_path))
    rig, dtype = load_rig("twin"), frame_dtype(HEIGHT, WIDTH)
    rings = [Ring.create(ring_name(rig.name, f"camera.{name}"), dtype=dtype, slots=8) for name in ("exterior", "wrist")]
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(1 / 15):
            for channel, ring in ((0, rings[0]), (2, rings[1])):
                slot = ring.begin(capture_ns=time.monotonic_ns())
                slot["image"] = 0
                slot["image"][..., channel] = 255
                ring.commit()

    thread = threading.Thread(target=run)
    thread.start()
    yield
    stop.set()
    thread.join()
    for ring in rings:
        ring.unlink()


def film(path: Path) -> Child:
    child = Child("video", module="robot.rollout.video", args=("--rig", "twin", "--output", str(path)))
    deadline_s = time.monotonic() + 15.0
    while not path.with_suffix(".ready").exists():
        assert child.running
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return child


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.usefixtures("cameras")
def test_the_film_shows_both_cameras_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    child = film(path)
    time.sleep(1.5)
    assert child.stop() == 0
    frames = frames_of(path)
    report = json.loads(path.with_suffix(".json").read_text())
    assert len(frames) == report["frames"] >= 10
    assert frames[-1].shape == (HEIGHT, 2 * WIDTH, 3)
    left, right = frames[-1][:, : WIDTH - 8], frames[-1][:, WIDTH + 8 :]
    assert left[..., 0].mean() > 200 > 60 > left[..., 2].mean()
    assert right[..., 2].mean() > 200 > 60 > right[..., 0].mean()


@pytest.mark.usefixtures("cameras")
def test_a_film_whose_process_was_killed_can_be_played_up_to_the_last_second(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    child = film(path)
    time.sleep(3.2)
    child.kill()
    assert len(frames_of(path)) >= 15


def test_without_cameras_the_process_says_so_and_ends(tmp_path: Path) -> None:
    code = (
        "import sys; from robot.rollout import video; from robot.ring import RingReader; wait = RingReader.wait; "
        "RingReader.wait = lambda name, **k: wait(name, timeout_s=0.1); sys.exit(video.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--rig", "twin", "--output", str(tmp_path / "f.mp4")],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={"NOVA_PI_RUNTIME_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 1
    assert "camera.exterior does not exist" in done.stderr
