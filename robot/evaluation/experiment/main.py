"""The command behind `launch/experiment`: a declared comparison, run arm beside arm, and its table and figure."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markdown import Markdown

from configs.report import job_console, write_json
from configs.schema import CONFIGS, ConfigError
from robot.evaluation.experiment.config import Experiment, Scale, load_experiment
from robot.evaluation.experiment.execution import ExperimentError, cores_of_each, execute
from robot.evaluation.experiment.report import FIGURE, ROLLOUTS, TABLE, write_report
from robot.evaluation.experiment.results import Declaration, Results
from robot.evaluation.experiment.steps import Layout, Run, Step, run_steps, runs, shared_steps
from robot.processes import stop_event_on_signals

EXIT_STOPPED = 130


@dataclass(frozen=True)
class Arguments:
    """Run a declared comparison of ways to train, or make its table and figure again from the raw rollouts. Called
    again, it goes on where it stopped; Ctrl-C at any moment."""

    name: tyro.conf.Positional[str] = "joint-vs-action"
    """Name of a file in configs/experiments (joint-vs-action, lora), or a path."""
    scale: Scale = Scale.FULL
    """full answers all of the question; primary its first comparison, in a few hours; reduced shows how the machinery
    behaves; tiny only that everything runs."""
    report: bool = False
    """Run nothing: make table and figure from the results' rollouts.csv and training.csv."""
    results: Path | None = None
    """Folder for rollouts, table and figure (default: docs/experiments/NAME-SCALE; tiny: in the work folder)."""
    work: Path | None = None
    """Folder for everything else (default: outputs/experiments/NAME-SCALE)."""
    set: tuple[str, ...] = ()
    """Settings for every training run, as launch/train --set; only at scale tiny."""
    dataset: str | None = None
    """A data set that is there already, instead of making demonstrations; only at scale tiny."""
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)
    """How many runs at once, each with its share of the cores. Two small models that train beside each other, a core
    each, were seen to get through 1.4 times as many samples as one with both cores to itself."""
    dry_run: bool = False
    """Only print the commands."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the result to this file."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when all of it is done, 130 after Ctrl-C, 1 with a clear line otherwise."""
    config = (tyro.conf.EnumChoicesFromValues,)
    options = tyro.cli(Arguments, args=arguments, prog="launch/experiment", config=config)
    console = job_console()
    try:
        experiment = _as_asked(load_experiment(options.name), options)
        with stop_event_on_signals() as stop:
            return _run(experiment, options, stop=stop, console=console)
    except (ConfigError, ExperimentError) as error:
        print(f"launch/experiment: {error}", file=sys.stderr)
        return 1


def _run(experiment: Experiment, options: Arguments, *, stop: threading.Event, console: Console) -> int:
    layout = Layout((options.work or Path("outputs/experiments") / f"{experiment.name}-{options.scale}").absolute())
    default = Path("docs/experiments") / f"{experiment.name}-{options.scale}"
    results = options.results or (layout.folder / "results" if options.scale is Scale.TINY else default)
    if options.dry_run:
        for step in all_steps(experiment, options.scale, layout, jobs=options.jobs):
            console.print(f"[bold]{step.title}[/]: {' '.join(step.command[1:])}", soft_wrap=True)
        return 0
    if options.report:
        declaration = Declaration.read(results)
        if declaration is None:
            raise ExperimentError(f"{results}: no results; run launch/experiment {experiment.name} first")
        found = Results.read(results)
    else:
        declaration = declare(experiment, options, work=layout.folder, results=results)
        found = _carry_out(experiment, options, layout, results, declaration, stop=stop, console=console)
        if not found.rollouts:
            return EXIT_STOPPED
    analysis = write_report(
        experiment,
        options.scale,
        found.rollouts,
        results,
        declared=declaration.declared,
        training=found.training,
    )
    console.print(Markdown((results / TABLE).read_text(encoding="utf-8")))
    console.print(f"{results / TABLE}, {results / FIGURE}, {results / ROLLOUTS}")
    if options.json is not None:
        write_json(options.json, {"experiment": experiment.name, "scale": options.scale, **analysis.to_json()})
    return EXIT_STOPPED if stop.is_set() else 0


def _carry_out(
    experiment: Experiment,
    options: Arguments,
    layout: Layout,
    folder: Path,
    declaration: Declaration,
    *,
    stop: threading.Event,
    console: Console,
) -> Results:
    """Run what has no results yet; each run's are written as soon as there are any."""
    found = Results.read(folder)
    known = found.runs(experiment, options.scale)

    def finished(run: Run) -> None:
        nonlocal found
        found = found.with_run(experiment, layout, run)
        found.write(folder, declaration)

    execute(
        *(experiment, options.scale, layout),
        stop=stop,
        console=console,
        jobs=options.jobs,
        known=known,
        finished=finished,
    )
    return found


def all_steps(experiment: Experiment, scale: Scale, layout: Layout, *, jobs: int = 1) -> Iterable[Step]:
    """Everything, in order."""
    yield from shared_steps(experiment, scale, layout)
    for run in runs(experiment, scale):
        yield from run_steps(experiment, scale, layout, run, cores=cores_of_each(jobs))


def declare(experiment: Experiment, options: Arguments, *, work: Path, results: Path) -> Declaration:
    """Which commit holds the declaration, in words. Raises `ExperimentError` when none does, or when work or results of
    another declaration are there already. At scale tiny nothing is asked."""
    plain = json.dumps(experiment.model_dump(mode="json"), sort_keys=True)
    digest = hashlib.sha256(plain.encode()).hexdigest()
    known = None
    for folder, option in ((work, "--work"), (results, "--results")):
        before = Declaration.read(folder)
        if before is not None and before.digest != digest:
            raise ExperimentError(
                f"{folder} holds results of another declaration of {experiment.name!r} (it was changed since): give "
                f"{option}, and say in the report that the declaration was changed"
            )
        known = before or known
    if known is None:
        declared = "not declared" if options.scale is Scale.TINY else _commit_of(_file_of(options.name))
        known = Declaration(digest, declared)
    known.write(work)
    return known


def _as_asked(experiment: Experiment, options: Arguments) -> Experiment:
    if not options.set and options.dataset is None:
        return experiment
    if options.scale is not Scale.TINY:
        raise ExperimentError("--set and --dataset change what was declared: they are for --scale tiny")
    size = experiment.scales[Scale.TINY]
    asked = {"settings": (*size.settings, *options.set), "dataset": options.dataset}
    return experiment.model_copy(update={"scales": experiment.scales | {Scale.TINY: size.model_copy(update=asked)}})


def _file_of(name: str) -> Path:
    return Path(name) if "/" in name or name.endswith((".yaml", ".yml")) else CONFIGS / "experiments" / f"{name}.yaml"


def _commit_of(path: Path) -> str:
    """The commit that the file as it is was declared in."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(path.resolve().parent), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("log", "-1", "--format=%h of %cs", "--", path.name)
    if not commit or git("status", "--porcelain", "--", path.name):
        raise ExperimentError(
            f"{path}: not committed as it is; an experiment is declared before its first result: commit the file"
        )
    return f"commit {commit}"


if __name__ == "__main__":
    sys.exit(main())
