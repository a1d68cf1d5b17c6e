"""The Nova 5 as MuJoCo bodies: the vendor's joint frames exactly, its shells as turned primitives.

Link masses and inertias are those of the vendor's URDF: CAD shells, about half the real mass. Gravity is compensated
and the joints are position servos, so motion is right to the eye and to the controller; torques are only indicative.
"""

from dataclasses import dataclass

import mujoco
import numpy as np

from robot.motion.nova5 import JOINT_COUNT, JOINT_FRAMES, JOINT_LOWER_RAD, JOINT_UPPER_RAD
from robot.twin.collision import Touch, make_solid, make_visual
from robot.twin.shapes import quaternion_from_rpy, quaternion_z_to, rounded_cylinder

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class LinkInertia:
    """Mass in kg, centre of mass in m, and (Ixx, Iyy, Izz, Ixy, Ixz, Iyz) in kg m2 about it, link frame."""

    mass_kg: float
    center_m: Vector
    inertia: tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Tube:
    """One visible turned part of a link: from ``start`` to ``end`` in the link frame, metres."""

    start: Vector
    end: Vector
    radius: float
    material: str
    fillet: float = 0.008


@dataclass(frozen=True)
class Solid:
    """One colliding capsule of a link: its axis from ``start`` to ``end`` in the link frame, metres."""

    start: Vector
    end: Vector
    radius: float


@dataclass(frozen=True)
class Servo:
    """Position servo of one joint: stiffness N m/rad and largest torque N m."""

    stiffness: float
    max_torque_nm: float


INERTIAS: tuple[LinkInertia, ...] = (
    LinkInertia(1.0809, (0.0, -0.02177, -0.02618), (2.660e-3, 2.473e-3, 1.647e-3, 0.0, 0.0, 6.613e-4)),
    LinkInertia(2.5459, (-0.19934, -0.00696, 0.10921), (2.852e-3, 6.368e-2, 6.430e-2, -2.128e-3, -1.099e-3, 0.0)),
    LinkInertia(1.4075, (-0.15236, -0.00536, 0.01990), (1.008e-3, 2.317e-2, 2.360e-2, -7.755e-4, 4.43e-5, 0.0)),
    LinkInertia(0.43967, (0.0, -0.02276, -0.02024), (6.347e-4, 4.501e-4, 4.803e-4, 0.0, 0.0, 2.109e-4)),
    LinkInertia(0.57484, (0.0, 0.00191, -0.00761), (6.632e-4, 3.975e-4, 6.412e-4, 0.0, 0.0, -1.203e-4)),
    LinkInertia(0.12968, (0.0, 0.00015, -0.01946), (5.028e-5, 5.054e-5, 7.786e-5, 0.0, 0.0, 0.0)),
)
"""Vendor URDF, links 1 to 6."""

SERVOS: tuple[Servo, ...] = (
    Servo(4000.0, 300.0),
    Servo(4000.0, 300.0),
    Servo(3000.0, 300.0),
    Servo(1000.0, 120.0),
    Servo(800.0, 120.0),
    Servo(500.0, 120.0),
)

_ELBOW: Vector = (-0.399756, -0.013969, 0.0)
_WRIST: Vector = (-0.329799, -0.011524, 0.0)


def _along(point: Vector, *, z: float, fraction: float = 1.0) -> Vector:
    return (point[0] * fraction, point[1] * fraction, z)


BASE_TUBES: tuple[Tube, ...] = (
    Tube((0, 0, 0), (0, 0, 0.022), 0.088, "graphite", 0.006),
    Tube((0, 0, 0.020), (0, 0, 0.135), 0.074, "shell"),
    Tube((0, 0, 0.133), (0, 0, 0.147), 0.0745, "accent", 0.003),
)

TUBES: tuple[tuple[Tube, ...], ...] = (
    (
        Tube((0, 0, -0.093), (0, 0, 0.060), 0.074, "shell", 0.030),
        Tube((0, 0.068, 0), (0, -0.060, 0), 0.066, "shell", 0.016),
        Tube((0, 0.082, 0), (0, 0.064, 0), 0.054, "graphite", 0.008),
    ),
    (
        Tube((0, 0, 0.058), (0, 0, 0.172), 0.066, "shell", 0.018),
        Tube((0, 0, 0.168), (0, 0, 0.182), 0.054, "graphite", 0.007),
        Tube((0, 0, 0.050), (0, 0, 0.060), 0.0665, "accent", 0.003),
        Tube(_along(_ELBOW, z=0.118, fraction=0.05), _along(_ELBOW, z=0.118, fraction=0.95), 0.052, "shell", 0.012),
        Tube(_along(_ELBOW, z=0.062), _along(_ELBOW, z=0.170), 0.058, "shell", 0.018),
        Tube(_along(_ELBOW, z=0.166), _along(_ELBOW, z=0.180), 0.047, "graphite", 0.007),
    ),
    (
        Tube((0, 0, -0.050), (0, 0, 0.056), 0.058, "shell", 0.018),
        Tube((0, 0, -0.063), (0, 0, -0.047), 0.047, "graphite", 0.007),
        Tube((0, 0, 0.053), (0, 0, 0.063), 0.0585, "accent", 0.003),
        Tube(_along(_WRIST, z=0.006, fraction=0.05), _along(_WRIST, z=0.006, fraction=0.95), 0.043, "shell", 0.012),
        Tube(_along(_WRIST, z=-0.044), _along(_WRIST, z=0.078), 0.046, "shell", 0.016),
        Tube(_along(_WRIST, z=-0.056), _along(_WRIST, z=-0.041), 0.038, "graphite", 0.006),
    ),
    (
        Tube((0, 0, -0.050), (0, 0, 0.052), 0.046, "shell", 0.016),
        Tube((0, 0, 0.049), (0, 0, 0.062), 0.038, "graphite", 0.006),
        Tube((0, 0, -0.058), (0, 0, -0.049), 0.0465, "accent", 0.003),
        Tube((0, 0, 0), (0, -0.072, 0), 0.044, "shell", 0.010),
    ),
    (
        Tube((0, 0, -0.044), (0, 0, 0.050), 0.046, "shell", 0.016),
        Tube((0, 0, 0.047), (0, 0, 0.060), 0.038, "graphite", 0.006),
        Tube((0, 0, -0.050), (0, 0, -0.042), 0.0465, "accent", 0.003),
        Tube((0, 0, 0), (0, 0.058, 0), 0.042, "shell", 0.010),
    ),
    (
        Tube((0, 0, -0.034), (0, 0, -0.004), 0.040, "shell", 0.006),
        Tube((0, 0, -0.006), (0, 0, 0.0), 0.036, "steel", 0.002),
    ),
)
"""Visible parts of links 1 to 6."""

BASE_SOLID = Solid((0, 0, 0.06), (0, 0, 0.16), 0.072)

SOLIDS: tuple[tuple[Solid, ...], ...] = (
    (Solid((0, 0.02, 0), (0, -0.02, 0), 0.064),),
    (
        Solid((0, 0, 0.110), (0, 0, 0.125), 0.060),
        Solid((0, 0, 0.118), _along(_ELBOW, z=0.118), 0.052),
    ),
    (Solid((0, 0, 0.0), _along(_WRIST, z=0.006), 0.046),),
    (Solid((0, 0, 0.010), (0, -0.050, 0), 0.044),),
    (Solid((0, 0, 0.006), (0, 0.030, 0), 0.044),),
    (),
)
"""Colliding parts of links 1 to 6: a few capsules, as collision checking runs in each physics step."""

_EXCLUDED = (("base", "link1"), ("link3", "link5"), ("link4", "link6"))


def add_arm(spec: mujoco.MjSpec) -> mujoco.MjsBody:
    """Adds bodies ``base`` and ``link1`` to ``link6``, joints and servos ``joint1`` to ``joint6``, and site ``flange``.

    The base stands at the origin of the world. Gives the body of link 6, whose frame is the flange. The materials
    ``shell``, ``graphite``, ``accent`` and ``steel`` must be in ``spec``.
    """
    body = spec.worldbody.add_body(name="base")
    for tube in BASE_TUBES:
        _add_tube(spec, body, tube)
    _add_solid(body, BASE_SOLID)
    for index in range(JOINT_COUNT):
        body = _add_link(spec, body, index)
    body.add_site(name="flange", group=4)
    for first, second in _EXCLUDED:
        spec.add_exclude(bodyname1=first, bodyname2=second)
    return body


def _add_link(spec: mujoco.MjSpec, parent: mujoco.MjsBody, index: int) -> mujoco.MjsBody:
    frame, inertia, servo = JOINT_FRAMES[index], INERTIAS[index], SERVOS[index]
    body = parent.add_body(name=f"link{index + 1}", pos=frame.xyz, quat=quaternion_from_rpy(frame.rpy), gravcomp=1.0)
    body.explicitinertial = True
    body.mass = inertia.mass_kg
    body.ipos = inertia.center_m
    body.fullinertia = inertia.inertia
    joint = body.add_joint(name=f"joint{index + 1}", type=mujoco.mjtJoint.mjJNT_HINGE, axis=(0, 0, 1))
    joint.range = (JOINT_LOWER_RAD[index], JOINT_UPPER_RAD[index])
    joint.limited = mujoco.mjtLimited.mjLIMITED_TRUE
    joint.damping = (2.0, 0.0, 0.0)
    joint.armature = 0.1
    joint.actgravcomp = True
    for tube in TUBES[index]:
        _add_tube(spec, body, tube)
    for solid in SOLIDS[index]:
        _add_solid(body, solid)
    actuator = spec.add_actuator(
        name=joint.name,
        target=joint.name,
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        forcerange=_symmetric(servo.max_torque_nm),
    )
    actuator.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE
    actuator.set_to_position(kp=servo.stiffness, dampratio=1.0)
    return body


def _add_tube(spec: mujoco.MjSpec, body: mujoco.MjsBody, tube: Tube) -> None:
    start, end = np.asarray(tube.start, dtype=np.float64), np.asarray(tube.end, dtype=np.float64)
    length = float(np.linalg.norm(end - start))
    geom = body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, pos=(start + end) / 2, quat=quaternion_z_to(end - start))
    geom.meshname = rounded_cylinder(
        spec, radius=tube.radius, half_length=length / 2, fillet=min(tube.fillet, 0.499 * length, tube.radius)
    )
    make_visual(geom, material=tube.material)


def _add_solid(body: mujoco.MjsBody, solid: Solid) -> None:
    geom = body.add_geom(type=mujoco.mjtGeom.mjGEOM_CAPSULE, fromto=(*solid.start, *solid.end))
    geom.size = (solid.radius, 0.0, 0.0)
    make_solid(geom, touch=Touch.ARM)


def _symmetric(limit: float) -> tuple[float, float]:
    return (-limit, limit)
