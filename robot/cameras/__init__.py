"""Cameras: one process each, frames into shared-memory rings."""

from robot.cameras.frame import CameraInfo, Frame, Intrinsics, frame_dtype, frame_from_sample

__all__ = ["CameraInfo", "Frame", "Intrinsics", "frame_dtype", "frame_from_sample"]
