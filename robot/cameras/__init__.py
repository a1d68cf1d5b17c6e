"""Cameras: one process each, frames into shared-memory rings."""

from robot.cameras.compatibility import BackendMismatchError, backend_matches, require_matching_backends
from robot.cameras.frame import CameraInfo, Frame, Intrinsics, frame_dtype, frame_from_sample

__all__ = [
    "BackendMismatchError",
    "CameraInfo",
    "Frame",
    "Intrinsics",
    "backend_matches",
    "frame_dtype",
    "frame_from_sample",
    "require_matching_backends",
]
