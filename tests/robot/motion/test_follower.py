from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.motion.follower import FollowerState, step, stop_joints_rad, stop_step
from robot.motion.kinematics import flange_pose
from robot.motion.limits import GuardLimits

any_float = st.floats(allow_nan=True, allow_infinity=True)
sane_float = st.floats(-3.0, 3.0)
vectors = st.one_of(st.tuples(*[sane_float] * 6), st.tuples(*[any_float] * 6))
periods = st.sampled_from([0.008, 0.02, 0.03])


def tool_point(joints: np.ndarray, *, limits: GuardLimits) -> np.ndarray:
    pose = flange_pose(joints)
    return pose[:3, :3] @ limits.tool_point_m + pose[:3, 3]


@given(st.lists(st.tuples(vectors, vectors, st.integers(1, 12)), min_size=1, max_size=8), periods)
@settings(max_examples=60, deadline=None)
def test_whatever_is_desired_the_setpoints_are_finite_and_keep_the_bounds(
    limits: GuardLimits, start_rad: np.ndarray, targets: list[tuple], dt_s: float
) -> None:
    state = FollowerState.at_rest(start_rad)
    for desired, speed, repeats in targets:
        for _ in range(repeats):
            new = step(state, desired_rad=desired, desired_speed_rad_s=speed, dt_s=dt_s, limits=limits)
            np.testing.assert_allclose(new.joints_rad - state.joints_rad, new.speed_rad_s * dt_s, atol=1e-12)
            assert np.all(np.abs(new.speed_rad_s) <= limits.max_joint_speed_rad_s + 1e-12)
            change = np.abs(new.speed_rad_s - state.speed_rad_s)
            assert np.all(change <= limits.max_joint_acceleration_rad_s2 * dt_s + 1e-12)
            state = new


@given(st.lists(st.tuples(*[sane_float] * 6), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_the_tool_point_keeps_its_speed_limit(
    limits: GuardLimits, start_rad: np.ndarray, targets: list[tuple[float, ...]]
) -> None:
    state, dt_s = FollowerState.at_rest(start_rad), 0.008
    for desired in targets:
        for _ in range(60):
            new = step(state, desired_rad=desired, desired_speed_rad_s=np.zeros(6), dt_s=dt_s, limits=limits)
            moved = tool_point(new.joints_rad, limits=limits) - tool_point(state.joints_rad, limits=limits)
            assert np.linalg.norm(moved) / dt_s <= limits.max_tcp_speed_m_s * 1.02
            state = new


@given(st.tuples(*[sane_float] * 6), periods)
@settings(max_examples=30, deadline=None)
def test_a_resting_target_is_reached_and_never_overshot(
    make_limits: Callable[..., GuardLimits], desired: tuple[float, ...], dt_s: float
) -> None:
    limits = make_limits(max_tcp_speed_m_s=100.0)
    state = FollowerState.at_rest(np.zeros(6))
    target = np.array(desired)
    for _ in range(int(4.0 / dt_s)):
        state = step(state, desired_rad=target, desired_speed_rad_s=np.zeros(6), dt_s=dt_s, limits=limits)
        assert np.all(np.abs(state.joints_rad) <= np.abs(target) + 1e-9)
    np.testing.assert_allclose(state.joints_rad, target, atol=1e-9)
    np.testing.assert_allclose(state.speed_rad_s, 0.0, atol=1e-6)


def test_a_path_within_the_bounds_is_followed_without_lag(limits: GuardLimits, start_rad: np.ndarray) -> None:
    dt_s, amplitude, rate = 0.008, 0.15, 4.0
    state = FollowerState.at_rest(start_rad)
    errors = []
    for tick in range(1, 500):
        t = tick * dt_s
        desired = start_rad + amplitude * (1 - np.cos(rate * t)) * np.array([1, 0, 0, 0, 0, 1.0])
        speed = amplitude * rate * np.sin(rate * t) * np.array([1, 0, 0, 0, 0, 1.0])
        state = step(state, desired_rad=desired, desired_speed_rad_s=speed, dt_s=dt_s, limits=limits)
        errors.append(np.max(np.abs(state.joints_rad - desired)))
    assert max(errors) < 2e-4


def test_a_path_that_stops_dead_is_overshot_by_no_more_than_the_braking_distance(
    limits: GuardLimits, start_rad: np.ndarray
) -> None:
    dt_s, speed = 0.008, 0.8
    ramp = np.array([speed, 0, 0, 0, 0, 0])
    state = FollowerState.at_rest(start_rad)
    for tick in range(1, 100):
        desired = start_rad + ramp * tick * dt_s
        state = step(state, desired_rad=desired, desired_speed_rad_s=ramp, dt_s=dt_s, limits=limits)
    overshoot = 0.0
    for _ in range(200):
        state = step(state, desired_rad=desired, desired_speed_rad_s=np.zeros(6), dt_s=dt_s, limits=limits)
        overshoot = max(overshoot, float(state.joints_rad[0] - desired[0]))
    braking_distance = speed**2 / (2 * 8.0)
    assert 0.0 < overshoot <= braking_distance + speed * dt_s
    np.testing.assert_allclose(state.joints_rad, desired, atol=1e-9)


@given(st.tuples(*[st.floats(-1.5, 1.5)] * 6), periods)
@settings(max_examples=60, deadline=None)
def test_a_stop_keeps_its_direction_and_ends_where_it_was_foretold(
    limits: GuardLimits, start_rad: np.ndarray, speed: tuple[float, ...], dt_s: float
) -> None:
    state = FollowerState(joints_rad=start_rad, speed_rad_s=np.array(speed))
    foretold = stop_joints_rad(state, dt_s=dt_s, limits=limits)
    for _ in range(int(1.5 / 8.0 / dt_s) + 2):
        new = stop_step(state, dt_s=dt_s, limits=limits)
        change = np.abs(new.speed_rad_s - state.speed_rad_s)
        assert np.all(change <= limits.max_joint_acceleration_rad_s2 * dt_s + 1e-12)
        assert np.all(np.abs(new.speed_rad_s) <= np.abs(state.speed_rad_s))
        np.testing.assert_allclose(
            np.outer(new.speed_rad_s, state.speed_rad_s), np.outer(state.speed_rad_s, new.speed_rad_s), atol=1e-9
        )
        state = new
    assert state.is_at_rest
    np.testing.assert_allclose(state.joints_rad, foretold, atol=1e-9)


def test_anything_not_finite_is_a_stop(limits: GuardLimits, start_rad: np.ndarray) -> None:
    state = FollowerState(joints_rad=start_rad, speed_rad_s=np.full(6, 0.5))
    stopped = stop_step(state, dt_s=0.008, limits=limits)
    for bad in (np.nan, np.inf, -np.inf):
        broken = np.zeros(6)
        broken[3] = bad
        for desired, speed in ((broken, np.zeros(6)), (start_rad, broken)):
            new = step(state, desired_rad=desired, desired_speed_rad_s=speed, dt_s=0.008, limits=limits)
            np.testing.assert_array_equal(new.joints_rad, stopped.joints_rad)


def test_an_arm_faster_than_allowed_is_slowed_down_as_hard_as_allowed(
    make_limits: Callable[..., GuardLimits], start_rad: np.ndarray
) -> None:
    slow = make_limits(max_joint_speed_rad_s=0.2, max_tcp_speed_m_s=0.05)
    state = FollowerState(joints_rad=start_rad, speed_rad_s=np.array([1.0, 0, 0, 0, 0, 0]))
    for _ in range(40):
        new = step(state, desired_rad=start_rad + 3, desired_speed_rad_s=np.ones(6), dt_s=0.008, limits=slow)
        assert np.all(np.abs(new.speed_rad_s - state.speed_rad_s) <= 8.0 * 0.008 + 1e-12)
        state = new
    assert np.all(np.abs(state.speed_rad_s) <= 0.2 + 1e-12)


def test_states_and_periods_that_make_no_sense_are_refused(limits: GuardLimits, start_rad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="joints_rad: expected 6 finite numbers"):
        FollowerState.at_rest(np.full(6, np.nan))
    state = FollowerState.at_rest(start_rad)
    for dt_s in (0.0, -0.008, float("nan")):
        with pytest.raises(ValueError, match="period > 0 s"):
            stop_step(state, dt_s=dt_s, limits=limits)
