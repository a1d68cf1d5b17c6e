"""Training samples: an observation as it would come over the wire, the chunk that followed, and what moves in between.

A sample goes through the very transforms that serve the policy. Which samples make up a step is a function of the
recipe's seed and the step alone, so a run that was interrupted goes on with the batches it would have had.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from policy_server.contract import GRIPPER_POSITION_KEY, JOINT_POSITION_KEY, PROMPT_KEY
from policy_server.motion.estimators import EstimatorKind
from policy_server.pi0.pi0 import Observation
from policy_server.pi0.policy import collate
from policy_server.pi0.transforms import Group
from policy_server.training.data.arrays import ArrayKind, ArrayManifest, ArrayStore
from policy_server.training.data.frames import FrameSource, Progress
from policy_server.training.data.idle import active_frames
from policy_server.training.data.lerobot import DatasetError, EpisodeInfo, LeRobotTables
from policy_server.training.data.statistics import Windows
from policy_server.training.data.subsets import load_subset, split_validation
from policy_server.training.recipe import MotionTarget, Recipe, SourceConfig

VALIDATION_STREAM = 1_000_003
CLOSED = 0.5
"""Of the gripper's action, the last one: beyond this it closes."""


class MotionInput(StrEnum):
    """What a sample brings from which its motion target is made."""

    NONE = "none"
    PAIR = "pair"
    FUTURE = "future"
    FLOW = "flow"
    LATENTS = "latents"


@dataclass(frozen=True)
class SampleKey:
    """One sample: its source, its row there, and the seed of its random choices."""

    source: int
    row: int
    draw: int


@dataclass(frozen=True)
class TrainingBatch:
    """actions (B, H, D) float32 normalised and padded, action_valid (B, H) bool; `motion` by its kind: PAIR (B, 2, S,
    S, 3) and FUTURE (B, S, S, 3) uint8, FLOW (B, 2, S, S), LATENTS (B, C, s, s); motion_valid (B,) bool."""

    observation: Observation
    actions: Tensor
    action_valid: Tensor
    motion_input: MotionInput
    motion: Tensor | None
    motion_valid: Tensor

    def to(self, device: torch.device) -> "TrainingBatch":
        """The same batch on a device."""
        return TrainingBatch(
            self.observation.to(device),
            self.actions.to(device),
            self.action_valid.to(device),
            self.motion_input,
            None if self.motion is None else self.motion.to(device),
            self.motion_valid.to(device),
        )

    def rows(self, start: int, stop: int) -> "TrainingBatch":
        """Some of the samples."""
        seen = self.observation
        parts = (seen.images, seen.image_mask, seen.tokens, seen.token_mask, seen.state)
        return TrainingBatch(
            Observation(*(part[start:stop] for part in parts)),
            self.actions[start:stop],
            self.action_valid[start:stop],
            self.motion_input,
            None if self.motion is None else self.motion[start:stop],
            self.motion_valid[start:stop],
        )

    def __len__(self) -> int:
        return len(self.actions)


def motion_input_of(recipe: Recipe, source: SourceConfig) -> MotionInput:
    """Where a source's motion targets come from. Raises `DatasetError` when nowhere."""
    if not recipe.has_motion or not source.motion or recipe.motion.target is MotionTarget.STATIC:
        return MotionInput.NONE
    if recipe.motion.target is MotionTarget.FUTURE_IMAGE:
        return MotionInput.FUTURE
    if source.latents is not None and recipe.motion.target is not MotionTarget.LANGUAGE:
        return MotionInput.LATENTS
    if source.flow is not None:
        return MotionInput.FLOW
    if recipe.motion.estimator is EstimatorKind.SIM:
        raise DatasetError(
            f"{source.path}: motion.estimator is 'sim', but data.sources has no 'flow' folder with simulated flow"
        )
    return MotionInput.PAIR


def frame_source(recipe: Recipe, source: SourceConfig, tables: LeRobotTables, *, image_size: int) -> FrameSource:
    """A data set's frames as the recipe's policy sees them."""
    views = None if recipe.data.views is None else recipe.data.views.to_views()
    keys = {feature: key for key, features in source.cameras.items() for feature in features}
    return FrameSource(tables, size_px=image_size, half_turn=source.half_turn, views=views, keys=keys)


def view_of(recipe: Recipe, source: SourceConfig, feature: str) -> str:
    """In words, which part of a camera's pictures the policy sees; empty when all."""
    key = next(key for key, features in source.cameras.items() if feature in features)
    views = recipe.data.views
    if views is None or key not in views.cuts:
        return ""
    top, left, height, width = views.cuts[key]
    return f"{height}x{width} at {top},{left} of {views.height}x{views.width}"


class SourceReader:
    """One data set as samples."""

    def __init__(self, recipe: Recipe, source: SourceConfig, *, image_size: int) -> None:
        """Raises `DatasetError` when the data set does not have what the recipe asks for."""
        self.config = source
        self.tables = LeRobotTables(Path(source.path))
        self._recipe = recipe
        self._horizon = recipe.data.horizon
        if abs(self.tables.fps - recipe.data.fps) > 1e-6:
            raise DatasetError(
                f"{source.path}: recorded at {self.tables.fps:g} Hz, the recipe's contract is {recipe.data.fps:g} Hz; "
                "export it at that rate or change data.fps and data.horizon"
            )
        for features in source.cameras.values():
            for feature in features:
                self.tables.require(feature, kinds=("video", "image"))
        self._state_rows = torch.from_numpy(self.tables.numbers(source.state))
        self._action_rows = torch.from_numpy(self.tables.numbers(source.action))
        self._prompts = [self.tables.strings(key) for key in source.prompts]
        self._frames = frame_source(recipe, source, self.tables, image_size=image_size)
        self.motion_input = motion_input_of(recipe, source)
        self._stores = self._open_stores(image_size)
        chosen = load_subset(Path(source.episodes), self.tables.episodes) if source.episodes else self.tables.episodes
        self.training, self.validation = split_validation(
            chosen, fraction=recipe.data.validation_fraction, seed=recipe.seed
        )
        self._first_rows = np.array([episode.first_row for episode in self.tables.episodes])
        self.training_rows = self._eligible(self.training)
        self.validation_rows = self._eligible(self.validation)
        self.drawn_rows = self._focused(self.training_rows)
        self._check_prompts(chosen)

    @property
    def _state(self) -> np.ndarray:
        return self._state_rows.numpy()

    @property
    def _action(self) -> np.ndarray:
        return self._action_rows.numpy()

    def share(self) -> None:
        """Move the low-dimensional rows to shared memory, so that worker processes don't each get a copy."""
        self._state_rows.share_memory_()
        self._action_rows.share_memory_()

    def fill_cache(self, folder: Path, *, progress: Progress | None = None) -> None:
        """Decode every camera's frames once into `folder`, or use what is there."""
        cameras = sorted({feature for features in self.config.cameras.values() for feature in features})
        stop = threading.Event()
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
            cache = partial(self._frames.cache, folder=folder, progress=progress, stop=stop)
            try:
                for done in [threads.submit(cache, camera) for camera in cameras]:
                    done.result()
            finally:
                stop.set()  # after an error or Ctrl-C the other cameras need not be finished

    def windows(self) -> Windows:
        """The low-dimensional data of the training episodes, for statistics."""
        place = np.searchsorted(self._first_rows, self.training_rows, side="right") - 1
        ends = self._first_rows[place] + np.array([episode.length for episode in self.tables.episodes])[place]
        return Windows(self._state, self._action, self.training_rows, ends)

    def prompts(self) -> set[str]:
        """What the policy may be told in training."""
        if self._prompts:
            return {text for column in self._prompts for text in column.texts if text.strip()}
        return {task for episode in self.training for task in episode.tasks}

    def sample(self, row: int, *, draw: int) -> dict[str, Any]:
        """The observation at a row in wire keys, ``actions`` (H, D) float64, ``action_valid`` (H,), ``motion_valid``
        and, by `motion_input`, ``motion``."""
        random = np.random.default_rng(draw)
        episode = self._episode_of(row)
        frame = row - episode.first_row
        later = min(frame + self._horizon, episode.length - 1)
        cameras = {key: features[int(random.integers(len(features)))] for key, features in self.config.cameras.items()}
        third_person = next(iter(self.config.cameras))
        steps = frame + np.arange(self._horizon)
        actions = self._action[episode.first_row + np.minimum(steps, episode.length - 1)].astype(np.float64)
        state = self._state[row].astype(np.float64)
        sample: dict[str, Any] = {
            JOINT_POSITION_KEY: state[:-1],
            GRIPPER_POSITION_KEY: state[-1:],
            PROMPT_KEY: self._prompt(episode, row, random),
            "actions": actions,
            "action_valid": steps < episode.length,
            "motion_valid": self.config.motion and episode.length >= 2,
        }
        for key, feature in cameras.items():
            wanted = [frame]
            if key == third_person and self.motion_input in (MotionInput.PAIR, MotionInput.FUTURE):
                wanted.append(later)
            pictures = self._frames.frames(feature, episode, wanted)
            sample[key] = pictures[0]
            if len(pictures) == 2:
                sample["motion"] = np.stack(pictures) if self.motion_input is MotionInput.PAIR else pictures[1]
        shuffled = self.config.motion and self._recipe.motion.target is MotionTarget.SHUFFLED
        if shuffled:
            episode, frame = self._donor(episode, frame, random)
        if self.motion_input in (MotionInput.FLOW, MotionInput.LATENTS):
            store = self._stores[cameras[third_person]]
            sample["motion"] = store.frame(episode=episode.index, frame=frame)
        elif shuffled:
            pair = [frame, min(frame + self._horizon, episode.length - 1)]
            sample["motion"] = np.stack(self._frames.frames(cameras[third_person], episode, pair))
        return sample

    def _donor(self, episode: EpisodeInfo, frame: int, random: np.random.Generator) -> tuple[EpisodeInfo, int]:
        """Another episode at the same phase: equal computation, wrong cause."""
        others = [other for other in self.training if other.index != episode.index]
        if not others:
            return episode, frame
        donor = others[int(random.integers(len(others)))]
        return donor, min(donor.length - 1, frame * donor.length // episode.length)

    def _open_stores(self, image_size: int) -> dict[str, ArrayStore]:
        if self.motion_input not in (MotionInput.FLOW, MotionInput.LATENTS):
            return {}
        of_flow = self.motion_input is MotionInput.FLOW
        folder = Path((self.config.flow if of_flow else self.config.latents) or "")
        stores = {}
        for feature in next(iter(self.config.cameras.values())):
            expected = ArrayManifest(
                kind=ArrayKind.FLOW if of_flow else ArrayKind.LATENTS,
                camera=feature,
                horizon=self._horizon,
                size_px=image_size,
                half_turn=self.config.half_turn,
                method="",
                view=view_of(self._recipe, self.config, feature),
                episodes=len(self.tables.episodes),
                frames=self.tables.frame_count,
            )
            stores[feature] = ArrayStore(folder / feature, expected=expected)
        return stores

    def _eligible(self, episodes: Sequence[EpisodeInfo]) -> np.ndarray:
        rows = []
        for episode in episodes:
            frames = np.arange(episode.length)
            if self.config.drop_idle:
                here = slice(episode.first_row, episode.first_row + episode.length)
                frames = np.flatnonzero(active_frames(self._action[here]))
            rows.append(episode.first_row + frames)
        return np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)

    def _focused(self, rows: np.ndarray) -> np.ndarray:
        """The rows to draw from, those before the gripper closes several times."""
        focus = self._recipe.data.focus
        if focus is None:
            return rows
        near = np.zeros(len(self._action), dtype=bool)
        for episode in self.training:
            here = slice(episode.first_row, episode.first_row + episode.length)
            closed = self._action[here, -1] > CLOSED
            for before in np.flatnonzero(closed[1:] & ~closed[:-1]).tolist():
                first = max(0, before + 1 - focus.frames)
                near[episode.first_row + first : episode.first_row + before + 1] = True
        return np.concatenate([rows, np.repeat(rows[near[rows]], focus.times - 1)])

    def _episode_of(self, row: int) -> EpisodeInfo:
        return self.tables.episodes[int(np.searchsorted(self._first_rows, row, side="right")) - 1]

    def _prompt(self, episode: EpisodeInfo, row: int, random: np.random.Generator) -> str:
        choices = [text for column in self._prompts if (text := column.at(row)).strip()] or list(episode.tasks)
        return choices[int(random.integers(len(choices)))]

    def _check_prompts(self, episodes: Sequence[EpisodeInfo]) -> None:
        if not self._prompts:
            silent = [episode.index for episode in episodes if not any(task.strip() for task in episode.tasks)]
            if silent:
                raise DatasetError(
                    f"{self.config.path}: {len(silent)} episodes have no task in words, the first is {silent[0]}; "
                    "label them, or leave them out with an episodes manifest"
                )


class TrainingSamples(Dataset[dict[str, Any]]):
    """Samples of all sources through a policy's input transforms."""

    def __init__(self, readers: Sequence[SourceReader], transforms: Group) -> None:
        self._readers = readers
        self._transforms = transforms

    def share(self) -> None:
        """Prepare for worker processes."""
        for reader in self._readers:
            reader.share()

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        raw = self._readers[key.source].sample(key.row, draw=key.draw)
        kept = {name: raw[name] for name in ("action_valid", "motion_valid", "motion") if name in raw}
        return self._transforms.apply_inputs(raw) | kept


@dataclass(frozen=True)
class Schedule:
    """Which samples each step trains on: sources by weight, rows evenly, drawn from (seed, step)."""

    readers: Sequence[SourceReader]
    seed: int
    batch: int
    rank: int = 0
    world: int = 1

    def keys(self, step: int) -> list[SampleKey]:
        """This process's share of a training step's batch."""
        everything = self._draw([self.seed, step], lambda reader: reader.drawn_rows)
        share = self.batch // self.world
        return everything[self.rank * share : (self.rank + 1) * share]

    def validation_keys(self, index: int) -> list[SampleKey]:
        """A batch of held-out samples, always the same for an index. Empty when nothing is held out."""
        if not any(len(reader.validation_rows) for reader in self.readers):
            return []
        return self._draw([self.seed, VALIDATION_STREAM, index], lambda reader: reader.validation_rows)

    def _draw(self, seed: list[int], rows_of: Callable[[SourceReader], np.ndarray]) -> list[SampleKey]:
        random = np.random.default_rng(seed)
        weights = np.array([r.config.weight if len(rows_of(r)) else 0.0 for r in self.readers])
        if not weights.any():
            raise DatasetError("no frames are left to train on; loosen the subset, the idle filter or the split")
        sources = random.choice(len(self.readers), size=self.batch, p=weights / weights.sum())
        places, draws = random.random(self.batch), random.integers(2**62, size=self.batch)
        rows = [rows_of(self.readers[source]) for source in sources]
        return [
            SampleKey(source=int(s), row=int(r[int(p * len(r))]), draw=int(d))
            for s, r, p, d in zip(sources, rows, places, draws, strict=True)
        ]


def batches(
    samples: TrainingSamples, schedule: Schedule, *, first_step: int, last_step: int, workers: int
) -> Iterator[TrainingBatch]:
    """One batch for each step in [first_step, last_step), made by `workers` processes ahead of time or, with 0, on
    demand.
    """
    if workers:
        samples.share()
    loader: DataLoader[Any] = DataLoader(
        samples,
        batch_sampler=_Steps(schedule, first_step, last_step),
        num_workers=workers,
        collate_fn=assemble,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="spawn" if workers else None,  # a fork would inherit decoders' and pools' locks
    )
    yield from loader


class _Steps:
    def __init__(self, schedule: Schedule, first: int, last: int) -> None:
        self._schedule, self._range = schedule, range(first, last)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return (self._schedule.keys(step) for step in self._range)

    def __len__(self) -> int:
        return len(self._range)


def assemble(samples: Sequence[dict[str, Any]]) -> TrainingBatch:
    """Transformed samples as one batch. Those that bring motion must bring the same kind; to the others' places, which
    are not valid, come zeros."""
    known = next((s["motion"] for s in samples if "motion" in s), None)
    motion: Tensor | None = None
    if known is not None:
        motion = torch.from_numpy(np.stack([s.get("motion", np.zeros_like(known)) for s in samples]))
    return TrainingBatch(
        observation=collate(samples),
        actions=torch.from_numpy(np.stack([s["actions"] for s in samples])).float(),
        action_valid=torch.from_numpy(np.stack([s["action_valid"] for s in samples])),
        motion_input=_kind_of(motion),
        motion=motion,
        motion_valid=torch.tensor([bool(s["motion_valid"]) for s in samples]),
    )


def _kind_of(motion: Tensor | None) -> MotionInput:
    if motion is None:
        return MotionInput.NONE
    if motion.dtype == torch.uint8:
        return MotionInput.PAIR if motion.ndim == 5 else MotionInput.FUTURE
    return MotionInput.FLOW if motion.shape[1] == 2 else MotionInput.LATENTS
