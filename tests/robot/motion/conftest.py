from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from robot.motion import GuardLimits

START_RAD = np.array([0.0, 0.0, -np.pi / 2, 0.0, np.pi / 2, 0.0])


@pytest.fixture(scope="session")
def start_rad() -> np.ndarray:
    """A posture in the middle of the workspace, tool pointing down."""
    return START_RAD.copy()


@pytest.fixture(scope="session")
def make_limits() -> Callable[..., GuardLimits]:
    """Limits like those of a tabletop rig, with some of them changed."""

    def make(**changes: Any) -> GuardLimits:
        values: dict[str, Any] = {
            "joint_lower_rad": [-6.28, -3.14, -2.79, -6.28, -6.28, -6.28],
            "joint_upper_rad": [6.28, 3.14, 2.79, 6.28, 6.28, 6.28],
            "joint_margin_rad": 0.05,
            "max_joint_speed_rad_s": 1.5,
            "max_joint_acceleration_rad_s2": 8.0,
            "max_tcp_speed_m_s": 0.6,
            "max_jump_rad": 0.26,
            "max_jump_m": 0.10,
            "workspace_lower_m": [0.18, -0.40, 0.0],
            "workspace_upper_m": [0.72, 0.40, 0.60],
            "table_height_m": 0.0,
            "table_clearance_m": 0.003,
        }
        return GuardLimits(**(values | changes))

    return make


@pytest.fixture(scope="session")
def limits(make_limits: Callable[..., GuardLimits]) -> GuardLimits:
    return make_limits()
