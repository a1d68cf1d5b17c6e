"""A rollout in simulated time: the twin without its wires, the policy server as it is, and a latency that is a number.

The twin's clock stands while the policy computes. How chunks follow each other is decided by the very scheduler of the
15 Hz client; a chunk arrives `latency_s` of simulated time after the pictures that it answers were taken. What is left
out against a real-time rollout: robotd's limits and its servo stream, and jitter.
"""

from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from configs.schema import RigConfig
from policy_server.client import Continuity, PolicyClient, Reply
from robot.clock import NS_PER_S, seconds_to_ns
from robot.rollout.chunks import ChunkScheduler, ExecutionMode, SchedulerConfig, ScheduleStatistics
from robot.rollout.resize import resize_with_pad
from robot.rollout.session import RolloutPlan, check_continuity, scheduler_config
from robot.twin.env import IMAGE_KEYS, TwinEnv
from robot.twin.optics import CameraName
from robot.twin.props import Prop
from robot.twin.sim import ArmStart
from robot.twin.success import Flaw, Stage

TICK_NS = NS_PER_S // 15
CHUNKS_OF_A_START = 1000
_START_NS = NS_PER_S


class ChunkSource(Protocol):
    """Answers observations, each with what is left of the chunk before (`robot.rollout.chunks.Leftover.arguments`)."""

    def infer(self, observation: dict[str, object], *, observation_time_ns: int, **leftover: Any) -> Reply: ...


@dataclass(frozen=True)
class VirtualSettings:
    """`latency_s`: from the instant that a picture shows until its chunk is followed. Pictures are drawn at `picture`
    (height, width) px, the cameras' own, and sent at `sent` (height, width) px, what the policy asks for."""

    scheduling: SchedulerConfig
    latency_s: float
    time_limit_s: float
    picture: tuple[int, int]
    sent: tuple[int, int]
    continuity: Continuity | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.latency_s <= 1.0:
            raise ValueError(f"latency_s: expected 0 to 1 s, got {self.latency_s}")


def virtual_settings(
    rig: RigConfig,
    client: PolicyClient,
    *,
    latency_s: float,
    time_limit_s: float,
    mode: ExecutionMode = ExecutionMode.ASYNC,
    replan_ticks: int | None = None,
    continuity: Continuity | None = None,
) -> VirtualSettings:
    """As a rollout on that rig would follow the chunks of the server that `client` is connected to. Raises
    `PlanError`."""
    check_continuity(client, continuity)
    plan = RolloutPlan(
        rig=rig.name, tasks=(), episodes=1, server="", mode=mode, output=Path(), replan_ticks=replan_ticks
    )
    camera = rig.cameras["exterior"]
    contract = client.contract
    return VirtualSettings(
        scheduling=scheduler_config(rig, plan),
        latency_s=latency_s,
        time_limit_s=time_limit_s,
        picture=(camera.height, camera.width),
        sent=(camera.height, camera.width) if contract is None else contract.image_size,
        continuity=continuity,
    )


class SeededClient:
    """Asks with noise that depends on the start and on which chunk it is, and on nothing else: not on the policy, nor
    on what other workers ask meanwhile. So trials that are paired share their noise, and a trial can be repeated."""

    def __init__(self, client: PolicyClient, *, start: int) -> None:
        self._client = client
        self._seed = start * CHUNKS_OF_A_START

    def infer(self, observation: dict[str, object], *, observation_time_ns: int, **leftover: Any) -> Reply:
        """The next chunk."""
        seed, self._seed = self._seed, self._seed + 1
        return self._client.infer(
            observation,
            observation_time_ns=observation_time_ns,
            seed=seed,
            **leftover,
        )


@dataclass
class VirtualEpisode:
    """What came of a trial; a collision ends it. `path_rad` (ticks, 7) are the actions that were carried out, one a
    tick."""

    success: bool = False
    seconds: float = 0.0
    ticks: int = 0
    stage: Stage = Stage.START
    flaws: tuple[Flaw, ...] = ()
    collided: bool = False
    underruns: int = 0
    chunks: int = 0
    seam_jumps_rad: list[float] = field(default_factory=list)
    policy_ms: list[float] = field(default_factory=list)
    path: list[np.ndarray] = field(default_factory=list)


class VirtualPolicy:
    """What a policy has the arm do, tick by tick, from the present moment of an environment on."""

    def __init__(self, env: TwinEnv, source: ChunkSource, settings: VirtualSettings) -> None:
        self.policy_ms: list[float] = []
        self._env, self._source, self._settings = env, source, settings
        self._scheduler = ChunkScheduler(settings.scheduling)
        self._waiting: tuple[int, int, np.ndarray] | None = None
        self._gripper = env.sim.gripper_closed
        self._tick = 0

    @property
    def statistics(self) -> ScheduleStatistics:
        """The scheduler's: underruns, chunks, jumps at the seams."""
        return self._scheduler.statistics

    def act(self) -> np.ndarray:
        """The action (7,) of the next tick, to be carried out before this is called again."""
        scheduler, sim = self._scheduler, self._env.sim
        now_ns = _START_NS + self._tick * TICK_NS
        if scheduler.wants_chunk(now_ns=now_ns, observation_time_ns=now_ns):
            self._waiting = (now_ns + seconds_to_ns(self._settings.latency_s), now_ns, self._ask(now_ns))
            scheduler.asked(observation_time_ns=now_ns)
        # A chunk that arrives within this tick is followed from the next one on, as by a loop that ticks.
        if self._waiting is not None and self._waiting[0] <= now_ns:
            _, seen_ns, chunk = self._waiting
            scheduler.accept(chunk, observation_time_ns=seen_ns, now_ns=now_ns, setpoint_rad=sim.joint_target_rad)
            self._waiting = None
        scheduler.tick(now_ns)
        action = scheduler.committed(now_ns + TICK_NS)
        if action is None:
            action = np.append(sim.joint_target_rad, self._gripper)
        self._gripper = float(action[6])
        self._tick += 1
        return action

    def _ask(self, now_ns: int) -> np.ndarray:
        """The chunk (horizon, 7) for what is seen now."""
        settings, observation = self._settings, self._env.observe()
        for camera in CameraName:
            height, width = settings.picture
            picture = self._env.render(camera, height=height, width=width)
            observation[IMAGE_KEYS[camera]] = resize_with_pad(picture, height=settings.sent[0], width=settings.sent[1])
        leftover = self._scheduler.leftover(observation_time_ns=now_ns).arguments(settings.continuity)
        reply = self._source.infer(observation, observation_time_ns=now_ns, **leftover)
        if not isnan(reply.policy_ms):
            self.policy_ms.append(reply.policy_ms)
        return np.asarray(reply.actions, dtype=np.float64)


def run_virtual(
    env: TwinEnv, source: ChunkSource, *, seed: int, prop: Prop, start: ArmStart | None, settings: VirtualSettings
) -> VirtualEpisode:
    """One trial from a seeded start to success, a collision (if the environment knows them) or the time limit."""
    env.reset(seed, prop, start=start)
    policy = VirtualPolicy(env, source, settings)
    episode = VirtualEpisode()
    for tick in range(round(settings.time_limit_s * NS_PER_S / TICK_NS)):
        action = policy.act()
        episode.path.append(action)
        result = env.step(action)
        episode.ticks = tick + 1
        episode.collided = bool(result.info["collided"])
        episode.success = bool(result.info["success"]) and not episode.collided
        episode.stage, episode.flaws = result.info["stage"], result.info["flaws"]
        if episode.success or episode.collided:
            break
    episode.seconds = episode.ticks * TICK_NS / NS_PER_S
    episode.underruns, episode.chunks = policy.statistics.underruns, policy.statistics.chunks
    episode.seam_jumps_rad = list(policy.statistics.seam_jumps_rad)
    episode.policy_ms = policy.policy_ms
    return episode
