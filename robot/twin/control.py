"""Talking to a running twin: reset it, look at its objects, judge the task, break something.

The twin listens on 127.0.0.1 at the rig's ``twin.control_port``. Requests and replies are JSON, one a line:
``{"op": "reset", "seed": 3}`` is answered by ``{"ok": true, "result": ...}`` or ``{"ok": false, "error": "..."}``.
`TwinControl` is the client; it needs neither MuJoCo nor a GPU.
"""

import json
import socket
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from configs.schema import RigConfig
from robot.twin.faults import TwinFault

HOST = "127.0.0.1"
MAX_LINE_BYTES = 65536
_TIMEOUT_S = 10.0
_RETRY_S = 0.05


class TwinControlError(RuntimeError):
    """The twin is not there, or refused; the text says why."""


@dataclass(frozen=True)
class TwinObject:
    """An object of the scene: middle (3,) m and orientation (4,) wxyz, base frame."""

    position_m: tuple[float, ...]
    quaternion_wxyz: tuple[float, ...]


@dataclass(frozen=True)
class TaskResult:
    """Whether the task is done at this moment, what is missing, and the furthest stage since the reset."""

    success: bool
    flaws: tuple[str, ...]
    best_stage: str


class TwinControl:
    """One connection to a twin; a context manager. Not thread-safe."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = connection.makefile("rb")

    @classmethod
    def connect(cls, rig: RigConfig) -> "TwinControl":
        """Raises `TwinControlError` when nothing listens or the rig is no twin."""
        if rig.twin is None:
            raise TwinControlError(f"rig {rig.name} has no 'twin' section: it is not simulated")
        port = rig.twin.control_port
        try:
            connection = socket.create_connection((HOST, port), timeout=_TIMEOUT_S)
        except OSError as error:
            raise TwinControlError(
                f"no twin answers on {HOST}:{port} ({error.strerror or error}); start it: launch/twin --rig {rig.name}"
            ) from None
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(connection)

    @classmethod
    def wait(cls, rig: RigConfig, *, timeout_s: float) -> "TwinControl":
        """A connection to the rig's twin as soon as it is ready: wires open and each camera delivering.

        Raises `TwinControlError` after ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                control = cls.connect(rig)
                if control.status()["ready"]:
                    return control
                control.close()
                problem = f"the twin on port {rig.twin.control_port if rig.twin else '-'} is not ready"
            except TwinControlError as error:
                problem = str(error)
            if time.monotonic() > deadline:
                raise TwinControlError(f"{problem} (waited {timeout_s:g} s)")
            time.sleep(_RETRY_S)

    def request(self, op: str, **arguments: Any) -> Any:
        """One request; raises `TwinControlError` with the twin's text when it refuses."""
        try:
            self._connection.sendall(json.dumps({"op": op, **arguments}).encode() + b"\n")
            line = self._reader.readline(MAX_LINE_BYTES)
        except OSError as error:
            raise TwinControlError(f"the twin did not answer {op!r}: {error}") from None
        if not line.endswith(b"\n"):
            raise TwinControlError(f"the twin closed the connection during {op!r}")
        reply = json.loads(line)
        if not reply["ok"]:
            raise TwinControlError(reply["error"])
        return reply["result"]

    def status(self) -> dict[str, Any]:
        """How it runs: ``ready``, ``mode``, ``real_time_factor``, ``overruns``, ``lost_slices``, ``clients``, ..."""
        return dict(self.request("status"))

    def reset(self, seed: int, *, task: str | None = None, variation: bool = False, arm: bool = False) -> None:
        """Draw a new scene. The arm stays where it is unless ``arm``, which puts it and the jaws to the rig's start.

        ``task`` (a task's target object) is what `success` judges from now on; ``variation`` varies light, colours and
        camera poses. Raises `TwinControlError` while the arm moves.
        """
        self.request("reset", seed=seed, task=task, variation=variation, arm=arm)

    def objects(self) -> dict[str, TwinObject]:
        """Where everything is, by name."""
        return {
            name: TwinObject(tuple(pose["position_m"]), tuple(pose["quaternion_wxyz"]))
            for name, pose in self.request("objects").items()
        }

    def success(self, task: str | None = None) -> TaskResult:
        """Judge the task given here or at the reset, at this moment."""
        found = self.request("success", task=task)
        return TaskResult(found["success"], tuple(found["flaws"]), found["best_stage"])

    def fault(self, fault: TwinFault, **arguments: Any) -> None:
        """Break something, or mend it again with ``on=False``; `robot.twin.faults.TABLE` has the arguments."""
        self.request("fault", name=fault.value, arguments=arguments)

    def mend(self) -> None:
        """End every fault that lasts. Alarms and collisions stay latched on the controller, as on a real one."""
        self.request("mend")

    def shutdown(self) -> None:
        """Ask the twin to end; it answers first."""
        self.request("shutdown")

    def close(self) -> None:
        self._reader.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
