"""What finished runs came to, in files small enough to be committed: a run that is in them is not run again, also on
another machine.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from configs.report import write_json
from robot.evaluation.experiment.analysis import Rollout
from robot.evaluation.experiment.config import Experiment, Scale
from robot.evaluation.experiment.report import ROLLOUTS, TRAINING, read_rollouts, write_rollouts
from robot.evaluation.experiment.steps import Layout, Run, last_training, runs
from robot.evaluation.experiment.training import TrainingFigures, read_training, training_figures, write_training
from robot.evaluation.trial import read

DECLARATION = "declaration.json"


@dataclass(frozen=True)
class Declaration:
    """What was declared (a digest of every key) and where, in words."""

    digest: str
    declared: str

    @classmethod
    def read(cls, folder: Path) -> "Declaration | None":
        """That of a folder of results or of work; None when it has none."""
        path = folder / DECLARATION
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def write(self, folder: Path) -> None:
        """Beside what it is the declaration of."""
        write_json(folder / DECLARATION, {"digest": self.digest, "declared": self.declared})


@dataclass(frozen=True)
class Results:
    """Every rollout of finished runs, and what their training said."""

    rollouts: tuple[Rollout, ...] = ()
    training: tuple[TrainingFigures, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> "Results":
        """Of a folder; empty when there are none."""
        if not (folder / ROLLOUTS).exists():
            return cls()
        return cls(tuple(read_rollouts(folder / ROLLOUTS)), tuple(read_training(folder / TRAINING)))

    def write(self, folder: Path, declaration: Declaration) -> None:
        """Sorted, so that the same results make the same files."""
        declaration.write(folder)
        write_rollouts(folder / ROLLOUTS, self.rollouts)
        write_training(folder / TRAINING, self.training)

    def runs(self, experiment: Experiment, scale: Scale) -> set[Run]:
        """The runs of which every rollout is there."""
        wanted = len(experiment.tasks) * experiment.scales[scale].starts
        found = Counter(Run(each.arm, each.condition, each.seed) for each in self.rollouts)
        return {run for run in runs(experiment, scale) if found[run] == wanted}

    def with_run(self, experiment: Experiment, layout: Layout, run: Run) -> "Results":
        """These and those of a run that was finished here."""
        return Results(
            (*self.rollouts, *rollouts_of(layout, run)), (*self.training, training_of(experiment, layout, run))
        )


def rollouts_of(layout: Layout, run: Run) -> list[Rollout]:
    """Of the run's evaluation."""
    return [
        Rollout(
            condition=run.condition,
            arm=run.arm,
            seed=run.seed,
            task=trial.task,
            start=trial.seed,
            success=outcome.success,
            stage=outcome.stage,
            seconds=outcome.seconds,
        )
        for trial, outcome in read(layout.evaluation(run).glob("trials-*.jsonl")).items()
    ]


def training_of(experiment: Experiment, layout: Layout, run: Run) -> TrainingFigures:
    """Of the run's last training."""
    folder = last_training(experiment, layout, run)
    return training_figures(folder, condition=run.condition, arm=run.arm, seed=run.seed)
