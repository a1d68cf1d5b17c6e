"""The command behind `launch/precompute`: flow, or latents, of a recipe's data sets ahead of training."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console

from configs.schema import ConfigError
from policy_server.motion.estimators import EstimatorKind, FlowEstimator, load_estimator
from policy_server.motion.vae import load_vae
from policy_server.training.command import guarded
from policy_server.training.data.lerobot import LeRobotTables
from policy_server.training.data.samples import frame_source, view_of
from policy_server.training.data.subsets import load_subset
from policy_server.training.precompute import PrecomputeJob, PrecomputeResult, precompute
from policy_server.training.precompute_ray import precompute_with_ray
from policy_server.training.progress_bar import count_bar
from policy_server.training.recipe import Recipe, SourceConfig, load_recipe
from policy_server.training.setup import policy_dimensions
from policy_server.training.simulated_flow import Sights, SimulatedFlow


@dataclass(frozen=True)
class PrecomputeOptions:
    """Estimate the flow of a recipe's third-person cameras once, into the folders that its sources name.

    The same command again goes on where it was. Several machines share the work with --share 0/4, 1/4, ...
    """

    recipe: str
    """Name of a file in configs/training, or path to a YAML file."""
    set: tuple[str, ...] = ()
    """Settings to change, as section.key=value; for example data.sources.0.flow=outputs/twin-flow."""
    share: str = "0/1"
    """Which part of the episodes: I/N."""
    ray: int = 0
    """Instead: so many workers of Ray Data, on the cluster that RAY_ADDRESS names or on this machine."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    json: Path | None = None
    """Write the result here."""


def precompute_main(arguments: list[str] | None = None, *, sights: Callable[[], Sights] | None = None) -> int:
    """`launch/precompute`; the exit code. `sights` opens the simulator that ``motion.estimator: sim`` asks."""
    options = tyro.cli(PrecomputeOptions, args=arguments, prog="launch/precompute")
    return guarded(lambda console: run_precompute(options, console=console, sights=sights), options.json)


def run_precompute(
    options: PrecomputeOptions, *, console: Console, sights: Callable[[], Sights] | None = None
) -> dict[str, Any]:
    """Do what the options say; returns the result file's content."""
    recipe = load_recipe(options.recipe).override(options.set)
    cuda = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    if options.ray and recipe.motion.estimator is EstimatorKind.SIM:
        raise ConfigError("--ray: flow of simulated scenes is drawn on this machine; leave it out, or use --share")
    jobs = make_jobs(recipe, device=torch.device("cuda" if cuda else "cpu"), sights=sights)
    done = []
    for number, job in enumerate(jobs):
        with count_bar(console, f"{job.tables.root} {job.camera}") as report:
            if options.ray:
                result = precompute_with_ray(
                    recipe,
                    number,
                    job,
                    workers=options.ray,
                    make_jobs=make_jobs,
                    report=report,
                    clock=time.monotonic,
                )
            else:
                result = precompute(job, share=_share(options.share), report=report, clock=time.monotonic)
        console.print(_told(job, result))
        done.append({"source": str(job.tables.root), "camera": job.camera} | vars(result))
    return {"method": jobs[0].estimator.identity, "sources": done}


def make_jobs(
    recipe: Recipe, *, device: torch.device, sights: Callable[[], Sights] | None = None
) -> list[PrecomputeJob]:
    """One for each third-person camera of each source; `sights` opens the simulator of exact flow. Raises
    `DatasetError`, `ConfigError` or FileNotFoundError."""
    weights = recipe.motion.estimator_weights
    estimator: FlowEstimator | None = None
    opened: Sights | None = None
    if recipe.motion.estimator is not EstimatorKind.SIM:
        estimator = load_estimator(
            recipe.motion.estimator,
            weights=Path(weights) if weights else None,
            updates=recipe.motion.estimator_updates,
            device=device,
        )
    elif sights is None:
        raise ConfigError(f"{recipe.name}: motion.estimator is 'sim': make its flow with launch/precompute")
    else:
        opened = sights()
    size = policy_dimensions(recipe).vision.image_size
    jobs = []
    for source in recipe.data.sources:
        if not source.motion:
            continue
        tables = LeRobotTables(Path(source.path))
        key, cameras = next(iter(source.cameras.items()))
        for camera in cameras:
            tables.require(camera, kinds=("video", "image"))
            job = PrecomputeJob(
                tables=tables,
                camera=camera,
                horizon=recipe.data.horizon,
                size_px=size,
                half_turn=source.half_turn,
                estimator=estimator or _simulated(recipe, source, tables, camera=camera, key=key, sights=opened),
                source=frame_source(recipe, source, tables, image_size=size),
                view=view_of(recipe, source, camera),
                episodes=load_subset(Path(source.episodes), tables.episodes) if source.episodes else None,
                **_destination(recipe, source, device),
            )
            jobs.append(job)
    if not jobs:
        raise ConfigError(f"{recipe.name}: no source has motion to learn from")
    return jobs


def _simulated(
    recipe: Recipe, source: SourceConfig, tables: LeRobotTables, *, camera: str, key: str, sights: Sights | None
) -> SimulatedFlow:
    if sights is None or source.half_turn:
        raise ConfigError(f"{source.path}: expected a data set of the twin for motion.estimator 'sim'")
    views = None if recipe.data.views is None else recipe.data.views.to_views()
    side = policy_dimensions(recipe).vision.image_size
    return SimulatedFlow(sights=sights, tables=tables, camera=camera, key=key, views=views, side=side)


def _destination(recipe: Recipe, source: SourceConfig, device: torch.device) -> dict[str, Any]:
    if source.flow is not None:
        return {"folder": Path(source.flow)}
    if source.latents is not None and recipe.motion.vae is not None:
        size = policy_dimensions(recipe).vision.image_size
        vae = load_vae(Path(recipe.motion.vae), device=device)
        return {"folder": Path(source.latents), "vae": vae, "encoding": recipe.motion.flow_encoding(size)}
    raise ConfigError(
        f"{recipe.name}: no folder to write to: set data.sources.N.flow, or latents together with motion.vae"
    )


def _share(text: str) -> tuple[int, int]:
    part, slash, whole = text.partition("/")
    if slash and part.isdigit() and whole.isdigit() and int(part) < int(whole):
        return int(part), int(whole)
    raise ConfigError(f"--share {text}: expected I/N with I from 0 to N - 1")


def _told(job: PrecomputeJob, result: PrecomputeResult) -> str:
    if result.episodes == 0:
        return f"{job.folder}: all {result.already_done} episodes were done before"
    return f"{job.folder}: {result.episodes} episodes, {result.pairs_per_s:.1f} pairs/s"
