"""Blind trials of several policies on a rig, one after the other: who acts next, and when it is over."""

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from configs.report import write_json
from configs.schema import load_rig
from policy_server.client import SIX_JOINTS_AND_GRIPPER, PolicyClient
from robot.daemon.errors import FaultError
from robot.evaluation.rig.journal import Entry, Verdict, append, complete_pairs, counted, entry_of, read
from robot.evaluation.rig.plan import SEAL_NAME, BlindTrial, RigPlan, open_plan
from robot.evaluation.sequential import decided
from robot.evaluation.statistics import PairedCounts, mcnemar_exact
from robot.policy_process import Served, serving
from robot.rollout.client import EndReason
from robot.rollout.results import EpisodeResult
from robot.rollout.session import OperatorSeat, RolloutPlan, run_rollout
from robot.station import Station

MOST_ATTEMPTS = 3
"""A trial that is void so often is not tried again in the same call."""

RunTrial = Callable[[BlindTrial, Path], EpisodeResult]
Ask = Callable[[str], bool]


@dataclass(frozen=True)
class Progress:
    """How far it is: what counts, all attempts, and whether it ended at a declared look."""

    plan: RigPlan
    entries: tuple[Entry, ...]
    stopped_early: bool

    @property
    def done(self) -> dict[int, Entry]:
        """By number, what counts."""
        return counted(self.entries)

    @property
    def complete(self) -> bool:
        """Whether no trial is left to do."""
        return self.stopped_early or len(self.done) == len(self.plan.trials())


def run_blind(
    plan: RigPlan, *, folder: Path, run_trial: RunTrial, intervened: Ask, stop: threading.Event, console: Console
) -> Progress:
    """Run what is missing of a plan in its folder. ``intervened`` asks whether an aborted trial was ended because of
    what the policy did."""
    trials = plan.trials()
    entries = read(folder)
    for trial in trials:
        if _ended(plan, entries):
            break
        attempts = sum(entry.number == trial.number for entry in entries)
        fresh = 0
        while trial.number not in counted(entries) and fresh < MOST_ATTEMPTS and not stop.is_set():
            attempts, fresh = attempts + 1, fresh + 1
            console.print(f"[bold]Trial {trial.number} of {len(trials)}[/]" + (", repeated" if attempts > 1 else ""))
            where = folder / f"trial-{trial.number:04d}-{attempts}"
            result = run_trial(trial, where)
            if result.reason is EndReason.STOPPED and stop.is_set():
                break
            ended_it = result.reason.aborted and intervened(result.reason.value)
            episode = where / f"episode-000-{trial.task}"
            entry = entry_of(trial, result, attempt=attempts, intervened=ended_it, folder=episode)
            append(folder, replace(entry, folder=where.name))
            entries = read(folder)
            if entry.verdict is Verdict.VOID:
                console.print(f"void ({entry.reason}: {entry.detail}); it is repeated")
        if trial.number not in counted(entries):
            if not stop.is_set():
                console.print(f"trial {trial.number} was void {MOST_ATTEMPTS} times: mend the rig and call again")
            break
    return Progress(plan, tuple(entries), _ended(plan, entries))


def _ended(plan: RigPlan, entries: list[Entry]) -> bool:
    """Whether a declared interim look says that it is decided. Judged at each number of complete pairs that there was
    in the order of the trials, so that a later call comes to the same end."""
    if plan.looks == 1:
        return False
    done = counted(entries)
    so_far: dict[int, Entry] = {}
    for number in sorted(done):
        so_far[number] = done[number]
        pairs = complete_pairs(plan, so_far)
        first, second = pairs.values()
        if len(first) < plan.pairs and decided(
            plan.planned_looks, trials=len(first), p=mcnemar_exact(PairedCounts.of(first, second))
        ):
            return True
    return False


def unseal(folder: Path) -> Path:
    """After the last verdict: publish who was who, with the salt that proves it."""
    sealed = json.loads((folder / SEAL_NAME).read_text(encoding="utf-8"))
    path = folder / "unsealed.json"
    plan = sealed["plan"]
    write_json(path, {"letters": plan["letters"], "salt": sealed["salt"], "digests": plan["digests"]})
    return path


def run_on_rig(
    wanted: RigPlan,
    *,
    folder: Path,
    seat: OperatorSeat,
    assume_ready: bool,
    ask: Ask,
    stop: threading.Event,
    console: Console,
) -> Progress:
    """Servers, station and all trials. Raises what `run_rollout` raises, and `EvaluationError`."""
    rig = load_rig(wanted.rig)
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as exits:
        servers: dict[str, Served] = {}
        for name in sorted(wanted.policies):
            servers[name] = exits.enter_context(serving(wanted.policies[name], log_path=logs / f"server-{name}.log"))
        for server in servers.values():
            server.wait_until_ready(stop)
            server.prefer()
        plan = open_plan(folder, replace(wanted, digests={name: _digest(s.url) for name, s in servers.items()}))
        exits.enter_context(Station(plan.rig, log_dir=logs))  # one for all trials; each rollout finds it running
        total = len(plan.trials())

        def run_trial(trial: BlindTrial, where: Path) -> EpisodeResult:
            reference = folder / "references" / f"{trial.task}-{trial.start}.png"
            rollout = RolloutPlan(
                rig=plan.rig,
                tasks=(trial.task,),
                episodes=1,
                server=servers[plan.letters[trial.letter]].url,
                mode=plan.mode,
                output=where.absolute(),
                replan_ticks=plan.replan_ticks,
                continuity=plan.continuity,
                seed=trial.start,
                assume_ready=assume_ready,
                operator=seat,
                blind=True,
                trial=trial.number,
                trials=total,
                varied=rig.twin is not None,
                reference=None if rig.twin is not None else reference.absolute(),
            )
            try:
                result = run_rollout(rollout, stop=stop, console=console, on_progress=lambda _: None)
            except FaultError as error:
                # Between episodes. On a real rig a person has to look; a simulated one was starved of its core.
                if rig.twin is None:
                    raise
                return EpisodeResult(trial.task, trial.start, EndReason.FAULT, detail=str(error))
            if not result.episodes:
                return EpisodeResult(trial.task, trial.start, EndReason.STOPPED)
            return result.episodes[0]

        return run_blind(plan, folder=folder, run_trial=run_trial, intervened=ask, stop=stop, console=console)


def _digest(url: str) -> str:
    """Of the checkpoint that is served; empty from a stock server."""
    with PolicyClient(url, expected=SIX_JOINTS_AND_GRIPPER, connect_timeout_s=30.0) as client:
        return "" if client.contract is None else client.contract.checkpoint_digest
