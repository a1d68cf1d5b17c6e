"""The processes of one rig: a worker for each camera, and robotd. Started, watched and stopped in order.

::

    with Station("twin", log_dir=Path("outputs/logs")) as station:
        client = RobotClient.connect(station.rig, name="rollout")

A process that is running already (somebody else's robotd or camera worker) is used and left running. A camera worker
that ends or hangs is started again with growing pauses (`robot.cameras.keeper`); robotd is not: an operator should look
before the arm moves again.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from configs.schema import RigConfig, load_rig
from robot.cameras.backend import CameraLabel
from robot.cameras.keeper import CameraKeeper, CameraLife
from robot.daemon import RobotClient
from robot.daemon.errors import RobotdError
from robot.daemon.lock import holder_pid
from robot.processes import Child, ChildFailedError
from robot.ring import RingError, RingReader
from robot.runtime import ring_name
from robot.twin.control import TwinControl, TwinControlError

CAMERAS: tuple[CameraLabel, ...] = ("exterior", "wrist")
READY_TIMEOUT_S = 20.0
TWIN_TIMEOUT_S = 1.0
WATCH_PERIOD_S = 0.25
_LOG = logging.getLogger("station")


class StationError(RuntimeError):
    """The station cannot come up. One line: what was expected, what was found, what to do."""


class Station:
    """A context manager; enter it in the main thread (its children die with the thread that started them).

    ``rig`` is a name in configs/rigs or a path to a YAML file (`ConfigError`). Entering raises `StationError`.
    """

    def __init__(self, rig: str | Path, *, log_dir: Path) -> None:
        self.rig: RigConfig = load_rig(rig)
        self._rig_argument = str(rig)
        self._log_dir = log_dir
        self._children: dict[str, Child] = {}
        self._keepers: dict[CameraLabel, CameraKeeper] = {}
        self._problem: str | None = None
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="station", daemon=True)

    @property
    def problem(self) -> str | None:
        """What has failed for good since the start, None while all is well."""
        return self._problem

    def camera_restarts(self) -> dict[str, int]:
        """How often each camera worker had to be started again."""
        return {name: self._keepers[name].restarts if name in self._keepers else 0 for name in CAMERAS}

    def camera_states(self) -> dict[str, CameraLife]:
        """How the camera workers that this station started are doing."""
        return {name: keeper.state for name, keeper in self._keepers.items()}

    def __enter__(self) -> Self:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        try:
            self._require_twin()
            for name in CAMERAS:
                if not _is_written(ring_name(self.rig.name, f"camera.{name}")):
                    self._start_camera(name)
            if holder_pid(self.rig.name) is None:
                self._children["robotd"] = self._child("robotd", module="robot.daemon")
            self._wait_until_ready()
        except BaseException:
            self._stop_children()
            raise
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._watcher.join()
        self._stop_children()

    def _require_twin(self) -> None:
        if self.rig.twin is None:
            return
        try:
            TwinControl.wait(self.rig, timeout_s=TWIN_TIMEOUT_S).close()
        except TwinControlError as error:
            raise StationError(str(error)) from None

    def _start_camera(self, name: CameraLabel) -> None:
        def start(recover: bool) -> Child:
            arguments = ("--camera", name, *(["--recover"] if recover else []))
            return self._child(f"camera {name}", module="robot.cameras", arguments=arguments)

        self._keepers[name] = CameraKeeper(name, rig_name=self.rig.name, start=start)

    def _child(self, label: str, *, module: str, arguments: tuple[str, ...] = ()) -> Child:
        log_path = self._log_dir / f"{label.replace(' ', '-')}.log"
        return Child(label, module=module, args=("--rig", self._rig_argument, *arguments), log_path=log_path)

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        for name in CAMERAS:
            keeper = self._keepers.get(name)
            child = keeper.child if keeper is not None else None
            ring = ring_name(self.rig.name, f"camera.{name}")
            self._wait_for(f"camera {name}", partial(_is_written, ring), child=child, deadline_s=deadline_s)
        self._wait_for("robotd", self._robotd_answers, child=self._children.get("robotd"), deadline_s=deadline_s)

    def _wait_for(self, label: str, ready: Callable[[], bool], *, child: Child | None, deadline_s: float) -> None:
        while not ready():
            if child is not None and not child.running:
                raise StationError(f"{label} could not start: {_last_line(child)}")
            if time.monotonic() > deadline_s:
                where = f"; see {child.log_path}" if child is not None else ""
                raise StationError(f"{label} is not ready after {READY_TIMEOUT_S:g} s{where}")
            time.sleep(0.05)

    def _robotd_answers(self) -> bool:
        with suppress(RobotdError), RobotClient.connect(self.rig, name="station") as client:
            client.status()
            return True
        return False

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_PERIOD_S):
            for keeper in self._keepers.values():
                keeper.tick()
            robotd = self._children.get("robotd")
            if robotd is not None and self._problem is None:
                try:
                    robotd.check()
                except ChildFailedError as error:
                    self._problem = str(error)
                    _LOG.error("%s", error)

    def _stop_children(self) -> None:
        # robotd first: it decelerates the arm while everything it may need is still there.
        for child in self._children.values():
            child.stop()
        for keeper in self._keepers.values():
            keeper.stop()


def _last_line(child: Child) -> str:
    """Why a process ended: what it said last."""
    text = child.log_path.read_text(errors="replace").strip() if child.log_path is not None else ""
    return text.splitlines()[-1] if text else f"exit code {child.process.returncode}"


def _is_written(name: str) -> bool:
    """Whether a live process writes this ring and has written something."""
    try:
        with RingReader(name) as reader:
            return not reader.closed and reader.newest_seq >= 0 and Path(f"/proc/{reader.writer_pid}").exists()
    except RingError:
        return False
