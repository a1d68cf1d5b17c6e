"""The control loop's side of the recorder."""

import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from robot.processes import Child
from robot.recording.commands import Command, CommandError, LineReader, events_ring, send_line, socket_path, steps_ring
from robot.recording.episode_writer import RecordingError
from robot.recording.meta import EpisodeMeta, EpisodeRequest, Label, Outcome
from robot.recording.records import EVENT_DTYPE, STEP_DTYPE, make_event
from robot.ring import Ring

STEP_SLOTS = 1024
"""A minute of steps at 15 Hz: how long the recorder may be held up without losing one."""
EVENT_SLOTS = 256
ANSWER_TIMEOUT_S = 5.0


class RecorderUnavailableError(RecordingError):
    """The recorder is not running or does not answer."""


@dataclass(frozen=True)
class RecorderStatus:
    """What the recorder is doing: the open episode (None: none), what it had to drop, and how the last one ended."""

    directory: str
    episode: str | None
    dropped: Mapping[str, int]
    last_id: str | None
    last_label: str | None


class RecorderClient:
    """Starts and finishes episodes and hands over steps and events. A context manager.

    `step` and `event` write shared memory and never wait, whatever the recorder does; `start_episode`, `finish`,
    `discard` and `status` wait for its answer and belong outside the control loop. An episode still open on exit is
    closed as ``aborted``. Raises `RecorderUnavailableError` if no recorder for this rig answers within ``timeout_s``,
    and `robot.ring.RingBusyError` if another client is connected.
    """

    def __init__(self, rig_name: str, *, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._socket = _connect(rig_name, timeout_s=timeout_s)
        self._lines = LineReader()
        self._steps = Ring.create(steps_ring(rig_name), dtype=STEP_DTYPE, slots=STEP_SLOTS)
        self._events = Ring.create(events_ring(rig_name), dtype=EVENT_DTYPE, slots=EVENT_SLOTS)
        self.episode: str | None = None
        """Id of the episode that this client has started and not finished."""

    def start_episode(self, request: EpisodeRequest) -> str:
        """Start recording; returns the episode's id. Raises `RecordingError` with the reason if it can't."""
        self.episode = str(self._ask(Command.START, request=asdict(request))["id"])
        return self.episode

    def step(self, record: np.ndarray) -> None:
        """Hand over one step (`robot.recording.make_step`). Steps outside an episode are not recorded."""
        self._steps.write(record, capture_ns=int(record["wake_ns"]) or time.monotonic_ns())

    def event(self, name: str, data: Mapping[str, Any] | None = None) -> None:
        """Hand over a named event with JSON data."""
        self._events.write(make_event(name, data=data or {}), capture_ns=time.monotonic_ns())

    def finish(self, outcome: Outcome) -> EpisodeMeta:
        """Close the episode under that label. Raises `RecordingError` if it has ended by itself meanwhile."""
        self.episode = None
        return EpisodeMeta.from_json(self._ask(Command.FINISH, label=str(outcome))["meta"])

    def discard(self) -> EpisodeMeta:
        """Close the episode as discarded. It stays on disk until somebody deletes it."""
        return self.finish(Outcome(Label.DISCARDED))

    def status(self) -> RecorderStatus:
        """Ask how it goes."""
        return RecorderStatus(**self._ask(Command.STATUS)["status"])

    def close(self) -> None:
        """Leave; the recorder closes an episode that is still open as ``aborted:client``."""
        self._socket.close()
        self._steps.unlink()
        self._events.unlink()

    def _ask(self, command: Command, **arguments: Any) -> dict[str, Any]:
        try:
            send_line(self._socket, {"command": command.value, **arguments})
            while True:
                data = self._socket.recv(65536)
                if not data:
                    raise RecorderUnavailableError("the recorder has closed the connection: has it ended?")
                answers = self._lines.feed(data)
                if answers:
                    break
        except TimeoutError:
            # A late answer would be taken for the next one; the recorder ends the episode as ``aborted:client``.
            self._socket.close()
            raise RecorderUnavailableError(f"the recorder did not answer {command.value!r} in time") from None
        except (OSError, CommandError) as error:
            raise RecorderUnavailableError(f"the connection to the recorder is lost: {error}") from None
        if not answers[0].get("ok"):
            raise RecordingError(str(answers[0].get("error", "no reason given")))
        return answers[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.episode is not None:
                reason = "interrupted" if kind is KeyboardInterrupt else "client"
                self.finish(Outcome(Label.ABORTED, reason))
        except RecordingError:
            # The recorder has ended the episode itself, or is gone: its salvage keeps what there is.
            if error is None:
                raise
        finally:
            self.close()


def start_recorder(
    rig: str, *, directory: Path, log_path: Path | None = None, arguments: tuple[str, ...] = ()
) -> Child:
    """Start the recorder process of a rig (name or YAML path); connect to it with `RecorderClient`."""
    args = ["--rig", rig, "--directory", str(directory), *arguments]
    return Child("recorder", module="robot.recording", args=args, log_path=log_path)


def _connect(rig_name: str, *, timeout_s: float) -> socket.socket:
    path = socket_path(rig_name)
    deadline_s = time.monotonic() + timeout_s
    while True:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            peer.connect(str(path))
        except OSError as error:
            peer.close()
            if time.monotonic() > deadline_s:
                raise RecorderUnavailableError(
                    f"no recorder for rig {rig_name!r} at {path} ({error.strerror}): start it with "
                    f"'python -m robot.recording --rig {rig_name} --directory DIR'"
                ) from None
            time.sleep(0.02)
        else:
            peer.settimeout(timeout_s)
            return peer
