"""The recorder process: rings in, episodes out, commanded over a Unix socket.

It only reads what others publish, so nothing it does can hold up a camera, robotd or the control loop. If a camera or
the robot's state falls silent, if the disk fails, or if the client that started the episode goes away, it closes the
episode as ``aborted`` with the reason and says so in its status; what was recorded until then is kept.
"""

import fcntl
import hashlib
import json
import logging
import selectors
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from configs.schema import RigConfig
from robot.calibration_state import calibrations_in_force
from robot.clock import NS_PER_S
from robot.priority import DRAWING_PRIORITY, prefer_all_threads
from robot.recording.channels import CHUNKS_TOPIC, EVENTS_TOPIC, SERVO_TOPIC, STATE_TOPIC, STEPS_TOPIC
from robot.recording.commands import (
    Command,
    CommandError,
    LineReader,
    events_ring,
    lock_path,
    send_line,
    socket_path,
    steps_ring,
)
from robot.recording.episode_writer import DEFAULT_SPACE, EpisodeWriter, RecordingError, SpaceLimits
from robot.recording.meta import (
    Description,
    EpisodeMeta,
    EpisodeRequest,
    Label,
    MetaError,
    Outcome,
    new_id,
)
from robot.recording.pictures import PictureFormat
from robot.recording.sources import (
    CameraSource,
    EventSource,
    MotionSource,
    RecordSource,
    Source,
    complete_step,
    event_text,
    put_event,
)
from robot.ring import RingError
from robot.runtime import ring_name

POLL_PERIOD_S = 0.006
"""While recording: well inside the shortest ring, and often enough that a killed recorder loses nothing worth
counting."""
IDLE_PERIOD_S = 0.05
CAMERA_SILENCE_S = 1.0
STATE_SILENCE_S = 0.5
FRESH_S = 0.5
"""At the start of an episode each source must have published within this time."""

logger = logging.getLogger(__name__)


class _Episode:
    """The open episode, its sources and the client that started it."""

    def __init__(self, writer: EpisodeWriter, *, sources: list[Source], owner: socket.socket) -> None:
        self.writer = writer
        self.sources = sources
        self.owner = owner

    def poll(self) -> str | None:
        """Record what is new; the reason why the episode has to end, if there is one."""
        now_ns = time.monotonic_ns()
        silent = None
        for source in self.sources:
            source.poll(self.writer.put, now_ns=now_ns)
            limit_s = source.tolerated_silence_s
            if limit_s is not None and source.follower.silent_s(now_ns) > limit_s:
                put_event(
                    self.writer.put,
                    "source_lost",
                    text=event_text(topic=source.topic, silent_s=round(source.follower.silent_s(now_ns), 3)),
                    time_ns=now_ns,
                    warning=True,
                )
                silent = "camera" if isinstance(source, CameraSource) else "state"
        return "disk" if self.writer.failure is not None else silent

    def dropped(self) -> dict[str, int]:
        """Records that did not get into the episode, by topic: overwritten in the ring or refused by a full queue."""
        lost = Counter({source.topic: source.follower.lost for source in self.sources})
        return {topic: count for topic, count in (lost + Counter(self.writer.dropped)).items() if count}


class Recorder:
    """Records episodes of one rig into ``directory``. One recorder per rig; a second one raises `RecordingError`."""

    def __init__(
        self,
        rig: RigConfig,
        *,
        directory: Path,
        space: SpaceLimits = DEFAULT_SPACE,
        pictures: PictureFormat = PictureFormat.JPEG,
    ) -> None:
        self._rig = rig
        self._pictures = pictures
        self._directory = directory
        self._space = space
        self._episode: _Episode | None = None
        self._last: EpisodeMeta | None = None
        self._lines: dict[socket.socket, LineReader] = {}
        self._lock = _exclusive(rig.name)
        self._selector = selectors.DefaultSelector()
        self._server = _listen(socket_path(rig.name))
        self._selector.register(self._server, selectors.EVENT_READ)

    def run(self, stop: threading.Event) -> None:
        """Serve until ``stop`` is set; an open episode is then closed as ``aborted:recorder-stopped``."""
        try:
            while not stop.is_set():
                self._serve(timeout_s=IDLE_PERIOD_S if self._episode is None else POLL_PERIOD_S)
                if self._episode is not None:
                    reason = self._episode.poll()
                    if reason is not None:
                        self._close(Outcome(Label.ABORTED, reason))
        finally:
            if self._episode is not None:
                self._close(Outcome(Label.ABORTED, "recorder-stopped"))
            for peer in [*self._lines]:
                self._forget(peer)
            self._server.close()
            socket_path(self._rig.name).unlink(missing_ok=True)
            self._selector.close()
            self._lock.close()

    def _serve(self, *, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._server:
                peer, _ = self._server.accept()
                # An answer is a few kilobytes and fits the socket's buffer; a client that never reads is dropped.
                peer.settimeout(0.05)
                self._lines[peer] = LineReader()
                self._selector.register(peer, selectors.EVENT_READ)
            elif isinstance(key.fileobj, socket.socket):
                self._listen_to(key.fileobj)

    def _listen_to(self, peer: socket.socket) -> None:
        try:
            data = peer.recv(65536)
            if not data:
                self._forget(peer)
                return
            for content in self._lines[peer].feed(data):
                send_line(peer, self._answer(content, peer))
        except CommandError as error:
            send_line(peer, {"ok": False, "error": str(error)})
            self._forget(peer)
        except OSError:
            self._forget(peer)

    def _forget(self, peer: socket.socket) -> None:
        self._selector.unregister(peer)
        del self._lines[peer]
        peer.close()
        if self._episode is not None and self._episode.owner is peer:
            logger.warning("the client that started %s is gone", self._episode.writer.folder.name)
            self._close(Outcome(Label.ABORTED, "client"))

    def _answer(self, content: dict[str, Any], peer: socket.socket) -> dict[str, Any]:
        try:
            match Command(content.get("command")):
                case Command.START:
                    return {"ok": True, "id": self._start(content, peer)}
                case Command.FINISH:
                    return {"ok": True, "meta": self._finish(content).to_json()}
                case Command.STATUS:
                    return {"ok": True, "status": self._status()}
        except (RecordingError, RingError, MetaError, ValueError, KeyError, TypeError) as error:
            return {"ok": False, "error": f"{error}"}

    def _start(self, content: dict[str, Any], peer: socket.socket) -> str:
        if self._episode is not None:
            raise RecordingError(f"episode {self._episode.writer.folder.name} is being recorded: finish it first")
        request = EpisodeRequest(**content["request"])
        if not request.calibration:
            request = replace(request, calibration=calibrations_in_force(self._rig))
        sources = self._open_sources()
        wall_ns, monotonic_ns = time.time_ns(), time.monotonic_ns()
        rig = self._rig.model_dump(mode="json")
        description = Description(
            id=new_id(request.task, wall_ns=wall_ns),
            request=request,
            rig=rig,
            rig_digest=hashlib.sha256(json.dumps(rig, sort_keys=True).encode()).hexdigest(),
            cameras={
                name: source.info.to_meta()
                for name, source in zip(self._rig.cameras, sources, strict=False)
                if isinstance(source, CameraSource)
            },
            software=software_version(),
            started_wall_ns=wall_ns,
            started_monotonic_ns=monotonic_ns,
        )
        writer = EpisodeWriter.open(self._directory, description=description, space=self._space)
        # Behind everything that controls, before whatever else keeps this machine busy; the writer's thread is new.
        prefer_all_threads(DRAWING_PRIORITY)
        self._episode = _Episode(writer, sources=sources, owner=peer)
        logger.info("recording %s", description.id)
        return description.id

    def _open_sources(self) -> list[Source]:
        """Everything that an episode is recorded from, cameras first. Raises `RecordingError` if a part is not
        running."""
        name = self._rig.name
        sources: list[Source] = [
            CameraSource(
                ring_name(name, f"camera.{camera}"),
                camera=camera,
                tolerated_silence_s=CAMERA_SILENCE_S,
                pictures=self._pictures,
            )
            for camera in self._rig.cameras
        ]
        sources.append(RecordSource(ring_name(name, "state"), topic=STATE_TOPIC, tolerated_silence_s=STATE_SILENCE_S))
        for source in sources:
            sample = source.follower.reader.latest(max_age_ns=int(FRESH_S * NS_PER_S))
            if sample is None:
                raise RecordingError(
                    f"nothing new from {source.follower.name} for {FRESH_S:g} s: is the process that writes it alive?"
                )
        sources.append(RecordSource(steps_ring(name), topic=STEPS_TOPIC, complete=complete_step))
        sources.append(EventSource(events_ring(name), topic=EVENTS_TOPIC))
        optional: tuple[tuple[str, Callable[[str], Source]], ...] = (
            ("servo", lambda ring: RecordSource(ring, topic=SERVO_TOPIC)),
            ("rollout.chunks", lambda ring: RecordSource(ring, topic=CHUNKS_TOPIC)),
            ("rollout.motion", MotionSource),
        )
        for part, make in optional:
            try:
                sources.append(make(ring_name(name, part)))
            except RingError:
                logger.info("no ring %s: nothing of it is recorded", part)
        return sources

    def _finish(self, content: dict[str, Any]) -> EpisodeMeta:
        if self._episode is None:
            ended = "" if self._last is None else f"; the last one, {self._last.id}, ended as {self._last.outcome}"
            raise RecordingError(f"no episode is being recorded{ended}")
        outcome = Outcome.parse(content["label"])
        self._episode.poll()
        return self._close(outcome)

    def _close(self, outcome: Outcome) -> EpisodeMeta:
        assert self._episode is not None
        episode, self._episode = self._episode, None
        description = episode.writer.meta.description
        elapsed_ns = time.monotonic_ns() - description.started_monotonic_ns
        shift_ns = time.time_ns() - description.started_wall_ns - elapsed_ns
        meta = episode.writer.close(
            outcome, dropped=episode.dropped(), wall_clock_shift_s=round(shift_ns / NS_PER_S, 3)
        )
        self._last = meta
        counts = ", ".join(f"{topic} {count}" for topic, count in meta.summary.messages.items())
        logger.info("%s closed as %s: %.1f s, %s", meta.id, meta.outcome, meta.summary.duration_s, counts)
        return meta

    def _status(self) -> dict[str, Any]:
        episode, last = self._episode, self._last
        return {
            "directory": str(self._directory),
            "episode": None if episode is None else episode.writer.folder.name,
            "dropped": {} if episode is None else episode.dropped(),
            "last_id": None if last is None else last.id,
            "last_label": None if last is None else str(last.outcome),
        }


def software_version() -> str:
    """The installed version, with the git commit where the code runs from a checkout."""
    try:
        installed = version("nova-pi")
    except PackageNotFoundError:
        installed = "0"
    found = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{installed}+{found.stdout.strip()}" if found.returncode == 0 else installed


def _exclusive(rig_name: str) -> TextIO:
    file = lock_path(rig_name).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RecordingError(
            f"a recorder for rig {rig_name!r} is already running: use that one, or stop it first"
        ) from None
    return file


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)  # a killed recorder leaves its socket; the lock says that nobody uses it
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    server.listen()
    return server
