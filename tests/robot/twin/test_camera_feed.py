"""The twin's cameras as other processes see them."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from robot.cameras.frame import CameraInfo, frame_from_sample
from robot.ring import RingReader, Sample
from robot.runtime import ring_name
from robot.twin.control import TwinControl, TwinFault

pytestmark = pytest.mark.usefixtures("runtime_of_twin")


@pytest.fixture(params=["exterior", "wrist"])
def camera(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def reader(twin, camera: str) -> Iterator[RingReader]:
    with RingReader(ring_name(twin.rig.name, f"twin.camera.{camera}")) as reader:
        yield reader


@pytest.fixture
def control(twin) -> Iterator[TwinControl]:
    with TwinControl.connect(twin.rig) as control:
        yield control


def next_frame(reader: RingReader, *, after_ns: int, timeout_s: float = 10.0) -> Sample:
    """The first frame seen that was captured after a time."""
    deadline = time.monotonic() + timeout_s
    while True:
        sample = reader.latest()
        if sample is not None and sample.capture_ns > after_ns:
            return sample
        assert time.monotonic() < deadline, "no new frame came"
        time.sleep(0.01)


def difference(first: Sample, second: Sample) -> float:
    """Mean absolute difference of two pictures, 0 to 255."""
    return float(np.abs(first.value["image"].astype(int) - second.value["image"].astype(int)).mean())


def test_frames_say_which_camera_and_optics_they_are_from(twin, reader: RingReader, camera: str) -> None:
    info = CameraInfo.from_meta(reader.meta)
    config = twin.rig.cameras[camera]
    assert (info.name, info.backend, info.serial, info.fps) == (camera, "twin", config.serial, config.fps)
    frame = frame_from_sample(next_frame(reader, after_ns=0), info=info)
    assert frame.image.shape == (config.height, config.width, 3)
    assert (info.intrinsics.height, info.intrinsics.width) == (config.height, config.width)
    assert frame.image.std() > 10, "the picture is not blank"


def test_frames_come_no_earlier_than_the_configured_latency(twin, reader: RingReader) -> None:
    after_ns = time.monotonic_ns()
    for _ in range(4):
        sample = next_frame(reader, after_ns=after_ns)
        assert sample.receive_ns - sample.capture_ns >= twin.rig.twin.camera_latency_s * 1e9
        after_ns = sample.capture_ns


def test_both_cameras_show_the_same_instants(twin) -> None:
    times = {}
    for name in ("exterior", "wrist"):
        with RingReader(ring_name(twin.rig.name, f"twin.camera.{name}")) as reader:
            next_frame(reader, after_ns=time.monotonic_ns())
            times[name] = {sample.capture_ns for sample in reader.last(6)}
    assert len(times["exterior"] & times["wrist"]) >= 2


def test_the_picture_changes_when_the_arm_moves(
    twin, control: TwinControl, reader: RingReader, connect: Callable
) -> None:
    control.reset(0, arm=True)
    before = next_frame(reader, after_ns=time.monotonic_ns() + 100_000_000)
    still = next_frame(reader, after_ns=before.capture_ns)
    client = connect(twin.rig.arm.dashboard_port)
    for request in ("PowerOn()", "EnableRobot()"):
        client.ask(request)
        time.sleep(0.5)
    client.ask("MovJ(joint={15,10,-90,0,80,0})")
    time.sleep(1.0)
    after = next_frame(reader, after_ns=time.monotonic_ns())
    client.ask("MovJ(joint={0,0,-90,0,90,0})")
    while client.ask("RobotMode()") != "0,{5},RobotMode();":
        time.sleep(0.05)
    client.close()
    assert difference(before, after) > 2.0
    assert difference(before, still) < 0.2 * difference(before, after)


def test_a_frozen_camera_repeats_its_picture(control: TwinControl, reader: RingReader, camera: str) -> None:
    control.fault(TwinFault.CAMERA_FREEZE, camera=camera)
    try:
        first = next_frame(reader, after_ns=time.monotonic_ns() + 200_000_000)
        control.reset(9)
        later = next_frame(reader, after_ns=time.monotonic_ns() + 200_000_000)
        assert later.value["device_seq"] > first.value["device_seq"]
        assert difference(first, later) == 0.0
    finally:
        control.fault(TwinFault.CAMERA_FREEZE, camera=camera, on=False)


def test_a_stopped_camera_delivers_nothing_and_comes_back_with_a_gap(
    control: TwinControl, reader: RingReader, camera: str
) -> None:
    control.fault(TwinFault.CAMERA_STOP, camera=camera)
    time.sleep(0.3)
    last = reader.latest()
    assert last is not None
    time.sleep(0.3)
    assert reader.newest_seq == last.seq
    control.fault(TwinFault.CAMERA_STOP, camera=camera, on=False)
    back = next_frame(reader, after_ns=last.capture_ns)
    assert back.value["device_seq"] > last.value["device_seq"] + 1
