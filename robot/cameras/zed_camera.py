"""ZED 2i and ZED Mini through Stereolabs' SDK: the rectified left picture.

The SDK is not on PyPI; it is imported when a camera is opened. From the SDK's API reference: an ``open`` code above
SUCCESS is a failure and below it a warning; ``grab`` hands out damaged frames under warning codes, so only SUCCESS
counts as intact; ``TIME_REFERENCE.IMAGE`` is the wall-clock moment at which the whole frame lay in the PC's memory. Two
to three frame periods have passed by then, which is what the rig's calibrated latency is for.
"""

import importlib
import time
from typing import Any

import numpy as np

from configs.schema import CameraConfig
from robot.cameras.backend import BackendUnavailableError, CameraAbsentError, CameraError, Grab
from robot.cameras.frame import CameraInfo, Intrinsics
from robot.clock import seconds_to_ns

OPEN_TIMEOUT_S = 5.0
SDK_HELP = (
    "Install the ZED SDK (Linux, NVIDIA GPU and CUDA needed) from stereolabs.com/developers/release, then run its "
    "/usr/local/zed/get_python_api.py with this project's Python (.venv/bin/python)."
)


class ZedCamera:
    """One ZED by its serial number. Depth is off: it would cost GPU time that nobody uses."""

    sensor_noise = True

    def __init__(self, name: str, *, rig_name: str, config: CameraConfig) -> None:
        self._name = name
        self._config = config
        self._latency_ns = seconds_to_ns(config.latency.seconds)
        self._sl: Any = None
        self._camera: Any = None
        self._image: Any = None
        self._device_seq = 0
        self._dropped = 0

    def open(self) -> CameraInfo:
        """Open the camera with the rig's serial, resolution and rate. Raises `CameraError`."""
        sl = self._sl = _load_sdk()
        parameters = sl.InitParameters(
            camera_resolution=self._resolution(),
            camera_fps=self._config.fps,
            depth_mode=sl.DEPTH_MODE.NONE,
            sdk_verbose=0,
        )
        parameters.set_from_serial_number(self._config.serial)
        parameters.open_timeout_sec = OPEN_TIMEOUT_S
        # Self-calibration would give other intrinsics at every start.
        parameters.camera_disable_self_calib = True
        parameters.async_grab_camera_recovery = True
        camera = sl.Camera()
        code = camera.open(parameters)
        if code > sl.ERROR_CODE.SUCCESS:
            present = ", ".join(str(device.serial_number) for device in sl.Camera.get_device_list()) or "none"
            raise CameraAbsentError(
                f"camera {self._name}: expected a ZED with serial {self._config.serial}, opening it gave {code}; "
                f"connected: {present}. Plug it into a USB 3 port and check the serial in the rig's file."
            )
        self._camera, self._image = camera, sl.Mat()
        return self._info(camera.get_camera_information())

    def grab(self, *, timeout_s: float) -> Grab | None:
        """The next frame. The SDK paces this call itself; a hang is for the worker's watchdog to end."""
        sl, camera = self._sl, self._camera
        runtime = sl.RuntimeParameters(enable_depth=False)
        code = camera.grab(runtime)
        if code > sl.ERROR_CODE.SUCCESS:
            raise CameraError(f"camera {self._name}: grabbing a frame gave {code}. Check cable and USB port.")
        if code == sl.ERROR_CODE.CAMERA_REBOOTING:
            return None
        camera.retrieve_image(self._image, sl.VIEW.LEFT, sl.MEM.CPU)
        in_memory_epoch_ns = camera.get_timestamp(sl.TIME_REFERENCE.IMAGE).get_nanoseconds()
        receive_ns = time.monotonic_ns() - (time.time_ns() - in_memory_epoch_ns)
        picture = self._image.get_data(deep_copy=True)
        self._device_seq += 1 + self._newly_dropped()
        return Grab(
            image=np.ascontiguousarray(picture[:, :, 2::-1]),  # BGRA to RGB
            capture_ns=receive_ns - self._latency_ns,
            receive_ns=receive_ns,
            device_seq=self._device_seq,
            exposure_s=float("nan"),
            intact=code == sl.ERROR_CODE.SUCCESS,
        )

    def close(self) -> None:
        camera, self._camera = self._camera, None
        if camera is not None:
            camera.close()

    def _resolution(self) -> Any:
        names = {(2208, 1242): "HD2K", (1920, 1080): "HD1080", (1280, 720): "HD720", (672, 376): "VGA"}
        name = names.get((self._config.width, self._config.height))
        if name is None:
            known = ", ".join(f"{width}x{height}" for width, height in names)
            raise CameraError(
                f"camera {self._name}: a ZED has no {self._config.width}x{self._config.height} mode; known are {known}"
            )
        return getattr(self._sl.RESOLUTION, name)

    def _newly_dropped(self) -> int:
        """Frames the SDK lost since the last grab, so that gaps show in the device counter."""
        total = int(self._camera.get_frame_dropped_count())
        newly, self._dropped = total - self._dropped, total
        return max(0, newly)

    def _info(self, information: Any) -> CameraInfo:
        configuration = information.camera_configuration
        lens = configuration.calibration_parameters.left_cam
        return CameraInfo(
            name=self._name,
            backend="zed",
            serial=int(information.serial_number),
            fps=float(configuration.fps),
            intrinsics=Intrinsics(
                fx=float(lens.fx),
                fy=float(lens.fy),
                cx=float(lens.cx),
                cy=float(lens.cy),
                width=int(configuration.resolution.width),
                height=int(configuration.resolution.height),
            ),
        )


def _load_sdk() -> Any:
    try:
        return importlib.import_module("pyzed.sl")
    except ImportError as error:
        raise BackendUnavailableError(
            f"the zed camera backend needs pyzed, which is missing ({error}). {SDK_HELP}"
        ) from None
