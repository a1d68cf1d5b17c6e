"""How the twin follows ServoJ: a model, *unverified on hardware*.

The vendor documents only the parameters: ``t`` is the time for the point (default 0.1 s), ``gain`` acts like P and
``aheadtime`` like D, larger gain and smaller aheadtime follow faster and may shake, joint speed limits apply and
SpeedFactor does not (V4.6.5 guide, ServoJ). The model made of that:

* A new point replaces the one before. A reference runs from where it is to the new point in ``t`` seconds, straight,
  and stays there: when the stream ends the arm reaches the last point and holds.
* The commanded joints follow the reference as x'' = kp (r - x) - kd x' with kp = w^2 gain/500, kd = 2 w aheadtime/50
  and w = 100 rad/s: critically damped at the defaults, 20 ms behind a steady motion.
* The speed of each joint is clamped; wanting clearly more for `OVERSPEED_AFTER_S` is an overspeed.

All functions are pure; vectors are (6,) float64, rad and rad/s.
"""

from dataclasses import dataclass, replace

import numpy as np

from robot.motion.nova5 import MAX_JOINT_SPEED_RAD_S

NATURAL_FREQUENCY_RAD_S = 100.0
DEFAULT_TIME_S = 0.1
DEFAULT_AHEADTIME = 50.0
DEFAULT_GAIN = 500.0
OVERSPEED_MARGIN = 1.05
OVERSPEED_AFTER_S = 0.1
_SETTLED_RAD = 1e-6
_STILL = np.zeros(6)
_SETTLED_RAD_S = 1e-4


@dataclass(frozen=True)
class ServoPoint:
    """One ServoJ command: ``target`` (6,) rad, to be reached by the reference in ``time_s``."""

    target: np.ndarray
    time_s: float = DEFAULT_TIME_S
    aheadtime: float = DEFAULT_AHEADTIME
    gain: float = DEFAULT_GAIN


@dataclass(frozen=True)
class ServoState:
    """The follower between two steps: commanded position and speed, the reference, and how long each joint asked for
    more than its speed limit (s)."""

    position: np.ndarray
    speed: np.ndarray
    reference: np.ndarray
    point: ServoPoint
    time_left_s: float
    overspeed_s: np.ndarray

    @property
    def settled(self) -> bool:
        """True once the last point is reached and the arm stands on it."""
        return (
            self.time_left_s <= 0.0
            and float(np.abs(self.position - self.point.target).max()) < _SETTLED_RAD
            and float(np.abs(self.speed).max()) < _SETTLED_RAD_S
        )

    @property
    def overspeed_joint(self) -> int | None:
        """Index of a joint that wanted too much speed for too long."""
        if self.overspeed_s is _STILL:
            return None
        worst = int(self.overspeed_s.argmax())
        return worst if self.overspeed_s[worst] >= OVERSPEED_AFTER_S else None


def start(position: np.ndarray, *, speed: np.ndarray | None = None) -> ServoState:
    """A follower that stands at ``position``, or moves through it with ``speed``."""
    at = np.array(position, dtype=np.float64)
    moving = np.zeros(6) if speed is None else np.array(speed, dtype=np.float64)
    return ServoState(
        position=at, speed=moving, reference=at, point=ServoPoint(at), time_left_s=0.0, overspeed_s=np.zeros(6)
    )


def retarget(state: ServoState, point: ServoPoint) -> ServoState:
    """Take a new point; the reference leaves from where it is."""
    return replace(state, point=point, time_left_s=point.time_s)


def step(state: ServoState, *, dt_s: float, max_speed_rad_s: float = MAX_JOINT_SPEED_RAD_S) -> ServoState:
    """The follower ``dt_s`` later; implicit integration, so it is stable for any dt and any allowed gains."""
    point = state.point
    if state.time_left_s > dt_s:
        reference = state.reference + (point.target - state.reference) * (dt_s / state.time_left_s)
        time_left_s = state.time_left_s - dt_s
    else:
        reference, time_left_s = point.target, 0.0
    stiffness = NATURAL_FREQUENCY_RAD_S**2 * point.gain / DEFAULT_GAIN
    damping = 2.0 * NATURAL_FREQUENCY_RAD_S * point.aheadtime / DEFAULT_AHEADTIME
    pull = dt_s * stiffness
    wanted = (state.speed + pull * (reference - state.position)) / (1.0 + dt_s * damping + dt_s * pull)
    overspeed_s = _STILL
    speed = wanted
    # Seldom needed, and most of the time of this function otherwise.
    if max(abs(joint) for joint in wanted.tolist()) > max_speed_rad_s:
        speed = np.clip(wanted, -max_speed_rad_s, max_speed_rad_s)
        too_fast = np.abs(wanted) > max_speed_rad_s * OVERSPEED_MARGIN
        overspeed_s = np.where(too_fast, state.overspeed_s + dt_s, 0.0)
    following = ServoState(
        position=state.position + dt_s * speed,
        speed=speed,
        reference=reference,
        point=point,
        time_left_s=time_left_s,
        overspeed_s=overspeed_s,
    )
    if following.settled:
        return replace(following, position=point.target, speed=np.zeros(6))
    return following
