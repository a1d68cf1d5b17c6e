"""`launch/serve inspect` and `launch/serve convert`: what a checkpoint is, and the same in another layout."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from configs.report import job_console, write_json
from policy_server.pi0.checkpoint import CheckpointError, load_policy
from policy_server.pi0.convert import Target, convert
from policy_server.pi0.foreign import Assumptions
from policy_server.pi0.inspection import Inspection, inspect


@dataclass(frozen=True)
class _ForeignOptions:
    """What openpi's and LeRobot's checkpoints do not say."""

    tokenizer: Path | None = None
    """SentencePiece model (PaliGemma's tokenizer.model)."""
    statistics: Path | None = None
    """A norm_stats.json instead of the checkpoint's own."""
    asset: str | None = None
    """Which of an openpi checkpoint's assets."""
    horizon: int | None = None
    """Actions in a chunk, if the checkpoint does not say."""
    relative: bool | None = None
    """Whether joints are relative to the state; default: openpi's rule, or what a LeRobot checkpoint says."""
    discrete_state: bool = True
    """False: a π0.5 that was trained without its state in the prompt."""

    def assumptions(self) -> Assumptions:
        """The same for the loader."""
        joints = len(Assumptions().interface.action_names) - 1
        return Assumptions(
            relative=None if self.relative is None else (self.relative,) * joints + (False,),
            tokenizer=self.tokenizer,
            asset=self.asset,
            statistics=self.statistics,
            horizon=self.horizon,
            discrete_state=self.discrete_state,
        )


@dataclass(frozen=True)
class InspectOptions(_ForeignOptions):
    """Say what a checkpoint is, its contract, and what of it would not be loaded. Reads no weights."""

    source: tyro.conf.Positional[str] = ""
    """A folder, or a name on the hub."""
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None
    """Write it to this file too."""


@dataclass(frozen=True)
class ConvertOptions(_ForeignOptions):
    """Write a checkpoint in another layout."""

    source: tyro.conf.Positional[str] = ""
    """A folder, or a name on the hub."""
    target: tyro.conf.Positional[Path] = Path()
    """The new folder."""
    to: Target = Target.OWN
    """The layout to write."""


def inspect_command(arguments: list[str]) -> int:
    """`launch/serve inspect`; the exit code is 0 if the checkpoint could be served."""
    options = tyro.cli(InspectOptions, args=arguments, prog="launch/serve inspect")
    console = job_console()
    try:
        found = inspect(options.source, options.assumptions())
    except CheckpointError as error:
        return _failed(console, "inspect", error)
    console.print(_table(found))
    for problem in found.problems:
        console.print(f"can't be served: {problem}", style="bold red", markup=False, highlight=False, soft_wrap=True)
    if options.json_file is not None:
        write_json(options.json_file, found.to_json())
    return 1 if found.problems else 0


def convert_command(arguments: list[str]) -> int:
    """`launch/serve convert`; the exit code."""
    options = tyro.cli(ConvertOptions, args=arguments, prog="launch/serve convert")
    console = job_console()
    try:
        with load_progress(console) as on_bytes:
            policy = load_policy(options.source, assumptions=options.assumptions(), on_bytes=on_bytes)
        convert(policy, options.target, to=options.to)
    except CheckpointError as error:
        return _failed(console, "convert", error)
    console.print(f"{options.target}: {policy.spec.name} as {options.to.value}")
    return 0


@contextmanager
def load_progress(console: Console) -> Iterator[Callable[[int], None]]:
    """A progress bar for bytes that are read; it shows only when there is something to wait for."""
    columns = (TextColumn("weights"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("weights", total=None)
        yield lambda count: progress.advance(task, count)


def _failed(console: Console, name: str, error: Exception) -> int:
    text = f"launch/serve {name}: {error}"
    console.print(text, style="bold red", markup=False, highlight=False, soft_wrap=True)
    return 1


def _table(found: Inspection) -> Table:
    table = Table(show_header=False, title=found.source)
    for name, value in found.lines():
        table.add_row(name, value)
    return table
