"""One episode from start pose to verdict, with its files: ``steps.jsonl``, ``video.mp4``, ``episode.json``."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from configs.report import write_json
from configs.schema import RigConfig, TaskConfig
from robot.clock import NS_PER_S
from robot.daemon import RobotClient
from robot.daemon.errors import MoveRefusedError, RobotdError
from robot.processes import Child
from robot.rollout.chunks import ChunkScheduler, SchedulerConfig
from robot.rollout.client import EndReason, EpisodeEnd, RolloutLoop, wait_until_still
from robot.rollout.observation import ObservationReader
from robot.rollout.pacing import Pacing
from robot.rollout.policy_link import PolicyLink
from robot.rollout.recorded import RecordedEpisode
from robot.rollout.results import EpisodeResult
from robot.rollout.steps import StepLog
from robot.rollout.telemetry import Phase, RolloutTelemetry
from robot.rollout.trials import Trials

FILM_READY_S = 10.0
_LOG = logging.getLogger("rollout")


class EpisodeRunner:
    """Runs episodes on a rig that is up: the arm enabled, the lease ours, the policy server connected."""

    def __init__(
        self,
        *,
        rig: RigConfig,
        rig_argument: str,
        robot: RobotClient,
        observations: ObservationReader,
        link: PolicyLink,
        trials: Trials,
        scheduling: SchedulerConfig,
        stop: threading.Event,
        telemetry: RolloutTelemetry,
        pacing: Pacing,
        recorded: RecordedEpisode | None = None,
    ) -> None:
        self._recorded = recorded
        self._telemetry = telemetry
        self._pacing = pacing
        self._rig = rig
        self._rig_argument = rig_argument
        self._robot = robot
        self._observations = observations
        self._link = link
        self._trials = trials
        self._scheduling = scheduling
        self._stop = stop
        self.loop: RolloutLoop | None = None

    def run(self, task: TaskConfig, *, seed: int, time_limit_s: float, folder: Path) -> EpisodeResult:
        """One episode; its files are in ``folder``. Raises `RobotdError` if the arm does not get to its start."""
        self._telemetry.tell(phase=Phase.APPROACH.value, folder="")
        self._go_to_start()
        self._telemetry.tell(phase=Phase.SCENE.value)
        self._trials.reset(task, seed=seed, stop=self._stop)
        folder.mkdir(parents=True, exist_ok=True)
        # What a crash leaves behind says that this is no result.
        write_json(
            folder / "episode.json", {"state": "running", **EpisodeResult(task.name, seed, EndReason.STOPPED).to_json()}
        )
        self._link.prompt = task.prompt
        counted_before = self._robot.guard_events()
        film = folder / "video.mp4"
        with StepLog(folder / "steps.jsonl") as log, self._film(film):
            tap = None
            if self._recorded is not None:
                tap = self._recorded.begin(
                    task,
                    seed=seed,
                    mode=self._scheduling.mode.value,
                    period_ns=round(NS_PER_S / self._rig.control_rate_hz),
                )
            loop = self.loop = RolloutLoop(
                observations=self._observations,
                link=self._link,
                arm=self._robot,
                scheduler=ChunkScheduler(self._scheduling),
                log=log,
                rate_hz=self._rig.control_rate_hz,
                done=self._trials.done,
                telemetry=self._telemetry,
                pacing=self._pacing,
                recording=tap,
            )
            self._trials.begin(task)
            self._telemetry.tell(phase=Phase.RUNNING.value, folder=str(folder))
            end = loop.run(time_limit_s=time_limit_s, stop=self._stop)
            if self._recorded is not None:
                self._recorded.close(aborted=end.reason.name.lower() if end.reason.aborted else "")
        self._telemetry.tell(phase=Phase.VERDICT.value, ended=end.reason.value, detail=end.detail)
        wait_until_still(self._observations)
        verdict, progress = self._trials.end(stop=self._stop)
        success = verdict and end.reason.in_order
        if self._recorded is not None and not end.reason.aborted:
            self._recorded.label(success=success)
        result = self._result(
            task,
            seed=seed,
            end=end,
            loop=loop,
            success=success,
            progress=progress,
            counted_before=counted_before,
            film=film,
        )
        write_json(folder / "episode.json", {"state": "closed", **result.to_json()})
        return result

    def _go_to_start(self) -> None:
        start = self._rig.start
        with hold_when(self._stop, self._robot):
            try:
                self._robot.move_to(start.joints_rad, gripper=start.gripper)
            except MoveRefusedError as error:
                # The way to the start can lead through the table. A twin's arm may be lifted over; a real one may not.
                if not self._trials.place_arm():
                    raise
                _LOG.warning("the arm was put to its start pose: %s", error)
                self._robot.move_to(start.joints_rad, gripper=start.gripper)
        wait_until_still(self._observations)
        away_rad = float(np.max(np.abs(self._robot.state().joints_rad - np.array(start.joints_rad))))
        if away_rad > start.tolerance_rad:
            raise RobotdError(
                f"the arm did not reach its start pose: expected within {start.tolerance_rad:g} rad, a joint is "
                f"{away_rad:.3f} rad away"
            )

    @contextmanager
    def _film(self, path: Path) -> Iterator[None]:
        """A process films the cameras into ``path`` meanwhile. An episode without a film is still an episode."""
        child = Child(
            "video",
            module="robot.rollout.video",
            args=("--rig", self._rig_argument, "--output", str(path)),
            log_path=path.with_suffix(".log"),
        )
        ready = path.with_suffix(".ready")
        try:
            deadline_s = time.monotonic() + FILM_READY_S
            while child.running and not ready.exists() and time.monotonic() < deadline_s:
                time.sleep(0.02)
            yield
        finally:
            if child.stop() != 0:
                code = child.process.returncode
                _LOG.warning("the film of this episode is incomplete (exit code %s); see %s", code, child.log_path)
            ready.unlink(missing_ok=True)

    def _result(
        self,
        task: TaskConfig,
        *,
        seed: int,
        end: EpisodeEnd,
        loop: RolloutLoop,
        success: bool,
        progress: str,
        counted_before: dict[str, int],
        film: Path,
    ) -> EpisodeResult:
        statistics, schedule = loop.statistics, loop.scheduler.statistics
        report = film.with_suffix(".json")
        filmed = json.loads(report.read_text()) if report.exists() else {"frames": 0, "dropped": 0}
        return EpisodeResult(
            task=task.name,
            seed=seed,
            reason=end.reason,
            detail=self._explained(end),
            success=success,
            seconds=statistics.seconds,
            ticks=statistics.ticks,
            missed_ticks=statistics.missed_ticks,
            underruns=schedule.underruns,
            holds=statistics.holds,
            chunks=schedule.chunks,
            failed_requests=schedule.failed_requests,
            late_waypoints=schedule.late_waypoints,
            dropped_chunks=schedule.dropped_chunks,
            guard_events=self._newly_counted(counted_before),
            rejections=dict(statistics.rejections),
            periods_ms=[period / 1e6 for period in statistics.periods_ns],
            round_trip_ms=statistics.round_trip_ms,
            observation_to_action_ms=statistics.observation_to_action_ms,
            seam_jumps_rad=schedule.seam_jumps_rad,
            progress=progress,
            video=str(film) if film.exists() else "",
            video_frames=filmed["frames"],
            video_dropped=filmed["dropped"],
        )

    def _newly_counted(self, before: dict[str, int]) -> dict[str, int]:
        try:
            after = self._robot.guard_events()
        except RobotdError:
            return {}
        return {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}

    def _explained(self, end: EpisodeEnd) -> str:
        """The end's detail, with robotd's own words for a fault."""
        if end.reason is not EndReason.FAULT:
            return end.detail
        try:
            return self._robot.status().fault_text or end.detail
        except RobotdError as error:
            return f"{end.detail}; {error}"


@contextmanager
def hold_when(stop: threading.Event, robot: RobotClient) -> Iterator[None]:
    """While the block runs a long motion, ``stop`` makes the arm hold; the motion then ends with its own error."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            if stop.is_set():
                try:
                    robot.hold()
                except RobotdError as error:
                    _LOG.error("robotd did not take the hold: %s", error)
                return

    watcher = threading.Thread(target=watch, name="hold on stop", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
