"""One Modbus-RTU master on a serial port: a request, its answer, bounded retries. Nothing else happens on the line."""

import contextlib
import time

import serial

from robot.gripper.errors import GripperPortError, GripperRefusedError, GripperSilentError
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
        except (serial.SerialException, OSError) as error:
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

    def close(self) -> None:
        """Give the port back."""
        with contextlib.suppress(serial.SerialException, OSError):
            self._serial.close()

    def _transact(self, request: bytes, *, reply_bytes: int) -> bytes:
        time.sleep(max(0.0, self._free_at_s - time.monotonic()))
        try:
            self._serial.reset_input_buffer()  # what an earlier, late answer left would be taken for this one
            self._serial.write(request)
            frame = self._serial.read(_EXCEPTION_BYTES)
            if len(frame) == _EXCEPTION_BYTES and not frame[1] & EXCEPTION_FLAG:
                frame += self._serial.read(reply_bytes - _EXCEPTION_BYTES)
        except (serial.SerialException, OSError) as error:
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
