"""What the ZED driver must know about Stereolabs' SDK: how to get it, which return codes are good, what its times mean.

Codes are compared by name: enumerators come and go between SDK versions, and older ones can't be ordered. Every code
that is not listed here as harmless counts as a failure, because the SDK also hands out damaged pictures and pictures of
a camera that is being reset under codes that it calls warnings.
"""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from robot.cameras.backend import BackendUnavailableError

SDK_HELP = (
    "It comes with the ZED SDK and not from PyPI (the package of that name there is not it): install the SDK, version "
    "4 or newer (Linux, NVIDIA GPU and CUDA needed), from stereolabs.com/developers/release, then run 'python "
    "/usr/local/zed/get_python_api.py' with this project's Python (.venv/bin/python), again after each time that the "
    "environment was made anew."
)
OLDEST_PICTURE_NS = 1_000_000_000
_PAIRINGS = 3


class GrabOutcome(Enum):
    """What a code of ``Camera.grab`` means for the picture."""

    GOOD = "good"
    DAMAGED = "damaged"
    RESETTING = "resetting"
    OTHER_MODE = "other_mode"
    LOST = "lost"


HARMLESS_AT_OPEN = frozenset({"SUCCESS", "SENSOR_CONFIGURATION_CHANGED", "POTENTIAL_CALIBRATION_ISSUE"})
"""The first is the only silent one. Motion sensors are not used here; the calibration warning is for an operator."""
FALLBACK = "CONFIGURATION_FALLBACK"
_OUTCOMES = {
    "SUCCESS": GrabOutcome.GOOD,
    "SENSOR_CONFIGURATION_CHANGED": GrabOutcome.GOOD,
    "POTENTIAL_CALIBRATION_ISSUE": GrabOutcome.GOOD,
    "CORRUPTED_FRAME": GrabOutcome.DAMAGED,
    "CAMERA_REBOOTING": GrabOutcome.RESETTING,
    FALLBACK: GrabOutcome.OTHER_MODE,
}


def code_name(code: Any) -> str:
    """The enumerator's name of an ``sl.ERROR_CODE``."""
    return str(code.name)


def grab_outcome(code: Any) -> GrabOutcome:
    """What to do with the picture of this ``sl.ERROR_CODE``; a code that is not known loses the camera."""
    return _OUTCOMES.get(code_name(code), GrabOutcome.LOST)


def load_sdk() -> Any:
    """The module ``pyzed.sl``. Raises `BackendUnavailableError` with how to get it."""
    try:
        sl = importlib.import_module("pyzed.sl")
    except ImportError as error:
        raise BackendUnavailableError(
            f"the zed camera backend needs pyzed.sl, which can't be imported ({error}). {SDK_HELP}"
        ) from None
    missing = [name for name in ("Camera", "InitParameters", "VIDEO_SETTINGS") if not hasattr(sl, name)]
    if missing:
        raise BackendUnavailableError(f"the installed pyzed is not Stereolabs' (no {', '.join(missing)}). {SDK_HELP}")
    return sl


@dataclass(frozen=True)
class ClockPair:
    """The wall clock and the monotonic clock at one moment, ns."""

    wall_ns: int
    monotonic_ns: int

    @classmethod
    def now(
        cls, *, wall: Callable[[], int] = time.time_ns, monotonic: Callable[[], int] = time.monotonic_ns
    ) -> "ClockPair":
        """The tightest of a few readings: the process may lose its core between two of them."""
        best_gap_ns, best = None, None
        for _ in range(_PAIRINGS):
            before_ns = monotonic()
            wall_ns = wall()
            gap_ns = monotonic() - before_ns
            if best_gap_ns is None or gap_ns < best_gap_ns:
                best_gap_ns, best = gap_ns, cls(wall_ns, before_ns + gap_ns // 2)
        assert best is not None
        return best

    def monotonic_of(self, wall_ns: int) -> int | None:
        """The monotonic time of a picture stamped ``wall_ns``, None if that stamp can't be a fresh picture's.

        A wall clock that was set between the stamp and this pair puts the picture into the future or far back.
        """
        age_ns = self.wall_ns - wall_ns
        return self.monotonic_ns - age_ns if 0 <= age_ns <= OLDEST_PICTURE_NS else None
