"""A picture that cannot be used is refused with its reason; one that can is measured to a fraction of a pixel."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from calibration.detect import BoardFinder, Detection, Rejected, ViewFlaw
from calibration.geometry import CAMERA_FROM_MUJOCO, board_pose, inverse, project, transform
from robot.charuco import BOARDS
from robot.motion.rotations import make_pose, rotation_from_vector
from robot.twin.boards import BoardPlace, BoardPlacement
from robot.twin.calibration_operations import clear_table
from robot.twin.optics import CameraName, intrinsics
from robot.twin.render import SceneRenderer
from robot.twin.sim import TwinSim

SIZE = {"height": 360, "width": 640}


@pytest.fixture
def held_out(scene: tuple[TwinSim, SceneRenderer]) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """The exterior camera's picture of a board held out to it, and where its corners really are (n, 2)."""
    sim, renderer = scene

    def show(
        name: str, *, distance_m: float, turn: tuple[float, float, float], shift_m: tuple[float, float] = (0, 0)
    ) -> tuple[np.ndarray, np.ndarray]:
        sim.reset(0)
        clear_table(sim)
        board, camera = BOARDS[name], CameraName.EXTERIOR
        in_base = renderer.camera_pose(sim.scene_state(), camera) @ CAMERA_FROM_MUJOCO
        rotation = rotation_from_vector(turn)
        middle = np.array([*shift_m, distance_m])
        pose = in_base @ make_pose(middle - rotation @ board.center_m, rotation=rotation)
        sim.board = BoardPlacement(BoardPlace.HAND, name, pose)
        image = renderer.render(sim.scene_state(), camera=camera, **SIZE)
        sim.board = BoardPlacement()
        points = transform(inverse(in_base) @ pose, board.corners_m)
        return image, project(points, intrinsics=intrinsics(camera, **SIZE))

    return show


def test_corners_are_found_to_a_fraction_of_a_pixel(
    held_out: Callable[..., tuple[np.ndarray, np.ndarray]], seed: int
) -> None:
    random = np.random.default_rng(seed)
    errors = []
    for _ in range(6):
        turn = tuple(random.uniform(-0.6, 0.6, 3))
        image, corners = held_out("a4", distance_m=random.uniform(0.35, 0.5), turn=turn)
        seen = BoardFinder(BOARDS["a4"]).find(image)
        assert isinstance(seen, Detection), seen
        errors.append(seen.corners_px - corners[seen.ids])
    off = np.concatenate(errors)
    assert np.sqrt(np.mean(off**2)) < 0.15
    assert np.abs(off.mean(axis=0)).max() < 0.05, "half a pixel of shift would be half a pixel of principal point"


def test_what_is_wrong_with_a_picture_is_said(held_out: Callable[..., tuple[np.ndarray, np.ndarray]]) -> None:
    finder = BoardFinder(BOARDS["a4"])
    image, _ = held_out("a4", distance_m=0.4, turn=(0.3, 0.2, 0.1))
    other, _ = held_out("a3", distance_m=0.6, turn=(0.1, 0.2, 0.1))
    half, _ = held_out("a4", distance_m=0.3, turn=(0.0, 0.0, 0.0), shift_m=(0.40, 0.0))
    smear = np.full((1, 13), 1 / 13)
    spoiled = {
        ViewFlaw.TOO_DARK: (image * 0.06).astype(np.uint8),
        ViewFlaw.SATURATED: np.full_like(image, 255),
        ViewFlaw.NO_BOARD: np.random.default_rng(0).integers(60, 180, image.shape).astype(np.uint8),
        ViewFlaw.WRONG_BOARD: other,
        ViewFlaw.HALF_SEEN: half,
        ViewFlaw.BLURRED: cv2.GaussianBlur(image, (0, 0), 1.6),
    }
    for flaw, picture in spoiled.items():
        found = finder.find(picture)
        assert isinstance(found, Rejected), flaw
        assert found.flaw is flaw, (flaw, found)
    assert "expected 'a4', saw a3" in str(finder.find(other))
    moved = finder.find(cv2.filter2D(image, -1, smear))
    assert isinstance(moved, Rejected), "a picture smeared by motion"
    assert isinstance(finder.find(image), Detection)


def test_what_is_accepted_of_a_half_hidden_board_determines_how_it_lies(
    held_out: Callable[..., tuple[np.ndarray, np.ndarray]], seed: int
) -> None:
    random = np.random.default_rng(seed)
    image, corners = held_out("a4", distance_m=0.4, turn=tuple(random.uniform(-0.5, 0.5, 3)))
    optics = intrinsics(CameraName.EXTERIOR, **SIZE)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    accepted = 0
    for _ in range(25):
        angle, through = random.uniform(0, 2 * np.pi), corners[random.integers(len(corners))] + random.normal(0, 8, 2)
        hidden = (columns - through[0]) * np.cos(angle) + (rows - through[1]) * np.sin(angle) > 0
        seen = BoardFinder(BOARDS["a4"]).find(np.where(hidden[..., None], np.uint8(128), image))
        if isinstance(seen, Rejected):
            assert seen.flaw in (ViewFlaw.HALF_SEEN, ViewFlaw.NO_BOARD, ViewFlaw.BLURRED)
            continue
        accepted += 1
        points = seen.points_m(BOARDS["a4"])
        pose = board_pose(seen.corners_px, points, intrinsics=optics)
        assert np.abs(project(transform(pose, points), intrinsics=optics) - seen.corners_px).max() < 2.0
    assert accepted
