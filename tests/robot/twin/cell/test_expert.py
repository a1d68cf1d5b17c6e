import numpy as np
import pytest

from robot.motion.kinematics import flange_pose
from robot.motion.nova5 import MAX_JOINT_SPEED_RAD_S
from robot.twin.env import TwinEnv
from robot.twin.expert import Expert, ExpertOptions
from robot.twin.props import Prop
from robot.twin.sim import ArmStart
from robot.twin.success import Stage

CONTROL_PERIOD_S = 1 / 15


@pytest.fixture(scope="module")
def env() -> TwinEnv:
    return TwinEnv(None)


def finish(env: TwinEnv, teacher: Expert) -> bool:
    """Lets the expert go on until the episode ends; whether it ended in success."""
    while True:
        _, _, terminated, truncated, _ = env.step(teacher.act())
        if terminated or truncated:
            return terminated


@pytest.mark.parametrize("prop", list(Prop))
@pytest.mark.parametrize("seed", [101, 102, 103])
def test_the_expert_does_each_task(env: TwinEnv, prop: Prop, seed: int) -> None:
    env.reset(seed, prop)
    assert finish(env, Expert(env.sim, prop, seed=seed))
    assert env.get_state().progress.best is Stage.STABLE


def test_its_commands_keep_to_the_joint_and_tool_speeds(env: TwinEnv) -> None:
    env.reset(21, Prop.CAN)
    teacher = Expert(env.sim, Prop.CAN)
    previous = env.sim.joint_target_rad
    for _ in range(80):
        action = teacher.act()
        env.step(action)
        assert np.abs(action[:6] - previous).max() <= MAX_JOINT_SPEED_RAD_S * CONTROL_PERIOD_S + 1e-9
        moved = np.linalg.norm(flange_pose(action[:6])[:3, 3] - flange_pose(previous)[:3, 3])
        assert moved <= 0.28 * CONTROL_PERIOD_S + 1e-6
        assert action[6] in (0.0, 1.0)
        previous = action[:6]


def test_a_noisy_hurried_expert_with_turned_jaws_still_succeeds(env: TwinEnv) -> None:
    options = ExpertOptions(speed_factor=1.15, speed_noise_m_s=0.02, max_yaw_rad=0.5)
    for seed, prop in enumerate(Prop):
        env.reset(seed + 40, prop)
        assert finish(env, Expert(env.sim, prop, seed=seed, options=options)), prop


def test_the_same_seed_gives_the_same_actions(env: TwinEnv) -> None:
    def actions(seed: int) -> np.ndarray:
        env.reset(30, Prop.CUP)
        teacher = Expert(env.sim, Prop.CUP, seed=seed, options=ExpertOptions(speed_noise_m_s=0.02))
        taken = []
        for _ in range(10):
            taken.append(teacher.act())
            env.step(taken[-1])
        return np.array(taken)

    assert np.array_equal(actions(1), actions(1))
    assert not np.array_equal(actions(1), actions(2))


def test_it_recovers_when_the_object_is_taken_out_of_the_gripper(env: TwinEnv) -> None:
    env.reset(31, Prop.CAN)
    teacher = Expert(env.sim, Prop.CAN)
    while env.sim.contacts.held != Prop.CAN or env.sim.object_pose(Prop.CAN).position_m[2] < 0.12:
        env.step(teacher.act())
    position, quaternion = env.sim.layout.object_pose(Prop.CAN)
    env.sim.set_object_pose(Prop.CAN, position_m=position, quaternion=quaternion)
    assert finish(env, teacher)


def test_it_copes_with_a_low_start_with_closed_jaws(env: TwinEnv) -> None:
    joints = (0.5, -0.25, -np.pi / 2 - 0.1, 0.35, np.pi / 2, 0.5)
    env.reset(32, Prop.CUP, start=ArmStart(joints_rad=joints, opening_m=0.01))
    assert finish(env, Expert(env.sim, Prop.CUP))


def test_it_can_take_over_from_the_middle_of_an_episode(env: TwinEnv) -> None:
    env.reset(33, Prop.TAPE)
    first = Expert(env.sim, Prop.TAPE)
    for _ in range(45):
        env.step(first.act())
    assert finish(env, Expert(env.sim, Prop.TAPE))
