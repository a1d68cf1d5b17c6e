"""What an experiment's training runs say beside its rollouts: whether the motion head learned, and whether its gradient
agrees with the actions'."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True, order=True)
class TrainingFigures:
    """The last training run of an arm: the actions' loss on held-out demonstrations; end-point error in pixels of the
    predicted flow there, and of no flow at all, where things move; medians over the run of the ratio of the motion
    loss's gradient to the actions' (norms on the trunk) and of the cosine between them. None: not measured, or no head.
    """

    condition: str
    arm: str
    seed: int
    validation_action: float | None = None
    flow_px: float | None = None
    no_flow_px: float | None = None
    gradient_ratio: float | None = None
    gradient_cosine: float | None = None


def training_figures(folder: Path, *, condition: str, arm: str, seed: int) -> TrainingFigures:
    """Of the run in a folder, as launch/train leaves it: ``result.json`` and ``metrics.jsonl``."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    validation: dict[str, Any] = result.get("validation") or {}
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    logged = [json.loads(line) for line in lines if "gradient_cosine" in line]
    return TrainingFigures(
        condition,
        arm,
        seed,
        validation_action=validation.get("validation_action"),
        flow_px=validation.get("flow_end_point_px"),
        no_flow_px=validation.get("flow_zero_px"),
        gradient_ratio=median(each["gradient_motion"] / each["gradient_action"] for each in logged) if logged else None,
        gradient_cosine=median(each["gradient_cosine"] for each in logged) if logged else None,
    )


def write_training(path: Path, found: Sequence[TrainingFigures]) -> None:
    """One line a run, sorted; empty where nothing was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(TrainingFigures)])
        for each in sorted(found, key=lambda each: (each.condition, each.arm, each.seed)):
            writer.writerow([f"{v:.4g}" if isinstance(v, float) else v for v in asdict(each).values()])


def read_training(path: Path) -> list[TrainingFigures]:
    """The inverse of `write_training`; nothing if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            TrainingFigures(
                row.pop("condition"),
                row.pop("arm"),
                int(row.pop("seed")),
                **{name: float(value) if value else None for name, value in row.items()},
            )
            for row in csv.DictReader(file)
        ]


def training_table(found: Sequence[TrainingFigures]) -> list[str]:
    """Lines of Markdown, a row each run; none without figures."""
    if not found:
        return []
    head = ["data", "arm", "seed", "actions' loss, held out", "flow, px off", "no flow, px off", "gradients' ratio"]
    lines = ["", "Training; flow and gradients (motion loss's over actions' on the trunk, cosine between them):", ""]
    lines += ["| " + " | ".join([*head, "cosine"]) + " |", "|" + "---|" * 8]
    for each in found:
        values = [each.validation_action, each.flow_px, each.no_flow_px, each.gradient_ratio, each.gradient_cosine]
        shown = ["-" if value is None else f"{value:.3g}" for value in values]
        lines += [f"| {each.condition} | {each.arm} | {each.seed} | " + " | ".join(shown) + " |"]
    return lines
