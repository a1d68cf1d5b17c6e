import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.motion.kinematics import (
    CONDITION_SLOW,
    CONDITION_STOP,
    Singularity,
    condition_number,
    flange_pose,
    jacobian,
    link_frames,
    singularity,
    singularity_speed_scale,
    tool_pose,
)
from robot.motion.nova5 import JOINT_FRAMES, JOINT_LOWER_RAD, JOINT_UPPER_RAD
from robot.motion.rotations import (
    make_pose,
    quaternion_from_rotation,
    rotation_angle,
    rotation_from_rpy,
    vector_from_rotation,
)

postures = st.tuples(*[st.floats(low, high) for low, high in zip(JOINT_LOWER_RAD, JOINT_UPPER_RAD, strict=True)]).map(
    np.array
)


@pytest.mark.parametrize(
    ("joints_deg", "position_mm", "rpy_deg"),
    [
        ([0, 0, 0, 0, 0, 0], [0.0, -223.33, 1090.0], [-90, 0, 180]),
        ([0, 0, -90, 0, 90, 0], [450.0, -135.0, 551.67], [180, 0, -90]),
    ],
)
def test_the_vendors_poses_come_out(joints_deg: list[float], position_mm: list[float], rpy_deg: list[float]) -> None:
    pose = flange_pose(np.radians(joints_deg))
    np.testing.assert_allclose(pose[:3, 3] * 1e3, position_mm, atol=0.02)
    assert rotation_angle(pose[:3, :3].T @ rotation_from_rpy(np.radians(rpy_deg))) < 5e-5


@pytest.fixture(scope="module")
def mujoco_arm() -> mujoco.MjModel:
    """The joint frames as a chain of MuJoCo bodies, which has its own forward kinematics."""
    spec = mujoco.MjSpec()
    body = spec.worldbody
    for index, frame in enumerate(JOINT_FRAMES, start=1):
        body = body.add_body(
            name=f"L{index}", pos=frame.xyz, quat=quaternion_from_rotation(rotation_from_rpy(frame.rpy))
        )
        body.add_joint(name=f"J{index}", type=mujoco.mjtJoint.mjJNT_HINGE, axis=(0, 0, 1))
        body.mass, body.inertia = 1.0, (1e-2, 1e-2, 1e-2)
    return spec.compile()


def test_every_link_frame_agrees_with_mujoco(mujoco_arm: mujoco.MjModel) -> None:
    data = mujoco.MjData(mujoco_arm)
    random = np.random.default_rng(0)
    for _ in range(50):
        joints = random.uniform(JOINT_LOWER_RAD, JOINT_UPPER_RAD)
        data.qpos[:] = joints
        mujoco.mj_kinematics(mujoco_arm, data)
        frames = link_frames(joints)
        np.testing.assert_allclose(frames[:, :3, 3], data.xpos[1:], atol=1e-9)
        np.testing.assert_allclose(frames[:, :3, :3], data.xmat[1:].reshape(-1, 3, 3), atol=1e-9)


def test_many_postures_at_once_are_the_same_as_one_by_one() -> None:
    joints = np.random.default_rng(1).uniform(-3, 3, (4, 5, 6))
    together = link_frames(joints)
    assert together.shape == (4, 5, 6, 4, 4)
    np.testing.assert_allclose(together[2, 3], link_frames(joints[2, 3]), atol=1e-14)
    np.testing.assert_allclose(jacobian(joints)[2, 3], jacobian(joints[2, 3]), atol=1e-14)


@given(postures)
@settings(max_examples=50, deadline=None)
def test_the_jacobian_is_the_derivative_of_the_pose(joints: np.ndarray) -> None:
    point = np.array([0.02, -0.03, 0.19])
    tool = make_pose(point)
    step = 1e-5
    numeric = np.empty((6, 6))
    for joint in range(6):
        change = np.eye(6)[joint] * step
        ahead, behind = tool_pose(joints + change, tool=tool), tool_pose(joints - change, tool=tool)
        numeric[:3, joint] = (ahead[:3, 3] - behind[:3, 3]) / (2 * step)
        numeric[3:, joint] = vector_from_rotation(ahead[:3, :3] @ behind[:3, :3].T) / (2 * step)
    np.testing.assert_allclose(jacobian(joints, point_m=point), numeric, atol=1e-6)


def test_the_condition_number_sees_each_kind_of_singularity() -> None:
    clear = np.radians([0, 0, -90, 0, 90, 0])
    wrist, elbow = np.radians([0, 0, -90, 0, 1, 0]), np.radians([0, 30, -1, 0, 90, 0])
    assert singularity(condition_number(clear)) is Singularity.CLEAR
    assert singularity(condition_number(wrist)) is Singularity.STOP
    assert singularity(condition_number(elbow)) is Singularity.STOP
    # Shoulder: bending joint 2 carries the wrist across the base axis, where joint 1 no longer moves it forward.
    bends = [np.array([0.0, bend, -2.0, 0.0, 1.57, 0.0]) for bend in np.linspace(-1.5, 1.5, 601)]
    worst = max(bends, key=condition_number)
    wrist_centre = flange_pose(worst) @ [0.0, 0.0, -JOINT_FRAMES[5].xyz[1], 1.0]
    assert singularity(condition_number(worst)) is Singularity.STOP
    assert abs(wrist_centre[0]) < 0.005


def test_speed_towards_a_singularity_falls_to_zero_between_the_thresholds() -> None:
    assert singularity_speed_scale(CONDITION_SLOW - 1) == 1.0
    assert 0.0 < singularity_speed_scale((CONDITION_SLOW + CONDITION_STOP) / 2) < 1.0
    assert singularity_speed_scale(CONDITION_STOP) == 0.0
    assert singularity_speed_scale(float("inf")) == 0.0
    assert singularity(CONDITION_SLOW) is Singularity.SLOW


def test_a_wrong_number_of_joints_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected shape \(\.\.\., 6\), got \(7,\)"):
        link_frames(np.zeros(7))
