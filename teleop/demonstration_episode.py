"""One scripted demonstration in the twin without its wires, faster than real time.

What is recorded is what a policy would have seen and what the teacher then commanded. While the arm is being disturbed
nothing is recorded: the disturbance cuts a demonstration into parts, each of which is an episode of its own, so that
no action ever follows a picture that it does not belong to.

A policy may lead: it moves the arm for a while, unrecorded, and the teacher corrects it from wherever it got to
(DAgger's states with the teacher's actions; Ross et al. 2011, Kelly et al. 2019).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from robot.evaluation.virtual import VirtualPolicy
from robot.motion.inverse_kinematics import damped_step
from robot.motion.kinematics import flange_pose
from robot.motion.nova5 import fingertip_height_m
from robot.motion.rotations import Array
from robot.twin.env import CONTROL_RATE_HZ, TwinEnv
from robot.twin.expert import Expert
from robot.twin.optics import CameraName
from robot.twin.props import Prop
from robot.twin.scene_state import SceneState
from robot.twin.success import Flaw
from teleop.demonstration_plan import LEAD_LATENCIES_S, DemonstrationPlan, Kick, draw_plan

TIME_LIMIT_S = 16.0
AFTER_SUCCESS_TICKS = 6
SHORTEST_PART = 8
"""A part with fewer rows is left out."""
LOWEST_TIP_M = 0.012
_TOOL_POINT_M = (0.0, 0.0, fingertip_height_m(0.08))


@dataclass
class Part:
    """A stretch without disturbance: rows of ``states`` (7,) and ``actions`` (7,), the scenes, and each camera's
    pictures."""

    states: list[Array] = field(default_factory=list)
    actions: list[Array] = field(default_factory=list)
    ticks: list[int] = field(default_factory=list)
    scenes: list[SceneState] = field(default_factory=list)
    pictures: dict[CameraName, list[np.ndarray]] = field(default_factory=lambda: {camera: [] for camera in CameraName})

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class Demonstration:
    """What came of a plan: the parts worth keeping, whether the object is on the plate, and what was wrong if not."""

    plan: DemonstrationPlan
    parts: Sequence[Part]
    success: bool
    ticks: int
    flaws: tuple[Flaw, ...]


Leader = Callable[[TwinEnv, DemonstrationPlan], VirtualPolicy]
"""Gives the policy that leads a demonstration, for an environment that has just been reset."""


def demonstrate(
    env: TwinEnv,
    seed: int,
    *,
    prop: Prop,
    height: int,
    width: int,
    leader: Leader | None = None,
    lead_latencies_s: Sequence[float] = LEAD_LATENCIES_S,
) -> Demonstration:
    """The demonstration of that seed, with pictures of ``height`` x ``width`` px from both cameras; with a ``leader``
    the correction of a policy whose chunks come late by one of those latencies."""
    env.reset(seed, prop)
    plan = draw_plan(seed, prop=prop, layout=env.sim.layout, lead_latencies_s=lead_latencies_s if leader else ())
    env.reset(seed, prop, start=plan.start)
    parts, left_ticks, success = [Part()], AFTER_SUCCESS_TICKS, False
    flaws: tuple[Flaw, ...] = ()
    if leader is not None and plan.lead is not None:
        success, flaws = _follow(leader(env, plan), env, plan.lead.ticks)
        if success or Flaw.TIPPED in flaws:
            return Demonstration(plan, (), False, plan.lead.ticks, flaws)
    teacher = Expert(env.sim, prop, seed=seed, options=plan.teacher)
    tick = 0
    while tick < round(TIME_LIMIT_S * CONTROL_RATE_HZ) and left_ticks > 0:
        kick = _kick_at(plan, tick)
        state = np.append(env.sim.joints_rad, env.sim.gripper_closed)
        action = teacher.act()
        if kick is None:
            part = parts[-1]
            part.states.append(state)
            part.actions.append(action)
            part.ticks.append(tick)
            part.scenes.append(env.sim.scene_state())
            for camera in CameraName:
                part.pictures[camera].append(env.render(camera, height=height, width=width))
        else:
            action = _kicked(action, kick, held=env.sim.contacts.held is not None)
            if len(parts[-1]):
                parts.append(Part())
        result = env.step(action)
        success, flaws = bool(result.info["success"]), result.info["flaws"]
        left_ticks = left_ticks - 1 if success else AFTER_SUCCESS_TICKS
        tick += 1
    kept = [part for part in parts if len(part) >= SHORTEST_PART]
    return Demonstration(plan, kept, success, tick, flaws)


def _follow(policy: VirtualPolicy, env: TwinEnv, ticks: int) -> tuple[bool, tuple[Flaw, ...]]:
    """Let the policy act for so many ticks, or until nothing is left to correct: success, flaws."""
    success: bool = False
    flaws: tuple[Flaw, ...] = ()
    for _ in range(ticks):
        result = env.step(policy.act())
        success, flaws = bool(result.info["success"]), result.info["flaws"]
        if success or Flaw.TIPPED in flaws:
            break
    return success, flaws


def _kick_at(plan: DemonstrationPlan, tick: int) -> Kick | None:
    return next((kick for kick in plan.kicks if kick.first <= tick < kick.first + kick.ticks), None)


def _kicked(action: Array, kick: Kick, *, held: bool) -> Array:
    """The teacher's action with the push in it; never through the table."""
    step = kick.velocity_m_s / CONTROL_RATE_HZ
    pose = flange_pose(action[:6])
    tip_z = float((pose[:3, 3] + pose[:3, 2] * _TOOL_POINT_M[2])[2])
    step = np.array([step[0], step[1], max(float(step[2]), LOWEST_TIP_M - tip_z)])
    turned = damped_step(action[:6], displacement=np.concatenate([step, np.zeros(3)]), point_m=_TOOL_POINT_M)
    gripper = 1.0 if kick.fumble and not held else float(action[6])
    return np.append(action[:6] + turned, gripper)
