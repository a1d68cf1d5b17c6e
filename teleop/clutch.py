"""The clutch: the arm follows only while the operator holds it, and only data that is fresh.

Silence for `SILENCE_NS` disengages, as does whatever calls `drop`. To engage again the operator must be seen to
release and then press: a stuck button or a device that comes back with the clutch held moves nothing.
"""

from enum import Enum

SILENCE_NS = 150_000_000


class ClutchState(Enum):
    """``BLOCKED``: waits for a release. ``READY``: a press engages. ``ENGAGED``: the arm follows."""

    BLOCKED = "release the clutch first"
    READY = "ready"
    ENGAGED = "engaged"


class ClutchEvent(Enum):
    """What the last update changed."""

    NONE = "none"
    ENGAGED = "engaged"
    RELEASED = "released"
    SILENT = "device silent"


class Clutch:
    """Starts blocked, because nobody knows since when a clutch that is down at the start has been down."""

    def __init__(self, *, silence_ns: int = SILENCE_NS) -> None:
        self._silence_ns = silence_ns
        self.state = ClutchState.BLOCKED

    @property
    def engaged(self) -> bool:
        return self.state is ClutchState.ENGAGED

    def update(self, pressed: bool, *, heard_ns: int | None, now_ns: int) -> ClutchEvent:
        """Take the clutch's reading of the time ``heard_ns`` (None: never heard)."""
        was_engaged = self.engaged
        if heard_ns is None or now_ns - heard_ns > self._silence_ns:
            self.state = ClutchState.BLOCKED
            return ClutchEvent.SILENT if was_engaged else ClutchEvent.NONE
        if not pressed:
            self.state = ClutchState.READY
            return ClutchEvent.RELEASED if was_engaged else ClutchEvent.NONE
        if self.state is ClutchState.READY:
            self.state = ClutchState.ENGAGED
            return ClutchEvent.ENGAGED
        return ClutchEvent.NONE

    def drop(self) -> None:
        """Disengage now, whatever the operator holds."""
        self.state = ClutchState.BLOCKED
