"""The factory calibration of a ZED (``SN<serial>.conf``), for pictures that come without the SDK.

The file comes from ``calib.stereolabs.com/?SN=<serial>``; the SDK keeps its copy in ``/usr/local/zed/settings``. It is
an INI file with a section for each lens and mode: ``fx fy cx cy`` in pixels and ``k1 k2 p1 p2 k3`` (OpenCV's model).
"""

import configparser
import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from robot.cameras.backend import CameraError
from robot.cameras.frame import Intrinsics

SDK_FOLDER = Path("/usr/local/zed/settings")
SECTIONS = {
    (2208, 1242): "LEFT_CAM_2K",
    (1920, 1080): "LEFT_CAM_FHD",
    (1280, 720): "LEFT_CAM_HD",
    (672, 376): "LEFT_CAM_VGA",
}
_LENS = ("fx", "fy", "cx", "cy")
_DISTORTION = ("k1", "k2", "p1", "p2", "k3")


class CalibrationFileError(CameraError):
    """A calibration file that is absent, of another camera, or does not hold a lens that can exist."""


@dataclass(frozen=True)
class LensCalibration:
    """A lens before undistortion: ``intrinsics`` in pixels, ``distortion`` (k1, k2, p1, p2, k3) of OpenCV's model."""

    intrinsics: Intrinsics
    distortion: tuple[float, float, float, float, float]


def calibration_path(serial: int) -> Path:
    """Where the SDK keeps the file of a camera."""
    return SDK_FOLDER / f"SN{serial}.conf"


def read_left_lens(path: Path, *, serial: int, width: int, height: int) -> LensCalibration:
    """The left lens in the mode of ``width`` x ``height`` pixels an eye. Raises `CalibrationFileError`."""
    if path.name != f"SN{serial}.conf":
        raise CalibrationFileError(
            f"{path}: expected the calibration of camera {serial}, a file named SN{serial}.conf. Get it from "
            f"https://calib.stereolabs.com/?SN={serial}"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationFileError(
            f"{path}: can't be read ({error}). Get it from https://calib.stereolabs.com/?SN={serial}"
        ) from None
    return parse_left_lens(text, origin=str(path), width=width, height=height)


def parse_left_lens(text: str, *, origin: str, width: int, height: int) -> LensCalibration:
    """The left lens from a calibration file's text; ``origin`` names it in errors. Raises `CalibrationFileError`."""
    section = SECTIONS.get((width, height))
    if section is None:
        known = ", ".join(f"{w}x{h}" for w, h in SECTIONS)
        raise CalibrationFileError(f"{origin}: a ZED has no {width}x{height} mode; known are {known}")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text)
        values = dict(parser[section])
    except KeyError:
        raise CalibrationFileError(
            f"{origin}: expected a section [{section}], found {', '.join(parser.sections()) or 'none'}. Download the "
            "file again; a camera that is not known gives an empty one."
        ) from None
    except configparser.Error as error:
        raise CalibrationFileError(f"{origin}: not a calibration file: {str(error).splitlines()[0]}") from None
    fx, fy, cx, cy = (_number(values, key, where=f"{origin} [{section}]") for key in _LENS)
    k1, k2, p1, p2, k3 = (_number(values, key, where=f"{origin} [{section}]") for key in _DISTORTION)
    if not any((k1, k2, p1, p2, k3)):
        raise CalibrationFileError(
            f"{origin} [{section}]: all distortion coefficients are zero, which no such lens has. The file was "
            "written by a program that ran under a locale with decimal commas; download it again."
        )
    if not (fx > 0 and fy > 0 and 0 < cx < width and 0 < cy < height):
        raise CalibrationFileError(
            f"{origin} [{section}]: expected a focal length above 0 and a centre inside {width}x{height}, found "
            f"fx={fx:g} fy={fy:g} cx={cx:g} cy={cy:g}. Download the file again."
        )
    return LensCalibration(Intrinsics(fx, fy, cx, cy, width, height), (k1, k2, p1, p2, k3))


class Undistorter:
    """Takes the distortion out of pictures of one lens, keeping only what every pixel of the result can see.

    ``intrinsics`` are those of the result. They differ from the SDK's rectified picture in focal length and centre.
    """

    def __init__(self, lens: LensCalibration) -> None:
        size = (lens.intrinsics.width, lens.intrinsics.height)
        distortion = np.array(lens.distortion)
        matrix, _ = cv2.getOptimalNewCameraMatrix(lens.intrinsics.matrix(), distortion, size, 0.0)
        self._maps = cv2.initUndistortRectifyMap(lens.intrinsics.matrix(), distortion, None, matrix, size, cv2.CV_16SC2)
        self.intrinsics = Intrinsics(
            float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2]), *size
        )

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 to a fresh (H, W, 3) uint8."""
        return cv2.remap(picture, *self._maps, cv2.INTER_LINEAR)


def _number(values: dict[str, str], key: str, *, where: str) -> float:
    text = values.get(key)
    if text is None:
        raise CalibrationFileError(f"{where}: expected a value {key}, found {', '.join(values) or 'none'}")
    try:
        number = float(text)
    except ValueError:
        comma = " with a decimal comma; download the file again" if "," in text else ""
        raise CalibrationFileError(f"{where}: expected a number for {key}, found {text!r}{comma}") from None
    if not math.isfinite(number):
        raise CalibrationFileError(f"{where}: expected a finite number for {key}, found {text!r}")
    return number
