"""Soft dark discs under the objects: a hint of how high something is, at a hundredth of the cost of cast shadows."""

import mujoco
import numpy as np

from robot.twin.props import PLATE_RADIUS_M, PLATE_TOP_M, PROP_SHAPES
from robot.twin.scene import Scene

RINGS = (1.04, 1.12, 1.24)
"""Radii of the stacked discs, in radii of the object."""
DARKNESS = 0.18
"""Opacity of one disc under an object that stands."""
FADE_HEIGHT_M = 0.25
"""Height at which nothing is left of the shadow."""
_THICKNESS_M = 0.0002
_SPREAD = 1.5


def add_contact_shadows(scene: Scene, data: mujoco.MjData, picture: mujoco.MjvScene) -> None:
    """Appends the discs for the objects' poses in ``data`` to what ``picture`` will draw."""
    plate = data.mocap_pos[scene.plate_mocap]
    for body, shape in zip(scene.prop_body, PROP_SHAPES.values(), strict=True):
        position = data.xpos[body]
        on_plate = np.linalg.norm(position[:2] - plate[:2]) < PLATE_RADIUS_M
        ground = plate[2] + PLATE_TOP_M if on_plate else 0.0
        gap = position[2] - shape.height_m / 2 - ground
        left = 1.0 - min(max(gap / FADE_HEIGHT_M, 0.0), 1.0)
        for index, ring in enumerate(RINGS):
            radius = shape.radius_m * (1.0 + (ring - 1.0) * (1.0 + _SPREAD * (1.0 - left)))
            height = ground + _THICKNESS_M * (index + 1)
            _add_disc(picture, x=position[0], y=position[1], z=height, radius=radius, opacity=DARKNESS * left)


def _add_disc(picture: mujoco.MjvScene, *, x: float, y: float, z: float, radius: float, opacity: float) -> None:
    if opacity <= 0.0 or picture.ngeom >= picture.maxgeom:
        return
    mujoco.mjv_initGeom(
        picture.geoms[picture.ngeom],
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=np.array([radius, _THICKNESS_M / 4, 0.0]),
        pos=np.array([x, y, z]),
        mat=np.eye(3).ravel(),
        rgba=np.array([0.05, 0.04, 0.03, opacity], dtype=np.float32),
    )
    picture.ngeom += 1
