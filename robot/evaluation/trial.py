"""One trial: what identifies it, and what came of it, as a line of a JSONL file."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs.report import append_line, read_lines


@dataclass(frozen=True, order=True)
class Trial:
    """A policy (by its alias), a task, a seeded start, and how chunks are carried out. Trials with the same `pair` are
    compared with each other."""

    policy: str
    task: str
    seed: int
    mode: str
    replan_ticks: int
    latency_s: float
    continuity: str = ""
    """How a chunk follows the one before (`policy_server.client.Continuity`); empty: as the policy was trained."""

    @property
    def pair(self) -> tuple[str, int]:
        """What trials of different policies have in common."""
        return self.task, self.seed


@dataclass(frozen=True)
class Outcome:
    """How a trial ended. `stage` is the furthest one reached, `flaws` what was wrong at the end; `reaction_ms`, on a
    rig, is the median time from a picture to the first action that answers it."""

    trial: Trial
    digest: str
    success: bool
    seconds: float
    ticks: int
    stage: str
    flaws: tuple[str, ...]
    underruns: int
    chunks: int
    seam_jump_rad: float | None
    jerk: float | None
    policy_ms: float | None
    reaction_ms: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Outcome":
        """The inverse of `to_json`."""
        return cls(**{**plain, "trial": Trial(**plain["trial"]), "flaws": tuple(plain["flaws"])})


def append(path: Path, outcome: Outcome) -> None:
    """Add a line and have it on the disk."""
    append_line(path, outcome.to_json())


def read(paths: Iterable[Path]) -> dict[Trial, Outcome]:
    """All outcomes; of a trial done twice the first counts."""
    found: dict[Trial, Outcome] = {}
    for path in sorted(paths):
        for plain in read_lines(path):
            outcome = Outcome.from_json(plain)
            found.setdefault(outcome.trial, outcome)
    return found
