"""The controller's real-time feedback (port 30004): 1440-byte packets every 8 ms, turned into SI values.

A reader that does not drain the socket sees the past; this one always goes on with the newest complete packet, finds
the packet boundary again by the magic number when bytes were lost, and calls a controller whose time stamp stands still
as dead as one that says nothing.
"""

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import pi

import numpy as np

from robot.arm.errors import ArmConnectionError
from robot.arm.protocol import (
    FEEDBACK_BYTES,
    FEEDBACK_DTYPE,
    FEEDBACK_MAGIC,
    FEEDBACK_PERIOD_S,
    MAGIC_OFFSET,
    RobotMode,
    decode_feedback,
    find_feedback_start,
)
from robot.clock import seconds_to_ns

STALE_PERIODS = 5
STALE_NS = seconds_to_ns(STALE_PERIODS * FEEDBACK_PERIOD_S)
_RAD_PER_DEG = pi / 180.0
_RECEIVE_BYTES = 128 * 1024
_MAGIC = FEEDBACK_MAGIC.to_bytes(8, "little")
_LENGTH = FEEDBACK_BYTES.to_bytes(2, "little")
_DRAIN_S = 0.2
_QUIET_S = 0.003
_CATCH_UP_NS = seconds_to_ns(1.0)
_OLD_NS = seconds_to_ns(2 * FEEDBACK_PERIOD_S)
_RECONNECT_S = 0.25
_POLL_S = 0.1


@dataclass(frozen=True)
class ArmFeedback:
    """One feedback packet in SI units: arrays are (6,) float64, forces in the order x y z (N) rx ry rz (N·m).

    ``robot_mode`` is kept as the number sent, so that an undocumented mode reaches those who must refuse it.
    """

    receive_ns: int
    controller_time_ms: int
    robot_mode: int
    joints_rad: np.ndarray
    joint_speed_rad_s: np.ndarray
    joint_torque_nm: np.ndarray
    target_rad: np.ndarray
    tcp_force_n: np.ndarray
    robot_type: int
    command_id: int
    enabled: bool
    error: bool
    collision: bool
    drag: bool
    packet: bytes = field(repr=False)
    """The packet as received, for what is looked at seldom: see `robot.arm.protocol.decode_feedback`."""


def is_completed(command_id: int, feedback: ArmFeedback) -> bool:
    """Whether the controller has finished the queue command of that id (V4.6.5 guide's rule)."""
    later = feedback.command_id > command_id
    return later or (feedback.command_id == command_id and feedback.robot_mode == RobotMode.ENABLE)


def decode(packet: bytes, *, receive_ns: int) -> ArmFeedback:
    """One packet as `ArmFeedback`; `ProtocolError` if its length or magic number is wrong."""
    if len(packet) != FEEDBACK_BYTES or not _is_packet_at(packet, 0):
        decode_feedback(packet)  # says what is wrong
    return ArmFeedback(
        receive_ns=receive_ns,
        controller_time_ms=_unsigned(packet, "time_stamp"),
        robot_mode=_unsigned(packet, "robot_mode"),
        joints_rad=_six(packet, "q_actual") * _RAD_PER_DEG,
        joint_speed_rad_s=_six(packet, "qd_actual") * _RAD_PER_DEG,
        joint_torque_nm=_six(packet, "m_actual").copy(),
        target_rad=_six(packet, "q_target") * _RAD_PER_DEG,
        tcp_force_n=_six(packet, "tcp_force").copy(),
        robot_type=packet[_OFFSETS["robot_type"]],
        command_id=_unsigned(packet, "current_command_id"),
        enabled=bool(packet[_OFFSETS["enable_status"]]),
        error=bool(packet[_OFFSETS["error_status"]]),
        collision=bool(packet[_OFFSETS["collision_state"]]),
        drag=bool(packet[_OFFSETS["drag_status"]]),
        packet=packet,
    )


# Field by field: taking the whole record apart through numpy costs ten times as much, 125 times a second.
_OFFSETS = {name: int(field[1]) for name, field in (FEEDBACK_DTYPE.fields or {}).items()}


def _six(packet: bytes, name: str) -> np.ndarray:
    return np.frombuffer(packet, "<f8", count=6, offset=_OFFSETS[name])


def _unsigned(packet: bytes, name: str) -> int:
    return int.from_bytes(packet[_OFFSETS[name] : _OFFSETS[name] + 8], "little")


def _is_packet_at(buffer: bytes, start: int) -> bool:
    magic_at = start + MAGIC_OFFSET
    magic_end = magic_at + len(_MAGIC)
    if buffer[start : start + 2] != _LENGTH or buffer[magic_at:magic_end] != _MAGIC:
        return False
    # One that lost its end has the beginning of the next one inside: its header is right, its values are not.
    return buffer.find(_MAGIC, magic_end, start + FEEDBACK_BYTES) < 0


class PacketStream:
    """Bytes in, newest packet out. Pure: no socket, no clock."""

    def __init__(self) -> None:
        self._buffer = b""
        self.packets = 0
        self.skipped_packets = 0
        self.resyncs = 0

    def feed(self, received: bytes) -> bytes | None:
        """Add bytes; returns the newest complete packet among them, or None."""
        self._buffer += received
        newest = None
        while len(self._buffer) >= FEEDBACK_BYTES:
            whole = len(self._buffer) // FEEDBACK_BYTES
            start = (whole - 1) * FEEDBACK_BYTES
            if self._is_packet(0) and self._is_packet(start):
                newest = self._buffer[start : start + FEEDBACK_BYTES]
                self.packets += whole
                self.skipped_packets += whole - 1
                self._buffer = self._buffer[whole * FEEDBACK_BYTES :]
                continue
            if self._is_packet(0):  # aligned at the front, lost further on: go packet by packet
                newest = self._buffer[:FEEDBACK_BYTES]
                self.packets += 1
                self._buffer = self._buffer[FEEDBACK_BYTES:]
                continue
            self.resyncs += 1
            found = find_feedback_start(self._buffer[1:])
            if found < 0:
                # Keep what may be the beginning of a packet whose magic number has not arrived whole.
                self._buffer = self._buffer[-(MAGIC_OFFSET + len(_MAGIC) - 1) :]
                break
            self._buffer = self._buffer[1 + found :]
        return newest

    def clear(self) -> None:
        """Forget a half packet, because its rest will never come."""
        self._buffer = b""

    def _is_packet(self, start: int) -> bool:
        return _is_packet_at(self._buffer, start)


@dataclass(frozen=True)
class FeedbackStatistics:
    """What the reader has seen so far."""

    packets: int
    skipped_packets: int
    resyncs: int
    reconnects: int


class FeedbackReader:
    """A thread that keeps the newest `ArmFeedback` and hands each one to whoever subscribed.

    It may connect again by itself after a loss, with a pause, because reading commands nothing; whether motion may go
    on after a gap is for robotd to say. Raises `ArmConnectionError` if the first connection fails.
    """

    def __init__(
        self,
        host: str,
        *,
        port: int,
        connect_timeout_s: float = 3.0,
    ) -> None:
        self.host, self.port = host, port
        self._on_feedback: Callable[[ArmFeedback], None] | None = None
        self._packets = PacketStream()
        self._reconnects = 0
        self._latest: ArmFeedback | None = None
        self._catching_up_until_ns = 0
        self._delay_ns = 0
        self._alive_ns = time.monotonic_ns()
        self._arrived = threading.Condition()
        self._closing = threading.Event()
        self._socket = self._connect(connect_timeout_s)
        self._thread = threading.Thread(target=self._run, name="feedback-reader", daemon=True)
        self._thread.start()

    def __enter__(self) -> "FeedbackReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def subscribe(self, on_feedback: Callable[[ArmFeedback], None]) -> None:
        """Call ``on_feedback`` with every packet from now on, in the reader's thread."""
        self._on_feedback = on_feedback

    @property
    def latest(self) -> ArmFeedback | None:
        """The newest packet, however old; see `age_ns`."""
        return self._latest

    @property
    def statistics(self) -> FeedbackStatistics:
        packets = self._packets
        return FeedbackStatistics(packets.packets, packets.skipped_packets, packets.resyncs, self._reconnects)

    def age_ns(self, now_ns: int | None = None) -> int:
        """Time since the controller last proved to be alive: a packet with a new time stamp."""
        return (time.monotonic_ns() if now_ns is None else now_ns) - self._alive_ns

    @property
    def stale(self) -> bool:
        """True when nothing new has come for five periods."""
        return self._latest is None or self.age_ns() > STALE_NS

    def wait(self, *, timeout_s: float) -> ArmFeedback:
        """The next packet to arrive; `ArmConnectionError` if none does in time."""
        with self._arrived:
            before = self._latest
            if not self._arrived.wait_for(lambda: self._latest is not before, timeout=timeout_s):
                raise ArmConnectionError(
                    f"expected feedback every {FEEDBACK_PERIOD_S * 1e3:g} ms from {self.host}:{self.port}, got none "
                    f"for {timeout_s:g} s: is another program reading that port, or is the controller still starting?"
                )
            assert self._latest is not None
            return self._latest

    def close(self) -> None:
        """End the thread and close the socket. Closing twice is fine."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=2.0)
        self._socket.close()

    def _connect(self, timeout_s: float) -> socket.socket:
        try:
            connection = socket.create_connection((self.host, self.port), timeout=timeout_s)
        except OSError as error:
            raise ArmConnectionError(
                f"expected the arm's feedback at {self.host}:{self.port}, got no connection ({error}): "
                "check the address in the rig file (for the twin: is launch/twin running?)"
            ) from None
        connection.settimeout(_POLL_S)
        return connection

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                received = self._socket.recv(_RECEIVE_BYTES)
                receive_ns = time.monotonic_ns()
            except TimeoutError:
                continue
            except OSError:
                received = b""
            if not received:
                self._reconnect()
                continue
            packet = self._packets.feed(received)
            if len(received) > 2 * FEEDBACK_BYTES:
                packet = self._drain() or packet
                receive_ns = time.monotonic_ns()
                self._catching_up_until_ns = receive_ns + _CATCH_UP_NS
            if packet is not None:
                feedback = decode(packet, receive_ns=receive_ns)
                if not self._is_old(feedback):
                    self._publish(feedback)

    def _is_old(self, feedback: ArmFeedback) -> bool:
        """Whether a packet that comes after a stall is from the time of the stall, by the delay of those before it.

        The sender may have paused because nobody read, so even the newest packet there is can be old. The comparison
        ends after `_CATCH_UP_NS`: the controller's clock may have been set meanwhile.
        """
        delay_ns = feedback.receive_ns - feedback.controller_time_ms * 1_000_000
        if feedback.receive_ns < self._catching_up_until_ns and delay_ns - self._delay_ns > _OLD_NS:
            return True
        self._catching_up_until_ns = 0
        self._delay_ns = delay_ns
        return False

    def _drain(self) -> bytes | None:
        """The newest of all the packets that are on their way: this side was stalled, and both ends' buffers are full
        of old ones. It has come when the line is quiet for a moment that is short beside the period."""
        newest = None
        deadline_s = time.monotonic() + _DRAIN_S
        while time.monotonic() < deadline_s and select.select([self._socket], [], [], _QUIET_S)[0]:
            try:
                received = self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except OSError:  # the end: the next read will tell
                break
            if not received:
                break
            newest = self._packets.feed(received) or newest
        return newest

    def _reconnect(self) -> None:
        self._socket.close()
        self._packets.clear()
        while not self._closing.wait(_RECONNECT_S):
            try:
                self._socket = self._connect(1.0)
            except ArmConnectionError:
                continue
            self._reconnects += 1
            return

    def _publish(self, feedback: ArmFeedback) -> None:
        with self._arrived:
            if self._latest is None or feedback.controller_time_ms != self._latest.controller_time_ms:
                self._alive_ns = feedback.receive_ns
            self._latest = feedback
            self._arrived.notify_all()
        if self._on_feedback is not None:
            self._on_feedback(feedback)
