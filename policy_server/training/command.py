"""The command behind `launch/train`."""

import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from accelerate import Accelerator  # type: ignore[import-untyped]
from rich.console import Console
from rich.table import Table

from configs.allocator import keep_freed_memory
from configs.report import job_console, write_json
from configs.schema import ConfigError
from policy_server.motion.files import MotionFileError
from policy_server.motion.vae import VaeError
from policy_server.pi0.checkpoint import CheckpointError
from policy_server.pi0.config import ModelConfigError
from policy_server.pi0.tokenizer import TokenizerError
from policy_server.training.checkpoints import RunError
from policy_server.training.data.lerobot import DatasetError
from policy_server.training.launcher import share_of_cores, start_missing_processes
from policy_server.training.lora import AdapterError
from policy_server.training.plan import check_memory, count_parts, make_plan, show_plan
from policy_server.training.progress_bar import count_bar, steps_bar
from policy_server.training.recipe import Recipe, Stage, available_recipes, load_recipe
from policy_server.training.setup import frame_samples, open_sources, prepare
from policy_server.training.sharding import make_accelerator
from policy_server.training.trainer import Result, Trainer
from policy_server.training.vae_stage import train_vae

REFUSALS = (
    AdapterError,
    CheckpointError,
    ConfigError,
    DatasetError,
    FileNotFoundError,
    ModelConfigError,
    MotionFileError,
    RunError,
    TokenizerError,
    VaeError,
)
"""What is wrong with the request and not with the program: told in words, without a traceback."""


@dataclass(frozen=True)
class TrainOptions:
    """Train by a recipe. The same command again goes on where the run was; a finished run is not done twice.

    Over several cards or machines: `accelerate launch --num_processes N launch/train ...`, each with a copy of the
    model, or with --set sharding=fsdp2 with a part of it.
    """

    recipe: str
    """Name of a file in configs/training, or path to a YAML file."""
    out: Path | None = None
    """Folder of the run; outputs/runs/NAME without."""
    data: Path | None = None
    """Data set instead of the recipe's first one."""
    init: Path | None = None
    """Checkpoint or run to start from, instead of the recipe's."""
    steps: int | None = None
    """Instead of the recipe's number of steps."""
    set: tuple[str, ...] = ()
    """Other settings to change, as section.key=value."""
    dry_run: bool = False
    """Print parameters, memory, steps and data, and stop."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processor threads for the model."""
    profile: int = 0
    """Steps to trace with torch.profiler into the run's folder, after the first."""
    json: Path | None = None
    """Write the result here."""


def resolve_recipe(options: TrainOptions) -> Recipe:
    """The recipe with what the command line changes. Raises `ConfigError`."""
    changes = list(options.set)
    if options.data is not None:
        changes.append(f"data.sources.0.path={options.data}")
    if options.init is not None:
        changes.append(f"init={options.init}")
    if options.steps is not None:
        changes.append(f"steps={options.steps}")
    recipe = load_recipe(options.recipe)
    return recipe.override(changes) if changes else recipe


def run_training(options: TrainOptions, *, console: Console) -> dict[str, Any]:
    """Do what the options say; returns the result file's content. Raises one of `REFUSALS`."""
    recipe = resolve_recipe(options)
    if options.dry_run:
        plan = make_plan(recipe)
        show_plan(plan, console)
        return plan.to_json()
    start_missing_processes()
    torch.set_num_threads(share_of_cores(options.threads, os.environ, cores=os.cpu_count() or 1))
    keep_freed_memory()
    on_cpu = options.device == "cpu" or (options.device == "auto" and not torch.cuda.is_available())
    accelerator = make_accelerator(cpu=on_cpu)
    run = options.out or Path("outputs/runs") / recipe.name
    quiet = Console(quiet=True)
    screen = console if accelerator.is_main_process else quiet
    if accelerator.device.type == "cuda":
        card_bytes = torch.cuda.get_device_properties(accelerator.device).total_memory
        check_memory(recipe, card_bytes=card_bytes, devices=accelerator.num_processes)
    if recipe.stage is Stage.VAE:
        return _run_vae(recipe, run, accelerator, screen)
    with accelerator.main_process_first(), count_bar(screen, "decoding frames") as counted:
        setup = prepare(recipe, device=accelerator.device, console=screen, progress=lambda _: counted)
    trainer = Trainer(setup, run, accelerator=accelerator)
    with (
        steps_bar(
            screen,
            recipe.name,
            first=trainer.next_step,
            last=recipe.steps,
            batch=recipe.batch,
            active=accelerator.is_main_process,
        ) as report,
        _profiled(options.profile, run) as stepped,
    ):

        def reported(step: int, figures: dict[str, float]) -> None:
            report(step, figures)
            if stepped is not None:
                stepped.step()

        result = trainer.train(report=reported)
    screen.print(_table(result))
    parts = count_parts(setup.model)
    return {
        "steps": result.steps,
        "losses": result.losses,
        "checkpoint": str(result.checkpoint),
        "samples_per_s": result.samples_per_s,
        "loader_share": result.loader_share,
        "parameters": {
            "trainable": sum(part.trainable for part in parts.values()),
            "frozen": sum(part.frozen for part in parts.values()),
        },
        "validation": None if result.validation is None else result.validation.figures(),
    }


def _run_vae(recipe: Recipe, folder: Path, accelerator: Accelerator, screen: Console) -> dict[str, Any]:
    if accelerator.num_processes > 1:
        raise RunError("the small autoencoder trains in minutes on one processor: call launch/train without accelerate")
    with count_bar(screen, "decoding frames") as counted:
        readers = open_sources(recipe, progress=lambda _: counted)
    samples, targets = frame_samples(recipe, readers, accelerator.device)
    with steps_bar(screen, recipe.name, first=0, last=recipe.steps, batch=recipe.batch, active=True) as report:
        result = train_vae(
            recipe,
            readers=readers,
            samples=samples,
            targets=targets,
            folder=folder,
            device=accelerator.device,
            report=report,
        )
    screen.print(
        f"{result.folder}: where things move, flow through the autoencoder and back is off by "
        f"{result.round_trip.end_point_px:.2f} px (no motion at all: {result.round_trip.zero_px:.2f} px)"
    )
    return {"steps": recipe.steps, "losses": {"vae": result.loss}, "checkpoint": str(result.folder)} | {
        "round_trip": vars(result.round_trip)
    }


def _profiled(steps: int, run: Path) -> Any:
    """A profiler whose trace is written to the run's folder, or nothing."""
    if steps < 1:
        return nullcontext()
    return torch.profiler.profile(
        schedule=torch.profiler.schedule(wait=1, warmup=1, active=steps),
        on_trace_ready=torch.profiler.tensorboard_trace_handler(str(run / "board")),
    )


def _table(result: Result) -> Table:
    table = Table(title=str(result.checkpoint))
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in result.losses.items():
        table.add_row(f"{name} loss", f"{value:.4f}")
    if result.validation is not None:
        for name, value in result.validation.figures().items():
            table.add_row(name, f"{value:.4f}")
    table.add_row("samples/s", f"{result.samples_per_s:.1f}")
    table.add_row("waiting for data", f"{100 * result.loader_share:.1f} %")
    return table


def train_main(arguments: list[str] | None = None) -> int:
    """`launch/train`; the exit code."""
    described = f"{TrainOptions.__doc__}\n\nRecipes: {', '.join(available_recipes())}."
    options = tyro.cli(TrainOptions, args=arguments, description=described)
    return guarded(lambda console: run_training(options, console=console), options.json)


def guarded(job: Any, json_path: Path | None) -> int:
    """Run a job with a console; tell refusals in words; write its result. The exit code."""
    console = job_console()
    try:
        result = job(console)
    except REFUSALS as error:
        console.print(f"[bold red]Refused:[/] {error}", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted; the last checkpoint is whole, and the same command goes on from it.")
        return 130
    if json_path is not None:
        write_json(json_path, result)
    return 0
