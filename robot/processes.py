"""How every process of the stack is started and stopped: one way for all.

A child runs in its own session, so a Ctrl-C in the terminal reaches only the parent, which then shuts its children down
in order. Linux sends a child SIGTERM when its parent dies, so nothing outlives a crash or a ``kill -9`` of the parent.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class ChildFailedError(RuntimeError):
    """A child process ended although it should be running."""


class Child:
    """A child process running ``python -m MODULE ARGS``, its output in ``log_path`` (or inherited if None).

    ``outlives_parent``: it goes on when this process ends, and somebody else must stop it. ``python`` is another
    environment's interpreter instead of this one's.
    """

    def __init__(
        self,
        name: str,
        *,
        module: str,
        args: Sequence[str] = (),
        log_path: Path | None = None,
        environment: dict[str, str] | None = None,
        outlives_parent: bool = False,
        python: Path | None = None,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._log = log_path.open("ab") if log_path else None
        # One thread for numerical libraries: control processes must not compete with inference for cores.
        env = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **os.environ, **(environment or {})}
        # A thread that starts a child and ends would otherwise look like a dead parent to PR_SET_PDEATHSIG, so
        # children are started from the main thread or from one that lives as long as they do.
        self.process = subprocess.Popen(
            [str(python or sys.executable), "-m", module, *args],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT if self._log else None,
            start_new_session=True,
            preexec_fn=None if outlives_parent else _die_with_parent,
            env=env,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def check(self) -> None:
        """Raise `ChildFailedError` with the end of the child's log if it has ended."""
        if not self.running:
            raise ChildFailedError(f"{self.name} ended with exit code {self.process.returncode}{self._log_tail()}")

    def check_started(self) -> None:
        """As `check`, of one that is expected to come up: its last line says why it did not."""
        if not self.running:
            raise ChildFailedError(f"{self.name} could not start{self._log_tail(1) or ': it printed nothing'}")

    def stop(self, *, timeout_s: float = 5.0) -> int:
        """SIGTERM, wait, then SIGKILL; returns the exit code. Stopping twice is fine."""
        if self.running:
            self.process.terminate()
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self._log:
            self._log.close()
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL at once, for tests of what happens when a process dies."""
        self.process.kill()
        self.process.wait()

    def _log_tail(self, lines: int = 6) -> str:
        if self.log_path is None or not self.log_path.exists():
            return ""
        tail = self.log_path.read_text(errors="replace").strip().splitlines()[-lines:]
        return ": " + " | ".join(line.strip() for line in tail) if tail else ""


@contextlib.contextmanager
def stop_event_on_signals() -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM and SIGHUP set: the one shutdown path of every job.

    Code in the block waits on the event and leaves in order; a second signal changes nothing, so a stop in progress is
    never skipped. Main thread only.
    """
    event = threading.Event()

    def request_stop(number: int, frame: FrameType | None) -> None:
        event.set()

    previous = {
        number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
