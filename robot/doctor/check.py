"""One line of the doctor's report."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rich.table import Table


class Status(Enum):
    """How much a finding matters."""

    GREEN = "green"
    YELLOW = "yellow"
    """Works, with less than one would want; or could not be looked at."""
    RED = "red"
    """A job on this rig would not start, or not work."""


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, what is expected, and what to do about it (empty when green)."""

    name: str
    status: Status
    found: str
    expected: str = ""
    fix: str = ""


def green(name: str, found: str, *, expected: str = "") -> Check:
    """All is well."""
    return Check(name, Status.GREEN, found, expected)


def yellow(name: str, found: str, *, expected: str, fix: str) -> Check:
    """Worth knowing."""
    return Check(name, Status.YELLOW, found, expected, fix)


def red(name: str, found: str, *, expected: str, fix: str) -> Check:
    """To be mended first."""
    return Check(name, Status.RED, found, expected, fix)


def unseen(name: str, *, because: str) -> Check:
    """Could not be looked at, for a reason that another line shows in red."""
    return Check(name, Status.YELLOW, "not looked at", fix=because)


def is_healthy(checks: Sequence[Check]) -> bool:
    """Whether nothing is red."""
    return all(check.status is not Status.RED for check in checks)


def report(checks: Sequence[Check]) -> dict[str, Any]:
    """The machine-readable result."""
    listed = [
        {
            "name": check.name,
            "status": check.status.value,
            "found": check.found,
            "expected": check.expected,
            "fix": check.fix,
        }
        for check in checks
    ]
    return {"ok": is_healthy(checks), "checks": listed}


def table(title: str, checks: Sequence[Check]) -> Table:
    """The report for people."""
    drawn = Table(title=title, title_justify="left")
    for heading in ("", "check", "found", "what to do"):
        drawn.add_column(heading, overflow="fold")
    for check in checks:
        advice = f"expected {check.expected}: {check.fix}" if check.fix and check.expected else check.fix
        drawn.add_row(f"[{check.status.value}]● {check.status.value}[/]", check.name, check.found, advice)
    return drawn
