"""The listening end of `robot.twin.control`: JSON lines on 127.0.0.1, one thread a client, at most `MAX_CLIENTS`."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from robot.priority import prefer_this_thread
from robot.twin.control import HOST, MAX_LINE_BYTES, TwinControlError
from robot.twin.controller_server import listen

MAX_CLIENTS = 8
_POLL_S = 0.2

Operation = Callable[..., Any]


class ControlServer:
    """Serves ``operations`` by name from `start` to `close`. The port is taken at construction.

    An operation gets the request's other keys as keyword arguments; what it returns must be JSON. It refuses by raising
    `TwinControlError`; wrong arguments are answered by their TypeError or ValueError.
    """

    def __init__(self, port: int) -> None:
        self._operations: Mapping[str, Operation] = {}
        self._listener = listen(HOST, port, purpose="twin control")
        self._listener.settimeout(_POLL_S)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._clients: dict[socket.socket, threading.Thread] = {}
        self._thread = threading.Thread(target=self._accept, name="control", daemon=True)

    def start(self, operations: Mapping[str, Operation]) -> None:
        """Answer from now on."""
        self._operations = operations
        self._thread.start()

    def close(self) -> None:
        """Close all connections and end the threads. Closing twice is fine."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._listener.close()
        with self._lock:
            clients = dict(self._clients)
        for connection, thread in clients.items():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            if thread is not threading.current_thread():
                thread.join(timeout=2.0)

    def _accept(self) -> None:
        prefer_this_thread()
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            with self._lock:
                is_full = len(self._clients) >= MAX_CLIENTS
                if not is_full:
                    thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                    self._clients[connection] = thread
                    thread.start()
            if is_full:
                with contextlib.suppress(OSError):
                    connection.sendall(_failure(f"the twin serves at most {MAX_CLIENTS} control clients"))
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        prefer_this_thread()
        try:
            connection.settimeout(None)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection, connection.makefile("rb") as reader:
                while line := reader.readline(MAX_LINE_BYTES + 1):
                    if len(line) > MAX_LINE_BYTES:
                        connection.sendall(_failure(f"a request takes at most {MAX_LINE_BYTES} bytes"))
                        return
                    connection.sendall(self._answer(line))
        except OSError:
            return  # the client went away
        finally:
            with self._lock:
                self._clients.pop(connection, None)

    def _answer(self, line: bytes) -> bytes:
        try:
            request = json.loads(line)
        except ValueError:
            return _failure("expected one JSON object a line")
        if not isinstance(request, dict) or not isinstance(request.get("op"), str):
            return _failure(f"expected an object with 'op', one of {', '.join(sorted(self._operations))}")
        operation = self._operations.get(request.pop("op"))
        if operation is None:
            return _failure(f"unknown op; there are {', '.join(sorted(self._operations))}")
        try:
            return json.dumps({"ok": True, "result": operation(**request)}).encode() + b"\n"
        except (TwinControlError, TimeoutError, TypeError, ValueError, LookupError) as error:
            return _failure(str(error))


def _failure(text: str) -> bytes:
    return json.dumps({"ok": False, "error": text}).encode() + b"\n"
