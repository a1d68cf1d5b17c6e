"""A dataset folder: opened or begun, checked against what is to be added, and extended one episode at a time.

The files of an episode are committed in the order videos, data, episodes, tasks and statistics, info; each is written
beside its place and renamed. What info.json counts is the dataset; whatever lies beyond after a crash is overwritten
next.
"""

import fcntl
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from configs.report import write_json
from robot.recording.dataset import layout as form
from robot.recording.dataset.card import CardFacts, card
from robot.recording.dataset.errors import DatasetError
from robot.recording.dataset.layout import ActionChoice, PictureSize, VideoCodec
from robot.recording.dataset.statistics import PictureHistogram, column_statistics
from robot.recording.dataset.tables import (
    column,
    data_table,
    read_json,
    read_table,
    read_tasks,
    row_table,
    tasks_table,
    write_table,
)
from robot.recording.meta import sync_folder

_LOCK_NAME = ".export.lock"
_NOVA_FORMAT, _NOVA_VERSION = "nova-pi-dataset", 1


@dataclass(frozen=True)
class DatasetSpec:
    """What all episodes of a dataset have in common; ``rig`` and ``cameras`` describe, the rest must match."""

    rig_name: str
    action: ActionChoice
    codec: VideoCodec
    sizes: Mapping[str, PictureSize]
    rig: Mapping[str, Any]
    cameras: Mapping[str, Mapping[str, Any]]
    license: str
    software: str

    def to_json(self) -> dict[str, Any]:
        """The content of ``meta/nova.json``."""
        return {
            "format": _NOVA_FORMAT,
            "version": _NOVA_VERSION,
            "rig_name": self.rig_name,
            "action": self.action.value,
            "codec": self.codec.value,
            "license": self.license,
            "software": self.software,
            "cameras": dict(self.cameras),
            "rig": dict(self.rig),
        }


@dataclass
class _Counted:
    """What statistics are made of: every committed column by episode, and picture histograms by camera."""

    columns: dict[str, list[np.ndarray]] = field(default_factory=dict)
    histograms: dict[str, PictureHistogram] = field(default_factory=dict)

    def add(self, columns: Mapping[str, np.ndarray], histograms: Mapping[str, PictureHistogram]) -> None:
        for name, values in columns.items():
            self.columns.setdefault(name, []).append(values)
        for key, histogram in histograms.items():
            self.histograms[key] = PictureHistogram.total([self.histograms.get(key, PictureHistogram()), histogram])

    def statistics(self) -> dict[str, Any]:
        found = {name: column_statistics(np.concatenate(values)) for name, values in self.columns.items()}
        return {**found, **{key: histogram.statistics() for key, histogram in self.histograms.items()}}


class Dataset:
    """A dataset that this process may extend; a context manager that holds its lock.

    Raises `DatasetError` if the folder is of another rig, rate, action, codec or picture size, is no dataset, is
    damaged, or is being extended by another process.
    """

    def __init__(self, root: Path, spec: DatasetSpec) -> None:
        self.root = root
        self.spec = spec
        self.sources: set[str] = set()
        """Ids of the raw episodes that it holds."""
        self.episodes = 0
        self.frames = 0
        self._tasks: list[str] = []
        self._task_counts: Counter[str] = Counter()
        self._counted = _Counted()
        self._features = form.all_features(spec.action, cameras=spec.sizes, codec=spec.codec)
        self._stack = ExitStack()
        existed = root.exists() and any(path.name != _LOCK_NAME for path in root.iterdir())
        root.mkdir(parents=True, exist_ok=True)
        self._lock()
        try:
            if (root / form.INFO_PATH).exists():
                self._open()
            elif existed and not (root / form.NOVA_PATH).exists():
                raise DatasetError(
                    f"{root} is neither empty nor a LeRobot dataset: expected a new or an exported folder"
                )
            else:
                write_json(root / form.NOVA_PATH, spec.to_json())
        except BaseException:
            self._stack.close()
            raise

    def video_files(self) -> dict[str, Path]:
        """Where the videos of the next episode go, by camera."""
        return {
            camera: form.video_file(self.root, f"{form.IMAGE_PREFIX}{camera}", self.episodes)
            for camera in self.spec.sizes
        }

    def commit(
        self,
        columns: Mapping[str, np.ndarray],
        *,
        task: str,
        histograms: Mapping[str, PictureHistogram],
        source: Mapping[str, str],
    ) -> None:
        """Add an episode whose videos are in place: its ``columns`` (state, action, capture times), task and
        histograms.

        ``source`` becomes the columns ``nova/...`` of the episode; its ``source_id`` keeps it from being added twice.
        """
        episode, start = self.episodes, self.frames
        length = len(columns[form.STATE_KEY])
        if task not in self._tasks:
            self._tasks.append(task)
        own: dict[str, np.ndarray] = {
            "timestamp": (np.arange(length) / form.FPS).astype(np.float32),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, episode),
            "index": start + np.arange(length),
            "task_index": np.full(length, self._tasks.index(task)),
        }
        rows = {**columns, **own}
        by_key = {f"{form.IMAGE_PREFIX}{camera}": histogram for camera, histogram in histograms.items()}
        write_table(form.data_file(self.root, episode), data_table(rows, features=self._features))
        row = _episode_row(episode, start=start, length=length, task=task, rows=rows, histograms=by_key, source=source)
        write_table(form.episode_file(self.root, episode), row_table(row))
        self._counted.add(rows, by_key)
        self.sources.add(source["source_id"])
        self._task_counts[task] += 1
        self.episodes, self.frames = episode + 1, start + length
        write_table(self.root / form.TASKS_PATH, tasks_table(self._tasks))
        write_json(self.root / form.STATS_PATH, self._counted.statistics())
        self._write_card()
        write_json(self.root / form.INFO_PATH, self._info())
        sync_folder(self.root / "meta")

    def _lock(self) -> None:
        file = self._stack.enter_context((self.root / _LOCK_NAME).open("a"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._stack.close()
            raise DatasetError(f"{self.root} is being written by another export: wait for it") from None

    def _open(self) -> None:
        info = read_json(self.root / form.INFO_PATH)
        nova = read_json(self.root / form.NOVA_PATH) if (self.root / form.NOVA_PATH).exists() else {}
        for what, found, expected in (
            ("format", info.get("codebase_version"), form.CODEBASE_VERSION),
            ("rate", info.get("fps"), form.FPS),
            ("rig", nova.get("rig_name"), self.spec.rig_name),
            ("action", nova.get("action"), self.spec.action.value),
            ("codec", nova.get("codec"), self.spec.codec.value),
            ("features", info.get("features"), self._features),
        ):
            if found != expected:
                raise DatasetError(
                    f"{self.root} has another {what}: it has {_shown(found)}, these episodes have {_shown(expected)}. "
                    "Export to another folder."
                )
        self._tasks = read_tasks(self.root / form.TASKS_PATH)
        self.episodes, self.frames = int(info["total_episodes"]), int(info["total_frames"])
        columns = [name for name, feature in self._features.items() if feature["dtype"] != "video"]
        for episode in range(self.episodes):
            row = read_table(form.episode_file(self.root, episode)).to_pylist()[0]
            table = read_table(form.data_file(self.root, episode))
            if table.num_rows != row["length"] or form.SOURCE_COLUMN not in row:
                raise DatasetError(f"{self.root}: episode {episode} is damaged or was not written by this tool")
            histograms = {
                f"{form.IMAGE_PREFIX}{camera}": PictureHistogram(
                    np.array(row[f"{form.HISTOGRAM_PREFIX}{camera}"], np.int64).reshape(3, -1), pictures=row["length"]
                )
                for camera in self.spec.sizes
            }
            self._counted.add({name: column(table, name) for name in columns}, histograms)
            self.sources.add(row[form.SOURCE_COLUMN])
            self._task_counts.update(row["tasks"])

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": form.CODEBASE_VERSION,
            "robot_type": form.ROBOT_TYPE,
            "total_episodes": self.episodes,
            "total_frames": self.frames,
            "total_tasks": len(self._tasks),
            "chunks_size": form.CHUNK_SIZE,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": form.FPS,
            "splits": {"train": f"0:{self.episodes}"},
            "data_path": form.DATA_PATH,
            "video_path": form.VIDEO_PATH,
            "features": self._features,
        }

    def _write_card(self) -> None:
        facts = CardFacts(
            rig=self.spec.rig_name,
            action=self.spec.action,
            license=self.spec.license,
            tasks=self._tasks,
            episodes_by_task=[self._task_counts[task] for task in self._tasks],
            frames=self.frames,
            cameras={
                name: {**camera["intrinsics"], "backend": camera["backend"]}
                for name, camera in self.spec.cameras.items()
            },
            software=self.spec.software,
        )
        draft = self.root / ".README.md.new"
        draft.write_text(card(facts), encoding="utf-8")
        draft.replace(self.root / "README.md")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _episode_row(
    episode: int,
    *,
    start: int,
    length: int,
    task: str,
    rows: Mapping[str, np.ndarray],
    histograms: Mapping[str, PictureHistogram],
    source: Mapping[str, str],
) -> dict[str, Any]:
    """The row of ``meta/episodes``: where the episode is, its statistics, and where it comes from."""
    place = form.chunk_and_file(episode)
    row: dict[str, Any] = {
        "episode_index": episode,
        "tasks": [task],
        "length": length,
        **{f"data/{name}": value for name, value in place.items()},
        "dataset_from_index": start,
        "dataset_to_index": start + length,
    }
    for key in histograms:
        row |= {f"videos/{key}/{name}": value for name, value in place.items()}
        row |= {f"videos/{key}/from_timestamp": 0.0, f"videos/{key}/to_timestamp": length / form.FPS}
    statistics = {name: column_statistics(values) for name, values in rows.items()}
    statistics |= {key: histogram.statistics() for key, histogram in histograms.items()}
    for name, found in statistics.items():
        row |= {f"stats/{name}/{statistic}": found[statistic] for statistic in form.STATISTICS}
    row |= {f"meta/episodes/{name}": value for name, value in place.items()}
    row |= {f"nova/{name}": value for name, value in source.items()}
    for key, histogram in histograms.items():
        row[form.HISTOGRAM_PREFIX + key.removeprefix(form.IMAGE_PREFIX)] = histogram.counts.ravel().tolist()
    return row


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {feature.get('dtype')}{feature.get('shape')}" for name, feature in value.items())
    return repr(value)
