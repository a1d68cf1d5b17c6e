"""The command behind `launch/demo`: twin, policy server and rig station on this machine, and rollouts of every task.

Everything is started as it would be by hand, each part a process of its own.
"""

import secrets
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from configs.report import job_console
from configs.schema import CONFIGS, available, load_policy, load_task
from robot.policy_process import free_port
from robot.processes import Child, ChildFailedError, stop_event_on_signals
from robot.rollout.chunks import ExecutionMode
from robot.rollout.local_stack import LocalStack
from robot.rollout.main import EXPECTED_ERRORS, new_output_folder, run_and_report, set_up_logging
from robot.rollout.session import EXIT_STOPPED, PlanError, RolloutPlan, exit_code

USUAL_CONSOLE_PORT = 8090
PAGE_START_S = 15.0
MOTION_HEAD_FILE = "motion_head.safetensors"


@dataclass(frozen=True)
class Arguments:
    """Start the digital twin and a policy server, and let the policy try every tabletop task."""

    episodes: int = 2
    """Episodes of each task."""
    seconds: float | None = None
    """Time limit of an episode (default: the task's)."""
    policy: str = "nano"
    """Name of a file in configs/policies, or path to a YAML file."""
    mode: ExecutionMode = ExecutionMode.ASYNC
    """async: ask for the next chunk while this one is carried out. sync: carry out, stop, look, ask, wait."""
    seed: int = 0
    """Scene of the first episode of each task; the next one gets the next number."""
    varied: bool = False
    """Light, colours and cameras of each episode are drawn from its seed."""
    headless: bool = False
    """No live table and no operator's page, only lines: for scripts and logs."""
    console: bool = True
    """Serve the operator's page meanwhile, and open it where there is a display."""
    motion: bool | None = None
    """Show the motion that the policy expects beside what happens (default: if the policy has a motion head and the
    page is open; it needs a core of its own)."""
    output: Path | None = None
    """Folder for films, steps and results (default: outputs/demo-TIME)."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the result to this file too."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when every episode was run, 130 after Ctrl-C, 1 with a clear line otherwise."""
    options = tyro.cli(Arguments, args=arguments, prog="launch/demo", config=(tyro.conf.EnumChoicesFromValues,))
    console = job_console(force_terminal=False if options.headless else None)
    set_up_logging()
    try:
        return _run(options, console)
    except (ChildFailedError, *EXPECTED_ERRORS) as error:
        print(f"launch/demo: {error}", file=sys.stderr)
        return 1


def _run(options: Arguments, console: Console) -> int:
    if options.episodes < 1 or (options.seconds is not None and options.seconds <= 0.0):
        raise PlanError(f"--episodes and --seconds: expected more than 0, got {options.episodes} and {options.seconds}")
    output = (options.output or new_output_folder("demo")).absolute()
    tasks = tuple(available("tasks"))
    started_s = time.monotonic()
    motion = options.motion
    if motion is None:
        motion = not options.headless and has_motion_head(options.policy)
    with (
        stop_event_on_signals() as stop,
        LocalStack(output, policy=options.policy, motion=motion) as stack,
        ExitStack() as exits,
    ):
        console.print("Starting the digital twin and the policy server ...")
        stack.wait_until_ready(stop)
        if stop.is_set():
            return EXIT_STOPPED
        console.print(f"Up after {time.monotonic() - started_s:.1f} s. Running {options.episodes} episode(s) each of:")
        console.print(f"  {', '.join(tasks)}  (up to {_limit(options, tasks):g} s an episode; Ctrl-C stops in order)")
        if options.console and not options.headless:
            exits.enter_context(operators_page(stack, output, console))
        plan = RolloutPlan(
            rig=str(stack.rig_path),
            tasks=tasks,
            episodes=options.episodes,
            server=stack.server_url,
            mode=options.mode,
            output=output,
            seconds=options.seconds,
            seed=options.seed,
            motion=motion,
            varied=options.varied,
        )
        result = run_and_report(plan, stop=stop, console=console, json_file=options.json)
        return exit_code(result, wanted=plan.episodes * len(tasks), stopped=stop.is_set())


def _limit(options: Arguments, tasks: tuple[str, ...]) -> float:
    """The longest that an episode may take, s."""
    return options.seconds or max(load_task(task).time_limit_s for task in tasks)


def has_motion_head(policy: str) -> bool:
    """Whether the policy's checkpoint brings the head that predicts motion. Raises `ConfigError`."""
    checkpoint = load_policy(policy).checkpoint
    if checkpoint is None:
        return False
    return any((folder / checkpoint / MOTION_HEAD_FILE).is_file() for folder in (Path(), CONFIGS.parent))


@contextmanager
def operators_page(stack: LocalStack, output: Path, console: Console) -> Iterator[None]:
    """The operator's page of this demo, a process of its own; it only looks on, and STOP works."""
    port, token = free_port(USUAL_CONSOLE_PORT), secrets.token_urlsafe(12)
    child = Child(
        "the operator's page",
        module="robot.console.main",
        args=(
            *("--rig", str(stack.rig_path), "--port", str(port), "--token", token, "--server", stack.server_url),
            *("--outputs", str(output.parent), "--no-station"),
        ),
        log_path=output / "logs" / "console.log",
    )
    try:
        _wait_for_page(child, port)
        console.print(f"The operator's page: http://127.0.0.1:{port}/?token={token}", soft_wrap=True)
        yield
    finally:
        child.stop()


def _wait_for_page(child: Child, port: int) -> None:
    """Until it answers, or has ended: the demo does not need it."""
    deadline_s = time.monotonic() + PAGE_START_S
    while child.running and time.monotonic() < deadline_s:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
