"""The wire of the simulated AG-95: a Modbus-RTU slave on a pseudo-terminal, found by a link at the rig's gripper port.

As a real slave it says nothing to frames for others, with a wrong CRC, or sent at another baud rate. The variant with
the vendor's CAN box sits at the same link and does not speak Modbus at all: it answers nothing that a Modbus master
sends.
"""

import contextlib
import os
import select
import struct
import termios
import threading
import time
import tty
from pathlib import Path

from robot.gripper.modbus import EXCEPTION_FLAG, READ_HOLDING, WRITE_SINGLE, Register, crc16, with_crc
from robot.priority import prefer_this_thread
from robot.twin.gripper_registers import GripperRegisters, IllegalAddressError, IllegalValueError

_FRAME_BYTES = 8
_FRAME_GAP_S = 0.02
"""Silence that ends a frame. The standard says 3.5 characters; a pseudo-terminal delivers writes in pieces."""
_MAX_BUFFER_BYTES = 256
_MAX_READ_COUNT = 125
_POLL_S = 0.2
_ILLEGAL_FUNCTION, _ILLEGAL_ADDRESS, _ILLEGAL_VALUE = 1, 2, 3
_BAUD_CODES = (
    termios.B115200,
    termios.B57600,
    termios.B38400,
    termios.B19200,
    termios.B9600,
    termios.B4800,
)


def answer(frame: bytes, registers: GripperRegisters) -> bytes:
    """The reply to one frame, b'' to what a slave ignores. Pure but for the registers."""
    if len(frame) < 4 or struct.unpack("<H", frame[-2:])[0] != crc16(frame[:-2]) or frame[0] != registers.slave_id:
        return b""
    slave_id, function = frame[0], frame[1]
    if function not in (READ_HOLDING, WRITE_SINGLE) or len(frame) != _FRAME_BYTES:
        return _exception(slave_id, function, _ILLEGAL_FUNCTION)
    address, word = struct.unpack(">HH", frame[2:6])
    try:
        if function == WRITE_SINGLE:
            registers.write(address, value=word)
            return frame
        if not 1 <= word <= _MAX_READ_COUNT:
            return _exception(slave_id, function, _ILLEGAL_VALUE)
        values = [registers.read(address + offset) for offset in range(word)]
    except IllegalAddressError:
        return _exception(slave_id, function, _ILLEGAL_ADDRESS)
    except IllegalValueError:
        return _exception(slave_id, function, _ILLEGAL_VALUE)
    return with_crc(struct.pack(f">BBB{word}H", slave_id, function, 2 * word, *values))


def _exception(slave_id: int, function: int, code: int) -> bytes:
    return with_crc(bytes([slave_id, function | EXCEPTION_FLAG, code]))


class FrameBuffer:
    """Finds the frames in a byte stream: eight bytes with a right CRC, or whatever a silence ends."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Complete eight-byte frames. Bytes in front of one are noise and dropped; never holds more than 256 bytes."""
        self._pending += data
        frames = []
        start = 0
        while start + _FRAME_BYTES <= len(self._pending):
            window = self._pending[start : start + _FRAME_BYTES]
            if struct.unpack("<H", window[-2:])[0] == crc16(window[:-2]):
                frames.append(window)
                self._pending = self._pending[start + _FRAME_BYTES :]
                start = 0
            else:
                start += 1
        self._pending = self._pending[-_MAX_BUFFER_BYTES:]
        return frames

    def end_of_frame(self) -> bytes:
        """What has come since the last frame, after a silence; the buffer is empty then."""
        rest, self._pending = self._pending, b""
        return rest


class GripperSlave:
    """Serves ``registers`` on a new pseudo-terminal and links it at ``link`` until `close`."""

    def __init__(self, registers: GripperRegisters, *, link: Path) -> None:
        self.registers = registers
        self.link = link
        self.silent = False
        self.corrupt_replies = False
        self.requests_answered = 0
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self._set_baud(_BAUD_CODES[registers.read(Register.BAUD)])
        os.set_blocking(self._master, False)
        self.device = os.ttyname(self._slave)
        self._place_link()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="gripper-wire", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and remove the link. Closing twice is fine."""
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(FileNotFoundError):
            if self.link.is_symlink() and os.readlink(self.link) == self.device:
                self.link.unlink()

    def _place_link(self) -> None:
        # Made beside and renamed over, so that left-overs of a killed twin do not matter and no reader sees a gap.
        draft = self.link.with_name(f"{self.link.name}.{os.getpid()}.new")
        draft.unlink(missing_ok=True)
        draft.symlink_to(self.device)
        draft.rename(self.link)

    def _set_baud(self, code: int) -> None:
        attributes = termios.tcgetattr(self._slave)
        attributes[4] = attributes[5] = code
        termios.tcsetattr(self._slave, termios.TCSANOW, attributes)

    def _serve(self) -> None:
        prefer_this_thread()
        buffer = FrameBuffer()
        heard_at = 0.0
        poller = select.poll()
        poller.register(self._master, select.POLLIN)
        try:
            while not self._stop.is_set():
                if poller.poll(1e3 * (_FRAME_GAP_S if heard_at else _POLL_S)):
                    for frame in buffer.feed(self._read()):
                        self._reply(frame)
                    heard_at = time.monotonic()
                elif heard_at and time.monotonic() - heard_at >= _FRAME_GAP_S:
                    heard_at = 0.0
                    self._reply(buffer.end_of_frame())
        finally:
            os.close(self._master)
            os.close(self._slave)

    def _read(self) -> bytes:
        try:
            return os.read(self._master, 1024)
        except BlockingIOError:
            return b""

    def _reply(self, frame: bytes) -> None:
        if not frame or self.silent or not self.registers.speaks_modbus or not self._baud_matches():
            return
        reply = answer(frame, self.registers)
        if not reply:
            return
        self.requests_answered += 1
        if self.corrupt_replies:
            reply = reply[:-1] + bytes([reply[-1] ^ 0xFF])
        # Nobody reads and the buffer is full: a real line would lose the bytes, too.
        with contextlib.suppress(BlockingIOError):
            os.write(self._master, reply)

    def _baud_matches(self) -> bool:
        speed = termios.tcgetattr(self._slave)[5]
        return bool(speed == _BAUD_CODES[self.registers.read(Register.BAUD)])
