from collections.abc import Iterator

import numpy as np
import pytest

from robot.motion.inverse_kinematics import damped_step
from robot.motion.nova5 import MAX_JOINT_SPEED_RAD_S
from robot.twin.env import IMAGE_KEYS, TwinEnv
from robot.twin.expert import Expert
from robot.twin.optics import CameraName
from robot.twin.props import Prop
from robot.twin.scene import SceneOptions
from robot.twin.success import Stage
from robot.twin.variation import VariationRange


@pytest.fixture(scope="module")
def env() -> Iterator[TwinEnv]:
    with TwinEnv((96, 128), scene=SceneOptions(max_height=240, max_width=320)) as env:
        yield env


@pytest.fixture(scope="module")
def blind() -> TwinEnv:
    return TwinEnv(None)


def still(env: TwinEnv) -> np.ndarray:
    """The action that stays where the arm is, jaws open."""
    return np.append(env.sim.joint_target_rad, 0.0)


def test_an_observation_has_droids_keys(env: TwinEnv) -> None:
    observation = env.reset(3, Prop.TAPE)
    assert set(observation) == {
        "observation/exterior_image_1_left",
        "observation/wrist_image_left",
        "observation/joint_position",
        "observation/gripper_position",
        "prompt",
    }
    for key in IMAGE_KEYS.values():
        assert observation[key].shape == (96, 128, 3)
        assert observation[key].dtype == np.uint8
        assert observation[key].std() > 10.0
    assert observation["observation/joint_position"] == pytest.approx(env.sim.joints_rad)
    assert observation["observation/gripper_position"] == pytest.approx([0.0], abs=1e-6)
    assert observation["prompt"] == "Put the tape on the plate"


def test_the_cameras_may_differ_in_size() -> None:
    sizes = {CameraName.EXTERIOR: (90, 160), CameraName.WRIST: (64, 64)}
    with TwinEnv(sizes, variation=VariationRange()) as env:
        observation = env.reset(0, Prop.CUP)
    assert observation["observation/exterior_image_1_left"].shape == (90, 160, 3)
    assert observation["observation/wrist_image_left"].shape == (64, 64, 3)


def test_ticks_never_drift_from_fifteen_hertz(blind: TwinEnv) -> None:
    blind.reset(0, Prop.CUP)
    for tick in range(1, 61):
        blind.step(still(blind))
        assert blind.sim.time_s == pytest.approx(tick / 15, abs=0.002)
    assert blind.sim.time_s == pytest.approx(4.0, abs=1e-9)


def test_the_same_seed_and_actions_give_the_same_episode(env: TwinEnv) -> None:
    def play() -> list[np.ndarray]:
        env.reset(11, Prop.CAN)
        teacher = Expert(env.sim, Prop.CAN)
        results = [env.step(teacher.act()) for _ in range(8)]
        return [result.observation[key] for result in results for key in IMAGE_KEYS.values()]

    assert all(np.array_equal(one, two) for one, two in zip(play(), play(), strict=True))


def test_an_action_is_followed_and_a_leap_is_cut_to_the_joint_speed(blind: TwinEnv) -> None:
    blind.reset(0, Prop.CUP)
    before = blind.sim.joint_target_rad
    gentle = still(blind) + np.array([0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert not blind.step(gentle).info["speed_limited"]
    assert blind.sim.joint_target_rad[0] == pytest.approx(before[0] + 0.02)
    leap = still(blind) + np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert blind.step(leap).info["speed_limited"]
    assert blind.sim.joint_target_rad[0] == pytest.approx(before[0] + 0.02 + MAX_JOINT_SPEED_RAD_S / 15)


def test_gripper_one_closes_and_zero_opens(blind: TwinEnv) -> None:
    blind.reset(0, Prop.CUP)
    for closed in (1.0, 0.0):
        for _ in range(15):
            result = blind.step(np.append(blind.sim.joint_target_rad, closed))
        assert result.observation["observation/gripper_position"] == pytest.approx([closed], abs=0.02)


@pytest.mark.parametrize("bad", [np.zeros(6), np.full(7, np.nan), np.zeros((1, 7))])
def test_an_action_that_is_no_seven_finite_numbers_is_refused(blind: TwinEnv, bad: np.ndarray) -> None:
    blind.reset(0, Prop.CUP)
    with pytest.raises(ValueError, match="7 finite numbers"):
        blind.step(bad)


def test_an_episode_without_success_is_truncated_at_the_tasks_time_limit(blind: TwinEnv) -> None:
    blind.reset(0, Prop.CUP)
    for _tick in range(224):
        _, reward, terminated, truncated, info = blind.step(still(blind))
        assert not terminated
        assert not truncated
    _, reward, terminated, truncated, info = blind.step(still(blind))
    assert truncated
    assert not terminated
    assert reward == 0.0
    assert info["stage"] is Stage.START


def test_info_gives_the_exact_poses(blind: TwinEnv) -> None:
    blind.reset(5, Prop.CUP)
    info = blind.step(still(blind)).info
    for prop in Prop:
        expected = blind.sim.layout.objects_m[prop]
        assert info["objects"][prop].position_m[:2] == pytest.approx(expected, abs=1e-3)
    assert info["plate_position_m"][:2] == pytest.approx(blind.sim.layout.plate_m)


def test_a_restored_environment_goes_on_exactly(blind: TwinEnv) -> None:
    blind.reset(9, Prop.TAPE)
    teacher = Expert(blind.sim, Prop.TAPE)
    for _ in range(20):
        blind.step(teacher.act())
    state = blind.get_state()
    actions = [teacher.act()]
    blind.step(actions[0])
    for _ in range(9):
        actions.append(teacher.act())
        blind.step(actions[-1])
    expected = blind.sim.get_state().physics
    blind.set_state(state)
    for action in actions:
        result = blind.step(action)
    assert np.array_equal(blind.sim.get_state().physics, expected)
    assert result.info["ticks"] == 30


def test_closing_twice_does_no_harm() -> None:
    env = TwinEnv((48, 48))
    env.reset(0, Prop.CUP)
    env.close()
    env.close()


def press(env: TwinEnv, ticks: int) -> list[bool]:
    """Push the jaws straight down for so long; whether a collision was felt, tick by tick."""
    found = []
    down = np.array([0.0, 0.0, -0.02, 0.0, 0.0, 0.0])
    for _ in range(ticks):
        target = env.sim.joint_target_rad
        turned = damped_step(target, displacement=down, point_m=(0.0, 0.0, 0.2))
        found.append(bool(env.step(np.append(target + turned, 0.0)).info["collided"]))
    return found


@pytest.mark.parametrize("level", [0, 3])
def test_an_arm_that_presses_on_the_table_has_collided_if_the_level_says_so(level: int) -> None:
    env = TwinEnv(None, collision_level=level)
    env.reset(0, Prop.CUP)
    assert not any(env.step(still(env)).info["collided"] for _ in range(5))
    before = env.get_state()
    first = press(env, 40)
    assert first[-1] is (level > 0)
    env.set_state(before)
    assert press(env, 40) == first
    env.reset(0, Prop.CUP)
    assert not env.step(still(env)).info["collided"]


def test_a_good_demonstration_is_no_collision() -> None:
    env = TwinEnv(None, collision_level=3)
    env.reset(4, Prop.CAN)
    teacher = Expert(env.sim, Prop.CAN)
    for _ in range(200):
        result = env.step(teacher.act())
        assert not result.info["collided"]
        if result.terminated:
            return
    raise AssertionError("the teacher did not get there")
