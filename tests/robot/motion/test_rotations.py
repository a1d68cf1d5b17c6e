import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot.motion.rotations import (
    invert_pose,
    make_pose,
    quaternion_from_rotation,
    rotation_angle,
    rotation_from_quaternion,
    rotation_from_rpy,
    rotation_from_vector,
    rpy_from_rotation,
    vector_from_rotation,
)

angles = st.floats(-np.pi, np.pi)
rpys = st.tuples(angles, st.floats(-np.pi / 2, np.pi / 2), angles)
vectors = st.tuples(*[st.floats(-4.0, 4.0)] * 3)


@given(rpys)
def test_every_chart_returns_the_rotation_it_was_given(rpy: tuple[float, float, float]) -> None:
    rotation = rotation_from_rpy(rpy)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    np.testing.assert_allclose(rotation_from_rpy(rpy_from_rotation(rotation)), rotation, atol=2e-8)
    np.testing.assert_allclose(rotation_from_quaternion(quaternion_from_rotation(rotation)), rotation, atol=1e-12)
    np.testing.assert_allclose(rotation_from_vector(vector_from_rotation(rotation)), rotation, atol=1e-7)


@given(vectors)
def test_a_rotation_vector_comes_back_within_half_a_turn(vector: tuple[float, float, float]) -> None:
    rotation = rotation_from_vector(vector)
    angle = rotation_angle(rotation)
    assert 0.0 <= angle <= np.pi + 1e-9
    turns = np.linalg.norm(vector) / (2 * np.pi)
    assert angle == pytest.approx(2 * np.pi * abs(turns - round(turns)), abs=1e-6)


@pytest.mark.parametrize("axis", range(3))
def test_half_turns_survive_the_quaternion(axis: int) -> None:
    vector = np.zeros(3)
    vector[axis] = np.pi
    rotation = rotation_from_vector(vector)
    np.testing.assert_allclose(rotation_from_quaternion(quaternion_from_rotation(rotation)), rotation, atol=1e-12)
    assert rotation_angle(rotation) == pytest.approx(np.pi)


def test_roll_pitch_yaw_is_fixed_axis_xyz() -> None:
    rotation = rotation_from_rpy([np.pi / 2, 0.0, np.pi / 2])
    # Rolled about the base x first, then turned about the base z: y goes to z and stays, x goes to y.
    np.testing.assert_allclose(rotation @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(rotation @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_quaternions_are_scalar_first_with_a_positive_scalar() -> None:
    quarter = rotation_from_vector([0.0, 0.0, np.pi / 2])
    np.testing.assert_allclose(quaternion_from_rotation(quarter), [np.sqrt(0.5), 0, 0, np.sqrt(0.5)], atol=1e-12)
    np.testing.assert_allclose(quaternion_from_rotation(quarter.T), [np.sqrt(0.5), 0, 0, -np.sqrt(0.5)], atol=1e-12)


def test_a_pose_times_its_inverse_is_the_identity() -> None:
    pose = make_pose([0.3, -0.2, 0.5], rotation=rotation_from_rpy([0.1, 0.2, 0.3]))
    np.testing.assert_allclose(pose @ invert_pose(pose), np.eye(4), atol=1e-12)


def test_a_zero_quaternion_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unit quaternion"):
        rotation_from_quaternion([0.0, 0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"expected shape \(3, 3\)"):
        quaternion_from_rotation(np.eye(4))
