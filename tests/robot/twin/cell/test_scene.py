import mujoco
import numpy as np
import pytest

from robot.motion.kinematics import flange_pose
from robot.motion.nova5 import GRIPPER_STROKE_M, fingertip_height_m
from robot.motion.rotations import rotation_from_rpy
from robot.twin.ag95_model import (
    angle_from_opening,
    contact_force_from_setting,
    opening_from_angle,
    setting_from_contact_force,
    tip_height_from_angle,
)
from robot.twin.collision import TOUCHES, Touch
from robot.twin.layout import OBJECT_DISTANCE_M, PLATE_DISTANCE_M, draw_layout
from robot.twin.optics import CAMERA_MOUNTS, CameraName, intrinsics, vertical_field_deg
from robot.twin.props import Prop
from robot.twin.scene import Scene, SceneOptions
from robot.twin.shapes import lathe, rounded_cylinder_profile
from robot.twin.sim import ArmStart, TwinSim
from robot.twin.textures import can_print, wood


@pytest.fixture
def scene(shared_sim: TwinSim) -> Scene:
    return shared_sim.scene


@pytest.mark.parametrize(
    ("joints_deg", "position_m", "rpy_deg"),
    [
        ((0, 0, 0, 0, 0, 0), (0.0, -0.22333, 1.090), (-90, 0, 180)),
        ((0, 0, -90, 0, 90, 0), (0.450, -0.135, 0.55167), (180, 0, -90)),
    ],
)
def test_the_flange_is_where_the_vendor_says(
    sim: TwinSim, joints_deg: tuple[float, ...], position_m: tuple[float, ...], rpy_deg: tuple[float, ...]
) -> None:
    sim.reset(0, start=ArmStart(joints_rad=tuple(np.radians(joints_deg))))
    pose = sim.flange_pose
    assert pose[:3, 3] == pytest.approx(position_m, abs=2e-5)
    assert pose[:3, :3] == pytest.approx(rotation_from_rpy(np.radians(rpy_deg)), abs=2e-5)


def test_the_model_has_the_kinematics_that_the_rest_of_the_robot_computes_with(sim: TwinSim) -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        joints = random.uniform(-2.5, 2.5, 6)
        sim.reset(0, start=ArmStart(joints_rad=tuple(joints)))
        assert sim.flange_pose == pytest.approx(flange_pose(joints), abs=1e-9)


def test_the_fingertips_follow_the_vendors_height_table() -> None:
    for opening in np.linspace(0.0, GRIPPER_STROKE_M, 40):
        angle = angle_from_opening(opening)
        assert opening_from_angle(angle) == pytest.approx(opening, abs=1e-12)
        assert tip_height_from_angle(angle) == pytest.approx(fingertip_height_m(opening), abs=4e-4)


def test_the_pads_stay_parallel_and_their_tips_are_where_the_jaw_angle_says(sim: TwinSim) -> None:
    for opening in (0.0, 0.03, 0.07, GRIPPER_STROKE_M):
        sim.reset(0, start=ArmStart(opening_m=opening))
        model, data = sim.scene.model, sim._current()
        for pad, side in zip(sim.scene.pad_geom, (1.0, -1.0), strict=True):
            rotation = data.geom_xmat[pad].reshape(3, 3)
            assert rotation[:, 2] @ sim.flange_pose[:3, 2] == pytest.approx(1.0, abs=1e-9)
            local = np.array([-side * model.geom_size[pad][0], 0.0, model.geom_size[pad][2]])
            corner = data.geom_xpos[pad] + rotation @ local
            in_flange = sim.flange_pose[:3, :3].T @ (corner - sim.flange_pose[:3, 3])
            expected = [side * opening / 2, 0.0, fingertip_height_m(opening)]
            assert in_flange == pytest.approx(expected, abs=5e-4)


def test_force_settings_convert_both_ways_and_are_clipped() -> None:
    for setting in (45.0, 60.0, 100.0, 160.0):
        assert setting_from_contact_force(contact_force_from_setting(setting)) == pytest.approx(setting)
    assert contact_force_from_setting(1.0) == contact_force_from_setting(45.0)
    assert contact_force_from_setting(900.0) == contact_force_from_setting(160.0)


def test_touching_is_mutual_and_only_solids_of_the_right_kinds_touch(scene: Scene) -> None:
    for kind, others in TOUCHES.items():
        assert all(TOUCHES[other] & kind for other in Touch if other & others)
    model = scene.model
    plate = next(g for g in range(model.ngeom) if model.geom_bodyid[g] == scene.plate_body and model.geom_contype[g])
    pad = scene.pad_geom[0]

    def touch(first: int, second: int) -> bool:
        one = model.geom_contype[first] & model.geom_conaffinity[second]
        return bool(one or model.geom_contype[second] & model.geom_conaffinity[first])

    solids = [g for g in range(model.ngeom) if scene.geom_prop[g] >= 0 and model.geom_contype[g]]
    assert any(touch(pad, g) for g in solids)
    assert touch(pad, plate)
    assert not touch(scene.pad_geom[0], scene.pad_geom[1])
    for prop in Prop:
        assert any(touch(plate, g) for g in solids if scene.geom_prop[g] == prop)


def test_a_finger_fits_into_the_hole_of_the_tape(sim: TwinSim) -> None:
    upright = np.array([1.0, 0.0, 0.0, 0.0])
    finger = sim._current().geom_xpos[sim.scene.pad_geom[0]].copy()
    sim.set_object_pose(Prop.TAPE, position_m=finger, quaternion=upright)
    assert Prop.TAPE not in sim.contacts.touched
    sim.set_object_pose(Prop.TAPE, position_m=finger + np.array([0.0, 0.030, 0.0]), quaternion=upright)
    assert Prop.TAPE in sim.contacts.touched


def test_layouts_keep_their_distances() -> None:
    for seed in range(50):
        layout = draw_layout(np.random.default_rng(seed))
        for i in range(3):
            assert np.linalg.norm(layout.objects_m[i] - layout.plate_m) >= PLATE_DISTANCE_M
            assert all(np.linalg.norm(layout.objects_m[i] - layout.objects_m[j]) >= OBJECT_DISTANCE_M for j in range(i))


def test_intrinsics_are_those_of_the_hd720_mode_scaled_and_cut_centrally() -> None:
    full = intrinsics(CameraName.EXTERIOR, height=720, width=1280)
    assert full.fx == CAMERA_MOUNTS[CameraName.EXTERIOR].focal_px
    half = intrinsics(CameraName.EXTERIOR, height=360, width=640)
    assert half == full.scaled(width=640, height=360)
    square = intrinsics(CameraName.WRIST, height=224, width=224)
    assert square.fx == square.fy == pytest.approx(700.0 * 224 / 720)
    assert (square.cx, square.cy) == (111.5, 111.5)
    assert vertical_field_deg(CameraName.WRIST, height=360, width=640) == pytest.approx(54.4, abs=0.1)


def test_names_lead_to_members_and_unknown_names_list_the_known() -> None:
    assert CameraName.from_label("wrist") is CameraName.WRIST
    assert Prop.from_label("tape") is Prop.TAPE
    with pytest.raises(ValueError, match="exterior, wrist"):
        CameraName.from_label("side")
    with pytest.raises(ValueError, match="cup, can, tape"):
        Prop.from_label("spoon")


def test_scene_options_refuse_what_opengl_cannot_do() -> None:
    with pytest.raises(ValueError, match="samples"):
        SceneOptions(samples=3)
    with pytest.raises(ValueError, match="max_height"):
        SceneOptions(max_height=0)


def test_a_turned_surface_is_closed_and_wound_outwards() -> None:
    surface = lathe(rounded_cylinder_profile(radius=0.05, half_length=0.1, fillet=0.01))
    corners = surface.vertices[surface.faces]
    volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert volume == pytest.approx(np.pi * 0.05**2 * 0.2, rel=0.05)
    with pytest.raises(ValueError, match="profile"):
        lathe(np.array([[-0.1, 0.0], [0.1, 0.0], [0.1, 1.0]]))


def test_textures_are_the_same_each_time_and_not_flat() -> None:
    for make in (wood, can_print):
        assert np.array_equal(make(), make())
        assert make().std() > 5.0


def test_the_robot_does_not_touch_itself_at_the_start(sim: TwinSim) -> None:
    robot = sim.scene.robot_geoms
    pairs = sim._current().contact.geom
    assert not any(robot[first] and robot[second] for first, second in pairs)
    assert sim.scene.model.opt.timestep == 0.002
    assert mujoco.mj_id2name(sim.scene.model, mujoco.mjtObj.mjOBJ_SITE, sim.scene.flange_site) == "flange"
