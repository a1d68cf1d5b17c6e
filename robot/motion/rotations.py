"""Rotations and poses: 3×3 matrices, unit quaternions (w, x, y, z), fixed-axis roll-pitch-yaw, rotation vectors.

A pose is a 4×4 homogeneous matrix that takes points of the named frame into the base frame. Angles are radians,
lengths metres, everything float64. Compare rotations as matrices or quaternions, never as roll-pitch-yaw: that chart
has a seam at |roll| = pi, which is where a tool that points down lives.
"""

from math import asin, atan2, cos, sin, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_SMALL_ANGLE_RAD = 1e-8


def rotation_from_rpy(rpy_rad: ArrayLike) -> Array:
    """(3, 3) rotation of fixed-axis XYZ angles (3,): R = Rz(yaw) @ Ry(pitch) @ Rx(roll), as in URDF and Dobot poses."""
    roll, pitch, yaw = _vector(rpy_rad, length=3, name="rpy_rad")
    sr, cr, sp, cp, sy, cy = sin(roll), cos(roll), sin(pitch), cos(pitch), sin(yaw), cos(yaw)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def rpy_from_rotation(rotation: ArrayLike) -> Array:
    """Fixed-axis XYZ angles (3,) of a rotation; pitch in [-pi/2, pi/2]. In gimbal lock yaw takes the whole turn, roll
    is 0."""
    r = _matrix(rotation)
    if sqrt(r[0, 0] ** 2 + r[1, 0] ** 2) < 1e-9:
        pitch = asin(min(1.0, max(-1.0, -r[2, 0])))
        return np.array([0.0, pitch, atan2(-r[0, 1], r[1, 1])])
    pitch = atan2(-r[2, 0], sqrt(r[0, 0] ** 2 + r[1, 0] ** 2))
    return np.array([atan2(r[2, 1], r[2, 2]), pitch, atan2(r[1, 0], r[0, 0])])


def rotation_from_quaternion(quaternion_wxyz: ArrayLike) -> Array:
    """(3, 3) rotation of a quaternion (4,), normalized first. Raises `ValueError` on one of zero length."""
    quaternion = _vector(quaternion_wxyz, length=4, name="quaternion_wxyz")
    norm = float(np.linalg.norm(quaternion))
    if norm < 1e-9:
        raise ValueError(f"quaternion_wxyz: expected a unit quaternion, got {quaternion.tolist()} of length {norm:.2g}")
    w, x, y, z = quaternion / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_from_rotation(rotation: ArrayLike) -> Array:
    """Unit quaternion (4,) wxyz with w >= 0 of a rotation. Shepperd's choice of the largest component: exact at any
    angle."""
    r = _matrix(rotation)
    trace = float(np.trace(r))
    squares = np.array([1 + trace, *(1 + 2 * np.diag(r) - trace)])
    match int(np.argmax(squares)):
        case 0:
            quaternion = np.array([squares[0], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
        case 1:
            quaternion = np.array([r[2, 1] - r[1, 2], squares[1], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0]])
        case 2:
            quaternion = np.array([r[0, 2] - r[2, 0], r[0, 1] + r[1, 0], squares[2], r[1, 2] + r[2, 1]])
        case _:
            quaternion = np.array([r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], squares[3]])
    quaternion /= np.linalg.norm(quaternion)
    return -quaternion if quaternion[0] < 0 else quaternion


def rotation_from_vector(rotation_vector_rad: ArrayLike) -> Array:
    """(3, 3) rotation by |v| about v (3,), Rodrigues' formula."""
    vector = _vector(rotation_vector_rad, length=3, name="rotation_vector_rad")
    angle = float(np.linalg.norm(vector))
    x, y, z = vector
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    if angle < _SMALL_ANGLE_RAD:
        return np.eye(3) + cross
    half = sin(angle / 2) / angle
    return np.eye(3) + (sin(angle) / angle) * cross + (2 * half * half) * (cross @ cross)


def vector_from_rotation(rotation: ArrayLike) -> Array:
    """Rotation vector (3,) of a rotation, length in [0, pi] rad; the inverse of `rotation_from_vector`."""
    w, *axis = quaternion_from_rotation(rotation)
    sine = float(np.linalg.norm(axis))
    scale = 2.0 if sine < _SMALL_ANGLE_RAD else 2 * atan2(sine, w) / sine
    return scale * np.asarray(axis)


def rotation_angle(rotation: ArrayLike) -> float:
    """How far a rotation turns, radians in [0, pi]. `rotation_angle(A.T @ B)` is the distance between A and B."""
    return float(np.linalg.norm(vector_from_rotation(rotation)))


def make_pose(position_m: ArrayLike, *, rotation: ArrayLike | None = None) -> Array:
    """(4, 4) pose from a position (3,) and a rotation (3, 3), identity when left out."""
    pose = np.eye(4)
    pose[:3, 3] = _vector(position_m, length=3, name="position_m")
    if rotation is not None:
        pose[:3, :3] = _matrix(rotation)
    return pose


def invert_pose(pose: ArrayLike) -> Array:
    """Inverse of a (4, 4) pose."""
    matrix = np.asarray(pose, dtype=np.float64)
    inverse = np.eye(4)
    inverse[:3, :3] = matrix[:3, :3].T
    inverse[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
    return inverse


def _vector(values: ArrayLike, *, length: int, name: str) -> Array:
    vector = np.asarray(values, dtype=np.float64)
    if vector.shape != (length,):
        raise ValueError(f"{name}: expected shape ({length},), got {vector.shape}")
    return vector


def _matrix(values: ArrayLike) -> Array:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.shape != (3, 3):
        raise ValueError(f"rotation: expected shape (3, 3), got {matrix.shape}")
    return matrix
