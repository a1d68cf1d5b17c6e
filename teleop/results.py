"""What a collection reports: a line an episode for people, JSON for machines."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from rich.table import Table

from teleop.episode_loop import EpisodeEnd, EpisodeStatistics
from teleop.progress import Progress


@dataclass(frozen=True)
class EpisodeRecord:
    """One episode of a session. ``limitations`` and ``guard_events`` count ticks and objections, by name."""

    id: str
    label: str
    seed: int
    reason: str
    detail: str
    seconds: float
    steps: int
    engaged_steps: int
    missed_ticks: int
    limitations: Mapping[str, int]
    guard_events: Mapping[str, int]

    @classmethod
    def of(cls, id: str, *, label: str, seed: int, end: EpisodeEnd, statistics: EpisodeStatistics) -> Self:
        """From what the loop has counted."""
        return cls(
            id=id,
            label=label,
            seed=seed,
            reason=end.reason.value,
            detail=end.detail,
            seconds=round(statistics.seconds, 3),
            steps=statistics.ticks,
            engaged_steps=statistics.engaged_ticks,
            missed_ticks=statistics.missed_ticks,
            limitations=dict(statistics.limitations),
            guard_events=dict(statistics.guard_events),
        )

    def line(self) -> str:
        """For the operator."""
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.id}: {self.label}, {self.seconds:.1f} s, {self.steps} steps ({self.reason}{detail})"


def to_json(progress: Progress, records: list[EpisodeRecord], **about: str) -> dict[str, Any]:
    """What ``--json`` writes."""
    counts = {**asdict(progress), "done": progress.done}
    return {**about, "ok": progress.is_complete, "progress": counts, "episodes": [asdict(record) for record in records]}


def summary_table(progress: Progress, records: list[EpisodeRecord]) -> Table:
    """The table at the end of a session."""
    table = Table(title=f"This session: {len(records)} episodes; collected {progress.text()}")
    for column in ("id", "label", "seconds", "steps", "missed", "limited by", "guard"):
        table.add_column(column, justify="right" if column in ("seconds", "steps", "missed") else "left")
    for record in records:
        table.add_row(
            record.id,
            record.label,
            f"{record.seconds:.1f}",
            str(record.steps),
            str(record.missed_ticks),
            _counts(record.limitations),
            _counts(record.guard_events),
        )
    return table


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "-"
