"""From the hand to the arm: no jumps, no drift, no running away, no way into a singularity."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robot.motion.kinematics import CONDITION_STOP, condition_number, link_frames, tool_pose
from robot.motion.limits import GuardLimits
from robot.motion.rotations import make_pose, rotation_from_vector
from teleop.clutch import ClutchEvent
from teleop.devices import Button, DeviceSample, JointMotion, PoseMotion, RateMotion
from teleop.frames import MappingFrame, frame_rotation, view_from_yaw, view_rotation
from teleop.mapping import MappingConfig
from teleop.tracking import TOOL, Lead, Limitation

Make = Callable[..., Any]
FORWARD, LEFT, UP = np.eye(6)[:3]
STILL = np.zeros(6)


def stick(at: Any, twist: np.ndarray, *, clutch: bool = True, pressed: tuple[Button, ...] = ()) -> DeviceSample:
    """A fresh stick reading for the driver's next tick."""
    return DeviceSample(time_ns=at.now_ns + 60_000_000, clutch=clutch, motion=RateMotion(twist), pressed=pressed)


def hand(at: Any, pose: np.ndarray, *, clutch: bool = True) -> DeviceSample:
    return DeviceSample(time_ns=at.now_ns + 60_000_000, clutch=clutch, motion=PoseMotion(pose))


def leader(at: Any, joints: np.ndarray, *, clutch: bool = True, gripper: float | None = None) -> DeviceSample:
    return DeviceSample(time_ns=at.now_ns + 60_000_000, clutch=clutch, motion=JointMotion(joints), gripper=gripper)


def engage(at: Any) -> None:
    at.tick(stick(at, STILL, clutch=False))
    assert at.tick(stick(at, STILL)).event is ClutchEvent.ENGAGED


def tool_point(joints: np.ndarray) -> np.ndarray:
    return tool_pose(joints, tool=TOOL)[:3, 3]


@pytest.mark.parametrize(("twist", "axis"), [(FORWARD, 0), (LEFT, 1), (-UP, 2)])
def test_a_stick_moves_the_tool_along_its_axis_and_keeps_its_orientation(
    driver: Make, twist: np.ndarray, axis: int
) -> None:
    at = driver()
    before = tool_pose(at.setpoint_rad, tool=TOOL)
    engage(at)
    for _ in range(15):
        at.tick(stick(at, twist))
    after = tool_pose(at.setpoint_rad, tool=TOOL)
    moved = after[:3, 3] - before[:3, 3]
    assert moved[axis] * twist[axis] > 0.08
    assert np.max(np.abs(np.delete(moved, axis))) < 1e-3
    np.testing.assert_allclose(after[:3, :3], before[:3, :3], atol=1e-3)


def test_without_the_clutch_nothing_moves_and_silence_ends_the_motion(driver: Make) -> None:
    at = driver()
    for _ in range(5):
        assert not at.tick(stick(at, FORWARD)).engaged, "the clutch was never seen released"
    engage(at)
    last = stick(at, FORWARD)
    assert at.tick(last).engaged
    at.tick(last)
    at.tick(last)
    silent = at.tick(last)
    assert silent.event is ClutchEvent.SILENT
    assert not silent.engaged
    assert not at.tick(stick(at, FORWARD)).engaged, "it must be released and pressed first"
    engage(at)


def test_speed_keys_scale_the_motion(driver: Make) -> None:
    ways = []
    for scale in (1.0, 0.5):
        at = driver(MappingConfig(speed_scale=scale))
        start = tool_point(at.setpoint_rad)
        engage(at)
        for _ in range(20):
            at.tick(stick(at, LEFT))
        ways.append(np.linalg.norm(tool_point(at.setpoint_rad) - start))
    assert ways[1] == pytest.approx(ways[0] / 2, rel=0.1)
    at.tick(stick(at, STILL, pressed=(Button.FASTER,)))
    assert at.mapper.speed_scale == 0.75


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1))
def test_whatever_the_stick_does_each_step_is_slow_inside_the_limits_and_near_the_arm(
    driver: Make, limits: GuardLimits, seed: int
) -> None:
    random = np.random.default_rng(seed)
    at = driver()
    engage(at)
    before = at.setpoint_rad
    twist = STILL
    lead = Lead()
    for _ in range(30):
        if random.random() < 0.2:
            twist = random.uniform(-1, 1, 6).round()
        condition = condition_number(before)
        command = at.tick(stick(at, twist), follows=bool(random.random() < 0.7))
        step = np.abs(command.joints_rad - before)
        assert np.all(step <= limits.max_joint_speed_rad_s / 15 + 1e-9)
        assert np.all(command.joints_rad <= limits.joint_upper_rad)
        assert np.all(command.joints_rad >= limits.joint_lower_rad)
        assert np.max(np.abs(command.joints_rad - at.measured_rad)) <= lead.joint_rad + 1e-9
        assert np.linalg.norm(tool_point(command.joints_rad) - tool_point(at.measured_rad)) <= lead.tool_m + 1e-9
        assert condition_number(command.joints_rad) < max(CONDITION_STOP, condition) + 1e-6
        before = command.joints_rad


def test_the_command_waits_for_an_arm_that_is_held_up(driver: Make) -> None:
    at = driver()
    engage(at)
    held = at.measured_rad.copy()
    found: set[Limitation] = set()
    for _ in range(60):
        found |= at.tick(stick(at, LEFT), follows=False).limitations
    assert Limitation.LEAD in found
    at.measured_rad = held
    back = [tool_point(at.tick(stick(at, -LEFT), follows=False).joints_rad)[1] for _ in range(12)]
    assert back[-1] < tool_point(held)[1] + 0.06, "there is no wind-up to take back first"


def test_towards_the_wrist_singularity_it_slows_and_stops_and_comes_out_again(driver: Make) -> None:
    near = np.array([0.0, 0.0, -1.5708, 0.0, 0.45, 0.0])
    axis_of_joint_5 = np.concatenate([np.zeros(3), link_frames(near)[4, :3, 2]])
    at = driver(joints_rad=near)
    engage(at)
    seen: set[Limitation] = set()
    for _ in range(60):
        command = at.tick(stick(at, -axis_of_joint_5))
        seen |= command.limitations
    assert {Limitation.SINGULARITY_SLOW, Limitation.SINGULARITY_STOP} <= seen
    stopped = condition_number(at.setpoint_rad)
    assert CONDITION_STOP - 5 < stopped < CONDITION_STOP
    assert at.setpoint_rad[4] > 0.1, "it must not have gone through"
    for _ in range(15):
        at.tick(stick(at, axis_of_joint_5))
    assert condition_number(at.setpoint_rad) < stopped - 5


def test_the_edge_of_the_workspace_stops_the_tool_without_wind_up(driver: Make, limits: GuardLimits) -> None:
    at = driver()
    engage(at)
    for _ in range(60):
        command = at.tick(stick(at, LEFT))
    assert Limitation.WORKSPACE in command.limitations
    assert tool_point(at.setpoint_rad)[1] <= limits.workspace_upper_m[1] + 1e-3
    for _ in range(6):
        at.tick(stick(at, -LEFT))
    assert tool_point(at.setpoint_rad)[1] < limits.workspace_upper_m[1] - 0.01


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1))
def test_pressing_the_clutch_never_moves_the_arm_wherever_the_hand_is(driver: Make, seed: int) -> None:
    random = np.random.default_rng(seed)
    at = driver()
    for _ in range(2):
        pose = make_pose(random.uniform(-2, 2, 3), rotation=rotation_from_vector(random.uniform(-2, 2, 3)))
        at.tick(hand(at, pose, clutch=False))
        before = at.setpoint_rad.copy()
        for _ in range(3):
            command = at.tick(hand(at, pose))
            np.testing.assert_allclose(command.joints_rad, before, atol=1e-6)


def test_a_hand_s_way_is_the_tool_s_way_and_a_second_grip_goes_on_from_there(driver: Make) -> None:
    at = driver()
    start = tool_point(at.setpoint_rad)
    reached = start
    for offset in (0.3, -0.7):
        at.tick(hand(at, make_pose([offset, 0, 0]), clutch=False))
        at.tick(hand(at, make_pose([offset, 0, 0])))
        for share in np.linspace(0, 1, 20):
            at.tick(hand(at, make_pose([offset, 0.08 * share, 0])))
        for _ in range(25):
            at.tick(hand(at, make_pose([offset, 0.08, 0])))
        moved = tool_point(at.setpoint_rad) - reached
        np.testing.assert_allclose(moved, [0, 0.08, 0], atol=2e-3)
        reached = tool_point(at.setpoint_rad)


def test_a_glitch_of_the_tracking_does_not_reach_the_arm(driver: Make) -> None:
    at = driver()
    at.tick(hand(at, make_pose([0, 0, 0]), clutch=False))
    for _ in range(5):
        at.tick(hand(at, make_pose([0, 0, 0])))
    before = at.setpoint_rad.copy()
    command = at.tick(hand(at, make_pose([0, 0.5, 0])))
    assert Limitation.SPIKE in command.limitations
    np.testing.assert_allclose(command.joints_rad, before, atol=1e-6)


def test_a_leader_far_away_does_not_engage_and_a_near_one_is_approached_slowly(
    driver: Make, start_rad: np.ndarray
) -> None:
    at = driver()
    far = start_rad + np.array([1.0, 0, 0, 0, 0, 0])
    at.tick(leader(at, far, clutch=False))
    refused = at.tick(leader(at, far))
    assert not refused.engaged
    assert refused.limitations == {Limitation.MISALIGNED}
    near = start_rad + np.array([0.4, 0, 0, 0, 0, 0])
    at.tick(leader(at, near, clutch=False))
    before = at.setpoint_rad
    for _ in range(30):
        command = at.tick(leader(at, near))
        assert np.max(np.abs(command.joints_rad - before)) <= 0.4 / 15 + 1e-9 or np.max(np.abs(near - before)) < 0.1
        before = command.joints_rad
    np.testing.assert_allclose(before, near, atol=5e-3)


def test_the_gripper_key_toggles_and_an_analog_gripper_takes_over_only_where_it_stands(
    driver: Make, start_rad: np.ndarray
) -> None:
    at = driver()
    engage(at)
    assert at.tick(stick(at, STILL, pressed=(Button.GRIPPER,))).gripper == 1.0
    at.tick(stick(at, STILL, clutch=False))
    assert at.tick(leader(at, start_rad, gripper=0.0)).gripper == 1.0, "picking up the device must drop nothing"
    assert at.tick(leader(at, start_rad, gripper=0.95)).gripper == 0.95
    assert at.tick(leader(at, start_rad, gripper=0.3)).gripper == 0.3


def test_frames_turn_the_operator_s_axes() -> None:
    turned = rotation_from_vector([0.1, -0.4, 2.0])
    np.testing.assert_allclose(frame_rotation(MappingFrame.BASE, tool_rotation=turned), np.eye(3))
    np.testing.assert_allclose(frame_rotation(MappingFrame.TOOL, tool_rotation=turned), turned)
    looking_along_y_and_down = np.array([[1.0, 0, 0], [0, -0.6, 0.8], [0, -0.8, -0.6]])
    view = view_rotation(looking_along_y_and_down)
    np.testing.assert_allclose(view, view_from_yaw(np.pi / 2), atol=1e-12)
    np.testing.assert_allclose(view @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(view @ [0, 0, 1], [0, 0, 1], atol=1e-12)
    with pytest.raises(ValueError, match="looks from"):
        frame_rotation(MappingFrame.VIEW, tool_rotation=turned)
