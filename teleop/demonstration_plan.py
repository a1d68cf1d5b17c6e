"""What a scripted demonstration looks like: where it starts, how its teacher moves, how it is disturbed.

All of it is drawn from the demonstration's seed. Most demonstrations begin somewhere else than a rollout does, and many
are disturbed half-way, so that a policy sees how to get back from where it should not be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from robot.motion.inverse_kinematics import nearest_inverse
from robot.motion.nova5 import GRIPPER_STROKE_M, fingertip_height_m
from robot.motion.rotations import Array, make_pose, rotation_from_vector
from robot.twin.expert import TOP_DOWN, ExpertOptions
from robot.twin.layout import Layout
from robot.twin.props import PROP_SHAPES, Prop
from robot.twin.sim import START_JOINTS_RAD, ArmStart

MAX_YAW_RAD = 0.25
LEAD_LATENCIES_S = (0.0, 0.05, 0.1, 0.2)
"""How late the chunks of a policy that leads may come."""
_SPEED_FACTORS = (0.80, 1.10)
_SPEED_NOISE_M_S = (0.0, 0.010)
_HOME_JITTER_RAD = 0.02
_ABOVE_LOWER_M, _ABOVE_UPPER_M = (0.32, -0.18, 0.18), (0.54, 0.18, 0.36)
_LOW_LOWER_M, _LOW_UPPER_M = (0.30, -0.20, 0.05), (0.56, 0.20, 0.22)
_CLEARANCE_M = 0.095
"""Fingertips that start below an object's top keep this far from its axis."""
_CLOSED_SHARE = 0.12
_KICKED_SHARE = 0.45
_FIRST_KICK, _LAST_KICK = 8, 70
_KICK_TICKS = (3, 7)
_KICK_SPEED_M_S = (0.08, 0.25)
_FUMBLE_SHARE = 0.2
_LEAD_TICKS = (6, 130)
_STREAM = 21
_TRIES = 200


class StartKind(Enum):
    """Where the arm is when a demonstration begins."""

    HOME = "home"
    """At the start pose of a rollout."""
    ABOVE = "above"
    """Over the table, jaws open."""
    LOW = "low"
    """Anywhere, between the objects too."""


_START_SHARES = {StartKind.HOME: 0.4, StartKind.ABOVE: 0.35, StartKind.LOW: 0.25}


@dataclass(frozen=True)
class Kick:
    """The tool is pushed off its way from tick `first` on for `ticks` ticks, with `velocity_m_s` (3,); the jaws close
    meanwhile when `fumble` is true."""

    first: int
    ticks: int
    velocity_m_s: Array
    fumble: bool


@dataclass(frozen=True)
class Lead:
    """A policy moves the arm for the first `ticks` ticks, its chunks `latency_s` late, before the teacher takes
    over."""

    ticks: int
    latency_s: float


@dataclass(frozen=True)
class DemonstrationPlan:
    """One demonstration. The same seed gives the same plan."""

    seed: int
    prop: Prop
    start_kind: StartKind
    start: ArmStart
    teacher: ExpertOptions
    kicks: tuple[Kick, ...]
    lead: Lead | None = None


def draw_plan(seed: int, *, prop: Prop, layout: Layout, lead_latencies_s: Sequence[float] = ()) -> DemonstrationPlan:
    """The demonstration of that seed in a scene with that layout; with latencies, one of which is drawn, the correction
    of a policy, which begins where a rollout does and is not disturbed by anything else."""
    random = np.random.default_rng([seed, _STREAM])
    kind = list(_START_SHARES)[int(random.choice(len(_START_SHARES), p=list(_START_SHARES.values())))]
    kind = StartKind.HOME if lead_latencies_s else kind
    teacher = ExpertOptions(
        speed_factor=random.uniform(*_SPEED_FACTORS),
        speed_noise_m_s=random.uniform(*_SPEED_NOISE_M_S),
        max_yaw_rad=MAX_YAW_RAD,
    )
    start = _draw_start(random, kind, layout)
    if lead_latencies_s:
        lead = Lead(int(random.integers(*_LEAD_TICKS)), float(random.choice(lead_latencies_s)))
        return DemonstrationPlan(seed, prop, kind, start, teacher, (), lead)
    kicks = _draw_kicks(random) if random.random() < _KICKED_SHARE else ()
    return DemonstrationPlan(seed, prop, kind, start, teacher, kicks)


def _draw_start(random: np.random.Generator, kind: StartKind, layout: Layout) -> ArmStart:
    if kind is StartKind.HOME:
        jitter = random.normal(0.0, _HOME_JITTER_RAD, 6)
        return ArmStart(tuple((np.array(START_JOINTS_RAD) + jitter).tolist()))
    closed = random.random() < _CLOSED_SHARE
    opening_m = 0.2 * GRIPPER_STROKE_M if closed else GRIPPER_STROKE_M
    lower, upper = (_ABOVE_LOWER_M, _ABOVE_UPPER_M) if kind is StartKind.ABOVE else (_LOW_LOWER_M, _LOW_UPPER_M)
    for _ in range(_TRIES):
        tip = random.uniform(lower, upper)
        yaw = random.uniform(-1.0, 1.0) * MAX_YAW_RAD
        tilt = random.normal(0.0, 0.04, 2)
        if not _is_free(tip, layout):
            continue
        rotation = rotation_from_vector(np.array([*tilt, yaw])) @ TOP_DOWN
        flange = tip - rotation[:, 2] * fingertip_height_m(opening_m)
        joints = nearest_inverse(make_pose(flange, rotation=rotation), reference_rad=np.array(START_JOINTS_RAD))
        if joints is not None:
            return ArmStart(tuple(joints.tolist()), opening_m)
    raise RuntimeError(f"no free start in {_TRIES} draws: the table is too full for fingertips between the objects")


def _is_free(tip_m: Array, layout: Layout) -> bool:
    for prop in Prop:
        aside = float(np.linalg.norm(tip_m[:2] - layout.objects_m[prop]))
        if aside < _CLEARANCE_M and tip_m[2] < PROP_SHAPES[prop].height_m + 0.03:
            return False
    return True


def _draw_kicks(random: np.random.Generator) -> tuple[Kick, ...]:
    kicks: list[Kick] = []
    for _ in range(int(random.integers(1, 3))):
        first = int(random.integers(_FIRST_KICK, _LAST_KICK))
        direction = random.normal(0.0, 1.0, 3) * np.array([1.0, 1.0, 0.5])
        speed = random.uniform(*_KICK_SPEED_M_S)
        velocity = direction / np.linalg.norm(direction) * speed
        kick = Kick(first, int(random.integers(*_KICK_TICKS)), velocity, fumble=random.random() < _FUMBLE_SHARE)
        if all(abs(kick.first - other.first) > 20 for other in kicks):
            kicks.append(kick)
    return tuple(sorted(kicks, key=lambda kick: kick.first))
