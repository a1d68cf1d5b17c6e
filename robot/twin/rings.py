"""The twin's shared-memory rings: the scene for the renderer, with the faults of its cameras, and where frames go."""

from dataclasses import dataclass
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
    UNPLUGGED = 1
    """The device is gone: its ring is closed, and made anew when it comes back."""
    FROZEN = 2
    """Frames go on, but always show the same picture."""
    BLACK = 3
    LATE = 4
    """Frames come later than the camera's latency says."""
    SWAPPED = 5
    """The device is the other camera: its serial number, its picture."""
    SLOW = 6
    """The device is on a slow port and gives half the rate."""
    AUTO_EXPOSURE = 7
    """Exposure is no longer what was set: longer and brighter."""


@dataclass(frozen=True)
class CameraTrouble:
    """A fault and, for `CameraFault.LATE`, by how much."""

    fault: CameraFault = CameraFault.NONE
    delay_s: float = 0.0


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
    """Record of the ring: a packed `SceneState` as bytes, and a `CameraTrouble` for each camera."""
    cameras = len(CameraName)
    return np.dtype(
        [
            ("packed", "u1", (scene_state_dtype(scene).itemsize,)),
            ("faults", "u1", (cameras,)),
            ("delays_s", "<f8", (cameras,)),
        ]
    )


def pack(state: SceneState, *, troubles: dict[CameraName, CameraTrouble], dtype: np.dtype) -> np.ndarray:
    """One record (0-d array of ``dtype``)."""
    record = np.zeros((), dtype)
    record["packed"] = np.frombuffer(state.pack().tobytes(), np.uint8)
    for camera, trouble in troubles.items():
        record["faults"][int(camera)] = int(trouble.fault)
        record["delays_s"][int(camera)] = trouble.delay_s
    return record


def unpack(record: np.void, *, scene: Scene) -> tuple[SceneState, dict[CameraName, CameraTrouble]]:
    """Inverse of `pack`."""
    packed = np.frombuffer(record["packed"].tobytes(), scene_state_dtype(scene))[0]
    troubles = {
        camera: CameraTrouble(CameraFault(int(record["faults"][int(camera)])), float(record["delays_s"][int(camera)]))
        for camera in CameraName
    }
    return SceneState.unpack(packed), troubles
