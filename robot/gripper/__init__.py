"""The DH-Robotics AG-95 gripper over Modbus-RTU."""

from robot.gripper.ag95 import Ag95, GripperScale, GripperState
from robot.gripper.errors import GripperError

__all__ = ["Ag95", "GripperError", "GripperScale", "GripperState"]
