"""A leader arm (GELLO-style): a small copy of the arm with a Dynamixel servo in each joint, moved by hand.

Its joints are read by a thread of their own, so that `LeaderArm.sample` never waits for the serial line. A servo that
does not answer makes the sample old, and an old sample disengages the clutch: nothing is ever made up.
"""

import math
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import ArrayLike

from robot.motion.nova5 import JOINT_COUNT
from robot.motion.rotations import Array
from teleop.devices.device import DeviceError, DeviceSample, JointMotion
from teleop.devices.dynamixel import COUNTS_PER_TURN, DynamixelBus, DynamixelError

READ_PERIOD_S = 0.01
_RAD_PER_COUNT = 2.0 * math.pi / COUNTS_PER_TURN


@dataclass(frozen=True)
class LeaderCalibration:
    """How servo counts become joint angles: joint = sign * counts * 2 pi / 4096 - offset.

    ``gripper_id`` 0: no trigger; otherwise its servo angles (rad) when open and closed.
    """

    port: str
    ids: tuple[int, ...]
    signs: tuple[int, ...]
    offsets_rad: tuple[float, ...]
    baudrate: int = 57600
    gripper_id: int = 0
    gripper_open_rad: float = 0.0
    gripper_closed_rad: float = 0.0

    def __post_init__(self) -> None:
        for name in ("ids", "signs", "offsets_rad"):
            values = getattr(self, name)
            if len(values) != JOINT_COUNT:
                raise DeviceError(f"{name}: expected {JOINT_COUNT} values, got {len(values)}")
        if any(sign not in (-1, 1) for sign in self.signs):
            raise DeviceError(f"signs: expected 1 or -1 for each joint, got {list(self.signs)}")
        if self.gripper_id and abs(self.gripper_open_rad - self.gripper_closed_rad) < 0.1:
            raise DeviceError("the trigger's open and closed angles must be at least 0.1 rad apart")

    @classmethod
    def load(cls, path: Path) -> "LeaderCalibration":
        """From a YAML file that `save` wrote. Raises `DeviceError`."""
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            lists = {name: tuple(content[name]) for name in ("ids", "signs", "offsets_rad")}
            return cls(**{**content, **lists})
        except FileNotFoundError:
            raise DeviceError(
                f"{path}: no such file: make it with 'python -m teleop.devices.leader_calibration --help'"
            ) from None
        except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
            raise DeviceError(f"{path}: not a leader arm's calibration ({error})") from None

    def save(self, path: Path) -> None:
        content = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    @property
    def all_ids(self) -> tuple[int, ...]:
        """Joint servos, then the trigger's if there is one."""
        return (*self.ids, self.gripper_id) if self.gripper_id else self.ids

    def joints_rad(self, counts: ArrayLike) -> Array:
        """Joint angles (6,) of servo counts (6,)."""
        return np.array(self.signs) * np.asarray(counts) * _RAD_PER_COUNT - np.array(self.offsets_rad)

    def gripper(self, counts: int) -> float:
        """Trigger counts as 0 (open) to 1 (closed)."""
        angle = counts * _RAD_PER_COUNT
        return min(1.0, max(0.0, (angle - self.gripper_open_rad) / (self.gripper_closed_rad - self.gripper_open_rad)))


def offsets_from_posture(counts: ArrayLike, *, posture_rad: ArrayLike, signs: ArrayLike) -> Array:
    """Offsets (6,) that make servo counts (6,), read while the leader stands like the arm, mean ``posture_rad``."""
    return np.asarray(signs) * np.asarray(counts) * _RAD_PER_COUNT - np.asarray(posture_rad, dtype=np.float64)


class LeaderArm:
    """A `Device`. It has no clutch of its own and asks to be followed always; a key is put before it."""

    name = "leader"

    def __init__(self, calibration: LeaderCalibration, *, bus: DynamixelBus | None = None) -> None:
        """Opens the port and reads once. Raises `DeviceError` if a servo does not answer."""
        self._calibration = calibration
        self._bus = bus or DynamixelBus.open(calibration.port, baudrate=calibration.baudrate)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._newest: tuple[int, list[int]] | None = None
        self._problem = ""
        try:
            for id in calibration.all_ids:
                self._bus.release(id)
            self._read()
        except DynamixelError:
            self._bus.close()
            raise
        self._reader = threading.Thread(target=self._keep_reading, name="leader arm", daemon=True)
        self._reader.start()

    @property
    def problem(self) -> str:
        return self._problem

    def sample(self, now_ns: int) -> DeviceSample | None:
        with self._lock:
            newest = self._newest
        if newest is None:
            return None
        time_ns, counts = newest
        joints = self._calibration.joints_rad(counts[:JOINT_COUNT])
        gripper = self._calibration.gripper(counts[JOINT_COUNT]) if self._calibration.gripper_id else None
        return DeviceSample(
            time_ns=time_ns,
            clutch=True,
            motion=JointMotion(joints),
            gripper=gripper,
            raw=np.array(counts, dtype=np.float64),
        )

    def close(self) -> None:
        self._stop.set()
        self._reader.join()
        self._bus.close()

    def _keep_reading(self) -> None:
        while not self._stop.wait(READ_PERIOD_S):
            try:
                self._read()
                self._problem = ""
            except DynamixelError as error:
                self._problem = str(error)

    def _read(self) -> None:
        counts = self._bus.read_positions(self._calibration.all_ids)
        with self._lock:
            self._newest = (time.monotonic_ns(), counts)
