"""From action chunks to time-stamped waypoints: which chunk is followed when, and when the next one is asked for.

The time base: action k of a chunk is the posture to have *reached* at ``base + (k + 1) / fps``. An action recorded with
an observation is the target commanded at that instant, and it is reached one control period later; the in-process twin
steps in the same way. In ``async`` mode the base is the observation's capture time, so a chunk that took long to arrive
simply begins with waypoints that are in the past. Those are dropped; nothing is ever shifted. In ``sync`` mode the arm
has stood still since the observation, so the base is the moment the chunk arrives, and every action is carried out.

Everything here is a function of the times handed in: no clock, no sockets.
"""

from dataclasses import dataclass, field
from enum import Enum
from math import ceil
from typing import Any

import numpy as np

from policy_server.client import Continuity
from robot.clock import NS_PER_S
from robot.motion.waypoints import MIN_KNOT_GAP_NS, Waypoints

DELAY_MEMORY = 10
"""The expected delay is the longest of this many recent ones."""


class ExecutionMode(Enum):
    """How chunks follow each other."""

    SYNC = "sync"
    """Carry out the chunk, stop, look, ask, wait."""
    ASYNC = "async"
    """Ask for the next chunk while this one is carried out, and go over to it at the right tick."""


@dataclass(frozen=True)
class SchedulerConfig:
    """``replan_ticks``: async asks for a new chunk this often, sync carries out this many actions of each chunk.

    ``blend_ticks`` is the least number of waypoints over which the old path fades into the new one; a seam wider than
    ``max_seam_step_rad`` a tick and joint takes longer. ``fps`` is the rate of the actions in Hz. A waypoint due in
    less than ``lead_ns`` is late already: robotd has sent the arm beyond it.
    """

    mode: ExecutionMode
    fps: float
    horizon: int
    replan_ticks: int
    blend_ticks: int
    max_seam_step_rad: float
    lead_ns: int

    def __post_init__(self) -> None:
        if not 1 <= self.replan_ticks <= self.horizon:
            raise ValueError(
                f"replan_ticks: expected 1 to {self.horizon} (the policy's chunk length), got {self.replan_ticks}"
            )
        if self.blend_ticks < 0:
            raise ValueError(f"blend_ticks: expected 0 or more, got {self.blend_ticks}")
        if self.max_seam_step_rad <= 0.0:
            raise ValueError(f"max_seam_step_rad: expected more than 0, got {self.max_seam_step_rad}")


@dataclass
class ScheduleStatistics:
    """What happened to the chunks of an episode."""

    requests: int = 0
    failed_requests: int = 0
    chunks: int = 0
    late_waypoints: int = 0
    """Waypoints that were in the past when their chunk came: the price of the delay."""
    dropped_chunks: int = 0
    """Chunks of which nothing was left, or that came after a newer one."""
    underruns: int = 0
    """Ticks without any waypoint ahead, after the first chunk."""
    seam_jumps_rad: list[float] = field(default_factory=list)
    """Largest joint difference between old and new path where each chunk took over."""
    delay_ticks: list[int] = field(default_factory=list)
    """Actions of each chunk that were past on arrival."""


@dataclass(frozen=True)
class _Plan:
    """The path that robotd follows: times (n,) int64 ns and actions (n, 7).

    It begins when it was handed over, with what robotd still keeps of the path before.
    """

    times_ns: np.ndarray
    actions: np.ndarray

    @property
    def end_ns(self) -> int:
        return int(self.times_ns[-1])

    def joints_at(self, t_ns: np.ndarray) -> np.ndarray:
        """Joints (m, 6) at times (m,), linear between waypoints, held outside."""
        offsets = (self.times_ns - self.times_ns[0]).astype(np.float64)
        wanted = (np.asarray(t_ns) - self.times_ns[0]).astype(np.float64)
        return np.stack([np.interp(wanted, offsets, self.actions[:, joint]) for joint in range(6)], axis=1)

    def gripper_at(self, t_ns: np.ndarray) -> np.ndarray:
        """Gripper targets (m,): the newest one due, the first one before that."""
        index = np.searchsorted(self.times_ns, t_ns, side="right") - 1
        return self.actions[np.clip(index, 0, None), 6]

    def until(self, t_ns: int, *, now_ns: int) -> "_Plan":
        """What robotd keeps of this path when a new one begins at ``t_ns``."""
        ahead = self.times_ns[(self.times_ns > now_ns) & (self.times_ns < t_ns - MIN_KNOT_GAP_NS)]
        times_ns = np.concatenate([[now_ns], ahead])
        return _Plan(times_ns, np.column_stack([self.joints_at(times_ns), self.gripper_at(times_ns)]))

    def then(self, times_ns: np.ndarray, actions: np.ndarray) -> "_Plan":
        """This path, and after it the given one."""
        return _Plan(np.concatenate([self.times_ns, times_ns]), np.concatenate([self.actions, actions]))


@dataclass(frozen=True)
class Leftover:
    """Actions (n, 7) of the present path at the times of a new chunk's, of which the first ``committed`` will be
    carried out whatever comes."""

    actions: np.ndarray
    committed: int

    def arguments(self, continuity: Continuity | None) -> dict[str, Any]:
        """For `policy_server.client.PolicyClient.infer`: all of it to be guided by, else only what is committed."""
        if continuity is Continuity.GUIDED and len(self.actions):
            return {"action_prefix": self.actions, "committed": self.committed, "continuity": continuity}
        if continuity is not Continuity.GUIDED and self.committed:
            return {"action_prefix": self.actions[: self.committed], "continuity": continuity}
        return {}


class ChunkScheduler:
    """Decides when to ask and what to follow. One episode, one scheduler; one request in flight at a time."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.statistics = ScheduleStatistics()
        self._plan: _Plan | None = None
        self._in_flight = False
        self._last_asked_ns: int | None = None
        self._last_failed = False
        self._newer_than_ns = -1

    @property
    def end_ns(self) -> int | None:
        """When the present path ends (and expires), None when there is none."""
        return None if self._plan is None else self._plan.end_ns

    def wants_chunk(self, *, now_ns: int, observation_time_ns: int) -> bool:
        """Whether to ask now, with an observation of that time. Never twice with the same observation."""
        if self._in_flight or observation_time_ns <= self._newer_than_ns:
            return False
        if self._last_asked_ns is not None and observation_time_ns <= self._last_asked_ns:
            return False
        if self._plan is None:
            return True
        if self.config.mode is ExecutionMode.SYNC:
            return now_ns >= self._plan.end_ns and observation_time_ns >= self._plan.end_ns
        if now_ns >= self._plan.end_ns or self._last_asked_ns is None or self._last_failed:
            return True
        # Half a period of tolerance: the cameras' period is the control period only on average.
        waited_ns = observation_time_ns - self._last_asked_ns
        return waited_ns >= (self.config.replan_ticks - 0.5) * self._period_ns

    def asked(self, *, observation_time_ns: int) -> None:
        """A request with an observation of that time is on its way."""
        self.statistics.requests += 1
        self._in_flight = True
        self._last_failed = False
        self._last_asked_ns = observation_time_ns

    def failed(self) -> None:
        """The request in flight brought nothing. The next one takes a fresh observation."""
        self.statistics.failed_requests += 1
        self._in_flight = False
        self._last_failed = True

    def leftover(self, *, observation_time_ns: int) -> Leftover:
        """What a chunk from this observation would find on its way: the present path, as far as it goes. Committed is
        what is carried out while the chunk is awaited: the longest delay of the recent ones."""
        expected = max(self.statistics.delay_ticks[-DELAY_MEMORY:], default=0)
        if self._plan is None or self.config.mode is ExecutionMode.SYNC:
            return Leftover(np.empty((0, 7)), 0)
        times_ns = self._times_ns(observation_time_ns, count=self.config.horizon)
        times_ns = times_ns[times_ns <= self._plan.end_ns]
        actions = np.column_stack([self._plan.joints_at(times_ns), self._plan.gripper_at(times_ns)])
        return Leftover(actions, min(expected, len(actions)))

    def accept(
        self, actions: np.ndarray, *, observation_time_ns: int, now_ns: int, setpoint_rad: np.ndarray
    ) -> Waypoints | None:
        """Waypoints for robotd from a chunk (horizon, 7) that has just arrived; None if nothing of it can be used.

        ``setpoint_rad`` (6,) is where robotd holds when there is no path to fade from. The waypoints expire with the
        last of them; their source id is the observation's time. Raises ValueError for a chunk of another shape or with
        numbers that are not finite.
        """
        self._check(actions)
        self._in_flight = False
        if observation_time_ns <= self._newer_than_ns:
            self.statistics.dropped_chunks += 1
            return None
        if self.config.mode is ExecutionMode.SYNC:
            actions = actions[: self.config.replan_ticks]
            times_ns = self._times_ns(now_ns, count=len(actions))
        else:
            times_ns = self._times_ns(observation_time_ns, count=len(actions))
        late = int(np.searchsorted(times_ns, now_ns + self.config.lead_ns, side="left"))
        self.statistics.late_waypoints += late
        self.statistics.delay_ticks.append(late)
        if late == len(times_ns):
            self.statistics.dropped_chunks += 1
            return None
        times_ns, actions = times_ns[late:], np.array(actions[late:], dtype=np.float64)
        old = self._plan if self._plan is not None and now_ns < self._plan.end_ns else None
        if old is None:
            old = _Plan(np.array([now_ns]), np.append(setpoint_rad, actions[0, 6])[None])
        actions[:, :6] = self._blended(actions[:, :6], old_rad=old.joints_at(times_ns))
        self._plan = old.until(int(times_ns[0]), now_ns=now_ns).then(times_ns, actions)
        self._newer_than_ns = observation_time_ns
        self.statistics.chunks += 1
        return Waypoints(
            t_ns=times_ns,
            joints_rad=actions[:, :6],
            gripper=actions[:, 6],
            expiry_ns=int(times_ns[-1]),
            source_id=observation_time_ns,
        )

    def tick(self, now_ns: int) -> None:
        """Once a control tick: counts an underrun when no waypoint is ahead although a chunk has come before."""
        if self.statistics.chunks and (self._plan is None or now_ns >= self._plan.end_ns):
            self.statistics.underruns += 1

    def forget_path(self, now_ns: int) -> None:
        """The arm was told to hold: what was planned is no longer followed, nor any chunk seen before ``now_ns``."""
        self._plan = None
        self._newer_than_ns = max(self._newer_than_ns, now_ns)

    def committed(self, t_ns: int) -> np.ndarray | None:
        """Action (7,) that the present path commands at ``t_ns``; None without a path or outside it."""
        if self._plan is None or not self._plan.times_ns[0] <= t_ns <= self._plan.end_ns:
            return None
        at = np.array([t_ns])
        return np.concatenate([self._plan.joints_at(at)[0], self._plan.gripper_at(at)])

    @property
    def _period_ns(self) -> float:
        return NS_PER_S / self.config.fps

    def _times_ns(self, base_ns: int, *, count: int) -> np.ndarray:
        return base_ns + np.rint(np.arange(1, count + 1) * self._period_ns).astype(np.int64)

    def _check(self, actions: np.ndarray) -> None:
        expected = (self.config.horizon, 7)
        if actions.shape != expected:
            raise ValueError(f"expected a chunk of shape {expected}, got {actions.shape}")
        if not np.isfinite(actions).all():
            raise ValueError("expected finite actions, got NaN or infinity")

    def _blended(self, joints_rad: np.ndarray, *, old_rad: np.ndarray) -> np.ndarray:
        """The new path (n, 6), faded in from the old one so that the fade itself keeps within the seam step."""
        jump_rad = float(np.max(np.abs(joints_rad[0] - old_rad[0])))
        self.statistics.seam_jumps_rad.append(jump_rad)
        ticks = max(self.config.blend_ticks, ceil(jump_rad / self.config.max_seam_step_rad) - 1)
        share = np.minimum(np.arange(1, len(joints_rad) + 1) / (ticks + 1), 1.0)[:, None]
        return old_rad + share * (joints_rad - old_rad)
