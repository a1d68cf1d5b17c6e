"""The command behind `launch/rollout`: a policy on a rig, one or more tasks, N episodes each."""

import logging
import sys
import threading
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.logging import RichHandler

from configs.allocator import keep_freed_memory
from configs.report import job_console, write_json
from configs.schema import ConfigError, available
from policy_server.client import Continuity, PolicyClientError
from robot.calibration_state import CalibrationNotTrustedError
from robot.cameras import BackendMismatchError
from robot.daemon.errors import RobotdError
from robot.processes import stop_event_on_signals
from robot.recording import RecordingError
from robot.ring import RingBusyError, RingError
from robot.rollout.chunks import ExecutionMode
from robot.rollout.display import RolloutDisplay
from robot.rollout.policy_link import MotionUnavailableError, UnknownContractError
from robot.rollout.results import RolloutResult, summary_table
from robot.rollout.session import OperatorSeat, PlanError, RolloutPlan, exit_code, run_rollout
from robot.station import StationError
from robot.twin.control import TwinControlError

EXPECTED_ERRORS = (
    ConfigError,
    BackendMismatchError,
    CalibrationNotTrustedError,
    StationError,
    RobotdError,
    PolicyClientError,
    UnknownContractError,
    MotionUnavailableError,
    RecordingError,
    RingError,
    RingBusyError,
    TwinControlError,
    PlanError,
)
"""What can be wrong from outside. Each says in one line what was expected, what was found and what to do."""


@dataclass(frozen=True)
class Arguments:
    """Run a policy on a rig. Ctrl-C at any moment: the arm decelerates and holds, files are closed, the lease is given
    back."""

    rig: str = "twin"
    """Name of a rig in configs/rigs, or a path to a YAML file."""
    task: list[str] = field(default_factory=lambda: ["cup"])
    """Tasks of configs/tasks, or paths to YAML files."""
    episodes: int = 1
    """Episodes of each task."""
    server: str = "ws://127.0.0.1:8000"
    """The policy server."""
    mode: ExecutionMode = ExecutionMode.ASYNC
    """async: ask for the next chunk while this one is carried out. sync: carry out, stop, look, ask, wait."""
    continuity: Continuity | None = None
    """How a chunk follows the one before: none, committed (for policies that were trained so), or guided (pulled
    towards what is left). Default: as the policy was trained."""
    replan_ticks: int | None = None
    """async: ticks between requests (default 6). sync: actions of each chunk to carry out (default all)."""
    seconds: float | None = None
    """Time limit of an episode (default: the task's own)."""
    seed: int = 0
    """Scene of the first episode of each task; the next one gets the next number."""
    varied: bool = False
    """On a simulated rig: light, colours and cameras of each episode are drawn from its seed."""
    output: Path | None = None
    """Folder for films, steps and results (default: outputs/rollout-TIME)."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the result to this file too."""
    api_key: str | None = None
    """For a server that wants one."""
    allow_unknown_contract: bool = False
    """Trust a server that does not say what its policy expects (a stock openpi server)."""
    allow_other_cameras: bool = False
    """Run a policy that was trained on pictures of another camera backend (SDK, UVC, twin) than this rig's."""
    yes: bool = False
    """On a real rig: do not ask before each episode whether the scene is set up."""
    speed: float = 1.0
    """Share of the policy's own speed, 0.1 to 1: 0.5 gives each action twice its time."""
    motion: bool = False
    """Show the motion that the policy expects beside the motion that then happens (the server needs --motion too)."""
    operator: OperatorSeat = OperatorSeat.TERMINAL
    """Where questions about scene and verdict are asked: terminal, or the page of launch/console."""
    blind: bool = False
    """Nothing that is shown says which policy acts."""
    paused: bool = False
    """Begin paused; the page says when to go on, or lets one chunk at a time be carried out."""
    record: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Record each episode into this folder as well, as launch/collect does: pictures, states, actions, chunks."""
    reserve_gib: float = 3.0
    """Free disk space without which nothing is recorded."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when every episode was run, 130 after Ctrl-C, 1 with a clear line otherwise."""
    options = tyro.cli(Arguments, args=arguments, prog="launch/rollout", config=(tyro.conf.EnumChoicesFromValues,))
    console = job_console()
    set_up_logging()
    try:
        plan = _plan(options)
        with stop_event_on_signals() as stop:
            result = run_and_report(plan, stop=stop, console=console, json_file=options.json)
            return exit_code(result, wanted=plan.episodes * len(plan.tasks), stopped=stop.is_set())
    except EXPECTED_ERRORS as error:
        print(f"launch/rollout: {error}", file=sys.stderr)
        return 1


def run_and_report(
    plan: RolloutPlan, *, stop: threading.Event, console: Console, json_file: Path | None
) -> RolloutResult:
    """Run the plan under a live display, then write ``summary.json`` and print the final table."""
    keep_freed_memory()  # every request packs the same megabytes anew
    with RolloutDisplay(console) as display:
        result = run_rollout(plan, stop=stop, console=console, on_progress=display.update)
        display.finish(result.episodes)
    for path in (plan.output / "summary.json", *([json_file] if json_file else [])):
        write_json(path, result.to_json())
    console.print(summary_table(result))
    if not result.policy.trained:
        console.print("RANDOM WEIGHTS: this policy has learned nothing, so no success is to be expected.")
    console.print(f"Films, steps and summary.json are in {shortened(plan.output)}", soft_wrap=True)
    return result


def shortened(path: Path) -> str:
    """The path as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def set_up_logging() -> None:
    """Warnings of our own, on stderr, so that results on stdout stay clean."""
    handler = RichHandler(console=Console(stderr=True), show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)


def new_output_folder(job: str) -> Path:
    """``outputs/JOB-DATE-TIME``, not yet made."""
    return Path("outputs") / f"{job}-{datetime.now():%Y%m%d-%H%M%S}"


def _plan(options: Arguments) -> RolloutPlan:
    if options.episodes < 1:
        raise PlanError(f"--episodes: expected 1 or more, got {options.episodes}")
    if options.seconds is not None and options.seconds <= 0.0:
        raise PlanError(f"--seconds: expected more than 0, got {options.seconds:g}")
    if not options.task:
        raise PlanError(f"--task: expected at least one of {', '.join(available('tasks'))}")
    if not options.server.startswith(("ws://", "wss://")):
        raise PlanError(f"--server: expected an address such as ws://127.0.0.1:8000, got {options.server!r}")
    return RolloutPlan(
        rig=options.rig,
        tasks=tuple(options.task),
        episodes=options.episodes,
        server=options.server,
        mode=options.mode,
        output=(options.output or new_output_folder("rollout")).absolute(),
        replan_ticks=options.replan_ticks,
        continuity=options.continuity,
        seconds=options.seconds,
        seed=options.seed,
        api_key=options.api_key,
        allow_unknown_contract=options.allow_unknown_contract,
        allow_other_cameras=options.allow_other_cameras,
        assume_ready=options.yes,
        speed=options.speed,
        motion=options.motion,
        operator=options.operator,
        blind=options.blind,
        paused=options.paused,
        record=None if options.record is None else options.record.absolute(),
        reserve_gib=options.reserve_gib,
        varied=options.varied,
    )


if __name__ == "__main__":
    sys.exit(main())
