"""Laws of chunk scheduling: nothing in the past, nothing shifted, nothing beyond the chunk's end."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_server.client import Continuity
from robot.motion.waypoints import Waypoints
from robot.rollout.chunks import ChunkScheduler, ExecutionMode, SchedulerConfig

FPS = 15.0
HORIZON = 15
LEAD_NS = 5_000_000
PERIOD_NS = round(1e9 / FPS)
START_NS = 10_000_000_000
AT_REST = np.zeros(6)


def scheduler(
    mode: ExecutionMode = ExecutionMode.ASYNC, *, replan_ticks: int = 6, blend_ticks: int = 2, seam_step: float = 10.0
) -> ChunkScheduler:
    return ChunkScheduler(
        SchedulerConfig(
            mode=mode,
            fps=FPS,
            horizon=HORIZON,
            replan_ticks=replan_ticks,
            blend_ticks=blend_ticks,
            max_seam_step_rad=seam_step,
            lead_ns=LEAD_NS,
        )
    )


def constant(value: float) -> np.ndarray:
    return np.full((HORIZON, 7), value)


def ramp(t_ns: float) -> float:
    """Where a joint moving at 0.5 rad/s is."""
    return 0.5 * (t_ns - START_NS) / 1e9


def ramp_policy(observation_time_ns: int) -> np.ndarray:
    """What a demonstration of the ramp trains: action k is where the arm is one period after observation k."""
    times = observation_time_ns + np.arange(1, HORIZON + 1) * (1e9 / FPS)
    return np.column_stack([[ramp(t)] * 6 + [0.5] for t in times]).T


def run(
    plan: ChunkScheduler,
    *,
    ticks: int,
    delay_ns: Callable[[int], int],
    camera_age_ns: int = 40_000_000,
    policy: Callable[[int], np.ndarray] = ramp_policy,
) -> tuple[list[tuple[int, Waypoints]], list[tuple[int, np.ndarray | None]]]:
    """Ticks of a client whose n-th request is answered after ``delay_ns(n)``; what was sent and what was commanded."""
    sent, commanded = [], []
    pending: tuple[int, int] | None = None
    for tick in range(ticks):
        now_ns = START_NS + tick * PERIOD_NS
        if pending is not None and now_ns >= pending[0]:
            waypoints = plan.accept(
                policy(pending[1]), observation_time_ns=pending[1], now_ns=now_ns, setpoint_rad=AT_REST
            )
            pending = None
            if waypoints is not None:
                sent.append((now_ns, waypoints))
        plan.tick(now_ns)
        observation_ns = now_ns - camera_age_ns
        if plan.wants_chunk(now_ns=now_ns, observation_time_ns=observation_ns):
            plan.asked(observation_time_ns=observation_ns)
            pending = (now_ns + delay_ns(plan.statistics.requests), observation_ns)
        commanded.append((now_ns, plan.committed(now_ns)))
    return sent, commanded


@pytest.mark.parametrize("delay_ticks", range(7))
@pytest.mark.parametrize("camera_age_ms", [1, 40, 66, 100])
def test_a_ramp_policy_commands_the_ramp_whatever_the_delay(delay_ticks: int, camera_age_ms: int) -> None:
    plan = scheduler()
    _, commanded = run(
        plan, ticks=90, delay_ns=lambda n: delay_ticks * PERIOD_NS, camera_age_ns=camera_age_ms * 1_000_000
    )
    steady = commanded[40:]
    assert all(action is not None for _, action in steady)
    for now_ns, action in steady:
        assert action is not None
        np.testing.assert_allclose(action[:6], ramp(now_ns), atol=1e-6)
    assert plan.statistics.underruns == 0
    assert max(plan.statistics.seam_jumps_rad[1:]) < 1e-6


def test_action_k_is_due_k_plus_one_periods_after_its_observation() -> None:
    plan = scheduler(blend_ticks=0)
    actions = np.arange(HORIZON)[:, None] * np.full(7, 0.01)
    plan.asked(observation_time_ns=START_NS)
    waypoints = plan.accept(actions, observation_time_ns=START_NS, now_ns=START_NS + 1, setpoint_rad=AT_REST)
    assert waypoints is not None
    np.testing.assert_array_equal(waypoints.t_ns, START_NS + np.rint(np.arange(1, 16) * 1e9 / 15).astype(int))
    np.testing.assert_allclose(waypoints.joints_rad[:, 0], np.arange(15) * 0.01)
    assert waypoints.expiry_ns == START_NS + 1_000_000_000
    assert waypoints.source_id == START_NS


def test_waypoints_that_are_past_on_arrival_are_dropped_and_the_rest_keep_their_times() -> None:
    plan = scheduler(blend_ticks=0)
    actions = np.arange(HORIZON)[:, None] * np.full(7, 0.01)
    plan.asked(observation_time_ns=START_NS)
    now_ns = START_NS + 4 * PERIOD_NS + 30_000_000
    waypoints = plan.accept(actions, observation_time_ns=START_NS, now_ns=now_ns, setpoint_rad=AT_REST)
    assert waypoints is not None
    assert len(waypoints) == 11
    assert waypoints.joints_rad[0, 0] == pytest.approx(0.04)
    assert waypoints.t_ns[0] == START_NS + round(5e9 / 15)
    assert (plan.statistics.late_waypoints, plan.statistics.delay_ticks) == (4, [4])


def test_a_chunk_that_comes_after_its_end_is_dropped_whole() -> None:
    plan = scheduler()
    plan.asked(observation_time_ns=START_NS)
    late_ns = START_NS + 1_100_000_000
    assert plan.accept(constant(0.1), observation_time_ns=START_NS, now_ns=late_ns, setpoint_rad=AT_REST) is None
    assert plan.statistics.dropped_chunks == 1
    assert plan.wants_chunk(now_ns=late_ns, observation_time_ns=late_ns - 1)


def test_a_chunk_older_than_the_one_in_force_is_dropped() -> None:
    plan = scheduler()
    first = plan.accept(constant(0.1), observation_time_ns=START_NS, now_ns=START_NS + 1, setpoint_rad=AT_REST)
    assert first is not None
    older = START_NS - PERIOD_NS
    assert plan.accept(constant(0.2), observation_time_ns=older, now_ns=START_NS + 2, setpoint_rad=AT_REST) is None


def test_after_a_hold_only_a_fresh_observation_moves_the_arm_again() -> None:
    plan = scheduler()
    plan.asked(observation_time_ns=START_NS)
    plan.forget_path(START_NS + 50_000_000)
    assert (
        plan.accept(constant(0.1), observation_time_ns=START_NS, now_ns=START_NS + 60_000_000, setpoint_rad=AT_REST)
        is None
    )
    assert not plan.wants_chunk(now_ns=START_NS + 70_000_000, observation_time_ns=START_NS + 49_000_000)
    assert plan.wants_chunk(now_ns=START_NS + 70_000_000, observation_time_ns=START_NS + 51_000_000)


@settings(deadline=None, max_examples=150)
@given(
    delays_ms=st.lists(st.integers(0, 1500), min_size=1, max_size=8),
    camera_age_ms=st.integers(1, 140),
    mode=st.sampled_from(ExecutionMode),
    replan_ticks=st.integers(1, HORIZON),
    blend_ticks=st.integers(0, 4),
    seed=st.integers(0, 100),
)
def test_for_any_delays_waypoints_lie_ahead_in_order_and_expire_with_their_chunk(
    delays_ms: list[int], camera_age_ms: int, mode: ExecutionMode, replan_ticks: int, blend_ticks: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    plan = scheduler(mode, replan_ticks=replan_ticks, blend_ticks=blend_ticks, seam_step=0.1)
    sent, _ = run(
        plan,
        ticks=80,
        delay_ns=lambda n: delays_ms[n % len(delays_ms)] * 1_000_000,
        camera_age_ns=camera_age_ms * 1_000_000,
        policy=lambda _: rng.normal(size=(HORIZON, 7)),
    )
    for now_ns, waypoints in sent:
        assert waypoints.t_ns[0] >= now_ns + LEAD_NS
        assert waypoints.expiry_ns == waypoints.t_ns[-1]
        base_ns = now_ns if mode is ExecutionMode.SYNC else waypoints.source_id
        count = replan_ticks if mode is ExecutionMode.SYNC else HORIZON
        assert waypoints.expiry_ns <= base_ns + round(count * 1e9 / FPS)
        ticks = (waypoints.t_ns - base_ns) * FPS / 1e9
        np.testing.assert_allclose(ticks, np.rint(ticks), atol=1e-6)
    observations = [waypoints.source_id for _, waypoints in sent]
    assert observations == sorted(set(observations))


@settings(deadline=None, max_examples=100)
@given(jump=st.floats(-1.0, 1.0), blend_ticks=st.integers(0, 3), delay_ticks=st.integers(0, 4))
def test_a_seam_is_crossed_in_steps_no_wider_than_allowed(jump: float, blend_ticks: int, delay_ticks: int) -> None:
    step = 0.1
    plan = scheduler(blend_ticks=blend_ticks, seam_step=step)
    first = plan.accept(constant(0.0), observation_time_ns=START_NS, now_ns=START_NS + 1, setpoint_rad=AT_REST)
    assert first is not None
    seen_ns = START_NS + 6 * PERIOD_NS
    second = plan.accept(
        constant(jump), observation_time_ns=seen_ns, now_ns=seen_ns + delay_ticks * PERIOD_NS, setpoint_rad=AT_REST
    )
    assert second is not None
    path = np.concatenate([[0.0], second.joints_rad[:, 0]])
    assert np.max(np.abs(np.diff(path))) <= step + 1e-9 or len(second) * step < abs(jump)
    assert plan.statistics.seam_jumps_rad[-1] == pytest.approx(abs(jump))
    ticks = max(blend_ticks, int(np.ceil(abs(jump) / step)) - 1)
    if len(second) > ticks:
        assert path[ticks + 1] == pytest.approx(jump)


def test_after_the_path_has_ended_the_next_one_fades_in_from_where_the_arm_holds() -> None:
    plan = scheduler(blend_ticks=1)
    now_ns = START_NS + 1_000_000
    waypoints = plan.accept(constant(0.2), observation_time_ns=START_NS, now_ns=now_ns, setpoint_rad=np.full(6, 0.1))
    assert waypoints is not None
    np.testing.assert_allclose(waypoints.joints_rad[:3, 0], [0.15, 0.2, 0.2])
    np.testing.assert_allclose(waypoints.gripper, 0.2)


def test_async_asks_again_after_the_replan_interval_and_never_twice_at_once() -> None:
    plan = scheduler(replan_ticks=6)
    _, _ = run(plan, ticks=61, delay_ns=lambda n: 2 * PERIOD_NS)
    assert plan.statistics.requests == 11  # the first tick and then every sixth
    assert plan.statistics.underruns == 0


def test_async_asks_again_at_once_after_a_failed_request() -> None:
    plan = scheduler()
    plan.accept(constant(0.0), observation_time_ns=START_NS, now_ns=START_NS + 1, setpoint_rad=AT_REST)
    plan.asked(observation_time_ns=START_NS + PERIOD_NS)
    plan.failed()
    again_ns = START_NS + 2 * PERIOD_NS
    assert not plan.wants_chunk(now_ns=again_ns, observation_time_ns=START_NS + PERIOD_NS)
    assert plan.wants_chunk(now_ns=again_ns, observation_time_ns=again_ns - 1)


def test_sync_carries_out_every_action_then_looks_again_at_a_resting_arm() -> None:
    plan = scheduler(ExecutionMode.SYNC, replan_ticks=8, blend_ticks=0)
    plan.asked(observation_time_ns=START_NS)
    now_ns = START_NS + 300_000_000
    waypoints = plan.accept(ramp_policy(START_NS), observation_time_ns=START_NS, now_ns=now_ns, setpoint_rad=AT_REST)
    assert waypoints is not None
    assert (len(waypoints), waypoints.t_ns[0]) == (8, now_ns + PERIOD_NS)
    end_ns = waypoints.expiry_ns
    assert not plan.wants_chunk(now_ns=end_ns - 1, observation_time_ns=end_ns - 40_000_000)
    assert not plan.wants_chunk(now_ns=end_ns + 1, observation_time_ns=end_ns - 40_000_000)
    assert plan.wants_chunk(now_ns=end_ns + 80_000_000, observation_time_ns=end_ns + 1)


def test_the_prefix_is_what_will_be_carried_out_before_the_new_chunk_can_take_over() -> None:
    plan = scheduler()
    run(plan, ticks=60, delay_ns=lambda n: 2 * PERIOD_NS)
    assert plan.statistics.delay_ticks[-1] == 2
    seen_ns = START_NS + 60 * PERIOD_NS - 40_000_000
    left = plan.leftover(observation_time_ns=seen_ns)
    assert left.committed == 2
    assert 2 < len(left.actions) <= 15
    np.testing.assert_allclose(left.actions, ramp_policy(seen_ns)[: len(left.actions)], atol=1e-6)
    assert np.array_equal(left.arguments(None)["action_prefix"], left.actions[:2])
    guided = left.arguments(Continuity.GUIDED)
    assert (len(guided["action_prefix"]), guided["committed"]) == (len(left.actions), 2)


def test_there_is_no_prefix_without_a_path_and_none_beyond_its_end() -> None:
    plan = scheduler()
    nothing = plan.leftover(observation_time_ns=START_NS)
    assert nothing.actions.shape == (0, 7)
    assert nothing.arguments(Continuity.GUIDED) == nothing.arguments(None) == {}
    run(plan, ticks=60, delay_ns=lambda n: 4 * PERIOD_NS)
    end_ns = plan.end_ns
    assert end_ns is not None
    assert len(plan.leftover(observation_time_ns=end_ns - PERIOD_NS).actions) <= 1
    assert len(plan.leftover(observation_time_ns=end_ns).actions) == 0


def test_ticks_without_a_waypoint_ahead_are_counted() -> None:
    plan = scheduler()
    run(plan, ticks=60, delay_ns=lambda n: 0 if n == 1 else 10**12)
    end_ns = plan.end_ns
    assert end_ns is not None
    expected = sum(START_NS + tick * PERIOD_NS >= end_ns for tick in range(60))
    assert plan.statistics.underruns == expected > 30


@pytest.mark.parametrize(
    "actions", [np.full((HORIZON, 7), np.nan), np.zeros((HORIZON, 8)), np.zeros((HORIZON - 1, 7)), np.zeros(7)]
)
def test_a_chunk_of_another_shape_or_with_nan_is_refused(actions: np.ndarray) -> None:
    plan = scheduler()
    with pytest.raises(ValueError, match="expected"):
        plan.accept(actions, observation_time_ns=START_NS, now_ns=START_NS + 1, setpoint_rad=AT_REST)
    assert plan.end_ns is None


def test_a_replan_interval_longer_than_the_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="replan_ticks: expected 1 to 15"):
        scheduler(replan_ticks=16)
