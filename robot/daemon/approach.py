"""The path of a guarded move to a posture: all joints together along a minimum-jerk profile. Pure functions.

The quintic s(u) = 10 u³ - 15 u⁴ + 6 u⁵ starts and ends at rest; its speed peaks at 1.875 / T and its acceleration at
5.774 / T² times the distance (Flash and Hogan 1985).
"""

from math import ceil, sqrt

import numpy as np

from robot.clock import seconds_to_ns
from robot.daemon.errors import MoveRefusedError
from robot.motion.limits import GuardLimits
from robot.motion.rotations import Array
from robot.motion.violations import depths, pose_violations
from robot.motion.waypoints import Waypoints

_PEAK_SPEED = 1.875
_PEAK_ACCELERATION = 5.774
_ACCELERATION_SHARE = 0.5
_TOOL_SPEED_SHARE = 0.8
_KNOT_S = 0.05
_SHORTEST_S = 0.2
_CHECK_RAD = 0.02
_PATH_TOLERANCE = 1e-3
"""How far (rad, m) the path may be outside the limits, or further outside than just before."""
_SETTLE_S = 2.0


def plan_joint_move(
    start_rad: Array,
    *,
    goal_rad: Array,
    gripper: float,
    measured_gripper: float | None,
    speed_rad_s: float,
    start_ns: int,
    limits: GuardLimits,
) -> Waypoints:
    """Waypoints from ``start_rad`` to ``goal_rad`` (6,) whose fastest joint never exceeds ``speed_rad_s``.

    Raises `MoveRefusedError` when the goal violates the limits, or when the way there leaves them. From a start outside
    the limits only a way that leads back in is allowed.
    """
    violations = pose_violations(goal_rad, limits=limits, gripper=measured_gripper)
    if violations:
        raise MoveRefusedError(f"the goal is outside the limits: {'; '.join(map(str, violations))}")
    _check_way(start_rad, goal_rad=goal_rad, measured_gripper=measured_gripper, limits=limits)
    duration_s = _duration_s(start_rad, goal_rad=goal_rad, speed_rad_s=speed_rad_s, limits=limits)
    shares = np.linspace(0.0, 1.0, ceil(duration_s / _KNOT_S) + 1)[1:]
    t_ns = start_ns + np.round(shares * seconds_to_ns(duration_s)).astype(np.int64)
    return Waypoints(
        t_ns=t_ns,
        joints_rad=start_rad + _profile(shares)[:, None] * (goal_rad - start_rad),
        gripper=np.full(len(t_ns), gripper),
        expiry_ns=int(t_ns[-1]) + seconds_to_ns(_SETTLE_S),
    )


def _profile(shares: Array) -> Array:
    return shares**3 * (10.0 - 15.0 * shares + 6.0 * shares**2)


def _duration_s(start_rad: Array, *, goal_rad: Array, speed_rad_s: float, limits: GuardLimits) -> float:
    distance = float(np.max(np.abs(goal_rad - start_rad)))
    acceleration = _ACCELERATION_SHARE * float(np.min(limits.max_joint_acceleration_rad_s2))
    points = depths(_samples(start_rad, goal_rad), gripper=None, limits=limits).tool_point_m
    # The samples are evenly spaced in joint space: the longest step gives the most metres per unit of the profile.
    steepest_m = float(np.max(np.linalg.norm(np.diff(points, axis=0), axis=1))) * (len(points) - 1)
    return max(
        _SHORTEST_S,
        _PEAK_SPEED * distance / min(speed_rad_s, float(np.min(limits.max_joint_speed_rad_s))),
        sqrt(_PEAK_ACCELERATION * distance / acceleration),
        _PEAK_SPEED * steepest_m / (_TOOL_SPEED_SHARE * limits.max_tcp_speed_m_s),
    )


def _samples(start_rad: Array, goal_rad: Array) -> Array:
    count = max(2, ceil(float(np.max(np.abs(goal_rad - start_rad))) / _CHECK_RAD) + 1)
    return start_rad + np.linspace(0.0, 1.0, count)[:, None] * (goal_rad - start_rad)


def _check_way(start_rad: Array, *, goal_rad: Array, measured_gripper: float | None, limits: GuardLimits) -> None:
    joints = _samples(start_rad, goal_rad)
    outside = depths(joints, gripper=measured_gripper, limits=limits).stacked
    allowed = np.maximum(_PATH_TOLERANCE, np.minimum.accumulate(outside, axis=0)[:-1] + _PATH_TOLERANCE)
    wrong = np.flatnonzero(np.any(outside[1:] > allowed, axis=1))
    if len(wrong) == 0:
        return
    index = int(wrong[0]) + 1
    findings = pose_violations(joints[index], limits=limits, gripper=measured_gripper)
    raise MoveRefusedError(
        f"the way there leaves the limits after {100 * index / (len(joints) - 1):.0f} % of it: "
        f"{'; '.join(map(str, findings))}; go by a posture in between, or bring the arm back by hand guiding"
    )
