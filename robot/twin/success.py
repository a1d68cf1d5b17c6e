"""Did the arm do what the task asks: pure judgement of one moment, from exact poses.

An object is *placed* when its middle is over the plate's well, it stands upright at its resting height, hardly moves,
nothing of the robot touches it and the gripper is open.
"""

from dataclasses import dataclass, replace
from enum import Enum, IntEnum

import numpy as np

from robot.motion.nova5 import GRIPPER_STROKE_M
from robot.twin.layout import height_on_plate_m
from robot.twin.props import PLATE_GOAL_RADIUS_M, PROP_SHAPES, Prop
from robot.twin.sim import TwinSim

MAX_SPEED_M_S = 0.02
MIN_OPEN_SHARE = 0.70
HEIGHT_TOLERANCE_M = 0.006
MIN_UPRIGHT_COSINE = 0.97
LIFTED_M = 0.02
REACHED_M = 0.03


class Flaw(Enum):
    """Why an object does not count as placed."""

    OFF_PLATE = "off plate"
    TIPPED = "tipped"
    NOT_AT_REST_HEIGHT = "not at its resting height"
    MOVING = "still moving"
    TOUCHED = "touched by the robot"
    GRIPPER_CLOSED = "gripper not open"


class Stage(IntEnum):
    """How far a task has got; a later stage implies the earlier ones were passed."""

    START = 0
    REACHED = 1
    GRASPED = 2
    LIFTED = 3
    OVER_PLATE = 4
    RELEASED = 5
    STABLE = 6


@dataclass(frozen=True)
class TaskSnapshot:
    """All that the judge looks at. Lengths in m; ``up_cosine`` is 1 while the object's axis points up."""

    prop: Prop
    object_position_m: np.ndarray
    up_cosine: float
    speed_m_s: float
    plate_position_m: np.ndarray
    tool_point_m: np.ndarray
    opening_m: float
    held: bool
    touched: bool


@dataclass(frozen=True)
class TaskProgress:
    """The furthest stage reached in an episode."""

    best: Stage = Stage.START

    def after(self, snapshot: TaskSnapshot) -> "TaskProgress":
        """The progress with one more moment seen."""
        return replace(self, best=max(self.best, stage(snapshot)))


def snapshot(sim: TwinSim, prop: Prop) -> TaskSnapshot:
    """The present moment of the task of putting ``prop`` on the plate."""
    pose, contacts = sim.object_pose(prop), sim.contacts
    w, x, y, z = pose.quaternion
    return TaskSnapshot(
        prop=prop,
        object_position_m=pose.position_m,
        up_cosine=float(w * w - x * x - y * y + z * z),
        speed_m_s=float(np.linalg.norm(pose.velocity_m_s)),
        plate_position_m=sim.plate_position_m,
        tool_point_m=sim.tool_point_m,
        opening_m=sim.gripper_opening_m,
        held=contacts.held == prop,
        touched=prop in contacts.touched,
    )


def flaws(moment: TaskSnapshot) -> tuple[Flaw, ...]:
    """Everything that keeps the object from counting as placed; empty on success."""
    height = moment.object_position_m[2] - moment.plate_position_m[2]
    # A roll of tape has no top and bottom.
    upright = abs(moment.up_cosine) if moment.prop is Prop.TAPE else moment.up_cosine
    found = {
        Flaw.OFF_PLATE: _distance_to_plate_m(moment) > PLATE_GOAL_RADIUS_M,
        Flaw.TIPPED: upright < MIN_UPRIGHT_COSINE,
        Flaw.NOT_AT_REST_HEIGHT: abs(height - height_on_plate_m(moment.prop)) > HEIGHT_TOLERANCE_M,
        Flaw.MOVING: moment.speed_m_s >= MAX_SPEED_M_S,
        Flaw.TOUCHED: moment.touched or moment.held,
        Flaw.GRIPPER_CLOSED: moment.opening_m < MIN_OPEN_SHARE * GRIPPER_STROKE_M,
    }
    return tuple(flaw for flaw, present in found.items() if present)


def is_placed(moment: TaskSnapshot) -> bool:
    """The task is done."""
    return not flaws(moment)


def stage(moment: TaskSnapshot) -> Stage:
    """The stage that this one moment shows."""
    found = set(flaws(moment))
    if not found:
        return Stage.STABLE
    if not found & {Flaw.OFF_PLATE, Flaw.NOT_AT_REST_HEIGHT, Flaw.TIPPED, Flaw.TOUCHED}:
        return Stage.RELEASED
    shape = PROP_SHAPES[moment.prop]
    if moment.held:
        lifted = moment.object_position_m[2] > shape.height_m / 2 + LIFTED_M
        if not lifted:
            return Stage.GRASPED
        return Stage.OVER_PLATE if _distance_to_plate_m(moment) <= PLATE_GOAL_RADIUS_M else Stage.LIFTED
    aside = np.linalg.norm(moment.tool_point_m[:2] - moment.object_position_m[:2])
    below_top = moment.tool_point_m[2] < moment.object_position_m[2] + shape.height_m / 2
    return Stage.REACHED if aside < REACHED_M and below_top else Stage.START


def _distance_to_plate_m(moment: TaskSnapshot) -> float:
    return float(np.linalg.norm(moment.object_position_m[:2] - moment.plate_position_m[:2]))
