"""One connection to the controller's dashboard port (29999): requests out, replies matched to them, nothing sent twice.

A lost connection stays lost; making a new object is the caller's decision. `robot.arm.dashboard` puts the commands'
names on top of this.
"""

import contextlib
import select
import socket
import threading
import time
from typing import Self

from robot.arm.errors import (
    ArmConnectionError,
    ArmError,
    CommandTimeoutError,
    NotTcpModeError,
    PortOccupiedError,
    ReplyLostError,
    refusal,
)
from robot.arm.pending import Counts, DashboardStatistics, Pending, Stream
from robot.arm.protocol import (
    NOT_TCP_TEXT,
    OCCUPIED_TEXT,
    V3_NOT_TCP_TEXT,
    ErrorCode,
    ProtocolError,
    Reply,
    is_unterminated_text,
    parse_reply,
)
from robot.clock import seconds_to_ns

DEFAULT_TIMEOUT_S = 6.0
"""The first reply after a long idle time has been seen to take seconds."""
_MAX_BUFFER = 64 * 1024
_POLL_S = 0.1
_TEXT_QUIET_S = 0.3
_SERVO_REPLY_LOST_NS = 2_000_000_000
_LATE_REPLY_LOST_NS = 10_000_000_000
_STREAMING_NS = 200_000_000


class DashboardConnection:
    """One connection to the dashboard port of the controller at ``host``. Closes with the context.

    ``max_servo_outstanding`` bounds the set-points without a reply: when it is reached a set-point is skipped and
    counted, because a burst of stale targets later is worse than a missing one now. Raises `ArmConnectionError` if the
    address does not answer and `PortOccupiedError` if the controller says that it serves somebody else.
    """

    def __init__(
        self, host: str, *, port: int, connect_timeout_s: float = 3.0, max_servo_outstanding: int = 12
    ) -> None:
        self.host, self.port = host, port
        self._max_outstanding = max_servo_outstanding
        self._stream = Stream()
        self._counts = Counts()
        self._closing = threading.Event()
        self._last_servo_ns = -_STREAMING_NS
        try:
            self._socket = socket.create_connection((host, port), timeout=connect_timeout_s)
        except OSError as error:
            raise ArmConnectionError(
                f"expected the arm's controller at {host}:{port}, got no connection ({error}): "
                "check its power, the cable and the address in the rig file (for the twin: is launch/twin running?)"
            ) from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(_POLL_S)
        self._reader = threading.Thread(target=self._read_replies, name="dashboard-reader", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; requests in flight fail. Closing twice is fine."""
        self._closing.set()
        self._break(ArmConnectionError("the dashboard connection was closed by this side"))
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._reader:
            self._reader.join(timeout=2.0)
        self._socket.close()

    @property
    def broken(self) -> ArmError | None:
        """Why the connection is unusable, or None while it is fine."""
        return self._stream.broken

    @property
    def statistics(self) -> DashboardStatistics:
        with self._stream.lock:
            return DashboardStatistics(servo_outstanding=self._stream.servo_outstanding, **vars(self._counts))

    @property
    def is_streaming(self) -> bool:
        """Whether a set-point was sent within the last 0.2 s: whatever else is asked now delays the next ones."""
        return time.monotonic_ns() - self._last_servo_ns < _STREAMING_NS

    @property
    def requests_outstanding(self) -> int:
        """Requests other than set-points whose reply has neither come nor been given up."""
        with self._stream.lock:
            self._forget_lost_replies(time.monotonic_ns())
            return sum(not entry.is_servo for entry in self._stream.pending)

    def call(self, command: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Reply:
        """Send ``Name(params)`` once and return its reply with error id 0.

        Raises `CommandTimeoutError` (its late reply is then swallowed, never taken for another's), a subclass of
        `CommandRefusedError` for an error code, `NotTcpModeError`, or `ArmConnectionError`.
        """
        pending = Pending(command, time.monotonic_ns(), done=threading.Event(), timeout_ns=seconds_to_ns(timeout_s))
        with self._stream.lock:
            self._raise_if_broken()
            self._forget_lost_replies(pending.sent_ns)
            self._stream.pending.append(pending)
            self._send(command)
        assert pending.done is not None
        if not pending.done.wait(timeout_s):
            with self._stream.lock:
                if not pending.done.is_set():
                    pending.abandoned = True
                    raise CommandTimeoutError(
                        f"expected a reply to {command} within {timeout_s:g} s, got none: "
                        "the controller may or may not have executed it; it is not sent again"
                    )
        if pending.error is not None:
            raise pending.error
        assert pending.reply is not None
        if V3_NOT_TCP_TEXT in pending.reply.values:
            raise NotTcpModeError(
                f"{command}: the controller says '{pending.reply.values}': V3 firmware, outside TCP mode or starting. "
                "This driver speaks V4 (controller 4.6 or newer); update the controller"
            )
        if pending.reply.error_id != ErrorCode.OK:
            raise refusal(command, code=pending.reply.error_id)
        return pending.reply

    def send_set_point(self, command: str) -> bool:
        """Send a set-point without waiting for its reply; True if it was sent, False if it was skipped.

        Skipped means too many replies are outstanding or the socket takes no more bytes. Raises `ArmConnectionError`
        when the connection is gone. Refusals arrive later: see `take_servo_error`.
        """
        now_ns = time.monotonic_ns()
        with self._stream.lock:
            self._raise_if_broken()
            self._forget_lost_replies(now_ns)
            full = self._stream.servo_outstanding >= self._max_outstanding
            if full or not select.select([], [self._socket], [], 0)[1]:
                self._counts.servo_skipped += 1
                return False
            self._stream.pending.append(Pending(command, now_ns, done=None))
            self._stream.servo_outstanding += 1
            self._send(command)
            self._counts.servo_sent += 1
            self._last_servo_ns = now_ns
        return True

    def silent_servo_ns(self, now_ns: int) -> int:
        """Age of the oldest set-point that has no reply yet, 0 if there is none."""
        with self._stream.lock:
            oldest = next((entry.sent_ns for entry in self._stream.pending if entry.is_servo), now_ns)
        return now_ns - oldest

    def take_servo_error(self) -> int | None:
        """The first non-zero reply code to a set-point since the last call, or None."""
        with self._stream.lock:
            code, self._stream.servo_error = self._stream.servo_error, None
        return code

    # -- inside -------------------------------------------------------------------------------------------------------

    def _raise_if_broken(self) -> None:
        if self._stream.broken is not None:
            raise self._stream.broken

    def _send(self, command: str) -> None:
        try:
            self._socket.sendall(command.encode("ascii"))
        except OSError as error:
            # Part of a request may be out: the stream cannot be trusted any more.
            broken = ArmConnectionError(f"the controller at {self.host}:{self.port} takes no more commands: {error}")
            self._break_locked(broken)
            raise broken from None

    def _forget_lost_replies(self, now_ns: int) -> None:
        pending = self._stream.pending
        while pending:
            head, age_ns = pending[0], now_ns - pending[0].sent_ns
            lost_servo = head.is_servo and age_ns > _SERVO_REPLY_LOST_NS
            if not lost_servo and not (head.abandoned and age_ns > head.timeout_ns + _LATE_REPLY_LOST_NS):
                return
            self._drop_head_as_lost()

    def _break(self, error: ArmError) -> None:
        with self._stream.lock:
            self._break_locked(error)

    def _break_locked(self, error: ArmError) -> None:
        if self._stream.broken is None:
            self._stream.broken = error
        while self._stream.pending:
            self._stream.pending.popleft().fail(self._stream.broken)
        self._stream.servo_outstanding = 0

    def _read_replies(self) -> None:
        buffer = b""
        last_bytes_s = time.monotonic()
        try:
            while not self._closing.is_set():
                try:
                    received = self._socket.recv(16384)
                except TimeoutError:
                    if is_unterminated_text(buffer) and time.monotonic() - last_bytes_s > _TEXT_QUIET_S:
                        raise ArmConnectionError(_unknown_text(buffer)) from None
                    continue
                if not received:
                    raise ArmConnectionError(
                        _unknown_text(buffer)
                        if is_unterminated_text(buffer)
                        else f"the controller at {self.host}:{self.port} closed the connection"
                    )
                last_bytes_s = time.monotonic()
                buffer = self._consume(buffer + received)
                if len(buffer) > _MAX_BUFFER:
                    raise ArmConnectionError(
                        f"expected a reply that ends with ';' within {_MAX_BUFFER} bytes, got {buffer[:80]!r}..."
                    )
        except ArmError as error:
            self._break(error)
        except OSError as error:
            self._break(ArmConnectionError(f"the connection to {self.host}:{self.port} broke: {error}"))

    def _consume(self, buffer: bytes) -> bytes:
        """Handle every complete reply and text error at the front of ``buffer``; returns the rest."""
        while buffer := buffer.lstrip():
            if buffer.startswith(OCCUPIED_TEXT.encode()):
                raise PortOccupiedError(
                    f"expected to be the only client of {self.host}:{self.port}, the controller says that the port is "
                    "occupied: close the other program (or wait some seconds after it ended)"
                )
            if buffer.startswith(NOT_TCP_TEXT.encode()):
                buffer = buffer[len(NOT_TCP_TEXT) :]
                self._fail_head(
                    NotTcpModeError(
                        "expected the controller in TCP control mode, it says 'Control Mode Is Not Tcp': "
                        "disable the arm and request control again, or choose TCP/IP mode in the vendor's software"
                    )
                )
                continue
            text, separator, rest = buffer.partition(b";")
            if not separator:
                break
            buffer = rest
            self._take_reply(text.decode("ascii", errors="replace"))
        return buffer

    def _take_reply(self, text: str) -> None:
        try:
            reply = parse_reply(text)
        except ProtocolError:
            with self._stream.lock:
                self._counts.stray_replies += 1
            return
        echo = _canonical(reply.echo)
        with self._stream.lock:
            pending = self._stream.pending
            position = next((i for i, entry in enumerate(pending) if _canonical(entry.request) == echo), None)
            if position is None:
                self._counts.stray_replies += 1
                return
            for _ in range(position):  # replies keep the order of requests: those passed over will never come
                self._drop_head_as_lost()
            self._settle(pending.popleft(), reply)

    def _settle(self, entry: Pending, reply: Reply) -> None:
        if entry.is_servo:
            self._stream.servo_outstanding -= 1
            if reply.error_id != ErrorCode.OK and self._stream.servo_error is None:
                self._stream.servo_error = reply.error_id
            return
        if entry.abandoned:
            self._counts.late_replies += 1
        entry.reply = reply
        assert entry.done is not None
        entry.done.set()

    def _drop_head_as_lost(self) -> None:
        entry = self._stream.pending.popleft()
        self._counts.lost_replies += 1
        if entry.is_servo:
            self._stream.servo_outstanding -= 1
        else:
            entry.fail(ReplyLostError(f"the controller answered a later request, but not {entry.request}"))

    def _fail_head(self, error: ArmError) -> None:
        with self._stream.lock:
            if not self._stream.pending:
                self._counts.stray_replies += 1
                return
            entry = self._stream.pending.popleft()
            if entry.is_servo:
                self._stream.servo_outstanding -= 1
                self._break_locked(error)
            entry.fail(error)


def _canonical(request: str) -> str:
    return "".join(request.split()).lower()


def _unknown_text(buffer: bytes) -> str:
    return f"expected 'ErrorID,{{...}},Name(...);' from the controller, got the text {buffer[:120]!r} without an end"
