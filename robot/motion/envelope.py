"""The outline of what hangs on the flange, as points that must stay above the table.

Flange frame, metres: +z out of the flange, the jaws open along x, the wrist camera sits on the -y side.
"""

from dataclasses import dataclass, field
from itertools import product

import numpy as np

from robot.motion.nova5 import GRIPPER_STROKE_M, fingertip_height_m
from robot.motion.rotations import Array

TOOL_POINT_M: tuple[float, float, float] = (0.0, 0.0, fingertip_height_m(GRIPPER_STROKE_M))
"""Tool point of the AG-95: between the fingertips, at their height when the jaws are open. Closing moves the tips up to
14 mm further out; the envelope accounts for that, the tool point stays put so that a pose means one thing."""

_FINGER_WIDTH_M = 0.021
_FINGER_THICKNESS_M = 0.020
_FURTHEST_REACH_OPENING_M = 0.0164
"""Opening at which the four-bar stands upright and the tips reach furthest: the maximum of `fingertip_height_m`."""


def _box(*, lower: tuple[float, float, float], upper: tuple[float, float, float]) -> list[tuple[float, ...]]:
    return list(product(*zip(lower, upper, strict=True)))


AG95_BODY_M = np.array(
    _box(lower=(-0.034, -0.034, 0.0), upper=(0.034, 0.034, 0.118))
    + _box(lower=(-0.081, -0.020, 0.100), upper=(0.081, 0.020, 0.150))
)
"""Corners of the gripper's body and of its knuckles, 162.3 mm wide with the jaws open (vendor's drawing)."""

ZED_MINI_M = np.array(_box(lower=(-0.063, -0.105, 0.025), upper=(0.063, -0.065, 0.065)))
"""Corners of a ZED Mini on its bracket at (0, -0.085, 0.045), tilt included."""


@dataclass(frozen=True, eq=False)
class ToolEnvelope:
    """``rigid_m`` (k, 3): points that never move in the flange frame; the fingertips come from the jaw opening."""

    rigid_m: Array = field(default_factory=lambda: np.concatenate([AG95_BODY_M, ZED_MINI_M]))

    def __post_init__(self) -> None:
        points = np.array(self.rigid_m, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 3 or not np.all(np.isfinite(points)):
            raise ValueError(f"rigid_m: expected finite points of shape (k, 3), got shape {points.shape}")
        points.setflags(write=False)
        object.__setattr__(self, "rigid_m", points)

    def points_m(self, *, gripper: float | None) -> Array:
        """All points (m, 3) for a *measured* gripper position, 0 open to 1 closed.

        None or a non-finite value means unknown: then the fingertips of every opening count. The measured position is
        what matters: jaws that are told to close on an object stop at the object and reach less far than closed ones.
        """
        if gripper is None or not np.isfinite(gripper):
            openings = [0.0, _FURTHEST_REACH_OPENING_M, GRIPPER_STROKE_M]
        else:
            openings = [GRIPPER_STROKE_M * (1.0 - min(1.0, max(0.0, gripper)))]
        tips = []
        for opening in openings:
            half, height = opening / 2 + _FINGER_THICKNESS_M, fingertip_height_m(opening)
            tips += [(x, y, height) for x, y in product((-half, half), (-_FINGER_WIDTH_M / 2, _FINGER_WIDTH_M / 2))]
        return np.concatenate([self.rigid_m, np.array(tips)])
