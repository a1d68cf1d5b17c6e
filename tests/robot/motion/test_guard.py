from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import load_rig
from robot.motion.envelope import TOOL_POINT_M, ToolEnvelope
from robot.motion.follower import FollowerState, stop_step
from robot.motion.guard import (
    SETPOINT_TOLERANCE_M,
    GuardResult,
    check_request,
    check_setpoint,
    check_waypoints,
)
from robot.motion.guard_events import EVENT_INFO, GuardEvent
from robot.motion.inverse_kinematics import nearest_inverse
from robot.motion.kinematics import flange_pose
from robot.motion.limits import GuardLimits
from robot.motion.rotations import make_pose
from robot.motion.violations import depths, pose_violations
from robot.motion.waypoints import Setpoint, Waypoints

TICK_NS = 66_666_667
NOW_NS = 1_000_000_000
DT_S = 0.008
OPEN = 0.0


def chunk(joints: Any, *, gripper: float = 0.0, start_ns: int = NOW_NS + TICK_NS, expiry_ns: int = 2**62) -> Waypoints:
    joints = np.atleast_2d(np.asarray(joints, dtype=float))
    t_ns = start_ns + TICK_NS * np.arange(len(joints))
    return Waypoints(t_ns=t_ns, joints_rad=joints, gripper=np.full(len(joints), gripper), expiry_ns=expiry_ns)


def judge(
    waypoints: Waypoints, *, present: np.ndarray, limits: GuardLimits, gripper: float | None = OPEN
) -> GuardResult:
    return check_waypoints(waypoints, present_rad=present, gripper=gripper, now_ns=NOW_NS, limits=limits)


def with_tool_at(position_m: Any, *, near: np.ndarray) -> np.ndarray:
    """The posture near another whose tool point is at a position, orientation kept."""
    pose = flange_pose(near).copy()
    pose[:3, 3] = np.asarray(position_m) - pose[:3, :3] @ np.array(TOOL_POINT_M)
    joints = nearest_inverse(pose, reference_rad=near)
    assert joints is not None
    return joints


def tool_point(joints: np.ndarray) -> np.ndarray:
    return (flange_pose(joints) @ make_pose(TOOL_POINT_M))[:3, 3]


def still(joints: np.ndarray, *, gripper: float = 0.0) -> Setpoint:
    return Setpoint(joints_rad=joints, speed_rad_s=np.zeros(6), gripper=gripper)


def moved(previous: Setpoint, *, speed: np.ndarray, gripper: float = 0.0) -> Setpoint:
    return Setpoint(joints_rad=previous.joints_rad + speed * DT_S, speed_rad_s=speed, gripper=gripper)


def verdict(setpoint: Setpoint, *, previous: Setpoint, limits: GuardLimits) -> tuple[bool, set[GuardEvent]]:
    allowed, findings = check_setpoint(setpoint, previous=previous, gripper=OPEN, dt_s=DT_S, limits=limits)
    return allowed is not None, {finding.event for finding in findings}


# --- chunks ---------------------------------------------------------------------------------------------------------


def test_a_harmless_chunk_passes_unchanged(limits: GuardLimits, start_rad: np.ndarray) -> None:
    waypoints = chunk(start_rad + np.linspace(0, 0.2, 15)[:, None] * np.array([1, 0, 0, 0, 0, 0]), gripper=0.5)
    result = judge(waypoints, present=start_rad, limits=limits)
    assert result.findings == ()
    assert result.waypoints is not None
    np.testing.assert_array_equal(result.waypoints.joints_rad, waypoints.joints_rad)
    np.testing.assert_array_equal(result.waypoints.gripper, waypoints.gripper)
    assert result.waypoints.expiry_ns == waypoints.expiry_ns


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_refuses_the_whole_chunk(
    limits: GuardLimits, start_rad: np.ndarray, bad: float
) -> None:
    joints = np.tile(start_rad, (15, 1))
    joints[14, 5] = bad
    result = judge(chunk(joints), present=start_rad, limits=limits)
    assert result.waypoints is None
    assert result.counts == {GuardEvent.NON_FINITE: 1}
    assert judge(chunk(start_rad, gripper=bad), present=start_rad, limits=limits).waypoints is None


def test_a_request_of_the_wrong_shape_is_refused_with_the_reason(limits: GuardLimits, start_rad: np.ndarray) -> None:
    result = check_request(
        t_ns=[NOW_NS + 1, NOW_NS + 2],
        joints_rad=np.zeros((2, 7)),
        gripper_targets=[0.0, 0.0],
        expiry_ns=NOW_NS * 2,
        present_rad=start_rad,
        gripper=OPEN,
        now_ns=NOW_NS,
        limits=limits,
    )
    assert result.waypoints is None
    assert result.counts == {GuardEvent.BAD_SHAPE: 1}
    assert "expected shape (2, 6), got (2, 7)" in result.detail


def test_a_chunk_that_starts_far_from_the_setpoint_is_refused(limits: GuardLimits, start_rad: np.ndarray) -> None:
    far_joint = start_rad + np.array([0, 0, 0, 0, 0, 0.3])
    result = judge(chunk(far_joint), present=start_rad, limits=limits)
    assert result.waypoints is None
    assert result.counts == {GuardEvent.JUMP: 1}
    assert "joint 6 0.3 rad" in result.detail
    far_tool = start_rad + np.array([0.25, 0, 0, 0, 0, 0])
    result = judge(chunk(far_tool), present=start_rad, limits=limits)
    assert result.waypoints is None
    assert "tool point" in result.detail


def test_late_waypoints_are_dropped_and_a_late_chunk_is_refused(limits: GuardLimits, start_rad: np.ndarray) -> None:
    joints = np.tile(start_rad, (4, 1))
    result = judge(chunk(joints, start_ns=NOW_NS - TICK_NS), present=start_rad, limits=limits)
    assert result.counts == {GuardEvent.LATE_WAYPOINT: 2}
    assert result.waypoints is not None
    assert len(result.waypoints) == 2
    late = judge(chunk(joints, start_ns=NOW_NS - 10 * TICK_NS), present=start_rad, limits=limits)
    assert late.waypoints is None
    assert late.counts == {GuardEvent.LATE_WAYPOINT: 4}


def test_an_expired_chunk_is_refused(limits: GuardLimits, start_rad: np.ndarray) -> None:
    result = judge(chunk(start_rad, expiry_ns=NOW_NS), present=start_rad, limits=limits)
    assert result.waypoints is None
    assert result.counts == {GuardEvent.EXPIRED: 1}


def test_joints_are_clipped_at_the_margin(make_limits: Callable[..., GuardLimits], start_rad: np.ndarray) -> None:
    limits = make_limits(joint_upper_rad=[0.2, 3.14, 2.79, 6.28, 6.28, 6.28])
    joints = start_rad + np.array([[0.1], [0.16], [0.3]]) * np.array([1, 0, 0, 0, 0, 0])
    result = judge(chunk(joints), present=start_rad, limits=limits)
    assert result.counts[GuardEvent.JOINT_LIMIT] == 2
    assert result.waypoints is not None
    np.testing.assert_allclose(result.waypoints.joints_rad[:, 0], [0.1, 0.15, 0.15])


def test_poses_outside_the_box_are_moved_to_its_face_with_the_orientation_kept(
    limits: GuardLimits, start_rad: np.ndarray
) -> None:
    edge = with_tool_at([0.45, 0.36, 0.3], near=start_rad)
    outside = with_tool_at([0.47, 0.44, 0.3], near=edge)
    result = judge(chunk([edge, outside]), present=edge, limits=limits)
    assert GuardEvent.WORKSPACE in result.counts
    assert result.waypoints is not None
    np.testing.assert_allclose(tool_point(result.waypoints.joints_rad[1]), [0.47, 0.40, 0.3], atol=1e-6)
    np.testing.assert_allclose(
        flange_pose(result.waypoints.joints_rad[1])[:3, :3], flange_pose(outside)[:3, :3], atol=1e-6
    )


def test_the_fingertips_stay_above_the_table(limits: GuardLimits, start_rad: np.ndarray) -> None:
    low = with_tool_at([0.45, 0.0, 0.04], near=start_rad)
    below = with_tool_at([0.45, 0.0, -0.02], near=low)
    result = judge(chunk([low, below]), present=low, limits=limits)
    assert {GuardEvent.WORKSPACE, GuardEvent.TABLE} <= set(result.counts)
    assert result.waypoints is not None
    # With open jaws the tips are where the tool point is: 3 mm of clearance remain.
    assert tool_point(result.waypoints.joints_rad[1])[2] == pytest.approx(0.003, abs=1e-5)


def test_closing_jaws_reach_further_and_the_guard_knows(limits: GuardLimits, start_rad: np.ndarray) -> None:
    low = with_tool_at([0.45, 0.0, 0.008], near=start_rad)
    assert judge(chunk([low]), present=low, limits=limits, gripper=0.0).findings == ()
    for gripper in (1.0, None):
        result = judge(chunk([low]), present=low, limits=limits, gripper=gripper)
        assert result.counts == {GuardEvent.TABLE: 1}
        assert result.waypoints is not None
        assert tool_point(result.waypoints.joints_rad[0])[2] > 0.014


def test_the_elbow_stays_above_the_table(make_limits: Callable[..., GuardLimits]) -> None:
    everywhere = {"workspace_lower_m": [-2, -2, -2], "workspace_upper_m": [2, 2, 2]}
    limits = make_limits(**everywhere)
    elbow_down = np.array([0.0, 2.2, -2.2, -1.57, 1.57, 0.0])
    assert GuardEvent.TABLE in {finding.event for finding in pose_violations(elbow_down, limits=limits, gripper=OPEN)}


def test_a_chunk_ends_before_a_pose_that_cannot_be_brought_inside(limits: GuardLimits, start_rad: np.ndarray) -> None:
    steps = [
        start_rad,
        start_rad + np.array([0.2, 0, 0, 0, 0, 0]),
        start_rad + np.array([3.0, 0, 0, 0, 0, 0]),
        start_rad,
    ]
    result = judge(chunk(steps), present=start_rad, limits=limits)
    assert result.counts[GuardEvent.UNREACHABLE] == 2
    assert result.waypoints is not None
    assert len(result.waypoints) == 2


def test_speed_between_waypoints_is_counted_only(limits: GuardLimits, start_rad: np.ndarray) -> None:
    steps = start_rad + np.array([[0.0], [0.2], [0.0]]) * np.array([0, 0, 0, 0, 0, 1.0])
    result = judge(chunk(steps), present=start_rad, limits=limits)
    assert result.counts == {GuardEvent.JOINT_SPEED: 2, GuardEvent.JOINT_ACCELERATION: 1}
    assert result.waypoints is not None
    steps = start_rad + np.array([[0.0], [0.096]]) * np.array([1.0, 0, 0, 0, 0, 0])
    assert judge(chunk(steps), present=start_rad, limits=limits).counts == {GuardEvent.TCP_SPEED: 1}


def test_the_gripper_is_clipped_to_its_range(limits: GuardLimits, start_rad: np.ndarray) -> None:
    result = judge(chunk(start_rad, gripper=1.7), present=start_rad, limits=limits)
    assert result.counts == {GuardEvent.GRIPPER_RANGE: 1}
    assert result.waypoints is not None
    assert result.waypoints.gripper[0] == 1.0


any_value = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.floats(-0.5, 0.5), st.floats(-7, 7))
near_offsets = st.lists(st.tuples(*[st.floats(-0.8, 0.8)] * 6), min_size=1, max_size=15)
wild_rows = st.lists(st.tuples(*[any_value] * 6), min_size=1, max_size=15)


@given(st.one_of(near_offsets, wild_rows), any_value, st.integers(-3, 3), st.sampled_from([0.0, 0.5, 1.0, None]))
@settings(max_examples=150, deadline=None)
def test_whatever_comes_in_what_goes_out_is_finite_and_inside_the_limits(
    limits: GuardLimits,
    start_rad: np.ndarray,
    rows: list[tuple[float, ...]],
    finger: float,
    offset: int,
    gripper: float | None,
) -> None:
    joints = start_rad + np.array(rows)
    joints[0] = np.where(np.abs(joints[0] - start_rad) < 1, start_rad + (joints[0] - start_rad) * 0.1, joints[0])
    waypoints = chunk(joints, gripper=finger, start_ns=NOW_NS + offset * TICK_NS)
    result = judge(waypoints, present=start_rad, limits=limits, gripper=gripper)
    assert result.waypoints is not None or result.findings
    if result.waypoints is None:
        return
    passed = result.waypoints
    assert np.all(np.isfinite(passed.joints_rad))
    assert np.all((passed.gripper >= 0) & (passed.gripper <= 1))
    assert np.all(passed.t_ns > NOW_NS)
    assert np.max(np.abs(passed.joints_rad[0] - start_rad)) <= limits.max_jump_rad
    outside = depths(passed.joints_rad, gripper=gripper, limits=limits, margin_rad=limits.joint_margin_rad)
    assert np.max(outside.stacked) <= 1e-6


def test_the_present_setpoint_must_be_finite(limits: GuardLimits, start_rad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="present_rad"):
        judge(chunk(start_rad), present=np.full(6, np.nan), limits=limits)


# --- set-points -----------------------------------------------------------------------------------------------------


def test_a_small_step_inside_passes_and_the_gripper_is_clipped(limits: GuardLimits, start_rad: np.ndarray) -> None:
    previous = still(start_rad)
    allowed, findings = check_setpoint(
        moved(previous, speed=np.full(6, 0.05), gripper=1.4), previous=previous, gripper=OPEN, dt_s=DT_S, limits=limits
    )
    assert allowed is not None
    assert allowed.gripper == 1.0
    assert [finding.event for finding in findings] == [GuardEvent.GRIPPER_RANGE]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e308])
def test_absurd_setpoints_are_refused(limits: GuardLimits, start_rad: np.ndarray, bad: float) -> None:
    joints = start_rad.copy()
    joints[2] = bad
    assert not verdict(still(joints), previous=still(start_rad), limits=limits)[0]


def test_a_setpoint_is_refused_when_it_is_too_fast_or_too_sharp(limits: GuardLimits, start_rad: np.ndarray) -> None:
    wrist = np.array([0, 0, 0, 0, 0, 1.0])
    fast = Setpoint(joints_rad=start_rad, speed_rad_s=1.55 * wrist, gripper=0.0)
    assert verdict(moved(fast, speed=1.6 * wrist), previous=fast, limits=limits) == (False, {GuardEvent.JOINT_SPEED})
    assert verdict(moved(fast, speed=1.5 * wrist), previous=fast, limits=limits) == (True, set())
    sharp = moved(still(start_rad), speed=0.2 * wrist)
    assert verdict(sharp, previous=still(start_rad), limits=limits) == (False, {GuardEvent.JOINT_ACCELERATION})
    turning = Setpoint(joints_rad=start_rad, speed_rad_s=np.array([1.35, 0, 0, 0, 0, 0]), gripper=0.0)
    faster = moved(turning, speed=np.array([1.4, 0, 0, 0, 0, 0]))
    assert verdict(faster, previous=turning, limits=limits) == (False, {GuardEvent.TCP_SPEED})


def test_what_a_setpoint_claims_of_its_speed_does_not_hide_a_leap(limits: GuardLimits, start_rad: np.ndarray) -> None:
    leap = Setpoint(joints_rad=start_rad + 0.05, speed_rad_s=np.zeros(6), gripper=0.0)
    assert not verdict(leap, previous=still(start_rad), limits=limits)[0]


def test_an_arm_heading_out_is_stopped_while_it_can_still_stop_inside(
    limits: GuardLimits, start_rad: np.ndarray
) -> None:
    speed = np.array([1.0, 0, 0, 0, 0, 0])
    state = FollowerState(joints_rad=start_rad, speed_rad_s=speed)
    previous = Setpoint(joints_rad=start_rad, speed_rad_s=speed, gripper=0.0)
    for _ in range(300):
        candidate = moved(previous, speed=speed)
        passes, events = verdict(candidate, previous=previous, limits=limits)
        if not passes:
            break
        previous = candidate
    assert events == {GuardEvent.WORKSPACE}
    assert tool_point(previous.joints_rad)[1] < 0.40 - 0.01
    state = FollowerState(joints_rad=previous.joints_rad, speed_rad_s=previous.speed_rad_s)
    while not state.is_at_rest:
        state = stop_step(state, dt_s=DT_S, limits=limits)
        assert tool_point(state.joints_rad)[1] <= 0.40 + SETPOINT_TOLERANCE_M
    assert tool_point(state.joints_rad)[1] > 0.40 - 0.02


def test_an_arm_that_starts_outside_may_move_in_but_not_further_out(limits: GuardLimits, start_rad: np.ndarray) -> None:
    outside = with_tool_at([0.45, 0.45, 0.3], near=start_rad)
    for low in (with_tool_at([0.45, 0.0, -0.01], near=start_rad), outside):
        previous = still(low)
        assert pose_violations(low, limits=limits, gripper=OPEN)
        back = with_tool_at(tool_point(low) * [1, 0.99, 1] + [0, 0, 0.001], near=low) - low
        back *= 0.05 / np.max(np.abs(back))
        assert verdict(moved(previous, speed=back), previous=previous, limits=limits) == (True, set())
        assert not verdict(moved(previous, speed=-back), previous=previous, limits=limits)[0]
        assert verdict(previous, previous=previous, limits=limits) == (True, set())


def test_an_arm_beyond_a_joint_limit_may_come_back(
    make_limits: Callable[..., GuardLimits], start_rad: np.ndarray
) -> None:
    limits = make_limits(joint_lower_rad=[0.1, -3.14, -2.79, -6.28, -6.28, -6.28])
    previous = still(start_rad)
    inward = np.array([0.05, 0, 0, 0, 0, 0])
    assert verdict(moved(previous, speed=inward), previous=previous, limits=limits) == (True, set())
    passes, events = verdict(moved(previous, speed=-inward), previous=previous, limits=limits)
    assert (passes, events) == (False, {GuardEvent.JOINT_LIMIT})


# --- postures, limits, table ----------------------------------------------------------------------------------------


def test_violations_say_where_and_what_is_allowed(limits: GuardLimits, start_rad: np.ndarray) -> None:
    assert pose_violations(start_rad, limits=limits) == ()
    beyond = start_rad.copy()
    beyond[2] = -3.0
    texts = " ".join(str(finding) for finding in pose_violations(beyond, limits=limits))
    assert "joint 3 at -3.000 rad, allowed [-2.790, 2.790] rad" in texts
    outside = with_tool_at([0.45, 0.45, 0.3], near=start_rad)
    (finding,) = pose_violations(outside, limits=limits)
    assert finding.event is GuardEvent.WORKSPACE
    assert "y = 0.450 m, allowed [-0.400, 0.400] m" in finding.detail
    assert pose_violations(np.full(6, np.nan), limits=limits)[0].event is GuardEvent.NON_FINITE
    assert pose_violations(np.zeros(7), limits=limits)[0].event is GuardEvent.BAD_SHAPE


@pytest.mark.parametrize("rig", ["twin", "lab"])
def test_the_start_posture_of_each_rig_is_inside_its_limits(rig: str) -> None:
    config = load_rig(rig)
    limits = GuardLimits.from_config(config.limits)
    assert pose_violations(config.start.joints_rad, limits=limits) == ()
    assert limits.max_joint_speed_rad_s.shape == (6,)


def test_the_envelope_reaches_furthest_when_the_jaws_are_nearly_closed() -> None:
    envelope = ToolEnvelope()
    reach = {g: float(envelope.points_m(gripper=g)[:, 2].max()) for g in (0.0, 0.5, 1.0, None)}
    assert reach[0.0] == pytest.approx(0.187, abs=1e-3)
    assert reach[1.0] == pytest.approx(0.2002, abs=1e-4)
    assert reach[0.0] < reach[0.5] < reach[1.0] < reach[None]
    assert reach[None] == pytest.approx(envelope.points_m(gripper=float("nan"))[:, 2].max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_tcp_speed_m_s": 0.0}, "max_tcp_speed_m_s: expected values > 0"),
        ({"joint_margin_rad": -0.1}, "joint_margin_rad: expected a value >= 0"),
        ({"workspace_lower_m": [1, 1, 1]}, "expected lower < upper"),
        ({"joint_margin_rad": 3.0}, "nothing is left"),
        ({"table_height_m": float("nan")}, "table_height_m: expected finite"),
        ({"joint_lower_rad": [0.0, 1.0]}, r"joint_lower_rad: expected shape \(6,\)"),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(
    make_limits: Callable[..., GuardLimits], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_limits(**change)


def test_every_event_has_a_reaction_and_a_text() -> None:
    assert set(EVENT_INFO) == set(GuardEvent)
    assert GuardEvent.JOINT_LIMIT.label == "joint_limit"
    assert [event.value for event in GuardEvent] == list(range(len(GuardEvent)))
