"""Is this picture one to act on? Damaged, featureless and frozen pictures are never published.

Readers then see the ring's newest frame grow old, and treat a frozen camera exactly like an unplugged one.
"""

import zlib
from collections import Counter
from enum import Enum
from math import ceil

import numpy as np

from robot.cameras.backend import Grab
from robot.runtime import ring_name

FROZEN_AFTER_S = 0.5
MIN_CONTRAST = 1.0
"""Standard deviation (of 255) below which a picture is one colour: a black, green or covered sensor."""
_SAMPLING = 8


class FrameProblem(Enum):
    """Why a frame was not published."""

    DAMAGED = "damaged"
    FEATURELESS = "featureless"
    FROZEN = "frozen"
    NOT_NEWER = "not_newer"


HEALTH_DTYPE = np.dtype([("accepted", "<u8"), *((problem.value, "<u8") for problem in FrameProblem)])
"""What a camera process publishes in the ring ``camera.NAME.health`` after each grab: frames so far, by verdict."""
SIGNS_OF_LIFE = ("accepted", FrameProblem.DAMAGED.value, FrameProblem.FEATURELESS.value)
"""Counts that only grow when the sensor delivers something new; a repeated picture is no sign of life."""


def health_ring_name(rig_name: str, camera: str) -> str:
    """The ring of `HEALTH_DTYPE` of a camera process."""
    return ring_name(rig_name, f"camera.{camera}.health")


class FrameChecker:
    """Judges frames of one camera in the order in which they come, and counts its refusals.

    ``sensor_noise``: whether equal bytes mean a frozen sensor (see `CameraBackend`); a rendered scene may rest.
    """

    def __init__(self, *, fps: float, sensor_noise: bool) -> None:
        self.problems: Counter[FrameProblem] = Counter()
        self.accepted = 0
        self.totals = np.zeros((), HEALTH_DTYPE)
        self._frozen_after = max(2, ceil(FROZEN_AFTER_S * fps))
        self._sensor_noise = sensor_noise
        self._last_capture_ns = -1
        self._last_digest: int | None = None
        self._repeats = 0

    def check(self, grab: Grab) -> FrameProblem | None:
        """None for a good frame, else what is wrong with it."""
        problem = self._problem(grab)
        if problem is None:
            self.accepted += 1
        else:
            self.problems[problem] += 1
        self.totals["accepted" if problem is None else problem.value] += 1
        return problem

    def start_window(self) -> None:
        """Begin to count anew; ``totals`` go on."""
        self.problems.clear()
        self.accepted = 0

    def _problem(self, grab: Grab) -> FrameProblem | None:
        if not grab.intact:
            return FrameProblem.DAMAGED
        if grab.capture_ns <= self._last_capture_ns:
            return FrameProblem.NOT_NEWER
        self._last_capture_ns = grab.capture_ns
        sample = np.ascontiguousarray(grab.image[::_SAMPLING, ::_SAMPLING])
        if float(sample.std(axis=(0, 1)).max()) < MIN_CONTRAST:
            return FrameProblem.FEATURELESS
        digest = zlib.crc32(sample.tobytes())
        self._repeats = self._repeats + 1 if digest == self._last_digest else 0
        self._last_digest = digest
        if self._sensor_noise and self._repeats >= self._frozen_after:
            return FrameProblem.FROZEN
        return None
