"""Whatever a controller, or something else on its ports, sends: named errors only, no hang, bounded memory."""

import contextlib
import json
import socket
import threading
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from robot.arm.alarm_text import AlarmTextError, parse_alarm_texts
from robot.arm.connection import DashboardConnection
from robot.arm.errors import ArmError
from robot.arm.feedback import PacketStream, decode
from robot.arm.protocol import (
    FEEDBACK_BYTES,
    FEEDBACK_MAGIC,
    MAGIC_OFFSET,
    NOT_TCP_TEXT,
    OCCUPIED_TEXT,
    ProtocolError,
    find_feedback_start,
    parse_reply,
)

MAGIC = FEEDBACK_MAGIC.to_bytes(8, "little")
LENGTH = FEEDBACK_BYTES.to_bytes(2, "little")
PACKET = (LENGTH + bytes(MAGIC_OFFSET - 2) + MAGIC).ljust(FEEDBACK_BYTES, b"\0")

reply_like = st.one_of(
    st.text(max_size=300),
    st.text(alphabet="0123456789-,{}[]();=.eEnaNiInfF \t\r\n", max_size=300),
    st.integers(0, 5000).map(lambda count: "9" * count + ",{},X()"),
    st.integers(0, 3000).map(lambda depth: "0," + "{" * depth),
    st.lists(st.sampled_from(["1", "-2.5", "nan", "inf", "1e999", "[", "]", "{1}", "x", ""]), max_size=6).map(
        lambda values: f"0,{{{','.join(values)}}},X()"
    ),
)


@given(reply_like)
def test_a_reply_parses_to_finite_numbers_or_a_protocol_error(text):
    with contextlib.suppress(ProtocolError):
        for number in parse_reply(text).numbers():
            assert abs(number) < float("inf")


chunks = st.lists(
    st.one_of(
        st.binary(max_size=200),
        st.sampled_from([MAGIC, LENGTH, PACKET, PACKET[:700], PACKET[700:], 3 * PACKET, LENGTH + bytes(46) + MAGIC]),
    ),
    max_size=12,
)


@given(chunks)
def test_the_packet_reader_holds_less_than_one_packet_and_gives_only_whole_ones(parts):
    stream = PacketStream()
    for part in parts:
        packet = stream.feed(part)
        if packet is not None:
            assert decode(packet, receive_ns=0).packet == packet
        assert len(stream._buffer) < FEEDBACK_BYTES
    assert find_feedback_start(b"".join(parts)) >= -1


@given(chunks)
def test_two_whole_packets_in_a_row_are_found_behind_anything(parts):
    stream = PacketStream()
    for part in parts:
        stream.feed(part)
    seen = [stream.feed(PACKET) for _ in range(3)]
    assert PACKET in seen


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "description", "x"]), inner),
    max_leaves=10,
)


@given(st.one_of(st.binary(max_size=200), json_values.map(lambda value: json.dumps({"errMsg": value}).encode())))
def test_alarm_texts_parse_or_are_refused_by_name(content):
    with contextlib.suppress(AlarmTextError):
        for alarm_id, text in parse_alarm_texts(content).items():
            assert text.alarm_id == alarm_id
            assert len(str(text)) < 1000


class Babbler:
    """Listens like a controller, and answers every request with the same bytes."""

    def __init__(self, answer):
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        client, _ = self._listener.accept()
        with client, contextlib.suppress(OSError):
            client.recv(4096)
            client.sendall(self._answer)
            client.shutdown(socket.SHUT_WR)
            while client.recv(4096):
                pass

    def close(self):
        self._listener.close()
        self._thread.join(5.0)
        assert not self._thread.is_alive()


answers = st.one_of(
    st.binary(max_size=400),
    reply_like.map(lambda text: text.encode()),
    st.lists(
        st.sampled_from(["0,{", "}", ";", NOT_TCP_TEXT + "\t", OCCUPIED_TEXT, "0,{},RobotMode();"]), max_size=6
    ).map(lambda parts: "".join(parts).encode()),
)


@settings(max_examples=40, deadline=None)
@given(answers)
def test_a_connection_that_is_told_nonsense_ends_in_a_named_error(answer):
    babbler = Babbler(answer)
    started_s = time.monotonic()
    try:
        with DashboardConnection("127.0.0.1", port=babbler.port) as connection, contextlib.suppress(ArmError):
            connection.call("RobotMode()", timeout_s=5.0)
    finally:
        babbler.close()
    assert time.monotonic() - started_s < 5.0
