"""Kinematics, waypoint interpolation and the action guard: pure functions, no I/O.

The way of a command: `check_request` (guard) judges a chunk, `Trajectory` interpolates it, `step` and `stop_step`
(follower) make servo-rate set-points that respect the bounds, `check_setpoint` (guard) is the last line of defence.
"""

from robot.motion.envelope import TOOL_POINT_M, ToolEnvelope
from robot.motion.follower import FollowerState, step, stop_joints_rad, stop_step
from robot.motion.guard import GuardResult, SetpointVerdict, check_request, check_setpoint, check_waypoints
from robot.motion.guard_events import EVENT_INFO, Finding, GuardEvent, Reaction
from robot.motion.inverse_kinematics import damped_step, inverse, nearest_inverse
from robot.motion.kinematics import condition_number, flange_pose, jacobian, link_frames, tool_pose
from robot.motion.limits import GuardLimits
from robot.motion.violations import pose_violations
from robot.motion.waypoints import Setpoint, Trajectory, WaypointError, Waypoints

__all__ = [
    "EVENT_INFO",
    "TOOL_POINT_M",
    "Finding",
    "FollowerState",
    "GuardEvent",
    "GuardLimits",
    "GuardResult",
    "Reaction",
    "Setpoint",
    "SetpointVerdict",
    "ToolEnvelope",
    "Trajectory",
    "WaypointError",
    "Waypoints",
    "check_request",
    "check_setpoint",
    "check_waypoints",
    "condition_number",
    "damped_step",
    "flange_pose",
    "inverse",
    "jacobian",
    "link_frames",
    "nearest_inverse",
    "pose_violations",
    "step",
    "stop_joints_rad",
    "stop_step",
    "tool_pose",
]
