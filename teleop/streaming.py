"""Handing a teleoperation command to robotd, and what became of it."""

from dataclasses import dataclass

import numpy as np

from configs.schema import RigConfig
from robot.clock import NS_PER_S, seconds_to_ns
from robot.daemon import RobotClient
from robot.motion.guard import check_waypoints
from robot.motion.guard_events import GuardEvent
from robot.motion.limits import GuardLimits
from robot.motion.rotations import Array
from robot.motion.waypoints import Waypoints
from robot.ring import Sample
from teleop.mapping import Command

HAND_OVER_NS = 8_000_000
"""Time from the tick until robotd has the waypoints."""
EXPIRY_SLACK_NS = 20_000_000
_BITS = {event.label: 1 << event for event in GuardEvent}


@dataclass(frozen=True, eq=False)
class Sent:
    """``guarded_rad`` (6,) and ``guarded_gripper``: what the guard left of the command, NaN when nothing;
    ``accepted``: robotd follows it; ``target_ns``: when it is to be reached; ``events``: the guard's, by name."""

    guarded_rad: Array
    guarded_gripper: float
    accepted: bool
    target_ns: int
    events: dict[str, int]
    detail: str

    @property
    def event_bits(self) -> int:
        """One bit for each guard event number."""
        return sum(_BITS[name] for name in self.events if name in _BITS)


class CommandStream:
    """Sends each tick's posture and, one period later, where it is heading: then the arm never slows down between
    ticks, and if nothing more comes it has stopped a period later."""

    def __init__(self, robot: RobotClient, *, rig: RigConfig) -> None:
        self._robot = robot
        self._limits = GuardLimits.from_config(rig.limits)
        self._period_ns = round(NS_PER_S / rig.control_rate_hz)
        servo_period_s = 1.0 / rig.arm.servo.rate_hz
        self._lead_ns = self._period_ns + HAND_OVER_NS + seconds_to_ns(servo_period_s + rig.arm.command_latency.seconds)
        self._path_lead_ns = seconds_to_ns(servo_period_s + rig.arm.command_latency.seconds)

    def send(self, command: Command, *, deadline_ns: int, now_ns: int, state: Sample, source_id: int) -> Sent:
        """Offer the command of the tick that was due at ``deadline_ns``. Raises `RobotdError`."""
        target_ns = deadline_ns + self._lead_ns
        waypoints = Waypoints(
            t_ns=np.array([target_ns, target_ns + self._period_ns]),
            joints_rad=np.stack([command.joints_rad, command.heading_rad]),
            gripper=np.full(2, command.gripper),
            expiry_ns=target_ns + self._period_ns + EXPIRY_SLACK_NS,
            source_id=source_id,
        )
        reply = self._robot.send_waypoints(waypoints)
        # The same pure function that robotd has just applied tells what it left of the request.
        result = check_waypoints(
            waypoints,
            present_rad=state.value["setpoint_rad"],
            gripper=float(state.value["gripper"]),
            now_ns=now_ns + self._path_lead_ns,
            limits=self._limits,
        )
        left = result.waypoints
        whole = left is not None and int(left.t_ns[0]) == target_ns
        return Sent(
            guarded_rad=left.joints_rad[0] if left is not None and whole else np.full(6, np.nan),
            guarded_gripper=float(left.gripper[0]) if left is not None and whole else float("nan"),
            accepted=reply.accepted > 0,
            target_ns=target_ns,
            events=reply.events,
            detail=reply.detail,
        )
