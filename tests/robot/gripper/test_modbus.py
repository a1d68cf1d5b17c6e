"""Modbus-RTU frames, against the vendor's examples."""

import contextlib
import os
import tty

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.gripper.errors import GripperError
from robot.gripper.link import ModbusLink
from robot.gripper.modbus import (
    ModbusExceptionReply,
    ModbusFrameError,
    Register,
    parse_read_reply,
    parse_write_reply,
    read_request,
    with_crc,
    write_request,
)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (write_request(1, address=Register.INITIALISE, value=1), "01 06 01 00 00 01 49 f6"),
        (write_request(1, address=Register.INITIALISE, value=0xA5), "01 06 01 00 00 a5 48 4d"),
        (write_request(1, address=Register.TARGET_PERMILLE, value=500), "01 06 01 03 01 f4 78 21"),
        (read_request(1, address=Register.INIT_STATE), "01 03 02 00 00 01 85 b2"),
    ],
)
def test_requests_are_the_bytes_of_the_manual(frame: bytes, expected: str) -> None:
    assert frame.hex(" ") == expected


@given(slave=st.integers(1, 247), values=st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=8))
def test_registers_survive_the_wire(slave: int, values: list[int]) -> None:
    body = bytes([slave, 3, 2 * len(values)]) + b"".join(value.to_bytes(2, "big") for value in values)
    assert parse_read_reply(with_crc(body), slave_id=slave, count=len(values)) == values


@given(position=st.integers(0, 6), bit=st.integers(0, 7))
def test_one_flipped_bit_is_never_taken_for_an_answer(position: int, bit: int) -> None:
    reply = bytearray(with_crc(bytes([1, 3, 2, 1, 44])))
    reply[position] ^= 1 << bit
    with pytest.raises((ModbusFrameError, ModbusExceptionReply)):
        parse_read_reply(bytes(reply), slave_id=1, count=1)


@given(st.binary(max_size=40))
def test_any_bytes_end_in_a_named_error_or_an_answer(data: bytes) -> None:
    with contextlib.suppress(ModbusFrameError, ModbusExceptionReply):
        assert len(parse_read_reply(data, slave_id=1, count=1)) == 1


def test_another_slave_is_named() -> None:
    with pytest.raises(ModbusFrameError, match="expected an answer from slave 1, got one from slave 2"):
        parse_read_reply(with_crc(bytes([2, 3, 2, 0, 0])), slave_id=1, count=1)


def test_an_exception_reply_is_named() -> None:
    with pytest.raises(ModbusExceptionReply, match="illegal data address"):
        parse_read_reply(with_crc(bytes([1, 0x83, 2])), slave_id=1, count=1)


def test_a_write_must_be_echoed_exactly() -> None:
    request = write_request(1, address=Register.TARGET_PERMILLE, value=500)
    parse_write_reply(request, request=request)
    with pytest.raises(ModbusFrameError, match="expected the echo"):
        parse_write_reply(write_request(1, address=Register.TARGET_PERMILLE, value=501), request=request)


@settings(max_examples=15, deadline=None)
@given(data=st.binary(max_size=300))
def test_a_line_full_of_noise_ends_in_a_named_error_and_reads_no_more_than_an_answer(data: bytes) -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    link = ModbusLink(os.ttyname(slave), baudrate=115200, slave_id=1)
    link._serial.timeout = 0.002
    try:
        os.write(master, data)
        frame = link._transact(read_request(1, address=Register.INIT_STATE), reply_bytes=7)
        assert len(frame) <= 7
        with contextlib.suppress(GripperError):
            assert 0 <= link.read(Register.INIT_STATE) <= 0xFFFF
    finally:
        link.close()
        os.close(master)
        os.close(slave)
