"""The state of the simulated controller: power, control mode, alarms, the command queue and what moves.

Knows nothing of sockets or texts: `robot.twin.controller` reads requests and calls this, the physics loop advances it.
Alarm ids and rules: V4.6.5 guide and the vendor's alarm tables.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from robot.arm.protocol import ErrorCode, RobotMode
from robot.motion.kinematics import flange_pose
from robot.motion.rotations import invert_pose, make_pose, rotation_from_rpy
from robot.twin.collision_watch import CollisionWatch
from robot.twin.controller_alarms import alarm_beyond_limits, alarm_of_obstruction
from robot.twin.controller_motion import Jog, Mark, MotionGenerator, MotionKind
from robot.twin.controller_paths import Path
from robot.twin.controller_settings import (
    Alarm,
    ControllerOptions,
    Firmware,
    MotionRatios,
    Power,
    Script,
    Settings,
    Terminals,
)
from robot.twin.servo_filter import ServoPoint

MAX_QUEUED = 64
MOTION_STEPS = 4
"""Joint targets are computed this often while the controller looks at its queue, power and contacts once."""
AT_REST_RAD_S = 1e-3
_IDENTITY = np.eye(4)
_AFTER = {Power.INIT: Power.OFF, Power.SWITCHING_ON: Power.DISABLED, Power.ENABLING: Power.ENABLED}


class QueueKind(Enum):
    """Servo points replace each other, moves run one at a time, settings take no time."""

    SETTING = auto()
    MOVE = auto()
    SERVO = auto()


@dataclass(frozen=True)
class QueueItem:
    """One queued command and what starting it does."""

    kind: QueueKind
    begin: Callable[[], None]


class ControllerCore:
    """One simulated controller. Not thread-safe by itself: its owner holds one lock around every call."""

    def __init__(self, options: ControllerOptions, *, joints_rad: np.ndarray) -> None:
        self.options = options
        self.settings = Settings()
        self.firmware = Firmware()
        self.terminals = Terminals()
        self.ratios = MotionRatios()
        self.script = Script.NONE
        self.export_status = 0
        self.motion = MotionGenerator(joints_rad)
        self.power = Power.INIT
        self.tcp_mode = options.tcp_mode
        self.alarms: list[int] = []
        self.software_stop = False
        """`EmergencyStop(1)` was asked for and `EmergencyStop(0)` not yet."""
        self.stop_button = False
        """The emergency stop button is down; only a hand that turns it gets it up again."""
        self.collided = False
        self.measured_rad = np.array(joints_rad, dtype=np.float64)
        self.current_command_id = 0
        self.uptime_s = 0.0
        self._last_command_id = 0
        self._queue: deque[tuple[int, QueueItem]] = deque()
        self._transition_left_s = options.boot_s
        self._watch = CollisionWatch()
        self._single_move = False

    # What the outside may ask

    @property
    def estop_pressed(self) -> bool:
        """Whether an emergency stop holds, the button's or the software's."""
        return self.stop_button or self.software_stop

    @property
    def mode(self) -> RobotMode:
        """``robot_mode``; an error wins over everything."""
        if self.alarms or self.estop_pressed:
            return RobotMode.ERROR
        if self.collided:
            return RobotMode.COLLISION
        match self.power:
            case Power.INIT:
                return RobotMode.INIT
            case Power.OFF | Power.SWITCHING_ON:
                return RobotMode.POWEROFF
            case Power.DISABLED | Power.ENABLING:
                return RobotMode.BRAKE_OPEN if self.motion.loose.any() else RobotMode.DISABLED
            case Power.ENABLED:
                return self._enabled_mode()

    def _enabled_mode(self) -> RobotMode:
        if self.motion.kind is MotionKind.DRAGGING:
            return RobotMode.BACKDRIVE
        if self.motion.paused or self.script is Script.PAUSED:
            return RobotMode.PAUSE
        if self.motion.kind is MotionKind.JOGGING or (self._single_move and self.motion.kind is MotionKind.MOVING):
            return RobotMode.SINGLE_MOVE
        runs = self.motion.busy or self._queue or self.script is Script.RUNNING
        return RobotMode.RUNNING if runs else RobotMode.ENABLE

    @property
    def enabled(self) -> bool:
        return self.power is Power.ENABLED

    @property
    def servo_idle(self) -> bool:
        """True when nothing moves and nothing waits to."""
        return not self.motion.busy and not self._queue and self.motion.kind is not MotionKind.DRAGGING

    @property
    def at_rest(self) -> bool:
        """True while the arm is not told to move, be it that a stream keeps telling it where it is."""
        moves = self.motion.kind in (MotionKind.MOVING, MotionKind.JOGGING)
        return float(np.abs(self.motion.speed).max()) < AT_REST_RAD_S and not moves

    def user_frame(self, index: int | None = None) -> np.ndarray:
        """Pose (4, 4) in the base frame of a user frame, the active one if None; 0 is the base."""
        return self.settings.users.get(self.settings.user if index is None else index, _IDENTITY)

    def tool_frame(self, index: int | None = None) -> np.ndarray:
        """Pose (4, 4) in the flange frame of a tool, the active one if None; 0 is the flange."""
        return self.settings.tools.get(self.settings.tool if index is None else index, _IDENTITY)

    def tool_pose(self, joints_rad: np.ndarray, *, user: int | None = None, tool: int | None = None) -> np.ndarray:
        """Pose (4, 4) of a tool in a user frame."""
        return invert_pose(self.user_frame(user)) @ flange_pose(joints_rad) @ self.tool_frame(tool)

    # What requests do

    def power_on(self) -> int:
        if self.power is Power.OFF:
            self._begin_transition(Power.SWITCHING_ON, self.options.power_on_s)
        return ErrorCode.FAILED if self.power is Power.INIT else ErrorCode.OK

    def enable(self) -> int:
        if self.power is Power.DISABLED:
            self.motion.close_brakes()
            self._begin_transition(Power.ENABLING, self.options.enable_s)
        return ErrorCode.OK

    def disable(self) -> int:
        self._flush_and_brake()
        self._disable()
        return ErrorCode.OK

    def request_control(self) -> int:
        """Switch to TCP mode; only while powered off or disabled, and harmless when it is on already."""
        if not self.tcp_mode and (self.power not in (Power.OFF, Power.DISABLED) or self.motion.loose.any()):
            return ErrorCode.FAILED
        self.tcp_mode = True
        return ErrorCode.OK

    def leave_tcp_mode(self) -> None:
        """Somebody took the control mode away, say at the pendant: what this TCP session has set is gone."""
        self.tcp_mode = False
        self.settings = self.settings.after_session()
        self.set_speed_factor(self.settings.speed_factor_percent)

    def emergency_stop(self, *, pressed: bool) -> int:
        """The software stop. Pressed: disables the arm and latches an alarm. Released: `clear_error` can clear it. A
        button that is down stays down."""
        self.software_stop = pressed
        if pressed:
            self._stop_at_once(Alarm.SOFTWARE_ESTOP)
        return ErrorCode.OK

    def press_button(self, *, pressed: bool) -> None:
        """A hand presses the emergency stop button, or turns it so that it comes up again: no command does that."""
        self.stop_button = pressed
        if pressed:
            self._stop_at_once(Alarm.ESTOP_BUTTON)

    def release_brake(self, joint: int, *, released: bool) -> int:
        """Open or close the brake of one joint (from 0); only while the drives are off."""
        if self.power is not Power.DISABLED:
            return ErrorCode.FAILED
        self.motion.loosen(joint, released=released)
        return ErrorCode.OK

    def raise_alarm(self, alarm_id: int) -> None:
        """Latch an alarm: what moves stops, what is queued is gone."""
        if alarm_id not in self.alarms:
            self.alarms.append(int(alarm_id))
        self._flush_and_brake()

    def collide(self) -> None:
        """Stop as at a contact above the collision level; latched until `clear_error`."""
        self.collided = True
        self._flush_and_brake()

    def clear_error(self) -> int:
        """Clear alarms and the collision; those of a stop that is pressed stay. The mode tells what came of it."""
        held = {int(Alarm.SOFTWARE_ESTOP): self.software_stop, int(Alarm.ESTOP_BUTTON): self.stop_button}
        self.alarms[:] = [alarm_id for alarm_id in self.alarms if held.get(alarm_id, False)]
        self.collided = False
        self._watch.forget()
        return ErrorCode.OK

    def stop(self) -> int:
        self._flush_and_brake()
        return ErrorCode.OK

    def pause(self) -> int:
        if self.script is Script.RUNNING:
            self.script = Script.PAUSED
        elif not self.motion.busy and not self._queue:
            return ErrorCode.FAILED
        self.motion.paused = True
        return ErrorCode.OK

    def resume(self) -> int:
        if not self.motion.paused:
            return ErrorCode.FAILED
        if self.script is Script.PAUSED:
            self.script = Script.RUNNING
        self.motion.paused = False
        return ErrorCode.OK

    def run_script(self) -> int:
        if not self.servo_idle or self.script is not Script.NONE:
            return ErrorCode.FAILED
        self.script = Script.RUNNING
        return ErrorCode.OK

    def start_drag(self) -> int:
        if not self.servo_idle:
            return ErrorCode.FAILED
        self.motion.drag()
        return ErrorCode.OK

    def seize_for_drag(self) -> None:
        """Hand guiding is switched on at the pendant, whatever a program is doing."""
        self._flush_and_brake()
        self.motion.drag()

    def stop_drag(self) -> int:
        if self.motion.kind is MotionKind.DRAGGING:
            self.motion.hold_at(self.measured_rad)
        return ErrorCode.OK

    def start_jog(self, jog: Jog) -> int:
        if not self.servo_idle and self.motion.kind is not MotionKind.JOGGING:
            return ErrorCode.FAILED
        self.motion.jog(jog)
        return ErrorCode.OK

    def stop_jog(self) -> int:
        if self.motion.kind is MotionKind.JOGGING:
            self.motion.brake()
        return ErrorCode.OK

    def set_speed_factor(self, percent: int) -> None:
        self.settings.speed_factor_percent = percent
        self.motion.speed_factor = percent / 100.0

    def enqueue(self, item: QueueItem) -> int | None:
        """Queue a command and give its id; None when the queue is full."""
        if len(self._queue) >= MAX_QUEUED:
            return None
        self._last_command_id += 1
        self._queue.append((self._last_command_id, item))
        return self._last_command_id

    def run_to(self, path: Path, *, goal_rad: np.ndarray) -> int:
        """Start a single move past the queue; only at rest."""
        if not self.servo_idle:
            return ErrorCode.FAILED
        self.begin_move(path, goal_rad=goal_rad)
        self._single_move = True
        return ErrorCode.OK

    def begin_move(self, path: Path, *, goal_rad: np.ndarray, marks: Sequence[Mark] = ()) -> None:
        """Start a move, or raise the limit alarm that its goal (6,) deserves."""
        self._single_move = False
        settings = self.settings
        self.ratios = MotionRatios(
            velocity=settings.velocity_percent,
            acceleration=settings.acceleration_percent,
            linear_velocity=settings.linear_velocity_percent,
            linear_acceleration=settings.linear_acceleration_percent,
        )
        if not self._alarm_if_outside(goal_rad):
            self.motion.move_along(path, marks=marks)

    def begin_servo(self, point: ServoPoint) -> None:
        """Hand a servo point to the follower, or raise the limit alarm that it deserves."""
        if not self._alarm_if_outside(point.target):
            self.motion.servo_to(point)

    # What time does

    def advance(self, dt_s: float, *, measured_rad: np.ndarray, contact_force_n: float) -> np.ndarray:
        """Joint targets (6,) rad ``dt_s`` later, from the arm's joints (6,) and the force of contacts on it."""
        self.uptime_s += dt_s
        self.measured_rad = measured_rad
        self._advance_power(dt_s)
        self._watch_collision(dt_s, contact_force_n=contact_force_n)
        self._start_queued()
        for _ in range(MOTION_STEPS):
            target = self.motion.advance(dt_s / MOTION_STEPS, measured=measured_rad)
        obstruction = self.motion.obstruction
        if obstruction is not None:
            self.raise_alarm(alarm_of_obstruction(obstruction, motion=self.motion))
        return target

    def relocate(self, joints_rad: np.ndarray) -> None:
        """The arm was put elsewhere from outside the simulation of time: stand there."""
        self._queue.clear()
        self.measured_rad = np.array(joints_rad, dtype=np.float64)
        self.motion.hold_at(joints_rad)

    def _begin_transition(self, power: Power, duration_s: float) -> None:
        self.power = power
        self._transition_left_s = duration_s

    def _advance_power(self, dt_s: float) -> None:
        if self.power not in _AFTER:
            return
        self._transition_left_s -= dt_s
        if self._transition_left_s <= 0.0:
            self.power = _AFTER[self.power]
            if self.power is Power.ENABLED and not self.motion.busy:
                self.motion.hold_at(self.measured_rad)

    def _watch_collision(self, dt_s: float, *, contact_force_n: float) -> None:
        if not self.enabled or self.motion.kind is MotionKind.DRAGGING:
            self._watch.forget()
            return
        if self._watch.feels(contact_force_n, dt_s=dt_s, level=self.settings.collision_level) and not self.collided:
            self.collide()

    def _start_queued(self) -> None:
        while self._queue and not self.motion.paused:
            command_id, item = self._queue[0]
            servo_goes_on = item.kind is QueueKind.SERVO and self.motion.kind is MotionKind.SERVOING
            if self.motion.busy and not servo_goes_on:
                return
            self._queue.popleft()
            self.current_command_id = command_id
            item.begin()

    def _alarm_if_outside(self, joints_rad: np.ndarray) -> bool:
        alarm = alarm_beyond_limits(joints_rad)
        if alarm is None:
            return False
        self.raise_alarm(alarm)
        return True

    def _stop_at_once(self, alarm: Alarm) -> None:
        self.raise_alarm(alarm)
        self._disable()

    def _flush_and_brake(self) -> None:
        self._queue.clear()
        self.script = Script.NONE
        self.motion.paused = False
        self.motion.brake()

    def _disable(self) -> None:
        if self.power in (Power.ENABLED, Power.ENABLING):
            self.power = Power.DISABLED


def frame_from_wire(vector: tuple[float, ...]) -> np.ndarray:
    """Pose (4, 4) in metres from ``{x,y,z,rx,ry,rz}`` in mm and degrees, R = Rz(rz) Ry(ry) Rx(rx)."""
    position_m = np.array(vector[:3]) * 1e-3
    return make_pose(position_m, rotation=rotation_from_rpy(np.radians(vector[3:])))
