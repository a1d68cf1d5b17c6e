"""The 15 Hz client: one episode of a policy on a rig.

Each tick, on an absolute deadline: assemble an observation, perhaps ask for a chunk, note what happened. A chunk is
handed to robotd when it comes, which may be between ticks. Ticks begin shortly after pictures do. Nothing in a tick
waits for a camera, for the policy server or for a disk.

Whatever ends the episode goes through one path: robotd is told to hold, which decelerates the arm. While the episode
runs, the arm also stops by itself when chunks stop coming, since waypoints expire with their chunk.
"""

import gc
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from robot.clock import NS_PER_S, Clock, MonotonicClock, Ticker, seconds_to_ns
from robot.daemon.errors import RobotdError
from robot.faults import Fault
from robot.motion.waypoints import Waypoints
from robot.priority import CLIENT_PRIORITY, prefer_all_threads
from robot.ring import Sample
from robot.rollout.alignment import after_frames
from robot.rollout.chunks import ChunkScheduler
from robot.rollout.observation import Observation, ObservationReader, Rejection
from robot.rollout.pacing import Pacing
from robot.rollout.policy_link import Chunk, Failure, LinkState, PolicyLink
from robot.rollout.recorded import StepTap
from robot.rollout.shown import shown_chunk, shown_tick
from robot.rollout.steps import ChunkRecord, StepLog, StepRecord
from robot.rollout.telemetry import RolloutTelemetry
from robot.state import MachineState

HOLD_AFTER_REJECTIONS = 3
"""So many ticks in a row without an observation, and the arm is told to hold instead of going on blind."""
CAMERA_DEAD_AFTER_S = 2.0
"""A camera without any new frame for so long ends the episode: somebody has to look at it."""
BLIND_FOR_S = 10.0
"""So does so long a time without an observation although frames do come, too late or too far apart."""
MAX_REFUSED_CHUNKS = 10
"""So many chunks in a row that the guard refused whole, and the policy is taken for unusable on this rig."""
STATE_LIMIT_NS = seconds_to_ns(0.5)
REST_BEFORE_TICK_NS = seconds_to_ns(0.004)
"""Closer than this to the next tick, a chunk is left to it: the tick is to be on time."""
_LOG = logging.getLogger("rollout")


class EndReason(Enum):
    """Why an episode ended. Some are results, if only of a policy that failed; the others abort it."""

    SUCCESS = "success"
    TIME_LIMIT = "time limit"
    STOPPED = "stopped by the operator"
    COLLISION = "the arm ran into something"
    FAULT = "robot fault"
    ROBOTD_LOST = "robotd does not answer"
    REFUSED_BY_ROBOTD = "robotd refused"
    CAMERA = "no usable observations"
    POLICY_CHANGED = "another policy on the server"
    NEVER_STARTED = "the policy never got to move the arm"
    GUARD = "the guard refuses the policy's actions"

    @property
    def aborted(self) -> bool:
        """True when the episode says nothing about the policy."""
        return self not in (EndReason.SUCCESS, EndReason.TIME_LIMIT, EndReason.GUARD, EndReason.COLLISION)

    @property
    def in_order(self) -> bool:
        """False where no verdict on the scene makes it a success: an arm that hits the table on its way back from a
        task that is done has failed."""
        return self in (EndReason.SUCCESS, EndReason.TIME_LIMIT)


class WaypointReply(Protocol):
    """What robotd made of waypoints."""

    @property
    def accepted(self) -> int: ...
    @property
    def events(self) -> dict[str, int]: ...
    @property
    def detail(self) -> str: ...


class ArmCommands(Protocol):
    """What the loop tells robotd; `robot.daemon.client.RobotClient` does it."""

    def send_waypoints(self, waypoints: Waypoints) -> WaypointReply: ...
    def hold(self) -> object: ...


@dataclass
class EpisodeStatistics:
    """How the loop ran. Periods and work are per tick; round trips and ages per chunk."""

    ticks: int = 0
    missed_ticks: int = 0
    seconds: float = 0.0
    periods_ns: list[int] = field(default_factory=list)
    work_ms: list[float] = field(default_factory=list)
    round_trip_ms: list[float] = field(default_factory=list)
    observation_to_action_ms: list[float] = field(default_factory=list)
    rejections: Counter[str] = field(default_factory=Counter)
    guard_events: Counter[str] = field(default_factory=Counter)
    holds: int = 0


@dataclass(frozen=True)
class EpisodeEnd:
    """Why it ended, in an operator's words."""

    reason: EndReason
    detail: str


class RolloutLoop:
    """Runs one episode. ``done`` is asked each tick whether the task is solved and must return at once.

    ``telemetry`` is shown what happens, ``recording`` keeps it, ``pacing`` may keep the loop from asking for chunks.
    """

    def __init__(
        self,
        *,
        observations: ObservationReader,
        link: PolicyLink,
        arm: ArmCommands,
        scheduler: ChunkScheduler,
        log: StepLog,
        rate_hz: float,
        done: Callable[[], bool],
        clock: Clock | None = None,
        telemetry: RolloutTelemetry | None = None,
        pacing: Pacing | None = None,
        recording: StepTap | None = None,
    ) -> None:
        self.statistics = EpisodeStatistics()
        self._recording = recording
        self._telemetry = telemetry
        self._pacing = pacing or Pacing()
        self.scheduler = scheduler
        self._observations = observations
        self._link = link
        self._arm = arm
        self._log = log
        self._period_ns = round(NS_PER_S / rate_hz)
        self._done = done
        self._clock = clock or MonotonicClock()
        self._blind_since_ns: int | None = None
        self._blind_ticks = 0
        self._refused_in_a_row = 0
        self._note: str | None = None
        self._frame_age_ms: float | None = None
        self._end: EpisodeEnd | None = None
        self._ticker: Ticker | None = None
        self._taken: tuple[ChunkRecord | None, Failure | None] = (None, None)

    @property
    def period_s(self) -> float:
        """The control period."""
        return self._period_ns / NS_PER_S

    def run(self, *, time_limit_s: float, stop: threading.Event) -> EpisodeEnd:
        """Run until the task is done, the time is over, ``stop`` is set or something is wrong; the arm then holds."""
        # Threads of libraries too: one that loses its core while it holds the interpreter would stop the loop.
        prefer_all_threads(CLIENT_PRIORITY)
        gc.collect()
        gc.freeze()
        gc.disable()
        start_ns = after_frames(self._observations, self._clock, tick_ns=self._period_ns)
        # A picture or a reply from before the episode is no part of it.
        self.scheduler.forget_path(start_ns)
        paused_before_ns = self._pacing.paused_ns(start_ns)
        ticker = self._ticker = Ticker(self._period_ns, self._clock, start_ns=start_ns, sleep=self._sleep_until)
        try:
            while self._end is None:
                deadline_ns = ticker.wait()
                wake_ns = self._clock.now_ns()
                paused_ns = self._pacing.paused_ns(wake_ns) - paused_before_ns
                if stop.is_set():
                    self._finish(EndReason.STOPPED, "")
                elif wake_ns - start_ns - paused_ns >= seconds_to_ns(time_limit_s):
                    self._time_is_over(time_limit_s)
                elif self._done():
                    self._finish(EndReason.SUCCESS, "")
                else:
                    self._tick(deadline_ns, wake_ns)
                self._write_what_is_left(deadline_ns, wake_ns)
        except RobotdError as error:
            self._finish(EndReason.REFUSED_BY_ROBOTD, str(error))
        finally:
            # Also out of an exception: first the arm, then everything else.
            self._hold_at_the_end()
            gc.enable()
            gc.unfreeze()
            self._collect(ticker, start_ns)
        assert self._end is not None
        return self._end

    def _time_is_over(self, time_limit_s: float) -> None:
        if self.scheduler.statistics.chunks:
            self._finish(EndReason.TIME_LIMIT, f"{time_limit_s:g} s")
            return
        schedule = self.scheduler.statistics
        blind = "".join(f", {name} at {count} ticks" for name, count in self.statistics.rejections.most_common(2))
        self._finish(
            EndReason.NEVER_STARTED,
            f"in {time_limit_s:g} s {schedule.requests} requests, {schedule.failed_requests} of them failed, "
            f"{schedule.dropped_chunks} chunks too late{blind}",
        )

    def _tick(self, deadline_ns: int, wake_ns: int) -> None:
        self._frame_age_ms = None
        state = self._observations.state()
        if state is None or wake_ns - state.receive_ns > STATE_LIMIT_NS:
            self._finish(EndReason.ROBOTD_LOST, "its state ring stands still")
            return
        if state.value["machine_state"] == MachineState.FAULT:
            fault = int(state.value["fault"])
            self._finish(EndReason.COLLISION if fault == Fault.COLLISION else EndReason.FAULT, f"fault {fault}")
            return
        seen = self._observations.read(wake_ns)
        chunk, failure = self._taken if self._taken != (None, None) else self._take_chunk(state)
        self._taken = (None, None)
        self._watch_sight(seen, wake_ns)
        if isinstance(seen, Observation):
            self._ask(seen, wake_ns)
        if not self._pacing.paused:
            self.scheduler.tick(self._clock.now_ns())
        if self._link.state is LinkState.REFUSED:
            self._finish(EndReason.POLICY_CHANGED, failure.text if failure else "")
        self._write(deadline_ns, wake_ns, state=state, seen=seen, chunk=chunk, failure=failure)

    def _sleep_until(self, deadline_ns: int) -> None:
        """To the next tick; a chunk that comes on the way is followed at once: it does not get better by waiting."""
        latest_ns = deadline_ns - REST_BEFORE_TICK_NS
        if self._link.state is LinkState.WAITING and self._taken == (None, None):
            came = self._link.wait(timeout_s=(latest_ns - self._clock.now_ns()) / NS_PER_S)
            state = self._observations.state() if came and self._clock.now_ns() < latest_ns else None
            if state is not None and state.value["machine_state"] != MachineState.FAULT:
                self._taken = self._take_chunk(state)
        self._clock.sleep_until_ns(deadline_ns)

    def _write_what_is_left(self, deadline_ns: int, wake_ns: int) -> None:
        """A chunk that came just before the tick that ended the episode was followed, too."""
        if self._taken == (None, None) or (state := self._observations.state()) is None:
            return
        chunk, failure = self._taken
        self._taken = (None, None)
        seen = self._observations.read(wake_ns)
        self._write(deadline_ns, wake_ns, state=state, seen=seen, chunk=chunk, failure=failure)

    def _take_chunk(self, state: Sample) -> tuple[ChunkRecord | None, Failure | None]:
        match self._link.poll():
            case None:
                return None, None
            case Failure() as failure:
                self.scheduler.failed()
                if failure.unusable:
                    self._hold("the policy's answer is unusable")
                return None, failure
            case Chunk() as chunk:
                return self._follow(chunk, state)

    def _follow(self, chunk: Chunk, state: Sample) -> tuple[ChunkRecord | None, Failure | None]:
        reply, seen_ns = chunk.reply, chunk.observation.time_ns
        try:
            waypoints = self.scheduler.accept(
                reply.actions,
                observation_time_ns=seen_ns,
                now_ns=self._clock.now_ns(),
                setpoint_rad=state.value["setpoint_rad"],
            )
        except ValueError as error:
            self.scheduler.failed()
            self._hold("the policy's answer is unusable")
            return None, Failure(str(error), unusable=True)
        self.statistics.round_trip_ms.append(reply.round_trip_ms)
        accepted, age_ms, events = 0, None, {}
        if waypoints is not None:
            answer = self._arm.send_waypoints(waypoints)
            events = answer.events
            self.statistics.guard_events.update(events)
            accepted = answer.accepted
            if accepted:
                age_ms = (self._clock.now_ns() - seen_ns) / 1e6
                self.statistics.observation_to_action_ms.append(age_ms)
            self._watch_refusals(accepted, answer.detail)
        late = self.scheduler.statistics.delay_ticks[-1] if waypoints is not None else 0
        shown = shown_chunk(chunk, waypoints, self.scheduler, late=late, accepted=accepted, age_ms=age_ms)
        if self._telemetry is not None:
            self._telemetry.chunk(shown)
        if self._recording is not None:
            self._recording.chunk(shown, events=events)
        return (
            ChunkRecord(
                observation_time_ns=seen_ns,
                round_trip_ms=reply.round_trip_ms,
                policy_ms=reply.policy_ms,
                observation_to_action_ms=age_ms,
                late_waypoints=late,
                accepted_waypoints=accepted,
                actions=reply.actions,
            ),
            None,
        )

    def _watch_refusals(self, accepted: int, detail: str) -> None:
        if accepted:
            self._refused_in_a_row = 0
            return
        self._refused_in_a_row += 1
        self._note = f"robotd took none of the chunk: {detail}"
        self.scheduler.forget_path(self._clock.now_ns())
        if self._refused_in_a_row >= MAX_REFUSED_CHUNKS:
            self._finish(EndReason.GUARD, f"{MAX_REFUSED_CHUNKS} chunks in a row; the last one: {detail}")

    def _watch_sight(self, seen: Observation | Rejection, now_ns: int) -> None:
        if isinstance(seen, Observation):
            self._blind_ticks, self._blind_since_ns = 0, None
            return
        self.statistics.rejections[seen.value] += 1
        self._blind_ticks += 1
        self._blind_since_ns = now_ns if self._blind_since_ns is None else self._blind_since_ns
        if self._blind_ticks == HOLD_AFTER_REJECTIONS:
            self._hold(f"no observation: {seen.value}")
        dead_s = self._observations.frame_age_ns(now_ns) / NS_PER_S
        self._frame_age_ms = 1e3 * dead_s
        blind_s = (now_ns - self._blind_since_ns) / NS_PER_S
        if min(dead_s, blind_s) > CAMERA_DEAD_AFTER_S:
            self._finish(EndReason.CAMERA, f"{seen.value}: a camera has delivered nothing for {dead_s:.1f} s")
        elif blind_s > BLIND_FOR_S:
            self._finish(EndReason.CAMERA, f"{seen.value} at each tick for {blind_s:.0f} s")

    def _ask(self, seen: Observation, now_ns: int) -> None:
        if self._link.state is not LinkState.IDLE or not self._pacing.permits():
            return
        if self.scheduler.wants_chunk(now_ns=now_ns, observation_time_ns=seen.time_ns):
            leftover = self.scheduler.leftover(observation_time_ns=seen.time_ns)
            if self._link.submit(seen, leftover=leftover):
                self.scheduler.asked(observation_time_ns=seen.time_ns)
                self._pacing.asked()

    def _hold(self, why: str) -> None:
        self._arm.hold()
        self.scheduler.forget_path(self._clock.now_ns())
        self.statistics.holds += 1
        self._note = f"hold: {why}"
        _LOG.info("hold: %s", why)

    def _finish(self, reason: EndReason, detail: str) -> None:
        if self._end is None:
            self._end = EpisodeEnd(reason, detail)

    def _hold_at_the_end(self) -> None:
        try:
            self._arm.hold()
        except RobotdError as error:
            # robotd holds by itself when the waypoints expire or this connection ends.
            _LOG.error("robotd did not take the final hold: %s", error)

    def _write(
        self,
        deadline_ns: int,
        wake_ns: int,
        *,
        state: Sample,
        seen: Observation | Rejection,
        chunk: ChunkRecord | None,
        failure: Failure | None,
    ) -> None:
        work_ms = (self._clock.now_ns() - wake_ns) / 1e6
        self.statistics.work_ms.append(work_ms)
        value = state.value
        record = StepRecord(
            tick=len(self.statistics.work_ms) - 1,
            deadline_ns=deadline_ns,
            wake_ns=wake_ns,
            work_ms=work_ms,
            observation_time_ns=seen.time_ns if isinstance(seen, Observation) else None,
            rejection=seen.value if isinstance(seen, Rejection) else None,
            frame_age_ms=self._frame_age_ms,
            link=self._link.state.value,
            failure=failure.text if failure else None,
            chunk=chunk,
            action=self.scheduler.committed(deadline_ns),
            joints_rad=value["joints_rad"],
            setpoint_rad=value["setpoint_rad"],
            gripper=float(value["gripper"]),
            machine_state=MachineState(int(value["machine_state"])).name,
            followed_observation_ns=int(value["source_id"]),
            note=self._note,
        )
        self._note = None
        self._log.write(record)
        if self._recording is not None:
            self._recording.tick(record, self.scheduler, state=value, seen=seen)
        if self._telemetry is not None:
            missed = self._ticker.statistics.missed if self._ticker is not None else 0
            self._telemetry.tick(
                shown_tick(
                    record,
                    self.scheduler,
                    missed=missed,
                    holds=self.statistics.holds,
                    paused=self._pacing.paused,
                )
            )

    def _collect(self, ticker: Ticker, start_ns: int) -> None:
        statistics = self.statistics
        statistics.ticks = len(statistics.work_ms)
        statistics.missed_ticks = ticker.statistics.missed
        statistics.periods_ns = list(ticker.statistics.periods_ns)
        statistics.seconds = (self._clock.now_ns() - start_ns) / NS_PER_S


def wait_until_still(observations: ObservationReader, *, timeout_s: float = 3.0, speed_rad_s: float = 0.02) -> bool:
    """Wait until no joint moves faster than ``speed_rad_s``; False if that does not happen in time."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        state = observations.state()
        if state is not None and abs(state.value["joint_speed_rad_s"]).max() < speed_rad_s:
            return True
        time.sleep(0.02)
    return False
