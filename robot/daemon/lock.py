"""One robotd per rig: an exclusive lock on a file that names its holder."""

import fcntl
import os
import time
from pathlib import Path
from typing import Self, TextIO

from robot.daemon.errors import AlreadyRunningError
from robot.runtime import runtime_dir

_PATIENCE_S = 0.5
"""Somebody who only asks (`holder_pid`) has the lock for an instant."""


def lock_path(rig_name: str) -> Path:
    """The lock file of a rig's robotd."""
    return runtime_dir(rig_name) / "robotd.lock"


def socket_path(rig_name: str) -> Path:
    """The command socket of a rig's robotd."""
    return runtime_dir(rig_name) / "robotd.sock"


def holder_pid(rig_name: str) -> int | None:
    """The process that runs robotd for this rig, or None when nobody holds the lock."""
    try:
        file = lock_path(rig_name).open("r+")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _written_pid(file)
    return None


def _written_pid(file: TextIO) -> int:
    file.seek(0)
    return int(file.read().strip() or 0)


class RobotdLock:
    """Held from construction to `release`; the kernel frees it when the process dies. Raises `AlreadyRunningError`."""

    def __init__(self, rig_name: str) -> None:
        self._file = lock_path(rig_name).open("a+")
        deadline_s = time.monotonic() + _PATIENCE_S
        while not self._taken():
            if time.monotonic() > deadline_s:
                pid = _written_pid(self._file)
                self._file.close()
                raise AlreadyRunningError(
                    f"robotd for rig {rig_name!r} is already running (process {pid}): use that one, or stop it first"
                )
            time.sleep(0.02)
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Let the next robotd start."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()
