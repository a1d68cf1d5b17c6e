"""An operator in a web page: keyboard, gamepad or headset, as JSON messages that the page sends 30 times a second.

``{"seq": 7, "clutch": true, "twist": [x, y, z, roll, pitch, yaw], "gripper": 0.2, "pressed": ["start"]}``; instead of
``twist`` a tracked hand sends ``"pose": {"position_m": [3], "quaternion_wxyz": [4]}``. ``gripper`` and ``pressed`` may
be left out. ``seq`` rises by one a message: what comes late or twice is dropped, what is missing is counted.
"""

import json
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robot.motion.rotations import make_pose, rotation_from_quaternion
from robot.runtime import runtime_dir
from teleop.devices.device import Button, DeviceError, DeviceSample, Motion, PoseMotion, RateMotion

MAX_MESSAGE_BYTES = 4096
_KNOWN = {"seq", "clutch", "twist", "pose", "gripper", "pressed"}


class MessageError(ValueError):
    """A message that is not what the page is to send: what was expected and what came."""


def operator_socket(rig_name: str) -> Path:
    """The Unix datagram socket that a collector with the browser device listens on."""
    return runtime_dir(rig_name) / "operator.sock"


class BrowserDevice:
    """A `Device` that is fed messages. Safe to feed from one thread and to sample from another."""

    name = "browser"
    problem = ""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: DeviceSample | None = None
        self._seq = -1
        self._pressed: list[Button] = []
        self.missing = 0
        """Messages that never came."""
        self.refused = 0
        """Messages that were malformed."""

    def feed(self, message: str | bytes | Mapping[str, Any], *, now_ns: int) -> None:
        """Take one message that arrived at ``now_ns``. Raises `MessageError`; the message then counts for nothing."""
        try:
            content = json.loads(message) if isinstance(message, str | bytes) else message
            if not isinstance(content, Mapping):
                raise MessageError(f"expected a JSON object, got {type(content).__name__}")
            seq, sample = _parse(content, now_ns=now_ns)
        except ValueError as error:  # MessageError, broken JSON and broken UTF-8 are all ValueErrors
            self.refused += 1
            raise MessageError(str(error)) from None
        with self._lock:
            if seq <= self._seq:
                return
            if self._seq >= 0:
                self.missing += seq - self._seq - 1
            self._seq = seq
            self._pressed += sample.pressed
            self._newest = sample

    def restart(self) -> None:
        """Another page takes over: its numbers begin anew, and it has said nothing yet."""
        with self._lock:
            self._newest, self._seq = None, -1
            self._pressed.clear()

    def sample(self, now_ns: int) -> DeviceSample | None:
        with self._lock:
            if self._newest is None:
                return None
            pressed = tuple(self._pressed)
            self._pressed.clear()
            newest = self._newest
        return DeviceSample(
            time_ns=newest.time_ns,
            clutch=newest.clutch,
            motion=newest.motion,
            gripper=newest.gripper,
            pressed=pressed,
            raw=newest.raw,
        )

    def close(self) -> None:
        return


class BrowserSocket(BrowserDevice):
    """A `BrowserDevice` that takes its messages from a Unix datagram socket, which the console writes to."""

    def __init__(self, path: Path) -> None:
        """Raises `DeviceError` if another collector listens there."""
        super().__init__()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        if path.exists() and _is_listened_to(path):
            self._socket.close()
            raise DeviceError(f"{path}: another collector listens to the browser already: stop it first")
        path.unlink(missing_ok=True)
        self._socket.bind(str(path))

    def sample(self, now_ns: int) -> DeviceSample | None:
        while True:
            try:
                message = self._socket.recv(MAX_MESSAGE_BYTES)
            except BlockingIOError:
                return super().sample(now_ns)
            try:
                self.feed(message, now_ns=now_ns)
            except MessageError:
                continue  # counted in ``refused``; silence then disengages the clutch

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)


def _is_listened_to(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        try:
            peer.connect(str(path))
        except OSError:
            return False
        return True


def _parse(content: Mapping[str, Any], *, now_ns: int) -> tuple[int, DeviceSample]:
    unknown = sorted(set(content) - _KNOWN)
    if unknown:
        raise MessageError(f"expected only {', '.join(sorted(_KNOWN))}, got {', '.join(map(str, unknown))}")
    seq, clutch = content.get("seq"), content.get("clutch")
    if isinstance(seq, bool) or not isinstance(seq, int) or seq < 0:
        raise MessageError(f"seq: expected an integer >= 0, got {seq!r}")
    if not isinstance(clutch, bool):
        raise MessageError(f"clutch: expected true or false, got {clutch!r}")
    motion, raw = _motion(content)
    gripper = content.get("gripper")
    if gripper is not None:
        gripper = float(_numbers("gripper", [gripper], count=1)[0])
    pressed = content.get("pressed", [])
    names = {button.value for button in Button}
    if not isinstance(pressed, list) or not all(isinstance(name, str) and name in names for name in pressed):
        raise MessageError(f"pressed: expected a list of {', '.join(sorted(names))}, got {pressed!r}")
    sample = DeviceSample(
        time_ns=now_ns,
        clutch=clutch,
        motion=motion,
        gripper=gripper,
        pressed=tuple(Button(name) for name in pressed),
        raw=np.append(raw, float(clutch)),
    )
    return seq, sample


def _motion(content: Mapping[str, Any]) -> tuple[Motion, np.ndarray]:
    if ("twist" in content) == ("pose" in content):
        raise MessageError("expected either twist or pose")
    if "twist" in content:
        twist = _numbers("twist", content["twist"], count=6)
        return RateMotion(np.clip(twist, -1.0, 1.0)), twist
    pose = content["pose"]
    if not isinstance(pose, Mapping) or set(pose) != {"position_m", "quaternion_wxyz"}:
        raise MessageError(f"pose: expected position_m and quaternion_wxyz, got {pose!r}")
    position = _numbers("position_m", pose["position_m"], count=3)
    quaternion = _numbers("quaternion_wxyz", pose["quaternion_wxyz"], count=4)
    motion = PoseMotion(make_pose(position, rotation=rotation_from_quaternion(quaternion)))
    return motion, np.concatenate([position, quaternion])


def _numbers(name: str, values: Any, *, count: int) -> np.ndarray:
    is_list = isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    if not is_list or len(values) != count or not np.all(np.isfinite(np.array(values, dtype=np.float64))):
        raise MessageError(f"{name}: expected {count} finite numbers, got {values!r}")
    return np.array(values, dtype=np.float64)
