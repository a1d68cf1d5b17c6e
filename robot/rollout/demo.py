"""The command behind `launch/demo`: twin, policy server and rig station on this machine, and rollouts of every task.

Everything is started as it would be by hand, each part a process of its own.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from configs.schema import available
from robot.processes import stop_event_on_signals
from robot.rollout.chunks import ExecutionMode
from robot.rollout.local_stack import LocalStack, LocalStackError
from robot.rollout.main import EXPECTED_ERRORS, new_output_folder, run_and_report, set_up_logging
from robot.rollout.session import EXIT_STOPPED, PlanError, RolloutPlan, exit_code

DEFAULT_SECONDS = 8.0


@dataclass(frozen=True)
class Arguments:
    """Start the digital twin and a policy server, and let the policy try every tabletop task."""

    episodes: int = 2
    """Episodes of each task."""
    seconds: float = DEFAULT_SECONDS
    """Time limit of an episode."""
    policy: str = "nano"
    """Name of a file in configs/policies, or path to a YAML file."""
    mode: ExecutionMode = ExecutionMode.ASYNC
    """async: ask for the next chunk while this one is carried out. sync: carry out, stop, look, ask, wait."""
    seed: int = 0
    """Scene of the first episode of each task; the next one gets the next number."""
    headless: bool = False
    """No live table, only lines: for scripts and logs."""
    output: Path | None = None
    """Folder for films, steps and results (default: outputs/demo-TIME)."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the result to this file too."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when every episode was run, 130 after Ctrl-C, 1 with a clear line otherwise."""
    options = tyro.cli(Arguments, args=arguments, prog="launch/demo", config=(tyro.conf.EnumChoicesFromValues,))
    console = Console(highlight=False, force_terminal=False if options.headless else None)
    set_up_logging()
    try:
        return _run(options, console)
    except (LocalStackError, *EXPECTED_ERRORS) as error:
        print(f"launch/demo: {error}", file=sys.stderr)
        return 1


def _run(options: Arguments, console: Console) -> int:
    if options.episodes < 1 or options.seconds <= 0.0:
        raise PlanError(
            f"--episodes and --seconds: expected more than 0, got {options.episodes} and {options.seconds:g}"
        )
    output = (options.output or new_output_folder("demo")).absolute()
    tasks = tuple(available("tasks"))
    started_s = time.monotonic()
    with stop_event_on_signals() as stop, LocalStack(output, policy=options.policy) as stack:
        console.print("Starting the digital twin and the policy server ...")
        stack.wait_until_ready(stop)
        if stop.is_set():
            return EXIT_STOPPED
        console.print(f"Up after {time.monotonic() - started_s:.1f} s. Running {options.episodes} episode(s) each of:")
        console.print(f"  {', '.join(tasks)}  (up to {options.seconds:g} s an episode; Ctrl-C stops in order)")
        plan = RolloutPlan(
            rig=str(stack.rig_path),
            tasks=tasks,
            episodes=options.episodes,
            server=stack.server_url,
            mode=options.mode,
            output=output,
            seconds=options.seconds,
            seed=options.seed,
        )
        result = run_and_report(plan, stop=stop, console=console, json_file=options.json)
        return exit_code(result, wanted=plan.episodes * len(tasks), stopped=stop.is_set())


if __name__ == "__main__":
    sys.exit(main())
