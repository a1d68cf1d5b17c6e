"""A camera process: what reaches the ring, what does not, and how it ends."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from configs.schema import RigConfig, load_rig
from robot.cameras import CameraInfo, Intrinsics, frame_from_sample
from robot.cameras import worker as worker_module
from robot.cameras.backend import BackendUnavailableError, CameraAbsentError, Grab, WrongCameraError
from robot.cameras.worker import EXIT_HUNG, CameraWorker, make_backend
from robot.processes import Child
from robot.ring import RingReader
from robot.runtime import ring_name


def wait_for(condition: Callable[[], bool], *, timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.01)


def command(rig_path: Path) -> list[str]:
    return ["--rig", str(rig_path), "--camera", "exterior"]


def test_the_process_publishes_the_twins_frames_with_their_capture_times(
    rig: RigConfig, rig_path: Path, make_renderer: Callable[..., Any], tmp_path: Path
) -> None:
    renderer = make_renderer()
    first = renderer.show(capture_ns=1_000)
    child = Child("camera", module="robot.cameras", args=command(rig_path), log_path=tmp_path / "camera.log")
    try:
        with RingReader.wait(ring_name(rig.name, "camera.exterior"), timeout_s=15.0, with_sample=True) as reader:
            info = CameraInfo.from_meta(reader.meta)
            assert (info.serial, info.fps, info.intrinsics.width) == (rig.cameras["exterior"].serial, 15.0, 128)
            sample = reader.latest()
            assert sample is not None
            np.testing.assert_array_equal(frame_from_sample(sample, info=info).image, first)
            second = renderer.show(capture_ns=2_000)
            wait_for(lambda: reader.newest_seq == 1)
            frame = frame_from_sample(reader.latest(), info=info)  # type: ignore[arg-type]
            np.testing.assert_array_equal(frame.image, second)
            assert (frame.capture_ns, frame.seq) == (2_000, 1)
            # A black picture never reaches the readers, the next good one does.
            renderer.show(np.zeros((72, 128, 3), np.uint8), capture_ns=3_000)
            renderer.show(capture_ns=4_000)
            wait_for(lambda: reader.newest_seq == 2)
            assert reader.latest().capture_ns == 4_000  # type: ignore[union-attr]
            assert child.stop() == 0
            assert reader.closed
    finally:
        child.stop()


@pytest.mark.parametrize(("difference", "found"), [({"serial": 7}, "serial 7"), ({"fps": 30.0}, "128x72 at 30 fps")])
def test_another_camera_or_mode_than_the_rigs_is_refused_naming_both(
    rig: RigConfig, make_renderer: Callable[..., Any], difference: dict[str, float], found: str
) -> None:
    make_renderer(**difference).show(capture_ns=1)
    with pytest.raises(WrongCameraError, match=found) as refusal:
        CameraWorker("exterior", rig=rig).run(threading.Event())
    assert f"expected serial {rig.cameras['exterior'].serial}, 128x72 at 15 fps" in str(refusal.value)


def test_without_the_twin_the_process_ends_with_one_line(rig_path: Path) -> None:
    code = (
        "import sys; from robot.cameras import twin_camera, __main__; twin_camera.OPEN_TIMEOUT_S = 0.2; "
        "sys.exit(__main__.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command(rig_path)], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert "Start it with launch/twin" in done.stderr


def test_a_camera_that_stops_delivering_ends_its_worker(
    rig: RigConfig, make_renderer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_renderer().show(capture_ns=1)
    monkeypatch.setattr(worker_module, "DEAD_AFTER_S", 0.3)
    monkeypatch.setattr(worker_module, "GRAB_TIMEOUT_S", 0.05)
    with pytest.raises(CameraAbsentError, match=r"no usable frame for 0\.3 s \(the driver delivers nothing\)"):
        CameraWorker("exterior", rig=rig).run(threading.Event(), exit_when_hung=False)


def test_a_twin_that_was_started_again_is_followed(rig: RigConfig, make_renderer: Callable[..., Any]) -> None:
    renderer = make_renderer()
    renderer.show(capture_ns=1)
    camera = make_backend("exterior", rig=rig)
    camera.open()
    assert camera.grab(timeout_s=1.0) is not None
    renderer.ring.unlink()
    make_renderer().show(capture_ns=99)
    assert camera.grab(timeout_s=0.05) is None
    grab = camera.grab(timeout_s=1.0)
    assert grab is not None
    assert grab.capture_ns == 99
    camera.close()
    camera.close()


class HangingCamera:
    """A driver whose grab never comes back, as a ZED's when its cable is pulled."""

    sensor_noise = True

    def __init__(self, rig: RigConfig) -> None:
        config = rig.cameras["exterior"]
        optics = Intrinsics(1.0, 1.0, 1.0, 1.0, config.width, config.height)
        self.info = CameraInfo("exterior", "fake", config.serial, float(config.fps), optics)

    def recover(self) -> None:
        return

    def open(self) -> CameraInfo:
        return self.info

    def grab(self, *, timeout_s: float) -> Grab | None:
        time.sleep(3600)
        return None

    def close(self) -> None:
        return


def hang(rig_path: str) -> None:
    """Runs in a process of its own: a worker whose driver hangs."""
    worker_module.DEAD_AFTER_S, worker_module.GRAB_TIMEOUT_S = 0.2, 0.05
    rig = load_rig(rig_path)
    CameraWorker("exterior", rig=rig, backend=HangingCamera(rig)).run(threading.Event())


def test_a_driver_that_hangs_ends_the_process_so_that_it_can_be_started_again(rig_path: Path) -> None:
    code = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('t', sys.argv[1]); "
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); module.hang(sys.argv[2])"
    )
    done = subprocess.run([sys.executable, "-c", code, __file__, str(rig_path)], check=False, timeout=30)
    assert done.returncode == EXIT_HUNG


def test_a_zed_without_its_sdk_says_how_to_get_it(rig_path: Path) -> None:
    if _has_pyzed():
        pytest.skip("the ZED SDK is installed here")
    content = yaml.safe_load(rig_path.read_text())
    content["cameras"]["wrist"]["backend"] = "zed"
    rig_path.write_text(yaml.safe_dump(content))
    with pytest.raises(BackendUnavailableError, match=r"install the SDK, .*get_python_api\.py"):
        make_backend("wrist", rig=load_rig(rig_path)).open()


def _has_pyzed() -> bool:
    try:
        import pyzed.sl  # noqa: F401
    except ImportError:
        return False
    return True
