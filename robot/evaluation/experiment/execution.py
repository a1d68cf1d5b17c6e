"""The commands of an experiment carried out: each once, several runs at a time, none after a failure or a stop."""

import json
import os
import subprocess
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from robot.evaluation.experiment.config import Experiment, Scale
from robot.evaluation.experiment.steps import (
    ROOT,
    Layout,
    Run,
    Step,
    run_steps,
    runs,
    served_checkpoint,
    shared_steps,
    slug,
)

LOOK_S = 0.2


class ExperimentError(RuntimeError):
    """An experiment that can't be run as asked, or whose command failed. Says what to do."""


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
    known: Collection[Run] = (),
    finished: Callable[[Run], None] = lambda run: None,
) -> None:
    """Run the commands that are not done, ``jobs`` runs at once: those of the first seed first, and none of a run whose
    results are ``known``. ``finished`` is told of each run that is done, one at a time. Raises `ExperimentError` with
    the first that fails; what is under way beside it is finished, nothing else is begun."""
    cores = cores_of_each(jobs)
    wanted = [run for run in runs(experiment, scale) if run not in known]
    if not wanted:
        return
    doing = _Doing(call or Calls(stop), stop=stop, console=console, logs=layout.logs if jobs > 1 else None)
    telling = threading.Lock()
    for step in shared_steps(experiment, scale, layout):
        doing.do(step)

    def carry_out(run: Run) -> None:
        for step in run_steps(experiment, scale, layout, run, cores=cores):
            if step.done == layout.evaluation(run) / "result.json" and not doing.ended:
                _write_policy(experiment, layout, run)
            doing.do(step)
        if (layout.evaluation(run) / "result.json").exists():
            with telling:
                finished(run)

    with ThreadPoolExecutor(jobs) as pool:
        for outcome in [pool.submit(carry_out, run) for run in wanted]:
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


def _write_policy(experiment: Experiment, layout: Layout, run: Run) -> None:
    """How the finished run is served."""
    folder = served_checkpoint(experiment, layout, run)
    result = folder / "result.json"
    checkpoint = json.loads(result.read_text(encoding="utf-8"))["checkpoint"] if result.exists() else str(folder)
    plain: dict[str, Any] = {
        "name": run.label.lower(),
        "preset": "nano",
        "checkpoint": str(Path(checkpoint).absolute()),
        "inference_steps": experiment.inference_steps,
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
