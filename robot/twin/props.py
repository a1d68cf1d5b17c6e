"""The things on the table: a cup, a drink can, a roll of tape and the plate they belong on.

An object's frame is the middle of its body, z up. Other things feel it as one solid cylinder; the gripper feels walls
around a hollow where there is one, so a finger can go into the cup or into the tape's hole.
"""

from dataclasses import dataclass
from enum import IntEnum
from math import cos, pi, sin, tan

import mujoco
import numpy as np

from robot.twin.collision import Touch, make_solid, make_visual
from robot.twin.shapes import add_surface, lathe
from robot.twin.textures import add_material, add_texture, can_print

PLATE_RADIUS_M = 0.105
PLATE_TOP_M = 0.008
"""Height of the plate's flat well over the table."""
PLATE_GOAL_RADIUS_M = 0.090
"""An object counts as on the plate while its axis is within this distance of the plate's."""

WALL_SEGMENTS = 12


class Prop(IntEnum):
    """The objects that can be put on the plate; the lower-case name is the MuJoCo body and the configuration's word."""

    CUP = 0
    CAN = 1
    TAPE = 2

    @property
    def label(self) -> str:
        """``cup``, ``can`` or ``tape``."""
        return self.name.lower()

    @classmethod
    def from_label(cls, label: str) -> "Prop":
        """Inverse of `label`. Raises ValueError that lists the objects there are."""
        for prop in cls:
            if prop.label == label:
                return prop
        raise ValueError(f"object {label!r}: no such object; there are {', '.join(p.label for p in cls)}")


@dataclass(frozen=True)
class PropShape:
    """An upright round object: metres and kilograms. ``hole_radius_m`` is 0 where it is closed."""

    radius_m: float
    height_m: float
    mass_kg: float
    hole_radius_m: float
    floor_m: float
    """Thickness of its bottom under the hole; 0 for a hole that goes through."""


PROP_SHAPES: dict[Prop, PropShape] = {
    Prop.CUP: PropShape(radius_m=0.0365, height_m=0.090, mass_kg=0.12, hole_radius_m=0.0325, floor_m=0.006),
    Prop.CAN: PropShape(radius_m=0.033, height_m=0.115, mass_kg=0.18, hole_radius_m=0.0, floor_m=0.0),
    Prop.TAPE: PropShape(radius_m=0.036, height_m=0.030, mass_kg=0.08, hole_radius_m=0.023, floor_m=0.0),
}


def add_props(spec: mujoco.MjSpec) -> None:
    """Adds the free bodies ``cup``, ``can`` and ``tape``, joints of the same name, and the mocap body ``plate``."""
    add_material(spec, name="cup", rgba=(0.16, 0.55, 0.53, 1.0), specular=0.5, shininess=0.7)
    add_material(spec, name="cup_inside", rgba=(0.93, 0.93, 0.90, 1.0), specular=0.4, shininess=0.6)
    add_material(
        spec, name="can", texture=add_texture(spec, name="can", image=can_print()), specular=0.6, shininess=0.7
    )
    add_material(spec, name="tape", rgba=(0.13, 0.36, 0.74, 1.0), specular=0.3, shininess=0.5)
    add_material(spec, name="tape_core", rgba=(0.76, 0.64, 0.48, 1.0), specular=0.05, shininess=0.1)
    add_material(spec, name="plate", rgba=(0.88, 0.88, 0.87, 1.0), specular=0.2, shininess=0.7)
    _add_plate(spec)
    for prop, shape in PROP_SHAPES.items():
        _add_prop(spec, prop, shape)


def _add_prop(spec: mujoco.MjSpec, prop: Prop, shape: PropShape) -> None:
    body = spec.worldbody.add_body(name=prop.label, pos=(0.40, 0.12 * (prop - 1), shape.height_m / 2))
    joint = body.add_freejoint()
    joint.name = prop.label
    body.explicitinertial = True
    body.mass = shape.mass_kg
    body.ipos = (0.0, 0.0, 0.0)  # left out, the compiler takes the body's own position for it
    across = shape.mass_kg * (3.0 * (shape.radius_m**2 + shape.hole_radius_m**2) + shape.height_m**2) / 12.0
    around = shape.mass_kg * (shape.radius_m**2 + shape.hole_radius_m**2) / 2.0
    body.inertia = (across, across, around)
    for name, material, profile in _PROFILES[prop]:
        surface = add_surface(spec, name=name, surface=lathe(np.array(profile)))
        make_visual(body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname=surface), material=material)
    solid = body.add_geom(type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=(shape.radius_m, shape.height_m / 2, 0.0))
    if shape.hole_radius_m == 0.0:
        _set_contact(make_solid(solid, touch=Touch.OBJECT | Touch.SHELL))
        return
    _set_contact(make_solid(solid, touch=Touch.OBJECT))
    _add_walls(body, shape)


def _add_walls(body: mujoco.MjsBody, shape: PropShape) -> None:
    thickness = shape.radius_m - shape.hole_radius_m
    middle = shape.hole_radius_m + thickness / 2
    half_width = shape.radius_m * tan(pi / WALL_SEGMENTS)
    for index in range(WALL_SEGMENTS):
        angle = 2.0 * pi * index / WALL_SEGMENTS
        wall = body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=(thickness / 2, half_width, shape.height_m / 2),
            pos=(middle * cos(angle), middle * sin(angle), 0.0),
            quat=(cos(angle / 2), 0.0, 0.0, sin(angle / 2)),
        )
        _set_contact(make_solid(wall, touch=Touch.SHELL))
    if shape.floor_m > 0.0:
        floor = body.add_geom(type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=(shape.hole_radius_m, shape.floor_m / 2, 0.0))
        floor.pos = (0.0, 0.0, (shape.floor_m - shape.height_m) / 2)
        _set_contact(make_solid(floor, touch=Touch.SHELL))


def _add_plate(spec: mujoco.MjSpec) -> None:
    body = spec.worldbody.add_body(name="plate", pos=(0.45, 0.0, 0.0), mocap=True)
    surface = add_surface(spec, name="plate", surface=lathe(np.array(_PLATE_PROFILE), segments=48))
    make_visual(body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname=surface), material="plate")
    solid = body.add_geom(type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=(PLATE_RADIUS_M, PLATE_TOP_M / 2, 0.0))
    solid.pos = (0.0, 0.0, PLATE_TOP_M / 2)
    _set_contact(make_solid(solid, touch=Touch.FURNITURE))


def _set_contact(geom: mujoco.MjsGeom) -> None:
    geom.condim = 4
    geom.friction = (1.0, 0.01, 0.0005)
    geom.solref = (0.006, 1.0)
    geom.solimp = (0.95, 0.99, 0.001, 0.5, 2.0)


_PLATE_PROFILE = (
    (0.0, 0.0), (0.060, 0.0), (0.068, 0.002), (0.106, 0.0085), (0.108, 0.0100), (0.1075, 0.0112), (0.105, 0.0115),
    (0.090, 0.0090), (0.084, 0.0082), (0.080, 0.0080), (0.0, 0.0080),
)  # fmt: skip

_PROFILES: dict[Prop, tuple[tuple[str, str, tuple[tuple[float, float], ...]], ...]] = {
    Prop.CUP: (
        (
            "cup_outside", "cup",
            ((0.0, -0.044), (0.026, -0.044), (0.027, -0.045), (0.0295, -0.045), (0.0325, -0.0425), (0.0338, -0.038),
             (0.0365, 0.041), (0.0365, 0.0440), (0.0358, 0.045), (0.0350, 0.0450)),
        ),
        (
            "cup_inside", "cup_inside",
            ((0.0352, 0.0451), (0.0342, 0.0440), (0.0338, 0.040), (0.0310, -0.034), (0.0285, -0.0385), (0.0, -0.039)),
        ),
    ),
    Prop.CAN: (
        (
            "can_outside", "can",
            ((0.0, -0.0535), (0.022, -0.0535), (0.0235, -0.0570), (0.0255, -0.0575), (0.0275, -0.056), (0.0330, -0.048),
             (0.0330, 0.046), (0.0285, 0.0535), (0.0275, 0.0550), (0.0280, 0.0570), (0.0270, 0.0575), (0.0260, 0.0565),
             (0.0255, 0.0535), (0.0, 0.0535)),
        ),
    ),
    Prop.TAPE: (
        (
            "tape_outside", "tape",
            ((0.0255, -0.0145), (0.0350, -0.0148), (0.0358, -0.0140), (0.0360, -0.012), (0.0360, 0.012),
             (0.0358, 0.0140), (0.0350, 0.0148), (0.0255, 0.0145)),
        ),
        (
            "tape_core", "tape_core",
            ((0.0255, 0.0), (0.0255, 0.0150), (0.0230, 0.0150), (0.0230, -0.0150), (0.0255, -0.0150), (0.0255, 0.0)),
        ),
    ),
}  # fmt: skip
"""Visible surfaces of each object: mesh name, material, profile of (radius, z) in metres."""
