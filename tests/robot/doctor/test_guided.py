"""Recovery and the first day, with somebody who says no, and the file that the answers go to."""

from datetime import date

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from configs.schema import CONFIGS, ConfigError, RigConfig, load_rig
from robot.arm.protocol import RobotMode
from robot.doctor.first_day import Answer
from robot.doctor.main import main
from robot.doctor.recover import DeclinedError, recover
from robot.doctor.rig_file import with_answers, write_copy
from robot.doctor.servo_trials import JOINT, TRIAL_SPEED_RAD_S, back_to, constant_speed, there_and_back
from robot.doctor.session import ArmSession, SessionError

LAB_TEXT = (CONFIGS / "rigs" / "lab.yaml").read_text()
TODAY = date(2026, 5, 20)


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr("robot.doctor.recover.SETTLE_S", 0.05)


class Person:
    """Agrees as often as told, and remembers the questions."""

    def __init__(self, *, yes):
        self._yes = yes
        self.questions = []

    def say(self, text):
        pass

    def agrees(self, question):
        self.questions.append(question)
        self._yes -= 1
        return self._yes >= 0

    def number(self, question):
        return None


@pytest.mark.parametrize(("yes", "sent"), [(0, []), (1, ["EmergencyStop"]), (2, ["EmergencyStop", "ClearError"])])
def test_nothing_is_sent_that_nobody_agreed_to(controller, rig_of, yes, sent):
    controller.raise_alarm(132)
    person = Person(yes=yes)
    with ArmSession(rig_of(controller)) as session:
        if yes < 2:
            with pytest.raises(DeclinedError):
                list(recover(session, person))
        else:
            list(recover(session, person))
    assert [
        name for name in controller.names() if name in ("EmergencyStop", "ClearError", "PowerOn", "EnableRobot")
    ] == sent
    assert "emergency stop" in person.questions[0]


def test_an_arm_that_is_off_is_powered_on_and_enabled_without_clearing_anything(controller, rig_of):
    with ArmSession(rig_of(controller)) as session:
        assert [step.name for step in recover(session, Person(yes=9))] == ["PowerOn", "EnableRobot"]
    assert "ClearError" not in controller.names()


def test_an_alarm_that_stays_ends_the_walk(controller, rig_of):
    controller.raise_alarm(114)
    controller.answers["ClearError"] = ""
    with ArmSession(rig_of(controller)) as session, pytest.raises(SessionError, match="zero calibration"):
        list(recover(session, Person(yes=9)))
    assert "EnableRobot" not in controller.names()


def test_a_collision_has_a_question_of_its_own(controller, rig_of):
    controller.mode, controller.collision = int(RobotMode.COLLISION), True
    person = Person(yes=9)
    with ArmSession(rig_of(controller)) as session:
        list(recover(session, person))
    assert "looked at it" in person.questions[0]


def test_yes_to_everything_is_for_twins_only(capsys):
    assert main(["recover", "--rig", "lab", "--yes"]) == 1
    assert "real arm" in capsys.readouterr().err


def test_an_unknown_rig_is_one_line(capsys):
    assert main(["--rig", "nowhere"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


# -- the file ---------------------------------------------------------------------------------------------------------

values = st.booleans() | st.integers(-1000, 1000) | st.floats(-10, 10) | st.text("abc é:#'\"-", max_size=10)
answers = st.dictionaries(
    st.from_regex(r"[a-z][a-z_]{0,20}", fullmatch=True), st.builds(Answer, values, st.sampled_from(["", "s"]))
)


@settings(max_examples=25)
@given(first=answers, second=answers)
@example(first={"no": Answer(True, "")}, second={"on": Answer(False, ""), "null": Answer(1, "")})
def test_answers_survive_the_file_and_older_ones_stay(first, second):
    once = with_answers(LAB_TEXT, first, settings={}, measured_on=TODAY)
    twice = with_answers(once, second, settings={}, measured_on=TODAY)
    rig = RigConfig.model_validate(yaml.safe_load(twice))
    assert {name: answer.value for name, answer in rig.commissioning.items()} == {
        name: answer.value for name, answer in {**first, **second}.items()
    }
    assert twice.startswith(LAB_TEXT.rstrip()), "comments and order stay"


def test_settings_are_put_where_they_belong():
    text = with_answers(
        LAB_TEXT, {}, settings={"open_permille": 0.0, "closed_permille": 1000.0, "mass_kg": 1.35}, measured_on=TODAY
    )
    rig = RigConfig.model_validate(yaml.safe_load(text))
    assert (rig.gripper.open_permille, rig.gripper.closed_permille, rig.arm.payload.mass_kg) == (0, 1000, 1.35)
    with pytest.raises(ConfigError, match="found it 0 times"):
        with_answers(LAB_TEXT, {}, settings={"no_such_key": 1.0}, measured_on=TODAY)


def test_the_rigs_own_file_is_never_written(tmp_path):
    source = tmp_path / "rig.yaml"
    source.write_text(LAB_TEXT)
    with pytest.raises(ConfigError, match="own file"):
        write_copy(source, source, text="")
    with pytest.raises(ConfigError):
        write_copy(source, tmp_path / "copy.yaml", text=LAB_TEXT.replace("rate_hz: 33", "rate_hz: 3300"))
    assert [path.name for path in tmp_path.iterdir()] == ["rig.yaml"]
    write_copy(source, tmp_path / "copy.yaml", text=LAB_TEXT)
    assert load_rig(tmp_path / "copy.yaml") == load_rig("lab")


# -- the motions ------------------------------------------------------------------------------------------------------

joints = st.lists(st.floats(-3, 3), min_size=6, max_size=6).map(np.array)


@given(start=joints, rate_hz=st.sampled_from([33.0, 62.5, 125.0]), seconds=st.floats(0.5, 3.0))
def test_trial_motions_turn_only_joint_6_and_never_faster_than_they_say(start, rate_hz, seconds):
    for path in (
        constant_speed(start, seconds=seconds, rate_hz=rate_hz),
        there_and_back(start, seconds=seconds, rate_hz=rate_hz),
    ):
        steps = np.diff(np.vstack([start, path]), axis=0)
        assert np.abs(steps).max() * rate_hz <= TRIAL_SPEED_RAD_S * (1 + 1e-6)
        assert np.abs(np.delete(steps, JOINT, axis=1)).max() == 0.0
    assert there_and_back(start, seconds=seconds, rate_hz=rate_hz)[-1] == pytest.approx(start)


@given(start=joints, offset=st.floats(-0.3, 0.3))
def test_the_way_back_ends_where_it_should_and_is_no_faster(start, offset):
    present = start.copy()
    present[JOINT] += offset
    path = back_to(start, present_rad=present, rate_hz=125.0)
    assert path[-1] == pytest.approx(start)
    assert np.abs(np.diff(np.vstack([present, path]), axis=0)).max() * 125.0 <= TRIAL_SPEED_RAD_S * (1 + 1e-6)
