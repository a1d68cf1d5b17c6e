"""From an episode's real times to rows at exactly 15 Hz.

Row k stands for the time ``start + k / 15`` s. Its pictures are those captured nearest to it, its joints and gripper
are interpolated at it by capture time, its action is the command to be reached one period later. The real capture
times of the pictures go along as columns.
"""

from dataclasses import dataclass

import numpy as np

from robot.clock import NS_PER_S
from robot.recording.check import nearest
from robot.recording.dataset.errors import UnfitEpisodeError
from robot.recording.dataset.layout import FPS, ActionChoice
from robot.recording.episode import Episode
from robot.recording.records import ActionStage, stage_fields

MAX_PICTURE_DISTANCE_S = 0.1
"""A row whose nearest picture was taken further away than this would show something else than it says."""
MAX_STATE_GAP_S = 0.1
MAX_STEP_GAP_S = 0.25
"""Commands further apart than this are not interpolated: nothing commanded the arm in between."""
SHORTEST_ROWS = 2


@dataclass(frozen=True, eq=False)
class Rows:
    """``time_ns`` (n,); ``state`` (n, 7) and ``action`` (n, a) float32; for each camera the index of the picture in the
    episode and its capture time, (n,) each."""

    time_ns: np.ndarray
    state: np.ndarray
    action: np.ndarray
    pictures: dict[str, np.ndarray]
    capture_ns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.time_ns)


@dataclass(frozen=True, eq=False)
class _Series:
    """Values (n, d) at strictly increasing times (n,) ns."""

    times_ns: np.ndarray
    values: np.ndarray

    def linear(self, wanted_ns: np.ndarray) -> np.ndarray:
        """(m, d) at times (m,), held outside."""
        origin = self.times_ns[0]
        t, wanted = (self.times_ns - origin).astype(float), (wanted_ns - origin).astype(float)
        return np.stack([np.interp(wanted, t, column) for column in self.values.T], axis=1)

    def newest(self, wanted_ns: np.ndarray) -> np.ndarray:
        """(m, d): the value nearest in time, for commands that are steps and not paths."""
        return self.values[nearest(self.times_ns, wanted_ns)]

    def longest_gap_s(self, start_ns: int, end_ns: int) -> float:
        """The longest time between two values of which at least part lies in [start, end]."""
        inside = (self.times_ns[1:] >= start_ns) & (self.times_ns[:-1] <= end_ns)
        return float(np.diff(self.times_ns)[inside].max(initial=0)) / NS_PER_S


def resample(episode: Episode, *, action: ActionChoice) -> Rows:
    """The rows of an episode. Raises `UnfitEpisodeError` if something is missing or has a hole."""
    state = _state(episode)
    commands, grippers = _commands(episode, action)
    captures = {camera: episode.frame_times(camera).capture_ns for camera in episode.cameras}
    for camera in episode.meta.description.cameras:
        if camera not in captures:
            raise UnfitEpisodeError(f"camera {camera} recorded nothing")
    period_ns = NS_PER_S / FPS
    starts = [state.times_ns[0], commands.times_ns[0] - round(period_ns), *(times[0] for times in captures.values())]
    ends = [state.times_ns[-1], commands.times_ns[-1] - round(period_ns), *(times[-1] for times in captures.values())]
    reference = captures["exterior"] if "exterior" in captures else next(iter(captures.values()))
    begin = int(max(starts))
    # The grid starts on a picture of the reference camera, so that the nearest picture stays the nearest.
    on_picture = reference[reference >= begin]
    start_ns, end_ns = int(on_picture[0]) if len(on_picture) else begin, int(min(ends))
    # A microsecond of tolerance: times that are a whole number of periods apart were rounded to nanoseconds.
    count = int((end_ns - start_ns + 1000) / period_ns) + 1
    if end_ns < start_ns or count < SHORTEST_ROWS:
        raise UnfitEpisodeError("pictures, states and commands do not overlap in time")
    time_ns = start_ns + np.round(np.arange(count) * period_ns).astype(np.int64)
    if (gap := state.longest_gap_s(start_ns, end_ns)) > MAX_STATE_GAP_S:
        raise UnfitEpisodeError(f"the robot's state has a gap of {gap:.2f} s, at most {MAX_STATE_GAP_S:g} s is bridged")
    if (gap := commands.longest_gap_s(start_ns, end_ns)) > MAX_STEP_GAP_S:
        raise UnfitEpisodeError(
            f"nothing was commanded for {gap:.2f} s, at most {MAX_STEP_GAP_S:g} s is bridged: trim it"
        )
    pictures, capture_ns = {}, {}
    for camera, times in captures.items():
        index = nearest(times, time_ns)
        distance_s = float(np.abs(times[index] - time_ns).max()) / NS_PER_S
        if distance_s > MAX_PICTURE_DISTANCE_S:
            limit = f"{MAX_PICTURE_DISTANCE_S:g} s"
            raise UnfitEpisodeError(
                f"{camera}: the nearest picture is {distance_s:.2f} s from a row, allowed is {limit}"
            )
        pictures[camera], capture_ns[camera] = index, times[index]
    rows_state = state.linear(time_ns)
    due_ns = time_ns + round(period_ns)
    rows_action = np.concatenate([commands.linear(due_ns), grippers.newest(due_ns)], axis=1)
    if action is ActionChoice.JOINT_DELTA:
        rows_action[:, :6] -= rows_state[:, :6]
    if action is ActionChoice.TCP:
        rows_action[:, 3:7] /= np.linalg.norm(rows_action[:, 3:7], axis=1, keepdims=True)
    return Rows(time_ns, rows_state.astype(np.float32), rows_action.astype(np.float32), pictures, capture_ns)


def _state(episode: Episode) -> _Series:
    """Measured joints and gripper (n, 7)."""
    state = episode.state
    values = np.concatenate([state["joints_rad"], state["gripper"][:, None]], axis=1)
    return _series(state["capture_ns"], values, what="the robot's state")


def _commands(episode: Episode, action: ActionChoice) -> tuple[_Series, _Series]:
    """Commands (n, 6 or 7) and gripper commands (n, 1) at the times at which they are to be reached."""
    if action is ActionChoice.MEASURED_JOINTS:
        state = _state(episode)
        return _Series(state.times_ns, state.values[:, :6]), _Series(state.times_ns, state.values[:, 6:])
    steps = episode.steps
    stage = ActionStage.REQUESTED if action is ActionChoice.REQUESTED_JOINTS else ActionStage.SENT
    joints, gripper, position, quaternion = stage_fields(stage)
    if action is ActionChoice.TCP:
        values = np.concatenate([steps[position], _continuous(steps[quaternion])], axis=1)
    else:
        values = steps[joints]
    due_ns = np.where(steps["target_ns"] > 0, steps["target_ns"], steps["deadline_ns"] + round(NS_PER_S / FPS))
    together = _series(due_ns, np.concatenate([values, steps[gripper][:, None]], axis=1), what=f"{stage.value} actions")
    return _Series(together.times_ns, together.values[:, :-1]), _Series(together.times_ns, together.values[:, -1:])


def _series(times_ns: np.ndarray, values: np.ndarray, *, what: str) -> _Series:
    """Finite values at strictly increasing times. Raises `UnfitEpisodeError` if fewer than two are left."""
    finite = np.isfinite(values).all(axis=1)
    times_ns, values = times_ns[finite], values[finite]
    times_ns, first = np.unique(times_ns, return_index=True)
    if len(times_ns) < SHORTEST_ROWS:
        raise UnfitEpisodeError(f"{what}: {len(times_ns)} were recorded, expected at least {SHORTEST_ROWS}")
    return _Series(times_ns, values[first])


def _continuous(quaternions: np.ndarray) -> np.ndarray:
    """The same rotations (n, 4) with signs chosen so that neighbours are close and can be interpolated."""
    chosen = quaternions.copy()
    for row in range(1, len(chosen)):
        if np.dot(chosen[row], chosen[row - 1]) < 0:
            chosen[row] = -chosen[row]
    return chosen
