"""`launch/twin`: run a twin; beside one that runs, ``faults`` lists what can be broken and ``fault NAME`` breaks it."""

import argparse
import sys

from rich.console import Console
from rich.table import Table

from configs.schema import ConfigError, load_rig
from robot.twin.control import TwinControl, TwinControlError
from robot.twin.faults import TABLE, FaultRequestError, parse_words

MEND = "mend"


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 when it did what it says, 1 with one line on an error."""
    words = sys.argv[1:] if arguments is None else arguments
    match words[:1]:
        case ["faults"]:
            Console().print(faults_table())
            return 0
        case ["fault"]:
            return break_something(words[1:])
        case _:
            # Only now: a fault is switched in a moment, without the physics engine.
            from robot.twin.server import main as run

            return run(words)


def faults_table() -> Table:
    """Every fault with its arguments and what it does."""
    table = Table(title="launch/twin fault NAME [argument=value ...]", title_justify="left")
    table.add_column("fault and arguments", overflow="fold")
    table.add_column("what happens")
    for row in TABLE.values():
        table.add_row(row.usage, row.text)
    table.add_row(MEND, "everything that lasts ends; alarms stay latched on the controller")
    return table


def break_something(words: list[str]) -> int:
    """Switch one fault of the running twin. Exit code as `main`."""
    parser = argparse.ArgumentParser(
        prog="launch/twin fault", description="Breaks something on a running twin; 'launch/twin faults' lists what."
    )
    parser.add_argument("--rig", default="twin", help="name of a rig in configs/rigs, or a path to a YAML file")
    parser.add_argument("name", help="the fault, or 'mend' to end everything that lasts")
    parser.add_argument("arguments", nargs="*", metavar="argument=value")
    options = parser.parse_args(words)
    try:
        rig = load_rig(options.rig)
        if options.name == MEND:
            with TwinControl.connect(rig) as control:
                control.mend()
            return 0
        row, given = parse_words([options.name, *options.arguments])
        with TwinControl.connect(rig) as control:
            control.fault(row.fault, **given)
    except (ConfigError, FaultRequestError, TwinControlError) as error:
        print(f"twin fault: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
