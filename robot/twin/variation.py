"""How one episode looks different from the next: light, colours, where the cameras are. Physics is untouched."""

from dataclasses import dataclass

import mujoco
import numpy as np

from robot.twin.optics import CameraName

MATERIALS = ("wood", "cup", "can", "tape", "plate", "wall")
"""Materials whose colour varies."""

VARIATION_DTYPE = np.dtype(
    [
        ("light_turn_rad", "<f8", (2,)),
        ("light_gain", "<f8"),
        ("ambient_gain", "<f8"),
        ("colour_gain", "<f8", (len(MATERIALS), 3)),
        ("camera_shift_m", "<f8", (len(CameraName), 3)),
        ("camera_turn_rad", "<f8", (len(CameraName), 3)),
    ]
)


@dataclass(frozen=True)
class VariationRange:
    """Half widths of what is drawn: radians, metres, and shares of the plain value."""

    light_turn_rad: float = 0.35
    light_gain: float = 0.25
    ambient_gain: float = 0.20
    colour_gain: float = 0.12
    camera_shift_m: float = 0.006
    camera_turn_rad: float = 0.010


@dataclass(frozen=True)
class Variation:
    """Offsets from the plain scene.

    ``light_turn_rad`` (2,) turns the key light about world x and y; the gains multiply; ``colour_gain`` (6, 3) in the
    order of `MATERIALS`; ``camera_shift_m`` and ``camera_turn_rad`` (2, 3) in `CameraName` order, in each camera's own
    frame.
    """

    light_turn_rad: np.ndarray
    light_gain: float
    ambient_gain: float
    colour_gain: np.ndarray
    camera_shift_m: np.ndarray
    camera_turn_rad: np.ndarray

    def pack(self) -> np.void:
        """As a record of `VARIATION_DTYPE`."""
        record = np.zeros(1, VARIATION_DTYPE)[0]
        for name in VARIATION_DTYPE.names or ():
            record[name] = getattr(self, name)
        return record

    @classmethod
    def unpack(cls, record: np.void) -> "Variation":
        """Inverse of `pack`."""
        return cls(
            light_turn_rad=np.array(record["light_turn_rad"]),
            light_gain=float(record["light_gain"]),
            ambient_gain=float(record["ambient_gain"]),
            colour_gain=np.array(record["colour_gain"]),
            camera_shift_m=np.array(record["camera_shift_m"]),
            camera_turn_rad=np.array(record["camera_turn_rad"]),
        )


def plain() -> Variation:
    """The scene as it was built."""
    return Variation(
        light_turn_rad=np.zeros(2),
        light_gain=1.0,
        ambient_gain=1.0,
        colour_gain=np.ones((len(MATERIALS), 3)),
        camera_shift_m=np.zeros((len(CameraName), 3)),
        camera_turn_rad=np.zeros((len(CameraName), 3)),
    )


def draw_variation(random: np.random.Generator, *, within: VariationRange | None = None) -> Variation:
    """A variation drawn evenly from the ranges."""
    within = within or VariationRange()
    cameras = (len(CameraName), 3)
    return Variation(
        light_turn_rad=random.uniform(-within.light_turn_rad, within.light_turn_rad, 2),
        light_gain=1.0 + random.uniform(-within.light_gain, within.light_gain),
        ambient_gain=1.0 + random.uniform(-within.ambient_gain, within.ambient_gain),
        colour_gain=1.0 + random.uniform(-within.colour_gain, within.colour_gain, (len(MATERIALS), 3)),
        camera_shift_m=random.uniform(-within.camera_shift_m, within.camera_shift_m, cameras),
        camera_turn_rad=random.uniform(-within.camera_turn_rad, within.camera_turn_rad, cameras),
    )


class VariationApplier:
    """Puts variations into a model that is used for drawing, always starting from the model as it was built."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._key = model.light("key").id
        self._materials = [model.material(name).id for name in MATERIALS]
        self._cameras = [model.camera(camera.label).id for camera in CameraName]
        self._light_dir = model.light_dir.copy()
        self._light_diffuse = model.light_diffuse.copy()
        self._ambient = np.array(model.vis.headlight.ambient)
        self._rgba = model.mat_rgba.copy()
        self._cam_pos = model.cam_pos.copy()
        self._cam_quat = model.cam_quat.copy()

    def apply(self, variation: Variation) -> None:
        """Makes the model look like ``variation``; takes effect with the next mj_kinematics and mjv_updateScene."""
        model = self._model
        turn = _rotation_vector_quaternion(np.array([*variation.light_turn_rad, 0.0]))
        mujoco.mju_rotVecQuat(model.light_dir[self._key], self._light_dir[self._key], turn)
        model.light_diffuse[self._key] = self._light_diffuse[self._key] * variation.light_gain
        model.vis.headlight.ambient = self._ambient * variation.ambient_gain
        for index, material in enumerate(self._materials):
            model.mat_rgba[material, :3] = np.clip(self._rgba[material, :3] * variation.colour_gain[index], 0.0, 1.0)
        for index, camera in enumerate(self._cameras):
            shift = np.zeros(3)
            mujoco.mju_rotVecQuat(shift, variation.camera_shift_m[index], self._cam_quat[camera])
            model.cam_pos[camera] = self._cam_pos[camera] + shift
            turned = np.zeros(4)
            mujoco.mju_mulQuat(
                turned, self._cam_quat[camera], _rotation_vector_quaternion(variation.camera_turn_rad[index])
            )
            model.cam_quat[camera] = turned


def _rotation_vector_quaternion(vector: np.ndarray) -> np.ndarray:
    quaternion = np.zeros(4)
    angle = float(np.linalg.norm(vector))
    axis = vector / angle if angle > 0.0 else np.array([1.0, 0.0, 0.0])
    mujoco.mju_axisAngle2Quat(quaternion, axis, angle)
    return quaternion
