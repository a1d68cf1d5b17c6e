"""3Dconnexion SpaceMouse over ``/dev/hidraw*``, no driver and no library: its HID reports are parsed here.

Report 1: translation, three signed 16-bit little endian counts, x right, y towards the operator, z down; report 2:
rotation about the same axes. Newer devices send all six in report 1. Report 3: a bit mask of buttons. Full deflection
is about 350 counts.
"""

import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from robot.motion.rotations import Array
from teleop.devices.device import Button, DeviceError, DeviceSample, RateMotion

FULL_COUNTS = 350.0
VENDORS = {0x046D: (0xC603, 0xC62B, 0xC626, 0xC627, 0xC628), 0x256F: None}
"""Logitech's vendor id carries other mice too, so its product ids are listed; 0x256F is 3Dconnexion's own."""
HIDRAW = Path("/sys/class/hidraw")
_TRIPLE, _SIX = struct.Struct("<3h"), struct.Struct("<6h")
_AXES = np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
"""Device axes (right, back, down) to operator's axes (forward, left, up); a rotation, so it turns twists too."""


@dataclass(frozen=True)
class SpaceMouseState:
    """Counts of the six axes, device axes, and the mask of buttons that are down."""

    counts: tuple[int, ...] = (0,) * 6
    buttons: int = 0

    def after(self, report: bytes) -> "SpaceMouseState":
        """The state after one HID report; one that is too short or unknown changes nothing."""
        match report[:1]:
            case b"\x01" if len(report) >= 13:
                return replace(self, counts=_SIX.unpack_from(report, 1))
            case b"\x01" if len(report) >= 7:
                return replace(self, counts=(*_TRIPLE.unpack_from(report, 1), *self.counts[3:]))
            case b"\x02" if len(report) >= 7:
                return replace(self, counts=(*self.counts[:3], *_TRIPLE.unpack_from(report, 1)))
            case b"\x03" if len(report) >= 2:
                return replace(self, buttons=int.from_bytes(report[1:5], "little"))
        return self

    def twist(self) -> Array:
        """(6,) in [-1, 1], operator's axes."""
        shares = np.clip(np.array(self.counts) / FULL_COUNTS, -1.0, 1.0)
        return np.concatenate([_AXES @ shares[:3], _AXES @ shares[3:]])


class SpaceMouse:
    """A `Device`. The left button is the clutch (held), the right one the gripper; a device with more buttons keeps
    the others free. Session keys come from the terminal."""

    name = "spacemouse"

    def __init__(self, fd: int, *, path: str) -> None:
        self._fd = fd
        self._path = path
        self._state = SpaceMouseState()
        self._heard_ns: int | None = None
        self.problem = ""

    @classmethod
    def open(cls, path: Path | None = None) -> Self:
        """The SpaceMouse at ``path`` (``/dev/hidrawN``), or the first one found. Raises `DeviceError`."""
        device = path or find_spacemouse()
        if device is None:
            raise DeviceError(
                "expected a 3Dconnexion SpaceMouse among /dev/hidraw*, found none: plug it in (Bluetooth: pair it)"
            )
        try:
            return cls(os.open(device, os.O_RDONLY | os.O_NONBLOCK), path=str(device))
        except PermissionError:
            raise DeviceError(
                f"{device}: no permission to read it: add the udev rule "
                'KERNEL=="hidraw*", ATTRS{idVendor}=="256f", TAG+="uaccess" and plug it in again'
            ) from None
        except OSError as error:
            raise DeviceError(f"{device}: can't be opened ({error.strerror}): is it plugged in?") from None

    def sample(self, now_ns: int) -> DeviceSample | None:
        pressed = 0
        for report in self._reports():
            down = self._state.buttons
            self._state = self._state.after(report)
            pressed |= self._state.buttons & ~down
        if not self.problem:
            self._heard_ns = now_ns  # reports come while the cap moves; silence with the device there means rest
        if self._heard_ns is None:
            return None
        return DeviceSample(
            time_ns=self._heard_ns,
            clutch=bool(self._state.buttons & 1),
            motion=RateMotion(self._state.twist()),
            pressed=(Button.GRIPPER,) if pressed & 2 else (),
            raw=np.array([*self._state.counts, float(self._state.buttons)]),
        )

    def close(self) -> None:
        os.close(self._fd)

    def _reports(self) -> list[bytes]:
        """hidraw gives one report a read."""
        found: list[bytes] = []
        while not self.problem:
            try:
                report = os.read(self._fd, 64)
            except BlockingIOError:
                break
            except OSError as error:
                self.problem = f"{self._path}: unplugged ({error.strerror})"
                break
            if not report:
                self.problem = f"{self._path}: unplugged"
                break
            found.append(report)
        return found


def find_spacemouse(*, folder: Path = HIDRAW) -> Path | None:
    """The device file of the first SpaceMouse that the kernel knows."""
    for entry in sorted(folder.glob("hidraw*")):
        try:
            text = (entry / "device" / "uevent").read_text()
        except OSError:
            continue  # it has just been unplugged
        lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        parts = lines.get("HID_ID", "").split(":")
        if len(parts) != 3:
            continue
        vendor, product = int(parts[1], 16), int(parts[2], 16)
        products = VENDORS.get(vendor, ())
        if products is None or product in products:
            return Path("/dev") / entry.name
    return None
