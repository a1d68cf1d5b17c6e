"""Laws of the ServoJ follower."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.motion.nova5 import MAX_JOINT_SPEED_RAD_S
from robot.twin.servo_filter import OVERSPEED_AFTER_S, ServoPoint, retarget, start, step

DT_S = 0.002
joints = st.lists(st.floats(-3.0, 3.0), min_size=6, max_size=6).map(np.array)
points = st.builds(
    ServoPoint,
    target=joints,
    time_s=st.floats(0.004, 0.3),
    aheadtime=st.floats(20, 100),
    gain=st.floats(200, 1000),
)


@settings(max_examples=25, deadline=None)
@given(begin=joints, stream=st.lists(st.tuples(points, st.integers(1, 20)), max_size=10))
def test_speed_never_exceeds_the_joint_limit_whatever_is_streamed(
    begin: np.ndarray, stream: list[tuple[ServoPoint, int]]
) -> None:
    state = start(begin)
    for point, steps in stream:
        state = retarget(state, point)
        for _ in range(steps):
            previous = state
            state = step(state, dt_s=DT_S)
            way = np.abs(state.position - previous.position)
            assert np.all(way <= MAX_JOINT_SPEED_RAD_S * DT_S + 2e-6)


@settings(max_examples=20, deadline=None)
@given(begin=joints, way=st.floats(-0.3, 0.3), point=points)
def test_the_last_point_is_reached_and_held(begin: np.ndarray, way: float, point: ServoPoint) -> None:
    state = retarget(start(begin), replace(point, target=begin + way))
    seconds = 0.0
    while not state.settled and seconds < 6.0:
        state = step(state, dt_s=DT_S)
        seconds += DT_S
    np.testing.assert_array_equal(state.position, begin + way)
    np.testing.assert_array_equal(step(state, dt_s=DT_S).position, begin + way)


def test_a_steady_stream_is_followed_at_its_speed_with_a_short_lag() -> None:
    state, speed, period_s = start(np.zeros(6)), 0.5, 0.008
    for tick in range(1, 200):
        state = retarget(state, ServoPoint(np.full(6, speed * tick * period_s), time_s=period_s))
        for _ in range(4):
            state = step(state, dt_s=DT_S)
    lag_s = (speed * 199 * period_s - state.position[0]) / speed
    np.testing.assert_allclose(state.speed, speed, rtol=0.02)
    assert 0.01 < lag_s < 0.04


def test_a_jump_that_wants_too_much_speed_for_long_is_an_overspeed_of_that_joint() -> None:
    target = np.zeros(6)
    target[3] = 0.6
    state = retarget(start(np.zeros(6)), ServoPoint(target, time_s=0.008))
    for _ in range(round(2 * OVERSPEED_AFTER_S / DT_S)):
        state = step(state, dt_s=DT_S)
    assert state.overspeed_joint == 3


def test_a_brief_demand_beyond_the_limit_is_only_clamped() -> None:
    state = retarget(start(np.zeros(6)), ServoPoint(np.full(6, 0.05), time_s=0.008))
    for _ in range(500):
        state = step(state, dt_s=DT_S)
        assert state.overspeed_joint is None
