"""Which frames are worth learning from: stretches without motion teach a policy to stand still."""

import numpy as np
from numpy.typing import NDArray

SHORTEST_IDLE_FRAMES = 7
SHORTEST_ACTIVE_FRAMES = 16
CUT_FRAMES = 10
STILL_PER_STEP = 1e-3


def active_frames(
    actions: NDArray[np.floating],
    *,
    still: float = STILL_PER_STEP,
    shortest_idle: int = SHORTEST_IDLE_FRAMES,
    shortest_active: int = SHORTEST_ACTIVE_FRAMES,
    cut: int = CUT_FRAMES,
) -> NDArray[np.bool_]:
    """openpi's rule for DROID: which of an episode's frames (T,) may start a chunk; `actions` is (T, D).

    Runs of at least `shortest_idle` frames in which no action changes by more than `still` are idle; what remains
    between them is kept if it has at least `shortest_active` frames, without its last `cut`, whose chunks would end
    in idleness.
    """
    count = len(actions)
    quiet = np.zeros(count, dtype=bool)
    if count > 1:
        quiet[1:] = np.abs(np.diff(actions, axis=0)).max(axis=1) < still
        quiet[0] = quiet[1]
    idle = np.zeros(count, dtype=bool)
    for start, stop in _runs(quiet):
        if stop - start >= shortest_idle:
            idle[start:stop] = True
    keep = np.zeros(count, dtype=bool)
    for start, stop in _runs(~idle):
        if stop - start >= shortest_active:
            keep[start : stop - cut] = True
    return keep


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Half-open intervals in which flags hold."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
