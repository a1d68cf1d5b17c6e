"""What is sent to the arm in each servo period. Pure: no socket, no thread, no clock.

One period: sample the path, take one follower step towards it, check the result, hand out a command. The caller says
afterwards whether it was sent. The set-point is *what was sent last*: a skipped period does not advance it, so the
next one sent is never two steps away. At rest nothing is sent at all: the controller holds by itself, nothing stale can
be executed later, and its queue stays free for settings.
"""

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

from robot.clock import NS_PER_S, seconds_to_ns
from robot.motion.follower import FollowerState, step, stop_step
from robot.motion.guard import check_setpoint
from robot.motion.guard_events import Finding
from robot.motion.limits import GuardLimits
from robot.motion.rotations import Array
from robot.motion.waypoints import Setpoint, Trajectory, Waypoints

RESEED_RAD = 0.02
"""At rest the last set-point is kept when the arm is this close to it, so that holding does not creep; otherwise the
measured posture replaces it."""
MAX_SKIPPED = 5
"""After so many periods in a row without sending, the arm has come to rest: the follower's speed restarts from zero."""
ARRIVED_RAD = 1e-3
ARRIVED_RAD_S = 1e-3


class Activity(IntEnum):
    """What the servo loop is doing."""

    REST = 0
    FOLLOW = 1
    """Following a client's waypoints."""
    MOVE = 2
    """Following the path of a move to a posture, which ends by itself at its goal."""
    BRAKE = 3


class Ending(IntEnum):
    """How motion came to an end."""

    BRAKED = 1
    ARRIVED = 2


@dataclass(frozen=True, eq=False)
class ServoCommand:
    """One period's command: the set-point to send, what was desired of it (None while braking), and why.

    ``gripper`` is the target due, None if the gripper is not to be touched.
    """

    state: FollowerState
    desired: Setpoint | None
    gripper: float | None
    activity: Activity
    findings: tuple[Finding, ...]


class ServoCore:
    """Set-points for one arm. Not thread-safe: its owner holds one lock around every call.

    ``arm_lead_ns`` and ``gripper_lead_ns`` are the devices' calibrated latencies: a waypoint for the time t is
    commanded that much earlier, so that the arm is there at t.
    """

    def __init__(self, limits: GuardLimits, *, period_ns: int, arm_lead_ns: int, gripper_lead_ns: int) -> None:
        self.limits = limits
        self.period_ns = period_ns
        self.activity = Activity.REST
        self.state: FollowerState | None = None
        self._dt_s = period_ns / NS_PER_S
        self._arm_lead_ns = arm_lead_ns
        self._gripper_lead_ns = gripper_lead_ns
        self._trajectory: Trajectory | None = None
        self._goal: Array | None = None
        self._move_limits = limits
        self._source_id = 0
        self._skipped_in_a_row = 0

    @property
    def source_id(self) -> int:
        """The chunk being followed, 0 for none."""
        return self._source_id if self.activity == Activity.FOLLOW else 0

    def path_ns(self, now_ns: int) -> int:
        """The instant of the path that a command sent at ``now_ns`` is for: when the arm will have carried it out."""
        return now_ns + self.period_ns + self._arm_lead_ns

    def waypoints_left(self, now_ns: int) -> int:
        """Waypoints still ahead, 0 when none are followed."""
        if self._trajectory is None or self.activity not in (Activity.FOLLOW, Activity.MOVE):
            return 0
        return self._trajectory.waypoints_left(self.path_ns(now_ns))

    def seed(self, measured_rad: Array) -> Array:
        """Make sure that there is a set-point; returns it (6,). At rest and away from the arm it is set to the arm."""
        if self.state is None or (
            self.activity == Activity.REST and np.max(np.abs(self.state.joints_rad - measured_rad)) > RESEED_RAD
        ):
            self.state = FollowerState.at_rest(measured_rad)
        return self.state.joints_rad

    def follow(self, waypoints: Waypoints, *, now_ns: int, gripper: float) -> int:
        """Follow guarded waypoints; ``gripper`` is its present target. Returns how many were in time."""
        path_ns = self.path_ns(now_ns)
        if self._trajectory is None or self.activity != Activity.FOLLOW:
            path = self._hold_here(gripper=gripper, path_ns=path_ns)
        else:
            path = self._trajectory
        scheduled = path.schedule(waypoints, now_ns=path_ns)
        accepted = len(waypoints) - (scheduled.late_waypoints - path.late_waypoints)
        if accepted > 0:
            self._trajectory, self._goal = scheduled, None
            self.activity = Activity.FOLLOW
        return accepted

    def move(self, waypoints: Waypoints, *, now_ns: int, gripper: float, speed_rad_s: float) -> None:
        """Follow a path of our own to its last waypoint and rest there. No joint exceeds ``speed_rad_s``, not even to
        catch up after missed periods."""
        path_ns = self.path_ns(now_ns)
        slow = np.minimum(self.limits.max_joint_speed_rad_s, speed_rad_s)
        self._move_limits = replace(self.limits, max_joint_speed_rad_s=slow)
        self._trajectory = self._hold_here(gripper=gripper, path_ns=path_ns).schedule(waypoints, now_ns=path_ns)
        self._goal = waypoints.joints_rad[-1]
        self.activity = Activity.MOVE

    def brake(self) -> None:
        """Leave the path and come to rest at maximum deceleration."""
        if self.activity != Activity.REST:
            self.activity = Activity.BRAKE
        self._trajectory = self._goal = None

    def flush(self) -> None:
        """Forget every target and the set-point; nothing more is sent. The next start seeds from the measured arm."""
        self.activity = Activity.REST
        self.state = self._trajectory = self._goal = None

    def plan(self, deadline_ns: int, *, gripper: float | None) -> ServoCommand | None:
        """The command of this period, None at rest. ``gripper`` is its measured position, None if unknown."""
        if self.activity == Activity.REST or self.state is None:
            return None
        findings: tuple[Finding, ...] = ()
        desired = None
        if self._trajectory is not None and self.activity in (Activity.FOLLOW, Activity.MOVE):
            desired = self._trajectory.sample(self.path_ns(deadline_ns))
            if not desired.expired:
                command, findings = self._towards(desired, deadline_ns=deadline_ns, gripper=gripper)
                if command is not None:
                    return command
            self.brake()
        braked = stop_step(self.state, dt_s=self._dt_s, limits=self.limits)
        return ServoCommand(braked, desired=desired, gripper=None, activity=Activity.BRAKE, findings=findings)

    def sent(self, command: ServoCommand, *, deadline_ns: int) -> Ending | None:
        """The command is on its way; returns how the motion ended if this was its last set-point."""
        self.state = command.state
        self._skipped_in_a_row = 0
        if command.activity == Activity.BRAKE:
            return self._finish(Ending.BRAKED) if self.state.is_at_rest else None
        if command.desired is not None and command.desired.source_id:
            self._source_id = command.desired.source_id
        if self._goal is not None and self.waypoints_left(deadline_ns) == 0 and self._is_at(self._goal):
            return self._finish(Ending.ARRIVED)
        return None

    def skipped(self) -> None:
        """The command could not be sent: the set-point stays where it is."""
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row > MAX_SKIPPED and self.state is not None:
            self.state = FollowerState.at_rest(self.state.joints_rad)

    def _hold_here(self, *, gripper: float, path_ns: int) -> Trajectory:
        if self.state is None:
            raise RuntimeError("expected a seeded set-point before motion starts: call seed() first")
        return Trajectory.hold(self.state.joints_rad, gripper=gripper, t_ns=path_ns)

    def _towards(
        self, desired: Setpoint, *, deadline_ns: int, gripper: float | None
    ) -> tuple[ServoCommand | None, tuple[Finding, ...]]:
        assert self.state is not None
        assert self._trajectory is not None
        state = step(
            self.state,
            desired_rad=desired.joints_rad,
            desired_speed_rad_s=desired.speed_rad_s,
            dt_s=self._dt_s,
            limits=self._move_limits if self.activity == Activity.MOVE else self.limits,
        )
        due = self._trajectory.sample(deadline_ns + self._gripper_lead_ns).gripper
        verdict = check_setpoint(
            Setpoint(joints_rad=state.joints_rad, speed_rad_s=state.speed_rad_s, gripper=due),
            previous=Setpoint(joints_rad=self.state.joints_rad, speed_rad_s=self.state.speed_rad_s, gripper=due),
            gripper=gripper,
            dt_s=self._dt_s,
            limits=self.limits,
        )
        if verdict.setpoint is None:
            return None, verdict.findings
        return ServoCommand(state, desired, verdict.setpoint.gripper, self.activity, verdict.findings), verdict.findings

    def _is_at(self, goal: Array) -> bool:
        assert self.state is not None
        near = np.max(np.abs(self.state.joints_rad - goal)) < ARRIVED_RAD
        return bool(near and np.max(np.abs(self.state.speed_rad_s)) < ARRIVED_RAD_S)

    def _finish(self, ending: Ending) -> Ending:
        assert self.state is not None
        self.activity = Activity.REST
        self.state = FollowerState.at_rest(self.state.joints_rad)
        self._trajectory = self._goal = None
        return ending


def servo_period_ns(rate_hz: float) -> int:
    """The period of a servo rate in Hz."""
    return seconds_to_ns(1.0 / rate_hz)
