"""Linux input events (``/dev/input/event*``): finding a device by what it can do, and parsing its byte stream.

Format: ``struct input_event`` of 64-bit Linux, 24 bytes: seconds, microseconds (both signed 64 bit), type, code
(unsigned 16 bit), value (signed 32 bit). Documentation/input/input.rst of the Linux kernel.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from teleop.devices.device import DeviceError

EV_SYN, EV_KEY, EV_ABS = 0x00, 0x01, 0x03
SYN_DROPPED = 3
BTN_SOUTH, BTN_EAST, BTN_NORTH, BTN_WEST = 0x130, 0x131, 0x133, 0x134
BTN_TL, BTN_TR, BTN_SELECT, BTN_START, BTN_MODE = 0x136, 0x137, 0x13A, 0x13B, 0x13C
ABS_X, ABS_Y, ABS_Z, ABS_RX, ABS_RY, ABS_RZ, ABS_HAT0X, ABS_HAT0Y = 0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x10, 0x11
INPUT = Path("/dev/input")
_EVENT = struct.Struct("@qqHHi")
_ABSINFO = struct.Struct("@6i")
_KEY_BYTES = 96


@dataclass(frozen=True)
class InputEvent:
    """One event; ``value`` of a key: 1 pressed, 0 released, 2 repeated; of an axis: its position."""

    type: int
    code: int
    value: int


@dataclass(frozen=True)
class AxisRange:
    """What an absolute axis reports: its extremes and its present value."""

    low: int
    high: int
    value: int = 0

    def normalized(self, value: int) -> float:
        """``value`` in [-1, 1]."""
        if self.high <= self.low:
            return 0.0
        return min(1.0, max(-1.0, 2.0 * (value - self.low) / (self.high - self.low) - 1.0))


class EventParser:
    """Bytes to events, across reads that cut an event in two."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[InputEvent]:
        """The events that ``data`` completes."""
        whole = self._pending + data
        count = len(whole) // _EVENT.size
        self._pending = whole[count * _EVENT.size :]
        fields = _EVENT.iter_unpack(whole[: count * _EVENT.size])
        return [InputEvent(kind, code, value) for _, _, kind, code, value in fields]


class EventDevice:
    """An open event device: its name, its axes and the events since the last `read`."""

    def __init__(self, path: Path) -> None:
        """Raises `DeviceError` if it can't be opened or is no event device."""
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except PermissionError:
            raise DeviceError(f"{path}: no permission to read it: add yourself to the group 'input'") from None
        except OSError as error:
            raise DeviceError(f"{path}: can't be opened ({error.strerror}): is the device plugged in?") from None
        self.path = path
        self.problem = ""
        self._parser = EventParser()
        try:
            self.name = _ioctl(self._fd, 0x06, 256).split(b"\0")[0].decode(errors="replace")
            self._keys = _ioctl(self._fd, 0x20 + EV_KEY, _KEY_BYTES)
        except OSError:
            os.close(self._fd)
            raise DeviceError(f"{path}: expected an event device of /dev/input, this is something else") from None

    def has_key(self, code: int) -> bool:
        """Whether the device has this key or button."""
        return bool(self._keys[code // 8] >> (code % 8) & 1)

    def axis(self, code: int) -> AxisRange | None:
        """Range and present value of an absolute axis, None where there is none."""
        try:
            value, low, high, *_ = _ABSINFO.unpack(_ioctl(self._fd, 0x40 + code, _ABSINFO.size))
        except OSError:
            return None
        return AxisRange(low, high, value) if high > low else None

    def read(self) -> list[InputEvent]:
        """What has happened since the last call; sets ``problem`` when the device is gone."""
        events: list[InputEvent] = []
        while not self.problem:
            try:
                data = os.read(self._fd, 64 * _EVENT.size)
            except BlockingIOError:
                break
            except OSError as error:
                gone = error.errno == errno.ENODEV
                self.problem = f"{self.path}: {'unplugged' if gone else error.strerror}"
                break
            if not data:
                self.problem = f"{self.path}: closed by the other end"
                break
            events += self._parser.feed(data)
        return events

    def close(self) -> None:
        os.close(self._fd)


def find_devices(key: int, *, folder: Path = INPUT) -> Iterator[EventDevice]:
    """Open each readable event device that has the given key; the caller closes those that it does not keep."""
    for path in sorted(folder.glob("event*")):
        try:
            device = EventDevice(path)
        except DeviceError:
            continue  # not ours to read: another device may be the one
        if device.has_key(key):
            yield device
        else:
            device.close()


def _ioctl(fd: int, number: int, size: int) -> bytes:
    """EVIOC*: a read ioctl of group 'E'."""
    buffer = bytearray(size)
    fcntl.ioctl(fd, 2 << 30 | size << 16 | ord("E") << 8 | number, buffer)
    return bytes(buffer)
