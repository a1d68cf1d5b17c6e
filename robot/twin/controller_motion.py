"""What the simulated controller commands its joints: hold, brake, point-to-point moves, the ServoJ follower, dragging.

One `MotionGenerator` belongs to one controller; it is advanced at the physics rate and gives joint targets in rad.
"""

from dataclasses import dataclass
from enum import Enum, auto
from math import radians, sqrt

import numpy as np

from robot.motion.nova5 import MAX_JOINT_SPEED_RAD_S
from robot.twin import servo_filter
from robot.twin.servo_filter import ServoPoint, ServoState

MAX_JOINT_ACCELERATION_RAD_S2 = radians(300.0)
"""What 100 % of ``AccJ`` means here; the vendor publishes no figure."""
BRAKE_RAD_S2 = 20.0
"""Deceleration of every stop: Stop, Pause is gentler, alarms, collisions, disabling."""
PACE_CHANGE_PER_S = 5.0
"""How fast a move takes up a new SpeedFactor or a pause, as a share of its speed per second."""


class MotionKind(Enum):
    """What the generator is doing."""

    HOLDING = auto()
    BRAKING = auto()
    MOVING = auto()
    SERVOING = auto()
    DRAGGING = auto()


@dataclass(frozen=True)
class JointMove:
    """A synchronized straight joint move with a trapezoidal speed profile along its longest joint."""

    start: np.ndarray
    goal: np.ndarray
    max_speed_rad_s: float
    max_acceleration_rad_s2: float

    @property
    def distance_rad(self) -> float:
        """Way of the joint that goes farthest."""
        return float(np.abs(self.goal - self.start).max())

    @property
    def ramp_s(self) -> float:
        """Duration of the acceleration, and of the deceleration."""
        full = self.max_speed_rad_s / self.max_acceleration_rad_s2
        return min(full, sqrt(self.distance_rad / self.max_acceleration_rad_s2))

    @property
    def duration_s(self) -> float:
        """Whole duration at full pace."""
        peak = self.ramp_s * self.max_acceleration_rad_s2
        return self.ramp_s + (self.distance_rad / peak if peak > 0.0 else 0.0)

    def position(self, elapsed_s: float) -> np.ndarray:
        """Joints (6,) after ``elapsed_s`` at full pace."""
        if elapsed_s >= self.duration_s:
            return self.goal
        remaining_s = self.duration_s - elapsed_s
        if elapsed_s < self.ramp_s:
            way = 0.5 * self.max_acceleration_rad_s2 * elapsed_s**2
        elif remaining_s < self.ramp_s:
            way = self.distance_rad - 0.5 * self.max_acceleration_rad_s2 * remaining_s**2
        else:
            way = self.ramp_s * self.max_acceleration_rad_s2 * (elapsed_s - 0.5 * self.ramp_s)
        return self.start + (self.goal - self.start) * (way / self.distance_rad)


class MotionGenerator:
    """Joint targets over time; ``position``, ``speed`` and ``acceleration`` (6,) are what the arm is told to do now."""

    def __init__(self, position: np.ndarray) -> None:
        self.kind = MotionKind.HOLDING
        self.position = np.array(position, dtype=np.float64)
        self.speed = np.zeros(6)
        self.acceleration = np.zeros(6)
        self.paused = False
        self.speed_factor = 1.0
        self._pace = 1.0
        self._move = JointMove(self.position, self.position, MAX_JOINT_SPEED_RAD_S, MAX_JOINT_ACCELERATION_RAD_S2)
        self._elapsed_s = 0.0
        self._servo: ServoState = servo_filter.start(self.position)

    @property
    def busy(self) -> bool:
        """True while the targets move, or will by themselves."""
        return self.kind in (MotionKind.BRAKING, MotionKind.MOVING, MotionKind.SERVOING)

    @property
    def overspeed_joint(self) -> int | None:
        """Index of a joint that the ServoJ stream drives beyond its speed limit for too long."""
        return self._servo.overspeed_joint if self.kind is MotionKind.SERVOING else None

    def hold_at(self, position: np.ndarray) -> None:
        """Stand at ``position`` from now on, as when the brakes close there."""
        self.kind = MotionKind.HOLDING
        self.position = np.array(position, dtype=np.float64)
        self.speed = np.zeros(6)
        self.acceleration = np.zeros(6)

    def move_to(self, goal: np.ndarray, *, speed_rad_s: float, acceleration_rad_s2: float) -> None:
        """Start a point-to-point move from the present target, which must be at rest."""
        self._move = JointMove(self.position, np.asarray(goal, dtype=np.float64), speed_rad_s, acceleration_rad_s2)
        self._elapsed_s = 0.0
        self._pace = self.speed_factor
        self.kind = MotionKind.MOVING

    def servo_to(self, point: ServoPoint) -> None:
        """Give the ServoJ follower a new point; the first one starts it."""
        if self.kind is not MotionKind.SERVOING:
            self._servo = servo_filter.start(self.position, speed=self.speed)
            self.kind = MotionKind.SERVOING
        self._servo = servo_filter.retarget(self._servo, point)

    def brake(self) -> None:
        """Decelerate along the present direction and hold where that ends."""
        if self.kind is not MotionKind.HOLDING:
            self.kind = MotionKind.BRAKING

    def drag(self) -> None:
        """Let the targets follow the arm, so that it can be led by hand."""
        self.kind = MotionKind.DRAGGING

    def advance(self, dt_s: float, *, measured: np.ndarray) -> np.ndarray:
        """The joint targets (6,) ``dt_s`` later; ``measured`` (6,) is followed while dragging."""
        previous_position, previous_speed = self.position, self.speed
        match self.kind:
            case MotionKind.HOLDING:
                return self.position
            case MotionKind.DRAGGING:
                self.position = np.array(measured, dtype=np.float64)
            case MotionKind.BRAKING:
                self._advance_braking(dt_s)
            case MotionKind.MOVING:
                self._advance_move(dt_s)
            case MotionKind.SERVOING:
                if self.paused:
                    self._advance_braking(dt_s)
                else:
                    self._advance_servo(dt_s)
        if self.kind is not MotionKind.HOLDING:
            self.speed = (self.position - previous_position) / dt_s
        self.acceleration = (self.speed - previous_speed) / dt_s
        return self.position

    def _advance_braking(self, dt_s: float) -> None:
        fastest = float(np.abs(self.speed).max())
        drop = BRAKE_RAD_S2 * dt_s
        if fastest <= drop:
            self.hold_at(self.position)
            return
        self.position = self.position + dt_s * self.speed * (1.0 - drop / fastest)

    def _advance_move(self, dt_s: float) -> None:
        wanted = 0.0 if self.paused else self.speed_factor
        change = PACE_CHANGE_PER_S * dt_s
        self._pace += min(max(wanted - self._pace, -change), change)
        self._elapsed_s += self._pace * dt_s
        self.position = self._move.position(self._elapsed_s)
        if self._elapsed_s >= self._move.duration_s:
            self.hold_at(self._move.goal)

    def _advance_servo(self, dt_s: float) -> None:
        self._servo = servo_filter.step(self._servo, dt_s=dt_s)
        self.position = self._servo.position
        if self._servo.settled:
            self.hold_at(self.position)
