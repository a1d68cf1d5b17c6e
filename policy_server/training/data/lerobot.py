"""The tables of a LeRobot v3.0 data set: which episodes there are, their low-dimensional columns, where their
pictures are.

Layout: ``meta/info.json``, ``meta/episodes/**.parquet``, ``data/**.parquet`` and one mp4 per
camera and file under ``videos/``. A frame's time in its mp4 is the episode's ``from_timestamp`` plus ``frame / fps``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


class DatasetError(ValueError):
    """A data set that is absent, damaged, or does not have what the recipe asks of it. Says what to change."""


@dataclass(frozen=True)
class VideoSpan:
    """Where an episode's frames of one camera are: a file and the time of the first, in seconds."""

    path: Path
    start_s: float


GROUP_COLUMN = "nova/group"
"""Of an episode in meta/episodes, where there is one: episodes of a group begin in the same scene."""


@dataclass(frozen=True)
class EpisodeInfo:
    """One episode: its number, length in frames, tasks in words, where its rows begin in the data set, its videos, and
    what it shares with other episodes that were cut from the same scene.
    """

    index: int
    length: int
    tasks: tuple[str, ...]
    first_row: int
    videos: dict[str, VideoSpan]
    group: str = ""


@dataclass(frozen=True)
class TextColumn:
    """Texts of rows, each different one kept once."""

    codes: np.ndarray
    texts: tuple[str, ...]

    def at(self, row: int) -> str:
        """The text of a row."""
        return self.texts[self.codes[row]]


class LeRobotTables:
    """The metadata of a data set, read at once; columns are read when asked for."""

    def __init__(self, root: Path) -> None:
        """Raises `DatasetError` when the folder is no LeRobot v3 data set."""
        self.root = root
        self.info = _read_info(root)
        self.fps = float(self.info["fps"])
        self.features: dict[str, dict[str, Any]] = self.info["features"]
        self.episodes = self._read_episodes()
        self._data_files = sorted((root / "data").glob("**/*.parquet"))
        if not self._data_files:
            raise DatasetError(f"{root}: no data/**/*.parquet: the data set is incomplete, export or download it again")

    @property
    def frame_count(self) -> int:
        """Rows of all episodes."""
        return sum(episode.length for episode in self.episodes)

    def require(self, key: str, *, kinds: Sequence[str]) -> dict[str, Any]:
        """The feature of that name, whose dtype must be among `kinds`. Raises `DatasetError` listing what there is."""
        feature = self.features.get(key)
        if feature is None or feature["dtype"] not in kinds:
            known = sorted(name for name, each in self.features.items() if each["dtype"] in kinds)
            raise DatasetError(
                f"{self.root}: no feature {key!r} of dtype {' or '.join(kinds)}; it has: {', '.join(known) or 'none'}. "
                "Name the right one in data.sources"
            )
        return feature

    def numbers(self, keys: Sequence[str]) -> np.ndarray:
        """Numeric features joined end to end, (rows, D) float32, in row order. Raises `DatasetError` on NaN."""
        for key in keys:
            self.require(key, kinds=("float32", "float64", "int64", "int32", "bool", "uint8", "int16"))
        parts = []
        for file in self._data_files:
            table = pq.read_table(file, columns=[*keys, "index"])
            order = np.argsort(table["index"].to_numpy(), kind="stable")
            parts.append(np.concatenate([_matrix(table[key]) for key in keys], axis=1)[order])
        values = np.concatenate(parts)
        if len(values) != self.frame_count:
            raise DatasetError(
                f"{self.root}: the episodes have {self.frame_count} frames, data/ has {len(values)} rows"
            )
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if bad.size:
            raise DatasetError(
                f"{self.root}: {', '.join(keys)}: {bad.size} rows hold NaN or infinity, the first is row {bad[0]}; "
                "leave those episodes out with an episodes manifest"
            )
        return values

    def strings(self, key: str) -> "TextColumn":
        """A string feature, one entry for each row; missing ones are empty."""
        self.require(key, kinds=("string",))
        pieces = [pq.read_table(file, columns=[key, "index"]).sort_by("index")[key] for file in self._data_files]
        whole = pa.chunked_array([chunk for piece in pieces for chunk in piece.chunks], type=pa.string())
        encoded = pc.fill_null(whole, "").combine_chunks().dictionary_encode()
        return TextColumn(encoded.indices.to_numpy(), tuple(encoded.dictionary.to_pylist()))

    def encoded_images(self, key: str, *, row: int) -> bytes:
        """One picture of an ``image`` feature as it is stored in the table (PNG or JPEG)."""
        file, within = self._locate(row)
        cell = pq.read_table(file, columns=[key])[key][within].as_py()
        if isinstance(cell, dict):
            data = cell.get("bytes")
            if data is None and cell.get("path"):
                data = (self.root / cell["path"]).read_bytes()
            if isinstance(data, bytes):
                return data
        raise DatasetError(f"{self.root}: {key}: row {row} holds no picture")

    def _locate(self, row: int) -> tuple[Path, int]:
        start = 0
        for file in self._data_files:
            count = pq.read_metadata(file).num_rows
            if row < start + count:
                return file, row - start
            start += count
        raise DatasetError(f"{self.root}: row {row} is beyond the {start} rows in data/")

    def _read_episodes(self) -> list[EpisodeInfo]:
        files = sorted((self.root / "meta" / "episodes").glob("**/*.parquet"))
        if not files:
            raise DatasetError(
                f"{self.root}: no meta/episodes/**/*.parquet. This reader takes LeRobot v3.0; convert older sets first"
            )
        videos = [key for key, feature in self.features.items() if feature["dtype"] == "video"]
        # The statistics of each episode are beside these, hundreds of columns that nobody reads here.
        wanted = ["episode_index", "length", "tasks", GROUP_COLUMN]
        wanted += [f"videos/{key}/{part}" for key in videos for part in ("chunk_index", "file_index", "from_timestamp")]
        tables = [_columns(file, wanted) for file in files]
        table = pa.concat_tables(tables, promote_options="default").sort_by("episode_index")
        episodes, first_row = [], 0
        for row in table.to_pylist():
            tasks = tuple(str(task) for task in row.get("tasks") or ())
            episodes.append(
                EpisodeInfo(
                    index=int(row["episode_index"]),
                    length=int(row["length"]),
                    tasks=tasks,
                    first_row=first_row,
                    videos={key: self._video_span(key, row) for key in videos},
                    group=row.get(GROUP_COLUMN) or "",
                )
            )
            first_row += int(row["length"])
        return episodes

    def _video_span(self, key: str, row: dict[str, Any]) -> VideoSpan:
        prefix = f"videos/{key}/"
        try:
            path = self.info["video_path"].format(
                video_key=key,
                chunk_index=int(row[prefix + "chunk_index"]),
                file_index=int(row[prefix + "file_index"]),
            )
            return VideoSpan(self.root / path, float(row[prefix + "from_timestamp"]))
        except (KeyError, TypeError) as error:
            raise DatasetError(
                f"{self.root}: episode {row.get('episode_index')}: where its {key} is is not said: {error}"
            ) from None


def _read_info(root: Path) -> dict[str, Any]:
    path = root / "meta" / "info.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file; give the folder of a LeRobot v3 data set") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: can't be read: {error}") from None
    version = str(info.get("codebase_version", "unknown"))
    if not version.startswith("v3"):
        raise DatasetError(f"{root}: codebase_version is {version}, expected v3.0; convert it with lerobot first")
    missing = {"fps", "features"} - info.keys()
    if missing:
        raise DatasetError(f"{path}: {', '.join(sorted(missing))} is missing")
    return dict(info)


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A column of scalars or fixed-size lists as (rows, D) float32."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    rows = len(array)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        array = pc.list_flatten(array)
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.float32).reshape(rows, -1)


def _columns(file: Path, wanted: Sequence[str]) -> pa.Table:
    """Those of the columns that the file has."""
    with pq.ParquetFile(file) as opened:
        present = set(opened.schema_arrow.names)
        return opened.read(columns=[name for name in wanted if name in present])
