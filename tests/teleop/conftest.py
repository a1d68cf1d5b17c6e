"""What the teleoperation tests share: the twin's limits, and devices that say what a test tells them to."""

from collections.abc import Callable

import numpy as np
import pytest

from configs.schema import load_rig
from robot.motion.limits import GuardLimits
from teleop.devices import DeviceSample
from teleop.mapping import Command, MappingConfig, TeleopMapper

TICK_NS = 66_666_667


@pytest.fixture(scope="session")
def limits() -> GuardLimits:
    """The twin's limits."""
    return GuardLimits.from_config(load_rig("twin").limits)


@pytest.fixture(scope="session")
def start_rad() -> np.ndarray:
    """The twin's start pose, (6,) rad."""
    return np.array(load_rig("twin").start.joints_rad)


class Driver:
    """An arm that follows every command perfectly, or stands still, driven tick by tick through a mapper."""

    def __init__(self, config: MappingConfig, *, limits: GuardLimits, joints_rad: np.ndarray) -> None:
        self.mapper = TeleopMapper(config, limits=limits)
        self.now_ns = 1_000_000_000
        self.setpoint_rad = joints_rad.copy()
        self.measured_rad = joints_rad.copy()
        self.gripper = 0.0

    def tick(self, sample: DeviceSample | None, *, follows: bool = True) -> Command:
        self.now_ns += TICK_NS
        command = self.mapper.step(
            sample,
            now_ns=self.now_ns,
            dt_s=TICK_NS * 1e-9,
            setpoint_rad=self.setpoint_rad,
            measured_rad=self.measured_rad,
            gripper_target=self.gripper,
        )
        if command.engaged:
            self.gripper = command.gripper
            if follows:
                self.setpoint_rad = self.measured_rad = command.joints_rad
        return command


@pytest.fixture
def driver(limits: GuardLimits, start_rad: np.ndarray) -> Callable[..., Driver]:
    """``driver(config=..., joints_rad=...)`` makes a `Driver` at the start pose."""

    def make(config: MappingConfig | None = None, joints_rad: np.ndarray | None = None) -> Driver:
        return Driver(
            config or MappingConfig(), limits=limits, joints_rad=start_rad if joints_rad is None else joints_rad
        )

    return make
