"""What touches the robot: read from a MuJoCo data object whose contact forces are up to date."""

from dataclasses import dataclass

import mujoco
import numpy as np

from robot.twin.props import Prop
from robot.twin.scene import Scene

HOLD_FORCE_N = 1.0
"""Each pad must press at least this hard for an object to count as held."""


@dataclass(frozen=True)
class RobotContacts:
    """Contacts of the robot at one moment.

    ``outside_force_n``: length of the vector sum of all contact forces on the robot, in which what the jaws squeeze
    cancels, plus the forces between its own parts. ``held``: the object both pads press on, or None. ``touched``: every
    object that any part of the robot touches.
    """

    outside_force_n: float
    held: Prop | None
    touched: frozenset[Prop]


def robot_contacts(scene: Scene, data: mujoco.MjData) -> RobotContacts:
    """Sums up ``data.contact``."""
    total = np.zeros(3)
    own_n = 0.0
    pad_force_n = np.zeros((len(scene.pad_geom), len(Prop)))
    touched: set[Prop] = set()
    force = np.zeros(6)
    pairs = data.contact.geom
    for index in range(data.ncon):
        first, second = int(pairs[index, 0]), int(pairs[index, 1])
        robot_first, robot_second = scene.robot_geoms[first], scene.robot_geoms[second]
        if not (robot_first or robot_second):
            continue
        mujoco.mj_contactForce(scene.model, data, index, force)
        if robot_first and robot_second:
            own_n += float(np.linalg.norm(force[:3]))
            continue
        on_second = force[:3] @ data.contact.frame[index].reshape(3, 3)
        total += on_second if robot_second else -on_second
        robot_geom, other = (first, second) if robot_first else (second, first)
        prop = int(scene.geom_prop[other])
        if prop >= 0 and force[0] > 0.0:
            touched.add(Prop(prop))
            pad_force_n[scene.pad_geom == robot_geom, prop] += force[0]
    pressed = pad_force_n.min(axis=0)
    held = Prop(int(np.argmax(pressed))) if pressed.max() >= HOLD_FORCE_N else None
    return RobotContacts(outside_force_n=float(np.linalg.norm(total)) + own_n, held=held, touched=frozenset(touched))
