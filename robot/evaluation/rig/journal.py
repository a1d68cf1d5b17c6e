"""What came of blind trials, a line each; void ones are kept and repeated."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median

import numpy as np

from configs.report import append_line, read_lines
from robot.evaluation.rig.plan import BlindTrial, RigPlan
from robot.evaluation.smoothness import log_dimensionless_jerk
from robot.evaluation.trial import Outcome, Trial
from robot.rollout.client import EndReason
from robot.rollout.results import EpisodeResult
from robot.rollout.session import DEFAULT_REPLAN_TICKS

JOURNAL_NAME = "trials.jsonl"


class Verdict(StrEnum):
    """A void trial says nothing about the policy: it is listed and repeated."""

    SUCCESS = "success"
    FAILURE = "failure"
    VOID = "void"


@dataclass(frozen=True)
class Entry:
    """One attempt at a trial. Nothing in it says which policy acted but the letter."""

    number: int
    attempt: int
    task: str
    start: int
    letter: str
    verdict: Verdict
    reason: str
    detail: str
    stage: str
    seconds: float
    ticks: int
    underruns: int
    chunks: int
    seam_jump_rad: float | None
    jerk: float | None
    round_trip_ms: float | None
    reaction_ms: float | None
    folder: str

    def outcome(self, plan: RigPlan) -> Outcome:
        """With the policy's name instead of the letter."""
        ticks = plan.replan_ticks or DEFAULT_REPLAN_TICKS[plan.mode]
        name = plan.letters[self.letter]
        return Outcome(
            trial=Trial(name, self.task, self.start, plan.mode.value, ticks, 0.0, plan.continuity or ""),
            digest=plan.digests.get(name, ""),
            success=self.verdict is Verdict.SUCCESS,
            seconds=self.seconds,
            ticks=self.ticks,
            stage=self.stage or "unknown",
            flaws=() if self.reason in (EndReason.SUCCESS.value, EndReason.TIME_LIMIT.value) else (self.reason,),
            underruns=self.underruns,
            chunks=self.chunks,
            seam_jump_rad=self.seam_jump_rad,
            jerk=self.jerk,
            policy_ms=self.round_trip_ms,
            reaction_ms=self.reaction_ms,
        )


def verdict_of(result: EpisodeResult, *, intervened: bool) -> Verdict:
    """Time-outs, refusals of the guard and interventions are failures; other ends that say nothing are void."""
    if result.reason.aborted:
        return Verdict.FAILURE if intervened else Verdict.VOID
    return Verdict.SUCCESS if result.success else Verdict.FAILURE


def entry_of(trial: BlindTrial, result: EpisodeResult, *, attempt: int, intervened: bool, folder: Path) -> Entry:
    """A line for the journal. ``folder`` is the episode's, in which its steps are."""
    return Entry(
        number=trial.number,
        attempt=attempt,
        task=trial.task,
        start=trial.start,
        letter=trial.letter,
        verdict=verdict_of(result, intervened=intervened),
        reason="intervention" if intervened else result.reason.value,
        detail=result.detail,
        stage=result.progress,
        seconds=round(result.seconds, 3),
        ticks=result.ticks,
        underruns=result.underruns,
        chunks=result.chunks,
        seam_jump_rad=_median(result.seam_jumps_rad),
        jerk=log_dimensionless_jerk(measured_path(folder)),
        round_trip_ms=_median(result.round_trip_ms),
        reaction_ms=_median(result.observation_to_action_ms),
        folder=folder.name,
    )


def measured_path(folder: Path) -> np.ndarray:
    """Joint angles (ticks, 6) that were measured in an episode; empty without its steps."""
    path = folder / "steps.jsonl"
    if not path.exists():
        return np.empty((0, 6))
    rows = [json.loads(line)["joints_rad"] for line in path.read_text(encoding="utf-8").splitlines() if line]
    return np.array(rows, dtype=float).reshape(-1, 6)


def append(folder: Path, entry: Entry) -> None:
    """Add an attempt and have it on the disk."""
    append_line(folder / JOURNAL_NAME, asdict(entry))


def read(folder: Path) -> list[Entry]:
    """All attempts, in order."""
    return [Entry(**{**row, "verdict": Verdict(row["verdict"])}) for row in read_lines(folder / JOURNAL_NAME)]


def counted(entries: Iterable[Entry]) -> dict[int, Entry]:
    """By number the attempt that counts: the first that is not void."""
    found: dict[int, Entry] = {}
    for entry in entries:
        if entry.verdict is not Verdict.VOID:
            found.setdefault(entry.number, entry)
    return found


def complete_pairs(plan: RigPlan, done: dict[int, Entry]) -> dict[str, list[bool]]:
    """By letter the outcomes on the starts that every policy has met, starts in one order."""
    met: dict[tuple[str, int], dict[str, bool]] = {}
    for entry in done.values():
        met.setdefault((entry.task, entry.start), {})[entry.letter] = entry.verdict is Verdict.SUCCESS
    whole = [met[key] for key in sorted(met) if len(met[key]) == len(plan.letters)]
    return {letter: [outcomes[letter] for outcomes in whole] for letter in sorted(plan.letters)}


def _median(values: Sequence[float]) -> float | None:
    return round(float(median(values)), 5) if values else None
