"""What blind trials on a rig will be, written down and sealed before the first one."""

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.report import write_json
from policy_server.client import Continuity
from robot.evaluation.plan import PLAN_NAME, EvaluationError
from robot.evaluation.sequential import Look, looks
from robot.rollout.chunks import ExecutionMode

SEAL_NAME = ".sealed.json"
LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class BlindTrial:
    """One trial: its number, which the operator sees; its start; and a letter that stands for a policy."""

    number: int
    task: str
    start: int
    letter: str


@dataclass(frozen=True)
class RigPlan:
    """Each policy meets each start of each task once, the policies of a start back to back in random order.

    ``policies`` maps names to addresses or configurations; ``letters`` maps letters to names and is what is sealed.
    """

    rig: str
    policies: dict[str, str]
    letters: dict[str, str]
    tasks: tuple[str, ...]
    starts: int
    first_start: int
    mode: ExecutionMode
    replan_ticks: int | None
    looks: int
    order_seed: int
    digests: dict[str, str]
    continuity: Continuity | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.policies) <= len(LETTERS):
            raise EvaluationError(f"--policy: expected 1 to {len(LETTERS)} policies, got {len(self.policies)}")
        if self.starts < 1:
            raise EvaluationError(f"--trials: expected at least 1 start of each task, got {self.starts}")
        if self.looks != 1 and len(self.policies) != 2:
            raise EvaluationError("--looks: interim looks compare two policies; give --policy twice, or --looks 1")
        try:
            looks(self.pairs, count=self.looks)
        except ValueError as error:
            raise EvaluationError(f"--looks: {error}") from None

    @property
    def pairs(self) -> int:
        """Starts of all tasks together: trials of each policy."""
        return self.starts * len(self.tasks)

    @property
    def planned_looks(self) -> list[Look]:
        """When trials may end early, and at which p-value."""
        return looks(self.pairs, count=self.looks)

    def trials(self) -> list[BlindTrial]:
        """In order: starts in random order, tasks mixed, each start met by all policies in a row."""
        random = np.random.default_rng(self.order_seed)
        meetings = [(task, self.first_start + index) for index in range(self.starts) for task in self.tasks]
        shuffled = [meetings[i] for i in random.permutation(len(meetings))]
        letters = sorted(self.letters)
        rows = [
            (task, start, letters[i]) for task, start in shuffled for i in random.permutation(len(letters)).tolist()
        ]
        return [BlindTrial(number, *row) for number, row in enumerate(rows, start=1)]

    def open_part(self, salt: str) -> dict[str, Any]:
        """What may be read during the trials: everything but who is who, and a hash that binds it."""
        plain = asdict(self) | {"mode": self.mode.value}
        for secret in ("letters", "digests"):
            del plain[secret]
        return plain | {
            "policies": sorted(self.policies),
            "sealed_sha256": seal_of(self.letters, salt),
            "looks_at": [asdict(look) for look in self.planned_looks],
            "success": "the operator's verdict, on a simulated rig the twin's; time-outs, collisions, interventions "
            "and refusals of the guard are failures; robot faults are void and repeated",
        }


def seal_of(letters: dict[str, str], salt: str) -> str:
    """The hash that is published before the trials; letters and salt are published after."""
    return hashlib.sha256((salt + json.dumps(letters, sort_keys=True)).encode()).hexdigest()


def draw_letters(names: list[str]) -> dict[str, str]:
    """Letters for policies, by chance."""
    shuffled = list(names)
    secrets.SystemRandom().shuffle(shuffled)
    return dict(zip(LETTERS, shuffled, strict=False))


def open_plan(folder: Path, wanted: RigPlan) -> RigPlan:
    """The plan of a folder: the one that is there, or this one, now sealed. Raises `EvaluationError` when the folder's
    is another evaluation, or its seal is broken."""
    plan_path, seal_path = folder / PLAN_NAME, folder / SEAL_NAME
    if not plan_path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        salt = secrets.token_hex(16)
        plain = asdict(wanted) | {"mode": wanted.mode.value}
        write_json(seal_path, {"salt": salt, "plan": plain})
        seal_path.chmod(0o600)
        write_json(plan_path, wanted.open_part(salt))
        return wanted
    try:
        sealed = json.loads(seal_path.read_text(encoding="utf-8"))
        shown = json.loads(plan_path.read_text(encoding="utf-8"))
        plain = sealed["plan"]
        how = Continuity(plain["continuity"]) if plain.get("continuity") else None
        typed = {"tasks": tuple(plain["tasks"]), "mode": ExecutionMode(plain["mode"]), "continuity": how}
        found = RigPlan(**{**plain, **typed})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{folder}: its sealed plan can't be read ({error}); give another --output") from None
    if shown.get("sealed_sha256") != seal_of(found.letters, str(sealed["salt"])):
        raise EvaluationError(f"{folder}: the seal is broken: who is who was changed after the plan was written")
    free = ("letters", "order_seed", "digests")
    changed = [key for key in asdict(found) if key not in free and getattr(found, key) != getattr(wanted, key)]
    if changed:
        raise EvaluationError(f"{folder} holds another evaluation ({', '.join(changed)} differ); give --output")
    if found.digests and wanted.digests and found.digests != wanted.digests:
        raise EvaluationError(f"{folder}: a server has another checkpoint now than when these trials began")
    return found
