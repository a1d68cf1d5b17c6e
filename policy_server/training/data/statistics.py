"""Exact normalisation statistics of states and action windows, and a preflight that refuses degenerate dimensions.

Every valid step of every window counts once; nothing is binned or sampled. Padding beyond an episode's end does not
count.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from policy_server.pi0.normalization import Normalization, NormKind, Statistics
from policy_server.training.data.lerobot import DatasetError


@dataclass(frozen=True, eq=False)
class Windows:
    """The low-dimensional side of a source: rows (R, D) of state and action, and which rows start a window.

    `starts` (N,) are row numbers and `ends` (N,) the row after the last one of each start's episode.
    """

    state: np.ndarray
    action: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


@dataclass(frozen=True, eq=False)
class Summary:
    """Of one quantity, each (D,) or (H, D) float64."""

    mean: np.ndarray
    std: np.ndarray
    q01: np.ndarray
    q99: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def statistics(self, kind: NormKind, *, span_floor: float) -> Statistics:
        """What a checkpoint stores; no dimension is divided by less than `span_floor`."""
        match kind:
            case NormKind.Z_SCORE:
                return Statistics(kind, self.mean, np.maximum(self.std, span_floor))
            case NormKind.QUANTILE:
                missing = np.maximum(span_floor - (self.q99 - self.q01), 0.0) / 2.0
                return Statistics(kind, self.q01 - missing, self.q99 + missing)


def summarize(values: Iterable[np.ndarray]) -> Summary:
    """Of rows (n, D) that come in pieces; exact, in float64."""
    rows = np.concatenate(list(values)).astype(np.float64)
    if not len(rows):
        raise DatasetError("no frames are left to take statistics of; loosen the subset or the idle filter")
    q01, q99 = np.quantile(rows, [0.01, 0.99], axis=0)
    return Summary(rows.mean(axis=0), rows.std(axis=0), q01, q99, rows.min(axis=0), rows.max(axis=0))


def state_range(sources: Sequence[Windows]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The smallest and the largest state at which a window starts."""
    rows = np.concatenate([source.state[source.starts] for source in sources]).astype(np.float64)
    return tuple(rows.min(axis=0).tolist()), tuple(rows.max(axis=0).tolist())


def action_steps(windows: Windows, *, step: int, relative: Sequence[bool]) -> np.ndarray:
    """The actions (n, D) `step` rows after each start whose episode is that long, relative where asked for."""
    rows = windows.starts + step
    valid = rows < windows.ends
    rows, starts = rows[valid], windows.starts[valid]
    reference = np.where(np.asarray(relative), windows.state[starts], 0.0) if any(relative) else 0.0
    return windows.action[rows].astype(np.float64) - reference


def normalization(
    sources: Sequence[Windows],
    *,
    horizon: int,
    relative: Sequence[bool],
    per_step: bool,
    kind: NormKind,
    span_floor: float,
) -> Normalization:
    """The normalisation of all sources together. Raises `DatasetError` when shapes can't be relative."""
    states, actions = sources[0].state.shape[1], sources[0].action.shape[1]
    for source in sources:
        if (source.state.shape[1], source.action.shape[1]) != (states, actions):
            raise DatasetError("the sources of one recipe must have states and actions of the same size")
    if len(relative) != actions:
        raise DatasetError(f"data.relative has {len(relative)} entries, the data set {actions} action dimensions")
    if any(relative) and states != actions:
        raise DatasetError(
            f"relative actions need a state of the same size: {states} state and {actions} action dimensions; "
            "set data.relative to false for each dimension"
        )
    state = summarize(source.state[source.starts] for source in sources)

    def of_step(step: int) -> list[np.ndarray]:
        return [action_steps(source, step=step, relative=relative) for source in sources]

    if per_step:
        steps = [summarize(of_step(step)) for step in range(horizon)]
        action = Summary(*(np.stack([getattr(s, f) for s in steps]) for f in _FIELDS))
    else:
        action = summarize(piece for step in range(horizon) for piece in of_step(step))
    return Normalization(
        state=state.statistics(kind, span_floor=span_floor), actions=action.statistics(kind, span_floor=span_floor)
    )


_FIELDS = ("mean", "std", "q01", "q99", "low", "high")


@dataclass(frozen=True)
class Finding:
    """One dimension of the preflight report."""

    quantity: str
    dimension: int
    summary: tuple[float, float, float, float]
    problem: str | None


def preflight(sources: Sequence[Windows], *, span_floor: float, may_be_constant: Sequence[int]) -> list[Finding]:
    """State and absolute action of each dimension: (min, q01, q99, max), and what is wrong with it."""
    findings = []
    for quantity in ("state", "action"):
        found = summarize(getattr(source, quantity)[source.starts] for source in sources)
        for index in range(len(found.mean)):
            problem = None
            if found.high[index] - found.low[index] < span_floor and index not in may_be_constant:
                problem = f"varies by less than {span_floor:g}: nothing can be learned from it"
            shown = tuple(float(getattr(found, name)[index]) for name in ("low", "q01", "q99", "high"))
            findings.append(Finding(quantity, index, shown, problem))  # type: ignore[arg-type]
    return findings


def refuse_degenerate(findings: Sequence[Finding]) -> None:
    """Raises `DatasetError` naming each dimension with a problem and the setting that allows it."""
    bad = [finding for finding in findings if finding.problem]
    if bad:
        lines = [f"  {finding.quantity}[{finding.dimension}] {finding.problem}" for finding in bad]
        raise DatasetError(
            "\n".join([*lines, "List dimensions that are meant to be constant in data.may_be_constant."])
        )


def preflight_table(findings: Sequence[Finding]) -> Table:
    """The report that is shown before training."""
    table = Table(title="data")
    for column in ("quantity", "dim", "min", "1 %", "99 %", "max", "verdict"):
        table.add_column(column, justify="left" if column in ("quantity", "verdict") else "right")
    for finding in findings:
        verdict = f"[red]{finding.problem}[/]" if finding.problem else "ok"
        figures = (f"{value:.4g}" for value in finding.summary)
        table.add_row(finding.quantity, str(finding.dimension), *figures, verdict)
    return table
