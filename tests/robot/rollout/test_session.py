"""What is settled before an episode begins."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from configs.schema import load_rig, load_task
from policy_server.client import Contract
from robot.daemon.errors import FaultError
from robot.rollout.client import EndReason
from robot.rollout.results import EpisodeResult
from robot.rollout.session import ready_again, unfamiliar

TASKS = [load_task("cup"), load_task("tape")]


def test_prompts_and_a_start_pose_that_the_policy_has_not_seen_are_told(contract_with: Callable[..., Contract]) -> None:
    rig = load_rig("twin")
    start = (*rig.start.joints_rad, rig.start.gripper)
    around = {"state_low": tuple(v - 0.1 for v in start), "state_high": tuple(v + 0.1 for v in start)}
    knows_both = contract_with(prompts=tuple(task.prompt for task in TASKS), **around)
    assert unfamiliar(knows_both, rig, TASKS) == []
    (prompt,) = unfamiliar(replace(knows_both, prompts=(TASKS[0].prompt,)), rig, TASKS)
    assert "was not trained on 'Put the tape on the plate'; it knows 'Put the cup on the plate'" in prompt
    elsewhere = replace(knows_both, state_high=(start[0] - 0.05, *knows_both.state_high[1:]))
    (pose,) = unfamiliar(elsewhere, rig, TASKS)
    assert "start pose is unfamiliar: joint_1" in pose


def test_a_server_that_does_not_say_what_it_has_seen_is_not_doubted(contract_with: Callable[..., Contract]) -> None:
    assert unfamiliar(contract_with(), load_rig("twin"), TASKS) == []
    assert unfamiliar(None, load_rig("twin"), TASKS) == []


class Recovery:
    """A rig that recovers, needs a person, or stays at fault."""

    def __init__(self, outcome: bool | FaultError) -> None:
        self.asked = 0
        self._outcome = outcome

    def recover(self, robot: object) -> bool:
        self.asked += 1
        if isinstance(self._outcome, FaultError):
            raise self._outcome
        return self._outcome


@pytest.mark.parametrize("reason", [EndReason.COLLISION, EndReason.FAULT])
@pytest.mark.parametrize(("outcome", "goes_on"), [(True, True), (False, False), (FaultError("no feedback"), False)])
def test_after_a_collision_or_fault_only_a_rig_that_recovers_goes_on(
    reason: EndReason, outcome: bool | FaultError, goes_on: bool
) -> None:
    rig: Any = Recovery(outcome)
    last = EpisodeResult("cup", 0, reason)
    assert ready_again(last, rig, None) is goes_on  # type: ignore[arg-type]
    assert rig.asked == 1


def test_what_was_stopped_stays_stopped_and_a_failure_is_followed_by_the_next_episode() -> None:
    rig: Any = Recovery(True)
    ends = {EndReason.STOPPED: False, EndReason.TIME_LIMIT: True, EndReason.SUCCESS: True, EndReason.GUARD: True}
    for reason, goes_on in ends.items():
        assert ready_again(EpisodeResult("cup", 0, reason), rig, None) is goes_on  # type: ignore[arg-type]
    assert rig.asked == 0
