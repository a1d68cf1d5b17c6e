"""The command behind `launch/replay`: a recorded episode driven again, and how closely the arm followed."""

import sys
import threading
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from configs.report import job_console, write_json
from configs.schema import RigConfig, available, load_rig, load_task
from robot.daemon import RobotClient
from robot.daemon.errors import RobotdError
from robot.processes import stop_event_on_signals
from robot.recording import Episode, EpisodeError, EpisodeRequest, Label, Outcome
from robot.recording.meta import MetaError
from robot.recording.process import recording
from robot.recording.records import ActionStage
from robot.ring import RingReader
from robot.rollout.episode import hold_when
from robot.rollout.main import set_up_logging
from robot.rollout.session import enable
from robot.rollout.trials import TwinTrials
from robot.runtime import ring_name
from robot.station import Station
from teleop.collect import EXIT_STOPPED, EXPECTED_ERRORS
from teleop.episode_loop import wait_until_still
from teleop.guided_path import GUIDED_SUFFIX, load_take
from teleop.path import ReplayPath, episode_path
from teleop.player import PathPlayer, ReplayError
from teleop.tracking_error import TrackingError


class Source(Enum):
    """Which of the recorded actions is driven."""

    SENT = "sent"
    REQUESTED = "requested"
    MEASURED = "measured"


@dataclass(frozen=True)
class Arguments:
    """Drive a recorded episode again: slowly to its first posture, then in its own time; the gripper too. A twin's
    objects are put where they were; on a real rig you do that. Ctrl-C at any moment: the arm decelerates and holds."""

    episode: tyro.conf.Positional[Path]
    """Folder of a closed raw episode, or a path led by hand (guided/NAME.npz of launch/collect --device drag)."""
    rig: str = "twin"
    """Name of a rig in configs/rigs, or a path to a YAML file."""
    speed: float = 1.0
    """1 is the speed of the recording; at most 1.5. The rig's limits bind besides."""
    source: Source = Source.SENT
    """sent: what robotd was given. requested: before the guard. measured: where the arm was (a hand-guided path)."""
    record: Path | None = None
    """Record the replay as an episode into this folder: pictures without the operator in them."""
    reserve_gib: float = 3.0
    """Free disk space without which nothing is recorded."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the result to this file."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when the whole path was driven, 130 after Ctrl-C, 1 with a clear line otherwise."""
    options = tyro.cli(Arguments, args=arguments, prog="launch/replay", config=(tyro.conf.EnumChoicesFromValues,))
    console = job_console()
    set_up_logging()
    try:
        with stop_event_on_signals() as stop:
            error, events = replay(options, stop=stop, console=console)
            stopped = stop.is_set()
    except (*EXPECTED_ERRORS, EpisodeError, MetaError, ReplayError) as problem:
        print(f"launch/replay: {problem}", file=sys.stderr)
        return 1
    if error is not None:
        console.print(_table(error, events))
    if options.json is not None:
        found = None if error is None else asdict(error)
        write_json(
            options.json,
            {"ok": not stopped, "episode": str(options.episode), "tracking": found, "guard_events": dict(events)},
        )
    return EXIT_STOPPED if stopped else 0


def replay(options: Arguments, *, stop: threading.Event, console: Console) -> tuple[TrackingError | None, Counter[str]]:
    """Drive the path; the tracking error (None if nothing was driven) and the guard's events.

    Raises what `teleop.session.run_collection` raises, `EpisodeError`, `MetaError` and `ReplayError`.
    """
    if not 0.05 <= options.speed <= 1.5:
        raise ReplayError(f"--speed: expected 0.05 to 1.5, got {options.speed:g}")
    rig = load_rig(options.rig)
    original = _original(options)
    path = original.path.slowed(options.speed)
    logs = (options.record or Path("outputs") / "replay") / ".logs"
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as exits:
        exits.enter_context(Station(options.rig, log_dir=logs))
        robot = exits.enter_context(RobotClient.connect(rig, name="replay"))
        recorder = None
        if options.record is not None:
            recorder = exits.enter_context(
                recording(
                    rig,
                    rig_argument=options.rig,
                    directory=options.record,
                    log_path=logs / "recorder.log",
                    reserve_gib=options.reserve_gib,
                )
            )
        robot.acquire()
        enable(robot, stop=stop)
        states = exits.enter_context(RingReader.wait(ring_name(rig.name, "state"), timeout_s=5.0, with_sample=True))
        console.print(f"going slowly to the first posture; then {path.seconds:.1f} s of {original.name}", markup=False)
        try:
            with hold_when(stop, robot):
                robot.move_to(path.joints_rad[0], gripper=float(path.gripper[0]))
        except RobotdError:
            if not stop.is_set():
                raise
            return None, Counter()
        wait_until_still(states)
        _restore_scene(original, rig=rig, console=console, stop=stop)
        if recorder is not None:
            extra = {"replay_of": original.name} | ({} if original.seed is None else {"seed": original.seed})
            recorder.start_episode(EpisodeRequest(task=original.task, prompt=original.prompt, extra=extra))
        player = PathPlayer(path, rig=rig, robot=robot, states=states, recorder=recorder)
        with Progress(console=console, transient=True) as bar:
            bar_id = bar.add_task("replaying", total=path.seconds)

            def show(driven_s: float) -> bool:
                bar.update(bar_id, completed=driven_s)
                return True

            player.run(stop=stop, on_time=show)
        if recorder is not None:
            recorder.finish(Outcome(Label.ABORTED, "operator") if stop.is_set() else Outcome(Label.UNCONFIRMED))
        return player.error(), player.events


@dataclass(frozen=True, eq=False)
class _Original:
    """What is driven again: its name, what was done, the twin's scene (None: unknown), and its path."""

    name: str
    task: str
    prompt: str
    seed: int | None
    path: ReplayPath


def _original(options: Arguments) -> _Original:
    """Raises `EpisodeError` or `MetaError`."""
    if options.episode.suffix == GUIDED_SUFFIX:
        take = load_take(options.episode)
        return _Original(take.name, take.task, take.prompt, take.seed, take.path)
    episode = Episode(options.episode)
    request = episode.meta.description.request
    seed = request.extra.get("seed")
    path = episode_path(episode, stage=ActionStage(options.source.value))
    return _Original(episode.id, request.task, request.prompt, seed if isinstance(seed, int) else None, path)


def _restore_scene(original: _Original, *, rig: RigConfig, console: Console, stop: threading.Event) -> None:
    """On a twin, put the objects where they were when the episode began; elsewhere a person has to."""
    if rig.twin is None or original.seed is None or original.task not in available("tasks"):
        console.print("The scene stays as it is: see to it that nothing is in the arm's way.")
        return
    with TwinTrials(rig) as trials:
        trials.reset(load_task(original.task), seed=original.seed, stop=stop)


def _table(error: TrackingError, events: Counter[str]) -> Table:
    table = Table(title="Tracking")
    for column in ("", "rms", "largest"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("joints", f"{error.joint_rms_rad:.4f} rad", f"{error.joint_max_rad:.4f} rad")
    table.add_row("tool point", f"{1e3 * error.tool_rms_m:.1f} mm", f"{1e3 * error.tool_max_m:.1f} mm")
    table.add_row("tool point, lag taken out", f"{1e3 * error.tool_rms_without_lag_m:.1f} mm", "")
    table.add_row("lag", f"{1e3 * error.lag_s:.0f} ms", "")
    table.caption = "guard: " + (", ".join(f"{name} {count}" for name, count in events.items()) or "no objection")
    return table


if __name__ == "__main__":
    sys.exit(main())
