"""What a simulator knows of a picture, and an estimator of motion can only guess: depth, which body each pixel shows,
and where all bodies and the camera are. Exact optical flow is made of two of these.

Demonstrations leave their scenes beside the data set, ``DATASET/twin/scenes/episode-000000.npy``: one packed
`SceneState` a row. From them every camera can be drawn again, at any size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from robot.recording.dataset.layout import IMAGE_PREFIX
from robot.twin.optics import CameraName
from robot.twin.render import SceneRenderer
from robot.twin.scene_state import SceneState

SCENES_PATH = "twin/scenes/episode-{episode:06d}.npy"
_TO_CAMERA_AXES = np.diag([1.0, -1.0, -1.0, 1.0])
"""From MuJoCo's camera axes (y up, z backwards) to those of images (y down, z forwards)."""


class ScenesError(ValueError):
    """An episode without its scenes, or with those of another twin. Says what to do."""


@dataclass(frozen=True)
class Sight:
    """One camera at one moment: ``depth_m`` (H, W) along the optical axis, ``body`` (H, W) index into ``bodies`` or -1
    for the background, ``intrinsics`` (3, 3), ``camera`` (4, 4) world from camera (x right, y down, z forwards) and
    ``bodies`` (N, 4, 4) world from body."""

    depth_m: np.ndarray
    body: np.ndarray
    intrinsics: np.ndarray
    camera: np.ndarray
    bodies: np.ndarray


def write_records(path: Path, records: np.ndarray) -> None:
    """Write an episode's packed scenes, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    with draft.open("wb") as file:
        np.save(file, records, allow_pickle=False)
    draft.replace(path)


def load_scenes(dataset: Path, episode: int) -> list[SceneState]:
    """The scenes of an episode of a data set. Raises `ScenesError`."""
    path = dataset / SCENES_PATH.format(episode=episode)
    try:
        records = np.load(path, allow_pickle=False)
        return [SceneState.unpack(record) for record in records]
    except FileNotFoundError:
        raise ScenesError(
            f"{path}: no scenes of this episode, so its exact flow can't be known; make the data set with "
            "launch/demonstrations, or choose another motion.estimator"
        ) from None
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ScenesError(f"{path}: expected the scenes of an episode: {error}") from None


class TwinSights:
    """Sights of recorded scenes. Use it on one thread; close it, or use it as a context manager."""

    def __init__(self) -> None:
        self._renderer: SceneRenderer | None = None

    def of_episode(self, dataset: Path, episode: int, *, camera: str, height: int, width: int) -> Iterator[Sight]:
        """What the camera with that feature name saw in each row of an episode. Raises `ScenesError`."""
        name = next((each for each in CameraName if f"{IMAGE_PREFIX}{each.label}" == camera), None)
        if name is None:
            raise ScenesError(f"{camera}: the twin has no such camera; it has {', '.join(c.label for c in CameraName)}")
        return (self.of(state, name, height=height, width=width) for state in load_scenes(dataset, episode))

    def of(self, state: SceneState, camera: CameraName, *, height: int, width: int) -> Sight:
        """What a camera sees of a scene. Raises `ScenesError` for the scene of another twin."""
        if self._renderer is None:
            self._renderer = SceneRenderer()
        renderer = self._renderer
        try:
            depth, body = renderer.geometry(state, camera=camera, height=height, width=width)
        except ValueError as error:
            raise ScenesError(str(error)) from None
        return Sight(
            depth_m=depth.astype(np.float64),
            body=body,
            intrinsics=renderer.intrinsics(camera, height=height, width=width).matrix(),
            camera=renderer.camera_pose(state, camera) @ _TO_CAMERA_AXES,
            bodies=renderer.body_poses(state),
        )

    def close(self) -> None:
        """Frees the OpenGL context; more than once does no harm."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
