"""What an evaluation will do, written down before the first trial: which trials, and in which order."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs.report import write_json
from policy_server.client import Continuity
from robot.evaluation.trial import Trial
from robot.rollout.chunks import ExecutionMode
from robot.rollout.session import DEFAULT_REPLAN_TICKS

PLAN_NAME = "plan.json"


class EvaluationError(ValueError):
    """An evaluation that can't be done as asked. Says the option, what is allowed and what was given."""


@dataclass(frozen=True)
class EvaluationPlan:
    """Every policy meets every seeded start of every task under every condition. `policies` maps aliases to names or
    files of policy configurations."""

    rig: str
    policies: dict[str, str]
    tasks: tuple[str, ...]
    trials: int
    seed: int
    modes: tuple[ExecutionMode, ...]
    replan_ticks: tuple[int, ...]
    latencies_s: tuple[float, ...]
    plain: bool
    continuities: tuple[Continuity, ...] = ()
    """How chunks follow each other; as each policy was trained when empty."""

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise EvaluationError(f"--trials: expected at least 1 for each task, got {self.trials}")
        if any(not 0.0 <= latency <= 1.0 for latency in self.latencies_s):
            raise EvaluationError(f"--latency: expected seconds from 0 to 1, got {list(self.latencies_s)}")
        if any(not 1 <= ticks <= 15 for ticks in self.replan_ticks):
            raise EvaluationError(f"--replan-ticks: expected 1 to 15, got {list(self.replan_ticks)}")

    def all_trials(self) -> list[Trial]:
        """Seeds outermost, so that an evaluation that is cut short has compared everything on the same starts."""
        return [
            Trial(policy, task, self.seed + index, mode.value, ticks, latency, continuity)
            for index in range(self.trials)
            for task in self.tasks
            for latency in self.latencies_s
            for mode in self.modes
            for ticks in self.replan_ticks or (DEFAULT_REPLAN_TICKS[mode],)
            for continuity in self._continuities(mode)
            for policy in self.policies
        ]

    def _continuities(self, mode: ExecutionMode) -> tuple[str, ...]:
        """In sync mode a chunk begins at rest, after the one before has ended."""
        return tuple(map(str, self.continuities)) if self.continuities and mode is ExecutionMode.ASYNC else ("",)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        named = {"modes": list(map(str, self.modes)), "continuities": list(map(str, self.continuities))}
        return asdict(self) | named

    def write_once(self, folder: Path) -> None:
        """Write the plan, or check that the one in the folder is the same but for the number of trials.

        Raises `EvaluationError` when the folder holds another evaluation.
        """
        path = folder / PLAN_NAME
        plain = json.loads(json.dumps(self.to_json()))
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            changed = [key for key in plain if key != "trials" and before.get(key) != plain[key]]
            if changed:
                raise EvaluationError(f"{folder} holds another evaluation ({', '.join(changed)} differ); give --output")
        write_json(path, plain)
