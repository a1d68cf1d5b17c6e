"""The path that a recorded episode took, ready to be driven again. Pure."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from robot.clock import NS_PER_S
from robot.motion.rotations import Array
from robot.recording import Episode, EpisodeError
from robot.recording.records import ActionStage, stage_fields

MIN_STEPS = 2
MAX_STEP_RAD = 0.25
"""A joint that changes more than this between two steps makes the path undrivable: something is missing there."""


@dataclass(frozen=True, eq=False)
class ReplayPath:
    """``t_ns`` (n,) int64 from 0 on, ``joints_rad`` (n, 6), ``gripper`` (n,) 0 open to 1 closed."""

    t_ns: NDArray[np.int64]
    joints_rad: Array
    gripper: Array

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return float(self.t_ns[-1]) / NS_PER_S

    def slowed(self, speed: float) -> "ReplayPath":
        """The same path at another share of its speed."""
        return replace(self, t_ns=np.round(self.t_ns / speed).astype(np.int64))

    def at(self, t_ns: int) -> tuple[Array, float]:
        """Posture (6,) and gripper at a time, linear between steps, resting at both ends."""
        joints = np.array([np.interp(t_ns, self.t_ns, self.joints_rad[:, joint]) for joint in range(6)])
        after = int(np.searchsorted(self.t_ns, t_ns, side="right"))
        return joints, float(self.gripper[max(0, after - 1)])


def episode_path(episode: Episode, *, stage: ActionStage) -> ReplayPath:
    """The path of one stage of an episode's actions, each at the time that it was meant for.

    Steps without that action (refused by the guard) are left out. Raises `EpisodeError` when there is nothing to drive
    or when the path has a jump.
    """
    steps = episode.steps
    joints_name, gripper_name, _, _ = stage_fields(stage)
    is_command = stage is not ActionStage.MEASURED
    due_ns = np.where(is_command & (steps["target_ns"] > 0), steps["target_ns"], steps["wake_ns"]).astype(np.int64)
    known = np.isfinite(steps[joints_name]).all(axis=1) & np.isfinite(steps[gripper_name])
    order = np.flatnonzero(known)
    # Steps in which the arm held have no target time and may be due before the last command was reached.
    due_ns = np.maximum.accumulate(due_ns[order]) if len(order) else due_ns[order]
    rising = np.concatenate([[True], np.diff(due_ns) > 0]) if len(order) else np.zeros(0, bool)
    order, due_ns = order[rising], due_ns[rising]
    if len(order) < MIN_STEPS:
        raise EpisodeError(
            f"{episode.id}: expected {MIN_STEPS} steps or more with {stage.value} actions, found {len(order)}"
        )
    joints = np.array(steps[joints_name][order], dtype=np.float64)
    jumps = np.max(np.abs(np.diff(joints, axis=0)), axis=1)
    if float(jumps.max()) > MAX_STEP_RAD:
        where = (int(due_ns[int(jumps.argmax())]) - int(due_ns[0])) / NS_PER_S
        raise EpisodeError(
            f"{episode.id}: the path jumps by {jumps.max():.2f} rad after {where:.1f} s (allowed: {MAX_STEP_RAD:g} rad "
            "between two steps): trim the episode, or replay another source"
        )
    return ReplayPath(
        t_ns=due_ns - due_ns[0],
        joints_rad=joints,
        gripper=np.clip(np.array(steps[gripper_name][order], dtype=np.float64), 0.0, 1.0),
    )
