"""The command behind `launch/evaluate`: paired trials of policies in the twin, and what they are worth."""

import os
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from configs.report import job_console, write_json
from configs.schema import load_policy, load_rig, load_task
from policy_server.client import Continuity
from robot.evaluation.libero import environment
from robot.evaluation.libero.job import run_libero
from robot.evaluation.libero.plan import LiberoPlan
from robot.evaluation.libero.protocol import Preset, Suite
from robot.evaluation.page import write_page
from robot.evaluation.plan import EvaluationError, EvaluationPlan
from robot.evaluation.progress import trials_bar
from robot.evaluation.report import result_json, tables, write_report
from robot.evaluation.rig.job import evaluate_on_rig
from robot.evaluation.rig.plan import RigPlan, draw_letters
from robot.evaluation.trial import Outcome, Trial, read
from robot.policy_process import Served, is_address, serving
from robot.processes import Child, ChildFailedError, stop_event_on_signals
from robot.rollout.chunks import ExecutionMode
from robot.rollout.main import EXPECTED_ERRORS, set_up_logging
from robot.rollout.session import OperatorSeat

EXIT_STOPPED = 130
TWIN_TASKS = ("cup", "can", "tape")
TWIN_TRIALS = 100
RIG_STARTS = 21
"""Of each task: with three tasks enough to tell 43 % from 20 % four times in five."""
_POLL_S = 0.5


@dataclass(frozen=True)
class Arguments:
    """Evaluate policies on the same seeded starts, in the twin without its wires and in simulated time: success rates
    with 95 % intervals, paired comparisons, smoothness. With --suite in LIBERO instead; on a real rig blind, in random
    order, judged by the operator. Ctrl-C at any moment; called again, it goes on."""

    policy: tuple[str, ...] = ("nano",)
    """Names of configs/policies, YAML files, folders of checkpoints or training runs, or addresses of running servers;
    NAME=PATH gives one an alias."""
    rig: str = "twin"
    """Name of a simulated rig in configs/rigs, or a path to a YAML file."""
    tasks: tuple[str, ...] = ()
    """Tasks of configs/tasks (default: cup can tape); with --suite how many of each suite (default: all)."""
    trials: int | None = None
    """Seeded starts of each task (default: 100; with --suite the protocol's)."""
    seed: int = 900_000
    """Seed of the first start; demonstrations have others."""
    mode: tuple[ExecutionMode, ...] = (ExecutionMode.ASYNC,)
    """How chunks follow each other."""
    continuity: tuple[Continuity, ...] = ()
    """How a chunk follows the one before: none, committed (for policies that were trained so), guided. Default: as each
    policy was trained."""
    replan_ticks: tuple[int, ...] = ()
    """Ticks after which a new chunk is asked for (default: the rollout's)."""
    latency: tuple[float, ...] = (0.2,)
    """Simulated seconds from a picture to the actions that answer it."""
    suite: tuple[Suite, ...] = ()
    """LIBERO suites instead of the twin; needs `launch/evaluate --install libero` once."""
    protocol: Preset = Preset.OPENPI
    """Whose LIBERO protocol: openpi's (50 trials a task, 5 actions of a chunk) or LeRobot's (10 and 10)."""
    libero_python: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Interpreter of another environment with LIBERO than .venv-libero."""
    wires: bool = False
    """On a simulated rig too: in real time over its wires, blind, as on a real one (launch/twin must run)."""
    looks: int = 1
    """On a rig: how often to look whether it is decided, 1 to 5, declared ahead (O'Brien-Fleming)."""
    operator: OperatorSeat = OperatorSeat.TERMINAL
    """On a rig: where questions are asked, terminal or the page of launch/console."""
    yes: bool = False
    """On a rig: do not ask before each trial whether the scene is set up."""
    install: Literal["libero"] | None = None
    """Install LIBERO into .venv-libero and end."""
    plain: bool = False
    """Every scene with the same light, colours and cameras."""
    workers: int = max(1, (os.cpu_count() or 2) - 1)
    """Processes that simulate."""
    output: Path = Path("outputs/evaluation")
    """Folder of the trials and the report."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the result to this file."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when every trial was run, 130 after Ctrl-C, 1 with a clear line otherwise."""
    config = (tyro.conf.EnumChoicesFromValues,)
    options = tyro.cli(Arguments, args=arguments, prog="launch/evaluate", config=config)
    console = job_console()
    try:
        if options.install is not None:
            environment.install(console)
            return 0
        if options.suite:
            return _libero(options, console)
        if options.wires or load_rig(options.rig).twin is None:
            return _rig(options, console)
        plan = _plan(options)
        with stop_event_on_signals() as stop:
            outcomes = run(plan, folder=options.output, workers=options.workers, stop=stop, console=console)
    except (EvaluationError, ChildFailedError, *EXPECTED_ERRORS) as error:
        print(f"launch/evaluate: {error}", file=sys.stderr)
        return 1
    wanted = plan.all_trials()
    done = [outcomes[trial] for trial in wanted if trial in outcomes]
    console.print(tables(plan, done))
    page = write_page(done, options.output, title=f"Evaluation on rig {plan.rig}")
    console.print(f"report: {write_report(plan, done, options.output)}, {page}")
    if options.json is not None:
        write_json(options.json, result_json(plan, done))
    return 0 if len(done) == len(wanted) else EXIT_STOPPED


def run(
    plan: EvaluationPlan, *, folder: Path, workers: int, stop: threading.Event, console: Console
) -> dict[Trial, Outcome]:
    """Run what is missing of a plan; all outcomes. Raises `EvaluationError` or `ChildFailedError`."""
    folder.mkdir(parents=True, exist_ok=True)
    plan.write_once(folder)
    wanted = plan.all_trials()
    done = read(folder.glob("trials-*.jsonl"))
    missing = [trial for trial in wanted if trial not in done]
    with ExitStack() as exits:
        bar = exits.enter_context(trials_bar(console))
        shown = bar.add_task("trials", total=len(wanted), completed=len(wanted) - len(missing))
        for count in _work(plan, missing, folder=folder, workers=workers, stop=stop, exits=exits):
            bar.update(shown, completed=count)
    return read(folder.glob("trials-*.jsonl"))


def _work(
    plan: EvaluationPlan,
    missing: list[Trial],
    *,
    folder: Path,
    workers: int,
    stop: threading.Event,
    exits: ExitStack,
) -> Iterator[int]:
    """Start a server for each policy and the workers, and yield how many trials are done, until all have ended."""
    servers: dict[str, Served] = {}
    for alias in sorted({trial.policy for trial in missing}):
        log = folder / f"server-{alias}.log"
        servers[alias] = exits.enter_context(serving(plan.policies[alias], log_path=log))
    for server in servers.values():
        server.wait_until_ready(stop)
    children = []
    for alias, server in servers.items():
        mine = [trial for trial in missing if trial.policy == alias]
        for number in range(min(workers, len(mine))):
            name = f"{alias}-{number}"
            listed = folder / f".work-{name}.json"
            write_json(listed, {"trials": [vars(trial) for trial in mine[number::workers]]})
            child = Child(
                f"evaluation worker {name}",
                module="robot.evaluation.worker",
                args=[
                    *("--trials", str(listed), "--output", str(folder / f"trials-{name}.jsonl")),
                    *("--server", server.url, "--rig", plan.rig, *(("--plain",) if plan.plain else ())),
                ],
                log_path=folder / f"worker-{name}.log",
                environment={"MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl"), "LP_NUM_THREADS": "1"},
            )
            exits.callback(child.stop)
            children.append(child)
    while any(child.running for child in children) and not stop.wait(_POLL_S):
        yield _count(folder)
    for child in children:
        if not stop.is_set() and child.process.poll() != 0:
            child.check()
    yield _count(folder)


def _count(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("trials-*.jsonl"))


def _libero(options: Arguments, console: Console) -> int:
    count = options.tasks[0] if options.tasks else None
    if len(options.tasks) > 1 or (count is not None and not count.isdigit()):
        raise EvaluationError(f"--tasks: with --suite expected one number of tasks, got {' '.join(options.tasks)}")
    if len(options.replan_ticks) > 1:
        raise EvaluationError("--replan-ticks: with --suite expected one number")
    plan = LiberoPlan.of(
        options.suite,
        _policies(options),
        preset=options.protocol,
        tasks=None if count is None else int(count),
        trials=options.trials,
        replan_steps=next(iter(options.replan_ticks), None),
    )
    with stop_event_on_signals() as stop:
        complete = run_libero(
            plan,
            folder=options.output,
            workers=options.workers,
            python=options.libero_python,
            stop=stop,
            console=console,
            json_file=options.json,
        )
    return 0 if complete else EXIT_STOPPED


def _rig(options: Arguments, console: Console) -> int:
    if options.plain:
        raise EvaluationError("--plain is for simulated time: leave it out, or leave out --wires")
    if max(len(options.mode), len(options.replan_ticks), len(options.continuity)) > 1:
        raise EvaluationError(
            "--mode, --replan-ticks, --continuity: on a rig expected one of each, the same for all policies"
        )
    tasks = options.tasks or TWIN_TASKS
    for task in tasks:
        load_task(task)
    policies = _policies(options)
    plan = RigPlan(
        rig=options.rig,
        policies=policies,
        letters=draw_letters(sorted(policies)),
        tasks=tasks,
        starts=RIG_STARTS if options.trials is None else options.trials,
        first_start=options.seed,
        mode=options.mode[0],
        replan_ticks=next(iter(options.replan_ticks), None),
        continuity=next(iter(options.continuity), None),
        looks=options.looks,
        order_seed=secrets.randbits(32),
        digests={},
    )
    set_up_logging()
    with stop_event_on_signals() as stop:
        complete = evaluate_on_rig(
            plan,
            folder=options.output,
            seat=options.operator,
            assume_ready=options.yes,
            stop=stop,
            console=console,
            json_file=options.json,
        )
    return 0 if complete else EXIT_STOPPED


def _policies(options: Arguments) -> dict[str, str]:
    """What serves each alias."""
    policies: dict[str, str] = {}
    for given in options.policy:
        alias, equals, path = given.partition("=")
        name = alias if equals else Path(given).stem
        policies[name] = load_policy_argument(path if equals else given)
    return policies


def _plan(options: Arguments) -> EvaluationPlan:
    tasks = options.tasks or TWIN_TASKS
    for task in tasks:
        load_task(task)
    return EvaluationPlan(
        rig=options.rig,
        policies=_policies(options),
        tasks=tasks,
        trials=TWIN_TRIALS if options.trials is None else options.trials,
        seed=options.seed,
        modes=options.mode,
        replan_ticks=options.replan_ticks,
        latencies_s=options.latency,
        plain=options.plain,
        continuities=options.continuity,
    )


def load_policy_argument(name_or_path: str) -> str:
    """The argument itself, once its file has been read; an address and a checkpoint's folder are taken as they are.
    Raises `ConfigError`."""
    if not is_address(name_or_path) and not Path(name_or_path).is_dir():
        load_policy(name_or_path)
    return name_or_path


if __name__ == "__main__":
    sys.exit(main())
