"""Which parts of the scene can touch which: MuJoCo's contact bit masks in one place."""

from enum import IntFlag

import mujoco


class Touch(IntFlag):
    """Kinds of colliding geoms."""

    FURNITURE = 1
    """Table, plate."""
    OBJECT = 2
    """An object's solid as furniture and other objects feel it."""
    SHELL = 4
    """An object's walls as the robot feels them: a ring stays hollow for a finger."""
    ARM = 8
    GRIPPER = 16


TOUCHES: dict[Touch, Touch] = {
    Touch.FURNITURE: Touch.OBJECT | Touch.ARM | Touch.GRIPPER,
    Touch.OBJECT: Touch.FURNITURE | Touch.OBJECT,
    Touch.SHELL: Touch.ARM | Touch.GRIPPER,
    Touch.ARM: Touch.FURNITURE | Touch.SHELL | Touch.ARM | Touch.GRIPPER,
    Touch.GRIPPER: Touch.FURNITURE | Touch.SHELL | Touch.ARM,
}
"""Who touches whom; symmetric. Nothing inside the gripper touches itself, its stops are joint limits."""

VISUAL_GROUP = 1
COLLISION_GROUP = 3


def make_solid(geom: mujoco.MjsGeom, *, touch: Touch) -> mujoco.MjsGeom:
    """Marks ``geom`` as a colliding, unseen, massless part of the given kind (or kinds) and gives it back."""
    geom.contype = int(touch)
    geom.conaffinity = int(_partners(touch))
    geom.group = COLLISION_GROUP
    geom.mass = 0.0
    geom.rgba = (0.2, 0.8, 0.2, 0.4)
    return geom


def make_visual(geom: mujoco.MjsGeom, *, material: str) -> mujoco.MjsGeom:
    """Marks ``geom`` as only looked at and gives it back."""
    geom.contype = 0
    geom.conaffinity = 0
    geom.group = VISUAL_GROUP
    geom.mass = 0.0
    geom.material = material
    return geom


def _partners(touch: Touch) -> Touch:
    partners = Touch(0)
    for kind, others in TOUCHES.items():
        if touch & kind:
            partners |= others
    return partners
