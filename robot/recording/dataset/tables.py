"""The parquet and JSON files of a dataset, each written whole or not at all."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robot.recording.dataset.errors import DatasetError
from robot.recording.meta import sync_folder

_KINDS = {"float32": pa.float32(), "int64": pa.int64()}
_TASK_INDEX = "task_index"
_TASK = "task"


def write_table(path: Path, table: pa.Table) -> None:
    """Write a parquet file in one row group: a draft beside it, flushed to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    with draft.open("wb") as file:
        pq.write_table(table, file, compression="snappy", row_group_size=max(1, table.num_rows))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def read_table(path: Path) -> pa.Table:
    """A parquet file. Raises `DatasetError` if it is absent or damaged."""
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DatasetError(f"{path}: can't be read as parquet: {error}") from None


def data_table(columns: Mapping[str, np.ndarray], *, features: Mapping[str, Mapping[str, Any]]) -> pa.Table:
    """Rows as LeRobot stores them: vectors as fixed-size lists, features of shape [1] as plain columns."""
    arrays, fields = [], []
    for name, values in columns.items():
        kind = _KINDS[features[name]["dtype"]]
        (width,) = features[name]["shape"]
        flat = pa.array(np.ascontiguousarray(values).reshape(-1), type=kind)
        array = flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)
        arrays.append(array)
        fields.append(pa.field(name, array.type))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def column(table: pa.Table, name: str) -> np.ndarray:
    """A column as an array: (n,) for plain columns, (n, d) for lists. Raises `DatasetError` if it is absent."""
    if name not in table.column_names:
        raise DatasetError(f"expected a column {name!r}, the table has {', '.join(table.column_names)}")
    chunks = table[name].combine_chunks()
    if pa.types.is_fixed_size_list(chunks.type) or pa.types.is_list(chunks.type):
        flat = chunks.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(chunks), -1)
    return np.asarray(chunks.to_numpy(zero_copy_only=False))


def row_table(row: Mapping[str, Any]) -> pa.Table:
    """One row from Python values; statistics keep their types whatever the values."""
    arrays = {name: pa.array([value], type=_row_type(name, value)) for name, value in row.items()}
    return pa.table(arrays)


def tasks_table(tasks: Sequence[str]) -> pa.Table:
    """``meta/tasks.parquet``: the task's text is the pandas index, its number the only column."""
    table = pa.table({_TASK_INDEX: pa.array(range(len(tasks)), pa.int64()), _TASK: pa.array(tasks, pa.string())})
    described = {
        "index_columns": [_TASK],
        "column_indexes": [],
        "columns": [
            _pandas_column(_TASK_INDEX, pandas_type="int64", numpy_type="int64"),
            _pandas_column(_TASK, pandas_type="unicode", numpy_type="object"),
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(described)})


def read_tasks(path: Path) -> list[str]:
    """Task texts by number, whatever LeRobot version wrote the file."""
    table = read_table(path)
    names = [name for name in table.column_names if name != _TASK_INDEX]
    if len(names) != 1 or _TASK_INDEX not in table.column_names:
        raise DatasetError(f"{path}: expected columns task_index and the task's text, found {table.column_names}")
    order = np.argsort(column(table, _TASK_INDEX))
    texts = table[names[0]].to_pylist()
    return [texts[row] for row in order]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `DatasetError`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: can't be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _pandas_column(name: str, *, pandas_type: str, numpy_type: str) -> dict[str, Any]:
    return {
        "name": name,
        "field_name": name,
        "pandas_type": pandas_type,
        "numpy_type": numpy_type,
        "metadata": None,
    }


def _row_type(name: str, value: Any) -> pa.DataType:
    """Arrow type of a value; numbers in statistics are doubles except counts."""
    if isinstance(value, list):
        inner = pa.string() if not value else _row_type(name, value[0])
        return pa.list_(inner)
    if isinstance(value, str):
        return pa.string()
    if isinstance(value, float):
        return pa.float64()
    return pa.int64()
