"""The servo-rate set-point generator: follows a path within speed and acceleration bounds, whatever the path does.

One call of `step` makes one set-point. With state (q, v), period dt, bounds V and A per joint::

    v' = what closes the gap to the path, |v'| <= V, |v' - v| <= A dt,   q' = q + v' dt

so that the finite differences of the set-points sent obey the bounds *exactly*. A path that obeys them itself is
followed without lag. One that does not is caught up with along a braking parabola: the approach speed relative to the
path is the largest from which it can still be shed in whole periods, so a path at rest is never overshot by an arm
that could stop in time. A path that stops dead under a moving arm is overshot by its braking distance, v²/2A; the arm
then returns.

Tool-point speed: when v' would move the tool point faster than the limit, the new speed is taken from the line
between v' and the *braked* speed (v shrunk at maximum deceleration, all joints in proportion, which slows the tool
point by the same factor). Both ends of that line lie inside the acceleration bounds and these are convex, so every
point of it obeys them. The limit therefore holds as long as braking outpaces the change of the Jacobian from one
period to the next; when it does not, the arm brakes as hard as it may.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike

from robot.motion.kinematics import jacobian
from robot.motion.limits import GuardLimits
from robot.motion.nova5 import JOINT_COUNT
from robot.motion.rotations import Array

_APPROACH_SHARE = 0.8
"""Share of the acceleration that the approach parabola uses; the rest follows the path's own acceleration."""
_FAR_RAD = 1e3
"""Gaps are taken as at most this, which keeps absurd targets within float range. Beyond it the law is at top speed
anyway."""


@dataclass(frozen=True, eq=False)
class FollowerState:
    """The set-point sent last: ``joints_rad`` (6,), and its speed ``speed_rad_s`` (6,). Raises `ValueError` unless
    finite."""

    joints_rad: Array
    speed_rad_s: Array

    def __post_init__(self) -> None:
        for name in ("joints_rad", "speed_rad_s"):
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.shape != (JOINT_COUNT,) or not np.all(np.isfinite(values)):
                raise ValueError(f"{name}: expected {JOINT_COUNT} finite numbers, got {values.tolist()}")
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    @classmethod
    def at_rest(cls, joints_rad: ArrayLike) -> "FollowerState":
        """Standing at ``joints_rad`` (6,)."""
        return cls(joints_rad=np.asarray(joints_rad, dtype=np.float64), speed_rad_s=np.zeros(JOINT_COUNT))

    @property
    def is_at_rest(self) -> bool:
        """Every joint's speed is zero."""
        return not np.any(self.speed_rad_s)


def step(
    state: FollowerState,
    *,
    desired_rad: ArrayLike,
    desired_speed_rad_s: ArrayLike,
    dt_s: float,
    limits: GuardLimits,
) -> FollowerState:
    """The next set-point towards a path that will be at ``desired_rad`` (6,) with ``desired_speed_rad_s`` (6,) when
    this period *ends*: sample the path at now + dt. Anything not finite in it is taken for a stop. Raises
    `ValueError` unless ``dt_s`` > 0 s."""
    _check_period(dt_s)
    desired = np.asarray(desired_rad, dtype=np.float64)
    feedforward = np.asarray(desired_speed_rad_s, dtype=np.float64)
    if not (np.all(np.isfinite(desired)) and np.all(np.isfinite(feedforward))):
        return stop_step(state, dt_s=dt_s, limits=limits)
    top_speed, change = limits.max_joint_speed_rad_s, limits.max_joint_acceleration_rad_s2 * dt_s
    feedforward = np.clip(feedforward, -top_speed, top_speed)
    gap = np.clip(desired - feedforward * dt_s - state.joints_rad, -_FAR_RAD, _FAR_RAD)
    closing = np.sign(gap) * _approach_speed(np.abs(gap), dt_s=dt_s, speed_change=_APPROACH_SHARE * change)
    speed = np.clip(feedforward + closing, -top_speed, top_speed)
    speed = np.clip(speed, state.speed_rad_s - change, state.speed_rad_s + change)
    speed = _bound_tool_speed(state, speed=speed, dt_s=dt_s, limits=limits)
    return FollowerState(joints_rad=state.joints_rad + speed * dt_s, speed_rad_s=speed)


def stop_step(state: FollowerState, *, dt_s: float, limits: GuardLimits) -> FollowerState:
    """The next set-point of a stop: the joint that needs longest brakes at its maximum, the others in proportion, so
    that the arm keeps its direction and the tool point only slows down. Raises `ValueError` unless ``dt_s`` > 0 s."""
    _check_period(dt_s)
    speed = state.speed_rad_s * (1.0 - _braking_share(state, dt_s=dt_s, limits=limits))
    return FollowerState(joints_rad=state.joints_rad + speed * dt_s, speed_rad_s=speed)


def stop_joints_rad(state: FollowerState, *, dt_s: float, limits: GuardLimits) -> Array:
    """Where (6,) repeated `stop_step` calls come to rest: the sum of their periods in closed form."""
    share = _braking_share(state, dt_s=dt_s, limits=limits)
    periods = int((1.0 - 1e-12) / share)
    return state.joints_rad + state.speed_rad_s * (dt_s * (periods - share * periods * (periods + 1) / 2))


def _braking_share(state: FollowerState, *, dt_s: float, limits: GuardLimits) -> float:
    """Share in (0, 1] of the speed that one period of maximum braking takes away. As the speed shrinks the share of
    what is left grows: the decrement in rad/s is the same in each period."""
    with np.errstate(divide="ignore", over="ignore"):
        shares = limits.max_joint_acceleration_rad_s2 * dt_s / np.abs(state.speed_rad_s)
    return min(1.0, float(np.min(shares)))


def _approach_speed(gap_rad: Array, *, dt_s: float, speed_change: Array) -> Array:
    """Speed (6,) >= 0 that closes a gap >= 0 in k whole periods, each slower than the one before by ``speed_change``.

    The fastest such motion: k is the smallest number with k (k + 1) / 2 >= gap / (speed_change dt); k = 1 closes it
    at once.
    """
    periods = np.maximum(1.0, np.ceil((np.sqrt(1.0 + 8.0 * gap_rad / (speed_change * dt_s)) - 1.0) / 2.0))
    return gap_rad / (periods * dt_s) + speed_change * (periods - 1.0) / 2.0


def _bound_tool_speed(state: FollowerState, *, speed: Array, dt_s: float, limits: GuardLimits) -> Array:
    """``speed`` (6,), or as much of it as the tool-point limit allows (module docstring)."""
    # At the middle of the step the Jacobian gives the tool point's displacement to second order in dt.
    middle = state.joints_rad + 0.5 * dt_s * speed
    linear = jacobian(middle, point_m=limits.tool_point_m)[:3]
    wanted = linear @ speed
    limit = limits.max_tcp_speed_m_s
    if wanted @ wanted <= limit * limit:
        return speed
    braked = state.speed_rad_s * (1.0 - _braking_share(state, dt_s=dt_s, limits=limits))
    base = linear @ braked
    rest = wanted - base
    # Largest share in [0, 1] with |base + share rest| = limit, a quadratic with a positive root iff |base| < limit.
    a, b, c = float(rest @ rest), 2 * float(base @ rest), float(base @ base) - limit * limit
    if c >= 0.0 or a == 0.0:
        return braked
    share = (-b + sqrt(b * b - 4 * a * c)) / (2 * a)
    return braked + min(1.0, max(0.0, share)) * (speed - braked)


def _check_period(dt_s: float) -> None:
    if not (np.isfinite(dt_s) and dt_s > 0.0):
        raise ValueError(f"dt_s: expected a period > 0 s, got {dt_s}")
