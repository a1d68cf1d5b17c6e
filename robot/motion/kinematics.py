"""Forward kinematics of the Nova 5, its geometric Jacobian, and how close a posture is to a singularity.

Everything follows from `robot.motion.nova5.JOINT_FRAMES`. Joint vectors are (..., 6) float64 radians: any number of
leading axes is computed in one go. The inverse is in `robot.motion.inverse_kinematics`.
"""

from enum import Enum

import numpy as np
from numpy.typing import ArrayLike

from robot.motion.nova5 import JOINT_COUNT, JOINT_FRAMES
from robot.motion.rotations import Array, make_pose, rotation_from_rpy

CHARACTERISTIC_LENGTH_M = 0.33
"""Length that makes a metre comparable to a radian in the condition number: the forearm."""
CONDITION_SLOW = 17.0
"""Condition number from which Cartesian motion slows down (the threshold MoveIt Servo ships)."""
CONDITION_STOP = 30.0
"""Condition number at which Cartesian motion towards the singularity has come to rest (as above)."""


class Singularity(Enum):
    """How a posture stands to the singularities: wrist (q5 near 0 or pi), elbow (q3 near 0), shoulder."""

    CLEAR = "clear"
    SLOW = "slow"
    STOP = "stop"


# A joint frame turned by q about its own z is A + cos(q) B + sin(q) C with constant matrices, so that all six local
# transforms come out of one broadcast expression instead of six small constructions.
_FRAMES = np.stack([make_pose(frame.xyz, rotation=rotation_from_rpy(frame.rpy)) for frame in JOINT_FRAMES])
_LOCAL_CONSTANT = _FRAMES @ np.diag([0.0, 0.0, 1.0, 1.0])
_LOCAL_COSINE = _FRAMES @ np.diag([1.0, 1.0, 0.0, 0.0])
_LOCAL_SINE = _FRAMES @ np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def link_frames(joints_rad: ArrayLike) -> Array:
    """Poses of links L1..L6 in the base frame: (..., 6) radians to (..., 6, 4, 4). The last is the flange, +z outward.

    Raises `ValueError` when the last axis is not 6.
    """
    joints = np.asarray(joints_rad, dtype=np.float64)
    if joints.ndim == 0 or joints.shape[-1] != JOINT_COUNT:
        raise ValueError(f"joints_rad: expected shape (..., {JOINT_COUNT}), got {joints.shape}")
    angles = joints[..., None, None]
    local = _LOCAL_CONSTANT + np.cos(angles) * _LOCAL_COSINE + np.sin(angles) * _LOCAL_SINE
    for link in range(1, JOINT_COUNT):
        local[..., link, :, :] = local[..., link - 1, :, :] @ local[..., link, :, :]
    return local


def flange_pose(joints_rad: ArrayLike) -> Array:
    """Pose of the flange (tool 0) in the base frame: (..., 6) radians to (..., 4, 4)."""
    return link_frames(joints_rad)[..., -1, :, :]


def tool_pose(joints_rad: ArrayLike, *, tool: ArrayLike) -> Array:
    """Pose of a tool (4, 4, in the flange frame) in the base frame: (..., 6) radians to (..., 4, 4)."""
    return flange_pose(joints_rad) @ np.asarray(tool, dtype=np.float64)


def jacobian(joints_rad: ArrayLike, *, point_m: ArrayLike = (0.0, 0.0, 0.0)) -> Array:
    """Geometric Jacobian (..., 6, 6) of a point fixed to the flange (``point_m``, flange frame), base frame.

    Rows 0-2: velocity of the point, m/s per rad/s: z_i x (p - p_i). Rows 3-5: angular velocity, the joint axes z_i.
    """
    return jacobian_of_frames(link_frames(joints_rad), point_m=point_m)


def jacobian_of_frames(frames: Array, *, point_m: ArrayLike = (0.0, 0.0, 0.0)) -> Array:
    """As `jacobian`, from the (..., 6, 4, 4) result of `link_frames`, for callers that have it already."""
    flange = frames[..., -1, :, :]
    point = flange[..., :3, :3] @ np.asarray(point_m, dtype=np.float64) + flange[..., :3, 3]
    axes = frames[..., :3, 2]
    arms = point[..., None, :] - frames[..., :3, 3]
    result = np.empty((*frames.shape[:-3], 6, JOINT_COUNT))
    ax, ay, az = axes[..., 0], axes[..., 1], axes[..., 2]
    rx, ry, rz = arms[..., 0], arms[..., 1], arms[..., 2]
    result[..., 0, :] = ay * rz - az * ry
    result[..., 1, :] = az * rx - ax * rz
    result[..., 2, :] = ax * ry - ay * rx
    result[..., 3:, :] = np.swapaxes(axes, -1, -2)
    return result


def condition_number(joints_rad: ArrayLike) -> float:
    """Ratio of the largest to the smallest singular value of the flange Jacobian at a posture (6,), >= 1, may be inf.

    Linear rows are divided by `CHARACTERISTIC_LENGTH_M`, so that the number does not depend on the unit of length.
    """
    scaled = jacobian(joints_rad)
    scaled[:3] /= CHARACTERISTIC_LENGTH_M
    singular_values = np.linalg.svd(scaled, compute_uv=False)
    smallest = float(singular_values[-1])
    return float(singular_values[0]) / smallest if smallest > 0.0 else float("inf")


def singularity(condition: float) -> Singularity:
    """The zone that a `condition_number` falls into."""
    if condition < CONDITION_SLOW:
        return Singularity.CLEAR
    return Singularity.SLOW if condition < CONDITION_STOP else Singularity.STOP


def singularity_speed_scale(condition: float) -> float:
    """Factor in [0, 1] for Cartesian speed *towards* a singularity: 1 below `CONDITION_SLOW`, falling to 0 at
    `CONDITION_STOP`. Motion that lowers the condition number should not be scaled, or the arm could not leave."""
    return min(1.0, max(0.0, (CONDITION_STOP - condition) / (CONDITION_STOP - CONDITION_SLOW)))
