"""The DH-Robotics AG-95: one thread owns the way to it, everybody else sets a target and reads the newest state.

Above this file the gripper is 0 (open) to 1 (closed) and newtons. The register's per mille of opening, its sense and
its force in percent stay in here. Only the newest target is ever written, and only when it has changed. The way is a
serial line (`robot.gripper.link`) or the arm's tool flange (`robot.gripper.flange`).
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from math import isfinite

from robot.clock import seconds_to_ns
from robot.gripper.errors import (
    GripperError,
    GripperHoldingError,
    GripperInitialisationError,
    GripperPortError,
    GripperSilentError,
    GripperTimeoutError,
    GripperUnpoweredError,
)
from robot.gripper.link import RegisterLink
from robot.gripper.modbus import GRIPPER_STATE_REGISTERS, INITIALISE_NORMAL, GripState, InitState, Register
from robot.motion.nova5 import GRIPPER_MAX_FORCE_N
from robot.state import GripperStatus

log = logging.getLogger(__name__)

MIN_FORCE_PERCENT = 20
STALE_GRIP_STATE_NS = seconds_to_ns(0.1)
"""After a new target the old 'reached' or 'caught' may still be read for this long; it is not believed."""
INITIALISE_TIMEOUT_S = 12.0
EMPTY_JAWS = 0.05
"""Jaws that stand this close to an end (share of the stroke) before they are initialised hold nothing of any size."""
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 8.0

_STATUS = {
    GripState.MOVING: GripperStatus.MOVING,
    GripState.REACHED: GripperStatus.REACHED,
    GripState.CAUGHT: GripperStatus.CAUGHT,
    GripState.DROPPED: GripperStatus.DROPPED,
}
_SETTLED = frozenset({GripperStatus.REACHED, GripperStatus.CAUGHT, GripperStatus.DROPPED})


class WhenHolding(Enum):
    """What to do when the gripper must be initialised and its jaws seem to hold something, which would fall."""

    ASK = auto()
    """Go on only when the caller says that somebody has agreed."""
    REFUSE = auto()
    ALLOW = auto()


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
    """The newest that is known: position and target 0 (open) to 1 (closed), when read, and since when it is silent.

    ``may_hold`` is only told before the initialisation: the jaws stand somewhere between their ends, or say so.
    """

    position: float
    target: float
    status: GripperStatus
    capture_ns: int
    problem: str | None = None
    may_hold: bool = False


class Ag95:
    """An AG-95 behind the link that ``open_link`` makes: `set_target`, read `state`, `close`; or use it as a context.

    Raises what ``open_link`` raises, and `GripperSilentError` (or a more precise one) if nothing answers; only when the
    way cannot be used *yet* (`GripperUnpoweredError`) the thread starts all the same and tries again. Later losses show
    as status UNKNOWN with the problem's text, and the thread goes on trying at a bounded rate.
    """

    def __init__(
        self,
        open_link: Callable[[], RegisterLink],
        *,
        scale: GripperScale,
        force_n: float,
        poll_rate_hz: float,
        when_holding: WhenHolding = WhenHolding.ASK,
    ) -> None:
        self._open_link = open_link
        self._scale = scale
        self._force_percent = force_percent(force_n)
        self._period_s = 1.0 / poll_rate_hz
        self._when_holding = when_holding
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
        self._changed = threading.Condition()
        self._link: RegisterLink | None = None
        self._state = GripperState(0.0, 0.0, GripperStatus.UNKNOWN, time.monotonic_ns(), "not reached yet")
        try:
            self._link = open_link()
            self._state = self._first_state(self._link)
        except GripperUnpoweredError as error:
            self._drop_link()
            self._state = replace(self._state, problem=str(error))
        except GripperSilentError as error:
            found = error if self._link is None else self._link.diagnose(error)
            self._drop_link()
            raise found from None
        except GripperError:
            self._drop_link()
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

    def wait(self, *, timeout_s: float) -> GripperState:
        """The state once the jaws have come to rest at the newest target, or on what they caught.

        Only a state read after that target was written counts, and within 0.1 s of it only one that was preceded by
        'moving': the register still shows the end of the motion before. `GripperTimeoutError` when it takes longer,
        `GripperSilentError` when the gripper falls silent.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            with self._changed:
                state = self._state
                if state.status == GripperStatus.UNKNOWN:
                    raise GripperSilentError(f"the gripper fell silent while it was waited for: {state.problem}")
                if self._has_settled(state):
                    return state
                left_s = deadline_s - time.monotonic()
                if left_s <= 0.0:
                    raise GripperTimeoutError(
                        f"expected the jaws to come to rest within {timeout_s:g} s, they are {state.status.name} at "
                        f"{state.position:.2f} (target {state.target:.2f})"
                    )
                self._changed.wait(left_s)

    def initialise(self, *, timeout_s: float = INITIALISE_TIMEOUT_S, drop_allowed: bool = False) -> None:
        """Find the end stops if that has not been done since power-up: the jaws then travel their whole stroke.

        ``drop_allowed``: somebody has agreed that what the jaws may hold falls. Raises `GripperHoldingError` when they
        seem to hold something and that is not so (or the rig refuses it anyway), `GripperInitialisationError` if it
        does not finish in time.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            self._changed.wait_for(lambda: self._state.status != GripperStatus.UNKNOWN, timeout=timeout_s)
        if self._ready.is_set():
            return
        self._check_holding(drop_allowed=drop_allowed)
        self._initialise = True
        self._wake.set()
        if not self._ready.wait(max(0.0, deadline_s - time.monotonic())):
            self._initialise = False
            raise GripperInitialisationError(
                f"expected the gripper to finish its initialisation within {timeout_s:g} s, it has not "
                f"({self._state.problem or 'it reports that it is still under way'}): free its fingers and try again"
            )

    def close(self) -> None:
        """End the thread and give the way back; the jaws stay where they are. Closing twice is fine."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout=5.0)
        self._drop_link()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _first_state(self, link: RegisterLink) -> GripperState:
        if self._read_initialised(link):
            link.write(Register.FORCE_PERCENT, value=self._force_percent)
        grip, permille = link.read_block(GRIPPER_STATE_REGISTERS[0], count=len(GRIPPER_STATE_REGISTERS))
        position = self._scale.to_fraction(permille)
        status = GripperStatus.REACHED if self._initialised else GripperStatus.NOT_INITIALISED
        return GripperState(
            position, position, status, time.monotonic_ns(), may_hold=self._may_hold(grip, position=position)
        )

    def _read_initialised(self, link: RegisterLink) -> bool:
        self._initialised = link.read(Register.INIT_STATE) == InitState.DONE
        if not self._initialised:
            self._ready.clear()
        return self._initialised

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._closing.is_set():
            link = self._link
            if link is None:
                self._reopen()
                due_s = time.monotonic()
                continue
            now_s = time.monotonic()
            try:
                # A steady stream of new targets must not keep the state from being read.
                if now_s >= due_s + self._period_s or (now_s >= due_s and not self._has_new_target()):
                    self._poll(link)
                    due_s = now_s + link.poll_period_s(self._period_s)
                elif self._has_new_target():
                    self._write_target(link)
            except GripperPortError as error:
                self._lose(error)
                self._drop_link()
                continue
            except GripperError as error:
                self._lose(error)
                due_s = now_s + link.poll_period_s(self._period_s)
            except Exception as error:
                # Whatever it is: a dead thread would leave the last state standing as if it were the present one.
                log.exception("the gripper's thread met an error")
                self._lose(error)
                self._drop_link()
                continue
            self._rest(link, due_s=due_s)

    def _rest(self, link: RegisterLink, *, due_s: float) -> None:
        """Until the next poll or a new target, and in any case as long as the link wants to be left alone."""
        if not self._has_new_target():
            self._wake.wait(max(0.0, due_s - time.monotonic()))
        self._wake.clear()
        self._closing.wait(link.pause_s())

    def _has_new_target(self) -> bool:
        if not self._initialised or self._state.status == GripperStatus.UNKNOWN:
            return False
        with self._lock:
            return self._wanted is not None and self._wanted != self._written

    def _poll(self, link: RegisterLink) -> None:
        if not self._initialised or self._state.status == GripperStatus.UNKNOWN:
            self._check_initialisation(link)
        grip, permille = link.read_block(GRIPPER_STATE_REGISTERS[0], count=len(GRIPPER_STATE_REGISTERS))
        position = self._scale.to_fraction(permille)
        self._report(
            GripperState(
                position=position,
                target=self._state.target if self._written is None else self._scale.to_fraction(self._written),
                status=self._status(grip),
                capture_ns=time.monotonic_ns(),
                may_hold=self._may_hold(grip, position=position),
            )
        )
        if self._initialised:
            self._ready.set()

    def _check_initialisation(self, link: RegisterLink) -> None:
        was_initialised = self._initialised
        if self._read_initialised(link):
            if not was_initialised:
                link.write(Register.FORCE_PERCENT, value=self._force_percent)
            self._initialise = False
        elif self._initialise and link.read(Register.INIT_STATE) == InitState.NOT_INITIALISED:
            link.write(Register.INITIALISE, value=INITIALISE_NORMAL)
            self._initialise = False

    def _write_target(self, link: RegisterLink) -> None:
        with self._lock:
            wanted = self._wanted
        if wanted is None:
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

    def _may_hold(self, grip: int, *, position: float) -> bool:
        return not self._initialised and (grip == GripState.CAUGHT or EMPTY_JAWS < position < 1.0 - EMPTY_JAWS)

    def _has_settled(self, state: GripperState) -> bool:
        with self._lock:
            written = self._wanted is None or self._wanted == self._written
        return written and state.capture_ns > self._written_ns and state.status in _SETTLED

    def _check_holding(self, *, drop_allowed: bool) -> None:
        state = self._state
        if not state.may_hold or self._when_holding == WhenHolding.ALLOW:
            return
        found = f"the jaws stand at {state.position:.2f} (0 open, 1 closed) and may hold something"
        if drop_allowed and self._when_holding == WhenHolding.ASK:
            log.warning("%s: initialising the gripper drops it, as agreed", found)
            return
        raise GripperHoldingError(
            f"the gripper must be initialised, which opens and closes it fully, and {found}: take it out"
            + (", or confirm that it may fall" if self._when_holding == WhenHolding.ASK else "")
            + " (gripper.initialise_when_holding in the rig file decides)"
        )

    def _lose(self, error: Exception) -> None:
        # A target from before the silence must not move the jaws at some later time: it is dropped, not kept.
        with self._lock:
            self._wanted = self._written = None
        self._report(replace(self._state, status=GripperStatus.UNKNOWN, problem=str(error)))

    def _report(self, state: GripperState) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()
        if self._on_state is not None:
            self._on_state(state)

    def _reopen(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while self._link is None and not self._closing.wait(pause_s):
            try:
                self._link = self._open_link()
            except GripperError as error:
                self._lose(error)
                slow = isinstance(error, GripperSilentError)
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s) if slow else _FIRST_PAUSE_S

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
