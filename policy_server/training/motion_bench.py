"""Whether the motion head learns anything: the stages in short on a small data set, and its flow beside the flow of no
motion and the average flow, on episodes that no stage saw.

Each stage is the recipe of the small policy with fewer steps. What was made is kept, so a call that was interrupted
goes on where it stopped.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import pyarrow.parquet as pq
import torch
from rich.console import Console

from configs.report import BenchRow, at_most
from policy_server.training.board import picture_grid
from policy_server.training.command import TrainOptions, run_training
from policy_server.training.data.lerobot import EpisodeInfo, LeRobotTables
from policy_server.training.data.samples import Schedule, TrainingBatch, TrainingSamples, assemble
from policy_server.training.data.subsets import Subset, choose_subset
from policy_server.training.flow_errors import FlowErrors
from policy_server.training.precompute_command import PrecomputeOptions, run_precompute
from policy_server.training.recipe import load_recipe
from policy_server.training.setup import Setup, prepare
from policy_server.training.simulated_flow import Sights
from policy_server.training.validation import Look, errors_of, held_out, look, mean_flow

ROOT = Path(__file__).resolve().parents[2]
HELD_OUT = 0.2
SEEN_BATCHES = 4
MOVING_PX = 2.0
"""Of 96 px pictures."""
HEAD_RATE = 4e-3
"""Peak learning rate of the warm-up: the head is from scratch and has few steps."""
SOURCE_COLUMN = "nova/source_id"


@dataclass(frozen=True)
class MotionBench:
    """How much of everything. `data` is a data set of the twin's to take demonstrations from; without, they are made
    in the twin."""

    out: Path
    data: Path | None = None
    demonstrations: int = 60
    steps: int = 800
    batch: int = 16
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)


def run_motion_bench(bench: MotionBench, *, console: Console, sights: Callable[[], Sights]) -> list[BenchRow]:
    """`launch/bench motion`; `sights` opens the twin. Raises what `launch/train` refuses, and
    `subprocess.CalledProcessError`."""
    data = bench.data or _demonstrations(bench)
    manifest = choose_demonstrations(data, bench)
    settings = _settings(bench, data, manifest)
    run_precompute(PrecomputeOptions("nano-vae", set=tuple(settings), device="cpu"), console=console, sights=sights)
    if not (bench.out / "vae").is_dir():
        _stage(bench, "nano-vae", "vae", settings, steps=bench.steps * 5 // 4, console=console)
    _stage(bench, "nano-action-only", "policy", settings, steps=bench.steps // 2, console=console)
    faster = [*settings, f"optimizer.learning_rate={HEAD_RATE}"]
    _stage(bench, "nano-warmup", "warmup", faster, init="policy", steps=bench.steps * 2, console=console)
    _stage(bench, "nano-joint", "joint", settings, init="warmup", steps=bench.steps, console=console)
    return measure(bench, settings)


def measure(bench: MotionBench, settings: list[str]) -> list[BenchRow]:
    """The figures of what is in `bench.out`, and ``flow.png`` there: held-out images, their flow, the same through the
    autoencoder, the prediction."""
    changes = [*settings, f"init={bench.out / 'joint'}", "data.keep_normalization=true"]
    setup = prepare(
        load_recipe("nano-joint").override(changes), device=torch.device("cpu"), console=Console(quiet=True)
    )
    setup.model.eval()
    schedule = Schedule(setup.readers, seed=setup.recipe.seed, batch=setup.recipe.batch)
    samples = TrainingSamples(setup.readers, setup.spec.transforms(setup.tokenizer, pictures_ready=True))
    average = mean_flow(setup, samples, schedule)
    unseen = _looks(setup, list(held_out(setup, samples, schedule)))
    seen_batches = [assemble([samples[key] for key in schedule.keys(step)]) for step in range(SEEN_BATCHES)]
    seen = _looks(setup, seen_batches)
    _, rows = unseen[0].grid(setup)
    cv2.imwrite(str(bench.out / "flow.png"), cv2.cvtColor(picture_grid(rows), cv2.COLOR_RGB2BGR))
    found = [
        errors_of(looks, mean_flow=average, encoding=setup.targets.encoding, moving_px=MOVING_PX)
        for looks in (unseen, seen)
    ]
    if found[0] is None or found[1] is None:
        raise ValueError("nano-joint's target is no flow")
    episodes = sum(len(reader.training) for reader in setup.readers), sum(len(r.validation) for r in setup.readers)
    return _rows(found[0], found[1], alike=_alike(unseen), note=f"{episodes[0]} episodes seen, {episodes[1]} not")


def _rows(unseen: FlowErrors, seen: FlowErrors, *, alike: float, note: str) -> list[BenchRow]:
    return [
        BenchRow("held-out flow error where things move", unseen.end_point_px, "px", note=note),
        at_most("held-out: error / error of no motion", unseen.end_point_px / unseen.zero_px, limit=1.0, unit="x"),
        at_most(
            "held-out: error / error of the average flow", unseen.end_point_px / unseen.mean_px, limit=1.0, unit="x"
        ),
        BenchRow("held-out: angle error", unseen.angle_deg, "deg"),
        BenchRow("held-out: likeness of predicted and true flow", alike, "cosine"),
        BenchRow("held-out: no motion's error", unseen.zero_px, "px"),
        BenchRow("held-out: average flow's error", unseen.mean_px, "px"),
        at_most("seen: error / error of no motion", seen.end_point_px / seen.zero_px, limit=1.0, unit="x"),
    ]


def _looks(setup: Setup, batches: list[TrainingBatch]) -> list[Look]:
    found = []
    for index, batch in enumerate(batches):
        one = look(setup, batch, setup.targets.make(batch, affine=None), index=index)
        if one is not None:
            found.append(one)
    return found


def _alike(looks: list[Look]) -> float:
    """Cosine between all predicted flow and all true flow, still pixels included."""
    predicted = torch.cat([one.predicted.flatten() for one in looks if one.predicted is not None])
    true = torch.cat([one.flow.flatten() for one in looks if one.flow is not None])
    return float(torch.nn.functional.cosine_similarity(predicted, true, dim=0))


def _demonstrations(bench: MotionBench) -> Path:
    place = bench.out / "demonstrations"
    command = [sys.executable, str(ROOT / "launch" / "demonstrations"), "--output", str(place)]
    subprocess.run([*command, "--episodes", str(bench.demonstrations)], check=True)
    return place


def choose_demonstrations(data: Path, bench: MotionBench) -> Path:
    """A manifest of as many demonstrations, tasks in equal parts. Of one that was cut into several episodes only the
    first is taken, so that no part of a held-out scene is trained on."""
    path = bench.out / "episodes.json"
    if path.is_file():
        return path
    tables = LeRobotTables(data)
    whole = _first_parts(data, tables.episodes)
    chosen = choose_subset(whole, fraction=min(1.0, bench.demonstrations / len(whole)), seed=0)
    Subset(chosen.fraction, chosen.seed, chosen.episodes, len(tables.episodes)).save(path)
    return path


def _first_parts(data: Path, episodes: list[EpisodeInfo]) -> list[EpisodeInfo]:
    first: dict[str, int] = {}
    for file in sorted((data / "meta" / "episodes").glob("**/*.parquet")):
        if SOURCE_COLUMN not in pq.read_schema(file).names:
            return episodes
        table = pq.read_table(file, columns=["episode_index", SOURCE_COLUMN])
        for index, source in zip(table["episode_index"].to_pylist(), table[SOURCE_COLUMN].to_pylist(), strict=True):
            name = source.rpartition("-")[0]
            first[name] = min(index, first.get(name, index))
    return [episode for episode in episodes if episode.index in set(first.values())]


def _settings(bench: MotionBench, data: Path, manifest: Path) -> list[str]:
    source = {"path": str(data), "episodes": str(manifest), "flow": str(bench.out / "flow")}
    return [
        f"data.sources={json.dumps([source])}",
        f"motion.vae={bench.out / 'vae'}",
        f"data.validation_fraction={HELD_OUT}",
        "optimizer.warmup_steps=20",
        f"batch={bench.batch}",
        "noise_draws=1",
        "save_every=100",
        "validate_every=100",
    ]


def _stage(
    bench: MotionBench, recipe: str, name: str, settings: list[str], *, steps: int, console: Console, init: str = ""
) -> None:
    changes = list(settings)
    if recipe == "nano-vae":
        changes.append("motion.vae=null")
    options = TrainOptions(
        recipe=recipe,
        out=bench.out / name,
        init=bench.out / init if init else None,
        steps=max(1, steps),
        set=tuple(changes),
        device="cpu",
        threads=bench.threads,
    )
    console.print(f"[bold]{recipe}[/] → {options.out}", highlight=False)
    run_training(options, console=console)
