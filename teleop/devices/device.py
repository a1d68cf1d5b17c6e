"""What every operator device gives: one sample a tick, with the time at which the device was last heard.

Axes are the operator's: +x away from the operator (forward), +y left, +z up; rotations are right-handed about them.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, runtime_checkable

import numpy as np

from robot.motion.nova5 import JOINT_COUNT
from robot.motion.rotations import Array

RAW_AXES = 16
"""Length of the raw reading that is recorded with each step."""


class DeviceError(RuntimeError):
    """The device is absent, not permitted or of another kind. One line: what was expected, what is there, what to
    do."""


class Button(Enum):
    """What an operator can press besides moving. The value is its name on the wire and in logs."""

    GRIPPER = "gripper"
    """Close when open, open when closed."""
    START = "start"
    SUCCESS = "success"
    FAILURE = "failure"
    DISCARD = "discard"
    PAUSE = "pause"
    QUIT = "quit"
    SLOWER = "slower"
    FASTER = "faster"


@dataclass(frozen=True, eq=False)
class RateMotion:
    """A velocity stick: ``twist`` (6,) in [-1, 1] of the top speed, translation then rotation, operator's axes."""

    twist: Array

    def __post_init__(self) -> None:
        _check("twist", self.twist, shape=(6,))


@dataclass(frozen=True, eq=False)
class PoseMotion:
    """A tracked hand: its pose (4, 4) in a frame of its own, in metres and operator's axes. Only its change counts."""

    pose: Array

    def __post_init__(self) -> None:
        _check("pose", self.pose, shape=(4, 4))


@dataclass(frozen=True, eq=False)
class JointMotion:
    """A posture to take, ``joints_rad`` (6,)."""

    joints_rad: Array

    def __post_init__(self) -> None:
        _check("joints_rad", self.joints_rad, shape=(JOINT_COUNT,))


Motion = RateMotion | PoseMotion | JointMotion


@dataclass(frozen=True, eq=False)
class DeviceSample:
    """The device as it stands. ``time_ns`` (monotonic): when it was last heard; a sample that is too old counts for
    nothing. ``clutch``: the operator wants the arm to follow. ``gripper``: 0 open to 1 closed, None where the gripper
    is a button. ``pressed``: buttons pressed since the last sample, each press once. ``raw``: the reading before any
    interpretation, at most `RAW_AXES` numbers."""

    time_ns: int
    clutch: bool
    motion: Motion
    gripper: float | None = None
    pressed: tuple[Button, ...] = ()
    raw: Array = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        if self.raw.ndim != 1 or len(self.raw) > RAW_AXES:
            raise ValueError(f"raw: expected at most {RAW_AXES} numbers, got shape {self.raw.shape}")
        if self.gripper is not None and not 0.0 <= self.gripper <= 1.0:
            raise ValueError(f"gripper: expected 0 (open) to 1 (closed), got {self.gripper}")


class Device(Protocol):
    """An opened operator device. `sample` never waits; it is called by one reader, which gets each press once."""

    name: str

    def sample(self, now_ns: int) -> DeviceSample | None:
        """The present reading, None before the device has said anything. A lost device keeps its last time."""
        ...

    @property
    def problem(self) -> str:
        """Why the device can no longer be heard; empty while all is well."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class EpisodeAware(Protocol):
    """A device that wants to know when a scene has been set up, as a scripted operator does."""

    def begin_episode(self, *, target_object: str, seed: int) -> None: ...


def _check(name: str, values: Array, *, shape: tuple[int, ...]) -> None:
    if values.shape != shape or not np.all(np.isfinite(values)):
        raise ValueError(f"{name}: expected finite values of shape {shape}, got {np.asarray(values).tolist()}")
