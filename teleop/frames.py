"""Which way is forward: rotations that take the operator's axes (forward, left, up) into the base frame."""

from enum import Enum

import numpy as np
from numpy.typing import ArrayLike

from robot.motion.rotations import Array, rotation_from_vector

_LEVEL = 0.3
"""Horizontal part of a camera's optical axis below which it looks down, and its picture's top counts as forward."""


class MappingFrame(Enum):
    """``base``: forward is the base's +x. ``tool``: the operator's axes are the tool's own x, y, z, +z out of the
    flange. ``view``: forward is into the picture of a camera (or away from where the operator stands), up stays up."""

    BASE = "base"
    TOOL = "tool"
    VIEW = "view"


def frame_rotation(frame: MappingFrame, *, tool_rotation: ArrayLike, view: ArrayLike | None = None) -> Array:
    """(3, 3) rotation from operator's axes to the base frame; ``tool_rotation`` (3, 3) is the tool's in the base frame,
    ``view`` (3, 3) comes from `view_rotation`. Raises `ValueError` when the view frame is asked for without one."""
    match frame:
        case MappingFrame.BASE:
            return np.eye(3)
        case MappingFrame.TOOL:
            return np.array(tool_rotation, dtype=np.float64)
        case MappingFrame.VIEW:
            if view is None:
                raise ValueError("the view frame needs to know where the operator looks from: give the view's yaw")
            return np.array(view, dtype=np.float64)


def view_rotation(camera_rotation: ArrayLike) -> Array:
    """(3, 3) operator's axes seen through a camera. ``camera_rotation`` (3, 3): optical axes (x right, y down, z into
    the picture) in the base frame. Only the heading is used, so that up on the device is always up."""
    axes = np.asarray(camera_rotation, dtype=np.float64)
    ahead = axes[:2, 2] if np.linalg.norm(axes[:2, 2]) > _LEVEL else -axes[:2, 1]
    return view_from_yaw(float(np.arctan2(ahead[1], ahead[0])))


def view_from_yaw(yaw_rad: float) -> Array:
    """(3, 3) operator's axes for somebody who looks along this heading (0: along the base's +x)."""
    return rotation_from_vector([0.0, 0.0, yaw_rad])
