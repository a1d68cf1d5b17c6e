from itertools import pairwise

import numpy as np
import pytest

from robot.motion.nova5 import GRIPPER_FULL_STROKE_S, GRIPPER_STROKE_M, JOINT_UPPER_RAD
from robot.twin.props import PROP_SHAPES, Prop
from robot.twin.sim import START_JOINTS_RAD, ArmStart, PhysicsDivergedError, TwinSim
from robot.twin.variation import VariationRange

STEPS_PER_S = 500
START = np.array(START_JOINTS_RAD)


def put_between_the_jaws(sim: TwinSim, prop: Prop) -> None:
    """Holds the object up where the open jaws are, tips 30 mm below its middle."""
    pose = sim.flange_pose
    middle = sim.tool_point_m - 0.015 * pose[:3, 2]
    sim.set_object_pose(prop, position_m=middle, quaternion=np.array([1.0, 0.0, 0.0, 0.0]))


def grip(sim: TwinSim, prop: Prop, *, force_n: float = 60.0) -> None:
    """Closes on the object, which floats there until the jaws have it."""
    sim.set_gripper_target(0.0, force_n=force_n)
    for _ in range(60):
        if not sim.gripper_holds_object:
            put_between_the_jaws(sim, prop)
        sim.step(10)
        if sim.gripper_holds_object and sim.gripper_opening_m < 2 * PROP_SHAPES[prop].radius_m + 0.004:
            return


def test_objects_that_nobody_touches_rest_still(sim: TwinSim) -> None:
    sim.step(STEPS_PER_S)
    before = sim.object_poses()
    sim.step(2 * STEPS_PER_S)
    for prop, pose in sim.object_poses().items():
        assert np.linalg.norm(pose.position_m - before[prop].position_m) < 1e-5
        assert np.linalg.norm(pose.velocity_m_s) < 1e-4
        assert pose.position_m[2] == pytest.approx(PROP_SHAPES[prop].height_m / 2, abs=2e-4)


def test_objects_rest_still_on_the_plate(sim: TwinSim) -> None:
    for prop in Prop:
        sim.reset(1)
        position = sim.plate_position_m + np.array([0.02, 0.01, 0.008 + PROP_SHAPES[prop].height_m / 2])
        sim.set_object_pose(prop, position_m=position, quaternion=np.array([1.0, 0.0, 0.0, 0.0]))
        sim.step(STEPS_PER_S)
        assert np.linalg.norm(sim.object_pose(prop).position_m - position) < 5e-4


def test_the_arm_follows_its_set_points_and_holds_them(sim: TwinSim) -> None:
    target = START + np.array([0.3, -0.2, 0.25, -0.1, 0.2, 0.4])
    sim.step_towards(target, steps=STEPS_PER_S)
    assert sim.joint_target_rad == pytest.approx(target)
    sim.step(STEPS_PER_S)
    assert sim.joints_rad == pytest.approx(target, abs=1e-3)
    assert np.abs(sim.joint_speed_rad_s).max() < 1e-3


def test_time_passes_only_in_steps_of_two_milliseconds(sim: TwinSim) -> None:
    assert sim.time_s == 0.0
    sim.step(50)
    assert sim.time_s == pytest.approx(0.1)


def test_set_points_are_kept_inside_the_joint_limits(sim: TwinSim) -> None:
    sim.set_joint_target(np.full(6, 100.0))
    assert sim.joint_target_rad == pytest.approx(JOINT_UPPER_RAD)


@pytest.mark.parametrize("bad", [np.full(6, np.nan), np.zeros(5), np.array([0, 0, np.inf, 0, 0, 0])])
def test_set_points_that_are_no_six_finite_angles_are_refused(sim: TwinSim, bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="6 finite angles"):
        sim.set_joint_target(bad)


def test_the_full_stroke_takes_the_data_sheets_time(sim: TwinSim) -> None:
    sim.set_gripper_target(0.0)
    sim.step(round(0.5 * GRIPPER_FULL_STROKE_S * STEPS_PER_S))
    assert sim.gripper_opening_m == pytest.approx(GRIPPER_STROKE_M / 2, abs=0.008)
    sim.step(round(0.5 * GRIPPER_FULL_STROKE_S * STEPS_PER_S) + 75)
    assert sim.gripper_opening_m == pytest.approx(0.0, abs=0.001)
    assert sim.gripper_closed == pytest.approx(1.0, abs=0.01)
    assert not sim.gripper_holds_object


def test_the_gripper_refuses_targets_that_are_no_numbers(sim: TwinSim) -> None:
    with pytest.raises(ValueError, match="finite"):
        sim.set_gripper_target(float("nan"))


@pytest.mark.parametrize("prop", list(Prop))
@pytest.mark.parametrize("force_n", [45.0, 160.0])
def test_the_jaws_hold_an_object_without_slip_while_the_arm_swings(sim: TwinSim, prop: Prop, force_n: float) -> None:
    grip(sim, prop, force_n=force_n)
    sim.step(100)
    assert sim.gripper_holds_object
    assert sim.gripper_force_n == pytest.approx(force_n, rel=0.15)
    assert sim.gripper_opening_m > 2 * PROP_SHAPES[prop].radius_m - 0.002

    def grasp_offset() -> np.ndarray:
        return sim.flange_pose[:3, :3].T @ (sim.object_pose(prop).position_m - sim.flange_pose[:3, 3])

    before = grasp_offset()
    for swing in (0.35, -0.35, 0.0):
        sim.step_towards(START + swing * np.array([1.0, 0.0, 0.0, 0.2, 0.0, 1.0]), steps=300)
    sim.step(100)
    assert sim.gripper_holds_object
    assert np.linalg.norm(grasp_offset() - before) < 0.003


def test_an_object_drops_when_the_jaws_open(sim: TwinSim) -> None:
    grip(sim, Prop.CAN)
    height = sim.object_pose(Prop.CAN).position_m[2]
    sim.set_gripper_target(GRIPPER_STROKE_M)
    sim.step(200)
    assert not sim.gripper_holds_object
    assert sim.object_pose(Prop.CAN).position_m[2] < height - 0.05


def test_jaws_that_squeeze_let_go_as_soon_as_they_are_told(sim: TwinSim) -> None:
    grip(sim, Prop.CAN)
    sim.step(STEPS_PER_S)
    sim.set_gripper_target(GRIPPER_STROKE_M)
    sim.step(50)
    assert not sim.gripper_holds_object


def test_the_squeeze_is_no_outside_force_but_the_load_is(sim: TwinSim) -> None:
    grip(sim, Prop.CAN, force_n=160.0)
    sim.step(250)
    assert sim.contact_force_n == pytest.approx(PROP_SHAPES[Prop.CAN].mass_kg * 9.81, abs=0.4)


def test_pressing_on_the_table_is_an_outside_force(sim: TwinSim) -> None:
    assert sim.contact_force_n == pytest.approx(0.0, abs=1e-9)
    # Shoulder and wrist lower the gripper onto the table.
    sim.step_towards(START + np.array([0.0, -0.9, 0.0, 0.9, 0.0, 0.0]), steps=1000)
    assert sim.contact_force_n > 30.0
    lowest = min(sim._current().geom_xpos[pad][2] for pad in sim.scene.pad_geom)
    assert lowest > 0.0


def test_the_arm_pushes_objects_with_its_links_too(sim: TwinSim) -> None:
    forearm = sim._current().xpos[sim.scene.model.body("link4").id]
    sim.set_object_pose(Prop.CAN, position_m=forearm, quaternion=np.array([1.0, 0.0, 0.0, 0.0]))
    assert Prop.CAN in sim.contacts.touched


def test_a_push_moves_the_arm_while_it_lasts_and_shows_as_force(sim: TwinSim) -> None:
    sim.apply_external_force(np.array([0.0, 60.0, 0.0]), duration_s=0.2)
    sim.step(90)
    assert sim.contact_force_n == pytest.approx(60.0, abs=0.1)
    pushed = np.abs(sim.joints_rad - START_JOINTS_RAD).max()
    assert pushed > 2e-3
    sim.step(STEPS_PER_S)
    assert sim.contact_force_n == pytest.approx(0.0, abs=1e-9)
    assert np.abs(sim.joints_rad - START_JOINTS_RAD).max() < pushed / 5
    with pytest.raises(ValueError, match="gripper"):
        sim.apply_external_force(np.zeros(3), duration_s=0.1, body="table")


def test_motors_carry_the_arm_against_gravity(sim: TwinSim) -> None:
    sim.step(STEPS_PER_S)
    assert abs(sim.joint_torque_nm[1]) > 5.0
    assert sim.joints_rad == pytest.approx(START_JOINTS_RAD, abs=1e-4)


def test_the_same_seed_puts_everything_in_the_same_place_and_another_does_not(sim: TwinSim) -> None:
    first = sim.reset(7)
    poses = sim.object_poses()
    sim.step(100)
    again = sim.reset(7, variation=VariationRange())
    assert np.array_equal(first.objects_m, again.objects_m)
    assert all(np.array_equal(poses[p].position_m, sim.object_pose(p).position_m) for p in Prop)
    assert not np.array_equal(sim.reset(8).objects_m, first.objects_m)


def test_a_restored_simulation_goes_on_bit_for_bit(sim: TwinSim) -> None:
    other = TwinSim()
    random = np.random.default_rng(3)
    targets = START + np.cumsum(random.normal(0.0, 0.03, (24, 6)), axis=0)

    def play(cell: TwinSim, span: slice) -> list[np.ndarray]:
        seen = []
        for target in targets[span]:
            cell.set_gripper_target(float(target[0] % 0.09))
            cell.step_towards(target, steps=33)
            seen.append(np.concatenate([cell.get_state().physics, [cell.contact_force_n, cell.gripper_force_n]]))
        return seen

    grip(sim, Prop.CUP)
    sim.apply_external_force(np.array([5.0, 0.0, 3.0]), duration_s=0.6)
    play(sim, slice(0, 8))
    state = sim.get_state()
    expected = play(sim, slice(8, 24))
    sim.set_state(state)
    for cell in (sim, other):
        cell.set_state(state)
        assert all(np.array_equal(a, b) for a, b in zip(expected, play(cell, slice(8, 24)), strict=True))


def test_reading_changes_nothing(sim: TwinSim) -> None:
    other = TwinSim()
    for cell, look in ((sim, True), (other, False)):
        cell.reset(2)
        for step in range(40):
            cell.step_towards(START + 0.01 * step, steps=8)
            if look:
                assert cell.contacts is not None
                assert cell.joint_torque_nm.shape == (6,)
    assert np.array_equal(sim.get_state().physics, other.get_state().physics)


def test_objects_never_sink_into_each_other_when_dropped_in_a_heap(sim: TwinSim) -> None:
    for index, prop in enumerate(Prop):
        position = np.array([0.45, 0.05, 0.10 + 0.13 * index])
        sim.set_object_pose(prop, position_m=position, quaternion=np.array([1.0, 0.0, 0.0, 0.0]))
    sim.set_joint_target(np.array([1.8, *START_JOINTS_RAD[1:]]))
    sim.step(3 * STEPS_PER_S)
    assert all(pose.position_m[2] > 0.005 for pose in sim.object_poses().values())
    assert all(np.isfinite(pose.position_m).all() for pose in sim.object_poses().values())


def test_a_start_posture_and_opening_can_be_given(sim: TwinSim) -> None:
    joints = tuple(START + 0.1)
    sim.reset(0, start=ArmStart(joints_rad=joints, opening_m=0.02))
    sim.step(100)
    assert sim.joints_rad == pytest.approx(joints, abs=1e-3)
    assert sim.gripper_opening_m == pytest.approx(0.02, abs=1e-3)


def test_jaw_openings_shrink_steadily_while_closing(sim: TwinSim) -> None:
    sim.set_gripper_target(0.0)
    seen = []
    for _ in range(20):
        sim.step(10)
        seen.append(sim.gripper_opening_m)
    assert all(after < before for before, after in pairwise(seen))


def test_diverging_physics_are_an_error_and_not_a_silent_restart(sim: TwinSim) -> None:
    sim.apply_external_force(np.array([0.0, 0.0, 1e15]), duration_s=0.1)
    with pytest.raises(PhysicsDivergedError, match="diverged"):
        sim.step(50)
    sim.reset(0)
    sim.step(50)
    assert sim.joints_rad == pytest.approx(START_JOINTS_RAD, abs=1e-3)


def test_objects_cannot_be_put_nowhere(sim: TwinSim) -> None:
    with pytest.raises(ValueError, match="pose of the can"):
        sim.set_object_pose(Prop.CAN, position_m=np.full(3, np.nan), quaternion=np.array([1.0, 0.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="pose of the cup"):
        sim.set_object_pose(Prop.CUP, position_m=np.zeros(3), quaternion=np.zeros(4))
