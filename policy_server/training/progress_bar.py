"""What a person sees while a job runs: a bar with losses, speed and time left; nothing on other processes than the
first.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from policy_server.training.data.frames import Progress as Report

SHOWN = ("loss", "action", "motion", "validation_loss")
PLAIN_INTERVAL_S = 30.0


@contextmanager
def steps_bar(
    console: Console, title: str, *, first: int, last: int, batch: int, active: bool
) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Gives what to call after each step. Where the output is no terminal, a line is printed now and then instead."""
    if not active:
        yield lambda step, figures: None
        return
    started_s = time.monotonic()
    printed_s = started_s
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=last, completed=first, figures="")

        def report(step: int, figures: dict[str, float]) -> None:
            nonlocal printed_s
            now_s = time.monotonic()
            speed = (step + 1 - first) * batch / max(now_s - started_s, 1e-9)
            told = "  ".join(f"{name} {figures[name]:.4f}" for name in SHOWN if name in figures)
            text = f"{told}  {speed:.1f} samples/s"
            progress.update(task, completed=step + 1, figures=text)
            if not console.is_terminal and (now_s - printed_s > PLAIN_INTERVAL_S or step + 1 == last):
                printed_s = now_s
                console.print(f"{title}: step {step + 1}/{last}  {text}")

        yield report


@contextmanager
def count_bar(console: Console, title: str) -> Iterator[Report]:
    """Gives what to call with (done, total)."""
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
