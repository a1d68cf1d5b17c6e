"""The recorder's command socket: one JSON object a line, one line of answer.

Commands are ``start`` {"request": ...}, ``finish`` {"label": ...}, ``status``. An answer is {"ok": true, ...} or
{"ok": false, "error": ...}. Steps and events do not pass here but through rings.
"""

import json
import socket
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from robot.runtime import ring_name, runtime_dir

LONGEST_LINE = 1 << 20


class Command(Enum):
    """What a client can ask for."""

    START = "start"
    FINISH = "finish"
    STATUS = "status"


class CommandError(RuntimeError):
    """The recorder refused a command, or said something that is no answer."""


def socket_path(rig_name: str) -> Path:
    """The command socket of a rig's recorder."""
    return runtime_dir(rig_name) / "recorder.sock"


def lock_path(rig_name: str) -> Path:
    """The lock file of a rig's recorder."""
    return runtime_dir(rig_name) / "recorder.lock"


def steps_ring(rig_name: str) -> str:
    """The ring of `STEP_DTYPE` records that the control loop writes."""
    return ring_name(rig_name, "record.steps")


def events_ring(rig_name: str) -> str:
    """The ring of `EVENT_DTYPE` records that the control loop writes."""
    return ring_name(rig_name, "record.events")


@dataclass
class LineReader:
    """Collects bytes into lines; lines longer than 1 MiB are refused."""

    _pending: bytes = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The JSON objects that ``data`` completes. Raises `CommandError`."""
        *lines, self._pending = (self._pending + data).split(b"\n")
        if len(self._pending) > LONGEST_LINE:
            raise CommandError(f"expected a line of at most {LONGEST_LINE} bytes")
        found = []
        for line in lines:
            try:
                content = json.loads(line)
            except ValueError as error:
                raise CommandError(f"expected a JSON object a line, {error}") from None
            if not isinstance(content, dict):
                raise CommandError(f"expected a JSON object, got {type(content).__name__}")
            found.append(content)
        return found


def send_line(peer: socket.socket, content: dict[str, Any]) -> None:
    """Write one JSON object as a line."""
    peer.sendall(json.dumps(content).encode() + b"\n")
