"""Inverse kinematics of the Nova 5: closed-form branches, refined against the exact joint frames; the branch nearest
to a reference; damped least-squares steps for small moves.

The arm is built like a UR: axes 2, 3 and 4 are parallel, so that the derived DH table has a closed form with up to
eight solutions (two shoulders x two wrists x two elbows). The vendor's frames deviate from that table by 1.2e-5 m,
therefore each closed-form solution is a *seed* for a few Levenberg-Marquardt steps on the exact frames.
"""

from dataclasses import dataclass
from math import acos, atan2, cos, hypot, pi, sin

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robot.motion.kinematics import CHARACTERISTIC_LENGTH_M, jacobian, jacobian_of_frames, link_frames
from robot.motion.nova5 import (
    DH_A_M,
    DH_ALPHA_RAD,
    DH_D_M,
    DH_THETA_OFFSET_RAD,
    JOINT_COUNT,
    JOINT_LOWER_RAD,
    JOINT_UPPER_RAD,
)
from robot.motion.rotations import Array

SOLUTION_TOLERANCE = 1e-9
"""Largest position (m) and angle (rad) error of a returned solution."""
SAME_SOLUTION_RAD = 1e-3
"""Solutions closer than this in every joint are one: near a singularity two branches run into each other."""

_CONVERGED = 1e-12
_REFINE_ITERATIONS = 30
_MAX_STEP_RAD = 0.3
_BOUNDARY_SLACK = 1e-3
"""How far a cosine of the closed form may exceed 1 before a pose counts as unreachable: the DH table is not exact."""
_MIN_SEED_ANGLE_RAD = 5e-3
"""Seeds stay this far off the elbow and wrist singularities: on them the Jacobian has no way out."""
_CONTINUATION_RAD = 0.1
_LIMIT_SLACK_RAD = 1e-9
"""A posture exactly on a limit comes back from rounding as one just outside; it is clipped to the limit."""


@dataclass(frozen=True, eq=False)
class Refined:
    """What `refine` found: ``joints_rad`` (m, 6); ``converged`` (m,) bool: within `SOLUTION_TOLERANCE`."""

    joints_rad: Array
    converged: NDArray[np.bool_]


def inverse(
    flange_pose: ArrayLike,
    *,
    reference_rad: ArrayLike | None = None,
    lower_rad: ArrayLike = JOINT_LOWER_RAD,
    upper_rad: ArrayLike = JOINT_UPPER_RAD,
) -> Array:
    """All branches that reach a flange pose (4, 4, base frame): (k, 6) radians, 0 <= k <= 8, pairwise distinct.

    Each joint is brought, by whole turns, to the value inside the limits that is nearest to ``reference_rad`` (zeros
    when left out), and the branches are sorted by their distance to it. In a wrist singularity, where joints 4 and 6
    turn the same axis and solutions form a family, joint 6 keeps the reference's angle. Raises `ValueError` when the
    pose is not a finite rigid transform.
    """
    target = _checked_pose(flange_pose)
    reference = np.zeros(JOINT_COUNT) if reference_rad is None else np.asarray(reference_rad, dtype=np.float64)
    seeds = _closed_form_seeds(target, q6_when_free_rad=float(reference[5]))
    if not seeds:
        return np.empty((0, JOINT_COUNT))
    refined = refine(target, seeds_rad=np.array(seeds))
    candidates = _nearest_turns(
        refined.joints_rad[refined.converged], reference=reference, lower_rad=lower_rad, upper_rad=upper_rad
    )
    order = np.argsort(np.linalg.norm(candidates - reference, axis=1))
    distinct: list[Array] = []
    for candidate in candidates[order]:
        if all(np.max(np.abs(candidate - other)) > SAME_SOLUTION_RAD for other in distinct):
            distinct.append(candidate)
    return np.array(distinct).reshape(-1, JOINT_COUNT)


def nearest_inverse(
    flange_pose: ArrayLike,
    *,
    reference_rad: ArrayLike,
    max_change_rad: float | None = None,
    lower_rad: ArrayLike = JOINT_LOWER_RAD,
    upper_rad: ArrayLike = JOINT_UPPER_RAD,
) -> Array | None:
    """The solution (6,) for a flange pose (4, 4) that is nearest to ``reference_rad``, or None when there is none.

    Continuous along smooth paths: the reference's own branch is followed first, the closed form is asked only when
    that leads nowhere near. ``max_change_rad`` refuses solutions in which any joint moves further: set it in a
    control loop, where another branch is a violent motion and never an answer.
    """
    target = _checked_pose(flange_pose)
    reference = np.asarray(reference_rad, dtype=np.float64)
    lower, upper = np.asarray(lower_rad, dtype=np.float64), np.asarray(upper_rad, dtype=np.float64)
    limit = np.inf if max_change_rad is None else max_change_rad
    followed = refine(target, seeds_rad=reference[None])
    solutions = followed.joints_rad[followed.converged]
    solutions = solutions[
        np.all((lower - _LIMIT_SLACK_RAD <= solutions) & (solutions <= upper + _LIMIT_SLACK_RAD), axis=1)
    ]
    solutions = np.clip(solutions, lower, upper)
    if len(solutions) == 0 or np.max(np.abs(solutions[0] - reference)) > _CONTINUATION_RAD:
        branches = inverse(target, reference_rad=reference, lower_rad=lower, upper_rad=upper)
        solutions = np.concatenate([solutions, branches])
    if len(solutions) == 0:
        return None
    best: Array = solutions[np.argmin(np.linalg.norm(solutions - reference, axis=1))]
    return best if np.max(np.abs(best - reference)) <= limit else None


def refine(flange_poses: ArrayLike, *, seeds_rad: ArrayLike, iterations: int = _REFINE_ITERATIONS) -> Refined:
    """Walk seeds (m, 6) to solutions of flange poses (4, 4) or (m, 4, 4) without leaving their branch.

    Levenberg-Marquardt with damping proportional to the squared error: quadratic where the arm is regular, and still
    convergent on singular postures. Limits are not looked at.
    """
    joints = np.array(seeds_rad, dtype=np.float64).reshape(-1, JOINT_COUNT)
    targets = np.broadcast_to(np.asarray(flange_poses, dtype=np.float64), (len(joints), 4, 4))
    active = np.ones(len(joints), dtype=bool)
    converged = np.zeros(len(joints), dtype=bool)
    for iteration in range(iterations + 1):
        index = np.flatnonzero(active)
        if len(index) == 0:
            break
        frames = link_frames(joints[index])
        error, position_error, angle_error = _pose_error(targets[index], frames[:, -1])
        worst = np.maximum(position_error, angle_error)
        converged[index] = worst <= SOLUTION_TOLERANCE
        moving = worst > _CONVERGED
        active[index] = moving
        if iteration == iterations or not np.any(moving):
            break
        error, jacobians = error[moving], jacobian_of_frames(frames[moving])
        damping = 0.1 * np.sum(error * error, axis=1, keepdims=True) + 1e-20
        # Singular values, not normal equations: those square the condition number, and singular postures are the point.
        u, values, vt = np.linalg.svd(jacobians)
        gains = values / (values * values + damping)
        steps = (((error[:, None] @ u) * gains[:, None]) @ vt)[:, 0]
        largest = np.max(np.abs(steps), axis=1, keepdims=True)
        joints[index[moving]] += steps * np.minimum(1.0, _MAX_STEP_RAD / np.maximum(largest, _MAX_STEP_RAD))
    return Refined(joints_rad=joints, converged=converged)


def damped_step(
    joints_rad: ArrayLike,
    *,
    displacement: ArrayLike,
    point_m: ArrayLike = (0.0, 0.0, 0.0),
    max_step_rad: float = 0.1,
    max_damping: float = 0.1,
    damping_below: float = 0.1,
) -> Array:
    """Joint change (6,) for a small displacement (6,: metres, then a rotation vector in radians; base frame) of a point
    fixed to the flange.

    Damped least squares; the damping rises from 0 to ``max_damping`` as the smallest singular value of the
    length-scaled Jacobian falls below ``damping_below`` (Nakamura and Hanafusa 1986), so that near a singularity the
    arm lags instead of whirling. The whole step is scaled to ``max_step_rad`` for its largest joint; its direction
    stays.
    """
    weights = np.array([1 / CHARACTERISTIC_LENGTH_M] * 3 + [1.0] * 3)
    scaled = weights[:, None] * jacobian(joints_rad, point_m=point_m)
    u, singular_values, vt = np.linalg.svd(scaled)
    shortfall = max(0.0, 1.0 - float(singular_values[-1]) / damping_below)
    damping = max_damping**2 * (1.0 - (1.0 - shortfall) ** 2)
    gains = singular_values / np.maximum(singular_values**2 + damping, 1e-12)
    step = vt.T @ (gains * (u.T @ (weights * np.asarray(displacement, dtype=np.float64))))
    largest = float(np.max(np.abs(step)))
    return step * (max_step_rad / largest) if largest > max_step_rad else step


def _pose_error(targets: Array, poses: Array) -> tuple[Array, Array, Array]:
    """Displacement (m, 6) from poses to targets, its length (m,) in metres and its angle (m,) in radians."""
    position = targets[:, :3, 3] - poses[:, :3, 3]
    turn = targets[:, :3, :3] @ np.swapaxes(poses[:, :3, :3], 1, 2)
    axis = 0.5 * np.stack(
        [turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0], turn[:, 1, 0] - turn[:, 0, 1]], axis=1
    )
    sine = np.sqrt(np.sum(axis * axis, axis=1))
    angle = np.arctan2(sine, 0.5 * (np.trace(turn, axis1=1, axis2=2) - 1.0))
    scale = np.where(sine > 1e-9, angle / np.maximum(sine, 1e-9), 1.0)
    return (
        np.concatenate([position, axis * scale[:, None]], axis=1),
        np.sqrt(np.sum(position * position, axis=1)),
        angle,
    )


def _closed_form_seeds(target: Array, *, q6_when_free_rad: float) -> list[Array]:
    """Joint vectors of the DH table's closed form: shoulder, then wrist, then elbow, two each."""
    d4, d6 = DH_D_M[3], DH_D_M[5]
    a2, a3 = DH_A_M[1], DH_A_M[2]
    rotation, position = target[:3, :3], target[:3, 3]
    wrist = position - d6 * rotation[:, 2]
    reach = hypot(wrist[0], wrist[1])
    shoulder_angle = _bounded_acos(d4 / reach) if reach > 0.0 else None
    if shoulder_angle is None:
        return []
    seeds = []
    for shoulder in (1.0, -1.0):
        theta1 = atan2(wrist[1], wrist[0]) + shoulder * shoulder_angle + pi / 2
        s1, c1 = sin(theta1), cos(theta1)
        wrist_angle = _bounded_acos((position[0] * s1 - position[1] * c1 - d4) / d6)
        if wrist_angle is None:
            continue
        for flip in (1.0, -1.0):
            theta5 = flip * wrist_angle
            sine5 = sin(theta5)
            y = (-rotation[0, 1] * s1 + rotation[1, 1] * c1) / sine5
            x = (rotation[0, 0] * s1 - rotation[1, 0] * c1) / sine5
            free = abs(sine5) < 2 * _MIN_SEED_ANGLE_RAD
            theta6 = q6_when_free_rad + DH_THETA_OFFSET_RAD[5] if free else atan2(y, x)
            wrist_part = _dh(4, theta5) @ _dh(5, theta6)
            forearm = np.linalg.solve(_dh(0, theta1), target) @ np.linalg.inv(wrist_part)
            px, py = (forearm @ np.array([0.0, -d4, 0.0, 1.0]))[:2]
            elbow_angle = _bounded_acos((px * px + py * py - a2 * a2 - a3 * a3) / (2 * a2 * a3))
            if elbow_angle is None:
                continue
            for elbow in (1.0, -1.0):
                theta3 = elbow * elbow_angle
                theta2 = atan2(py, px) - atan2(a3 * sin(theta3), a2 + a3 * cos(theta3))
                theta4 = atan2(forearm[1, 0], forearm[0, 0]) - theta2 - theta3
                theta = np.array([theta1, theta2, theta3, theta4, theta5, theta6])
                seeds.append(theta - np.array(DH_THETA_OFFSET_RAD))
    return seeds


def _bounded_acos(value: float) -> float | None:
    """acos pushed off 0 and pi by `_MIN_SEED_ANGLE_RAD`, or None when the value is out of reach."""
    if abs(value) > 1.0 + _BOUNDARY_SLACK:
        return None
    return min(max(acos(min(1.0, max(-1.0, value))), _MIN_SEED_ANGLE_RAD), pi - _MIN_SEED_ANGLE_RAD)


def _dh(joint: int, theta: float) -> Array:
    """Standard DH transform of one joint: Rz(theta) Tz(d) Tx(a) Rx(alpha)."""
    a, d, alpha = DH_A_M[joint], DH_D_M[joint], DH_ALPHA_RAD[joint]
    ct, st, ca, sa = cos(theta), sin(theta), cos(alpha), sin(alpha)
    return np.array(
        [
            [ct, -st * ca, st * sa, a * ct],
            [st, ct * ca, -ct * sa, a * st],
            [0.0, sa, ca, d],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def _nearest_turns(joints: Array, *, reference: Array, lower_rad: ArrayLike, upper_rad: ArrayLike) -> Array:
    """Each joint moved by whole turns to the allowed value nearest to the reference; rows without one are dropped."""
    lower, upper = np.asarray(lower_rad, dtype=np.float64), np.asarray(upper_rad, dtype=np.float64)
    near = joints - 2 * pi * np.round((joints - reference) / (2 * pi))
    options = near[:, :, None] + 2 * pi * np.array([0.0, -1.0, 1.0])
    allowed = (options >= lower[:, None] - _LIMIT_SLACK_RAD) & (options <= upper[:, None] + _LIMIT_SLACK_RAD)
    distance = np.where(allowed, np.abs(options - reference[:, None]), np.inf)
    chosen = np.take_along_axis(options, np.argmin(distance, axis=2)[:, :, None], axis=2)[:, :, 0]
    return np.clip(chosen[np.all(np.any(allowed, axis=2), axis=1)], lower, upper)


def _checked_pose(pose: ArrayLike) -> Array:
    matrix = np.asarray(pose, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.all(np.isfinite(matrix)):
        raise ValueError(f"flange_pose: expected a finite 4x4 matrix, got shape {matrix.shape}: {matrix.tolist()}")
    rotation = matrix[:3, :3]
    if np.max(np.abs(rotation.T @ rotation - np.eye(3))) > 1e-6 or np.linalg.det(rotation) < 0:
        raise ValueError(
            f"flange_pose: expected a rigid transform, but its 3x3 part is no rotation: {rotation.tolist()}"
        )
    return matrix
