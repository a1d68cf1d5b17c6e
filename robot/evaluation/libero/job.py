"""Running a LIBERO plan: policy servers here, simulators in LIBERO's environment, a process for each worker."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from rich.console import Console

from configs.report import write_json
from policy_server.client import PolicyClient
from robot.evaluation.libero import environment
from robot.evaluation.libero.observation import UnfitPolicyError, require_fit
from robot.evaluation.libero.plan import LiberoPlan, read
from robot.evaluation.libero.protocol import LiberoOutcome, LiberoTrial
from robot.evaluation.libero.report import result_json, tables, write_report
from robot.evaluation.plan import EvaluationError
from robot.evaluation.progress import trials_bar
from robot.policy_process import serving
from robot.processes import Child

_POLL_S = 0.5


def run_libero(
    plan: LiberoPlan,
    *,
    folder: Path,
    workers: int,
    python: Path | None,
    stop: threading.Event,
    console: Console,
    json_file: Path | None,
) -> bool:
    """Run what is missing of a plan, show and write what came of it; whether all of it is done.

    Raises `EvaluationError` when LIBERO or a policy does not fit, `ChildFailedError` when a process ends.
    """
    interpreter = environment.interpreter(python)
    made_with = environment.versions(interpreter)
    folder.mkdir(parents=True, exist_ok=True)
    plan.write_once(folder)
    wanted = plan.all_trials()
    before = read(folder)
    missing = [trial for trial in wanted if trial not in before]
    trained: dict[str, bool] = {}
    with ExitStack() as exits:
        bar = exits.enter_context(trials_bar(console))
        shown = bar.add_task("trials", total=len(wanted), completed=len(wanted) - len(missing))
        for found in _work(
            plan, missing, folder=folder, workers=workers, python=interpreter, stop=stop, exits=exits, trained=trained
        ):
            bar.update(shown, completed=sum(trial in found for trial in wanted))
    outcomes = read(folder)
    done = [outcomes[trial] for trial in wanted if trial in outcomes]
    trained = _remembered(folder, trained)
    console.print(tables(plan, done, trained=trained))
    versions = ", ".join(f"{name} {version}" for name, version in made_with.items())
    console.print(f"report: {write_report(plan, done, folder, trained=trained, made_with=versions)}")
    if json_file is not None:
        write_json(json_file, result_json(plan, done, trained=trained, versions=made_with))
    return len(done) == len(wanted)


def _work(
    plan: LiberoPlan,
    missing: list[LiberoTrial],
    *,
    folder: Path,
    workers: int,
    python: Path,
    stop: threading.Event,
    exits: ExitStack,
    trained: dict[str, bool],
) -> Iterator[dict[LiberoTrial, LiberoOutcome]]:
    """Yields the outcomes so far until all workers have ended; fills ``trained``."""
    servers = {
        alias: exits.enter_context(serving(plan.policies[alias], log_path=folder / f"server-{alias}.log"))
        for alias in dict.fromkeys(trial.policy for trial in missing)
    }
    children: list[Child] = []
    for alias, server in servers.items():
        server.wait_until_ready(stop)
        if stop.is_set():
            return
        trained[alias] = _is_trained(server.url)
        mine = [trial for trial in missing if trial.policy == alias]
        for number, block in enumerate(blocks(mine, workers)):
            name = f"{alias}-{number}"
            listed = folder / f".work-{name}.json"
            write_json(listed, {"trials": [asdict(trial) for trial in block]})
            child = Child(
                f"LIBERO worker {name}",
                module="robot.evaluation.libero.worker",
                args=[
                    *("--trials", str(listed), "--output", str(folder / f"trials-{name}.jsonl")),
                    *("--server", server.url, "--preset", plan.preset.value),
                    *("--replan-steps", str(plan.replan_steps)),
                ],
                log_path=folder / f"worker-{name}.log",
                environment={
                    "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl"),
                    "LP_NUM_THREADS": "1",
                    "PYTHONPATH": str(environment.ROOT),
                },
                python=python,
            )
            exits.callback(child.stop)
            children.append(child)
    while any(child.running for child in children) and not stop.wait(_POLL_S):
        yield read(folder)
    for child in children:
        if not stop.is_set() and child.process.poll() != 0:
            child.check()
    yield read(folder)


def blocks(trials: list[LiberoTrial], count: int) -> list[list[LiberoTrial]]:
    """At most ``count`` runs of neighbours, as equal as can be: a worker then loads few scenes."""
    count = min(count, len(trials))
    bounds = [len(trials) * number // count for number in range(count + 1)] if count else [0]
    return [trials[start:stop] for start, stop in pairwise(bounds)]


def _is_trained(url: str) -> bool:
    """Whether the served policy was trained. Raises `EvaluationError` when it can't be for LIBERO."""
    with PolicyClient(url, connect_timeout_s=30.0) as client:
        try:
            require_fit(client.contract)
        except UnfitPolicyError as error:
            raise EvaluationError(str(error)) from None
        return client.contract is None or client.contract.trained


def _remembered(folder: Path, trained: dict[str, bool]) -> dict[str, bool]:
    """What was learned about policies now and in earlier calls."""
    path = folder / "policies.json"
    known: dict[str, bool] = {}
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
    known |= trained
    write_json(path, known)
    return known
