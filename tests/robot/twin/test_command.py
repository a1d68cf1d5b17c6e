"""`launch/twin` beside a running twin: listing what can be broken, breaking it, mending it."""

from collections.abc import Iterator

import pytest

from robot.twin.command import main
from robot.twin.control import TwinControl
from robot.twin.faults import TwinFault


@pytest.fixture
def control(twin) -> Iterator[TwinControl]:
    with TwinControl.connect(twin.rig) as control:
        yield control
        control.mend()


def test_the_list_names_every_fault(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["faults"]) == 0
    printed = capsys.readouterr().out
    assert all(fault.value in printed for fault in TwinFault)


def test_faults_are_switched_and_mended_from_the_command_line(twin, control: TwinControl) -> None:
    rig = ["--rig", str(twin.rig_path)]
    assert main(["fault", "estop", "pressed=true", *rig]) == 0
    assert control.status()["alarms"] == [116]
    assert main(["fault", "mend", *rig]) == 0
    assert control.status()["mode"] == "ERROR", "the alarm is latched until a client clears it"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["rain"], "unknown fault 'rain'"),
        (["alarm"], "alarm needs id"),
        (["object_lost"], "the jaws hold nothing"),
        (["gripper_object", "width_m=0.2"], "from 0.001 to 0.095"),
    ],
)
def test_what_cannot_be_broken_is_said_in_one_line(
    twin, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    assert main(["fault", *words, "--rig", str(twin.rig_path)]) == 1
    errors = capsys.readouterr().err
    assert expected in errors
    assert len(errors.strip().splitlines()) == 1


def test_without_a_twin_it_says_how_to_start_one(rig_file, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fault", "collision", "--rig", str(rig_file)]) == 1
    assert "launch/twin --rig" in capsys.readouterr().err


@pytest.mark.usefixtures("runtime_of_twin")
def test_an_unknown_fault_at_the_start_ends_in_one_line(rig_file, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rig", str(rig_file), "--headless", "--fault", "rain"]) == 1
    assert "unknown fault 'rain'" in capsys.readouterr().err
