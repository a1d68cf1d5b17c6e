"""Contestants in processes of their own that take turns: each obeys lines on its input and answers with lines of JSON.

A machine that slows down slows all of them, and the ratio of neighbours in time stays.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
GRACE_S = 10.0


class ContestantError(RuntimeError):
    """A contestant did not start or broke down; its last words."""


class Contestant:
    """A process that answers each line with one line of JSON."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def hear(self) -> Any:
        """Its next line. Raises `ContestantError` if it has ended."""
        stdout = self._process.stdout
        line = stdout.readline() if stdout is not None else ""
        if not line:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
            self._process.kill()
            _, complaint = self._process.communicate()
            ended = f"it ended without a word, exit code {self._process.returncode} (-9: killed, out of memory?)"
            raise ContestantError(complaint.strip()[-1500:] or ended)
        try:
            return json.loads(line)
        except ValueError:
            return self.hear()  # a library's greeting

    def tell(self, line: str) -> None:
        """Send a line."""
        if self._process.stdin is None:
            raise ContestantError("it takes no orders")
        with suppress(OSError):  # it has ended; hear() says why
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def ask(self, line: str) -> Any:
        """Send a line and give the answer."""
        self.tell(line)
        return self.hear()

    def kill(self) -> None:
        """End it in the middle of what it does."""
        self._process.kill()

    def end(self) -> None:
        """Close its input, by which it ends."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


def in_turns(contestants: Sequence[Contestant], order: str, *, rounds: int) -> list[list[float]]:
    """All times of each contestant: `rounds` times A, B, ..., B, A; each answer to `order` is a list of times."""
    found: list[list[float]] = [[] for _ in contestants]
    indices = list(range(len(contestants)))
    for _ in range(rounds):
        for index in (*indices, *reversed(indices)):
            found[index] += contestants[index].ask(order)
    return found
