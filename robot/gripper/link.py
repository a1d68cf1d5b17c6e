"""One Modbus-RTU master on a serial port: a request, its answer, bounded retries. Nothing else happens on the line."""

import contextlib
import termios
import time
from pathlib import Path
from typing import Protocol

import serial

from robot.gripper.errors import (
    GripperPortError,
    GripperRefusedError,
    GripperSilentError,
    GripperSlaveIdError,
    GripperVariantError,
)
from robot.gripper.modbus import (
    EXCEPTION_FLAG,
    ModbusExceptionReply,
    ModbusFrameError,
    Register,
    parse_read_reply,
    parse_write_reply,
    read_reply_length,
    read_request,
    write_request,
)

REPLY_TIMEOUT_S = 0.15
ATTEMPTS = 3
IDLE_BETWEEN_S = 0.005
"""Quiet time on the line between transactions (RTU asks for 3.5 characters; USB adapters need more)."""
IDLE_AFTER_FAILURE_S = 0.05
"""Quiet time after a missing or damaged answer: the rest of it may still come, and nothing in an answer says which
register it is about."""
_EXCEPTION_BYTES = 5
_PORT_ERRORS = (serial.SerialException, OSError, termios.error)
"""What pyserial lets through when a device goes away; ``termios.error`` is no OSError."""
_PROBED_SLAVES = range(1, 17)
_PROBE_TIMEOUT_S = 0.05
"""Longer than a USB adapter holds bytes back (16 ms when its latency timer was left as it is)."""


class RegisterLink(Protocol):
    """A way to the gripper's registers, used by one thread at a time.

    Reading and writing raise `GripperSilentError` when no valid answer comes, `GripperRefusedError` when the slave
    answers with an exception and `GripperPortError` when the way itself is gone and must be opened again.
    """

    def read(self, address: Register) -> int:
        """One register."""
        ...

    def read_block(self, address: Register, *, count: int) -> list[int]:
        """``count`` registers from ``address`` on, in as few accesses as this way allows."""
        ...

    def write(self, address: Register, *, value: int) -> None:
        """Write one register."""
        ...

    def pause_s(self) -> float:
        """How long the next access should wait so that it disturbs nobody."""
        ...

    def poll_period_s(self, wanted_s: float) -> float:
        """How often the state may be read now, given how often the rig's file asks for it."""
        ...

    def diagnose(self, error: GripperSilentError) -> GripperSilentError:
        """What a silence from the very start means: a more precise error where one can be found, else ``error``."""
        ...

    def close(self) -> None:
        """Give the way back."""
        ...


class ModbusLink:
    """The serial port to one slave. Used by one thread at a time. Raises `GripperPortError` if it cannot be opened."""

    def __init__(self, port: str, *, baudrate: int, slave_id: int) -> None:
        self.port = port
        self.slave_id = slave_id
        self.bad_frames = 0
        self.timeouts = 0
        self._free_at_s = 0.0
        self._last_problem = "nothing was sent yet"
        try:
            self._serial = serial.Serial(
                port, baudrate=baudrate, timeout=REPLY_TIMEOUT_S, write_timeout=REPLY_TIMEOUT_S, exclusive=True
            )
        except _PORT_ERRORS as error:
            raise GripperPortError(
                f"expected the gripper's serial port at {port}, cannot open it ({error}): check the USB-RS485 adapter, "
                "gripper.port in the rig file and that no other program uses it (for the twin: is launch/twin running?)"
            ) from None

    def read(self, address: Register) -> int:
        """One register; `GripperSilentError` after the last attempt, `GripperPortError` if the port has gone."""
        request = read_request(self.slave_id, address=address)
        for _ in range(ATTEMPTS):
            frame = self._transact(request, reply_bytes=read_reply_length(1))
            try:
                return parse_read_reply(frame, slave_id=self.slave_id, count=1)[0]
            except ModbusExceptionReply as refused:
                raise GripperRefusedError(f"reading register {address:#06x} of the gripper: {refused}") from None
            except ModbusFrameError as error:
                self._count(frame, error)
        raise self._silent(f"reading register {address:#06x}")

    def read_block(self, address: Register, *, count: int) -> list[int]:
        """``count`` registers, one after the other: the manual shows reads of one register only."""
        return [self.read(Register(address + offset)) for offset in range(count)]

    def write(self, address: Register, *, value: int) -> None:
        """Write one register and check the echo; errors as in `read`. The value is absolute, so a retry is harmless."""
        request = write_request(self.slave_id, address=address, value=value)
        for _ in range(ATTEMPTS):
            frame = self._transact(request, reply_bytes=len(request))
            try:
                parse_write_reply(frame, request=request)
                return
            except ModbusExceptionReply as refused:
                raise GripperRefusedError(f"writing {value} to register {address:#06x}: {refused}") from None
            except ModbusFrameError as error:
                self._count(frame, error)
        raise self._silent(f"writing {value} to register {address:#06x}")

    def pause_s(self) -> float:
        """None: this line is the gripper's own, and `_transact` keeps the quiet time between frames."""
        return 0.0

    def poll_period_s(self, wanted_s: float) -> float:
        """As wanted."""
        return wanted_s

    def diagnose(self, error: GripperSilentError) -> GripperSilentError:
        """Name the CAN box (a USB modem device, not Modbus) and a slave that answers under another id (1 to 16)."""
        if is_can_box(self.port):
            return GripperVariantError(
                f"{error}. {self.port} is a USB modem device (ttyACM): the AG-95 with the CAN box looks like that, and "
                "it speaks no Modbus. Connect the gripper's RS-485 wires to a USB-RS485 adapter (ttyUSB) instead"
            )
        other = self._answering_slave()
        if other is None:
            return error
        return GripperSlaveIdError(
            f"expected the gripper as slave {self.slave_id} on {self.port}, slave {other} answers there: "
            f"put gripper.slave_id: {other} into the rig file"
        )

    def close(self) -> None:
        """Give the port back."""
        with contextlib.suppress(*_PORT_ERRORS):
            self._serial.close()

    def _answering_slave(self) -> int | None:
        self._serial.timeout = _PROBE_TIMEOUT_S
        try:
            for slave_id in _PROBED_SLAVES:
                request = read_request(slave_id, address=Register.INIT_STATE)
                frame = self._transact(request, reply_bytes=read_reply_length(1))
                with contextlib.suppress(ModbusFrameError, ModbusExceptionReply, IndexError):
                    answering = frame[0]  # a late answer to an earlier probe is as good
                    parse_read_reply(frame, slave_id=answering, count=1)
                    return answering
        finally:
            self._serial.timeout = REPLY_TIMEOUT_S
        return None

    def _transact(self, request: bytes, *, reply_bytes: int) -> bytes:
        time.sleep(max(0.0, self._free_at_s - time.monotonic()))
        try:
            self._serial.reset_input_buffer()  # what an earlier, late answer left would be taken for this one
            self._serial.write(request)
            frame = self._serial.read(_EXCEPTION_BYTES)
            if len(frame) == _EXCEPTION_BYTES and not frame[1] & EXCEPTION_FLAG:
                frame += self._serial.read(reply_bytes - _EXCEPTION_BYTES)
        except _PORT_ERRORS as error:
            raise GripperPortError(f"the gripper's serial port {self.port} failed: {error}") from None
        finally:
            self._free_at_s = time.monotonic() + IDLE_BETWEEN_S
        return frame

    def _count(self, frame: bytes, error: ModbusFrameError) -> None:
        self._last_problem = str(error)
        self._free_at_s = time.monotonic() + IDLE_AFTER_FAILURE_S
        if frame:
            self.bad_frames += 1
        else:
            self.timeouts += 1

    def _silent(self, what: str) -> GripperSilentError:
        return GripperSilentError(
            f"expected an answer from the gripper (slave {self.slave_id} on {self.port}) when {what}, got none that is "
            f"valid in {ATTEMPTS} attempts (last: {self._last_problem}): check its 24 V supply, the RS-485 wires and "
            "gripper.slave_id and gripper.baudrate in the rig file"
        )


def is_can_box(port: str) -> bool:
    """Whether a serial device is what the AG-95's CAN box shows up as."""
    return Path(port).resolve().name.startswith("ttyACM")
