"""The table of reply codes and alarms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot.arm.errors import (
    AlarmActiveError,
    CommandRefusedError,
    ParameterError,
    Severity,
    alarm,
    describe_alarms,
    refusal,
)


@given(st.integers(-200_000, -1))
def test_every_code_becomes_a_named_error_with_a_text(code):
    error = refusal("MovJ()", code=code)
    assert isinstance(error, CommandRefusedError)
    assert str(code) in str(error)


def test_the_index_of_the_wrong_parameter_is_told():
    assert "required parameter 3 is out of range" in str(refusal("ServoJ()", code=-40003))
    assert isinstance(refusal("ServoJ()", code=-60001), ParameterError)
    assert isinstance(refusal("ServoJ()", code=-2), AlarmActiveError)


@pytest.mark.parametrize(
    ("alarm_id", "text"),
    [(48, "joint 1"), (53, "joint 6"), (64, "joint 1 reached its positive"), (75, "joint 6 reached its negative")],
)
def test_alarms_of_a_family_name_their_joint(alarm_id, text):
    assert text in alarm(alarm_id).text


@given(st.integers(0, 70_000))
def test_every_alarm_id_has_a_text(alarm_id):
    assert alarm(alarm_id).text
    assert str(alarm_id) in describe_alarms((alarm_id,))


def test_an_emergency_stop_is_a_matter_of_safety():
    assert alarm(116).severity is Severity.SAFETY


def test_a_specific_row_wins_over_the_general_one():
    assert alarm(2161).name == "tool supply overcurrent"
    assert alarm(2100).name == "safety controller"
