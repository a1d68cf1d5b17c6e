"""Flow, or latents, of whole data sets ahead of training: episode by episode, resumable, in the format of
`data.arrays`.

Each frame of an episode is read once and its RAFT features are shared by the two pairs that it is in. An episode's file
appears complete, so a run that was interrupted goes on with the next one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from policy_server.motion.estimators import FlowEstimator
from policy_server.motion.flow_image import FlowEncoding
from policy_server.motion.vae import FlowVae
from policy_server.training.data.arrays import ArrayKind, ArrayManifest, is_written, write_episode
from policy_server.training.data.frames import FrameSource
from policy_server.training.data.lerobot import DatasetError, EpisodeInfo, LeRobotTables
from policy_server.training.simulated_flow import SimulatedFlow

PIECE = 64
"""Pairs estimated at a time, so that a long episode does not fill the memory."""


@dataclass(frozen=True)
class PrecomputeResult:
    """How many episodes were done now and before, and pairs of frames a second."""

    episodes: int
    already_done: int
    pairs_per_s: float


@dataclass(frozen=True)
class PrecomputeJob:
    """What to make of a data set's camera, and where to put it. With `vae` and `encoding`, latents; else flow.

    `source` gives the frames as the policy sees them, and `view` says so in words; without, it sees whole pictures.
    """

    tables: LeRobotTables
    camera: str
    folder: Path
    horizon: int
    size_px: int
    half_turn: bool
    estimator: FlowEstimator | SimulatedFlow
    source: FrameSource | None = None
    view: str = ""
    vae: FlowVae | None = None
    encoding: FlowEncoding | None = None
    episodes: Sequence[EpisodeInfo] | None = None

    @property
    def wanted(self) -> Sequence[EpisodeInfo]:
        """The episodes to do: all of the data set, or those of a subset."""
        return self.tables.episodes if self.episodes is None else self.episodes

    @property
    def manifest(self) -> ArrayManifest:
        """What the folder's manifest will say."""
        method = self.estimator.identity
        if self.vae is not None and self.encoding is not None:
            method = f"{method}; {self.encoding.kind} {self.encoding.norm_px:g} px; {self.vae.identity}"
        return ArrayManifest(
            kind=ArrayKind.FLOW if self.vae is None else ArrayKind.LATENTS,
            camera=self.camera,
            horizon=self.horizon,
            size_px=self.size_px,
            half_turn=self.half_turn,
            method=method,
            episodes=len(self.tables.episodes),
            frames=self.tables.frame_count,
            view=self.view,
        )

    def open_folder(self) -> Path:
        """The camera's folder with its manifest. Raises `DatasetError` when another job's arrays are in it."""
        place = self.folder / self.camera
        if (place / "manifest.json").is_file():
            found = ArrayManifest.load(place)
            found.check(self.manifest, place)
            if found.method != self.manifest.method:
                raise DatasetError(
                    f"{place}: holds arrays made by {found.method}, not {self.manifest.method}; give another"
                )
        else:
            self.manifest.save(place)
        return place

    def frame_source(self) -> FrameSource:
        """Where pictures come from."""
        return self.source or FrameSource(self.tables, size_px=self.size_px, half_turn=self.half_turn)

    def episode(self, episode: EpisodeInfo, frames: FrameSource) -> list[np.ndarray]:
        """The arrays of an episode: frame t is matched with frame min(t + horizon, last)."""
        if isinstance(self.estimator, SimulatedFlow):
            return self._simulated(self.estimator, episode)
        pictures = torch.from_numpy(np.stack(frames.frames(self.camera, episode, range(episode.length))))
        pictures = pictures.permute(0, 3, 1, 2)
        first = torch.arange(episode.length)
        pairs = torch.stack([first, (first + self.horizon).clamp(max=episode.length - 1)], dim=1)
        arrays: list[np.ndarray] = []
        for piece in pairs.split(PIECE):
            flow = self.estimator.flows(pictures, piece)
            arrays.extend(self._kept(flow).cpu().numpy())
        return arrays

    def _simulated(self, simulation: SimulatedFlow, episode: EpisodeInfo) -> list[np.ndarray]:
        try:
            flows = torch.from_numpy(np.stack(simulation.episode(episode, horizon=self.horizon)))
        except ValueError as error:
            raise DatasetError(f"{self.tables.root}: {error}") from None
        return [array for piece in flows.split(PIECE) for array in self._kept(piece).cpu().numpy()]

    def _kept(self, flow: Tensor) -> Tensor:
        if self.vae is None or self.encoding is None:
            return flow
        return self.vae.encode(self.encoding.encode(flow))


def precompute(
    job: PrecomputeJob,
    *,
    share: tuple[int, int] = (0, 1),
    report: Callable[[int, int], None] | None = None,
    clock: Callable[[], float],
) -> PrecomputeResult:
    """Do every `share[1]`-th episode, starting with number `share[0]`, that is not done yet.

    Several processes or machines with different shares can work on one folder. `clock` gives seconds.
    """
    place = job.open_folder()
    frames = job.frame_source()
    mine = job.wanted[share[0] :: share[1]]
    todo = [episode for episode in mine if not is_written(place, episode=episode.index)]
    started_s, pairs = clock(), 0
    for number, episode in enumerate(todo, start=1):
        write_episode(place, episode=episode.index, arrays=job.episode(episode, frames))
        pairs += episode.length
        if report is not None:
            report(number, len(todo))
    elapsed_s = max(clock() - started_s, 1e-9)
    return PrecomputeResult(episodes=len(todo), already_done=len(mine) - len(todo), pairs_per_s=pairs / elapsed_s)
