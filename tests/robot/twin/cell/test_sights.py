"""Exact flow of the twin, against its own pictures: what it says has moved is found where it says."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from policy_server.motion.exact import rigid_flow
from robot.twin.optics import CameraName
from robot.twin.render import SceneRenderer
from robot.twin.sights import ScenesError, TwinSights
from robot.twin.sim import TwinSim

HEIGHT, WIDTH = 180, 320
MOVED_RAD = np.array([0.06, 0.03, -0.03, 0.0, 0.02, 0.1])


@pytest.mark.parametrize("camera", CameraName)
def test_a_later_picture_drawn_back_along_the_flow_is_the_earlier_one(
    sim: TwinSim, renderer: SceneRenderer, camera: CameraName
) -> None:
    before = sim.scene_state()
    sim.step_towards(sim.joint_target_rad + MOVED_RAD, steps=200)
    sim.step(200)
    after = sim.scene_state()
    with TwinSights() as sights:
        one, two = (sights.of(state, camera, height=HEIGHT, width=WIDTH) for state in (before, after))
    flow = rigid_flow(
        depth_m=one.depth_m,
        body=one.body,
        intrinsics=one.intrinsics,
        camera_before=one.camera,
        camera_after=two.camera,
        bodies_before=one.bodies,
        bodies_after=two.bodies,
    )
    earlier, later = (
        renderer.render(state, camera=camera, height=HEIGHT, width=WIDTH).astype(np.float32)
        for state in (before, after)
    )
    columns, rows = np.meshgrid(np.arange(WIDTH, dtype=np.float32), np.arange(HEIGHT, dtype=np.float32))
    drawn_back = cv2.remap(
        later, columns + flow[0].astype(np.float32), rows + flow[1].astype(np.float32), cv2.INTER_LINEAR
    )
    moves = np.linalg.norm(flow, axis=0) > 2.0
    assert moves.sum() > 500
    # The median leaves out what is covered in the later picture.
    wrong_without = float(np.abs(later - earlier)[moves].mean())
    wrong_with = float(np.median(np.abs(drawn_back - earlier)[moves]))
    assert wrong_with < 0.2 * wrong_without, (wrong_with, wrong_without)


def test_what_holds_no_scenes_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with TwinSights() as sights:
        with pytest.raises(ScenesError, match="make the data set with launch/demonstrations"):
            sights.of_episode(tmp_path, 0, camera="observation.images.exterior", height=36, width=64)
        with pytest.raises(ScenesError, match="no such camera"):
            sights.of_episode(tmp_path, 0, camera="observation.images.left", height=36, width=64)
