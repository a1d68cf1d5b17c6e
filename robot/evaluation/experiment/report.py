"""An experiment's results on paper: raw rollouts, table and figure, all made again from the raw rollouts alone."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

from robot.evaluation.experiment.analysis import (
    ArmFigures,
    Difference,
    Rollout,
    corrected,
    difference,
    figures,
)
from robot.evaluation.experiment.config import Experiment, Scale
from robot.evaluation.experiment.training import TrainingFigures, training_table
from robot.evaluation.figure import Row, dot_plot
from robot.twin.success import Stage

ROLLOUTS, TRAINING, TABLE, FIGURE = "rollouts.csv", "training.csv", "table.md", "figure.svg"
STAGES = tuple(stage.name.lower() for stage in Stage)


@dataclass(frozen=True)
class Analysis:
    """All figures of an experiment at a scale."""

    arms: tuple[ArmFigures, ...]
    differences: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "arms": [asdict(a) | {"rate": a.rate, "wilson95": list(a.interval)} for a in self.arms],
            "differences": [asdict(d) | {"mean": d.mean} for d in self.differences],
        }


def write_rollouts(path: Path, rollouts: Sequence[Rollout]) -> None:
    """One line a rollout, sorted, so that the same rollouts make the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Rollout)])
        for rollout in sorted(rollouts):
            writer.writerow([int(v) if isinstance(v, bool) else v for v in asdict(rollout).values()])


def read_rollouts(path: Path) -> list[Rollout]:
    """The inverse of `write_rollouts`."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Rollout(
                condition=row["condition"],
                arm=row["arm"],
                seed=int(row["seed"]),
                task=row["task"],
                start=int(row["start"]),
                success=row["success"] == "1",
                stage=row["stage"],
                seconds=float(row["seconds"]),
            )
            for row in csv.DictReader(file)
        ]


def analyse(experiment: Experiment, rollouts: Sequence[Rollout]) -> Analysis:
    """By the declared analysis: what has been run of it. An experiment whose primary condition names tasks is judged
    on those; the others are shown beside."""
    present = [c for c in experiment.data if any(r.condition == c for r in rollouts)]
    found_arms, found = [], []
    for condition in present:
        aimed = experiment.data[condition].tasks or experiment.tasks
        others = [task for task in experiment.tasks if task not in aimed]
        arms = [arm for arm in experiment.arms if any((r.condition, r.arm) == (condition, arm) for r in rollouts)]
        for tasks in filter(None, (list(aimed), others)):
            found_arms += [figures(rollouts, condition=condition, arm=arm, tasks=tasks, stages=STAGES) for arm in arms]
            first, second, primary_condition = experiment.primary
            pairs = [(first, second), *experiment.secondary]
            found += [
                difference(
                    rollouts,
                    condition=condition,
                    first=a,
                    second=b,
                    tasks=tasks,
                    primary=(a, b, condition) == (first, second, primary_condition) and tasks == list(aimed),
                )
                for a, b in pairs
                if a in arms and b in arms
            ]
    return Analysis(tuple(found_arms), tuple(corrected(found)))


def write_report(
    experiment: Experiment,
    scale: Scale,
    rollouts: Sequence[Rollout],
    folder: Path,
    *,
    declared: str,
    training: Sequence[TrainingFigures] = (),
) -> Analysis:
    """Table and figure into a folder; what they say."""
    analysis = analyse(experiment, rollouts)
    folder.mkdir(parents=True, exist_ok=True)
    text = table_text(experiment, scale, analysis, declared=declared, training=training)
    (folder / TABLE).write_text(text, encoding="utf-8")
    (folder / FIGURE).write_text(figure_text(experiment, analysis), encoding="utf-8")
    return analysis


def table_text(
    experiment: Experiment,
    scale: Scale,
    analysis: Analysis,
    *,
    declared: str,
    training: Sequence[TrainingFigures] = (),
) -> str:
    """Markdown: what was asked, what came out, what it may not be taken for."""
    size = experiment.scales[scale]
    lines = [f"# {experiment.name}, scale {scale}", "", experiment.question, ""]
    lines += [
        f"Declared in `configs/experiments/{experiment.name}.yaml`, {declared}. Hypothesis: {experiment.hypothesis}"
    ]
    lines += ["", f"{size.seeds} seed(s) × {size.starts} starts of each task; the paper: {experiment.claim}.", ""]
    lines += _caveats(experiment, scale, analysis)
    lines += ["| data | tasks | arm | success | 95 % (Wilson) | each seed | " + " | ".join(STAGES[1:]) + " |"]
    lines += ["|" + "---|" * (6 + len(STAGES) - 1)]
    for arm in analysis.arms:
        low, high = arm.interval
        seeds = ", ".join(f"{100 * rate:.0f}" for rate in arm.by_seed)
        reached = " | ".join(f"{100 * arm.stages[stage]:.0f}" for stage in STAGES[1:])
        lines += [
            f"| {arm.condition} | {arm.tasks} | {arm.arm} | {arm.successes}/{arm.trials} = {100 * arm.rate:.1f} % | "
            f"{100 * low:.0f} to {100 * high:.0f} | {seeds} | {reached} |"
        ]
    lines += ["", "Differences in points, first minus second:", ""]
    lines += [
        "| data | tasks | first | second | difference | 95 % bootstrap | each seed | p (t) | p (Holm) | odds ratio |"
    ]
    lines += ["|" + "---|" * 10]
    lines += [_difference_line(each) for each in analysis.differences]
    lines += training_table(training)
    lines += [
        "",
        f"![{experiment.name}]({FIGURE})",
        "",
        "Analysis:",
        "",
        *(f"* {text}" for text in experiment.analysis),
    ]
    lines += ["", "Held equal:", "", *(f"* {text}" for text in experiment.held_equal)]
    lines += ["", "What it is not:", "", *(f"* {text}" for text in experiment.limits), ""]
    return "\n".join(lines)


def _caveats(experiment: Experiment, scale: Scale, analysis: Analysis) -> list[str]:
    """What must be known before any number is read."""
    size = experiment.scales[scale]
    lines = []
    if scale is Scale.PRIMARY:
        lines += ["Scale `primary` is less than the declared full size: the primary comparison, with fewer seeds.", ""]
    elif scale is not Scale.FULL:
        lines += [f"**Scale `{scale}` is not the declared full size: it answers nothing.**", ""]
    done = sum({(a.condition, a.arm): len(a.by_seed) for a in analysis.arms}.values())
    wanted = len(experiment.arms) * len(size.conditions) * size.seeds
    if done < wanted:
        lines += [f"**Not complete: {done} of {wanted} runs. No conclusion is drawn before all are done.**", ""]
    return lines


def figure_text(experiment: Experiment, analysis: Analysis) -> str:
    """Differences with their bootstrap intervals, and each seed's."""
    rows = [
        Row(
            f"{'★ ' if d.primary else ''}{d.first} − {d.second}, {d.condition}"[:44],
            d.mean,
            *d.bootstrap95,
            points=d.by_seed,
            group=0 if d.primary else 1,
        )
        for d in analysis.differences
    ]
    reach = max([0.2, *(abs(v) for v in chain.from_iterable((r.low, r.high, *r.points) for r in rows))])
    reach = min(1.0, -(-reach * 10 // 1) / 10)
    return dot_plot(
        rows, title=experiment.name, x_label="difference in success rate (★ primary)", lower=-reach, upper=reach
    )


def _difference_line(each: Difference) -> str:
    low, high = each.bootstrap95
    seeds = ", ".join(f"{100 * value:+.0f}" for value in each.by_seed)
    odds = "-"
    if each.odds_ratio is not None and each.odds_ratio95 is not None:
        odds = f"{each.odds_ratio:.2f} ({each.odds_ratio95[0]:.2f} to {each.odds_ratio95[1]:.2f})"
    p, corrected_p = (("-" if value is None else f"{value:.4f}") for value in (each.p, each.p_holm))
    name = f"**{each.first}**" if each.primary else each.first
    return (
        f"| {each.condition} | {each.tasks} | {name} | {each.second} | {100 * each.mean:+.1f} | "
        f"{100 * low:+.1f} to {100 * high:+.1f} | {seeds} | {p} | {corrected_p} | {odds} |"
    )
