"""The command behind `launch/finetune`: LoRA on recorded demonstrations, and merging the result into a plain policy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from policy_server.training.command import TrainOptions, guarded, run_training
from policy_server.training.merge import merge_checkpoint


@dataclass(frozen=True)
class FinetuneOptions(TrainOptions):
    """Finetune a policy on demonstrations with LoRA, by a recipe with a 'lora' section."""

    recipe: str = "pi0-lora"
    """Name of a file in configs/training, or path to a YAML file."""


@dataclass(frozen=True)
class MergeOptions:
    """Merge a LoRA checkpoint into a plain policy that launch/serve loads."""

    checkpoint: Path
    """A checkpoint of a LoRA run, or the run's folder."""
    out: Path
    """New folder for the policy."""
    base: Path | None = None
    """Where the base policy is, if it has moved."""
    json: Path | None = None
    """Write the result here."""


def finetune_main(arguments: list[str] | None = None) -> int:
    """`launch/finetune train ...` or `launch/finetune merge ...`; the exit code."""
    choice = (
        Annotated[FinetuneOptions, tyro.conf.subcommand("train")]
        | Annotated[MergeOptions, tyro.conf.subcommand("merge")]
    )
    options: Any = tyro.cli(choice, args=arguments, prog="launch/finetune")
    if isinstance(options, MergeOptions):
        return guarded(lambda console: _merge(options, console), options.json)
    return guarded(lambda console: run_training(options, console=console), options.json)


def _merge(options: MergeOptions, console: Console) -> dict[str, Any]:
    folder = merge_checkpoint(options.checkpoint, options.out, base=options.base)
    console.print(f"{folder}: a plain policy. Serve it with checkpoint: {folder} in a file of configs/policies.")
    return {"checkpoint": str(folder)}
