"""Trials judged by the operator on the page: the scene is set up, then how far the task got and whether it was done.

On a twin the scene is still drawn from the seed; only the verdict is the operator's.
"""

import threading
from types import TracebackType
from typing import Self

from configs.schema import RigConfig, TaskConfig
from robot.daemon.client import RobotClient
from robot.operator_desk import OperatorDesk, Question
from robot.rollout.rubric import STAGES, stage_name
from robot.rollout.scene_gate import SceneGate
from robot.rollout.trials import TwinTrials

READY, DONE, NOT_DONE = "ready", "done", "not done"


class DeskTrials:
    """A `robot.rollout.trials.Trials` that asks on the page. ``trials`` is how many there will be, ``first`` the number
    of the first; ``gate`` lets a trial begin only when its scene looks as it did before."""

    def __init__(
        self,
        rig: RigConfig,
        *,
        trials: int,
        assume_ready: bool,
        first: int = 1,
        gate: SceneGate | None = None,
        varied: bool = False,
    ) -> None:
        self._desk = OperatorDesk(rig.name)
        self._twin = TwinTrials(rig, varied=varied) if rig.twin else None
        self._trials = trials
        self._trial = first - 1
        self._gate = gate
        self._assume_ready = assume_ready
        self._prompt = ""

    def reset(self, task: TaskConfig, *, seed: int, stop: threading.Event) -> None:
        self._trial += 1
        self._prompt = task.prompt
        if self._twin is not None:
            self._twin.reset(task, seed=seed, stop=stop)
        text = f"Set up the scene for: {task.prompt}"
        while not self._assume_ready and not stop.is_set():
            reference = self._gate.reference if self._gate is not None else None
            shown = str(reference) if reference is not None and reference.exists() else None
            self._desk.ask(
                Question(text=text, options=(READY,), trial=self._trial, trials=self._trials, reference=shown),
                stop=stop,
            )
            wrong = self._gate.check() if self._gate is not None and not stop.is_set() else None
            if wrong is None:
                return
            text = f"{wrong}. Move the objects until nothing shows twice: {task.prompt}"

    def place_arm(self) -> bool:
        return self._twin is not None and self._twin.place_arm()

    def recover(self, robot: RobotClient) -> bool:
        return self._twin is not None and self._twin.recover(robot)

    def begin(self, task: TaskConfig) -> None:
        return

    def done(self) -> bool:
        return False

    def end(self, *, stop: threading.Event) -> tuple[bool, str]:
        answer = self._desk.ask(
            Question(
                text=f"How far did it get? {self._prompt}",
                options=(DONE, NOT_DONE),
                trial=self._trial,
                trials=self._trials,
                stages=STAGES,
            ),
            stop=stop,
        )
        if answer is None:
            return False, ""
        return answer.option == DONE, stage_name(answer.stage or 0)

    def close(self) -> None:
        self._desk.close()
        if self._twin is not None:
            self._twin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
