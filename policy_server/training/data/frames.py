"""Pictures of a data set at the policy's size: decoded on demand, or once into a cache that every process maps."""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from policy_server.pi0.images import resize_with_pad
from policy_server.pi0.views import Views
from policy_server.training.data.lerobot import DatasetError, EpisodeInfo, LeRobotTables
from policy_server.training.data.video import VideoPool

Progress = Callable[[int, int], None]

_ONE_HEADER = threading.Lock()
"""NumPy has Python parse a file's header, and Python 3.11 may raise SystemError when two threads parse at once (cpython
issue 106905)."""


class FrameSource:
    """Frames of a data set's cameras, turned if they are stored upside down, resized and padded to a square.

    With `views`, what the policy looks at is cut out before; `keys` maps a camera's feature to its image key.
    """

    def __init__(
        self,
        tables: LeRobotTables,
        *,
        size_px: int,
        half_turn: bool,
        views: Views | None = None,
        keys: Mapping[str, str] | None = None,
    ) -> None:
        self._tables = tables
        self._size_px = size_px
        self._half_turn = half_turn
        self._views = views
        self._keys = dict(keys or {})
        self._videos = VideoPool()
        self._cached: dict[str, np.ndarray] = {}
        self._cache_files: dict[str, Path] = {}

    def frames(self, camera: str, episode: EpisodeInfo, indices: Sequence[int]) -> list[np.ndarray]:
        """Pictures (S, S, 3) uint8 RGB of these frames of an episode. Raises `DatasetError` for one that can't be
        had.
        """
        if camera in self._cached:
            return [self._cached[camera][episode.first_row + index] for index in indices]
        return self._decoded(camera, episode, indices, self._videos)

    def _decoded(
        self, camera: str, episode: EpisodeInfo, indices: Sequence[int], videos: VideoPool
    ) -> list[np.ndarray]:
        if camera in episode.videos:
            span = episode.videos[camera]
            raw = videos.frames(span.path, [span.start_s + index / self._tables.fps for index in indices])
        else:
            raw = [self._from_table(camera, episode.first_row + index) for index in indices]
        return [self._prepared(camera, picture) for picture in raw]

    def cache(
        self,
        camera: str,
        folder: Path,
        *,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Decode a camera's frames into a file of `folder`, unless it is there, and read from it from now on. Several
        cameras may be decoded at once, each in a thread; one that is told to `stop` leaves nothing."""
        shape = (self._tables.frame_count, self._size_px, self._size_px, 3)
        path = folder / f"{self._digest(camera)}.npy"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            draft, videos = path.with_suffix(f".{os.getpid()}.new"), VideoPool()
            try:
                pictures = np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=shape)
                for episode in self._tables.episodes:
                    if stop is not None and stop.is_set():
                        return
                    rows = slice(episode.first_row, episode.first_row + episode.length)
                    pictures[rows] = self._decoded(camera, episode, range(episode.length), videos)
                    if progress is not None:
                        progress(rows.stop, shape[0])
                pictures.flush()
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
        with _ONE_HEADER:
            mapped = np.load(path, mmap_mode="r")
        if mapped.shape != shape:
            raise DatasetError(f"{path}: expected frames {shape}, found {mapped.shape}; remove the file")
        self._cached[camera] = mapped
        self._cache_files[camera] = path

    def __getstate__(self) -> dict[str, Any]:
        """Other processes map the cache files anew instead of getting copies of their content."""
        return {**vars(self), "_cached": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._cached = {camera: np.load(path, mmap_mode="r") for camera, path in self._cache_files.items()}

    def _prepared(self, camera: str, picture: np.ndarray) -> np.ndarray:
        upright = np.ascontiguousarray(picture[::-1, ::-1]) if self._half_turn else picture
        if self._views is None:
            return resize_with_pad(upright, side=self._size_px)
        return self._views.cut_out(upright, key=self._keys[camera], side=self._size_px)

    def _from_table(self, camera: str, row: int) -> np.ndarray:
        packed = np.frombuffer(self._tables.encoded_images(camera, row=row), dtype=np.uint8)
        picture = cv2.imdecode(packed, cv2.IMREAD_COLOR)
        if picture is None:
            raise DatasetError(f"{self._tables.root}: {camera}: the picture in row {row} is damaged")
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)

    def _digest(self, camera: str) -> str:
        stamp = {
            "info": self._tables.info,
            "root": str(self._tables.root.resolve()),
            "camera": camera,
            "size": self._size_px,
            "half_turn": self._half_turn,
            "lengths": [episode.length for episode in self._tables.episodes],
        }
        if self._views is not None:
            stamp |= {"views": self._views.to_json(), "key": self._keys[camera]}
        return hashlib.sha256(json.dumps(stamp, sort_keys=True).encode()).hexdigest()[:24]
