"""A ZED without its SDK: real YUYV bytes, a calibration file, a sysfs tree and the kernel's own structures."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from configs.schema import CameraConfig, load_rig
from robot.cameras import v4l2
from robot.cameras.backend import CameraAbsentError, CameraError, CameraSettingsError, WrongCameraError, check_camera
from robot.cameras.frame import Intrinsics
from robot.cameras.usb_link import VideoDevice, list_video_devices
from robot.cameras.uvc_camera import UvcCamera
from robot.cameras.v4l2 import YUYV, RawFrame, V4l2Device, VideoMode
from robot.cameras.zed_calibration import (
    CalibrationFileError,
    LensCalibration,
    Undistorter,
    parse_left_lens,
    read_left_lens,
)

CONF = Path(__file__).parent / "SN30000001.conf"
SERIAL, WIDTH, HEIGHT = 30000001, 672, 376


@pytest.fixture
def config(zed_rig_path: Path) -> CameraConfig:
    unlocked = {"exposure_percent": None, "gain_percent": None, "white_balance_k": None}
    uvc = {"backend": "uvc", "calibration_file": str(CONF), **unlocked}
    return load_rig(zed_rig_path).cameras["exterior"].model_copy(update=uvc)


def yuyv(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Side-by-side YUYV 4:2:2 bytes of two (H, W, 3) RGB pictures, BT.601 limited range, as a UVC camera sends."""
    rgb = np.hstack([left, right]).astype(np.float64)
    y = 16 + rgb @ (65.481, 128.553, 24.966) / 255
    u = 128 + rgb @ (-37.797, -74.203, 112.0) / 255
    v = 128 + rgb @ (112.0, -93.786, -18.214) / 255
    packed = np.empty((*rgb.shape[:2], 2))
    packed[..., 0] = y
    packed[:, 0::2, 1] = (u[:, 0::2] + u[:, 1::2]) / 2
    packed[:, 1::2, 1] = (v[:, 0::2] + v[:, 1::2]) / 2
    return packed.round().clip(0, 255).astype(np.uint8).ravel()


class ScriptedDevice:
    """Gives the frames it was told to give."""

    def __init__(self, *frames: RawFrame | None, grants: VideoMode | None = None) -> None:
        self.frames = list(frames)
        self.grants = grants
        self.asked: VideoMode | None = None
        self.closed = False

    def open(self, mode: VideoMode) -> VideoMode:
        self.asked = mode
        return self.grants or mode

    def read(self, *, timeout_s: float) -> RawFrame | None:
        return self.frames.pop(0)

    def close(self) -> None:
        self.closed = True


def make(config: CameraConfig, device: ScriptedDevice, **difference: Any) -> UvcCamera:
    found = VideoDevice(
        **{"path": Path("/dev/video7"), "product": "f880", "speed_mbps": 5000.0, "serial": SERIAL, **difference}
    )
    return UvcCamera("exterior", config=config, make_device=lambda path: device, devices=lambda: [found])


def smooth(seed: int) -> np.ndarray:
    """A picture without hard edges, which survives colour subsampling."""
    small = np.random.default_rng(seed).integers(30, 220, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def test_the_left_half_comes_as_rgb_undistorted_with_the_kernels_time(config: CameraConfig) -> None:
    left, right = smooth(1), smooth(2)
    device = ScriptedDevice(RawFrame(yuyv(left, right), stamp_ns=5_000_000_000, sequence=41, intact=True))
    camera = make(config, device)
    info = camera.open()
    check_camera(info, config=config)
    assert device.asked == VideoMode(2 * WIDTH, HEIGHT, YUYV, 30.0)
    assert info.backend == "uvc"
    grab = camera.grab(timeout_s=1.0)
    assert grab is not None
    assert (grab.device_seq, grab.receive_ns, grab.intact) == (41, 5_000_000_000, True)
    assert grab.receive_ns - grab.capture_ns == round(config.latency.seconds * 1e9)
    expected = Undistorter(read_left_lens(CONF, serial=SERIAL, width=WIDTH, height=HEIGHT))(left)
    assert grab.image.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(grab.image.astype(int) - expected).mean() < 2.0
    camera.close()
    assert device.closed


def test_a_point_in_space_is_where_the_new_intrinsics_say() -> None:
    lens = read_left_lens(CONF, serial=SERIAL, width=WIDTH, height=HEIGHT)
    undistort = Undistorter(lens)
    point = np.array([[0.62, -0.31, 1.0]])
    raw, _ = cv2.projectPoints(point, np.zeros(3), np.zeros(3), lens.intrinsics.matrix(), np.array(lens.distortion))
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    cv2.circle(picture, tuple(round(c * 16) for c in raw.ravel()), 6 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
    moments = cv2.moments(undistort(picture)[:, :, 0])
    found = np.array([moments["m10"], moments["m01"]]) / moments["m00"]
    ideal = undistort.intrinsics.matrix() @ point[0]
    assert np.linalg.norm(found - ideal[:2]) < 0.3
    assert np.linalg.norm(raw.ravel() - (lens.intrinsics.matrix() @ point[0])[:2]) > 3, "the lens does distort"


def test_a_frame_that_was_handed_out_before_is_no_frame(config: CameraConfig) -> None:
    data = yuyv(smooth(1), smooth(2))
    again = RawFrame(data, stamp_ns=1_000, sequence=1, intact=True)
    newer = RawFrame(data, stamp_ns=2_000, sequence=2, intact=True)
    camera = make(config, ScriptedDevice(again, again, None, again, newer))
    camera.open()
    numbers = [None if grab is None else grab.device_seq for grab in (camera.grab(timeout_s=1.0) for _ in range(5))]
    assert numbers == [1, None, None, None, 2]


def test_short_and_flagged_frames_are_marked_as_damaged(config: CameraConfig) -> None:
    data = yuyv(smooth(1), smooth(2))
    frames = (RawFrame(data[:-512], 1, 1, intact=True), RawFrame(data, 2, 2, intact=False))
    camera = make(config, ScriptedDevice(*frames))
    camera.open()
    assert [camera.grab(timeout_s=1.0).intact for _ in frames] == [False, False]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "granted",
    [VideoMode(1344, 376, YUYV, 15.0), VideoMode(2560, 720, YUYV, 30.0), VideoMode(1344, 376, 0x47504A4D, 30.0)],
)
def test_another_mode_than_asked_for_is_refused_naming_both(config: CameraConfig, granted: VideoMode) -> None:
    device = ScriptedDevice(grants=granted)
    with pytest.raises(WrongCameraError, match=f"expected 1344x376 YUYV at 30 fps .* grants {granted}"):
        make(config, device).open()
    assert device.closed


def test_a_slow_link_another_serial_and_locked_exposure_are_refused(config: CameraConfig) -> None:
    hd = config.model_copy(update={"width": 1280, "height": 720, "fps": 60})
    with pytest.raises(WrongCameraError, match=r"for 221 MB/s, /dev/video7 has one of 480 Mbit/s"):
        make(hd, ScriptedDevice(), speed_mbps=480.0).open()
    at = config.model_copy(update={"source": "/dev/video7"})
    with pytest.raises(WrongCameraError, match="expected serial 30000001 at /dev/video7, found serial 10000001"):
        make(at, ScriptedDevice(), serial=10000001).open()
    with pytest.raises(CameraAbsentError, match=r"connected: /dev/video7 \(serial 10000001\)"):
        make(config, ScriptedDevice(), serial=10000001).open()
    with pytest.raises(CameraSettingsError, match="can't be locked without its SDK"):
        make(config.model_copy(update={"exposure_percent": 50, "gain_percent": 10}), ScriptedDevice()).open()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text.replace("-0.0421", "-0,0421"), "found '-0,0421' with a decimal comma"),
        (lambda text: zeroed(text), "all distortion coefficients are zero.*decimal commas"),
        (lambda text: text.replace("fx=264.25", "fx=0"), "focal length above 0"),
        (lambda text: text.replace("cx=335.5", "cx=700"), "centre inside 672x376, found .*cx=700"),
        (lambda text: text.replace("k3=", "k7="), "expected a value k3"),
        (lambda text: text.replace("fy=264.05", "fy=nan"), "expected a finite number for fy"),
        (lambda text: text.replace("LEFT_CAM_VGA", "LEFT"), r"expected a section \[LEFT_CAM_VGA\], found LEFT_CAM_HD"),
        (lambda text: "", "found none"),
        (lambda text: "<html>not found</html>", "not a calibration file"),
    ],
)
def test_calibration_files_that_lie_are_refused(change: Callable[[str], str], complaint: str) -> None:
    with pytest.raises(CalibrationFileError, match=complaint):
        parse_left_lens(change(CONF.read_text()), origin="SN1.conf", width=WIDTH, height=HEIGHT)


def zeroed(text: str) -> str:
    """What a program writes that read the file under a locale with decimal commas."""
    lines = (line.partition("=")[0] + "=0" if line[:1] in "kp" and "=" in line else line for line in text.splitlines())
    return "\n".join(lines)


def test_the_golden_calibration_file_is_read_for_its_mode_and_for_its_camera_only() -> None:
    assert read_left_lens(CONF, serial=SERIAL, width=WIDTH, height=HEIGHT) == LensCalibration(
        Intrinsics(264.25, 264.05, 335.5, 186.25, WIDTH, HEIGHT), (-0.0421, 0.0113, 0.00021, -0.00034, -0.0052)
    )
    assert read_left_lens(CONF, serial=SERIAL, width=1280, height=720).intrinsics.fx == 528.5
    with pytest.raises(
        CalibrationFileError, match=r"expected the calibration of camera 7, .*calib\.stereolabs\.com/\?SN=7"
    ):
        read_left_lens(CONF, serial=7, width=WIDTH, height=HEIGHT)


def test_devices_are_told_apart_by_the_serial_of_the_sensors_beside_them(tmp_path: Path) -> None:
    usb = tmp_path / "bus" / "usb" / "devices"
    for path, product, speed, serial in (
        ("2-1", "f880", "5000", None),
        ("1-1.2", "f881", "12", "30000001"),
        ("4-2", "f682", "480", None),
        ("1-3.2", "f681", "12", "10000001"),
    ):
        (usb / path).mkdir(parents=True)
        for name, value in (("idVendor", "2b03"), ("idProduct", product), ("speed", speed), ("serial", serial)):
            if value is not None:
                (usb / path / name).write_text(value + "\n")
    for node, path, index in (("video0", "2-1", 0), ("video1", "2-1", 1), ("video2", "4-2", 0)):
        interface = usb / path / f"{path}:1.0"
        interface.mkdir(exist_ok=True)
        folder = tmp_path / "class" / "video4linux" / node
        folder.mkdir(parents=True)
        (folder / "device").symlink_to(interface)
        (folder / "index").write_text(f"{index}\n")
    dev = tmp_path / "dev"
    assert list_video_devices(sysfs=tmp_path, dev=dev) == [
        VideoDevice(dev / "video0", "f880", 5000.0, 30000001),
        VideoDevice(dev / "video2", "f682", 480.0, 10000001),
    ]
    # A second 2i: nobody can tell any more which one is which.
    (usb / "1-4.2").mkdir()
    for name, value in (("idVendor", "2b03"), ("idProduct", "f881"), ("serial", "30000002")):
        (usb / "1-4.2" / name).write_text(value)
    assert [device.serial for device in list_video_devices(sysfs=tmp_path, dev=dev)] == [None, 10000001]


def test_requests_have_the_numbers_of_the_kernels_header() -> None:
    assert [v4l2.QUERY_CAPABILITY, v4l2.SET_FORMAT, v4l2.REQUEST_BUFFERS] == [0x80685600, 0xC0D05605, 0xC0145608]
    assert [v4l2.QUERY_BUFFER, v4l2.QUEUE_BUFFER, v4l2.DEQUEUE_BUFFER] == [0xC0585609, 0xC058560F, 0xC0585611]
    assert [v4l2.STREAM_ON, v4l2.STREAM_OFF, v4l2.SET_STREAM_PARAMETERS] == [0x40045612, 0x40045613, 0xC0CC5616]


class Kernel:
    """Answers V4L2 requests byte by byte as the kernel does, over a file that holds the buffers' memory."""

    LENGTH = 4096

    def __init__(self, path: Path) -> None:
        path.write_bytes(b"".join(bytes([index]) * self.LENGTH for index in range(4)))
        self.queued: list[int] = []
        self.filled: list[tuple[int, int, int, int]] = []  # index, sequence, stamp_us, flags
        self.log: list[int] = []
        self.gone = False

    def ioctl(self, fd: int, request: int, argument: Any) -> int:
        self.log.append(request)
        if self.gone:
            raise OSError(19, "No such device")
        memory = (ctypes.c_uint8 * ctypes.sizeof(argument)).from_buffer(argument)
        view = memoryview(memory).cast("B")

        def put(offset: int, value: int, size: int = 4) -> None:
            view[offset : offset + size] = value.to_bytes(size, "little")

        def get(offset: int) -> int:
            return int.from_bytes(view[offset : offset + 4], "little")

        match request:
            case 0x80685600:
                put(88, 0x4000001)
            case 0xC0D05605:
                assert (get(0), get(16)) == (1, YUYV)
                put(8, 1344)
                put(12, 376)
            case 0xC0CC5616:
                assert (get(12), get(16)) == (1, 30)
                put(12, 333333)
                put(16, 10000000)
            case 0xC0145608:
                assert get(8) == 1
            case 0xC0585609:
                put(64, get(0) * self.LENGTH)
                put(72, self.LENGTH)
            case 0xC058560F:
                self.queued.append(get(0))
            case 0xC0585611:
                if not self.filled:
                    raise BlockingIOError(11, "Resource temporarily unavailable")
                index, sequence, stamp_us, flags = self.filled.pop(0)
                self.queued.remove(index)
                put(0, index)
                put(8, self.LENGTH - 1)
                put(12, flags)
                put(24, stamp_us // 1_000_000, 8)
                put(32, stamp_us % 1_000_000, 8)
                put(56, sequence)
        return 0


def test_the_newest_frame_is_taken_from_the_kernels_queue_and_every_buffer_goes_back(tmp_path: Path) -> None:
    node = tmp_path / "video0"
    kernel = Kernel(node)
    device = V4l2Device(node, ioctl=kernel.ioctl)
    assert device.open(VideoMode(1344, 376, YUYV, 30.0)) == VideoMode(1344, 376, YUYV, 30.0)
    assert device.read(timeout_s=0.0) is None
    kernel.filled = [(0, 10, 7_000_001, 0x2000), (2, 12, 7_066_667, 0x12000)]
    frame = device.read(timeout_s=1.0)
    assert frame is not None
    assert (frame.sequence, frame.stamp_ns, frame.intact) == (12, 7_066_667_000, True)
    assert len(frame.data) == Kernel.LENGTH - 1
    assert set(frame.data) == {2}
    assert sorted(kernel.queued) == [0, 1, 2, 3]
    kernel.filled = [(1, 13, 7_100_000, 0x2040)]
    damaged = device.read(timeout_s=1.0)
    assert damaged is not None
    assert not damaged.intact
    kernel.filled = [(1, 14, 7_200_000, 0x0000)]
    with pytest.raises(CameraError, match="stamped with the monotonic clock"):
        device.read(timeout_s=1.0)
    kernel.gone = True
    with pytest.raises(CameraAbsentError, match="the camera is gone"):
        device.read(timeout_s=1.0)
    device.close()
    device.close()
    assert kernel.log[-1] == v4l2.STREAM_OFF


def test_a_file_that_is_no_camera_and_none_at_all_are_refused(tmp_path: Path) -> None:
    (tmp_path / "video0").write_bytes(b"")
    for name in ("video0", "video1"):
        with pytest.raises(CameraAbsentError, match="can't be used as a camera"):
            V4l2Device(tmp_path / name).open(VideoMode(1344, 376, YUYV, 30.0))
