from dataclasses import replace

import numpy as np
import pytest

from robot.motion.nova5 import GRIPPER_STROKE_M
from robot.twin.layout import height_on_plate_m
from robot.twin.props import Prop
from robot.twin.sim import TwinSim
from robot.twin.success import Flaw, Stage, TaskProgress, TaskSnapshot, flaws, is_placed, snapshot, stage


def placed(prop: Prop) -> TaskSnapshot:
    """An object that stands on the plate, with the gripper open above."""
    return TaskSnapshot(
        prop=prop,
        object_position_m=np.array([0.40, 0.05, height_on_plate_m(prop)]),
        up_cosine=1.0,
        speed_m_s=0.0,
        plate_position_m=np.array([0.42, 0.05, 0.0]),
        tool_point_m=np.array([0.40, 0.05, 0.2]),
        opening_m=GRIPPER_STROKE_M,
        held=False,
        touched=False,
    )


@pytest.mark.parametrize("prop", list(Prop))
def test_an_object_that_stands_on_the_plate_alone_is_placed(prop: Prop) -> None:
    assert is_placed(placed(prop))
    assert stage(placed(prop)) is Stage.STABLE


@pytest.mark.parametrize(
    ("change", "flaw"),
    [
        ({"object_position_m": np.array([0.52, 0.05, height_on_plate_m(Prop.CUP)])}, Flaw.OFF_PLATE),
        ({"object_position_m": np.array([0.40, 0.05, 0.10])}, Flaw.NOT_AT_REST_HEIGHT),
        ({"up_cosine": 0.5}, Flaw.TIPPED),
        ({"up_cosine": -1.0}, Flaw.TIPPED),
        ({"speed_m_s": 0.05}, Flaw.MOVING),
        ({"touched": True}, Flaw.TOUCHED),
        ({"held": True}, Flaw.TOUCHED),
        ({"opening_m": 0.05}, Flaw.GRIPPER_CLOSED),
    ],
)
def test_each_flaw_alone_is_refused_and_named(change: dict[str, object], flaw: Flaw) -> None:
    assert flaws(replace(placed(Prop.CUP), **change)) == (flaw,)


def test_a_roll_of_tape_may_lie_either_way_up() -> None:
    assert is_placed(replace(placed(Prop.TAPE), up_cosine=-1.0))
    assert not is_placed(replace(placed(Prop.TAPE), up_cosine=0.0))


def test_stages_follow_the_task() -> None:
    resting = np.array([0.40, -0.15, 0.045])
    start = replace(placed(Prop.CUP), object_position_m=resting, tool_point_m=np.array([0.45, 0.0, 0.35]))
    reached = replace(start, tool_point_m=resting + np.array([0.01, 0.0, 0.01]))
    grasped = replace(reached, held=True, touched=True, opening_m=0.073)
    lifted = replace(grasped, object_position_m=np.array([0.40, -0.15, 0.12]))
    over = replace(grasped, object_position_m=np.array([0.40, 0.05, 0.12]))
    released = replace(placed(Prop.CUP), speed_m_s=0.05)
    moments = [start, reached, grasped, lifted, over, released, placed(Prop.CUP)]
    assert [stage(moment) for moment in moments] == list(Stage)


def test_progress_remembers_the_furthest_stage() -> None:
    lost = replace(placed(Prop.CUP), object_position_m=np.array([0.9, 0.9, 0.0]), up_cosine=0.0)
    assert TaskProgress().after(placed(Prop.CUP)).after(lost).best is Stage.STABLE
    assert TaskProgress().after(lost).best is Stage.START


def test_a_snapshot_of_the_cell_judges_real_physics(sim: TwinSim) -> None:
    assert Flaw.OFF_PLATE in flaws(snapshot(sim, Prop.CAN))
    position = sim.plate_position_m + np.array([0.0, 0.0, height_on_plate_m(Prop.CAN)])
    sim.set_object_pose(Prop.CAN, position_m=position, quaternion=np.array([1.0, 0.0, 0.0, 0.0]))
    sim.step(50)
    assert is_placed(snapshot(sim, Prop.CAN))
    lying = np.array([np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0])
    sim.set_object_pose(Prop.CAN, position_m=sim.plate_position_m + np.array([0.0, 0.0, 0.042]), quaternion=lying)
    sim.step(250)
    assert Flaw.TIPPED in flaws(snapshot(sim, Prop.CAN))
