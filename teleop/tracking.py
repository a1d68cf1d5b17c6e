"""One tick of following: from the posture commanded last to the next one. Pure functions.

Every step starts from the *commanded* posture, so that lag of the arm does not creep into the command, and ends within
a bound of the *measured* one, so that the command never runs away from an arm that is held up.
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np

from robot.motion.envelope import TOOL_POINT_M
from robot.motion.inverse_kinematics import damped_step
from robot.motion.kinematics import (
    CONDITION_SLOW,
    CONDITION_STOP,
    condition_number,
    singularity_speed_scale,
    tool_pose,
)
from robot.motion.limits import GuardLimits
from robot.motion.rotations import Array, make_pose, rotation_from_vector, vector_from_rotation

TOOL = make_pose(TOOL_POINT_M)
ESCAPE_SCALE = 0.5
"""Share of the speed at which the arm may leave a singularity that it is in."""
_IK_ITERATIONS = 4
_LEAD_HALVINGS = 4
_CREEP = 0.05
"""Share of the speed below which slowing down before a singularity has become a stop."""
_SPEED_SHARE = 0.95
"""Share of the rig's joint speed limit that teleoperation uses: robotd's follower needs the rest to catch up."""


class Limitation(Enum):
    """What kept a step from being what the operator asked for. The value is what the operator reads."""

    SPEED = "speed limit"
    JOINT_LIMIT = "joint limit"
    WORKSPACE = "edge of the workspace"
    SINGULARITY_SLOW = "slow: near a singularity"
    SINGULARITY_STOP = "stopped: singularity, move back"
    LEAD = "the arm does not keep up"
    MISALIGNED = "device and arm are too far apart: bring the device closer"
    SPIKE = "jump in the device's signal ignored"


@dataclass(frozen=True)
class Lead:
    """How far the commanded posture may be from the measured one, in each joint and at the tool point."""

    joint_rad: float = 0.25
    tool_m: float = 0.12


@dataclass(frozen=True, eq=False)
class TrackingStep:
    """The next commanded posture (6,) and what limited it."""

    joints_rad: Array
    limitations: frozenset[Limitation]


def pose_displacement(target: Array, *, pose: Array) -> Array:
    """(6,) metres and rotation vector, base frame, that take ``pose`` (4, 4) to ``target`` (4, 4)."""
    return np.concatenate(
        [target[:3, 3] - pose[:3, 3], vector_from_rotation(target[:3, :3] @ pose[:3, :3].T)], dtype=np.float64
    )


def displaced(pose: Array, *, displacement: Array) -> Array:
    """``pose`` (4, 4) moved by metres and turned about its own point by a rotation vector, both in the base frame."""
    return make_pose(pose[:3, 3] + displacement[:3], rotation=rotation_from_vector(displacement[3:]) @ pose[:3, :3])


def shortened(displacement: Array, *, max_m: float, max_rad: float) -> Array:
    """``displacement`` (6,) scaled as a whole until neither part is longer than allowed."""
    shares = [max_m / max(float(np.linalg.norm(displacement[:3])), max_m)]
    shares.append(max_rad / max(float(np.linalg.norm(displacement[3:])), max_rad))
    return displacement * min(shares)


def step_to_pose(
    command_rad: Array, *, target: Array, measured_rad: Array, dt_s: float, limits: GuardLimits, lead: Lead
) -> TrackingStep:
    """The posture one tick nearer to a tool pose (4, 4) that the caller has kept within one tick's reach.

    Damped least squares with the damping rising near a singularity; from condition number 17 on, motion towards the
    singularity slows down and ends at 30, motion out of it stays possible.
    """
    found: set[Limitation] = set()
    goal = command_rad.copy()
    for _ in range(_IK_ITERATIONS):
        error = pose_displacement(target, pose=tool_pose(goal, tool=TOOL))
        if float(np.max(np.abs(error))) < 1e-7:
            break
        goal = goal + damped_step(goal, displacement=error, point_m=TOOL_POINT_M)
    step = _within_joint_limits(command_rad, goal - command_rad, limits=limits, found=found)
    step = _within_joint_speed(step, dt_s=dt_s, limits=limits, found=found)
    step = _clear_of_singularities(command_rad, step, found=found)
    step = _within_lead(command_rad, step, measured_rad=measured_rad, lead=lead, found=found)
    return TrackingStep(command_rad + step, frozenset(found))


def step_to_joints(
    command_rad: Array,
    *,
    target_rad: Array,
    measured_rad: Array,
    dt_s: float,
    limits: GuardLimits,
    lead: Lead,
    max_speed_rad_s: float,
    max_tool_speed_m_s: float,
) -> TrackingStep:
    """The posture one tick nearer to a posture. Its joints are its own: singularities are no obstacle."""
    found: set[Limitation] = set()
    step = _within_joint_limits(command_rad, target_rad - command_rad, limits=limits, found=found)
    step = _within_joint_speed(step, dt_s=dt_s, limits=limits, found=found, max_speed_rad_s=max_speed_rad_s)
    way_m = float(np.linalg.norm(_tool_point(command_rad + step) - _tool_point(command_rad)))
    if way_m > max_tool_speed_m_s * dt_s:
        found.add(Limitation.SPEED)
        step = step * (max_tool_speed_m_s * dt_s / way_m)
    step = _within_lead(command_rad, step, measured_rad=measured_rad, lead=lead, found=found)
    return TrackingStep(command_rad + step, frozenset(found))


def inside_workspace(pose: Array, *, limits: GuardLimits) -> Array:
    """``pose`` (4, 4) of the tool with its point moved into the rig's box. robotd's guard looks at the whole tool."""
    lower = limits.workspace_lower_m.copy()
    lower[2] = max(lower[2], limits.table_height_m + limits.table_clearance_m)
    return make_pose(np.clip(pose[:3, 3], lower, limits.workspace_upper_m), rotation=pose[:3, :3])


def _within_joint_limits(command: Array, step: Array, *, limits: GuardLimits, found: set[Limitation]) -> Array:
    """Each joint stops at its margin; a joint that is outside already may only come back."""
    lower = np.minimum(limits.joint_lower_rad + limits.joint_margin_rad, command)
    upper = np.maximum(limits.joint_upper_rad - limits.joint_margin_rad, command)
    goal = np.clip(command + step, lower, upper)
    if np.any(np.abs(goal - command - step) > 1e-9):
        found.add(Limitation.JOINT_LIMIT)
    return goal - command


def _within_joint_speed(
    step: Array, *, dt_s: float, limits: GuardLimits, found: set[Limitation], max_speed_rad_s: float = np.inf
) -> Array:
    allowed = np.minimum(limits.max_joint_speed_rad_s * _SPEED_SHARE, max_speed_rad_s) * dt_s
    excess = float(np.max(np.abs(step) / allowed))
    if excess <= 1.0:
        return step
    found.add(Limitation.SPEED)
    return step / excess


def _clear_of_singularities(command: Array, step: Array, *, found: set[Limitation]) -> Array:
    present = condition_number(command)
    # Half-way too: a step across the singularity ends where the number is no higher than where it began.
    ahead = max(condition_number(command + 0.5 * step), condition_number(command + step))
    if ahead <= present:
        if present >= CONDITION_STOP:
            found.add(Limitation.SINGULARITY_SLOW)
            return step * ESCAPE_SCALE
        return step
    if ahead < CONDITION_SLOW:
        return step
    scale = singularity_speed_scale(max(present, CONDITION_SLOW))
    for share in (scale, scale / 2, scale / 4):
        if share < _CREEP:
            break
        reached = max(condition_number(command + 0.5 * share * step), condition_number(command + share * step))
        if reached < CONDITION_STOP:
            found.add(Limitation.SINGULARITY_SLOW)
            return step * share
    found.add(Limitation.SINGULARITY_STOP)
    return np.zeros_like(step)


def _within_lead(command: Array, step: Array, *, measured_rad: Array, lead: Lead, found: set[Limitation]) -> Array:
    """Scale the step so that no joint, nor the tool point, gets further from the measured arm than allowed. From
    further away (the arm was pushed) only what does not increase the distance is left."""
    gap = command - measured_rad
    bound = np.maximum(lead.joint_rad, np.abs(gap))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(step > 0, (bound - gap) / step, np.where(step < 0, (-bound - gap) / step, 1.0))
    share = float(np.clip(np.min(shares), 0.0, 1.0))
    measured_m = _tool_point(measured_rad)
    bound_m = max(lead.tool_m, float(np.linalg.norm(_tool_point(command) - measured_m)))
    for _ in range(_LEAD_HALVINGS):
        if float(np.linalg.norm(_tool_point(command + share * step) - measured_m)) <= bound_m:
            break
        share /= 2
    else:
        share = 0.0
    if share < 1.0:
        found.add(Limitation.LEAD)
    return step * share


def _tool_point(joints_rad: Array) -> Array:
    return tool_pose(joints_rad, tool=TOOL)[:3, 3]
