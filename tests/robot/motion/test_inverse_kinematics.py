import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.motion.inverse_kinematics import SAME_SOLUTION_RAD, damped_step, inverse, nearest_inverse, refine
from robot.motion.kinematics import condition_number, flange_pose
from robot.motion.nova5 import JOINT_LOWER_RAD, JOINT_UPPER_RAD
from robot.motion.rotations import make_pose, rotation_angle, rotation_from_vector

LOWER, UPPER = np.array(JOINT_LOWER_RAD), np.array(JOINT_UPPER_RAD)
postures = st.tuples(*[st.floats(low, high) for low, high in zip(LOWER, UPPER, strict=True)]).map(np.array)
near_zero = st.sampled_from([0.0, 1e-9, -1e-7, 1e-6, 1e-5, -1e-4, 1e-3, -1e-2])


def pose_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The larger of metres and radians between two poses."""
    return max(float(np.linalg.norm(a[:3, 3] - b[:3, 3])), rotation_angle(a[:3, :3].T @ b[:3, :3]))


def assert_solutions(joints: np.ndarray, *, reference: np.ndarray) -> None:
    """The pose of ``joints`` has at least one and at most eight solutions: all exact, allowed and distinct."""
    target = flange_pose(joints)
    branches = inverse(target, reference_rad=reference)
    assert 1 <= len(branches) <= 8
    for branch in branches:
        np.testing.assert_allclose(flange_pose(branch), target, atol=2e-9)
    assert np.all(branches >= LOWER)
    assert np.all(branches <= UPPER)
    for index, branch in enumerate(branches):
        assert np.all(np.max(np.abs(branches[index + 1 :] - branch), axis=1) > SAME_SOLUTION_RAD)
    distances = np.linalg.norm(branches - reference, axis=1)
    assert np.all(np.diff(distances) >= 0)


@given(postures)
@settings(max_examples=100, deadline=None)
def test_every_branch_reaches_the_pose_and_one_is_the_posture_it_came_from(joints: np.ndarray) -> None:
    assert_solutions(joints, reference=joints)
    if condition_number(joints) < 1000:
        branches = inverse(flange_pose(joints), reference_rad=joints)
        np.testing.assert_allclose(branches[0], joints, atol=1e-5)


@given(postures, near_zero)
@settings(max_examples=60, deadline=None)
def test_the_wrist_singularity_keeps_its_solutions(joints: np.ndarray, q5: float) -> None:
    joints[4] = q5
    assert_solutions(joints, reference=joints)


@given(postures, near_zero)
@settings(max_examples=60, deadline=None)
def test_the_stretched_elbow_keeps_its_solutions(joints: np.ndarray, q3: float) -> None:
    joints[2] = q3
    assert_solutions(joints, reference=joints)


def test_a_regular_pose_has_eight_branches() -> None:
    joints = np.radians([10.0, 20.0, -100.0, 10.0, 80.0, 30.0])
    assert len(inverse(flange_pose(joints))) == 8


def test_joints_are_turned_to_the_equivalent_nearest_to_the_reference() -> None:
    joints = np.radians([170.0, 20.0, -100.0, 10.0, 80.0, -170.0])
    reference = joints + np.array([0.1, 0, 0, 0, 0, -0.2])
    np.testing.assert_allclose(inverse(flange_pose(joints), reference_rad=reference)[0], joints, atol=1e-8)
    turned = reference + np.array([0, 0, 0, 0, 0, 2 * np.pi])
    expected = joints + np.array([0, 0, 0, 0, 0, 2 * np.pi])
    np.testing.assert_allclose(inverse(flange_pose(joints), reference_rad=turned)[0], expected, atol=1e-8)


def test_branches_outside_the_limits_are_left_out() -> None:
    joints = np.radians([10.0, 20.0, -100.0, 10.0, 80.0, 30.0])
    lower = np.where(np.arange(6) == 2, -2.79, LOWER)
    upper = np.where(np.arange(6) == 2, 0.0, UPPER)
    branches = inverse(flange_pose(joints), lower_rad=lower, upper_rad=upper)
    assert 0 < len(branches) < 8
    assert np.all(branches[:, 2] <= 0.0)


def test_an_unreachable_pose_has_no_solution() -> None:
    pose = make_pose([1.5, 0.0, 0.3])
    assert inverse(pose).shape == (0, 6)
    assert nearest_inverse(pose, reference_rad=np.zeros(6)) is None


def test_the_nearest_branch_is_followed_without_a_break_along_smooth_paths() -> None:
    random = np.random.default_rng(3)
    for _ in range(8):
        middle = random.uniform([-2, -0.6, -2.2, -1, 0.6, -3], [2, 0.9, -0.7, 1, 2.4, 3])
        amplitude, phase = random.uniform(0.1, 0.5, 6), random.uniform(0, 6, 6)
        path = [middle + amplitude * np.sin(2 * np.pi * t + phase) for t in np.linspace(0, 1, 60)]
        solution = path[0]
        for joints in path[1:]:
            found = nearest_inverse(flange_pose(joints), reference_rad=solution, max_change_rad=0.3)
            assert found is not None
            solution = found
            np.testing.assert_allclose(solution, joints, atol=1e-6)


def test_passing_through_the_wrist_singularity_does_not_flip_the_wrist() -> None:
    solution = np.radians([0.0, 10.0, -80.0, 0.0, 20.0, 0.0])
    for q5 in np.radians(np.arange(19.0, -20.0, -1.0)):
        target = flange_pose(np.array([*solution[:4], q5, solution[5]]))
        found = nearest_inverse(target, reference_rad=solution)
        assert found is not None
        assert np.max(np.abs(found - solution)) < np.radians(3.0)
        solution = found


def test_a_distant_branch_is_refused_when_a_limit_on_the_change_is_given() -> None:
    joints = np.radians([10.0, 20.0, -100.0, 10.0, 80.0, 30.0])
    other = inverse(flange_pose(joints), reference_rad=joints)[4]
    assert nearest_inverse(flange_pose(joints), reference_rad=other + 0.6, max_change_rad=0.5) is None
    assert nearest_inverse(flange_pose(joints), reference_rad=other + 0.01, max_change_rad=0.5) is not None


def test_refine_stays_with_its_seed_and_says_when_it_fails() -> None:
    joints = np.radians([10.0, 20.0, -100.0, 10.0, 80.0, 30.0])
    poses = np.stack([flange_pose(joints), make_pose([2.0, 0.0, 0.0])])
    refined = refine(poses, seeds_rad=np.stack([joints + 0.05, joints]))
    assert refined.converged.tolist() == [True, False]
    np.testing.assert_allclose(refined.joints_rad[0], joints, atol=1e-8)


def test_damped_steps_reach_a_nearby_pose() -> None:
    joints = np.radians([10.0, 20.0, -100.0, 10.0, 80.0, 30.0])
    target = flange_pose(joints) @ make_pose([0.01, -0.01, 0.02], rotation=rotation_from_vector([0.05, 0.02, -0.04]))
    for _ in range(6):
        pose = flange_pose(joints)
        turn = target[:3, :3] @ pose[:3, :3].T
        axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2
        joints = joints + damped_step(joints, displacement=np.concatenate([target[:3, 3] - pose[:3, 3], axis]))
    assert pose_distance(flange_pose(joints), target) < 1e-8


@given(postures, st.tuples(*[st.floats(-1, 1)] * 6))
@settings(max_examples=60, deadline=None)
def test_a_damped_step_is_bounded_even_on_singularities(joints: np.ndarray, displacement: tuple[float, ...]) -> None:
    joints[4] = 0.0
    step = damped_step(joints, displacement=displacement, max_step_rad=0.05)
    assert np.all(np.isfinite(step))
    assert np.max(np.abs(step)) <= 0.05 + 1e-12


def test_matrices_that_are_no_poses_are_refused() -> None:
    with pytest.raises(ValueError, match="finite 4x4"):
        inverse(np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match="no rotation"):
        inverse(np.diag([2.0, 1.0, 1.0, 1.0]))
