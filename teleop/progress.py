"""How far the collection of a task has got, counted from the episodes on disk: that is how a session resumes."""

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from robot.recording import Label, list_episodes
from robot.recording.episode_writer import DEFAULT_SPACE
from robot.recording.meta import EpisodeMeta, EpisodeState


class CollectionError(ValueError):
    """What was asked for is not possible. Says what was expected, what was found and what to do."""


@dataclass(frozen=True)
class Progress:
    """Episodes of a task by label, and how many are wanted. Confirmed and unconfirmed ones count as done."""

    target: int
    success: int = 0
    unconfirmed: int = 0
    failure: int = 0
    discarded: int = 0
    aborted: int = 0

    @property
    def done(self) -> int:
        return self.success + self.unconfirmed

    @property
    def attempts(self) -> int:
        """All episodes begun; also the number of the next scene, so that none is shown twice."""
        return self.done + self.failure + self.discarded + self.aborted

    @property
    def is_complete(self) -> bool:
        return self.done >= self.target

    def text(self) -> str:
        """In a few words, for the operator."""
        others = [
            f"{count} {name}"
            for name, count in (
                ("to confirm", self.unconfirmed),
                ("failed", self.failure),
                ("discarded", self.discarded),
                ("aborted", self.aborted),
            )
            if count
        ]
        return f"{self.done} of {self.target}" + (f" ({', '.join(others)})" if others else "")


def task_progress(directory: Path, *, task: str, rig_name: str, target: int) -> Progress:
    """Count what is there. Raises `CollectionError` if the folder holds episodes of another rig or damaged ones."""
    counts = Counter(meta.outcome.label for meta in episodes_of(directory, task=task, rig_name=rig_name))
    return Progress(target=target, **{label.value: counts[label] for label in Label})


def episodes_of(directory: Path, *, task: str, rig_name: str) -> list[EpisodeMeta]:
    """Closed episodes of a task, oldest first; empty without a folder. Raises `CollectionError` as above."""
    if not directory.exists():
        return []
    if not directory.is_dir():
        raise CollectionError(f"{directory}: expected a folder for episodes, found a file: choose another --output")
    listing = list_episodes(directory)
    others = sorted({meta.description.rig_name for meta in listing.episodes} - {rig_name})
    if others:
        raise CollectionError(
            f"{directory}: expected episodes of rig {rig_name!r}, found some of {', '.join(others)}: "
            "one folder holds one rig, choose another --output"
        )
    return [
        meta for meta in listing.episodes if meta.state is EpisodeState.CLOSED and meta.description.request.task == task
    ]


def check_disk(directory: Path, *, needed_bytes: int = DEFAULT_SPACE.start_bytes) -> None:
    """Raises `CollectionError` when the disk that ``directory`` is or will be on has less than that free."""
    existing = next(folder for folder in (directory.absolute(), *directory.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise CollectionError(
            f"{directory}: expected {needed_bytes / 2**30:.1f} GiB free, found {free / 2**30:.1f} GiB: make room, "
            "choose another --output, or lower --reserve-gib"
        )
