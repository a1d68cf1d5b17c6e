"""What trials are worth: tables for people, a Markdown report, and the result file."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table

from robot.evaluation.plan import EvaluationPlan
from robot.evaluation.statistics import PairedCounts, barnard_exact, holm, mcnemar_exact
from robot.evaluation.trial import Outcome
from robot.rollout.results import wilson95

REPORT_NAME = "report.md"
ALL = "all"
CONTINUITIES = {"none": "on its own", "committed": "prefix-conditioned", "guided": "guided"}


@dataclass(frozen=True)
class Condition:
    """How chunks were carried out."""

    mode: str
    replan_ticks: int
    latency_s: float
    continuity: str = ""

    @classmethod
    def of(cls, outcome: Outcome) -> "Condition":
        """The condition of a trial."""
        trial = outcome.trial
        return cls(trial.mode, trial.replan_ticks, trial.latency_s, trial.continuity)

    def __str__(self) -> str:
        how = f", {CONTINUITIES[self.continuity]}" if self.continuity else ""
        return f"{self.mode}{how}, every {self.replan_ticks} ticks, {1e3 * self.latency_s:.0f} ms"


@dataclass(frozen=True)
class Cell:
    """One policy's trials of one task, or of all, under one condition."""

    policy: str
    condition: Condition
    task: str
    successes: int
    trials: int
    seconds: float | None
    seam_jump_rad: float | None
    jerk: float | None
    underruns: int
    reaction_ms: float | None
    failures: dict[str, int]

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        return wilson95(self.successes, self.trials)


@dataclass(frozen=True)
class Comparison:
    """Two policies on the same starts; `p` is McNemar's exact p-value, `p_unpaired` Barnard's, which does not use that
    the starts were the same. Both are corrected over all comparisons (Holm)."""

    condition: Condition
    first: str
    second: str
    counts: PairedCounts
    p: float
    p_unpaired: float


def cells(outcomes: Sequence[Outcome]) -> list[Cell]:
    """By policy, condition and task, with a sum over tasks where there are several."""
    found = []
    tasks = list(dict.fromkeys(outcome.trial.task for outcome in outcomes))
    for policy in dict.fromkeys(outcome.trial.policy for outcome in outcomes):
        for condition in dict.fromkeys(map(Condition.of, outcomes)):
            mine = [o for o in outcomes if o.trial.policy == policy and Condition.of(o) == condition]
            groups = {task: [o for o in mine if o.trial.task == task] for task in tasks}
            if len(tasks) > 1:
                groups[ALL] = mine
            found += [_cell(policy, condition, task, group) for task, group in groups.items() if group]
    return found


def _cell(policy: str, condition: Condition, task: str, group: Sequence[Outcome]) -> Cell:
    good = [outcome for outcome in group if outcome.success]
    return Cell(
        policy=policy,
        condition=condition,
        task=task,
        successes=len(good),
        trials=len(group),
        seconds=float(np.median([o.seconds for o in good])) if good else None,
        seam_jump_rad=_median([o.seam_jump_rad for o in group]),
        jerk=_median([o.jerk for o in group]),
        underruns=sum(o.underruns for o in group),
        reaction_ms=_median([o.reaction_ms for o in group]),
        failures=dict(Counter(_failure(o) for o in group if not o.success).most_common()),
    )


def comparisons(outcomes: Sequence[Outcome]) -> list[Comparison]:
    """Each two policies under each condition, on the starts that both have met."""
    found = []
    for condition in dict.fromkeys(map(Condition.of, outcomes)):
        here = [o for o in outcomes if Condition.of(o) == condition]
        by_policy = {
            policy: {o.trial.pair: o.success for o in here if o.trial.policy == policy}
            for policy in dict.fromkeys(o.trial.policy for o in here)
        }
        for first, second in combinations(by_policy, 2):
            shared = sorted(by_policy[first].keys() & by_policy[second].keys())
            counts = PairedCounts.of(
                [by_policy[first][pair] for pair in shared], [by_policy[second][pair] for pair in shared]
            )
            found.append(Comparison(condition, first, second, counts, mcnemar_exact(counts), _unpaired(counts)))
    paired, unpaired = holm([c.p for c in found]), holm([c.p_unpaired for c in found])
    return [replace(c, p=p, p_unpaired=q) for c, p, q in zip(found, paired, unpaired, strict=True)]


def _unpaired(counts: PairedCounts) -> float:
    trials = counts.both + counts.only_first + counts.only_second + counts.neither
    if trials == 0:
        return 1.0
    return barnard_exact(counts.both + counts.only_first, trials, counts.both + counts.only_second, trials)


def tables(plan: EvaluationPlan, outcomes: Sequence[Outcome]) -> Group:
    """For the terminal."""
    table = Table(title=f"{len(outcomes)} of {len(plan.all_trials())} trials on rig '{plan.rig}'", title_justify="left")
    for name in ("policy", "chunks", "task"):
        table.add_column(name)
    for name in ("success", "rate", "95 % interval", "median s", "seam jump rad", "LDLJ", "underruns", "reaction ms"):
        table.add_column(name, justify="right")
    table.add_column("what went wrong")
    for cell in cells(outcomes):
        wrong = ", ".join(f"{name} {count}" for name, count in cell.failures.items())
        table.add_row(*_row(cell), wrong)
    parts: list[Any] = [table]
    compared = comparisons(outcomes)
    if compared:
        paired = Table(title="comparisons (p: exact McNemar; unpaired: Barnard; both Holm)", title_justify="left")
        for name in ("chunks", "first", "second", "only first", "only second", "both", "neither", "p", "p unpaired"):
            paired.add_column(name)
        for each in compared:
            paired.add_row(*_comparison_row(each))
        parts.append(paired)
    return Group(*parts)


def write_report(plan: EvaluationPlan, outcomes: Sequence[Outcome], folder: Path) -> Path:
    """``report.md`` in the folder: what was planned, success rates, comparisons, and where it went wrong."""
    names = ["policy", "chunks", "task", "success", "rate", "95 %", "median s", "seam jump rad", "LDLJ", "underruns"]
    names.append("reaction ms")
    lines = ["# Evaluation", "", f"Rig `{plan.rig}`, {plan.trials} seeded starts a task from seed {plan.seed}, "]
    lines += [f"{'the same look in every scene' if plan.plain else 'light, colours and cameras varied'}.", ""]
    lines += [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += [f"| {' | '.join(_row(cell))} |" for cell in cells(outcomes)]
    compared = comparisons(outcomes)
    if compared:
        lines += [
            "",
            "| chunks | first | second | only first | only second | both | neither | p (McNemar) | p (Barnard) |",
            "|" + "---|" * 9,
        ]
        lines += [f"| {' | '.join(_comparison_row(each))} |" for each in compared]
    lines += ["", "## What went wrong", ""]
    for cell in cells(outcomes):
        if cell.failures and cell.task != ALL:
            wrong = ", ".join(f"{name} {count}" for name, count in cell.failures.items())
            lines.append(f"* {cell.policy}, {cell.task}, {cell.condition}: {wrong}")
    lines += ["", "Digests: " + ", ".join(f"{p} `{d[:16]}`" for p, d in sorted(_digests(outcomes).items())), ""]
    path = folder / REPORT_NAME
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def result_json(plan: EvaluationPlan, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The result file: success by task of the first policy and condition, all cells, comparisons, every trial."""
    found = cells(outcomes)
    first = found[0] if found else None
    main = [cell for cell in found if first and (cell.policy, cell.condition) == (first.policy, first.condition)]
    name = first.policy if first else next(iter(plan.policies))
    return {
        "policy": {"name": name, "trained": True, "digest": _digests(outcomes).get(name, "")},
        "rig": plan.rig,
        "plan": plan.to_json(),
        "episodes": [outcome.to_json() | vars(outcome.trial) for outcome in outcomes],
        "success": {
            cell.task: {"rate": cell.successes / cell.trials, "n": cell.trials, "wilson95": list(cell.interval)}
            for cell in main
            if cell.task != ALL
        },
        "cells": [vars(cell) | {"condition": vars(cell.condition), "wilson95": list(cell.interval)} for cell in found],
        "comparisons": [
            vars(each) | {"condition": vars(each.condition), "counts": vars(each.counts)}
            for each in comparisons(outcomes)
        ],
    }


def _row(cell: Cell) -> list[str]:
    low, high = cell.interval
    return [
        cell.policy,
        str(cell.condition),
        cell.task,
        f"{cell.successes}/{cell.trials}",
        f"{100.0 * cell.successes / cell.trials:.1f} %",
        f"{100.0 * low:.0f} to {100.0 * high:.0f} %",
        _shown(cell.seconds, 1),
        _shown(cell.seam_jump_rad, 4),
        _shown(cell.jerk, 1),
        str(cell.underruns),
        _shown(cell.reaction_ms, 0),
    ]


def _comparison_row(each: Comparison) -> list[str]:
    counts = each.counts
    numbers = (counts.only_first, counts.only_second, counts.both, counts.neither)
    return [str(each.condition), each.first, each.second, *map(str, numbers), f"{each.p:.4f}", f"{each.p_unpaired:.4f}"]


def _digests(outcomes: Sequence[Outcome]) -> dict[str, str]:
    return {outcome.trial.policy: outcome.digest for outcome in outcomes}


def _failure(outcome: Outcome) -> str:
    return f"got to '{outcome.stage}'"


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
