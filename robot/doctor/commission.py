"""The first day on a real arm: one question after the other, and a copy of the rig's file with the answers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from robot.arm.errors import ArmError
from robot.doctor import first_day, first_day_gripper
from robot.doctor.dialogue import Dialogue
from robot.doctor.first_day import Answers, Question
from robot.doctor.session import ArmSession, SessionError
from robot.gripper.errors import GripperError


class Outcome(Enum):
    """How one question went."""

    ANSWERED = "answered"
    DECLINED = "declined"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """One question: its name, how it went, its answers, settings of the file that it changes, and why it failed."""

    name: str
    outcome: Outcome
    answers: Answers
    settings: dict[str, float]
    problem: str = ""


def commission(session: ArmSession, dialogue: Dialogue) -> Iterator[Finding]:
    """Ask everything in order, yielding each finding. A failed question does not end the list; one that left the arm in
    alarm makes those that need the arm fail, with that alarm's text."""
    for question in first_day.READING:
        yield _ask(question, session, dialogue)
    enabled = _attempt("enabled", lambda: _enabled(session, dialogue))
    yield replace(enabled, outcome=Outcome.FAILED if enabled.problem else Outcome.ANSWERED)
    yield _attempt("gripper", lambda: _gripper(session, dialogue))
    for question in (*first_day.MOVING, *first_day.LAST):
        yield _ask(question, session, dialogue)


def _ask(question: Question, session: ArmSession, dialogue: Dialogue) -> Finding:
    def ask() -> tuple[Answers, dict[str, float]]:
        answers = question(session, dialogue)
        mass = answers.get("payload_mass")
        return answers, {"mass_kg": float(mass.value)} if mass is not None else {}

    return _attempt(question.__name__, ask)


def _enabled(session: ArmSession, dialogue: Dialogue) -> tuple[Answers, dict[str, float]]:
    first_day.enable(session, dialogue)
    session.require_ready()
    return {}, {}


def _gripper(session: ArmSession, dialogue: Dialogue) -> tuple[Answers, dict[str, float]]:
    answers, sense = first_day_gripper.ask(session, dialogue)
    settings = {} if sense is None else {"open_permille": sense.open_permille, "closed_permille": sense.closed_permille}
    return answers, {key: float(value) for key, value in settings.items()}


def _attempt(name: str, ask: Callable[[], tuple[Answers, dict[str, float]]]) -> Finding:
    try:
        answers, settings = ask()
    except (SessionError, ArmError, GripperError) as error:
        return Finding(name, Outcome.FAILED, {}, {}, str(error))
    return Finding(name, Outcome.ANSWERED if answers else Outcome.DECLINED, answers, settings)
