"""Where things are when an episode begins: drawn from a seed, apart from each other and within the arm's reach."""

from dataclasses import dataclass

import numpy as np

from robot.twin.props import PLATE_TOP_M, PROP_SHAPES, Prop

OBJECT_LOWER_M = np.array([0.30, -0.18])
OBJECT_UPPER_M = np.array([0.55, 0.18])
PLATE_LOWER_M = np.array([0.33, -0.15])
PLATE_UPPER_M = np.array([0.53, 0.15])
OBJECT_DISTANCE_M = 0.110
PLATE_DISTANCE_M = 0.165
_TRIES = 2000


@dataclass(frozen=True)
class Layout:
    """Places on the table: ``objects_m`` (3, 2) in `Prop` order, their headings ``yaw_rad`` (3,), ``plate_m`` (2,)."""

    objects_m: np.ndarray
    yaw_rad: np.ndarray
    plate_m: np.ndarray

    def object_pose(self, prop: Prop) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) m and quaternion (4,) wxyz of the object standing on the table."""
        position = np.array([*self.objects_m[prop], PROP_SHAPES[prop].height_m / 2])
        half = self.yaw_rad[prop] / 2
        return position, np.array([np.cos(half), 0.0, 0.0, np.sin(half)])


def draw_layout(random: np.random.Generator) -> Layout:
    """A layout with the objects at least 110 mm from each other and 165 mm from the plate, centre to centre."""
    for _ in range(_TRIES):
        plate = random.uniform(PLATE_LOWER_M, PLATE_UPPER_M)
        objects = random.uniform(OBJECT_LOWER_M, OBJECT_UPPER_M, (len(Prop), 2))
        between = [np.linalg.norm(objects[i] - objects[j]) for i in range(len(Prop)) for j in range(i)]
        to_plate = np.linalg.norm(objects - plate, axis=1)
        if min(between) >= OBJECT_DISTANCE_M and to_plate.min() >= PLATE_DISTANCE_M:
            return Layout(objects_m=objects, yaw_rad=random.uniform(-np.pi, np.pi, len(Prop)), plate_m=plate)
    raise RuntimeError(
        f"no free layout in {_TRIES} draws: the table area or the distances between objects are too tight"
    )


def height_on_plate_m(prop: Prop) -> float:
    """Height of the object's middle over the table while it stands on the plate, metres."""
    return PLATE_TOP_M + PROP_SHAPES[prop].height_m / 2
