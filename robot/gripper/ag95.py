"""The DH-Robotics AG-95: one thread owns the serial line, everybody else sets a target and reads the newest state.

Above this file the gripper is 0 (open) to 1 (closed) and newtons. The register's per mille of opening, its sense and
its force in percent stay in here. Only the newest target is ever written, and only when it has changed.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite

from robot.clock import seconds_to_ns
from robot.gripper.errors import GripperError, GripperInitialisationError, GripperPortError
from robot.gripper.link import ModbusLink
from robot.gripper.modbus import INITIALISE_NORMAL, GripState, InitState, Register
from robot.motion.nova5 import GRIPPER_MAX_FORCE_N
from robot.state import GripperStatus

MIN_FORCE_PERCENT = 20
STALE_GRIP_STATE_NS = seconds_to_ns(0.1)
"""After a new target the old 'reached' or 'caught' may still be read for this long; it is not believed."""
INITIALISE_TIMEOUT_S = 12.0
_REOPEN_S = 1.0

_STATUS = {
    GripState.MOVING: GripperStatus.MOVING,
    GripState.REACHED: GripperStatus.REACHED,
    GripState.CAUGHT: GripperStatus.CAUGHT,
    GripState.DROPPED: GripperStatus.DROPPED,
}


@dataclass(frozen=True)
class GripperScale:
    """Which per mille means open and which closed."""

    open_permille: int
    closed_permille: int

    def to_permille(self, closed_fraction: float) -> int:
        """Register value for 0 (open) to 1 (closed); values outside are taken to the nearest end."""
        fraction = min(1.0, max(0.0, closed_fraction))
        return round(self.open_permille + fraction * (self.closed_permille - self.open_permille))

    def to_fraction(self, permille: int) -> float:
        """0 (open) to 1 (closed) for a register value."""
        fraction = (permille - self.open_permille) / (self.closed_permille - self.open_permille)
        return min(1.0, max(0.0, fraction))


def force_percent(force_n: float) -> int:
    """Register value for a gripping force in N: 160 N is 100 %, and the device takes no less than 20 %."""
    return min(100, max(MIN_FORCE_PERCENT, round(100.0 * force_n / GRIPPER_MAX_FORCE_N)))


@dataclass(frozen=True)
class GripperState:
    """The newest that is known: position and target 0 (open) to 1 (closed), when read, and since when it is silent."""

    position: float
    target: float
    status: GripperStatus
    capture_ns: int
    problem: str | None = None


class Ag95:
    """An AG-95 on a serial port. `start` it, `set_target`, read `state`, `close` it; or use it as a context.

    Raises `GripperPortError` if the port cannot be opened and `GripperSilentError` if nothing answers; later losses
    show as status UNKNOWN with the problem's text, and the thread goes on trying at a bounded rate.
    """

    def __init__(
        self,
        port: str,
        *,
        baudrate: int,
        slave_id: int,
        scale: GripperScale,
        force_n: float,
        poll_rate_hz: float,
    ) -> None:
        self._open_link = lambda: ModbusLink(port, baudrate=baudrate, slave_id=slave_id)
        self._scale = scale
        self._force_percent = force_percent(force_n)
        self._period_s = 1.0 / poll_rate_hz
        self._on_state: Callable[[GripperState], None] | None = None
        self._wanted: int | None = None
        self._written: int | None = None
        self._written_ns = 0
        self._moved_since_write = True
        self._initialise = False
        self._initialised = False
        self._ready = threading.Event()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._link: ModbusLink | None = self._open_link()
        try:
            self._state = self._first_state()
        except GripperError:
            self._link.close()
            raise
        self._thread = threading.Thread(target=self._run, name="gripper", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Ag95":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def subscribe(self, on_state: Callable[[GripperState], None]) -> None:
        """Call ``on_state`` after every poll from now on, in the gripper's thread."""
        self._on_state = on_state

    @property
    def state(self) -> GripperState:
        return self._state

    def set_target(self, closed_fraction: float) -> None:
        """Ask for 0 (open) to 1 (closed). The newest target wins; an unchanged one is not written again.

        Before the gripper is initialised nothing is written. ``ValueError`` if it is not a finite number.
        """
        if not isfinite(closed_fraction):
            raise ValueError(f"expected a gripper target from 0 (open) to 1 (closed), got {closed_fraction}")
        wanted = self._scale.to_permille(closed_fraction)
        with self._lock:
            if wanted == self._wanted:
                return
            self._wanted = wanted
        self._wake.set()

    def initialise(self, *, timeout_s: float = INITIALISE_TIMEOUT_S) -> None:
        """Find the end stops if that has not been done since power-up: the jaws then travel their whole stroke.

        Raises `GripperInitialisationError` if it does not finish in time.
        """
        if self._ready.is_set():
            return
        self._initialise = True
        self._wake.set()
        if not self._ready.wait(timeout_s):
            self._initialise = False
            raise GripperInitialisationError(
                f"expected the gripper to finish its initialisation within {timeout_s:g} s, it has not "
                f"({self._state.problem or 'it reports that it is still under way'}): free its fingers and try again"
            )

    def close(self) -> None:
        """End the thread and give the port back; the jaws stay where they are. Closing twice is fine."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout=3.0)
        if self._link is not None:
            self._link.close()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _first_state(self) -> GripperState:
        assert self._link is not None
        if self._read_initialised():
            self._link.write(Register.FORCE_PERCENT, value=self._force_percent)
        position = self._scale.to_fraction(self._link.read(Register.POSITION_PERMILLE))
        status = GripperStatus.REACHED if self._initialised else GripperStatus.NOT_INITIALISED
        return GripperState(position=position, target=position, status=status, capture_ns=time.monotonic_ns())

    def _read_initialised(self) -> bool:
        assert self._link is not None
        self._initialised = self._link.read(Register.INIT_STATE) == InitState.DONE
        if not self._initialised:
            self._ready.clear()
        return self._initialised

    def _run(self) -> None:
        while not self._closing.is_set():
            started_s = time.monotonic()
            try:
                self._poll()
            except GripperPortError as error:
                self._lose(error)
                self._reopen()
            except GripperError as error:
                self._lose(error)
            else:
                self._report()
            self._wake.wait(max(0.0, started_s + self._period_s - time.monotonic()))
            self._wake.clear()

    def _poll(self) -> None:
        link = self._link
        assert link is not None
        if not self._initialised or self._state.status == GripperStatus.UNKNOWN:
            self._check_initialisation(link)
        self._write_target(link)
        permille = link.read(Register.POSITION_PERMILLE)
        capture_ns = time.monotonic_ns()
        grip = link.read(Register.GRIP_STATE)
        self._state = GripperState(
            position=self._scale.to_fraction(permille),
            target=self._state.target if self._written is None else self._scale.to_fraction(self._written),
            status=self._status(grip),
            capture_ns=capture_ns,
        )
        if self._initialised:
            self._ready.set()

    def _check_initialisation(self, link: ModbusLink) -> None:
        was_initialised = self._initialised
        if self._read_initialised():
            if not was_initialised:
                link.write(Register.FORCE_PERCENT, value=self._force_percent)
            self._initialise = False
        elif self._initialise and link.read(Register.INIT_STATE) == InitState.NOT_INITIALISED:
            link.write(Register.INITIALISE, value=INITIALISE_NORMAL)
            self._initialise = False

    def _write_target(self, link: ModbusLink) -> None:
        with self._lock:
            wanted = self._wanted
        if wanted is None or wanted == self._written or not self._initialised:
            return
        link.write(Register.TARGET_PERMILLE, value=wanted)
        self._written, self._written_ns = wanted, time.monotonic_ns()
        self._moved_since_write = False

    def _status(self, grip: int) -> GripperStatus:
        if not self._initialised:
            return GripperStatus.NOT_INITIALISED
        try:
            status = _STATUS[GripState(grip)]
        except ValueError:
            return GripperStatus.UNKNOWN
        if status == GripperStatus.MOVING:
            self._moved_since_write = True
        fresh = self._moved_since_write or time.monotonic_ns() - self._written_ns > STALE_GRIP_STATE_NS
        return status if fresh else GripperStatus.MOVING

    def _lose(self, error: Exception) -> None:
        # A target from before the silence must not move the jaws at some later time: it is dropped, not kept.
        with self._lock:
            self._wanted = self._written = None
        self._state = replace(self._state, status=GripperStatus.UNKNOWN, problem=str(error))
        self._report()

    def _report(self) -> None:
        if self._on_state is not None:
            self._on_state(self._state)

    def _reopen(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        while self._link is None and not self._closing.wait(_REOPEN_S):
            with contextlib.suppress(GripperPortError):
                self._link = self._open_link()
