"""Twin and policy server on this machine, each a process of its own, started as it would be by hand.

The demo and the benchmarks run on it. Ports that are taken are replaced by free ones in a copy of the twin's rig file.
"""

import os
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from configs.schema import CONFIGS, RigConfig, load_rig
from robot.policy_process import PolicyProcess, listen
from robot.processes import Child, ChildFailedError
from robot.twin.control import TwinControl, TwinControlError

TWIN_READY_S = 40.0
USUAL_SERVER_PORT = 8000


class LocalStack:
    """A context manager: entering starts both processes, `wait_until_ready` waits for them, leaving stops them.

    ``folder`` receives the rig file in use (``rig.yaml``) and the logs; ``policy`` is a name in configs/policies or a
    path to a YAML file; ``motion``: the server shows predicted motion. Enter it in the main thread: children die with
    the thread that started them.
    """

    def __init__(self, folder: Path, *, policy: str, motion: bool = False) -> None:
        self._logs = folder / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self.rig_path = free_rig(folder)
        self.rig: RigConfig = load_rig(self.rig_path)
        self._server = PolicyProcess(
            policy, log_path=self._logs / "policy-server.log", usual_port=USUAL_SERVER_PORT, motion=motion
        )
        self._twin: Child | None = None
        self._exits = ExitStack()

    @property
    def server_url(self) -> str:
        """Where the policy server listens."""
        return self._server.url

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            self._twin = Child(
                "the twin",
                module="robot.twin.server",
                args=("--rig", str(self.rig_path), "--headless"),
                log_path=self._logs / "twin.log",
                environment={"MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl")},
            )
            exits.callback(self._twin.stop)
            exits.enter_context(self._server)
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    def wait_until_ready(self, stop: threading.Event | None = None) -> None:
        """Return when both are ready, or ``stop`` has been set. Raises `ChildFailedError`."""
        stop = stop or threading.Event()
        self._wait_for_twin(stop)
        self._server.wait_until_ready(stop)
        self._server.prefer()

    def _wait_for_twin(self, stop: threading.Event) -> None:
        deadline_s = time.monotonic() + TWIN_READY_S
        while not stop.is_set():
            if self._twin is not None:
                self._twin.check_started()
            try:
                TwinControl.wait(self.rig, timeout_s=0.2).close()
                return
            except TwinControlError as error:
                if time.monotonic() > deadline_s:
                    raise ChildFailedError(
                        f"the twin is not ready after {TWIN_READY_S:g} s: {error}; see {self._logs}"
                    ) from None


def free_rig(folder: Path) -> Path:
    """A copy of the twin's rig file in ``folder``; where the usual ports are taken, with free ones and another name."""
    content: dict[str, Any] = yaml.safe_load((CONFIGS / "rigs" / "twin.yaml").read_text(encoding="utf-8"))
    arm, twin = content["arm"], content["twin"]
    reserved: list[socket.socket] = []
    try:
        for section in (arm, twin):
            for key in [key for key in section if key.endswith("_port")]:
                usual = section[key]
                listener = listen(usual) or listen(0)
                assert listener is not None
                reserved.append(listener)
                section[key] = listener.getsockname()[1]
                if section[key] != usual:
                    # Another twin is running: rings and sockets are named after the rig.
                    content["name"] = f"twin-{os.getpid()}"
    finally:
        for listener in reserved:
            listener.close()
    path = folder / "rig.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path
