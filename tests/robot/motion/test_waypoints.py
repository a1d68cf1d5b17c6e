from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.motion.waypoints import MIN_KNOT_GAP_NS, NEVER_NS, Trajectory, WaypointError, Waypoints

MS = 1_000_000
TICK_NS = 66_666_667


def waypoints(
    t_ns: Any, joint1: Any, *, expiry_ns: int = NEVER_NS, source_id: int = 0, gripper: Any = None
) -> Waypoints:
    """Waypoints that move joint 1 only."""
    joints = np.zeros((len(t_ns), 6))
    joints[:, 0] = joint1
    fingers = np.zeros(len(t_ns)) if gripper is None else gripper
    return Waypoints(t_ns=np.array(t_ns), joints_rad=joints, gripper=fingers, expiry_ns=expiry_ns, source_id=source_id)


def at_zero(t_ns: int = 0) -> Trajectory:
    return Trajectory.hold(np.zeros(6), gripper=0.0, t_ns=t_ns)


@st.composite
def chunks(draw: st.DrawFn, *, latest_start_ns: int = 500 * MS) -> Waypoints:
    count = draw(st.integers(1, 15))
    start = draw(st.integers(1 * MS, latest_start_ns))
    gaps = draw(st.lists(st.integers(1 * MS, 150 * MS), min_size=count - 1, max_size=count - 1))
    joints = draw(st.lists(st.floats(-2, 2), min_size=count, max_size=count))
    return waypoints(start + np.cumsum([0, *gaps]), joints)


@given(chunks())
@settings(max_examples=100, deadline=None)
def test_the_path_meets_every_waypoint_at_its_time(chunk: Waypoints) -> None:
    path = at_zero().schedule(chunk, now_ns=0)
    for t_ns, joints in zip(chunk.t_ns, chunk.joints_rad, strict=True):
        np.testing.assert_allclose(path.sample(int(t_ns)).joints_rad, joints, atol=1e-12)


@given(chunks())
@settings(max_examples=100, deadline=None)
def test_from_rest_the_path_never_leaves_the_range_of_two_neighbouring_waypoints(chunk: Waypoints) -> None:
    path = at_zero().schedule(chunk, now_ns=0)
    t_ns = np.concatenate([[0], chunk.t_ns])
    joint1 = np.concatenate([[0.0], chunk.joints_rad[:, 0]])
    for index in range(len(t_ns) - 1):
        low, high = sorted(joint1[index : index + 2])
        for share in (0.05, 0.3, 0.5, 0.7, 0.95):
            value = path.sample(int(t_ns[index] + share * (t_ns[index + 1] - t_ns[index]))).joints_rad[0]
            assert low - 1e-9 <= value <= high + 1e-9


@given(chunks(), st.lists(st.integers(0, 2_000 * MS), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_speed_is_the_derivative_of_position(chunk: Waypoints, times_ns: list[int]) -> None:
    path = at_zero().schedule(chunk, now_ns=0)
    knots = set(chunk.t_ns.tolist()) | {0}
    step = 2_000
    for t_ns in times_ns:
        if t_ns < step or any(abs(t_ns - knot) <= step for knot in knots):
            continue
        ahead, behind = path.sample(t_ns + step).joints_rad, path.sample(t_ns - step).joints_rad
        speed = path.sample(t_ns).speed_rad_s
        np.testing.assert_allclose(speed, (ahead - behind) / (2 * step * 1e-9), atol=1e-3 * (1 + abs(speed[0])))


@given(chunks(), chunks(latest_start_ns=1_500 * MS), st.integers(0, 1_500 * MS))
@settings(max_examples=200, deadline=None)
def test_scheduling_changes_neither_position_nor_speed_at_that_moment(
    first: Waypoints, second: Waypoints, now_ns: int
) -> None:
    before = at_zero().schedule(first, now_ns=0)
    after = before.schedule(second, now_ns=now_ns)
    old, new = before.sample(now_ns), after.sample(now_ns)
    np.testing.assert_allclose(new.joints_rad, old.joints_rad, atol=1e-12)
    np.testing.assert_allclose(new.speed_rad_s, old.speed_rad_s, atol=1e-9)
    assert new.gripper == old.gripper


@given(chunks(), chunks(latest_start_ns=1_500 * MS), st.integers(0, 1_500 * MS))
@settings(max_examples=200, deadline=None)
def test_the_plan_is_kept_before_the_first_accepted_waypoint_and_replaced_after(
    first: Waypoints, second: Waypoints, now_ns: int
) -> None:
    before = at_zero().schedule(first, now_ns=0)
    after = before.schedule(second, now_ns=now_ns)
    accepted = second.t_ns[second.t_ns > now_ns]
    assert after.late_waypoints == before.late_waypoints + len(second) - len(accepted)
    if len(accepted) == 0:
        assert after.expiry_ns == before.expiry_ns
        return
    kept = [t for t in first.t_ns.tolist() if now_ns < t < accepted[0] - MIN_KNOT_GAP_NS]
    for t_ns in kept:
        np.testing.assert_allclose(after.sample(t_ns).joints_rad, before.sample(t_ns).joints_rad, atol=1e-12)
    for t_ns in (int(now_ns + share * (kept[-1] - now_ns)) for share in (0.2, 0.5, 0.9) if kept):
        # Up to the last kept waypoint but one even the shape is the same.
        if len(kept) > 1 and t_ns <= kept[-2]:
            np.testing.assert_allclose(after.sample(t_ns).joints_rad, before.sample(t_ns).joints_rad, atol=1e-9)
    for t_ns, joints in zip(second.t_ns, second.joints_rad, strict=True):
        if t_ns > now_ns:
            np.testing.assert_allclose(after.sample(int(t_ns)).joints_rad, joints, atol=1e-12)


def test_late_waypoints_are_dropped_and_counted_never_shifted() -> None:
    chunk = waypoints([10 * MS, 20 * MS, 30 * MS, 40 * MS], [1.0, 2.0, 3.0, 4.0])
    path = at_zero().schedule(chunk, now_ns=20 * MS)
    assert path.late_waypoints == 2
    assert path.waypoints_left(20 * MS) == 2
    assert path.sample(20 * MS).joints_rad[0] == 0.0
    assert path.sample(30 * MS).joints_rad[0] == pytest.approx(3.0)


def test_a_chunk_that_is_late_altogether_changes_nothing_but_the_count() -> None:
    path = at_zero().schedule(waypoints([10 * MS, 100 * MS], [0.1, 0.2], expiry_ns=150 * MS), now_ns=0)
    later = path.schedule(waypoints([30 * MS, 40 * MS], [9.0, 9.0], expiry_ns=NEVER_NS), now_ns=50 * MS)
    assert later.late_waypoints == 2
    assert later.expiry_ns == 150 * MS
    np.testing.assert_array_equal(later.sample(90 * MS).joints_rad, path.sample(90 * MS).joints_rad)


def test_after_the_expiry_the_target_is_to_stop_where_the_path_was() -> None:
    path = at_zero().schedule(waypoints([0 + TICK_NS, 2 * TICK_NS], [0.1, 0.2], expiry_ns=100 * MS), now_ns=0)
    assert not path.sample(100 * MS - 1).expired
    stopped = path.sample(100 * MS)
    assert stopped.expired
    assert not np.any(stopped.speed_rad_s)
    np.testing.assert_array_equal(path.sample(10_000 * MS).joints_rad, stopped.joints_rad)
    assert path.waypoints_left(100 * MS) == 0
    fresh = path.schedule(waypoints([300 * MS], [0.15], expiry_ns=400 * MS), now_ns=200 * MS)
    assert not fresh.sample(200 * MS).expired
    np.testing.assert_array_equal(fresh.sample(200 * MS).joints_rad, stopped.joints_rad)


def test_waypoints_beyond_the_old_expiry_are_not_revived_by_a_new_chunk() -> None:
    path = at_zero().schedule(waypoints([50 * MS, 150 * MS], [0.1, 5.0], expiry_ns=100 * MS), now_ns=0)
    fresh = path.schedule(waypoints([300 * MS], [0.1], expiry_ns=400 * MS), now_ns=20 * MS)
    assert max(fresh.sample(t * MS).joints_rad[0] for t in range(20, 300, 5)) < 0.2


def test_without_an_expiry_the_path_rests_at_its_last_waypoint() -> None:
    path = at_zero().schedule(waypoints([TICK_NS], [0.1]), now_ns=0)
    rest = path.sample(10 * TICK_NS)
    assert rest.joints_rad[0] == 0.1
    assert not np.any(rest.speed_rad_s)
    assert not rest.expired


def test_the_gripper_follows_the_newest_waypoint_due() -> None:
    path = at_zero().schedule(waypoints([10 * MS, 20 * MS, 30 * MS], [0, 0, 0], gripper=[0.2, 0.9, 0.4]), now_ns=0)
    assert [path.sample(t * MS).gripper for t in (5, 10, 19, 20, 29, 30, 99)] == [0.0, 0.2, 0.2, 0.9, 0.9, 0.4, 0.4]


def test_the_setpoint_names_the_chunk_that_is_followed() -> None:
    path = at_zero().schedule(waypoints([10 * MS, 60 * MS, 100 * MS], [0, 0, 0], source_id=7), now_ns=0)
    path = path.schedule(waypoints([50 * MS, 90 * MS], [0, 0], source_id=8), now_ns=5 * MS)
    assert [path.sample(t * MS).source_id for t in (6, 20, 60, 95)] == [7, 8, 8, 0]
    assert path.waypoints_left(6 * MS) == 3


def test_two_chunks_that_disagree_within_a_millisecond_do_not_make_a_jerk() -> None:
    path = at_zero().schedule(waypoints([100 * MS, 200 * MS], [0.10, 0.20]), now_ns=0)
    path = path.schedule(waypoints([101 * MS, 201 * MS], [0.11, 0.21]), now_ns=50 * MS)
    speeds = [path.sample(t * MS).speed_rad_s[0] for t in range(50, 201)]
    assert max(np.abs(speeds)) < 3.0


def test_values_that_are_not_finite_pass_through_for_the_guard_and_follower_to_judge() -> None:
    path = at_zero().schedule(waypoints([10 * MS, 20 * MS], [np.nan, 1e308]), now_ns=0)
    assert not np.isfinite(path.sample(5 * MS).joints_rad[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joints_rad": np.zeros((2, 7))}, r"joints_rad: expected shape \(2, 6\), got \(2, 7\)"),
        ({"joints_rad": [[0.0], [0.0, 1.0]]}, "joints_rad: expected a rectangular array"),
        ({"joints_rad": np.full((2, 6), "a")}, "joints_rad: expected real numbers"),
        ({"gripper": np.zeros(3)}, r"gripper: expected shape \(2,\)"),
        ({"t_ns": [2, 1]}, "strictly increasing"),
        ({"t_ns": [1, 1]}, "strictly increasing"),
        ({"t_ns": [-5, 1]}, ">= 0"),
        ({"t_ns": [0.5, 1.5]}, "t_ns: expected integers"),
        ({"t_ns": np.array([1, 2**63], dtype=np.uint64)}, "below 2"),
        ({"expiry_ns": 1.5}, "expiry_ns: expected integers"),
        ({"source_id": -1}, "source_id"),
    ],
)
def test_arrays_that_are_no_waypoints_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"t_ns": [1, 2], "joints_rad": np.zeros((2, 6)), "gripper": np.zeros(2), "expiry_ns": 9}
    Waypoints(**good)
    with pytest.raises(WaypointError, match=message):
        Waypoints(**(good | change))


def test_waypoints_cannot_be_changed_afterwards() -> None:
    joints = np.zeros((1, 6))
    chunk = Waypoints(t_ns=np.array([1]), joints_rad=joints, gripper=np.zeros(1), expiry_ns=9)
    joints[0, 0] = 5.0
    assert chunk.joints_rad[0, 0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        chunk.joints_rad[0, 0] = 1.0
