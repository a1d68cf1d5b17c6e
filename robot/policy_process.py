"""Policy servers on this machine: one of our own, started as it would be by hand, or one that runs already."""

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
    """A context manager around ``python -m policy_server.main --policy POLICY``. Enter it in the main thread, or in one
    that lives as long: children die with the thread that started them."""

    def __init__(
        self, policy: str, *, log_path: Path, seed: int = 0, usual_port: int = 0, motion: bool = False
    ) -> None:
        """``policy`` is a name in configs/policies, a path to a YAML file, or the folder of a checkpoint or run;
        ``usual_port`` is taken if it is free, else any; ``motion``: the server shows predicted motion."""
        which = "--checkpoint" if Path(policy).is_dir() else "--policy"
        self._arguments = (which, policy, "--seed", str(seed), *(["--motion"] if motion else []))
        self._name = f"the policy server of {policy}"
        self._log_path = log_path
        self._port = free_port(usual_port)
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"ws://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        arguments = (*self._arguments, "--port", str(self._port))
        self._child = Child(self._name, module="policy_server.main", args=arguments, log_path=self._log_path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self._child.stop()

    def prefer(self) -> None:
        """See `Served`; only threads that it has now, so call it once it is ready."""
        if self._child is not None:
            prefer_threads_of(self._child.pid, priority=DRAWING_PRIORITY)

    def wait_until_ready(self, stop: threading.Event) -> None:
        """Return when it answers, or ``stop`` is set. Raises `ChildFailedError` when it ends or takes too long."""
        deadline_s = time.monotonic() + READY_S
        while not stop.wait(0.1):
            if self._child is not None:
                self._child.check_started()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=2.0):
                    return
            except (urllib.error.URLError, OSError):
                if time.monotonic() > deadline_s:
                    raise ChildFailedError(
                        f"{self._name} is not ready after {READY_S:g} s; see {self._log_path}"
                    ) from None


def free_port(usual: int) -> int:
    """The usual port if it is free, else any that is; 0: any."""
    listener = listen(usual) or listen(0)
    assert listener is not None
    with listener:
        return int(listener.getsockname()[1])


def listen(port: int) -> socket.socket | None:
    """A socket that listens on a local port (0: any free one), None if the port is taken."""
    listener = socket.socket()
    try:
        # A connection of an earlier run may still linger on the port; that does not make it taken.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
    except OSError:
        listener.close()
        return None
    return listener
