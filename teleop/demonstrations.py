"""The command behind `launch/demonstrations`: a data set of scripted demonstrations from the twin, without its wires.

Worker processes take turns with the seeds and leave finished demonstrations in a spool folder; this process puts them
into the data set in the order of their seeds, so that the same command makes the same data set with any number of
workers. ``demonstrations.jsonl`` in the data set says what came of each seed, failures included.
"""

import json
import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from configs.report import append_line, job_console, read_lines, write_json
from configs.schema import ConfigError, RigConfig, load_rig, load_task
from robot.clock import NS_PER_S
from robot.policy_process import serving
from robot.processes import Child, ChildFailedError, stop_event_on_signals
from robot.recording.dataset import layout as form
from robot.recording.dataset.dataset import Dataset, DatasetSpec
from robot.recording.dataset.errors import DatasetError
from robot.recording.dataset.layout import ActionChoice, PictureSize, VideoCodec
from robot.recording.dataset.statistics import PictureHistogram
from robot.recording.recorder import software_version
from robot.twin.optics import CameraName, intrinsics
from robot.twin.sights import SCENES_PATH, write_records
from teleop.demonstration_plan import LEAD_LATENCIES_S

MANIFEST_NAME = "demonstrations.jsonl"
EXIT_STOPPED = 130
_POLL_S = 0.2


@dataclass(frozen=True)
class Arguments:
    """Make scripted demonstrations in the twin, in process and faster than real time, straight into a LeRobot v3 data
    set. Ctrl-C at any moment; called again, it goes on where it stopped."""

    output: Path = Path("outputs/datasets/twin")
    """Folder of the data set."""
    episodes: int = 750
    """How many successful demonstrations it shall hold in the end, over all tasks."""
    tasks: tuple[str, ...] = ("cup", "can", "tape")
    """Tasks of configs/tasks, in turn."""
    rig: str = "twin"
    """Name of a simulated rig in configs/rigs, or a path to a YAML file."""
    workers: int = max(1, (os.cpu_count() or 2) - 1)
    """Processes that simulate and draw."""
    seed: int = 100_000
    """Seed of the first demonstration; the next ones follow."""
    lead: Annotated[str | None, tyro.conf.arg(metavar="POLICY")] = None
    """Corrections instead: this policy (a configuration, a run's folder, or ws://HOST:PORT) moves the arm for up to
    nine seconds, and the teacher goes on from wherever it got to. Only the teacher is recorded."""
    lead_latency: tuple[float, ...] = LEAD_LATENCIES_S
    """Seconds that the chunks of the policy that leads come late, one of them drawn for each correction."""
    height: int = 216
    """Height of the pictures, px; they are as wide as the rig's cameras are for their height."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the result to this file."""


@dataclass(frozen=True)
class Made:
    """What a seed came to; ``parts`` are the lengths of its episodes, in rows."""

    seed: int
    task: str
    success: bool
    ticks: int
    flaws: tuple[str, ...]
    start: str
    kicks: int
    parts: tuple[int, ...]
    lead: int = 0

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Made":
        """The inverse of ``dataclasses.asdict``."""
        return cls(**{**plain, "flaws": tuple(plain["flaws"]), "parts": tuple(plain["parts"])})


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when the data set holds what was asked for, 130 after Ctrl-C, 1 with a clear line otherwise."""
    options = tyro.cli(Arguments, args=arguments, prog="launch/demonstrations")
    console = job_console()
    try:
        with stop_event_on_signals() as stop:
            made = run(options, stop=stop, console=console)
    except (ConfigError, DatasetError, ChildFailedError) as error:
        print(f"launch/demonstrations: {error}", file=sys.stderr)
        return 1
    console.print(_table(made))
    if options.json is not None:
        write_json(options.json, _result(options, made))
    return 0 if sum(each.success for each in made) >= options.episodes else EXIT_STOPPED


def run(options: Arguments, *, stop: threading.Event, console: Console) -> list[Made]:
    """Make what is missing; returns what became of every seed so far. Raises `ConfigError`, `DatasetError`,
    `ChildFailedError`."""
    if not options.lead_latency or not all(0.0 <= late_s <= 1.0 for late_s in options.lead_latency):
        raise ConfigError("--lead-latency: expected one or more numbers from 0 to 1 (seconds)")
    rig = load_rig(options.rig)
    if rig.twin is None:
        raise ConfigError(f"--rig {options.rig}: expected a simulated rig, this one is real; use launch/collect")
    tasks = [load_task(task) for task in options.tasks]
    size = _picture_size(rig, options.height)
    prompts: dict[str, str] = {task.target_object: task.prompt for task in tasks}
    with ExitStack() as stack:
        dataset = stack.enter_context(Dataset(options.output, dataset_spec(rig, size)))
        manifest = options.output / MANIFEST_NAME
        made = read_manifest(manifest)
        if sum(each.success for each in made) >= options.episodes:
            return made
        done = {each.seed for each in made}
        first = next(seed for seed in range(options.seed, options.seed + len(done) + 1) if seed not in done)
        spool = options.output / ".spool"
        spool.mkdir(exist_ok=True)
        leading: tuple[str, ...] = ()
        if options.lead is not None:
            policy = stack.enter_context(serving(options.lead, log_path=spool / "policy.log"))
            policy.wait_until_ready(stop)
            latencies = map(str, options.lead_latency)
            leading = ("--lead", policy.url, "--rig", options.rig, "--lead-latency", *latencies)
        workers = [
            Child(
                f"demonstration worker {number}",
                module="teleop.demonstration_worker",
                args=[
                    *("--spool", str(spool), "--first", str(first + number), "--stride", str(options.workers)),
                    *("--tasks", *prompts, "--height", str(size.height), "--width", str(size.width)),
                    *leading,
                ],
                log_path=spool / f"worker-{number}.log",
                environment={"MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl"), "LP_NUM_THREADS": "1"},
            )
            for number in range(options.workers)
        ]
        try:
            with _progress(console) as bar:
                shown = bar.add_task("demonstrations", total=options.episodes, completed=sum(m.success for m in made))
                for each in _finished(spool, first, workers, stop):
                    commit(each, spool, dataset, prompt=prompts[each.task])
                    made.append(each)
                    append_line(manifest, {name: getattr(each, name) for name in Made.__dataclass_fields__})
                    bar.update(shown, completed=sum(m.success for m in made))
                    if sum(m.success for m in made) >= options.episodes:
                        break
        finally:
            for worker in workers:
                worker.stop()
    if not stop.is_set():
        shutil.rmtree(spool, ignore_errors=True)
    return made


def read_manifest(path: Path) -> list[Made]:
    """What became of the seeds so far."""
    return [Made.from_json(plain) for plain in read_lines(path)]


def _finished(spool: Path, first: int, workers: list[Child], stop: threading.Event) -> Iterator[Made]:
    """Demonstrations in the order of their seeds, as they appear."""
    seed = first
    while not stop.is_set():
        path = spool / f"{seed}.json"
        if path.exists():
            yield Made.from_json(json.loads(path.read_text(encoding="utf-8")))
            path.unlink(missing_ok=True)
            seed += 1
            continue
        for worker in workers:
            worker.check()
        stop.wait(_POLL_S)


def commit(made: Made, spool: Path, dataset: Dataset, *, prompt: str) -> None:
    """The parts of a demonstration as episodes of the data set. What a crash left half done is done again."""
    for number in range(len(made.parts)):
        source_id = f"demonstration-{made.seed}-{number}"
        stem = f"{made.seed}-{number}"
        rows_path = spool / f"{stem}.npz"
        if source_id in dataset.sources:
            continue
        with np.load(rows_path) as rows:
            tick = rows["tick"]
            time_ns = made.seed * 3600 * NS_PER_S + tick * NS_PER_S // form.FPS
            columns = {form.STATE_KEY: rows["state"], form.ACTION_KEY: rows["action"], form.TIME_KEY: time_ns}
            histograms = {}
            for camera, target in dataset.video_files().items():
                columns[f"{form.CAPTURE_PREFIX}{camera}"] = time_ns
                histograms[camera] = PictureHistogram(rows[f"histogram_{camera}"], pictures=len(tick))
                target.parent.mkdir(parents=True, exist_ok=True)
                film = spool / f"{stem}-{camera}.mp4"
                # A crash between two cameras has left this one's film where it belongs.
                if film.exists() or not target.exists():
                    film.replace(target)
            write_records(dataset.root / SCENES_PATH.format(episode=dataset.episodes), rows["scene"])
        source = {
            "source_id": source_id,
            "group": f"demonstration-{made.seed}",
            "label": "success",
            "operator": "scripted teacher",
        }
        source |= {"rig": dataset.spec.rig_name, "software": dataset.spec.software}
        dataset.commit(columns, task=prompt, histograms=histograms, source=source)
        rows_path.unlink()


def _picture_size(rig: RigConfig, height: int) -> PictureSize:
    """Even sides, in the shape of the rig's cameras. Raises `ConfigError`."""
    shapes = {(camera.height, camera.width) for camera in rig.cameras.values()}
    (full_height, full_width) = next(iter(shapes))
    width = round(height * full_width / full_height / 2) * 2
    if len(shapes) > 1 or height % 2 or not 32 <= height <= full_height:
        raise ConfigError(
            f"--height: expected an even number from 32 to {full_height} and cameras of one size, got {height}"
        )
    return PictureSize(height=height, width=width)


def dataset_spec(rig: RigConfig, size: PictureSize) -> DatasetSpec:
    """What a data set of that simulated rig's demonstrations holds."""
    cameras: dict[str, dict[str, Any]] = {}
    for camera in CameraName:
        optics = intrinsics(camera, height=size.height, width=size.width)
        names = ("fx", "fy", "cx", "cy", "width", "height")
        cameras[camera.label] = {"backend": "twin", "intrinsics": {name: getattr(optics, name) for name in names}}
    return DatasetSpec(
        rig_name=rig.name,
        action=ActionChoice.JOINTS,
        codec=VideoCodec.H264,
        sizes={camera.label: size for camera in CameraName},
        rig=rig.model_dump(mode="json"),
        cameras=cameras,
        license="apache-2.0",
        software=software_version(),
    )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )


def _table(made: list[Made]) -> Table:
    table = Table(title="demonstrations")
    for name in ("task", "succeeded", "tried", "rows", "median s", "failures"):
        table.add_column(name, justify="left" if name in ("task", "failures") else "right")
    for task in sorted({each.task for each in made}):
        here = [each for each in made if each.task == task]
        good = [each for each in here if each.success]
        seconds = float(np.median([each.ticks for each in good])) / form.FPS if good else float("nan")
        flaws = Counter(flaw for each in here if not each.success for flaw in each.flaws)
        listed = ", ".join(f"{flaw} {count}" for flaw, count in flaws.most_common())
        rows = sum(sum(each.parts) for each in good)
        table.add_row(task, str(len(good)), str(len(here)), str(rows), f"{seconds:.1f}", listed)
    return table


def _result(options: Arguments, made: list[Made]) -> dict[str, Any]:
    good = [each for each in made if each.success]
    return {
        "dataset": str(options.output),
        "demonstrations": len(good),
        "tried": len(made),
        "episodes": sum(len(each.parts) for each in good),
        "rows": sum(sum(each.parts) for each in good),
        "success": {task: sum(e.success for e in made if e.task == task) for task in sorted({e.task for e in made})},
    }


if __name__ == "__main__":
    sys.exit(main())
