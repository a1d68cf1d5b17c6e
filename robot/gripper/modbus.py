"""Modbus-RTU framing and the AG-95's registers, for the driver and for the twin alike.

Only function codes 0x03 (read holding registers) and 0x06 (write single register) are used. Registers: DH-Robotics
AG-95 manual; positions are per mille of the stroke with 0 closed and 1000 open.
"""

import struct
from enum import IntEnum

READ_HOLDING = 0x03
WRITE_SINGLE = 0x06
EXCEPTION_FLAG = 0x80


class Register(IntEnum):
    """Register addresses of the AG-95."""

    INITIALISE = 0x0100
    FORCE_PERCENT = 0x0101
    TARGET_PERMILLE = 0x0103
    SPEED_PERCENT = 0x0104
    INIT_STATE = 0x0200
    GRIP_STATE = 0x0201
    POSITION_PERMILLE = 0x0202
    CURRENT = 0x0204
    SAVE = 0x0300
    INIT_DIRECTION = 0x0301
    SLAVE_ID = 0x0302
    BAUD = 0x0303
    STOP_BITS = 0x0304
    PARITY = 0x0305


GRIPPER_STATE_REGISTERS = (Register.GRIP_STATE, Register.POSITION_PERMILLE)
"""What a poll reads; they follow each other."""


class InitState(IntEnum):
    """Values of `Register.INIT_STATE`."""

    NOT_INITIALISED = 0
    DONE = 1
    IN_PROGRESS = 2


class GripState(IntEnum):
    """Values of `Register.GRIP_STATE`."""

    MOVING = 0
    REACHED = 1
    CAUGHT = 2
    DROPPED = 3


INITIALISE_NORMAL = 0x01
INITIALISE_FULL = 0xA5


class ModbusFrameError(ValueError):
    """A frame with a wrong length, address, function code or CRC."""


class ModbusExceptionReply(RuntimeError):
    """The slave answered with an exception code."""

    def __init__(self, function: int, code: int) -> None:
        names = {1: "illegal function", 2: "illegal data address", 3: "illegal data value", 4: "slave device failure"}
        super().__init__(f"slave refused function {function:#04x}: {names.get(code, 'exception')} ({code})")
        self.code = code


def crc16(data: bytes) -> int:
    """CRC-16/MODBUS of ``data`` (polynomial 0xA001 reflected, start 0xFFFF); sent low byte first."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
    return crc


def with_crc(body: bytes) -> bytes:
    """``body`` with its CRC appended."""
    return body + struct.pack("<H", crc16(body))


def read_request(slave_id: int, *, address: int, count: int = 1) -> bytes:
    """The 8 bytes that ask for ``count`` holding registers from ``address``."""
    return with_crc(struct.pack(">BBHH", slave_id, READ_HOLDING, address, count))


def write_request(slave_id: int, *, address: int, value: int) -> bytes:
    """The 8 bytes that write one register; the slave's reply is an echo of them."""
    return with_crc(struct.pack(">BBHH", slave_id, WRITE_SINGLE, address, value))


def read_reply_length(count: int) -> int:
    """Bytes of the reply to a read of ``count`` registers."""
    return 5 + 2 * count


def parse_read_reply(frame: bytes, *, slave_id: int, count: int) -> list[int]:
    """Registers of a read reply; `ModbusFrameError` or `ModbusExceptionReply` otherwise."""
    _check(frame, slave_id=slave_id, function=READ_HOLDING)
    if len(frame) != read_reply_length(count) or frame[2] != 2 * count:
        raise ModbusFrameError(f"expected {count} registers ({read_reply_length(count)} bytes), got {frame.hex(' ')}")
    return list(struct.unpack(f">{count}H", frame[3:-2]))


def parse_write_reply(frame: bytes, *, request: bytes) -> None:
    """Check that ``frame`` echoes ``request``; `ModbusFrameError` or `ModbusExceptionReply` otherwise."""
    _check(frame, slave_id=request[0], function=WRITE_SINGLE)
    if frame != request:
        raise ModbusFrameError(f"expected the echo {request.hex(' ')}, got {frame.hex(' ')}")


def _check(frame: bytes, *, slave_id: int, function: int) -> None:
    if len(frame) < 5:
        raise ModbusFrameError(f"expected at least 5 bytes, got {frame.hex(' ') or 'nothing'}")
    if struct.unpack("<H", frame[-2:])[0] != crc16(frame[:-2]):
        raise ModbusFrameError(f"CRC does not match in {frame.hex(' ')}")
    if frame[0] != slave_id:
        raise ModbusFrameError(f"expected an answer from slave {slave_id}, got one from slave {frame[0]}")
    if frame[1] == function | EXCEPTION_FLAG:
        raise ModbusExceptionReply(function, frame[2])
    if frame[1] != function:
        raise ModbusFrameError(f"expected function {function:#04x}, got {frame[1]:#04x}")
