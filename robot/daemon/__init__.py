"""robotd, the one owner of arm and gripper, and its client."""

from robot.daemon.client import RobotClient
from robot.daemon.errors import RobotdError
from robot.daemon.snapshot import RobotState, Status, WaypointReply

__all__ = ["RobotClient", "RobotState", "RobotdError", "Status", "WaypointReply"]
