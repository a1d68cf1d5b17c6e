"""The controller's web interface as far as drivers use it: active alarms in words, HTTP on port 22000.

POST ``/interface/language`` with ``{"type": "en"}``, then GET ``/protocol/getAlarm``, which gives ``{"errMsg": [...]}``
with ``id``, ``level``, ``description``, ``solution``, ``mode``, ``date`` and ``time`` of each alarm. The vendor's texts
are not reproduced: descriptions are those of `robot.arm.errors`, in English whatever language is asked for.
"""

import json
import socketserver
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from robot.arm.errors import Severity, alarm
from robot.twin.controller import Controller

_MAX_BODY_BYTES = 4096
_POLL_S = 0.5
_LEVEL = {Severity.CLEARABLE: 5, Severity.SAFETY: 1, Severity.HARDWARE: 0}
"""Levels seen in the vendor's tables; which one means what is our inference from the alarms that have it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Without `http.server`'s look-up of the host's name, which may wait for a DNS server that is not there."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]


class AlarmPage:
    """Serves one controller's alarms from construction to `close`. OSError if the port is taken."""

    def __init__(self, controller: Controller, *, host: str, port: int) -> None:
        class Handler(_Handler):
            pass

        Handler.controller = controller
        self._server = _Server((host, port), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": _POLL_S}, name="alarm-page", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Give the port back and end the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def open_alarm_page(controller: Controller, *, host: str, port: int) -> AlarmPage | None:
    """A page on ``port``, or None when that port is taken: drivers then show their own texts, as with a real controller
    that does not answer there."""
    try:
        return AlarmPage(controller, host=host, port=port)
    except OSError:
        return None


class _Handler(BaseHTTPRequestHandler):
    controller: Controller
    timeout = 5.0

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > _MAX_BODY_BYTES:
            self._answer(HTTPStatus.BAD_REQUEST, {"status": False})
            return
        body = self.rfile.read(int(length))
        if self.path != "/interface/language":
            self._answer(HTTPStatus.NOT_FOUND, {"status": False})
        elif not _is_language(body):
            self._answer(HTTPStatus.BAD_REQUEST, {"status": False})
        else:
            self._answer(HTTPStatus.OK, {"status": True})

    def do_GET(self) -> None:
        if self.path != "/protocol/getAlarm":
            self._answer(HTTPStatus.NOT_FOUND, {"status": False})
            return
        with self.controller.lock:
            core = self.controller.core
            alarm_ids, mode = list(core.alarms), core.mode.name
        self._answer(HTTPStatus.OK, {"errMsg": [_entry(alarm_id, mode) for alarm_id in alarm_ids]})

    def log_message(self, *arguments: Any) -> None:
        """The twin's console shows its status, not every request."""

    def _answer(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _is_language(body: bytes) -> bool:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and isinstance(content.get("type"), str)


def _entry(alarm_id: int, mode: str) -> dict[str, Any]:
    known = alarm(alarm_id)
    return {
        "id": alarm_id,
        "level": _LEVEL[known.severity],
        "description": known.name,
        "solution": known.text,
        "mode": mode,
        "date": time.strftime("%Y-%m-%d"),
        "time": time.strftime("%H:%M:%S"),
    }
