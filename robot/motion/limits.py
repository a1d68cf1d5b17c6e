"""What motion is allowed: one value, built from the rig's YAML, that the follower and the guard read."""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Self

import numpy as np

from robot.motion.envelope import TOOL_POINT_M, ToolEnvelope
from robot.motion.nova5 import JOINT_COUNT
from robot.motion.rotations import Array

if TYPE_CHECKING:
    from configs.schema import LimitsConfig

_SHAPES: dict[str, tuple[int, ...]] = {
    "joint_lower_rad": (JOINT_COUNT,),
    "joint_upper_rad": (JOINT_COUNT,),
    "max_joint_speed_rad_s": (JOINT_COUNT,),
    "max_joint_acceleration_rad_s2": (JOINT_COUNT,),
    "workspace_lower_m": (3,),
    "workspace_upper_m": (3,),
    "tool_point_m": (3,),
}
_POSITIVE = (
    "max_joint_speed_rad_s",
    "max_joint_acceleration_rad_s2",
    "max_tcp_speed_m_s",
    "max_jump_rad",
    "max_jump_m",
)
_NOT_NEGATIVE = ("joint_margin_rad", "table_clearance_m", "link_radius_m")


@dataclass(frozen=True, eq=False, kw_only=True)
class GuardLimits:
    """Bounds on motion, base frame, SI. Vectors are given as anything array-like (or one number for all joints) and
    kept as read-only float64. Raises `ValueError` when a value is not finite, has a wrong sign or leaves no room to
    move."""

    joint_lower_rad: Array
    joint_upper_rad: Array
    joint_margin_rad: float
    """Waypoints stay this far inside the joint limits, which leaves the follower room to brake."""
    max_joint_speed_rad_s: Array
    max_joint_acceleration_rad_s2: Array
    max_tcp_speed_m_s: float
    max_jump_rad: float
    """Largest joint distance from the present set-point to the first waypoint of a chunk."""
    max_jump_m: float
    """Largest distance of the tool point, likewise."""
    workspace_lower_m: Array
    workspace_upper_m: Array
    """The box that the tool point stays in."""
    table_height_m: float
    table_clearance_m: float
    envelope: ToolEnvelope = field(default_factory=ToolEnvelope)
    tool_point_m: Array = field(default_factory=lambda: np.array(TOOL_POINT_M))
    """The tool point (3,) in the flange frame."""
    link_radius_m: float = 0.05
    """Half thickness of the arm: elbow and wrist joints stay this far above the table plus clearance."""

    def __post_init__(self) -> None:
        for item in fields(self):
            if item.name == "envelope":
                continue
            given = np.asarray(getattr(self, item.name), dtype=np.float64)
            shape = _SHAPES.get(item.name, ())
            if given.shape not in ((), shape):
                raise ValueError(f"{item.name}: expected shape {shape}, got {given.shape}")
            if not np.all(np.isfinite(given)):
                raise ValueError(f"{item.name}: expected finite values, got {given.tolist()}")
            if item.name in _POSITIVE and not np.all(given > 0):
                raise ValueError(f"{item.name}: expected values > 0, got {given.tolist()}")
            if item.name in _NOT_NEGATIVE and not np.all(given >= 0):
                raise ValueError(f"{item.name}: expected a value >= 0, got {given.tolist()}")
            if shape:
                given = np.array(np.broadcast_to(given, shape))
                given.setflags(write=False)
            object.__setattr__(self, item.name, given if shape else float(given))
        if np.any(self.joint_upper_rad - self.joint_lower_rad <= 2 * self.joint_margin_rad):
            raise ValueError(
                f"joint limits: nothing is left of {self.joint_lower_rad.tolist()} to {self.joint_upper_rad.tolist()} "
                f"rad inside a margin of {self.joint_margin_rad} rad"
            )
        if np.any(self.workspace_lower_m >= self.workspace_upper_m):
            raise ValueError(
                f"workspace: expected lower < upper, got {self.workspace_lower_m.tolist()} m and "
                f"{self.workspace_upper_m.tolist()} m"
            )

    @classmethod
    def from_config(cls, config: "LimitsConfig", *, envelope: ToolEnvelope | None = None) -> Self:
        """The limits of a rig; ``envelope`` when something else than an AG-95 with a ZED Mini hangs on the flange."""
        return cls(
            joint_lower_rad=np.array(config.joint_lower_rad),
            joint_upper_rad=np.array(config.joint_upper_rad),
            joint_margin_rad=config.joint_margin_rad,
            max_joint_speed_rad_s=np.full(JOINT_COUNT, config.max_joint_speed_rad_s),
            max_joint_acceleration_rad_s2=np.full(JOINT_COUNT, config.max_joint_acceleration_rad_s2),
            max_tcp_speed_m_s=config.max_tcp_speed_m_s,
            max_jump_rad=config.max_jump_rad,
            max_jump_m=config.max_jump_m,
            workspace_lower_m=np.array(config.workspace.lower_m),
            workspace_upper_m=np.array(config.workspace.upper_m),
            table_height_m=config.workspace.table_height_m,
            table_clearance_m=config.workspace.table_clearance_m,
            envelope=envelope or ToolEnvelope(),
        )
