"""The action guard: every command passes here on its way to the arm. Pure functions of command, state and limits.

`check_request` and `check_waypoints` judge a chunk when it arrives; `check_setpoint` is the last line of defence at
the servo rate. What each event leads to is in `robot.motion.guard_events.EVENT_INFO`.

What the caller must guarantee
------------------------------
* Before streaming starts, `pose_violations` of the measured posture is empty. The guard keeps an arm inside; it does
  not bring one back, although it never forbids motion that does.
* ``present_rad`` and ``previous`` are the set-point *sent last*, not the measured joints; ``gripper`` is the measured
  position, 0 open to 1 closed, or None when it is not known.
* Set-points come from `robot.motion.follower` with the same limits and the same ``dt_s``, one per servo period.
* A set-point that `check_setpoint` refuses is not sent. In its place goes `follower.stop_step` of the previous state,
  as it is: braking is always the safest motion left, and the set-point sent before was let through because the arm
  could still stop inside from there.
* After a stop, a fresh `Trajectory.hold` at the follower's posture replaces the old path.
* Units and frames are those of `GuardLimits`; the tool that hangs on the flange lies within its envelope. The guard
  knows no obstacles but the table: neither people nor objects, nor the arm itself.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from robot.motion.follower import FollowerState, stop_joints_rad
from robot.motion.guard_events import Finding, GuardEvent
from robot.motion.inverse_kinematics import refine
from robot.motion.limits import GuardLimits
from robot.motion.nova5 import JOINT_COUNT
from robot.motion.rotations import Array
from robot.motion.violations import Depths, depths, describe_box, describe_table, tool_points_m
from robot.motion.waypoints import Setpoint, WaypointError, Waypoints

MAX_CLIP_CHANGE_RAD = 0.5
"""Bringing a waypoint back inside may move no joint further than this; otherwise the chunk ends before it."""
SETPOINT_TOLERANCE_M = 0.002
"""How far a set-point may stand outside the box or below the table clearance: between two waypoints on the boundary the
joint-space path bulges a little."""
SETPOINT_TOLERANCE_RAD = 1e-6
SPEED_TOLERANCE = 0.05
"""Relative excess at which a set-point's speed or acceleration is refused. The follower keeps the bounds far better."""

_CLIP_ITERATIONS = 15
_CLIP_ACCURACY = 1e-6
_NOISE = 1e-9


@dataclass(frozen=True, eq=False)
class GuardResult:
    """What is left of a chunk: the waypoints that may be scheduled, or None when nothing is, and all findings."""

    waypoints: Waypoints | None
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[GuardEvent, int]:
        """How often each event occurred; events that did not occur are absent."""
        return {finding.event: finding.count for finding in self.findings}

    @property
    def detail(self) -> str:
        """All findings in one line."""
        return "; ".join(str(finding) for finding in self.findings)


class SetpointVerdict(NamedTuple):
    """The set-point that may be sent, or None: brake instead; and all findings."""

    setpoint: Setpoint | None
    findings: tuple[Finding, ...]


def check_request(
    *,
    t_ns: Any,
    joints_rad: Any,
    gripper_targets: Any,
    expiry_ns: Any,
    source_id: Any = 0,
    present_rad: ArrayLike,
    gripper: float | None,
    now_ns: int,
    limits: GuardLimits,
) -> GuardResult:
    """`check_waypoints` of a request as it came from a client: what is no waypoints at all is refused as BAD_SHAPE."""
    try:
        waypoints = Waypoints(
            t_ns=t_ns, joints_rad=joints_rad, gripper=gripper_targets, expiry_ns=expiry_ns, source_id=source_id
        )
    except WaypointError as error:
        return GuardResult(None, (Finding(GuardEvent.BAD_SHAPE, 1, str(error)),))
    return check_waypoints(waypoints, present_rad=present_rad, gripper=gripper, now_ns=now_ns, limits=limits)


def check_waypoints(
    waypoints: Waypoints, *, present_rad: ArrayLike, gripper: float | None, now_ns: int, limits: GuardLimits
) -> GuardResult:
    """Judge a chunk. ``present_rad`` (6,) is the set-point sent last, ``gripper`` the measured position.

    Refused as a whole: NON_FINITE, EXPIRED, JUMP, and a chunk of which every waypoint is late. Late waypoints are
    dropped. Joints are clipped to the margin; a pose whose tool point is outside the box, or whose tool or arm is
    below the table, is moved straight back to the boundary with its orientation kept, and solved on the same branch
    near the waypoint; where that fails the chunk ends. Whatever remains is finite, inside all position limits, and
    free of jumps at its start. Speeds between waypoints are counted only: the follower bounds them. Raises
    `ValueError` when ``present_rad`` is not finite.
    """
    present = np.asarray(present_rad, dtype=np.float64)
    if present.shape != (JOINT_COUNT,) or not np.all(np.isfinite(present)):
        raise ValueError(f"present_rad: expected {JOINT_COUNT} finite joint angles, got {present.tolist()}")
    if not (np.all(np.isfinite(waypoints.joints_rad)) and np.all(np.isfinite(waypoints.gripper))):
        finite = np.isfinite(waypoints.joints_rad).all(axis=1) & np.isfinite(waypoints.gripper)
        bad = np.flatnonzero(~finite)
        return GuardResult(None, (Finding(GuardEvent.NON_FINITE, len(bad), f"first in waypoint {bad[0]}"),))
    if waypoints.expiry_ns <= now_ns:
        detail = f"{(now_ns - waypoints.expiry_ns) / 1e6:.1f} ms before it arrived"
        return GuardResult(None, (Finding(GuardEvent.EXPIRED, 1, detail),))

    findings: list[Finding] = []
    live, late = _without_late(waypoints, now_ns=now_ns)
    findings += late
    if live is None:
        return GuardResult(None, tuple(findings))
    jump = _jump(live.joints_rad[0], present=present, limits=limits)
    if jump:
        return GuardResult(None, (*findings, *jump))

    gripper_targets, gripper_findings = _clip_gripper(live.gripper)
    joints, clip_findings = _clip_joints(live.joints_rad, limits=limits)
    joints, box_findings = _clip_poses(joints, gripper=gripper, limits=limits)
    findings += gripper_findings + clip_findings + box_findings
    if len(joints) == 0:
        return GuardResult(None, tuple(findings))
    jump = _jump(joints[0], present=present, limits=limits) if clip_findings or box_findings else []
    if jump:
        return GuardResult(None, (*findings, *jump))
    count = len(joints)
    cleared = replace(live, t_ns=live.t_ns[:count], joints_rad=joints, gripper=gripper_targets[:count])
    return GuardResult(cleared, (*findings, *_speeds(cleared, limits=limits)))


def check_setpoint(
    setpoint: Setpoint, *, previous: Setpoint, gripper: float | None, dt_s: float, limits: GuardLimits
) -> SetpointVerdict:
    """Judge one set-point against the one sent before it, ``dt_s`` earlier. None means: brake instead.

    What is looked at is not where the set-point is but where the arm would come to rest from it: a set-point passes
    when that posture is inside the limits, or no deeper outside in any of them than the previous set-point is. So an
    arm is stopped in time, may always move back in, and is never locked. Speed and acceleration, from the difference
    of the two set-points, may exceed their limits only while slowing down. The gripper's target is clipped to [0, 1].
    """
    joints, speed = np.asarray(setpoint.joints_rad), np.asarray(setpoint.speed_rad_s)
    if joints.shape != (JOINT_COUNT,) or speed.shape != (JOINT_COUNT,):
        detail = f"expected joints and speed of shape ({JOINT_COUNT},), got {joints.shape} and {speed.shape}"
        return SetpointVerdict(None, (Finding(GuardEvent.BAD_SHAPE, 1, detail),))
    if not (np.all(np.isfinite(joints)) and np.all(np.isfinite(speed)) and np.isfinite(setpoint.gripper)):
        return SetpointVerdict(None, (Finding(GuardEvent.NON_FINITE, 1, "NaN or infinity in a set-point"),))

    findings: list[Finding] = []
    clipped_gripper, gripper_findings = _clip_gripper(np.array([setpoint.gripper]))
    # The difference counts, not the speed that the set-point claims: it is what the arm is made to do.
    with np.errstate(over="ignore"):
        speed = (joints - previous.joints_rad) / dt_s
    before = np.stack([previous.joints_rad, previous.joints_rad - previous.speed_rad_s * dt_s])
    findings += _joint_motion(speed, previous_speed=previous.speed_rad_s, dt_s=dt_s, limits=limits)
    if not findings:
        rest = stop_joints_rad(FollowerState(joints_rad=joints, speed_rad_s=speed), dt_s=dt_s, limits=limits)
        outside = depths(np.concatenate([[joints, rest], before]), gripper=gripper, limits=limits)
        findings += _tool_motion(outside.tool_point_m, dt_s=dt_s, limits=limits)
        findings += _leaving(outside, joints=rest, limits=limits)
    if findings:
        return SetpointVerdict(None, tuple(findings + gripper_findings))
    return SetpointVerdict(replace(setpoint, gripper=float(clipped_gripper[0])), tuple(gripper_findings))


def _without_late(waypoints: Waypoints, *, now_ns: int) -> tuple[Waypoints | None, list[Finding]]:
    first = int(np.searchsorted(waypoints.t_ns, now_ns, side="right"))
    if first == 0:
        return waypoints, []
    detail = f"{first} of {len(waypoints)} waypoints, the latest {(now_ns - int(waypoints.t_ns[0])) / 1e6:.1f} ms late"
    finding = Finding(GuardEvent.LATE_WAYPOINT, first, detail)
    if first == len(waypoints):
        return None, [finding]
    live = replace(
        waypoints,
        t_ns=waypoints.t_ns[first:],
        joints_rad=waypoints.joints_rad[first:],
        gripper=waypoints.gripper[first:],
    )
    return live, [finding]


def _jump(first: Array, *, present: Array, limits: GuardLimits) -> list[Finding]:
    change = np.abs(first - present)
    worst = int(np.argmax(change))
    if change[worst] > limits.max_jump_rad:
        detail = (
            f"the first waypoint puts joint {worst + 1} {change[worst]:.3g} rad from the set-point, "
            f"allowed {limits.max_jump_rad} rad"
        )
        return [Finding(GuardEvent.JUMP, 1, detail)]
    points = tool_points_m(np.stack([first, present]), limits=limits)
    distance = float(np.linalg.norm(points[0] - points[1]))
    if distance > limits.max_jump_m:
        detail = (
            f"the first waypoint puts the tool point {distance:.3f} m from the set-point, allowed {limits.max_jump_m} m"
        )
        return [Finding(GuardEvent.JUMP, 1, detail)]
    return []


def _clip_gripper(targets: Array) -> tuple[Array, list[Finding]]:
    clipped = np.clip(targets, 0.0, 1.0)
    outside = np.flatnonzero(clipped != targets)
    if len(outside) == 0:
        return clipped, []
    worst = targets[outside[np.argmax(np.abs(targets[outside] - clipped[outside]))]]
    return clipped, [Finding(GuardEvent.GRIPPER_RANGE, len(outside), f"{worst:.3g}, allowed [0, 1]")]


def _clip_joints(joints: Array, *, limits: GuardLimits) -> tuple[Array, list[Finding]]:
    lower = limits.joint_lower_rad + limits.joint_margin_rad
    upper = limits.joint_upper_rad - limits.joint_margin_rad
    clipped = np.clip(joints, lower, upper)
    excess = np.abs(joints - clipped)
    outside = np.any(excess > 0, axis=1)
    if not np.any(outside):
        return clipped, []
    index, joint = np.unravel_index(int(np.argmax(excess)), excess.shape)
    detail = (
        f"joint {joint + 1} at {joints[index, joint]:.3f} rad, allowed [{lower[joint]:.3f}, {upper[joint]:.3f}] rad"
    )
    return clipped, [Finding(GuardEvent.JOINT_LIMIT, int(np.count_nonzero(outside)), detail)]


def _clip_poses(joints: Array, *, gripper: float | None, limits: GuardLimits) -> tuple[Array, list[Finding]]:
    """Joints (m, 6) with each pose inside box and table plane; m <= n, cut before the first that cannot be brought
    in."""
    outside = depths(joints, gripper=gripper, limits=limits)
    off_box = np.any(np.abs(outside.box_m) > _NOISE, axis=1)
    off_table = outside.table_m > _NOISE
    wrong = np.flatnonzero(off_box | off_table)
    if len(wrong) == 0:
        return joints, []
    findings = []
    if np.any(off_box):
        worst = int(np.argmax(np.linalg.norm(outside.box_m, axis=1)))
        detail = describe_box(outside.tool_point_m[worst], limits=limits)
        findings.append(Finding(GuardEvent.WORKSPACE, int(np.count_nonzero(off_box)), detail))
    if np.any(off_table):
        detail = describe_table(float(np.max(outside.table_m)), limits=limits)
        findings.append(Finding(GuardEvent.TABLE, int(np.count_nonzero(off_table)), detail))

    targets = outside.flange[wrong].copy()
    targets[:, :3, 3] += outside.box_m[wrong]
    # Moving into the box may have raised the tool already; the table asks for the larger of the two.
    targets[:, 2, 3] += np.maximum(0.0, outside.table_m[wrong] - outside.box_m[wrong, 2])
    solved = refine(targets, seeds_rad=joints[wrong], iterations=_CLIP_ITERATIONS)
    moved = joints.copy()
    moved[wrong] = solved.joints_rad
    inside = depths(solved.joints_rad, gripper=gripper, limits=limits, margin_rad=limits.joint_margin_rad)
    good = (
        solved.converged
        & np.all(inside.stacked <= _CLIP_ACCURACY, axis=1)
        & np.all(np.abs(solved.joints_rad - joints[wrong]) <= MAX_CLIP_CHANGE_RAD, axis=1)
    )
    if not np.all(good):
        end = int(wrong[np.flatnonzero(~good)[0]])
        detail = (
            f"waypoint {end} cannot be brought inside by moving straight back; {len(joints) - end} waypoints cut off"
        )
        findings.append(Finding(GuardEvent.UNREACHABLE, len(joints) - end, detail))
        moved = moved[:end]
    return moved, findings


def _speeds(waypoints: Waypoints, *, limits: GuardLimits) -> list[Finding]:
    if len(waypoints) < 2:
        return []
    steps_s = np.diff(waypoints.t_ns)[:, None] * 1e-9
    speeds = np.diff(waypoints.joints_rad, axis=0) / steps_s
    points = tool_points_m(waypoints.joints_rad, limits=limits)
    tool_speeds = np.linalg.norm(np.diff(points, axis=0), axis=1) / steps_s[:, 0]
    accelerations = np.diff(speeds, axis=0) / (0.5 * (steps_s[1:] + steps_s[:-1]))
    findings = []
    for event, values, bound, unit in (
        (GuardEvent.JOINT_SPEED, np.abs(speeds), limits.max_joint_speed_rad_s, "rad/s"),
        (GuardEvent.JOINT_ACCELERATION, np.abs(accelerations), limits.max_joint_acceleration_rad_s2, "rad/s²"),
        (GuardEvent.TCP_SPEED, tool_speeds[:, None], np.array([limits.max_tcp_speed_m_s]), "m/s"),
    ):
        excess = np.any(values > bound * (1 + _NOISE), axis=1)
        if np.any(excess):
            worst = np.unravel_index(int(np.argmax(values / bound)), values.shape)
            detail = f"up to {values[worst]:.3g} {unit}, allowed {bound[worst[1]]:.3g} {unit}"
            findings.append(Finding(event, int(np.count_nonzero(excess)), detail))
    return findings


def _joint_motion(speed: Array, *, previous_speed: Array, dt_s: float, limits: GuardLimits) -> list[Finding]:
    findings = []
    slowing = np.abs(speed) <= np.abs(previous_speed)
    fast = (np.abs(speed) > limits.max_joint_speed_rad_s * (1 + SPEED_TOLERANCE)) & ~slowing
    if np.any(fast):
        joint = int(np.flatnonzero(fast)[0])
        detail = (
            f"joint {joint + 1} at {speed[joint]:.3g} rad/s, allowed {limits.max_joint_speed_rad_s[joint]:.3g} rad/s"
        )
        findings.append(Finding(GuardEvent.JOINT_SPEED, int(np.count_nonzero(fast)), detail))
    acceleration = np.abs(speed - previous_speed) / dt_s
    sharp = acceleration > limits.max_joint_acceleration_rad_s2 * (1 + SPEED_TOLERANCE)
    if np.any(sharp):
        joint = int(np.flatnonzero(sharp)[0])
        detail = (
            f"joint {joint + 1} at {acceleration[joint]:.3g} rad/s², "
            f"allowed {limits.max_joint_acceleration_rad_s2[joint]:.3g} rad/s²"
        )
        findings.append(Finding(GuardEvent.JOINT_ACCELERATION, int(np.count_nonzero(sharp)), detail))
    return findings


def _tool_motion(points: Array, *, dt_s: float, limits: GuardLimits) -> list[Finding]:
    """Tool points at the set-point, (at rest,) at the previous set-point and at the one before that."""
    now, before = np.linalg.norm(points[0] - points[2]) / dt_s, np.linalg.norm(points[2] - points[3]) / dt_s
    if now <= limits.max_tcp_speed_m_s * (1 + SPEED_TOLERANCE) or now <= before:
        return []
    return [Finding(GuardEvent.TCP_SPEED, 1, f"{now:.3f} m/s, allowed {limits.max_tcp_speed_m_s:.3f} m/s")]


def _leaving(outside: Depths, *, joints: Array, limits: GuardLimits) -> list[Finding]:
    """Findings for limits that the posture of rest (row 1) would pass and that the previous one (row 2) was less
    outside of."""
    depth = outside.stacked
    tolerance = np.array([SETPOINT_TOLERANCE_RAD] * JOINT_COUNT + [SETPOINT_TOLERANCE_M] * 4)
    deeper = depth[1] > np.maximum(tolerance, depth[2] + _NOISE)
    findings = []
    beyond = np.flatnonzero(deeper[:JOINT_COUNT])
    if len(beyond):
        detail = "would come to rest with " + ", ".join(f"joint {j + 1} at {joints[j]:.3f} rad" for j in beyond)
        findings.append(Finding(GuardEvent.JOINT_LIMIT, len(beyond), detail))
    if np.any(deeper[JOINT_COUNT:-1]):
        detail = "would come to rest with " + describe_box(outside.tool_point_m[1], limits=limits)
        findings.append(Finding(GuardEvent.WORKSPACE, 1, detail))
    if deeper[-1]:
        detail = "would come to rest with " + describe_table(float(depth[1, -1]), limits=limits)
        findings.append(Finding(GuardEvent.TABLE, 1, detail))
    return findings
