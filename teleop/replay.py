"""The command behind `launch/replay`: a recorded episode driven again, and how closely the arm followed."""

import sys
import threading
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from configs.report import write_json
from configs.schema import RigConfig, available, load_rig, load_task
from robot.clock import NS_PER_S, MonotonicClock, Ticker, seconds_to_ns
from robot.daemon import RobotClient
from robot.daemon.errors import RobotdError
from robot.motion.waypoints import Waypoints
from robot.processes import stop_event_on_signals
from robot.recording import Episode, EpisodeError, EpisodeRequest, Label, Outcome, RecorderClient
from robot.recording.meta import MetaError
from robot.recording.records import ActionStage, make_step
from robot.ring import RingReader
from robot.rollout.episode import hold_when
from robot.rollout.main import set_up_logging
from robot.rollout.session import enable
from robot.rollout.trials import TwinTrials
from robot.runtime import ring_name
from robot.state import MachineState
from robot.station import Station
from teleop.collect import EXIT_STOPPED, EXPECTED_ERRORS
from teleop.episode_loop import wait_until_still
from teleop.path import ReplayPath, episode_path
from teleop.recorder_process import recording
from teleop.tracking_error import TrackingError, tracking_error

CHUNK_S = 1.0
LEAD_S = 0.25
SETTLE_S = 0.5
_PICKUP_S = 0.5


class ReplayError(RuntimeError):
    """The replay could not be carried through. Says what stopped it."""


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
    """Folder of a closed raw episode."""
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
    console = Console(highlight=False)
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
    episode = Episode(options.episode)
    path = episode_path(episode, stage=ActionStage(options.source.value)).slowed(options.speed)
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
        console.print(f"going slowly to the first posture; then {path.seconds:.1f} s of {episode.id}", markup=False)
        try:
            with hold_when(stop, robot):
                robot.move_to(path.joints_rad[0], gripper=float(path.gripper[0]))
        except RobotdError:
            if not stop.is_set():
                raise
            return None, Counter()
        wait_until_still(states)
        _restore_scene(episode, rig=rig, console=console, stop=stop)
        if recorder is not None:
            request = episode.meta.description.request
            recorder.start_episode(
                EpisodeRequest(task=request.task, prompt=request.prompt, extra={"replay_of": episode.id})
            )
        player = _Player(path, rig=rig, robot=robot, states=states, recorder=recorder)
        with Progress(console=console, transient=True) as bar:
            player.run(stop=stop, bar=bar)
        if recorder is not None:
            recorder.finish(Outcome(Label.ABORTED, "operator") if stop.is_set() else Outcome(Label.UNCONFIRMED))
        return player.error(), player.events


class _Player:
    """Streams a path a second ahead at most, so that a stop is never far behind, and notes where the arm was."""

    def __init__(
        self,
        path: ReplayPath,
        *,
        rig: RigConfig,
        robot: RobotClient,
        states: RingReader,
        recorder: RecorderClient | None,
    ) -> None:
        self.events: Counter[str] = Counter()
        self._path = path
        self._robot, self._states, self._recorder = robot, states, recorder
        self._period_ns = round(NS_PER_S / rig.control_rate_hz)
        self._times: list[int] = []
        self._measured: list[np.ndarray] = []
        self._start_ns = 0

    def run(self, *, stop: threading.Event, bar: Progress) -> None:
        """Raises `ReplayError` when the guard takes nothing of what comes next, or when the arm stops following."""
        task = bar.add_task("replaying", total=self._path.seconds)
        clock = MonotonicClock()
        start_ns = self._start_ns = clock.now_ns() + seconds_to_ns(LEAD_S)
        end_ns = start_ns + int(self._path.t_ns[-1])
        ticker = Ticker(self._period_ns, clock)
        sent_to_ns = start_ns
        try:
            while not stop.is_set():
                deadline_ns = ticker.wait()
                now_ns = clock.now_ns()
                if now_ns > end_ns + seconds_to_ns(SETTLE_S):
                    return
                self._note(deadline_ns, now_ns)
                if sent_to_ns < end_ns and now_ns + seconds_to_ns(CHUNK_S / 2) > sent_to_ns:
                    sent_to_ns = self._send(now_ns)
                bar.update(task, completed=max(0.0, (now_ns - start_ns) / NS_PER_S))
        finally:
            self._robot.hold()

    def error(self) -> TrackingError | None:
        """How closely the arm followed what was driven so far."""
        times = np.array(self._times, dtype=np.int64) - self._start_ns
        during = times >= 0
        if np.count_nonzero(during) < 2:
            return None
        return tracking_error(self._path, times_ns=times[during], joints_rad=np.array(self._measured)[during])

    def _send(self, now_ns: int) -> int:
        """Offer the waypoints of the next second; the time of the last one (monotonic ns)."""
        t_ns = self._path.t_ns + self._start_ns
        first = int(np.searchsorted(t_ns, now_ns + seconds_to_ns(LEAD_S / 2)))
        last = int(np.searchsorted(t_ns, now_ns + seconds_to_ns(LEAD_S + CHUNK_S), side="right"))
        chosen = slice(first, max(last, first + 1))
        reply = self._robot.send_waypoints(
            Waypoints(
                t_ns=t_ns[chosen],
                joints_rad=self._path.joints_rad[chosen],
                gripper=self._path.gripper[chosen],
                expiry_ns=int(t_ns[chosen][-1]) + seconds_to_ns(SETTLE_S),
                source_id=max(1, first),
            )
        )
        self.events.update(reply.events)
        if reply.accepted == 0:
            raise ReplayError(
                f"robotd takes nothing of the path from {(now_ns - self._start_ns) / NS_PER_S:.1f} s on: {reply.detail}"
            )
        return int(t_ns[chosen][-1])

    def _note(self, deadline_ns: int, now_ns: int) -> None:
        state = self._states.latest()
        if state is None:
            raise ReplayError("robotd publishes no state any more")
        value = state.value
        moving = now_ns > self._start_ns + seconds_to_ns(_PICKUP_S)
        machine_state = MachineState(int(value["machine_state"]))
        if machine_state is MachineState.FAULT or (
            moving and machine_state not in (MachineState.STREAMING, MachineState.HOLDING)
        ):
            raise ReplayError(f"robotd has stopped following: it is {machine_state.name}, see its fault and log")
        if not self._times or state.capture_ns > self._times[-1]:
            self._times.append(state.capture_ns)
            self._measured.append(value["joints_rad"].copy())
        if self._recorder is None:
            return
        joints, gripper = self._path.at(now_ns - self._start_ns)
        stages = {
            f"{stage}_{name}": content
            for stage in ("requested", "guarded", "sent")
            for name, content in (("joints_rad", joints), ("gripper", gripper))
        }
        self._recorder.step(
            make_step(
                tick=len(self._times),
                deadline_ns=deadline_ns,
                wake_ns=now_ns,
                observation_ns=now_ns,
                target_ns=now_ns,
                engaged=1,
                measured_joints_rad=value["joints_rad"],
                measured_gripper=float(value["gripper"]),
                **stages,
            )
        )


def _restore_scene(episode: Episode, *, rig: RigConfig, console: Console, stop: threading.Event) -> None:
    """On a twin, put the objects where they were when the episode began; elsewhere a person has to."""
    request = episode.meta.description.request
    seed = request.extra.get("seed")
    if rig.twin is None or not isinstance(seed, int) or request.task not in available("tasks"):
        console.print("The scene stays as it is: see to it that nothing is in the arm's way.")
        return
    with TwinTrials(rig) as trials:
        trials.reset(load_task(request.task), seed=seed, stop=stop)


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
