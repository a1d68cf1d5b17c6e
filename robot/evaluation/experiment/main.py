"""The command behind `launch/experiment`: a declared comparison, run arm beside arm, and its table and figure."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml
from rich.console import Console
from rich.markdown import Markdown

from configs.report import job_console, write_json
from configs.schema import CONFIGS, ConfigError
from robot.evaluation.experiment.analysis import Rollout
from robot.evaluation.experiment.config import Experiment, Scale, load_experiment
from robot.evaluation.experiment.report import (
    FIGURE,
    ROLLOUTS,
    TABLE,
    TRAINING,
    read_rollouts,
    write_report,
    write_rollouts,
)
from robot.evaluation.experiment.steps import (
    ROOT,
    Layout,
    Run,
    Step,
    last_training,
    run_steps,
    runs,
    served_checkpoint,
    shared_steps,
    slug,
)
from robot.evaluation.experiment.training import TrainingFigures, read_training, training_figures, write_training
from robot.evaluation.trial import read
from robot.processes import stop_event_on_signals

EXIT_STOPPED = 130
DECLARATION = "declaration.json"
LOOK_S = 0.2


class ExperimentError(RuntimeError):
    """An experiment that can't be run as asked, or whose command failed. Says what to do."""


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
    """Another data set than the declared one; only at scale tiny."""
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
        if not (results / ROLLOUTS).exists():
            raise ExperimentError(f"{results / ROLLOUTS}: no such file; run launch/experiment {experiment.name} first")
        rollouts, declared = read_rollouts(results / ROLLOUTS), _declared_in(results)
    else:
        declared = declare(experiment, options, layout.folder)
        execute(experiment, options.scale, layout, stop=stop, console=console, jobs=options.jobs)
        rollouts = collect(experiment, options.scale, layout)
        if not rollouts:
            return EXIT_STOPPED
        write_rollouts(results / ROLLOUTS, rollouts)
        write_training(results / TRAINING, collect_training(experiment, options.scale, layout))
        write_json(results / DECLARATION, {"declared": declared})
    training = read_training(results / TRAINING)
    analysis = write_report(experiment, options.scale, rollouts, results, declared=declared, training=training)
    console.print(Markdown((results / TABLE).read_text(encoding="utf-8")))
    console.print(f"{results / TABLE}, {results / FIGURE}, {results / ROLLOUTS}")
    if options.json is not None:
        write_json(options.json, {"experiment": experiment.name, "scale": options.scale, **analysis.to_json()})
    return EXIT_STOPPED if stop.is_set() else 0


def all_steps(experiment: Experiment, scale: Scale, layout: Layout, *, jobs: int = 1) -> Iterable[Step]:
    """Everything, in order."""
    yield from shared_steps(experiment, scale, layout)
    for run in runs(experiment, scale):
        yield from run_steps(experiment, scale, layout, run, cores=cores_of_each(jobs))


def cores_of_each(jobs: int) -> int:
    """How many cores a run has to itself. Raises `ExperimentError`."""
    if jobs < 1:
        raise ExperimentError(f"--jobs: expected 1 or more, got {jobs}")
    return max(1, (os.cpu_count() or 1) // jobs)


def execute(
    experiment: Experiment,
    scale: Scale,
    layout: Layout,
    *,
    stop: threading.Event,
    console: Console,
    jobs: int = 1,
    call: Callable[[Step, Path | None], int] | None = None,
) -> None:
    """Run the commands that are not done, ``jobs`` runs at once: those of the first seed first. Raises
    `ExperimentError` with the first that fails; what is under way beside it is finished, nothing else is begun."""
    cores = cores_of_each(jobs)
    doing = _Doing(call or Calls(stop), stop=stop, console=console, logs=layout.logs if jobs > 1 else None)
    for step in shared_steps(experiment, scale, layout):
        doing.do(step)

    def carry_out(run: Run) -> None:
        for step in run_steps(experiment, scale, layout, run, cores=cores):
            if step.done == layout.evaluation(run) / "result.json" and not doing.ended:
                _write_policy(experiment, layout, run)
            doing.do(step)

    with ThreadPoolExecutor(jobs) as pool:
        for outcome in [pool.submit(carry_out, run) for run in runs(experiment, scale)]:
            outcome.result()


class _Doing:
    """Does each step once, whichever run asks for it first; others that need it wait. With ``logs``, what a command
    prints goes to a file there."""

    def __init__(
        self, call: Callable[[Step, Path | None], int], *, stop: threading.Event, console: Console, logs: Path | None
    ) -> None:
        self._call = call
        self._stop = stop
        self._failed = threading.Event()
        self._console = console
        self._logs = logs
        self._guard = threading.Lock()
        self._locks: dict[Path, threading.Lock] = {}

    @property
    def ended(self) -> bool:
        """Nothing else is begun."""
        return self._stop.is_set() or self._failed.is_set()

    def do(self, step: Step) -> None:
        """The step, unless it is done. Raises `ExperimentError` when its command fails."""
        with self._guard:
            lock = self._locks.setdefault(step.done, threading.Lock())
        with lock:
            if self.ended or step.done.exists():
                return
            log = None if self._logs is None else self._logs / f"{slug(step.title)}.log"
            self._console.print(f"[bold]{step.title}[/]" + (f" ({log})" if log else ""), soft_wrap=True)
            step.done.parent.mkdir(parents=True, exist_ok=True)
            code = self._call(step, log)
            if self._stop.is_set() or (code == 0 and step.done.exists()):
                return
            self._failed.set()
            where = f": see {log}" if log else ""
            command = " ".join(step.command[1:4])
            raise ExperimentError(f"{command} ... ended with exit code {code}{where}; called again it goes on")


def collect(experiment: Experiment, scale: Scale, layout: Layout) -> list[Rollout]:
    """The rollouts of all evaluations that are complete."""
    found = []
    for run in runs(experiment, scale):
        folder = layout.evaluation(run)
        if not (folder / "result.json").exists():
            continue
        for trial, outcome in read(folder.glob("trials-*.jsonl")).items():
            found.append(
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
            )
    return found


def collect_training(experiment: Experiment, scale: Scale, layout: Layout) -> list[TrainingFigures]:
    """Of the last training run of each run whose evaluation is complete."""
    return [
        training_figures(last_training(experiment, layout, run), condition=run.condition, arm=run.arm, seed=run.seed)
        for run in runs(experiment, scale)
        if (layout.evaluation(run) / "result.json").exists()
    ]


def declare(experiment: Experiment, options: Arguments, work: Path) -> str:
    """Which commit holds the declaration, in words. Raises `ExperimentError` when none does, or when results of
    another declaration are there already. At scale tiny nothing is asked."""
    plain = json.dumps(experiment.model_dump(mode="json"), sort_keys=True)
    digest = hashlib.sha256(plain.encode()).hexdigest()
    path = work / DECLARATION
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["digest"] != digest:
            raise ExperimentError(
                f"{work} holds results of another declaration of {experiment.name!r} (it was changed since): give "
                "--work, and say in the report that the declaration was changed"
            )
        return str(before["declared"])
    declared = "not declared" if options.scale is Scale.TINY else _commit_of(_file_of(options.name))
    write_json(path, {"digest": digest, "declared": declared})
    return declared


def _as_asked(experiment: Experiment, options: Arguments) -> Experiment:
    if not options.set and options.dataset is None:
        return experiment
    if options.scale is not Scale.TINY:
        raise ExperimentError("--set and --dataset change what was declared: they are for --scale tiny")
    size = experiment.scales[Scale.TINY]
    scales = experiment.scales | {Scale.TINY: size.model_copy(update={"settings": (*size.settings, *options.set)})}
    return experiment.model_copy(update={"scales": scales, "dataset": options.dataset or experiment.dataset})


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


def _declared_in(results: Path) -> str:
    path = results / DECLARATION
    return str(json.loads(path.read_text(encoding="utf-8"))["declared"]) if path.exists() else "commit unknown"


def _write_policy(experiment: Experiment, layout: Layout, run: Run) -> None:
    """How the finished run is served."""
    folder = served_checkpoint(experiment, layout, run)
    result = folder / "result.json"
    checkpoint = json.loads(result.read_text(encoding="utf-8"))["checkpoint"] if result.exists() else str(folder)
    plain: dict[str, Any] = {
        "name": run.label.lower(),
        "preset": "nano",
        "checkpoint": str(Path(checkpoint).absolute()),
        "inference_steps": 10,
        "noise_scale": experiment.noise_scale,
    }
    path = layout.policy(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")


class Calls:
    """Runs commands, in our process group (a Ctrl-C in the terminal reaches them too) and until ``stop`` is set."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __call__(self, step: Step, log: Path | None) -> int:
        with ExitStack() as exits:
            out = None
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
                out = exits.enter_context(log.open("ab"))
            process = subprocess.Popen(step.command, cwd=ROOT, stdout=out, stderr=out and subprocess.STDOUT)
            while process.poll() is None:
                if self._stop.wait(LOOK_S):
                    process.terminate()
                    return process.wait()
        return process.returncode


if __name__ == "__main__":
    sys.exit(main())
