"""The AG-95 as MuJoCo bodies: two four-bar fingers whose pads stay parallel while they swing on an arc.

Each finger is a link of `LINK_M` that turns about the finger's root, and a pad carrier held parallel to the flange axis
by the second bar of the real linkage (here an equality between joints). The arc gives the vendor's fingertip height
over the opening, `robot.motion.nova5.fingertip_height_m`, to within 0.4 mm. A third equality makes the jaws move alike,
so the gripper centres what it holds. The jaws open along the flange's x axis; the wrist camera sits on its -y side.
"""

from math import asin, cos, sin

import mujoco
import numpy as np

from robot.motion.nova5 import GRIPPER_MAX_FORCE_N, GRIPPER_MIN_FORCE_N, GRIPPER_STROKE_M
from robot.twin.collision import Touch, make_solid, make_visual
from robot.twin.optics import CAMERA_MOUNTS, CameraName, mount_rotation
from robot.twin.shapes import rounded_cylinder

LINK_M = 0.0625
"""Length of the finger links: its arc fits the vendor's table of fingertip heights."""
VERTICAL_HALF_OPENING_M = 0.0082
"""Half opening at which the links stand upright and the tips reach furthest, `MAX_TIP_HEIGHT_M` from the flange."""
MAX_TIP_HEIGHT_M = 0.2008
ROOT_HEIGHT_M = 0.0930
ROOT_OFFSET_M = 0.0162
"""How far the link's joint lies outside the pad's face."""
PAD_HALF_M = (0.0045, 0.0100, 0.0170)
"""Half thickness, half width and half height of a pad (vendor: 34 mm high, 17.5 to 21 mm wide)."""

MIN_CONTACT_FORCE_N = 14.0
MAX_CONTACT_FORCE_N = 32.0
"""Pad forces that the contact solver holds without slip or jitter; they stand for the gripper's 45 to 160 N."""

FINGERS = ("left", "right")


def angle_from_opening(opening_m: float) -> float:
    """Link angle in radians for a jaw opening in metres, which is clipped to the stroke."""
    half = min(max(opening_m, 0.0), GRIPPER_STROKE_M) / 2
    return asin((half - VERTICAL_HALF_OPENING_M) / LINK_M)


def opening_from_angle(angle_rad: float) -> float:
    """Jaw opening in metres for a link angle in radians."""
    return 2.0 * (VERTICAL_HALF_OPENING_M + LINK_M * sin(angle_rad))


def tip_height_from_angle(angle_rad: float) -> float:
    """Distance from the flange to the fingertips in metres for a link angle in radians."""
    return MAX_TIP_HEIGHT_M - LINK_M * (1.0 - cos(angle_rad))


def contact_force_from_setting(force_n: float) -> float:
    """Pad force in the simulation, newtons, for the gripper's force setting of 45 to 160 N (clipped)."""
    setting = min(max(force_n, GRIPPER_MIN_FORCE_N), GRIPPER_MAX_FORCE_N)
    share = (setting - GRIPPER_MIN_FORCE_N) / (GRIPPER_MAX_FORCE_N - GRIPPER_MIN_FORCE_N)
    return MIN_CONTACT_FORCE_N + share * (MAX_CONTACT_FORCE_N - MIN_CONTACT_FORCE_N)


def setting_from_contact_force(force_n: float) -> float:
    """The gripper's own newtons that a simulated pad force stands for; proportional below the least setting."""
    if force_n <= MIN_CONTACT_FORCE_N:
        return max(0.0, force_n) / MIN_CONTACT_FORCE_N * GRIPPER_MIN_FORCE_N
    share = (force_n - MIN_CONTACT_FORCE_N) / (MAX_CONTACT_FORCE_N - MIN_CONTACT_FORCE_N)
    return GRIPPER_MIN_FORCE_N + share * (GRIPPER_MAX_FORCE_N - GRIPPER_MIN_FORCE_N)


def torque_from_contact_force(force_n: float, *, angle_rad: float) -> float:
    """Torque about a link's root, N m, that presses a pad sideways with ``force_n`` at this link angle."""
    return force_n * LINK_M * cos(angle_rad)


def add_gripper(spec: mujoco.MjSpec, flange: mujoco.MjsBody) -> None:
    """Adds the gripper and the wrist camera to the flange body.

    Bodies ``gripper``, ``left_link``, ``left_finger``, ``right_link``, ``right_finger``; joints ``left_jaw`` and
    ``right_jaw`` with servos of these names; geoms ``left_pad`` and ``right_pad``; camera ``wrist``.
    """
    body = flange.add_body(name="gripper", gravcomp=1.0)
    body.explicitinertial = True
    body.mass = 0.834
    body.ipos = (0.0, -0.012, 0.055)
    body.inertia = (1.3e-3, 1.1e-3, 8.0e-4)
    _add_housing(spec, body)
    _add_wrist_camera(body)
    for side, name in ((1.0, "left"), (-1.0, "right")):
        _add_finger(spec, body, name=name, side=side)
    _couple(spec, "right_jaw", "left_jaw")
    for link in ("link5", "link6"):
        for part in ("gripper", "left_link", "left_finger", "right_link", "right_finger"):
            if (link, part) != ("link6", "gripper"):
                spec.add_exclude(bodyname1=link, bodyname2=part)


def _add_housing(spec: mujoco.MjSpec, body: mujoco.MjsBody) -> None:
    box, mesh = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_MESH
    plate = body.add_geom(type=mesh, pos=(0, 0, 0.007))
    plate.meshname = rounded_cylinder(spec, radius=0.0335, half_length=0.007, fillet=0.002)
    make_visual(plate, material="steel")
    barrel = body.add_geom(type=mesh, pos=(0, 0, 0.041))
    barrel.meshname = rounded_cylinder(spec, radius=0.0375, half_length=0.029, fillet=0.004)
    make_visual(barrel, material="graphite")
    ring = body.add_geom(type=mesh, pos=(0, 0, 0.0665))
    ring.meshname = rounded_cylinder(spec, radius=0.0380, half_length=0.002, fillet=0.0015)
    make_visual(ring, material="accent")
    for size, pos, material in (
        ((0.0400, 0.0300, 0.0130), (0, 0, 0.080), "graphite"),
        ((0.0340, 0.0180, 0.0080), (0, 0, 0.098), "graphite"),
        ((0.0290, 0.0305, 0.0060), (0, 0, 0.080), "steel"),
    ):
        make_visual(body.add_geom(type=box, size=size, pos=pos), material=material)
    make_solid(body.add_geom(type=box, size=(0.042, 0.036, 0.053), pos=(0, 0, 0.053)), touch=Touch.GRIPPER)


def _add_wrist_camera(body: mujoco.MjsBody) -> None:
    mount = CAMERA_MOUNTS[CameraName.WRIST]
    rotation = mount_rotation(mount)
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, rotation.ravel())
    body.add_camera(name=CameraName.WRIST.label, pos=mount.position, quat=quaternion)
    # The left eye is half a baseline (31.5 mm) off the middle of the ZED Mini's 124.5 x 30.5 x 26.5 mm body.
    middle = np.asarray(mount.position) + rotation @ np.array([0.0315, 0.0, 0.0155])
    box = mujoco.mjtGeom.mjGEOM_BOX
    make_visual(
        body.add_geom(type=box, size=(0.06225, 0.01525, 0.0130), pos=middle, quat=quaternion), material="graphite"
    )
    make_solid(
        body.add_geom(type=box, size=(0.06225, 0.01525, 0.0130), pos=middle, quat=quaternion), touch=Touch.GRIPPER
    )
    for eye in (0.0, 0.063):
        lens = body.add_geom(type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=(0.007, 0.001, 0.0), quat=quaternion)
        lens.pos = np.asarray(mount.position) + rotation @ np.array([eye, 0.0, 0.0022])
        make_visual(lens, material="glass")
    for x in (-0.014, 0.014):
        arm = body.add_geom(type=box, size=(0.003, 0.024, 0.010), pos=(x, -0.054, 0.034))
        make_visual(arm, material="steel")


def _add_finger(spec: mujoco.MjSpec, gripper: mujoco.MjsBody, *, name: str, side: float) -> None:
    box, capsule = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CAPSULE
    root = (side * (VERTICAL_HALF_OPENING_M + ROOT_OFFSET_M), 0.0, ROOT_HEIGHT_M)
    link = gripper.add_body(name=f"{name}_link", pos=root, gravcomp=1.0)
    _set_inertia(link, mass=0.03, center=(0.0, 0.0, LINK_M / 2), inertia=(1.2e-5, 1.2e-5, 3.0e-6))
    limits = (angle_from_opening(0.0), angle_from_opening(GRIPPER_STROKE_M))
    _add_hinge(link, name=f"{name}_jaw", axis=(0, side, 0), limits=limits, armature=2.5e-4, damping=0.03)
    for y in (-0.0125, 0.0125):
        bar = link.add_geom(type=capsule, fromto=(0, y, 0, 0, y, LINK_M))
        bar.size = (0.0055, 0.0, 0.0)
        make_visual(bar, material="steel")
    knuckle = link.add_geom(type=box, size=(0.0045, 0.0085, LINK_M / 2 - 0.004), pos=(side * 0.010, 0, LINK_M / 2))
    make_visual(knuckle, material="graphite")
    make_solid(
        link.add_geom(type=box, size=(0.008, 0.016, LINK_M / 2), pos=(side * 0.006, 0, LINK_M / 2)), touch=Touch.GRIPPER
    )

    finger = link.add_body(name=f"{name}_finger", pos=(0, 0, LINK_M), gravcomp=1.0)
    _set_inertia(finger, mass=0.03, center=(0.0, 0.0, 0.02), inertia=(1.0e-5, 1.0e-5, 3.0e-6))
    _add_hinge(finger, name=f"{name}_parallel", axis=(0, -side, 0), limits=None, armature=2.5e-4, damping=0.01)
    tip = MAX_TIP_HEIGHT_M - ROOT_HEIGHT_M - LINK_M
    face = -side * ROOT_OFFSET_M
    pad_center = (face + side * PAD_HALF_M[0], 0.0, tip - PAD_HALF_M[2])
    back_size, back_pos = (
        (0.0050, 0.0090, tip / 2 + 0.003),
        (face + side * (2 * PAD_HALF_M[0] + 0.0045), 0.0, tip / 2 - 0.005),
    )
    make_visual(finger.add_geom(type=box, size=PAD_HALF_M, pos=pad_center), material="rubber")
    make_visual(finger.add_geom(type=box, size=back_size, pos=back_pos), material="steel")
    make_solid(finger.add_geom(type=box, size=back_size, pos=back_pos), touch=Touch.GRIPPER)
    pad = make_solid(
        finger.add_geom(name=f"{name}_pad", type=box, size=PAD_HALF_M, pos=pad_center), touch=Touch.GRIPPER
    )
    pad.condim = 4
    pad.friction = (1.5, 0.03, 0.001)
    pad.solref = (0.006, 1.0)
    pad.solimp = (0.95, 0.99, 0.001, 0.5, 2.0)

    _couple(spec, f"{name}_parallel", f"{name}_jaw")
    actuator = spec.add_actuator(name=f"{name}_jaw", target=f"{name}_jaw", trntype=mujoco.mjtTrn.mjTRN_JOINT)
    actuator.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE
    largest = MAX_CONTACT_FORCE_N * LINK_M
    actuator.forcerange = (-largest, largest)
    actuator.set_to_position(kp=8.0, kv=0.16)


def _add_hinge(
    body: mujoco.MjsBody,
    *,
    name: str,
    axis: tuple[float, float, float],
    limits: tuple[float, float] | None,
    armature: float,
    damping: float,
) -> None:
    joint = body.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_HINGE, axis=axis, armature=armature)
    joint.damping = (damping, 0.0, 0.0)
    if limits is not None:
        joint.range = limits
        joint.limited = mujoco.mjtLimited.mjLIMITED_TRUE


def _set_inertia(
    body: mujoco.MjsBody, *, mass: float, center: tuple[float, float, float], inertia: tuple[float, float, float]
) -> None:
    body.explicitinertial = True
    body.mass = mass
    body.ipos = center
    body.inertia = inertia


def _couple(spec: mujoco.MjSpec, follower: str, leader: str) -> None:
    equality = spec.add_equality(name=f"{follower}_follows", type=mujoco.mjtEq.mjEQ_JOINT)
    equality.objtype = mujoco.mjtObj.mjOBJ_JOINT
    equality.name1, equality.name2 = follower, leader
    equality.data[:5] = (0.0, 1.0, 0.0, 0.0, 0.0)
    equality.solref = (0.004, 1.0)
    equality.solimp = (0.97, 0.995, 0.001, 0.5, 2.0)
