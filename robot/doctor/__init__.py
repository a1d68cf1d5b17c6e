"""What is installed, plugged in, calibrated and healthy on a rig; guided recovery; and the first day on a real arm."""

from robot.doctor.check import Check, Status

__all__ = ["Check", "Status"]
