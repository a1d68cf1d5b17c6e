"""How far postures are outside the limits: joint ranges, workspace box, table plane."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from robot.motion.guard_events import Finding, GuardEvent
from robot.motion.kinematics import flange_pose, link_frames
from robot.motion.limits import GuardLimits
from robot.motion.nova5 import JOINT_COUNT
from robot.motion.rotations import Array

_ARM_LINKS = slice(2, 5)
"""Origins of L3, L4 and L5: the elbow and the two wrist joints. L1 and L2 cannot reach the table."""
_VISIBLE = 1e-6


@dataclass(frozen=True, eq=False)
class Depths:
    """How deep m postures are outside, 0 when inside: ``joint_rad`` (m, 6), ``box_m`` (m, 3) per axis, signed as the
    way *back*, ``table_m`` (m,) how much the lowest point must rise. ``tool_point_m`` (m, 3) and ``flange`` (m, 4,
    4), base frame.
    """

    joint_rad: Array
    box_m: Array
    table_m: Array
    tool_point_m: Array
    flange: Array

    @property
    def stacked(self) -> Array:
        """All depths as one (m, 10) array >= 0: six joints, three box axes, table."""
        return np.concatenate([self.joint_rad, np.abs(self.box_m), self.table_m[:, None]], axis=1)


def tool_points_m(joints_rad: Array, *, limits: GuardLimits) -> Array:
    """Tool points (m, 3) of postures (m, 6), base frame."""
    return _tool_points(flange_pose(joints_rad), limits=limits)


def depths(joints_rad: Array, *, gripper: float | None, limits: GuardLimits, margin_rad: float = 0.0) -> Depths:
    """Depths of postures (m, 6). ``gripper`` is the *measured* position, None when unknown (every opening then
    counts)."""
    frames = link_frames(joints_rad)
    flange = frames[:, -1]
    tool_point = _tool_points(flange, limits=limits)
    envelope = limits.envelope.points_m(gripper=gripper)
    lowest = np.min(flange[:, 2, :3] @ envelope.T, axis=1) + flange[:, 2, 3]
    lowest = np.minimum(lowest, np.min(frames[:, _ARM_LINKS, 2, 3], axis=1) - limits.link_radius_m)
    below, above = limits.joint_lower_rad + margin_rad - joints_rad, joints_rad - limits.joint_upper_rad + margin_rad
    return Depths(
        joint_rad=np.maximum(0.0, np.maximum(below, above)),
        box_m=np.clip(tool_point, limits.workspace_lower_m, limits.workspace_upper_m) - tool_point,
        table_m=np.maximum(0.0, limits.table_height_m + limits.table_clearance_m - lowest),
        tool_point_m=tool_point,
        flange=flange,
    )


def pose_violations(joints_rad: ArrayLike, *, limits: GuardLimits, gripper: float | None = None) -> tuple[Finding, ...]:
    """What is wrong with standing at ``joints_rad`` (6,), empty when nothing is. For the check before streaming starts.

    ``gripper`` is the measured position, 0 open to 1 closed; None: unknown, and every opening counts.
    """
    joints = np.asarray(joints_rad, dtype=np.float64)
    if joints.shape != (JOINT_COUNT,):
        return (Finding(GuardEvent.BAD_SHAPE, 1, f"expected joints of shape ({JOINT_COUNT},), got {joints.shape}"),)
    if not np.all(np.isfinite(joints)):
        return (Finding(GuardEvent.NON_FINITE, 1, f"joints {joints.tolist()} rad"),)
    outside = depths(joints[None], gripper=gripper, limits=limits)
    findings = []
    for joint in np.flatnonzero(outside.joint_rad[0] > _VISIBLE):
        allowed = f"[{limits.joint_lower_rad[joint]:.3f}, {limits.joint_upper_rad[joint]:.3f}]"
        detail = f"joint {joint + 1} at {joints[joint]:.3f} rad, allowed {allowed} rad"
        findings.append(Finding(GuardEvent.JOINT_LIMIT, 1, detail))
    if np.any(np.abs(outside.box_m[0]) > _VISIBLE):
        findings.append(Finding(GuardEvent.WORKSPACE, 1, describe_box(outside.tool_point_m[0], limits=limits)))
    if outside.table_m[0] > _VISIBLE:
        findings.append(Finding(GuardEvent.TABLE, 1, describe_table(float(outside.table_m[0]), limits=limits)))
    return tuple(findings)


def describe_box(tool_point_m: Array, *, limits: GuardLimits) -> str:
    """Where the tool point is and where it may be, axis by axis, for the axes that are outside."""
    parts = []
    for name, value, low, high in zip(
        "xyz", tool_point_m, limits.workspace_lower_m, limits.workspace_upper_m, strict=True
    ):
        if not low - _VISIBLE <= value <= high + _VISIBLE:
            parts.append(f"{name} = {value:.3f} m, allowed [{low:.3f}, {high:.3f}] m")
    return "tool point " + "; ".join(parts)


def describe_table(depth_m: float, *, limits: GuardLimits) -> str:
    """How far too low the tool or the arm is."""
    return (
        f"lowest point of tool or arm {depth_m * 1e3:.1f} mm too low (table at {limits.table_height_m:.3f} m "
        f"plus {limits.table_clearance_m * 1e3:.0f} mm)"
    )


def _tool_points(flange: Array, *, limits: GuardLimits) -> Array:
    points: Array = flange[:, :3, :3] @ limits.tool_point_m + flange[:, :3, 3]
    return points
