"""The Dobot V4 wires: protocol, dashboard client, feedback reader, and the table of what the controller can refuse."""

from robot.arm.dashboard import DashboardClient
from robot.arm.errors import ArmError
from robot.arm.feedback import ArmFeedback, FeedbackReader

__all__ = ["ArmError", "ArmFeedback", "DashboardClient", "FeedbackReader"]
