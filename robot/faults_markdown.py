"""The table of faults as Markdown, for the README: ``python -m robot.faults_markdown README.md`` writes it there.

It goes between the lines ``<!-- faults:begin -->`` and ``<!-- faults:end -->``; what stood there is replaced.
"""

import argparse
import sys
from pathlib import Path

from robot.faults import FAULTS, Fault, Reaction, Severity

BEGIN, END = "<!-- faults:begin -->", "<!-- faults:end -->"

_REACTIONS: dict[Reaction, str] = {
    Reaction.COUNT: "counted and shown; what was refused or skipped is not made up for",
    Reaction.HOLD: "the arm decelerates and holds; it goes on when the cause is gone",
    Reaction.BRAKE_AND_LATCH: "the arm decelerates and holds until an operator acknowledges",
    Reaction.SILENCE_AND_LATCH: "nothing more is sent, every target is forgotten, until an operator acknowledges",
    Reaction.REFUSE_START: "the job does not start",
}
_SEVERITIES: dict[Severity, str] = {
    Severity.NOTICE: "notice",
    Severity.WARNING: "warning",
    Severity.FAULT: "fault",
}


class MarkersMissingError(ValueError):
    """The file has no place for the table."""


def faults_table_markdown() -> str:
    """Every fault with its code, severity, what the stack does and what the operator is told."""
    lines = [
        "| code | fault | severity | what happens by itself | what the operator is told |",
        "|---|---|---|---|---|",
    ]
    for fault, row in FAULTS.items():
        if fault is not Fault.NONE:
            name = fault.name.lower().replace("_", " ")
            lines.append(
                f"| {int(fault)} | {name} | {_SEVERITIES[row.severity]} | {_REACTIONS[row.reaction]} | {row.text} |"
            )
    return "\n".join(lines)


def with_table(text: str) -> str:
    """``text`` with the present table between its markers. Raises `MarkersMissingError`."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise MarkersMissingError(f"expected the lines {BEGIN} and {END}, in this order")
    return f"{before}{BEGIN}\n{faults_table_markdown()}\n{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when the file is up to date, 1 with one line on an error."""
    parser = argparse.ArgumentParser(description="Writes the table of faults into a Markdown file.")
    parser.add_argument("file", type=Path)
    path: Path = parser.parse_args(arguments).file
    try:
        path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
    except (OSError, MarkersMissingError) as error:
        print(f"faults: {path}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
