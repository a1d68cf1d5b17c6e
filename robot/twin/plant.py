"""What the simulated controller and gripper need of the physics behind them, SI units."""

from typing import Protocol

import numpy as np

PHYSICS_STEP_S = 0.002
SLICE_STEPS = 4
SLICE_S = PHYSICS_STEP_S * SLICE_STEPS
"""One feedback period: the wires look at the physics once per slice."""


class Plant(Protocol):
    """An arm with a parallel gripper. Vectors are (6,) float64."""

    @property
    def joints_rad(self) -> np.ndarray: ...

    @property
    def joint_speed_rad_s(self) -> np.ndarray: ...

    @property
    def joint_torque_nm(self) -> np.ndarray: ...

    @property
    def external_torque_nm(self) -> np.ndarray:
        """What everything outside that touches the arm does to its joints."""
        ...

    @property
    def contact_force_n(self) -> float:
        """Force of everything outside that touches the arm or the gripper; what the jaws squeeze cancels out."""
        ...

    @property
    def gripper_opening_m(self) -> float: ...

    def set_gripper_target(self, opening_m: float, *, force_n: float) -> None: ...

    def step_towards(self, joints_rad: np.ndarray, *, steps: int) -> None:
        """Advance by ``steps`` of `PHYSICS_STEP_S` while the joint set-points go straight to ``joints_rad``."""
        ...
