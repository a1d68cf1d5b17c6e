"""The bookkeeping of one dashboard connection: which requests are unanswered, and what has been counted."""

import threading
from collections import deque
from dataclasses import dataclass, field

from robot.arm.errors import ArmError
from robot.arm.protocol import Reply


@dataclass
class Pending:
    """A request whose reply has not come; ``done`` is None for set-points, which nobody waits for."""

    request: str
    sent_ns: int
    done: threading.Event | None
    timeout_ns: int = 0
    reply: Reply | None = None
    error: ArmError | None = None
    abandoned: bool = False

    @property
    def is_servo(self) -> bool:
        return self.done is None

    def fail(self, error: ArmError) -> None:
        self.error = error
        if self.done is not None:
            self.done.set()


@dataclass(frozen=True)
class DashboardStatistics:
    """What the connection has seen: set-points sent and skipped, replies that came late, strayed or got lost."""

    servo_sent: int
    servo_skipped: int
    servo_outstanding: int
    late_replies: int
    stray_replies: int
    lost_replies: int


@dataclass
class Counts:
    """The running figures behind `DashboardStatistics`."""

    servo_sent: int = 0
    servo_skipped: int = 0
    late_replies: int = 0
    stray_replies: int = 0
    lost_replies: int = 0


@dataclass
class Stream:
    """Everything the two directions share; guarded by ``lock``."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    pending: deque[Pending] = field(default_factory=deque)
    servo_outstanding: int = 0
    servo_error: int | None = None
    broken: ArmError | None = None
