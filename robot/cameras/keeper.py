"""Keeps one camera process alive, from outside of it.

A ZED's grab may hang for ever when its cable is pulled, and nothing inside a process helps against a library call that
does not come back. So the one who starts a camera process watches what it publishes: no new picture for half a second
is *stale*, for three seconds *dead*; a dead one is killed and started again with growing pauses, and asked to reset its
device when it hung more than once. A replay that came to its end stays down. Nothing is closed in order on that way:
closing a camera whose grab is in flight hangs too.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from robot.cameras.backend import EXIT_ENDED, CameraLabel
from robot.cameras.health import SIGNS_OF_LIFE, health_ring_name
from robot.processes import Child
from robot.ring import RingError, RingReader

_LOG = logging.getLogger("camera")


class CameraLife(Enum):
    """How a camera process is doing."""

    STARTING = "starting"
    LIVE = "live"
    STALE = "stale"
    DOWN = "down"


@dataclass(frozen=True)
class KeeperLimits:
    """When a camera counts as stale and as dead, and how long to wait before it is started again; seconds.

    ``open_s`` is for opening the device, a reset included.
    """

    stale_s: float = 0.5
    dead_s: float = 3.0
    open_s: float = 30.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 10.0
    recover_after_hangs: int = 2


class CameraKeeper:
    """Starts, watches and mends the process of one camera. Call `tick` a few times a second, from one thread.

    ``start`` gives a new child process of ``python -m robot.cameras``; its argument says whether to add ``--recover``.
    """

    def __init__(
        self,
        name: CameraLabel,
        *,
        rig_name: str,
        start: Callable[[bool], Child],
        limits: KeeperLimits | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.restarts = 0
        self.hangs = 0
        self._name = name
        self._health_name = health_ring_name(rig_name, name)
        self._start = start
        self._limits = limits or KeeperLimits()
        self._now_s = now_s
        self._pause_s = self._limits.first_pause_s
        self._hangs_in_a_row = 0
        self._next_start_s: float | None = None
        self._state = CameraLife.STARTING
        self._launch()

    @property
    def child(self) -> Child:
        """The process as it is now, which may have ended."""
        return self._child

    @property
    def state(self) -> CameraLife:
        """As of the last `tick`."""
        return self._state

    def tick(self) -> None:
        """Look, and act."""
        if self._next_start_s is not None:
            if self._now_s() >= self._next_start_s:
                self._child.stop()  # closes its log
                self.restarts += 1
                self._launch()
            return
        if not self._child.running:
            if self._child.process.returncode == EXIT_ENDED:
                self._enter(CameraLife.DOWN)
                return
            self._schedule(f"ended with exit code {self._child.process.returncode}")
            return
        self._look()
        now_s = self._now_s()
        silent_s = now_s - self._last_life_s
        if silent_s > (self._limits.dead_s if self._has_lived else self._limits.open_s):
            self._child.kill()
            self.hangs += 1
            self._hangs_in_a_row += 1
            self._schedule(f"hung: nothing for {silent_s:.1f} s; killed")
        elif now_s - self._last_good_s > self._limits.stale_s:
            self._enter(CameraLife.STALE if self._has_lived else CameraLife.STARTING)
        elif self._has_lived:
            self._enter(CameraLife.LIVE)
            if now_s - self._started_s > self._limits.longest_pause_s:
                self._pause_s, self._hangs_in_a_row = self._limits.first_pause_s, 0

    def stop(self) -> None:
        """End the process for good."""
        self._child.stop()

    def _launch(self) -> None:
        recover = self._hangs_in_a_row >= self._limits.recover_after_hangs
        self._child = self._start(recover)
        self._started_s = self._last_life_s = self._last_good_s = self._now_s()
        self._has_lived = False
        self._life = self._good = 0
        self._next_start_s = None
        self._enter(CameraLife.STARTING)

    def _look(self) -> None:
        """Note what the process has published since the last look."""
        try:
            with RingReader(self._health_name) as reader:
                sample = reader.latest() if reader.writer_pid == self._child.pid else None
        except RingError:
            return
        if sample is None:
            return
        good = int(sample.value["accepted"])
        life = sum(int(sample.value[count]) for count in SIGNS_OF_LIFE)
        if life != self._life:
            self._life, self._last_life_s, self._has_lived = life, self._now_s(), True
        if good != self._good:
            self._good, self._last_good_s = good, self._now_s()

    def _schedule(self, why: str) -> None:
        self._enter(CameraLife.DOWN)
        self._next_start_s = self._now_s() + self._pause_s
        _LOG.warning("camera %s %s; starting it again in %g s", self._name, why, self._pause_s)
        self._pause_s = min(2 * self._pause_s, self._limits.longest_pause_s)

    def _enter(self, state: CameraLife) -> None:
        if state is not self._state:
            level = logging.INFO if state in (CameraLife.LIVE, CameraLife.STARTING) else logging.WARNING
            _LOG.log(level, "camera %s is %s", self._name, state.value)
            self._state = state
