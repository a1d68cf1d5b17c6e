"""The policy servers of an evaluation: one of our own, started as it would be by hand, or one that runs already."""

import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from robot.priority import DRAWING_PRIORITY, prefer_threads_of
from robot.processes import Child, ChildFailedError

READY_S = 180.0


class Served(Protocol):
    """A policy server that can be asked."""

    @property
    def url(self) -> str: ...

    def wait_until_ready(self, stop: threading.Event) -> None:
        """Return when it answers, or ``stop`` is set. Raises `ChildFailedError` when it ends or takes too long."""
        ...

    def prefer(self) -> None:
        """Have it run before ordinary processes. A policy server is a PC of its own; where it shares the processor with
        devices and the 15 Hz loop, which are preferred, it would get what they leave."""
        ...


def is_address(policy: str) -> bool:
    """Whether this is a running server's address rather than a configuration."""
    return policy.startswith(("ws://", "wss://"))


def serving(policy: str, *, log_path: Path) -> AbstractContextManager[Served]:
    """A context manager that gives the server of a policy: a configuration's, or the one at an address."""
    return nullcontext(RunningServer(policy)) if is_address(policy) else PolicyProcess(policy, log_path=log_path)


class RunningServer:
    """A server that somebody else started and will stop."""

    def __init__(self, url: str) -> None:
        self.url = url

    def wait_until_ready(self, stop: threading.Event) -> None:
        """It is up to its owner; a client that can't connect says so."""
        return

    def prefer(self) -> None:
        """Where and how it runs is up to its owner."""
        return


class PolicyProcess:
    """A context manager around ``python -m policy_server.main --policy POLICY`` on a free port."""

    def __init__(self, policy: str, *, log_path: Path, seed: int = 0) -> None:
        """``policy`` is a name in configs/policies, a path to a YAML file, or the folder of a checkpoint or run."""
        self._policy = policy
        self._arguments = ("--checkpoint", policy) if Path(policy).is_dir() else ("--policy", policy)
        self._log_path = log_path
        self._seed = seed
        self._child: Child | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"ws://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._child = Child(
            f"the policy server of {self._policy}",
            module="policy_server.main",
            args=(*self._arguments, "--port", str(self._port), "--seed", str(self._seed)),
            log_path=self._log_path,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self._child.stop()

    def check(self) -> None:
        """Raise `ChildFailedError` if it has ended."""
        if self._child is not None:
            self._child.check()

    def prefer(self) -> None:
        """See `Served`; only threads that it has now, so call it once it is ready."""
        if self._child is not None:
            prefer_threads_of(self._child.pid, priority=DRAWING_PRIORITY)

    def wait_until_ready(self, stop: threading.Event) -> None:
        """Return when it answers, or ``stop`` is set. Raises `ChildFailedError` when it ends or takes too long."""
        deadline_s = time.monotonic() + READY_S
        while not stop.wait(0.2):
            self.check()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=2.0):
                    return
            except (urllib.error.URLError, OSError):
                if time.monotonic() > deadline_s:
                    raise ChildFailedError(
                        f"the policy server is not ready after {READY_S:g} s; see {self._log_path}"
                    ) from None
