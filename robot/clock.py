"""Time for the robot PC: monotonic nanoseconds, absolute deadlines.

Every process on one machine shares CLOCK_MONOTONIC, so a time stamp from one process can be compared in another. Wall
clock appears only as one anchor in recordings.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

NS_PER_S = 1_000_000_000


def seconds_to_ns(seconds: float) -> int:
    """Nanoseconds in ``seconds``, rounded to the nearest."""
    return round(seconds * NS_PER_S)


class Clock(Protocol):
    """What control code may know about time; tests inject `FakeClock`."""

    def now_ns(self) -> int:
        """Monotonic time in nanoseconds."""
        ...

    def sleep_until_ns(self, deadline_ns: int) -> None:
        """Return at ``deadline_ns``, at once if it has passed."""
        ...


class MonotonicClock:
    """The machine's CLOCK_MONOTONIC."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def sleep_until_ns(self, deadline_ns: int) -> None:
        remaining_ns = deadline_ns - time.monotonic_ns()
        if remaining_ns > 0:
            time.sleep(remaining_ns / NS_PER_S)


class FakeClock:
    """A clock that moves only when told or slept on."""

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        return self._now_ns

    def sleep_until_ns(self, deadline_ns: int) -> None:
        self._now_ns = max(self._now_ns, deadline_ns)

    def advance_ns(self, duration_ns: int) -> None:
        """Move time forward by ``duration_ns``; negative durations are refused."""
        if duration_ns < 0:
            raise ValueError(f"monotonic time cannot go back: expected a duration >= 0 ns, got {duration_ns}")
        self._now_ns += duration_ns


@dataclass
class TickStatistics:
    """How well a `Ticker` kept its grid: ticks kept and missed, and the most recent periods (ns)."""

    ticks: int = 0
    missed: int = 0
    periods_ns: deque[int] = field(default_factory=lambda: deque(maxlen=200_000))


class Ticker:
    """A fixed-rate loop on absolute deadlines.

    Tick k is due at ``start + k * period``: sleeping late never shifts later ticks, so the rate does not drift. A loop
    body that overruns skips the deadlines it has passed; they are counted as missed and never caught up in a burst.
    """

    def __init__(
        self,
        period_ns: int,
        clock: Clock,
        *,
        start_ns: int | None = None,
        sleep: Callable[[int], None] | None = None,
    ) -> None:
        if period_ns <= 0:
            raise ValueError(f"expected a period > 0 ns, got {period_ns}")
        self.period_ns = period_ns
        self.statistics = TickStatistics()
        self._clock = clock
        self._sleep_until = sleep or clock.sleep_until_ns
        self._start_ns = clock.now_ns() if start_ns is None else start_ns
        self._index = -1
        self._last_wake_ns: int | None = None

    def wait(self) -> int:
        """Sleep to the next deadline still ahead and return that deadline (ns)."""
        now_ns = self._clock.now_ns()
        next_index = self._index + 1
        # A deadline passed by less than half a period is kept (late); further ones are gone.
        earliest = -(-(now_ns - self.period_ns // 2 - self._start_ns) // self.period_ns)
        if earliest > next_index:
            self.statistics.missed += earliest - next_index
            next_index = earliest
        deadline_ns = self._start_ns + next_index * self.period_ns
        self._sleep_until(deadline_ns)
        wake_ns = self._clock.now_ns()
        if self._last_wake_ns is not None:
            self.statistics.periods_ns.append(wake_ns - self._last_wake_ns)
        self._last_wake_ns = wake_ns
        self._index = next_index
        self.statistics.ticks += 1
        return deadline_ns
