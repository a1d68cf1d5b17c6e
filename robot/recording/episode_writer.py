"""One episode being written: its folder, its files, and the thread that brings messages to the disk.

`EpisodeWriter.put` only appends to a queue bounded in bytes, so a slow disk costs messages (counted) and never time.
The thread writes a chunk every 0.1 s and syncs every 0.5 s: a killed process loses the last tenth of a second, a
power cut at most the last second.
"""

import errno
import fcntl
import logging
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Self

from robot.clock import NS_PER_S
from robot.recording.mcap_format import Channel
from robot.recording.mcap_writer import McapWriter
from robot.recording.meta import (
    DATA_NAME,
    Description,
    EpisodeMeta,
    EpisodeState,
    Label,
    Outcome,
    Summary,
    sync_folder,
)

DESCRIPTION_RECORD = "nova_pi.description"
CHUNK_PERIOD_S = 0.1
SYNC_PERIOD_S = 0.5
SPACE_PERIOD_S = 1.0
QUEUE_BYTES = 256 << 20
_EARLY_CHUNK_BYTES = 8 << 20

logger = logging.getLogger(__name__)


class RecordingError(RuntimeError):
    """An episode can't be recorded: no space, a folder that can't be written, a source that is absent."""


@dataclass(frozen=True)
class SpaceLimits:
    """Free bytes needed to start an episode, and below which a running one is closed.

    The start reserve is five minutes of two 640×360 cameras at 30 fps in busy scenes.
    """

    start_bytes: int = 3 << 30
    stop_bytes: int = 256 << 20


DEFAULT_SPACE = SpaceLimits()


@dataclass(frozen=True)
class _Message:
    channel: Channel
    data: bytes
    sequence: int
    log_ns: int
    publish_ns: int


class EpisodeWriter:
    """An open episode. Open it with `EpisodeWriter.open`, feed it with `put`, and `close` it.

    While it is open the data file is locked (flock), so that nobody salvages it under the writer; the lock goes when
    the process dies, however it dies.
    """

    def __init__(self, folder: Path, *, file: FileIO, meta: EpisodeMeta, space: SpaceLimits) -> None:
        self.folder = folder
        self.meta = meta
        self.failure: str | None = None
        self._file = file
        self._space = space
        self._mcap = McapWriter(file)
        self._mcap.add_metadata(DESCRIPTION_RECORD, meta.description.to_record())
        self._lock = threading.Lock()
        self._queue: list[_Message] = []
        self._queued_bytes = 0
        self._dropped: Counter[str] = Counter()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="episode-writer", daemon=True)

    @classmethod
    def open(cls, directory: Path, *, description: Description, space: SpaceLimits = DEFAULT_SPACE) -> Self:
        """Make the folder ``directory/ID`` with all its files, as a whole, and start writing. Raises
        `RecordingError`."""
        folder = directory / description.id
        # Everything is made and locked under another name first: a salvage never meets a half-made episode.
        draft = directory / f".{description.id}.new"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            check_space(directory, needed=space.start_bytes)
            draft.mkdir()
            file = FileIO(draft / DATA_NAME, "x")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            meta = EpisodeMeta(description, EpisodeState.RECORDING, notes=description.request.notes)
            writer = cls(folder, file=file, meta=meta, space=space)
            os.fsync(file.fileno())
            meta.write(draft)
            draft.rename(folder)
            sync_folder(directory)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise RecordingError(f"can't record into {directory}: {error.strerror or error}") from error
        writer._thread.start()
        return writer

    @property
    def dropped(self) -> dict[str, int]:
        """Messages that found the queue full, by topic."""
        with self._lock:
            return dict(self._dropped)

    def put(self, channel: Channel, data: bytes, *, sequence: int, log_ns: int, publish_ns: int) -> bool:
        """Queue a message; False if it was dropped because the disk is too slow or has failed."""
        with self._lock:
            if self.failure is not None or self._queued_bytes + len(data) > QUEUE_BYTES:
                self._dropped[channel.topic] += 1
                return False
            self._queue.append(_Message(channel, data, sequence, log_ns, publish_ns))
            self._queued_bytes += len(data)
            early = self._queued_bytes > _EARLY_CHUNK_BYTES
        if early:
            self._wake.set()
        return True

    def close(
        self, outcome: Outcome, *, dropped: Mapping[str, int] | None = None, wall_clock_shift_s: float = 0.0
    ) -> EpisodeMeta:
        """Write what is queued, the index and the final ``meta.json``; returns the latter.

        ``dropped`` is what is missing, by topic, if the caller knows more than the queue. A failing disk turns the
        outcome into ``aborted:disk`` and is said in the summary; it never raises.
        """
        self._closing = True
        self._wake.set()
        self._thread.join()
        damage = []
        try:
            given_up = self._mcap.finish()
            if given_up:
                damage.append(f"the disk was full: {given_up} chunk(s) of {CHUNK_PERIOD_S:g} s were given up")
            os.fsync(self._file.fileno())
        except OSError as error:
            self.failure = self.failure or _explain(error)
            damage.append(f"the index could not be written: {_explain(error)}")
        if self.failure is not None:
            damage.insert(0, self.failure)
            outcome = Outcome(Label.ABORTED, "disk")
        first_ns, last_ns = self._mcap.span_ns
        summary = Summary(
            duration_s=(last_ns - first_ns) / NS_PER_S,
            messages=self._mcap.messages_written(),
            dropped=self.dropped if dropped is None else dict(dropped),
            size_bytes=self._mcap.size,
            wall_clock_shift_s=wall_clock_shift_s,
            damage=tuple(damage),
        )
        self.meta = replace(self.meta, state=EpisodeState.CLOSED, outcome=outcome, summary=summary)
        try:
            self.meta.write(self.folder)
        except OSError as error:
            logger.error("%s: meta.json could not be closed (%s); the next start salvages it", self.folder, error)
        self._file.close()
        return self.meta

    def _run(self) -> None:
        synced_s = checked_s = time.monotonic()
        try:
            while not self._closing:
                self._wake.wait(CHUNK_PERIOD_S)
                self._wake.clear()
                self._write_queued()
                now_s = time.monotonic()
                if now_s - checked_s >= SPACE_PERIOD_S:
                    check_space(self.folder, needed=self._space.stop_bytes)
                    checked_s = now_s
                if now_s - synced_s >= SYNC_PERIOD_S:
                    os.fdatasync(self._file.fileno())
                    synced_s = now_s
            self._write_queued()
        except (OSError, RecordingError) as error:
            with self._lock:
                self.failure = _explain(error) if isinstance(error, OSError) else str(error)
                self._dropped.update(message.channel.topic for message in self._queue)
                self._queue.clear()
            logger.error("%s: recording stopped: %s", self.folder, self.failure)

    def _write_queued(self) -> None:
        with self._lock:
            queue, self._queue = self._queue, []
            self._queued_bytes = 0
        for message in queue:
            self._mcap.add(
                message.channel,
                message.data,
                sequence=message.sequence,
                log_ns=message.log_ns,
                publish_ns=message.publish_ns,
            )
        try:
            self._mcap.flush_chunk()
        except OSError:
            with self._lock:
                self._dropped.update(message.channel.topic for message in queue)
            raise


def check_space(folder: Path, *, needed: int) -> None:
    """Raises `RecordingError` if less than ``needed`` bytes are free where ``folder`` lies."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RecordingError(
            f"the disk of {folder} has {free / 2**30:.2f} GiB free, expected at least {needed / 2**30:.2f} GiB: "
            "make room or record to another folder"
        )


def _explain(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no space left for the recording ({error.strerror})"
    return f"the recording could not be written ({error.strerror or error})"
