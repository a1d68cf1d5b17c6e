"""Exact flow of simulated episodes, as the policy sees it: a target without an estimator's noise."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from policy_server.motion.exact import rigid_flow
from policy_server.pi0.views import Views
from policy_server.training.data.lerobot import EpisodeInfo, LeRobotTables


class Sight(Protocol):
    """One camera at one moment; see `policy_server.motion.exact.rigid_flow` for what the arrays are."""

    @property
    def depth_m(self) -> np.ndarray: ...
    @property
    def body(self) -> np.ndarray: ...
    @property
    def intrinsics(self) -> np.ndarray: ...
    @property
    def camera(self) -> np.ndarray: ...
    @property
    def bodies(self) -> np.ndarray: ...


class Sights(Protocol):
    """A simulator that can draw the episodes of a data set again; the twin's are `robot.twin.sights.TwinSights`."""

    def of_episode(self, dataset: Path, episode: int, *, camera: str, height: int, width: int) -> Iterable[Sight]:
        """What a camera (by feature name) saw in each row. Raises ValueError when that is not known."""
        ...


@dataclass(frozen=True)
class SimulatedFlow:
    """Flow of a data set's camera in pictures of `side` px, cut as `views` cuts the pictures of `key`."""

    sights: Sights
    tables: LeRobotTables
    camera: str
    key: str
    views: Views | None
    side: int

    @property
    def identity(self) -> str:
        """Names the method."""
        return "simulated"

    def episode(self, episode: EpisodeInfo, *, horizon: int) -> list[np.ndarray]:
        """Flow (2, side, side) of each frame t to frame min(t + horizon, last)."""
        height, width, _ = self.tables.info["features"][self.camera]["shape"]
        if self.views is not None:
            height, width = self.views.height, self.views.width
        seen = list(
            self.sights.of_episode(self.tables.root, episode.index, camera=self.camera, height=height, width=width)
        )
        if len(seen) != episode.length:
            raise ValueError(f"episode {episode.index} has {episode.length} frames, but {len(seen)} simulated scenes")
        return [self._seen(sight, seen[min(t + horizon, len(seen) - 1)]) for t, sight in enumerate(seen)]

    def _seen(self, before: Sight, after: Sight) -> np.ndarray:
        depth_m, body, intrinsics = before.depth_m, before.body, before.intrinsics
        cut = None if self.views is None else self.views.cuts.get(self.key)
        if cut is not None:
            part = slice(cut.top, cut.top + cut.height), slice(cut.left, cut.left + cut.width)
            depth_m, body = depth_m[part], body[part]
            intrinsics = intrinsics - np.array([[0.0, 0.0, cut.left], [0.0, 0.0, cut.top], [0.0, 0.0, 0.0]])
        flow = rigid_flow(
            depth_m=depth_m,
            body=body,
            intrinsics=intrinsics,
            camera_before=before.camera,
            camera_after=after.camera,
            bodies_before=before.bodies,
            bodies_after=after.bodies,
        )
        return fit_flow(flow, side=self.side)


def fit_flow(flow: np.ndarray, *, side: int) -> np.ndarray:
    """Flow (2, H, W) of a picture that is brought to a square as `policy_server.pi0.images.fit` does it: (2, side,
    side) float32. Lengths shrink with the picture; nothing moves in the bars beside it."""
    rows, columns = flow.shape[1:]
    ratio = max(columns, rows) / side
    height, width = max(1, int(rows / ratio)), max(1, int(columns / ratio))
    fitted = np.zeros((2, side, side), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    for axis, scale in enumerate((width / columns, height / rows)):
        channel = np.ascontiguousarray(flow[axis], dtype=np.float32)
        resized = cv2.resize(channel, (width, height), interpolation=cv2.INTER_AREA)
        fitted[axis, top : top + height, left : left + width] = resized * scale
    return fitted
