"""Recordings that can stand for a camera: a video file, a folder of pictures, or a recorded episode.

Each yields its pictures with their times from the beginning, and tells what camera it is. Where nobody knows the
intrinsics they are all zero, which is how ROS and Foxglove mark an uncalibrated camera; a file beside the recording
(``intrinsics.json`` in a folder, ``NAME.json`` beside ``NAME.mp4``) gives them as fx, fy, cx, cy, width and height.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import av
import cv2
import numpy as np

from configs.schema import CameraConfig
from robot.cameras.backend import CameraAbsentError, CameraError
from robot.cameras.frame import CameraInfo, Intrinsics
from robot.clock import NS_PER_S
from robot.recording.episode import Episode, EpisodeError
from robot.recording.meta import META_NAME, MetaError

BACKEND = "replay"
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})


@dataclass(frozen=True)
class Picture:
    """When a picture is due, ns from the beginning, and how to get it: (H, W, 3) uint8 RGB."""

    offset_ns: int
    load: Callable[[], np.ndarray]


class Recording(Protocol):
    """One of the sources. Reading errors are `CameraError`."""

    info: CameraInfo

    def pictures(self) -> Iterator[Picture]:
        """All pictures, in order, from the beginning each time it is called."""
        ...


def open_recording(path: Path, *, name: str, config: CameraConfig) -> Recording:
    """The recording at ``path`` as camera ``name``. Raises `CameraError`."""
    if not path.exists():
        raise CameraAbsentError(
            f"camera {name}: expected a recording at {path}, there is nothing. Correct 'source' in the rig's file."
        )
    if (path / META_NAME).exists():
        return EpisodeRecording(path, name=name)
    if path.is_dir():
        return FolderRecording(path, name=name, config=config)
    if path.suffix.lower() in (".svo", ".svo2"):
        raise CameraError(
            f"camera {name}: {path} can be read with the ZED SDK only. Export it to MP4 or to pictures with the SDK's "
            "svo_export sample first."
        )
    return VideoRecording(path, name=name, config=config)


class EpisodeRecording:
    """One camera of a recorded episode, with the serial number, intrinsics and times that were recorded."""

    def __init__(self, folder: Path, *, name: str) -> None:
        try:
            self._episode = Episode(folder)
            self._times = self._episode.frame_times(name)
            info = self._episode.camera_info(name)
        except (EpisodeError, MetaError) as error:
            raise CameraError(f"camera {name}: {error}") from None
        if not len(self._times):
            raise CameraError(f"camera {name}: episode {self._episode.id} holds no pictures of this camera")
        self._name = name
        self.info = replace(info, name=name, backend=BACKEND)

    def pictures(self) -> Iterator[Picture]:
        start_ns = int(self._times.capture_ns[0])
        for index, capture_ns in enumerate(self._times.capture_ns):
            yield Picture(int(capture_ns) - start_ns, partial(self._load, index))

    def _load(self, index: int) -> np.ndarray:
        try:
            return self._episode.image(self._name, index)
        except EpisodeError as error:
            raise CameraError(f"camera {self._name}: {error}") from None


class FolderRecording:
    """Pictures of a folder in the order of the numbers in their names, at the rate of the rig's file."""

    def __init__(self, folder: Path, *, name: str, config: CameraConfig) -> None:
        self._paths = sorted((path for path in folder.iterdir() if path.suffix.lower() in _PICTURES), key=_natural)
        if not self._paths:
            raise CameraError(
                f"camera {name}: expected pictures ({', '.join(sorted(_PICTURES))}) or a recorded episode in {folder}, "
                "found neither"
            )
        self._name = name
        self._fps = config.fps
        height, width = self._load(self._paths[0]).shape[:2]
        lens = _intrinsics(folder / "intrinsics.json", width=width, height=height)
        self.info = CameraInfo(name, BACKEND, config.serial, float(config.fps), lens)

    def pictures(self) -> Iterator[Picture]:
        for index, path in enumerate(self._paths):
            yield Picture(round(index * NS_PER_S / self._fps), partial(self._load, path))

    def _load(self, path: Path) -> np.ndarray:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise CameraError(f"camera {self._name}: {path} is no picture that can be read")
        return image


class VideoRecording:
    """A video file, at the times in it. Its rate is told as the nearest whole one (29.97 is 30)."""

    def __init__(self, path: Path, *, name: str, config: CameraConfig) -> None:
        self._path = path
        self._name = name
        try:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                rate, width, height = stream.average_rate, stream.width, stream.height
        except (OSError, IndexError, av.FFmpegError) as error:
            raise CameraError(f"camera {name}: {path} is no video that can be read ({error})") from None
        if not rate:
            raise CameraError(f"camera {name}: {path} does not tell its frame rate")
        lens = _intrinsics(path.with_suffix(".json"), width=width, height=height)
        self.info = CameraInfo(name, BACKEND, config.serial, float(round(rate)), lens)

    def pictures(self) -> Iterator[Picture]:
        first_s: float | None = None
        try:
            with av.open(str(self._path)) as container:
                for frame in container.decode(video=0):
                    time_s = float(frame.time or 0.0)
                    first_s = time_s if first_s is None else first_s
                    yield Picture(round((time_s - first_s) * NS_PER_S), partial(frame.to_ndarray, format="rgb24"))
        except av.FFmpegError as error:
            raise CameraError(f"camera {self._name}: {self._path} can't be read further ({error})") from None


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts frame2 before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _intrinsics(path: Path, *, width: int, height: int) -> Intrinsics:
    if not path.exists():
        return Intrinsics(0.0, 0.0, 0.0, 0.0, width, height)
    try:
        lens = Intrinsics(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CameraError(f"{path}: expected fx, fy, cx, cy, width and height as a JSON object ({error})") from None
    if (lens.width, lens.height) != (width, height):
        raise CameraError(f"{path}: expected intrinsics of {width}x{height} pictures, found {lens.width}x{lens.height}")
    return lens
