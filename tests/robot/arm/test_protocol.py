"""The Dobot V4 grammar and packet."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot.arm.protocol import (
    FEEDBACK_BYTES,
    FEEDBACK_DTYPE,
    FEEDBACK_MAGIC,
    ProtocolError,
    decode_feedback,
    find_feedback_start,
    format_reply,
    is_unterminated_text,
    parse_reply,
)


def packet(*, joints_deg: float = 1.0) -> bytes:
    record = np.zeros((), FEEDBACK_DTYPE)
    record["len"], record["test_value"], record["q_actual"] = FEEDBACK_BYTES, FEEDBACK_MAGIC, joints_deg
    return record.tobytes()


@pytest.mark.parametrize(
    ("text", "error_id", "values", "echo"),
    [
        ("0,{},EnableRobot()", 0, "", "EnableRobot()"),
        ("0,{5},RobotMode()", 0, "5", "RobotMode()"),
        ("0,{[[116],[],[],[],[],[],[]]},GetErrorID()", 0, "[[116],[],[],[],[],[],[]]", "GetErrorID()"),
        ("-40001,{},SetTool(51,{1,2,3,4,5,6})", -40001, "", "SetTool(51,{1,2,3,4,5,6})"),
        ("0,{{1,2},{3}},GetStartPose(a)\n", 0, "{1,2},{3}", "GetStartPose(a)"),
        ("-2,{not tcp mode or system is starting},Cmd()", -2, "not tcp mode or system is starting", "Cmd()"),
    ],
)
def test_a_reply_is_taken_apart(text: str, error_id: int, values: str, echo: str) -> None:
    reply = parse_reply(text)
    assert (reply.error_id, reply.values, reply.echo) == (error_id, values, echo)


def test_format_and_parse_are_inverse() -> None:
    wire = format_reply(0, values="1.5,-2", echo="GetAngle()")
    assert wire.endswith(b";")
    assert parse_reply(wire.decode()[:-1]).numbers() == [1.5, -2.0]


@given(st.text(max_size=200))
def test_any_text_is_a_reply_or_a_named_error(text: str) -> None:
    with contextlib.suppress(ProtocolError):
        assert parse_reply(text).numbers() is not None


@pytest.mark.parametrize(
    ("buffer", "expected"),
    [
        (b"Control Mode Is Not Tcp\t", True),
        (b"Connection refused, IP:Port has been occupied", True),
        (b"0,{},EnableRobot()", False),
        (b"-1,{},X()", False),
        (b"", False),
    ],
)
def test_texts_that_never_end_in_a_semicolon_are_recognised(buffer: bytes, expected: bool) -> None:
    assert is_unterminated_text(buffer) is expected


def test_the_packet_has_the_documented_offsets() -> None:
    assert FEEDBACK_DTYPE.itemsize == 1440
    for name, offset in {"robot_mode": 24, "test_value": 48, "q_actual": 432, "tool_vector_actual": 624}.items():
        assert FEEDBACK_DTYPE.fields is not None
        assert FEEDBACK_DTYPE.fields[name][1] == offset


def test_a_packet_is_decoded_into_a_private_copy() -> None:
    buffer = bytearray(packet(joints_deg=12.5))
    record = decode_feedback(memoryview(buffer))
    buffer[:] = bytes(FEEDBACK_BYTES)
    assert np.all(record["q_actual"] == 12.5)


@pytest.mark.parametrize("broken", [b"", packet()[:-1], bytes(FEEDBACK_BYTES), packet()[1:] + b"\0"])
def test_a_broken_packet_is_refused(broken: bytes) -> None:
    with pytest.raises(ProtocolError, match="expected"):
        decode_feedback(broken)


@given(st.binary(max_size=200))
def test_the_start_of_a_packet_is_found_behind_garbage(garbage: bytes) -> None:
    start = find_feedback_start(garbage + packet() + packet())
    assert start >= 0
    assert decode_feedback((garbage + packet() + packet())[start : start + FEEDBACK_BYTES]) is not None


def test_no_start_is_found_in_garbage_alone() -> None:
    assert find_feedback_start(bytes(5000)) == -1
