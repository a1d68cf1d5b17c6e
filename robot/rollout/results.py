"""What a rollout was worth: episodes, success rates with confidence intervals, timings; as JSON and as tables."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table

from robot.rollout.client import EndReason
from robot.rollout.policy_link import PolicyIdentity

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class EpisodeResult:
    """One episode. ``success`` is False until somebody or something has said otherwise."""

    task: str
    seed: int
    reason: EndReason
    detail: str = ""
    success: bool = False
    seconds: float = 0.0
    ticks: int = 0
    missed_ticks: int = 0
    underruns: int = 0
    holds: int = 0
    chunks: int = 0
    failed_requests: int = 0
    late_waypoints: int = 0
    dropped_chunks: int = 0
    guard_events: dict[str, int] = field(default_factory=dict)
    rejections: dict[str, int] = field(default_factory=dict)
    periods_ms: Sequence[float] = ()
    round_trip_ms: Sequence[float] = ()
    observation_to_action_ms: Sequence[float] = ()
    seam_jumps_rad: Sequence[float] = ()
    progress: str = ""
    """How far the task got, where the judge knows."""
    video: str = ""
    video_frames: int = 0
    video_dropped: int = 0

    def to_json(self) -> dict[str, Any]:
        """The episode's entry in the result file."""
        return {
            "task": self.task,
            "seed": self.seed,
            "success": self.success,
            "seconds": round(self.seconds, 3),
            "ticks": self.ticks,
            "missed_ticks": self.missed_ticks,
            "underruns": self.underruns,
            "guard_events": self.guard_events,
            "video": self.video,
            "reason": self.reason.value,
            "detail": self.detail,
            "aborted": self.reason.aborted,
            "progress": self.progress,
            "holds": self.holds,
            "chunks": self.chunks,
            "failed_requests": self.failed_requests,
            "late_waypoints": self.late_waypoints,
            "dropped_chunks": self.dropped_chunks,
            "rejected_observations": self.rejections,
            "period_ms": _spread(self.periods_ms),
            "round_trip_ms": _percentiles(self.round_trip_ms),
            "observation_to_action_ms": _percentiles(self.observation_to_action_ms),
            "seam_jump_rad": _percentiles(self.seam_jumps_rad),
            "video_frames": self.video_frames,
            "video_dropped": self.video_dropped,
        }


@dataclass(frozen=True)
class RolloutResult:
    """All episodes of one call."""

    policy: PolicyIdentity
    rig: str
    mode: str
    episodes: tuple[EpisodeResult, ...]

    @property
    def completed(self) -> bool:
        """Whether no episode was aborted."""
        return not any(episode.reason.aborted for episode in self.episodes)

    def to_json(self) -> dict[str, Any]:
        """The result file, as the project's documentation describes it."""
        periods = _all(episode.periods_ms for episode in self.episodes)
        return {
            "policy": {"name": self.policy.name, "trained": self.policy.trained, "digest": self.policy.digest},
            "rig": self.rig,
            "mode": self.mode,
            "episodes": [episode.to_json() for episode in self.episodes],
            "loop": {
                "period_ms": _spread(periods),
                "missed_ticks": sum(episode.missed_ticks for episode in self.episodes),
            },
            "latency_ms": {
                "round_trip": _percentiles(_all(episode.round_trip_ms for episode in self.episodes)),
                "observation_to_action": _percentiles(
                    _all(episode.observation_to_action_ms for episode in self.episodes)
                ),
            },
            "success": {task: self._success(task) for task in dict.fromkeys(e.task for e in self.episodes)},
        }

    def _success(self, task: str) -> dict[str, Any]:
        judged = [episode.success for episode in self.episodes if episode.task == task and not episode.reason.aborted]
        rate = sum(judged) / len(judged) if judged else None
        return {"rate": rate, "n": len(judged), "wilson95": list(wilson95(sum(judged), len(judged)))}


def wilson95(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a success rate; (0, 1) without trials."""
    if not 0 <= successes <= trials:
        raise ValueError(f"expected 0 to {trials} successes, got {successes}")
    if trials == 0:
        return 0.0, 1.0
    rate, z2 = successes / trials, _Z95**2
    middle = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 / (1 + z2 / trials) * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2))
    # At the ends the bound is exact, rounding aside.
    return (0.0 if successes == 0 else middle - half), (1.0 if successes == trials else middle + half)


def summary_table(result: RolloutResult) -> Group:
    """The final tables: outcomes with a column for each task, and timings of all ticks and chunks."""
    outcomes = Table(title=f"{result.policy.label} on rig '{result.rig}', {result.mode}", title_justify="left")
    outcomes.add_column("")
    columns: dict[str, list[EpisodeResult]] = {}
    for episode in result.episodes:
        columns.setdefault(episode.task, []).append(episode)
    if len(columns) != 1:
        columns["all"] = list(result.episodes)
    for name in columns:
        outcomes.add_column(name, justify="right")
    described = [_outcome(episodes) for episodes in columns.values()]
    for row in described[0]:
        outcomes.add_row(row, *(column[row] for column in described))
    events: Counter[str] = Counter()
    for episode in result.episodes:
        events.update(episode.guard_events)
    counted = ", ".join(f"{name} {count}" for name, count in sorted(events.items())) or "none"
    return Group(outcomes, _timings(result.episodes), f"guard events: {counted}")


def _outcome(episodes: list[EpisodeResult]) -> dict[str, str]:
    """What the table says about some episodes, by row."""
    judged = [episode for episode in episodes if not episode.reason.aborted]
    successes, aborted = sum(episode.success for episode in judged), len(episodes) - len(judged)
    low, high = wilson95(successes, len(judged))
    return {
        "success": f"{successes}/{len(judged)}" + (f" (+{aborted} aborted)" if aborted else ""),
        "95 % interval": f"{low:.2f} to {high:.2f}",
        "ticks": str(sum(episode.ticks for episode in episodes)),
        "missed ticks": str(sum(episode.missed_ticks for episode in episodes)),
        "underruns": str(sum(episode.underruns for episode in episodes)),
        "holds": str(sum(episode.holds for episode in episodes)),
    }


def _timings(episodes: Sequence[EpisodeResult]) -> Table:
    table = Table(caption="underrun: a tick without a waypoint ahead", caption_justify="left")
    table.add_column("milliseconds")
    for heading in ("n", "mean", "p50", "p99", "max"):
        table.add_column(heading, justify="right")
    for name, values in (
        ("control period", _all(episode.periods_ms for episode in episodes)),
        ("request round trip", _all(episode.round_trip_ms for episode in episodes)),
        ("picture taken to waypoints sent", _all(episode.observation_to_action_ms for episode in episodes)),
    ):
        spread = _spread(values)
        shown = ("-" if value is None else f"{value:.2f}" for value in spread.values())
        table.add_row(name, str(len(values)), *shown)
    return table


def _all(parts: Iterable[Sequence[float]]) -> list[float]:
    return [value for part in parts for value in part]


def _percentiles(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {"p50": None, "p99": None}
    return {"p50": round(float(np.percentile(values, 50)), 3), "p99": round(float(np.percentile(values, 99)), 3)}


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {"mean": None, "p50": None, "p99": None, "max": None}
    return {"mean": round(float(np.mean(values)), 4), **_percentiles(values), "max": round(float(max(values)), 3)}
