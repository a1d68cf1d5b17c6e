"""Taking the tremor and the glitches out of a hand's signal, sample by sample."""

from collections import deque

import numpy as np
from numpy.typing import ArrayLike

from robot.motion.rotations import Array

_MAD_TO_SIGMA = 1.4826


class OneEuro:
    """The One-Euro filter (Casiez, Roussel and Vogel 2012) on vectors: smooth when slow, prompt when fast.

    ``min_cutoff_hz`` sets the smoothing at rest, ``beta`` (1 per unit) how fast it opens with the speed.
    """

    def __init__(self, *, min_cutoff_hz: float = 1.5, beta: float = 3.0, speed_cutoff_hz: float = 1.0) -> None:
        if min_cutoff_hz <= 0.0 or speed_cutoff_hz <= 0.0 or beta < 0.0:
            raise ValueError(f"expected cutoffs > 0 and beta >= 0, got {min_cutoff_hz}, {speed_cutoff_hz}, {beta}")
        self._min_cutoff_hz, self._beta, self._speed_cutoff_hz = min_cutoff_hz, beta, speed_cutoff_hz
        self._value: Array | None = None
        self._speed: Array | None = None
        self._t_ns = 0

    def reset(self) -> None:
        """Forget the past: the next value passes unchanged."""
        self._value = self._speed = None

    def step(self, value: ArrayLike, *, t_ns: int) -> Array:
        """The filtered value at ``t_ns``. A value of the same time as the last one is ignored."""
        new = np.array(value, dtype=np.float64)
        if self._value is None or self._speed is None:
            self._value, self._speed, self._t_ns = new, np.zeros_like(new), t_ns
            return self._value
        dt_s = (t_ns - self._t_ns) * 1e-9
        if dt_s <= 0.0:
            return self._value
        speed_share = _share(self._speed_cutoff_hz, dt_s)
        self._speed = self._speed + speed_share * ((new - self._value) / dt_s - self._speed)
        cutoff_hz = self._min_cutoff_hz + self._beta * float(np.linalg.norm(self._speed))
        self._value = self._value + _share(cutoff_hz, dt_s) * (new - self._value)
        self._t_ns = t_ns
        return self._value


class SpikeGate:
    """Hampel rejection: a sample far from the median of its neighbours, measured in their own spread, is replaced by
    the median. A step that stays is let through once it has the majority of the window. Vectors (n,) are judged axis
    by axis; ``floor`` (scalar or (n,)) is the deviation that is never called a spike."""

    def __init__(self, *, floor: ArrayLike, window: int = 5, sigmas: float = 4.0) -> None:
        if window < 3 or window % 2 == 0:
            raise ValueError(f"window: expected an odd number >= 3, got {window}")
        self._floor = np.asarray(floor, dtype=np.float64)
        self._sigmas = sigmas
        self._seen: deque[Array] = deque(maxlen=window)
        self.rejected = 0

    def reset(self) -> None:
        """Forget the neighbours."""
        self._seen.clear()

    def step(self, value: ArrayLike) -> Array:
        """The value, or the median of its window in each axis where it is a spike."""
        new = np.array(value, dtype=np.float64)
        self._seen.append(new)
        if len(self._seen) < 3:
            return new
        window = np.stack(self._seen)
        median = np.median(window, axis=0)
        spread = _MAD_TO_SIGMA * np.median(np.abs(window - median), axis=0)
        spike = np.abs(new - median) > np.maximum(self._floor, self._sigmas * spread)
        if not spike.any():
            return new
        self.rejected += 1
        return np.where(spike, median, new)


def dead_zone(values: ArrayLike, *, width: float) -> Array:
    """Stick deflections in [-1, 1] with the middle ``width`` taken out and the rest stretched, so that nothing jumps at
    its edge."""
    array = np.clip(np.asarray(values, dtype=np.float64), -1.0, 1.0)
    return np.sign(array) * np.maximum(0.0, np.abs(array) - width) / (1.0 - width)


def _share(cutoff_hz: float, dt_s: float) -> float:
    """Weight of a new sample in a first-order low-pass."""
    return 1.0 / (1.0 + 1.0 / (2.0 * np.pi * cutoff_hz * dt_s))
