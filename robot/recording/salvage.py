"""Bringing back what a crash, a power cut or a bad disk has left of an episode."""

import contextlib
import fcntl
import logging
import mmap
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from io import FileIO
from pathlib import Path

from robot.clock import NS_PER_S
from robot.recording.episode_writer import DESCRIPTION_RECORD
from robot.recording.mcap_scan import Messages, Scan, scan
from robot.recording.mcap_writer import McapWriter
from robot.recording.meta import (
    DATA_NAME,
    META_NAME,
    Description,
    EpisodeMeta,
    EpisodeRequest,
    EpisodeState,
    Label,
    MetaError,
    Outcome,
    Summary,
    read_meta,
    sync_folder,
)

DAMAGED_NAME = "episode.damaged.mcap"
_CHUNK_BYTES = 1 << 20
_DRAFT_AGE_S = 60.0

logger = logging.getLogger(__name__)


class EpisodeBusyError(RuntimeError):
    """The episode is being recorded right now."""


def salvage_directory(directory: Path) -> list[EpisodeMeta]:
    """Salvage every episode in ``directory`` that no recorder has closed and none is writing; returns their new meta
    data.

    Episodes that are already closed are left alone. Drafts of episodes that never began are removed.
    """
    salvaged = []
    for folder in sorted(directory.iterdir()) if directory.is_dir() else []:
        if folder.name.startswith(".") and folder.name.endswith(".new"):
            _remove_draft(folder)
        elif (folder / DATA_NAME).is_file() and _is_unfinished(folder):
            try:
                salvaged.append(salvage_episode(folder))
            except EpisodeBusyError:
                continue
            except OSError as error:
                logger.error("%s could not be salvaged: %s", folder, error)
    return salvaged


def salvage_episode(folder: Path) -> EpisodeMeta:
    """Rewrite the episode in ``folder`` from its intact chunks, with an index, and mark it ``aborted``.

    A label that an operator had given is kept. If something else than the unfinished end is damaged, the damaged file
    stays beside the new one. Safe to interrupt and to repeat. Raises `EpisodeBusyError` if the episode is being
    recorded, OSError if it can't be read or written.
    """
    path = folder / DATA_NAME
    with _locked(path) as file:
        if os.fstat(file.fileno()).st_size:
            # Unmapped when the last view of it goes, at the end of this function.
            data = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        else:
            data = memoryview(b"")
        found = scan(data)
        before = _known(folder, found)
        draft = folder / f".{DATA_NAME}.new"
        with FileIO(draft, "w") as output:
            writer = McapWriter(output)
            writer.add_metadata(DESCRIPTION_RECORD, before.description.to_record())
            _copy(found, data, writer)
            writer.finish()
            os.fsync(output.fileno())
            summary = Summary(
                duration_s=_duration_s(found.topics),
                messages=writer.messages_written(),
                dropped=before.summary.dropped,
                size_bytes=writer.size,
                wall_clock_shift_s=before.summary.wall_clock_shift_s,
                salvaged=True,
                damage=tuple(f"at byte {one.offset}, {one.length} bytes: {one.text}" for one in found.damage),
            )
        if found.damaged_inside:
            path.replace(folder / DAMAGED_NAME)
        draft.replace(path)
        aborted = Outcome(Label.ABORTED, "recorder")
        outcome = before.outcome if before.state is EpisodeState.CLOSED else aborted
        meta = replace(before, state=EpisodeState.CLOSED, outcome=outcome, summary=summary)
        meta.write(folder)
        return meta


def _is_unfinished(folder: Path) -> bool:
    try:
        return read_meta(folder).state is EpisodeState.RECORDING
    except MetaError:
        return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[FileIO]:
    with FileIO(path, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EpisodeBusyError(f"{path.parent.name} is being recorded: finish it first") from None
        yield file


def _known(folder: Path, found: Scan) -> EpisodeMeta:
    """The meta data on disk; if unreadable, rebuilt from the description in the recording or, at worst, from the
    name."""
    try:
        return read_meta(folder)
    except MetaError as error:
        logger.warning("%s", error)
    if (folder / META_NAME).exists():
        shutil.copyfile(folder / META_NAME, folder / "meta.damaged.json")
    record = found.metadata.get(DESCRIPTION_RECORD)
    description = None
    if record is not None:
        with contextlib.suppress(MetaError):
            description = Description.from_record(record)
    if description is None:
        request = EpisodeRequest(task="unknown", prompt="unknown", notes="the description of this episode is lost")
        description = Description(
            id=folder.name,
            request=request,
            rig={},
            rig_digest="",
            cameras={},
            software="unknown",
            started_wall_ns=0,
            started_monotonic_ns=0,
        )
    return EpisodeMeta(description, EpisodeState.RECORDING, notes=description.request.notes)


def _copy(found: Scan, data: memoryview, writer: McapWriter) -> None:
    """All intact messages, in the order in which they lie in the file."""
    order = sorted(
        (int(offset), topic, row)
        for topic, messages in found.topics.items()
        for row, offset in enumerate(messages.offset)
    )
    for offset, topic, row in order:
        messages = found.topics[topic]
        writer.add(
            messages.channel,
            bytes(data[offset : offset + int(messages.size[row])]),
            sequence=int(messages.sequence[row]),
            log_ns=int(messages.log_ns[row]),
            publish_ns=int(messages.publish_ns[row]),
        )
        if writer.pending_bytes > _CHUNK_BYTES:
            writer.flush_chunk()


def _duration_s(topics: dict[str, Messages]) -> float:
    """From the first to the last message that was received."""
    times = [messages.log_ns for messages in topics.values() if len(messages)]
    if not times:
        return 0.0
    return float(max(int(t.max()) for t in times) - min(int(t.min()) for t in times)) / NS_PER_S


def _remove_draft(folder: Path) -> None:
    """A recorder died between making the folder and naming it: nothing was recorded yet."""
    if time.time() - folder.stat().st_mtime > _DRAFT_AGE_S:
        shutil.rmtree(folder, ignore_errors=True)
        sync_folder(folder.parent)
