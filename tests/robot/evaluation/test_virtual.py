"""The simulated-time rollout with a policy that knows everything: it must succeed, and fail where time is wrong."""

from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import load_rig
from policy_server.replies import Reply
from robot.evaluation.smoothness import log_dimensionless_jerk
from robot.evaluation.virtual import TICK_NS, VirtualEpisode, VirtualSettings, run_virtual
from robot.motion.inverse_kinematics import damped_step
from robot.rollout.chunks import ExecutionMode
from robot.rollout.session import RolloutPlan, scheduler_config
from robot.twin.env import TwinEnv
from robot.twin.expert import Expert
from robot.twin.props import Prop

HORIZON = 15


class AllKnowing:
    """Answers each observation with what the teacher does from there on, found by trying it out.

    The teacher remembers its speed and how long it has squeezed: it goes on as it was left at that instant.
    """

    def __init__(self, env: TwinEnv, prop: Prop, *, late_ticks: int = 0) -> None:
        self._env, self._prop, self._late_ticks = env, prop, late_ticks
        self.prefixes: list[int] = []
        self._moods: list[Expert] = []
        self._since_ns = 0

    def infer(self, observation: dict[str, object], *, observation_time_ns: int, **leftover: Any) -> Reply:
        self.prefixes.append(len(leftover.get("action_prefix", ())))
        before = self._env.get_state()
        past = round((observation_time_ns - self._since_ns) / TICK_NS)
        teacher = copy(self._moods[past]) if past < len(self._moods) else Expert(self._env.sim, self._prop)
        self._moods, self._since_ns = [], observation_time_ns
        actions = []
        for _ in range(HORIZON + self._late_ticks):
            self._moods.append(copy(teacher))
            actions.append(teacher.act())
            self._env.step(actions[-1])
        self._env.set_state(before)
        chosen = np.array(actions[self._late_ticks :])
        return Reply(chosen, 0, observation_time_ns, 0, 0, 1.0, 1.0, None)


def settings_of(*, latency_s: float, time_limit_s: float) -> VirtualSettings:
    rig = load_rig("twin")
    plan = RolloutPlan(rig="twin", tasks=("can",), episodes=1, server="", mode=ExecutionMode.ASYNC, output=Path())
    return VirtualSettings(
        scheduling=scheduler_config(rig, plan),
        latency_s=latency_s,
        time_limit_s=time_limit_s,
        picture=(36, 64),
        sent=(36, 64),
    )


@cache
def trial(*, latency_s: float, late_ticks: int = 0, time_limit_s: float = 15.0) -> VirtualEpisode:
    settings = settings_of(latency_s=latency_s, time_limit_s=time_limit_s)
    with TwinEnv(None) as env:
        source = AllKnowing(env, Prop.CAN, late_ticks=late_ticks)
        episode = run_virtual(env, source, seed=5, prop=Prop.CAN, start=None, settings=settings)
        if 0.0 < latency_s < 1.0:
            assert max(source.prefixes) >= int(latency_s * 15)
    return episode


@pytest.mark.parametrize("latency_s", [0.0, 0.3])
def test_a_policy_that_knows_the_future_succeeds_at_any_latency(latency_s: float) -> None:
    episode = trial(latency_s=latency_s)
    assert episode.success, episode.flaws
    assert episode.underruns == 0
    assert np.median(episode.seam_jumps_rad) < 0.02


def test_chunks_that_are_shifted_in_time_jump_where_they_take_over() -> None:
    right, shifted = (trial(latency_s=0.3, late_ticks=late) for late in (0, 4))
    assert np.median(shifted.seam_jumps_rad) > 3.0 * np.median(right.seam_jumps_rad)


def test_a_latency_longer_than_a_chunk_leaves_nothing_to_follow() -> None:
    episode = trial(latency_s=1.0, time_limit_s=3.0)
    assert not episode.success
    assert episode.chunks == 0


def test_jerk_is_smaller_for_a_smooth_path_than_for_a_trembling_one() -> None:
    phase = np.linspace(0.0, np.pi, 60)[:, None]
    smooth = (1.0 - np.cos(phase)) * np.ones((1, 6))
    trembling = smooth + np.random.default_rng(0).normal(0.0, 0.01, smooth.shape)
    found = [log_dimensionless_jerk(path) for path in (smooth, trembling)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0] > found[1] + 3.0
    assert log_dimensionless_jerk(np.zeros((60, 6))) is None


class Diver:
    """Has the arm go straight down, whatever it sees."""

    def infer(self, observation: dict[str, object], *, observation_time_ns: int, **leftover: Any) -> Reply:
        del leftover
        joints = np.asarray(observation["observation/joint_position"], dtype=np.float64)
        actions = []
        for _ in range(HORIZON):
            joints = joints + damped_step(
                joints, displacement=np.array([0.0, 0.0, -0.02, 0.0, 0.0, 0.0]), point_m=(0.0, 0.0, 0.2)
            )
            actions.append(np.append(joints, 0.0))
        return Reply(np.array(actions), 0, observation_time_ns, 0, 0, 1.0, 1.0, None)


def test_a_collision_ends_a_trial_as_a_failure() -> None:
    with TwinEnv(None, collision_level=3) as env:
        episode = run_virtual(
            env, Diver(), seed=5, prop=Prop.CAN, start=None, settings=settings_of(latency_s=0.0, time_limit_s=8.0)
        )
    assert episode.collided
    assert not episode.success
    assert episode.seconds < 8.0
