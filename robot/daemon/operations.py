"""Slow things, one at a time: enabling, moving, acknowledging. Started by a request, watched through `Op.STATUS`."""

from dataclasses import dataclass, replace
from enum import IntEnum

from robot.daemon.errors import BusyError


class Outcome(IntEnum):
    """How an operation stands."""

    RUNNING = 0
    DONE = 1
    FAILED = 2


@dataclass(frozen=True)
class Operation:
    """One operation: its number, name, outcome and, when it failed, the error's class name and text."""

    number: int
    name: str
    outcome: Outcome = Outcome.RUNNING
    error: str = ""
    detail: str = ""


class Operations:
    """The present operation and the last few. Not thread-safe: its owner holds one lock around every call."""

    def __init__(self) -> None:
        self._recent: dict[int, Operation] = {}
        self._next = 1
        self._running: int | None = None

    @property
    def running(self) -> Operation | None:
        return None if self._running is None else self._recent[self._running]

    def start(self, name: str) -> Operation:
        """Begin; `BusyError` while another one runs."""
        if self.running is not None:
            raise BusyError(f"{name} has to wait: {self.running.name} is under way")
        operation = Operation(self._next, name)
        self._next += 1
        self._recent[operation.number] = operation
        self._running = operation.number
        while len(self._recent) > 32:
            del self._recent[min(self._recent)]
        return operation

    def finish(self, number: int, *, error: Exception | None = None) -> None:
        """End it, well or with an error. Ending one that has ended changes nothing."""
        if self._running != number:
            return
        self._running = None
        done = self._recent[number]
        self._recent[number] = (
            replace(done, outcome=Outcome.DONE)
            if error is None
            else replace(done, outcome=Outcome.FAILED, error=type(error).__name__, detail=str(error))
        )

    def get(self, number: int) -> Operation | None:
        """The operation of that number, None if it is unknown or long past."""
        return self._recent.get(number)
