"""Small servo streams on one joint, and what the arm does when they end: the vendor's documents do not say.

All of them turn joint 6 (nothing but the gripper turns with it) by a few degrees at `TRIAL_SPEED_RAD_S`.
"""

from dataclasses import dataclass
from math import ceil, cos, pi

import numpy as np

from robot.arm.feedback import ArmFeedback
from robot.clock import NS_PER_S, MonotonicClock, Ticker, seconds_to_ns
from robot.doctor.session import ArmSession, SessionError

JOINT = 5
TRIAL_SPEED_RAD_S = 0.1
RAMP_S = 0.3
STILL_RAD_S = 0.003
STILL_S = 0.25
END_TIMEOUT_S = 5.0
MAX_REPLY_AGE_S = 0.2


@dataclass(frozen=True)
class Streamed:
    """What was sent: the last set-point (6,) rad and when (monotonic ns), how many were sent, skipped and refused."""

    last_rad: np.ndarray
    last_ns: int
    sent: int
    skipped: int
    refused_with: int | None
    oldest_reply_s: float

    @property
    def is_clean(self) -> bool:
        """Whether the controller kept up."""
        return self.skipped == 0 and self.refused_with is None and self.oldest_reply_s < MAX_REPLY_AGE_S


@dataclass(frozen=True)
class End:
    """How a stream ended at the arm: how far beyond the last set-point (rad), and how long until it stood (s)."""

    overshoot_rad: float
    settle_s: float
    mode: int


def constant_speed(start_rad: np.ndarray, *, seconds: float, rate_hz: float) -> np.ndarray:
    """Set-points (n, 6) that ramp up to `TRIAL_SPEED_RAD_S` and end abruptly at it."""
    t_s = np.arange(1, ceil(seconds * rate_hz) + 1) / rate_hz
    ramped = np.minimum(t_s, RAMP_S)
    travelled = TRIAL_SPEED_RAD_S * (ramped**2 / (2 * RAMP_S) + np.maximum(0.0, t_s - RAMP_S))
    return _turned(start_rad, travelled)


def there_and_back(start_rad: np.ndarray, *, seconds: float, rate_hz: float) -> np.ndarray:
    """Set-points (n, 6) that leave ``start_rad`` smoothly and come back to rest on it."""
    shares = np.arange(1, ceil(seconds * rate_hz) + 1) / ceil(seconds * rate_hz)
    amplitude = TRIAL_SPEED_RAD_S * seconds / pi / 2
    return _turned(start_rad, np.array([amplitude * (1 - cos(2 * pi * share)) for share in shares]))


def back_to(start_rad: np.ndarray, *, present_rad: np.ndarray, rate_hz: float) -> np.ndarray:
    """Set-points (n, 6) that bring the arm smoothly from ``present_rad`` to ``start_rad``."""
    distance = start_rad - present_rad
    seconds = max(0.5, float(np.abs(distance).max()) * pi / 2 / TRIAL_SPEED_RAD_S)
    count = ceil(seconds * rate_hz)
    shares = np.array([0.5 * (1 - cos(pi * k / count)) for k in range(1, count + 1)])
    return present_rad + shares[:, None] * distance


def stream(session: ArmSession, setpoints_rad: np.ndarray, *, rate_hz: float) -> Streamed:
    """Send the set-points at a fixed rate and stop sending."""
    dashboard, servo = session.dashboard, session.rig.arm.servo
    ticker = Ticker(seconds_to_ns(1.0 / rate_hz), MonotonicClock())
    sent = skipped = oldest_ns = 0
    last_ns = ticker.wait()
    dashboard.take_servo_error()  # of an earlier stream
    last, refused = setpoints_rad[0], None
    for setpoint in setpoints_rad:
        now_ns = ticker.wait()
        if dashboard.servo_j(setpoint.tolist(), t_s=1.0 / rate_hz, aheadtime=servo.aheadtime, gain=servo.gain):
            sent, last, last_ns = sent + 1, setpoint, now_ns
        else:
            skipped += 1
        oldest_ns = max(oldest_ns, dashboard.silent_servo_ns(now_ns))
        refused = dashboard.take_servo_error() if refused is None else refused
        if refused is not None:
            break
    return Streamed(last, last_ns, sent, skipped, refused, oldest_ns / NS_PER_S)


def watch_end(session: ArmSession, streamed: Streamed, *, start_rad: np.ndarray) -> End:
    """What the arm does after the last set-point; `SessionError` when it does not come to rest."""
    still_since_ns: int | None = None

    def is_still(packet: ArmFeedback) -> bool:
        nonlocal still_since_ns
        if float(np.abs(packet.joint_speed_rad_s).max()) > STILL_RAD_S:
            still_since_ns = None
        elif still_since_ns is None:
            still_since_ns = packet.receive_ns
        return still_since_ns is not None and packet.receive_ns - still_since_ns > STILL_S * NS_PER_S

    final = session.wait_for(is_still, timeout_s=END_TIMEOUT_S, what="an arm that comes to rest by itself")
    assert still_since_ns is not None
    direction = np.sign(streamed.last_rad[JOINT] - start_rad[JOINT])
    return End(
        overshoot_rad=float(direction * (final.joints_rad[JOINT] - streamed.last_rad[JOINT])),
        settle_s=max(0.0, (still_since_ns - streamed.last_ns) / NS_PER_S),
        mode=final.robot_mode,
    )


def require_accepted(streamed: Streamed) -> None:
    """`SessionError` when the controller refused a set-point."""
    if streamed.refused_with is not None:
        raise SessionError(f"the controller refused a set-point with {streamed.refused_with}")


def _turned(start_rad: np.ndarray, travelled_rad: np.ndarray) -> np.ndarray:
    setpoints = np.tile(start_rad, (len(travelled_rad), 1))
    # Towards the middle of the joint's range, so that a start near a limit is no problem.
    setpoints[:, JOINT] += (-1.0 if start_rad[JOINT] > 0.0 else 1.0) * travelled_rad
    return setpoints
