"""Alarms in the controller's own words, from its web interface (HTTP, port 22000), with our table to fall back on.

The vendor's client does the same: POST ``/interface/language``, then GET ``/protocol/getAlarm``, which gives
``{"errMsg": [{"id", "level", "description", "solution", "mode", "date", "time"}]}``. When that port fails the operator
reads our own table.
"""

import http.client
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from robot.arm.errors import ArmError, alarm
from robot.arm.protocol import ALARM_PORT

TIMEOUT_S = 1.0
_MAX_BYTES = 256 * 1024
_MAX_TEXT = 300


class AlarmTextError(ArmError):
    """The controller's web interface gave no alarm texts."""


@dataclass(frozen=True)
class AlarmText:
    """One alarm as the controller describes it."""

    alarm_id: int
    description: str
    solution: str

    def __str__(self) -> str:
        return f"alarm {self.alarm_id}: {self.description}" + (f" ({self.solution})" if self.solution else "")


def fetch_alarm_texts(
    host: str, *, port: int = ALARM_PORT, language: str = "en", timeout_s: float = TIMEOUT_S
) -> dict[int, AlarmText]:
    """The active alarms by id, in ``language``. Raises `AlarmTextError`."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        body = json.dumps({"type": language})
        _fetch(connection, "POST", "/interface/language", body=body)
        return parse_alarm_texts(_fetch(connection, "GET", "/protocol/getAlarm"))
    except (OSError, http.client.HTTPException) as error:
        raise AlarmTextError(f"expected alarm texts from http://{host}:{port}, got none: {error}") from None
    finally:
        connection.close()


def parse_alarm_texts(content: bytes) -> dict[int, AlarmText]:
    """The alarms of one answer by id; entries that make no sense are left out. `AlarmTextError` if it is no answer."""
    try:
        listed = json.loads(content)["errMsg"]
        if not isinstance(listed, list):
            raise TypeError(f"errMsg is no list but {type(listed).__name__}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise AlarmTextError(f"expected a list errMsg of alarms, got {content[:120]!r} ({error})") from None
    found = (_alarm_text(entry) for entry in listed if isinstance(entry, dict))
    return {text.alarm_id: text for text in found if text is not None}


def describe_active_alarms(host: str, alarm_ids: Sequence[int], *, port: int = ALARM_PORT) -> str:
    """One line for the operator: each alarm in the controller's words where it gives them, else in ours."""
    if not alarm_ids:
        return "the controller named no alarm"
    try:
        texts = fetch_alarm_texts(host, port=port)
    except AlarmTextError:
        texts = {}
    return "; ".join(str(texts.get(alarm_id) or alarm(alarm_id)) for alarm_id in alarm_ids)


def _fetch(connection: http.client.HTTPConnection, method: str, path: str, *, body: str | None = None) -> bytes:
    headers = {"Content-Type": "application/json"} if body is not None else {}
    connection.request(method, path, body=body, headers=headers)
    response = connection.getresponse()
    content = response.read(_MAX_BYTES + 1)
    if response.status != http.client.OK or len(content) > _MAX_BYTES:
        raise AlarmTextError(f"{path} was answered with status {response.status} and {len(content)} bytes")
    return content


def _alarm_text(entry: dict[str, Any]) -> AlarmText | None:
    try:
        alarm_id = int(entry["id"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    description, solution = (str(entry.get(key) or "").strip()[:_MAX_TEXT] for key in ("description", "solution"))
    return AlarmText(alarm_id, description, solution) if description else None
