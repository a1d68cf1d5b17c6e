import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest

from robot.twin import render
from robot.twin.optics import CameraName, project
from robot.twin.props import PROP_SHAPES, Prop
from robot.twin.render import SceneRenderer
from robot.twin.scene_state import SceneState, scene_state_dtype
from robot.twin.sim import TwinSim
from robot.twin.variation import VariationRange, plain

SIZES = [(360, 640), (224, 224), (96, 128)]

OTHER_PROCESS = """
import sys, numpy as np
from robot.twin.optics import CameraName
from robot.twin.render import SceneRenderer
from robot.twin.scene import SceneOptions
from robot.twin.scene_state import SceneState, scene_state_dtype
with SceneRenderer(SceneOptions(max_height=360, max_width=640)) as renderer:
    record = np.frombuffer(sys.stdin.buffer.read(), scene_state_dtype(renderer.scene))[0]
    for camera in CameraName:
        image = renderer.render(SceneState.unpack(record), camera=camera, height=120, width=160)
        sys.stdout.buffer.write(image.tobytes())
"""


@pytest.mark.parametrize("camera", list(CameraName))
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_point_in_space_is_drawn_at_the_pixel_that_the_intrinsics_say(
    sim: TwinSim, renderer: SceneRenderer, monkeypatch: pytest.MonkeyPatch, camera: CameraName, height: int, width: int
) -> None:
    pose = renderer.camera_pose(sim.scene_state(), camera)
    for right, up in ((0.0, 0.0), (0.06, 0.05), (-0.07, 0.06), (-0.02, -0.03)):
        point = pose[:3, 3] + pose[:3, :3] @ np.array([right, up, -0.155])

        def add_marker(scene: object, data: object, picture: mujoco.MjvScene, at: np.ndarray = point) -> None:
            mujoco.mjv_initGeom(
                picture.geoms[picture.ngeom],
                type=mujoco.mjtGeom.mjGEOM_SPHERE,
                size=np.full(3, 0.004),
                pos=at,
                mat=np.eye(3).ravel(),
                rgba=np.array([1.0, 0.0, 1.0, 1.0], np.float32),
            )
            picture.geoms[picture.ngeom].emission = 1.0
            picture.ngeom += 1

        monkeypatch.setattr(render, "add_contact_shadows", add_marker)
        image = renderer.render(sim.scene_state(), camera=camera, height=height, width=width).astype(int)
        rows, columns = np.nonzero((image[..., 0] > 200) & (image[..., 1] < 90) & (image[..., 2] > 200))
        optics = renderer.intrinsics(camera, height=height, width=width)
        expected = project(point, position=pose[:3, 3], rotation=pose[:3, :3], optics=optics)
        assert len(rows) > 0
        assert [columns.mean(), rows.mean()] == pytest.approx(expected, abs=0.4)


def test_points_behind_a_camera_have_no_pixel(sim: TwinSim, renderer: SceneRenderer) -> None:
    pose = renderer.camera_pose(sim.scene_state(), CameraName.EXTERIOR)
    behind = pose[:3, 3] + pose[:3, 2]
    optics = renderer.intrinsics(CameraName.EXTERIOR, height=360, width=640)
    assert np.isnan(project(behind, position=pose[:3, 3], rotation=pose[:3, :3], optics=optics)).all()


def test_the_same_seed_gives_the_same_pictures_and_another_does_not(sim: TwinSim, renderer: SceneRenderer) -> None:
    def pictures(seed: int) -> list[np.ndarray]:
        sim.reset(seed)
        state = sim.scene_state()
        return [renderer.render(state, camera=camera, height=120, width=160) for camera in CameraName]

    first, other, again = pictures(4), pictures(5), pictures(4)
    for one, two, three in zip(first, other, again, strict=True):
        assert one.shape == (120, 160, 3)
        assert one.dtype == np.uint8
        assert np.array_equal(one, three)
        assert not np.array_equal(one, two)


def test_another_process_draws_the_same_from_the_packed_state(sim: TwinSim, renderer: SceneRenderer) -> None:
    sim.reset(6, variation=VariationRange())
    sim.step(40)
    state = sim.scene_state()
    ours = b"".join(renderer.render(state, camera=c, height=120, width=160).tobytes() for c in CameraName)
    root = Path(__file__).resolve().parents[4]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    result = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS],
        input=state.pack().tobytes(),
        capture_output=True,
        env=environment,
        check=True,
        timeout=100,
    )
    assert hashlib.sha256(result.stdout).hexdigest() == hashlib.sha256(ours).hexdigest()


def test_packing_a_state_loses_nothing(sim: TwinSim) -> None:
    sim.reset(6, variation=VariationRange())
    state = sim.scene_state()
    record = state.pack()
    assert record.dtype == scene_state_dtype(sim.scene)
    back = SceneState.unpack(record)
    assert back.time_s == state.time_s
    assert np.array_equal(back.qpos, state.qpos)
    assert np.array_equal(back.variation.colour_gain, state.variation.colour_gain)
    assert np.array_equal(back.variation.camera_turn_rad, state.variation.camera_turn_rad)
    assert back.variation.light_gain == state.variation.light_gain


def test_variation_changes_the_look_and_leaves_no_trace(sim: TwinSim, renderer: SceneRenderer) -> None:
    sim.reset(3)
    plain_state = sim.scene_state()
    sim.reset(3, variation=VariationRange())
    varied = sim.scene_state()
    assert np.array_equal(varied.qpos, plain_state.qpos)

    def draw(state: SceneState) -> np.ndarray:
        return renderer.render(state, camera=CameraName.EXTERIOR, height=120, width=160)

    before = draw(plain_state)
    assert np.abs(draw(varied).astype(int) - before).mean() > 2.0
    assert np.array_equal(draw(plain_state), before)


def test_each_varied_quantity_is_seen(sim: TwinSim, renderer: SceneRenderer) -> None:
    base = replace(sim.scene_state(), variation=plain())
    image = renderer.render(base, camera=CameraName.EXTERIOR, height=120, width=160)
    changes = {
        "light_turn_rad": np.array([0.3, 0.0]),
        "light_gain": 0.7,
        "ambient_gain": 0.7,
        "colour_gain": np.full((6, 3), 0.8),
        "camera_shift_m": np.full((2, 3), 0.02),
        "camera_turn_rad": np.full((2, 3), 0.05),
    }
    for name, value in changes.items():
        varied = replace(base, variation=replace(plain(), **{name: value}))
        other = renderer.render(varied, camera=CameraName.EXTERIOR, height=120, width=160)
        assert not np.array_equal(image, other), name


def test_depth_is_the_distance_along_the_optical_axis(sim: TwinSim, renderer: SceneRenderer) -> None:
    state = sim.scene_state()
    camera = CameraName.EXTERIOR
    depth, _ = renderer.geometry(state, camera=camera, height=360, width=640)
    pose = renderer.camera_pose(state, camera)
    optics = renderer.intrinsics(camera, height=360, width=640)
    row, column = 340, 60
    ray = pose[:3, :3] @ np.array([(column - optics.cx) / optics.fx, -(row - optics.cy) / optics.fy, -1.0])
    to_table = -pose[2, 3] / ray[2]
    assert depth[row, column] == pytest.approx(to_table, rel=2e-3)


def test_segmentation_finds_each_object_where_it_projects(sim: TwinSim, renderer: SceneRenderer) -> None:
    state, camera = sim.scene_state(), CameraName.EXTERIOR
    _, bodies = renderer.geometry(state, camera=camera, height=360, width=640)
    pose = renderer.camera_pose(state, camera)
    optics = renderer.intrinsics(camera, height=360, width=640)
    for prop in Prop:
        rows, columns = np.nonzero(bodies == sim.scene.prop_body[prop])
        middle = sim.object_pose(prop).position_m
        pixel = project(middle, position=pose[:3, 3], rotation=pose[:3, :3], optics=optics)
        size = optics.fx * PROP_SHAPES[prop].height_m / 0.6
        assert len(rows) > 50, prop
        assert np.hypot(columns.mean() - pixel[0], rows.mean() - pixel[1]) < size, prop


def test_both_pictures_show_what_a_policy_needs_at_the_start(sim: TwinSim, renderer: SceneRenderer) -> None:
    for seed in range(6):
        sim.reset(seed)
        _, bodies = renderer.geometry(sim.scene_state(), camera=CameraName.EXTERIOR, height=224, width=224)
        for body in (*sim.scene.prop_body, sim.scene.plate_body):
            assert np.count_nonzero(bodies == body) > 15, (seed, body)
    _, wrist = renderer.geometry(sim.scene_state(), camera=CameraName.WRIST, height=224, width=224)
    for finger in ("left_finger", "right_finger"):
        assert np.count_nonzero(wrist == sim.scene.model.body(finger).id) > 100


def test_a_picture_larger_than_the_renderer_was_made_for_is_refused(sim: TwinSim, renderer: SceneRenderer) -> None:
    with pytest.raises(ValueError, match="at most 360 x 640"):
        renderer.render(sim.scene_state(), camera=CameraName.WRIST, height=720, width=1280)


def test_a_state_of_another_scene_is_refused(sim: TwinSim, renderer: SceneRenderer) -> None:
    with pytest.raises(ValueError, match="qpos"):
        renderer.render(replace(sim.scene_state(), qpos=np.zeros(3)), camera=CameraName.WRIST, height=120, width=160)
