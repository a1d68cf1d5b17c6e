"""robotd's command socket: one thread per connection, and a connection's end is a released lease."""

import contextlib
import itertools
import logging
import socket
import struct
import threading
from pathlib import Path
from typing import Any

from robot.daemon.errors import RequestError, RobotdError
from robot.daemon.lease import Peer
from robot.daemon.messages import Op, OversizedMessageError, receive_message, send_message
from robot.daemon.requests import handle
from robot.daemon.robotd import Robotd

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 32
_SEND_TIMEOUT_S = 2.0
_CREDENTIALS = struct.Struct("3i")


class CommandServer:
    """Serves a `Robotd` on a Unix stream socket at ``path``. The caller holds the rig's lock: an old file is dead."""

    def __init__(self, robotd: Robotd, *, path: Path) -> None:
        self._robotd = robotd
        self._path = path
        self._closing = threading.Event()
        self._connections: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._numbers = itertools.count(1)
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(MAX_CONNECTIONS)
        self._thread = threading.Thread(target=self._accept, name="command-server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more connections and end those there are."""
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._thread.join(timeout=2.0)
        self._listener.close()
        self._path.unlink(missing_ok=True)
        with self._guard:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if not self._closing.is_set():
                    log.exception("the command socket failed")
                return
            with self._guard:
                full = len(self._connections) >= MAX_CONNECTIONS
                if not full:
                    self._connections.add(connection)
            if full:
                log.warning("refused a connection: %d are open", MAX_CONNECTIONS)
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), name="command", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        peer = Peer(next(self._numbers), "unnamed", _peer_pid(connection))
        try:
            while not self._closing.is_set():
                try:
                    message = receive_message(connection)
                except OversizedMessageError as error:
                    _reply(connection, _error(error, number=0))
                    return
                except RequestError as error:
                    _reply(connection, _error(error, number=0))
                    continue
                if message is None:
                    return
                if message.get("op") == Op.HELLO and isinstance(message.get("name"), str):
                    peer = Peer(peer.number, message["name"][:64], peer.pid)
                _reply(connection, self._answer(message, peer=peer))
        except OSError as error:
            log.info("the connection of %s ended: %s", peer, error)
        finally:
            self._robotd.machine.leave(peer)
            with self._guard:
                self._connections.discard(connection)
            connection.close()

    def _answer(self, message: dict[str, Any], *, peer: Peer) -> dict[str, Any]:
        number = message.get("id", 0)
        number = number if isinstance(number, int) else 0
        try:
            return {"id": number, "ok": True, **handle(self._robotd, message, peer=peer)}
        except RobotdError as error:
            return _error(error, number=number)
        except Exception as error:
            # A request that we cannot handle must not take down the process that holds the arm.
            log.exception("the request %r of %s met an error", message.get("op"), peer)
            return _error(error, number=number)


def _error(error: Exception, *, number: int) -> dict[str, Any]:
    return {"id": number, "ok": False, "error": type(error).__name__, "detail": str(error)}


def _reply(connection: socket.socket, answer: dict[str, Any]) -> None:
    connection.settimeout(_SEND_TIMEOUT_S)  # a peer that does not read must not keep a thread for ever
    send_message(connection, answer)
    connection.settimeout(None)


def _peer_pid(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(credentials)
    return int(pid)
