"""Parts of a data set by episode: stratified by task, nested, seeded, and written down in a manifest.

Nested: of one seed, the 25 % subset is inside the 50 % subset. Stratified: each task keeps its share, and at least
one episode.
"""

import json
import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from policy_server.training.data.lerobot import DatasetError, EpisodeInfo


@dataclass(frozen=True)
class Subset:
    """Which episodes, and how they were chosen."""

    fraction: float
    seed: int
    episodes: tuple[int, ...]
    total_episodes: int

    def save(self, path: Path) -> None:
        """Write the manifest."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def choose_subset(episodes: Sequence[EpisodeInfo], *, fraction: float, seed: int) -> Subset:
    """A `fraction` of each task's episodes, rounded up."""
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"expected a fraction in (0, 1], found {fraction}")
    chosen: list[int] = []
    for order in _shuffled_by_task(episodes, seed=seed).values():
        chosen += order[: math.ceil(fraction * len(order) - 1e-9)]
    return Subset(fraction=fraction, seed=seed, episodes=tuple(sorted(chosen)), total_episodes=len(episodes))


def split_validation(
    episodes: Sequence[EpisodeInfo], *, fraction: float, seed: int
) -> tuple[list[EpisodeInfo], list[EpisodeInfo]]:
    """Training and held-out episodes; of each task with more than one, at least one is held out unless `fraction` is
    0. Episodes of a group are never on both sides.
    """
    held: set[int] = set()
    if fraction > 0.0:
        for order in _shuffled_by_task(episodes, seed=seed + 7919).values():
            if len(order) > 1:
                held.update(order[: max(1, round(fraction * len(order)))])
    groups = {episode.group for episode in episodes if episode.index in held} - {""}
    held.update(episode.index for episode in episodes if episode.group in groups)
    training = [episode for episode in episodes if episode.index not in held]
    return training, [episode for episode in episodes if episode.index in held]


def load_subset(path: Path, episodes: Sequence[EpisodeInfo]) -> list[EpisodeInfo]:
    """The manifest's episodes out of `episodes`. Raises `DatasetError` if it is of another data set."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        wanted, total = [int(index) for index in plain["episodes"]], int(plain["total_episodes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: no episodes manifest: {error}") from None
    by_index: Mapping[int, EpisodeInfo] = {episode.index: episode for episode in episodes}
    missing = [index for index in wanted if index not in by_index]
    if missing or total != len(episodes):
        raise DatasetError(
            f"{path}: made for a data set of {total} episodes, this one has {len(episodes)}"
            + (f" and lacks episodes {missing[:5]}" if missing else "")
        )
    return [by_index[index] for index in wanted]


def _shuffled_by_task(episodes: Sequence[EpisodeInfo], *, seed: int) -> dict[str, list[int]]:
    by_task: dict[str, list[int]] = defaultdict(list)
    for episode in episodes:
        by_task[episode.tasks[0] if episode.tasks else ""].append(episode.index)
    for task, order in by_task.items():
        random.Random(f"{seed}:{task}").shuffle(order)
    return dict(sorted(by_task.items()))
