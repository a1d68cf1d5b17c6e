import numpy as np
import pytest

from policy_server.motion.exact import rigid_flow

INTRINSICS = np.array([[100.0, 0.0, 31.5], [0.0, 100.0, 23.5], [0.0, 0.0, 1.0]])


def pose(*, x: float = 0.0, y: float = 0.0, z: float = 0.0, turn_z: float = 0.0) -> np.ndarray:
    matrix = np.eye(4)
    cos, sin = np.cos(turn_z), np.sin(turn_z)
    matrix[:2, :2] = [[cos, -sin], [sin, cos]]
    matrix[:3, 3] = [x, y, z]
    return matrix


def flow_of(*, body_after: np.ndarray, camera_after: np.ndarray | None = None) -> np.ndarray:
    """A wall 2 m away whose right half is body 0."""
    body = np.full((48, 64), -1)
    body[:, 32:] = 0
    return rigid_flow(
        depth_m=np.full((48, 64), 2.0),
        body=body,
        intrinsics=INTRINSICS,
        camera_before=np.eye(4),
        camera_after=np.eye(4) if camera_after is None else camera_after,
        bodies_before=pose()[None],
        bodies_after=body_after[None],
    )


def test_a_body_that_moves_sideways_moves_by_focal_length_times_shift_over_depth() -> None:
    flow = flow_of(body_after=pose(x=0.1, y=-0.04))
    assert flow[:, :, :32] == pytest.approx(0.0)
    assert flow[0, :, 32:] == pytest.approx(5.0)
    assert flow[1, :, 32:] == pytest.approx(-2.0)


def test_a_body_that_comes_nearer_spreads_from_the_optical_axis() -> None:
    flow = flow_of(body_after=pose(z=-1.0))
    assert flow[0, 0, 63] == pytest.approx(63 - 31.5)
    assert flow[1, 0, 63] == pytest.approx(0 - 23.5)


def test_a_camera_that_moves_right_sees_the_world_move_left() -> None:
    flow = flow_of(body_after=pose(), camera_after=pose(x=0.1))
    assert flow[0] == pytest.approx(-5.0)


def test_a_body_that_turns_about_the_axis_turns_the_picture() -> None:
    flow = flow_of(body_after=pose(turn_z=0.1))
    x, y = 50 - 31.5, 40 - 23.5
    expected = (np.cos(0.1) * x - np.sin(0.1) * y - x, np.sin(0.1) * x + np.cos(0.1) * y - y)
    assert flow[:, 40, 50] == pytest.approx(expected)


def test_what_ends_behind_the_camera_or_is_infinitely_far_has_no_flow() -> None:
    assert np.all(np.isfinite(flow_of(body_after=pose(z=-3.0))))
    depth = np.full((4, 4), np.inf)
    flow = rigid_flow(
        depth_m=depth,
        body=np.zeros((4, 4), dtype=int),
        intrinsics=INTRINSICS,
        camera_before=np.eye(4),
        camera_after=np.eye(4),
        bodies_before=pose()[None],
        bodies_after=pose(x=1.0)[None],
    )
    assert np.all(flow == 0.0)
