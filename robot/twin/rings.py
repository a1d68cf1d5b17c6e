"""The twin's shared-memory rings: the scene for the renderer, with the faults of its cameras, and where frames go."""

from enum import IntEnum

import numpy as np

from configs.schema import CameraConfig, RigConfig
from robot.runtime import ring_name
from robot.twin.optics import CameraName
from robot.twin.scene import Scene
from robot.twin.scene_state import SceneState, scene_state_dtype

SCENE_SLOTS = 64


class CameraFault(IntEnum):
    """How a simulated camera misbehaves."""

    NONE = 0
    STOPPED = 1
    """No more frames come."""
    FROZEN = 2
    """Frames go on, but always show the same picture."""


def scene_ring_name(rig: RigConfig) -> str:
    """Where the physics process publishes the scene after each slice."""
    return ring_name(rig.name, "twin.scene")


def camera_ring_name(rig: RigConfig, camera: CameraName) -> str:
    """Where the frames of a simulated camera are."""
    return ring_name(rig.name, f"twin.camera.{camera.label}")


def simulated_cameras(rig: RigConfig) -> dict[CameraName, CameraConfig]:
    """The cameras of the rig that the twin draws."""
    configured = {CameraName.from_label(name): config for name, config in rig.cameras.items()}
    return {camera: config for camera, config in configured.items() if config.backend == "twin"}


def scene_record_dtype(scene: Scene) -> np.dtype:
    """Record of the ring: a packed `SceneState` as bytes, and a `CameraFault` for each camera."""
    return np.dtype([("packed", "u1", (scene_state_dtype(scene).itemsize,)), ("faults", "u1", (len(CameraName),))])


def pack(state: SceneState, *, faults: dict[CameraName, CameraFault], dtype: np.dtype) -> np.ndarray:
    """One record (0-d array of ``dtype``)."""
    record = np.zeros((), dtype)
    record["packed"] = np.frombuffer(state.pack().tobytes(), np.uint8)
    for camera, fault in faults.items():
        record["faults"][int(camera)] = int(fault)
    return record


def unpack(record: np.void, *, scene: Scene) -> tuple[SceneState, dict[CameraName, CameraFault]]:
    """Inverse of `pack`."""
    packed = np.frombuffer(record["packed"].tobytes(), scene_state_dtype(scene))[0]
    return SceneState.unpack(packed), {camera: CameraFault(int(record["faults"][int(camera)])) for camera in CameraName}
