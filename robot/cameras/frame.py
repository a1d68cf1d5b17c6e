"""What every camera delivers, whatever stands behind it."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from robot.ring import Sample


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole intrinsics in pixels of a (``height``, ``width``) picture; distortion is removed before this point."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def scaled(self, *, width: int, height: int) -> "Intrinsics":
        """The intrinsics after resizing the whole picture (pixel centres at +0.5)."""
        sx, sy = width / self.width, height / self.height
        return Intrinsics(
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=(self.cx + 0.5) * sx - 0.5,
            cy=(self.cy + 0.5) * sy - 0.5,
            width=width,
            height=height,
        )

    def matrix(self) -> np.ndarray:
        """K, shape (3, 3) float64."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class CameraInfo:
    """What a camera ring's meta says: which camera, through which backend, with which intrinsics and rate."""

    name: str
    backend: str
    serial: int
    fps: float
    intrinsics: Intrinsics

    def to_meta(self) -> dict[str, Any]:
        """JSON-ready dict for `Ring.create(meta=...)`."""
        return asdict(self)

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> "CameraInfo":
        """Inverse of `to_meta`."""
        return cls(**{**meta, "intrinsics": Intrinsics(**meta["intrinsics"])})


@dataclass(frozen=True)
class Frame:
    """One picture: ``image`` (H, W, 3) uint8 RGB, monotonic times in ns, the device's frame counter, exposure in s."""

    image: np.ndarray
    capture_ns: int
    receive_ns: int
    seq: int
    exposure_s: float
    info: CameraInfo


def frame_dtype(height: int, width: int) -> np.dtype:
    """The record of a camera ring: ``image`` uint8 RGB, ``device_seq`` (gaps are dropped frames), ``exposure_s``."""
    return np.dtype([("image", "u1", (height, width, 3)), ("device_seq", "<u8"), ("exposure_s", "<f8")])


def frame_from_sample(sample: Sample, *, info: CameraInfo) -> Frame:
    """A ring sample as a `Frame`."""
    return Frame(
        image=sample.value["image"],
        capture_ns=sample.capture_ns,
        receive_ns=sample.receive_ns,
        seq=int(sample.value["device_seq"]),
        exposure_s=float(sample.value["exposure_s"]),
        info=info,
    )
