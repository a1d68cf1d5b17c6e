"""What is settled before an episode begins."""

from collections.abc import Callable
from dataclasses import replace

from configs.schema import load_rig, load_task
from policy_server.client import Contract
from robot.rollout.session import unfamiliar

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
