"""Operator devices behind one protocol: keyboard, browser, gamepad, SpaceMouse, leader arm, the twin's expert."""

from teleop.devices.device import (
    Button,
    Device,
    DeviceError,
    DeviceSample,
    EpisodeAware,
    JointMotion,
    PoseMotion,
    RateMotion,
)
from teleop.devices.factory import DeviceKind, open_device

__all__ = [
    "Button",
    "Device",
    "DeviceError",
    "DeviceKind",
    "DeviceSample",
    "EpisodeAware",
    "JointMotion",
    "PoseMotion",
    "RateMotion",
    "open_device",
]
