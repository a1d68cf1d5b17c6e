"""The faults as people read them: the README's table, and the list of what the twin can break."""

from pathlib import Path

import pytest

from robot.faults import FAULTS, Fault
from robot.faults_markdown import BEGIN, END, MarkersMissingError, faults_table_markdown, main, with_table
from robot.twin.faults import TABLE, FaultRequestError, TwinFault, check_arguments, find, parse_words

README = Path(__file__).parent.parent.parent.parent / "README.md"


def test_the_readme_has_the_present_table() -> None:
    text = README.read_text(encoding="utf-8")
    assert with_table(text) == text, "bring it up to date with: python -m robot.faults_markdown README.md"


def test_the_table_has_each_fault_once_with_its_text() -> None:
    lines = faults_table_markdown().splitlines()[2:]
    assert len(lines) == len(Fault) - 1
    for fault, line in zip([fault for fault in FAULTS if fault is not Fault.NONE], lines, strict=True):
        assert line.startswith(f"| {int(fault)} |")
        assert FAULTS[fault].text in line


def test_the_table_replaces_the_one_before_and_needs_its_markers(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"a\n{BEGIN}\nold\n{END}\nb\n")
    assert main([str(path)]) == 0
    assert path.read_text() == f"a\n{BEGIN}\n{faults_table_markdown()}\n{END}\nb\n"
    with pytest.raises(MarkersMissingError):
        with_table("no place here")


def test_every_fault_of_the_twin_is_documented() -> None:
    assert set(TABLE) == set(TwinFault)
    assert all(row.text for row in TABLE.values())


def test_arguments_from_a_command_line_are_read_and_filled_up() -> None:
    row, arguments = parse_words(["camera-late", "camera=wrist", "seconds=0.2"])
    assert row.fault is TwinFault.CAMERA_LATE
    assert arguments == {"camera": "wrist", "seconds": 0.2, "on": True}
    _, arguments = parse_words(["push", "force_n=[0,0,50]"])
    assert arguments == {"force_n": [0, 0, 50], "duration_s": 0.2}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["rain"], "unknown fault 'rain'; there are alarm, "),
        ([], "unknown fault"),
        (["alarm"], "alarm needs id"),
        (["alarm", "id=x"], "id: expected a whole number from 1 to 65535, got 'x'"),
        (["alarm", "id=70000"], "65535"),
        (["alarm", "id"], "expected argument=value"),
        (["alarm", "id=5", "loud=true"], "does not take loud"),
        (["camera_freeze", "camera=third"], "exterior or wrist"),
        (["camera_freeze", "camera=wrist", "on=maybe"], "true or false"),
        (["push", "force_n=[1,2]"], r"\[x,y,z\]"),
        (["push", "force_n=[1,2,null]"], r"\[x,y,z\]"),
    ],
)
def test_wrong_requests_are_refused_with_what_is_allowed(words: list[str], expected: str) -> None:
    with pytest.raises(FaultRequestError, match=expected):
        parse_words(words)


def test_values_that_are_no_text_are_checked_alike() -> None:
    assert check_arguments(find("estop"), {}) == {"pressed": True}
    with pytest.raises(FaultRequestError, match="pressed"):
        check_arguments(find("estop"), {"pressed": 1})
