"""The DH-Robotics AG-95 gripper over Modbus-RTU, on a serial line or through the arm's tool flange."""

from robot.gripper.ag95 import Ag95, GripperScale, GripperState, WhenHolding
from robot.gripper.errors import GripperError
from robot.gripper.link import ModbusLink

__all__ = ["Ag95", "GripperError", "GripperScale", "GripperState", "ModbusLink", "WhenHolding"]
