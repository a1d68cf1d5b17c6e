"""The sockets of the simulated controller: requests on 29999 (one client), feedback on 30004 and 30005.

One thread serves requests; the physics loop itself hands out feedback packets with sends that never block.
"""

import errno
import selectors
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from robot.arm.protocol import FEEDBACK_PERIOD_S, OCCUPIED_TEXT, SLOW_FEEDBACK_PERIOD_S
from robot.clock import seconds_to_ns
from robot.twin.controller import Controller
from robot.twin.controller_grammar import Request, RequestBuffer
from robot.twin.priority import prefer_this_thread

_MAX_WAITING_REQUESTS = 128
_MAX_WAITING_REPLIES = 1024
_MAX_FEEDBACK_CLIENTS = 8
_MAX_TURNED_AWAY = 8
_TURNED_AWAY_S = 1.0
_FEEDBACK_SEND_BUFFER_BYTES = 65536
_SLOW_EVERY = round(SLOW_FEEDBACK_PERIOD_S / FEEDBACK_PERIOD_S)
_IDLE_POLL_S = 0.2
_SPLIT_PAUSE_NS = 2_000_000


class PortInUseError(RuntimeError):
    """A port that the twin needs is taken."""

    def __init__(self, host: str, port: int, purpose: str) -> None:
        super().__init__(
            f"port {port} on {host} ({purpose}) is in use; find the process with: ss -ltnp 'sport = :{port}'. "
            f"Stop it, or give the rig file another port."
        )


def listen(host: str, port: int, *, purpose: str) -> socket.socket:
    """A non-blocking listening socket. Raises `PortInUseError`, or OSError for a host that is not this machine's."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(8)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(host, port, purpose) from None
        raise
    return listener


@dataclass
class FeedbackClient:
    """One reader of packets. What the kernel cannot take at once waits here, at most the rest of one packet."""

    connection: socket.socket
    rest: bytes = b""

    def offer(self, packet: bytes) -> bool:
        """Send without blocking; False when the reader is gone or so far behind that its buffers are full."""
        data = self.rest + packet
        try:
            sent = self.connection.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        self.rest = data[sent:]
        return len(self.rest) < len(packet)


@dataclass
class _Session:
    """The one client of port 29999."""

    connection: socket.socket
    buffer: RequestBuffer = field(default_factory=RequestBuffer)
    requests: deque[Request] = field(default_factory=deque)
    replies: deque[tuple[int, bytes]] = field(default_factory=deque)
    free_at_ns: int = 0


class ControllerServer:
    """Listens on the controller's three ports from construction to `close`."""

    def __init__(
        self,
        controller: Controller,
        *,
        host: str,
        dashboard_port: int,
        feedback_port: int,
        slow_feedback_port: int,
        reply_latency_s: float = 0.0,
    ) -> None:
        self.split_replies = False
        self.feedback_silent = False
        self.requests_answered = 0
        self._controller = controller
        self._reply_latency_ns = seconds_to_ns(reply_latency_s)
        self._packets = 0
        self._stop = threading.Event()
        self._drop_dashboard = threading.Event()
        self._feedback_lock = threading.Lock()
        self._feedback: dict[bool, list[FeedbackClient]] = {False: [], True: []}
        self._session: _Session | None = None
        self._turned_away: dict[socket.socket, float] = {}
        self._selector = selectors.DefaultSelector()
        self._listeners: list[socket.socket] = []
        try:
            self._dashboard = self._listen(host, dashboard_port, "controller requests")
            self._fast = self._listen(host, feedback_port, "controller feedback, 8 ms")
            self._slow = self._listen(host, slow_feedback_port, "controller feedback, 200 ms")
        except (OSError, PortInUseError):
            self._close_sockets()
            raise
        self._thread = threading.Thread(target=self._serve, name="controller-wire", daemon=True)
        self._thread.start()

    @property
    def dashboard_clients(self) -> int:
        return int(self._session is not None)

    @property
    def feedback_clients(self) -> int:
        with self._feedback_lock:
            return sum(len(clients) for clients in self._feedback.values())

    def publish(self, packet: bytes) -> None:
        """Give one packet to every reader of the fast port, and each 25th to those of the slow one. Never blocks.

        A reader whose kernel buffers are full is dropped: it gets what is buffered and then the end of the stream.
        """
        with self._feedback_lock:
            is_slow_turn = self._packets % _SLOW_EVERY == 0
            self._packets += 1
            if self.feedback_silent:
                return
            for is_slow in (False, True) if is_slow_turn else (False,):
                gone = [client for client in self._feedback[is_slow] if not client.offer(packet)]
                for client in gone:
                    self._feedback[is_slow].remove(client)
                    client.connection.close()

    def drop_feedback(self) -> None:
        """Close every feedback connection, as the controller does now and then when it is enabled or disabled."""
        with self._feedback_lock:
            for clients in self._feedback.values():
                for client in clients:
                    client.connection.close()
                clients.clear()

    def drop_dashboard(self) -> None:
        """Close the request connection; the client may come back."""
        self._drop_dashboard.set()

    def close(self) -> None:
        """Close all sockets and end the thread. Closing twice is fine."""
        self._stop.set()
        self._thread.join()
        self.drop_feedback()

    def _listen(self, host: str, port: int, purpose: str) -> socket.socket:
        listener = listen(host, port, purpose=purpose)
        self._listeners.append(listener)
        self._selector.register(listener, selectors.EVENT_READ)
        return listener

    def _serve(self) -> None:
        prefer_this_thread()
        try:
            while not self._stop.is_set():
                for key, _ in self._selector.select(self._timeout_s()):
                    self._handle(key.fileobj)  # type: ignore[arg-type]
                if self._drop_dashboard.is_set():
                    self._drop_dashboard.clear()
                    self._end_session()
                if self._session is not None:
                    self._work(self._session)
                self._forget_turned_away()
        finally:
            self._end_session()
            self._close_sockets()

    def _timeout_s(self) -> float:
        session = self._session
        if session is None:
            return _IDLE_POLL_S
        due = [session.replies[0][0]] if session.replies else []
        due += [session.free_at_ns] if session.requests and len(session.replies) < _MAX_WAITING_REPLIES else []
        return min([_IDLE_POLL_S, *(max(0.0, (at - time.monotonic_ns()) * 1e-9) for at in due)])

    def _handle(self, ready: socket.socket) -> None:
        if ready is self._dashboard:
            self._accept_dashboard()
        elif ready is self._fast or ready is self._slow:
            self._accept_feedback(ready)
        elif ready in self._turned_away:
            self._read_turned_away(ready)
        elif self._session is not None and ready is self._session.connection:
            self._read_session(self._session)

    def _accept_dashboard(self) -> None:
        connection, _ = self._dashboard.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._session is None:
            self._session = _Session(connection)
        else:
            self._turn_away(connection)
            return
        self._selector.register(connection, selectors.EVENT_READ)

    def _turn_away(self, connection: socket.socket) -> None:
        """Say that the port is taken, then let the other side close, so that the text is not lost in a reset."""
        try:
            connection.send(OCCUPIED_TEXT.encode())
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            connection.close()
            return
        if len(self._turned_away) >= _MAX_TURNED_AWAY:
            connection.close()
            return
        self._turned_away[connection] = time.monotonic() + _TURNED_AWAY_S
        self._selector.register(connection, selectors.EVENT_READ)

    def _read_turned_away(self, connection: socket.socket) -> None:
        try:
            if connection.recv(4096):
                return
        except OSError:
            pass
        self._turned_away[connection] = 0.0

    def _forget_turned_away(self) -> None:
        now = time.monotonic()
        for connection in [connection for connection, until in self._turned_away.items() if until < now]:
            del self._turned_away[connection]
            self._selector.unregister(connection)
            connection.close()

    def _accept_feedback(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        is_slow = listener is self._slow
        with self._feedback_lock:
            if len(self._feedback[is_slow]) >= _MAX_FEEDBACK_CLIENTS:
                connection.close()
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _FEEDBACK_SEND_BUFFER_BYTES)
            self._feedback[is_slow].append(FeedbackClient(connection))

    def _read_session(self, session: _Session) -> None:
        try:
            data = session.connection.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end_session()
            return
        session.requests.extend(session.buffer.feed(data))
        if len(session.requests) > _MAX_WAITING_REQUESTS:
            # Read no further until these are done: the client then feels it as TCP back-pressure.
            self._selector.unregister(session.connection)

    def _work(self, session: _Session) -> None:
        """Carry out requests that are due, one after the other, and send the replies that are due."""
        now_ns = time.monotonic_ns()
        was_full = len(session.requests) > _MAX_WAITING_REQUESTS
        while session.requests and session.free_at_ns <= now_ns and len(session.replies) < _MAX_WAITING_REPLIES:
            answer = self._controller.answer(session.requests.popleft())
            self.requests_answered += 1
            busy_ns = seconds_to_ns(answer.busy_s)
            session.free_at_ns = now_ns + busy_ns
            self._schedule(session, answer.data, due_ns=now_ns + busy_ns + self._reply_latency_ns)
        if was_full and len(session.requests) <= _MAX_WAITING_REQUESTS:
            self._selector.register(session.connection, selectors.EVENT_READ)
        while session.replies and session.replies[0][0] <= time.monotonic_ns():
            due_ns, data = session.replies.popleft()
            try:
                sent = session.connection.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._end_session()
                return
            if sent < len(data):
                session.replies.appendleft((due_ns + _SPLIT_PAUSE_NS, data[sent:]))
                return

    def _schedule(self, session: _Session, data: bytes, *, due_ns: int) -> None:
        if self.split_replies:
            middle = len(data) // 2
            session.replies.append((due_ns, data[:middle]))
            session.replies.append((due_ns + _SPLIT_PAUSE_NS, data[middle:]))
        else:
            session.replies.append((due_ns, data))

    def _end_session(self) -> None:
        """The client is gone: its Modbus masters go with it; what the arm was told stays told."""
        session, self._session = self._session, None
        if session is None:
            return
        if session.connection.fileno() in self._selector.get_map():
            self._selector.unregister(session.connection)
        session.connection.close()
        with self._controller.lock:
            self._controller.flange.close_all()

    def _close_sockets(self) -> None:
        for connection in (*self._listeners, *self._turned_away):
            connection.close()
        self._selector.close()
