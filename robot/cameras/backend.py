"""What a camera driver must do, and the errors that any of them may raise."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from configs.schema import CameraConfig
from robot.cameras.frame import CameraInfo

CameraLabel = Literal["exterior", "wrist"]
"""The cameras that a rig has."""

EXIT_ENDED = 4
"""A camera process's exit code for `SourceEndedError`."""


class CameraError(RuntimeError):
    """A camera that cannot be used. The text says what was expected, what was found and what to do."""


class CameraAbsentError(CameraError):
    """The camera is not there, or delivers nothing."""


class WrongCameraError(CameraError):
    """A camera answers, but not the one or not in the mode that the rig names."""


class CameraSettingsError(CameraError):
    """Exposure, gain or white balance are not what the rig's file locks, and can't be made so."""


class SourceEndedError(CameraError):
    """A recording that is not to be repeated is over. Nothing is wrong, and starting again is not wanted."""


class BackendUnavailableError(CameraError):
    """The software that this camera needs is not installed, or there is no driver for this backend."""


@dataclass(frozen=True)
class Grab:
    """One frame from a driver: ``image`` (H, W, 3) uint8 RGB, monotonic ns, the device's own frame counter.

    ``intact`` is False when the driver says itself that the picture is damaged. ``exposure_s`` is NaN where unknown.
    """

    image: np.ndarray
    capture_ns: int
    receive_ns: int
    device_seq: int
    exposure_s: float
    intact: bool = True


class CameraBackend(Protocol):
    """A camera driver. All calls come from one thread, in the order open, grab..., close."""

    sensor_noise: bool
    """Whether two frames of a resting scene differ, so that equal bytes mean a frozen camera."""

    def recover(self) -> None:
        """Before `open`, after the device hung: reset it where that is possible, else do nothing."""
        ...

    def open(self) -> CameraInfo:
        """Open the device and tell what it really is. Raises `CameraError`."""
        ...

    def grab(self, *, timeout_s: float) -> Grab | None:
        """The next new frame, None if there is none within ``timeout_s``. `CameraError` if the device is lost."""
        ...

    def close(self) -> None:
        """Let go of the device. Closing twice is fine."""
        ...


def check_camera(info: CameraInfo, *, config: CameraConfig) -> None:
    """Raise `WrongCameraError` unless the opened camera is the one of the rig, with its resolution and rate."""
    found = (info.serial, info.intrinsics.width, info.intrinsics.height, info.fps)
    expected = (config.serial, config.width, config.height, float(config.fps))
    if found != expected:
        raise WrongCameraError(
            f"camera {info.name}: expected {_described(*expected)}, found {_described(*found)}. Check the serial "
            f"numbers and the mode in the rig's file; a camera on a slow USB port falls back to another mode."
        )


def _described(serial: int, width: int, height: int, fps: float) -> str:
    return f"serial {serial}, {width}x{height} at {fps:g} fps"
