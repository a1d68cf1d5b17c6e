"""Pictures from a Linux video device, with the kernel's own sequence numbers and monotonic times.

The least of V4L2 that one camera needs, spoken directly: libraries on top of it hide which frame it was (a time-out
hands out the last one again), when it came, and whether it is whole. Numbers and layouts are from the kernel's
``linux/videodev2.h`` on 64-bit machines.
"""

import contextlib
import ctypes
import fcntl
import mmap
import os
import select
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robot.cameras.backend import CameraAbsentError, CameraError

YUYV = int.from_bytes(b"YUYV", "little")
BUFFERS = 4
_BUFFER_TYPE_CAPTURE, _MEMORY_MMAP, _FIELD_NONE = 1, 1, 1
_FLAG_ERROR, _CLOCK_MASK, _CLOCK_MONOTONIC = 0x40, 0xE000, 0x2000
_CAPABLE_CAPTURE, _CAPABLE_STREAMING = 0x1, 0x4000000


class _Capability(ctypes.Structure):
    _fields_ = [
        ("driver", ctypes.c_char * 16),
        ("card", ctypes.c_char * 32),
        ("bus_info", ctypes.c_char * 32),
        ("version", ctypes.c_uint32),
        ("capabilities", ctypes.c_uint32),
        ("device_caps", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 3),
    ]


class _Format(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_uint32),
        ("_align", ctypes.c_uint32),
        ("width", ctypes.c_uint32),
        ("height", ctypes.c_uint32),
        ("pixelformat", ctypes.c_uint32),
        ("field", ctypes.c_uint32),
        ("bytesperline", ctypes.c_uint32),
        ("sizeimage", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 176),
    ]


class _StreamParameters(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_uint32),
        ("capability", ctypes.c_uint32),
        ("capturemode", ctypes.c_uint32),
        ("numerator", ctypes.c_uint32),
        ("denominator", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 184),
    ]


class _RequestBuffers(ctypes.Structure):
    _fields_ = [
        ("count", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("memory", ctypes.c_uint32),
        ("rest", ctypes.c_uint32 * 2),
    ]


class _Buffer(ctypes.Structure):
    _fields_ = [
        ("index", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("bytesused", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("field", ctypes.c_uint32),
        ("seconds", ctypes.c_int64),
        ("microseconds", ctypes.c_int64),
        ("timecode", ctypes.c_uint8 * 16),
        ("sequence", ctypes.c_uint32),
        ("memory", ctypes.c_uint32),
        ("offset", ctypes.c_uint64),
        ("length", ctypes.c_uint32),
        ("rest", ctypes.c_uint32 * 3),
    ]


def _code(direction: int, number: int, structure: type[ctypes.Structure] | type[ctypes.c_int]) -> int:
    """The kernel's ``_IOC``: ``direction`` 1 for write, 2 for read."""
    return direction << 30 | ctypes.sizeof(structure) << 16 | ord("V") << 8 | number


QUERY_CAPABILITY = _code(2, 0, _Capability)
SET_FORMAT = _code(3, 5, _Format)
REQUEST_BUFFERS = _code(3, 8, _RequestBuffers)
QUERY_BUFFER = _code(3, 9, _Buffer)
QUEUE_BUFFER = _code(3, 15, _Buffer)
DEQUEUE_BUFFER = _code(3, 17, _Buffer)
STREAM_ON = _code(1, 18, ctypes.c_int)
STREAM_OFF = _code(1, 19, ctypes.c_int)
SET_STREAM_PARAMETERS = _code(3, 22, _StreamParameters)


@dataclass(frozen=True)
class VideoMode:
    """What a device was asked for, or what it granted: pixels, four-character code as an int, frames a second."""

    width: int
    height: int
    pixel_format: int
    fps: float

    def __str__(self) -> str:
        name = self.pixel_format.to_bytes(4, "little").decode("ascii", errors="replace")
        return f"{self.width}x{self.height} {name} at {self.fps:g} fps"


@dataclass(frozen=True)
class RawFrame:
    """One frame as it came: ``data`` (n,) uint8, the kernel's monotonic stamp in ns and its frame counter.

    ``intact`` is False when the kernel says itself that the data are damaged.
    """

    data: np.ndarray
    stamp_ns: int
    sequence: int
    intact: bool


class V4l2Device:
    """One capture device in streaming mode. All calls from one thread."""

    def __init__(self, path: Path, *, ioctl: Callable[[int, int, Any], int] = fcntl.ioctl) -> None:
        self._path = path
        self._ioctl = ioctl
        self._fd: int | None = None
        self._maps: list[mmap.mmap] = []

    def open(self, mode: VideoMode) -> VideoMode:
        """Ask for a mode and start; returns what was granted, which may differ. Raises `CameraError`."""
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            return self._start(self._fd, mode)
        except OSError as error:
            self.close()
            raise CameraAbsentError(
                f"{self._path}: can't be used as a camera ({error}). Close other programs that use it, and check that "
                "you may read it (group 'video')."
            ) from None
        except BaseException:
            self.close()
            raise

    def read(self, *, timeout_s: float) -> RawFrame | None:
        """The newest frame that has not been read yet, None if none comes in time. Raises `CameraAbsentError`."""
        if self._fd is None:
            raise CameraAbsentError(f"{self._path}: expected an open device")
        readable, _, _ = select.select([self._fd], [], [], timeout_s)
        if not readable:
            return None
        newest: _Buffer | None = None
        try:
            # What queued up while nobody read is older than what is wanted.
            while True:
                buffer = _Buffer(type=_BUFFER_TYPE_CAPTURE, memory=_MEMORY_MMAP)
                try:
                    self._ioctl(self._fd, DEQUEUE_BUFFER, buffer)
                except BlockingIOError:
                    break
                if newest is not None:
                    self._ioctl(self._fd, QUEUE_BUFFER, newest)
                newest = buffer
            if newest is None:
                return None
            frame = self._copy(newest)
            self._ioctl(self._fd, QUEUE_BUFFER, newest)
        except OSError as error:
            raise CameraAbsentError(f"{self._path}: the camera is gone ({error}). Check its cable.") from None
        return frame

    def close(self) -> None:
        """Stop and let go. Closing twice is fine."""
        fd, self._fd = self._fd, None
        if fd is None:
            return
        with contextlib.suppress(OSError):  # the device may be unplugged
            self._ioctl(fd, STREAM_OFF, ctypes.c_int(_BUFFER_TYPE_CAPTURE))
        for memory in self._maps:
            memory.close()
        self._maps = []
        os.close(fd)

    def _start(self, fd: int, mode: VideoMode) -> VideoMode:
        capability = _Capability()
        self._ioctl(fd, QUERY_CAPABILITY, capability)
        needed = _CAPABLE_CAPTURE | _CAPABLE_STREAMING
        if capability.device_caps & needed != needed:
            raise CameraError(f"{self._path}: expected a device that streams video, this node does not. Try the next.")
        granted = _Format(
            type=_BUFFER_TYPE_CAPTURE,
            width=mode.width,
            height=mode.height,
            pixelformat=mode.pixel_format,
            field=_FIELD_NONE,
        )
        self._ioctl(fd, SET_FORMAT, granted)
        rate = _StreamParameters(type=_BUFFER_TYPE_CAPTURE, numerator=1, denominator=round(mode.fps))
        self._ioctl(fd, SET_STREAM_PARAMETERS, rate)
        request = _RequestBuffers(count=BUFFERS, type=_BUFFER_TYPE_CAPTURE, memory=_MEMORY_MMAP)
        self._ioctl(fd, REQUEST_BUFFERS, request)
        for index in range(request.count):
            buffer = _Buffer(index=index, type=_BUFFER_TYPE_CAPTURE, memory=_MEMORY_MMAP)
            self._ioctl(fd, QUERY_BUFFER, buffer)
            # m.offset is the low half of a union of 64 bits.
            self._maps.append(mmap.mmap(fd, buffer.length, offset=buffer.offset & 0xFFFFFFFF))
            self._ioctl(fd, QUEUE_BUFFER, buffer)
        self._ioctl(fd, STREAM_ON, ctypes.c_int(_BUFFER_TYPE_CAPTURE))
        # Drivers count in units of 100 ns: 333333 of them are a thirtieth of a second.
        fps = round(rate.denominator / rate.numerator, 2) if rate.numerator else 0.0
        return VideoMode(granted.width, granted.height, granted.pixelformat, fps)

    def _copy(self, buffer: _Buffer) -> RawFrame:
        if buffer.flags & _CLOCK_MASK != _CLOCK_MONOTONIC:
            raise CameraError(
                f"{self._path}: expected frames stamped with the monotonic clock, the driver's flags are "
                f"{buffer.flags:#x}. Load uvcvideo with clock=CLOCK_MONOTONIC."
            )
        data = np.frombuffer(self._maps[buffer.index], np.uint8, count=buffer.bytesused).copy()
        return RawFrame(
            data=data,
            stamp_ns=buffer.seconds * 1_000_000_000 + buffer.microseconds * 1000,
            sequence=buffer.sequence,
            intact=not buffer.flags & _FLAG_ERROR,
        )
