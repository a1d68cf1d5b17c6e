"""Between episodes: put the scene in order, and say afterwards whether the task was done.

On the twin the scene is drawn from a seed and the twin judges from exact poses. On a real rig an operator does both.
"""

import select
import sys
import threading
import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console

from configs.schema import RigConfig, TaskConfig
from robot.daemon.client import RobotClient
from robot.rollout.rubric import STAGES, stage_name
from robot.rollout.scene_gate import SceneGate
from robot.state import MachineState
from robot.twin.control import TwinControl, TwinControlError

_JUDGE_PERIOD_S = 0.25
_SETTLE_S = 5.0


class Trials(Protocol):
    """One rig's way to reset and to judge. `begin` and `end` enclose an episode; `done` returns at once."""

    def reset(self, task: TaskConfig, *, seed: int, stop: threading.Event) -> None:
        """Put the scene in order; the arm is at its start. Returns early when ``stop`` is set."""
        ...

    def begin(self, task: TaskConfig) -> None:
        """The episode starts now."""
        ...

    def done(self) -> bool:
        """Whether the task has been seen to be done since `begin`."""
        ...

    def end(self, *, stop: threading.Event) -> tuple[bool, str]:
        """The verdict, and how far the task got where that is known."""
        ...

    def place_arm(self) -> bool:
        """Put the arm to its start by other means than driving it; False where that is not possible."""
        ...

    def recover(self, robot: RobotClient) -> bool:
        """After a collision or a fault: make arm and scene ready for the next episode; False where that takes a person.
        Raises `RobotdError` when the fault lasts."""
        ...

    def close(self) -> None: ...


class TwinTrials:
    """Resets the twin's objects from the seed and asks the twin, from a thread, whether the task is done. ``varied``:
    light, colours and cameras are drawn from the seed, too."""

    def __init__(self, rig: RigConfig, *, varied: bool = False) -> None:
        self._rig = rig
        self._varied = varied
        self._control = TwinControl.connect(rig)
        self._seed = 0
        self._task: str | None = None
        self._solved = threading.Event()
        self._over = threading.Event()
        self._judge: threading.Thread | None = None

    def reset(self, task: TaskConfig, *, seed: int, stop: threading.Event) -> None:
        self._seed, self._task = seed, task.target_object
        self._reset(arm=False)

    def place_arm(self) -> bool:
        self._reset(arm=True)
        return True

    def recover(self, robot: RobotClient) -> bool:
        """What ran into what is simulated: nobody has to look before the alarm is cleared."""
        self._reset(arm=True)
        robot.acknowledge(clear_alarm=True)
        if robot.status().machine_state is MachineState.DISABLED:
            robot.enable(drop_allowed=True)
        return True

    def _reset(self, *, arm: bool) -> None:
        """The controller takes a moment to see that a motion is over, and the twin refuses until then."""
        deadline_s = time.monotonic() + _SETTLE_S
        while True:
            try:
                self._control.reset(self._seed, task=self._task, arm=arm, variation=self._varied)
                return
            except TwinControlError:
                if time.monotonic() > deadline_s:
                    raise
            time.sleep(0.1)

    def begin(self, task: TaskConfig) -> None:
        self._solved.clear()
        self._over.clear()
        self._judge = threading.Thread(target=self._watch, name="judge", daemon=True)
        self._judge.start()

    def done(self) -> bool:
        return self._solved.is_set()

    def end(self, *, stop: threading.Event) -> tuple[bool, str]:
        self._over.set()
        if self._judge is not None:
            self._judge.join()
        result = self._control.success()
        return self._solved.is_set() or result.success, result.best_stage

    def close(self) -> None:
        self._over.set()
        if self._judge is not None:
            self._judge.join()
        self._control.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _watch(self) -> None:
        try:
            with TwinControl.connect(self._rig) as control:
                while not self._over.wait(_JUDGE_PERIOD_S):
                    if control.success().success:
                        self._solved.set()
                        return
        except TwinControlError:
            return  # the twin has gone; robotd and the cameras say so more clearly


class OperatorTrials:
    """Asks the person at the rig. ``assume_ready``: start without asking; the verdict is always asked for. ``rubric``:
    how far the task got is asked for too. ``gate``: begin only when the scene looks as it did before."""

    def __init__(
        self, console: Console, *, assume_ready: bool, rubric: bool = False, gate: SceneGate | None = None
    ) -> None:
        self._console = console
        self._assume_ready = assume_ready
        self._rubric = rubric
        self._gate = gate

    def reset(self, task: TaskConfig, *, seed: int, stop: threading.Event) -> None:
        question = f"Set up the scene for '{task.prompt}' (initial state {seed}), then press Enter: "
        while not self._assume_ready and not stop.is_set():
            answered = self._ask(question, stop=stop)
            wrong = self._gate.check() if self._gate is not None and not stop.is_set() else None
            if wrong is None or not answered:
                return
            question = f"{wrong}. Move the objects back, then press Enter: "

    def place_arm(self) -> bool:
        return False

    def recover(self, robot: RobotClient) -> bool:
        return False

    def begin(self, task: TaskConfig) -> None:
        return

    def done(self) -> bool:
        return False

    def end(self, *, stop: threading.Event) -> tuple[bool, str]:
        stage = self._stage(stop) if self._rubric else ""
        answer = self._ask("Was the task done? [y/N] ", stop=stop)
        return answer.strip().lower() in ("y", "yes"), stage

    def _stage(self, stop: threading.Event) -> str:
        """By the rubric; an answer that is no number in it is asked for again."""
        listed = ", ".join(f"{count} {stage_name(count)}" for count in range(len(STAGES) + 1))
        while answer := self._ask(f"How far did it get ({listed})? ", stop=stop):
            if answer.strip().isdigit() and int(answer) <= len(STAGES):
                return stage_name(int(answer))
        return ""

    def close(self) -> None:
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, question: str, *, stop: threading.Event) -> str:
        """A line from the terminal; empty without one or when ``stop`` is set (``input()`` would not hear a Ctrl-C)."""
        if stop.is_set() or not sys.stdin.isatty():
            return ""
        self._console.print(question, end="", markup=False)
        while not stop.is_set():
            ready, _, _ = select.select([sys.stdin], [], [], 0.1)
            if ready:
                return sys.stdin.readline()
        return ""
