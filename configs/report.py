"""Result files and tables: what ``--json FILE`` writes, and how benchmark rows are shown."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

FILE_COLUMNS = 140


def job_console(*, force_terminal: bool | None = None) -> Console:
    """Where a job shows its tables: as wide as the terminal, and wide enough for them in a file or a pipe."""
    console = Console(highlight=False, force_terminal=force_terminal)
    if not console.file.isatty():
        console.width = FILE_COLUMNS
    return console


@dataclass(frozen=True)
class BenchRow:
    """One measured figure; ``holds`` is None when the row has no goal.

    A row with a peer was measured beside it in the same run, and ``ratio`` says how much better ours is.
    """

    metric: str
    value: float
    unit: str
    goal: str = ""
    holds: bool | None = None
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    note: str | None = None


def at_most(metric: str, value: float, *, limit: float, unit: str, note: str | None = None) -> BenchRow:
    """A row whose goal is ``value <= limit``."""
    return BenchRow(metric, value, unit, goal=f"≤ {limit:g}", holds=value <= limit, note=note)


def at_least(metric: str, value: float, *, limit: float, unit: str, note: str | None = None) -> BenchRow:
    """A row whose goal is ``value >= limit``."""
    return BenchRow(metric, value, unit, goal=f"≥ {limit:g}", holds=value >= limit, note=note)


def machine() -> dict[str, Any]:
    """What the figures were measured on: processor, cores, memory, kernel, Python."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory_gib, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def bench_table(name: str, rows: Sequence[BenchRow]) -> Table:
    """The table that ``launch/bench`` prints."""
    with_peers = any(row.peer is not None for row in rows)
    table = Table(title=f"bench {name}")
    for column in ("metric", "value", "unit", "goal", "holds", *(("peer", "ratio") if with_peers else ())):
        table.add_column(column, justify="right" if column in ("value", "ratio") else "left")
    for row in rows:
        verdict = {True: "[green]yes[/]", False: "[red]NO[/]", None: ""}[row.holds]
        peer = "" if row.peer is None else f"{row.peer} {row.peer_value:.4g}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(
            row.metric, f"{row.value:.4g}", row.unit, row.goal, verdict, *((peer, ratio) if with_peers else ())
        )
    return table


def bench_result(name: str, rows: Sequence[BenchRow]) -> dict[str, Any]:
    """The machine-readable form of a benchmark; a row leaves out what it does not have."""
    described = [{key: value for key, value in asdict(row).items() if value is not None} for row in rows]
    return {"bench": name, "machine": machine(), "rows": described}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` whole or not at all: a temporary file beside it, flushed to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def show_bench(name: str, rows: Sequence[BenchRow], *, json_path: Path | None, console: Console | None = None) -> None:
    """Print the table with its notes and, if asked, write the JSON."""
    console = console or job_console()
    console.print(bench_table(name, rows))
    for row in rows:
        if row.note:
            console.print(f"[dim]{row.metric}:[/] {row.note}")
    if json_path is not None:
        write_json(json_path, bench_result(name, rows))


def append_line(path: Path, plain: dict[str, Any]) -> None:
    """Add a line to a file of JSON lines and have it on the disk. What a crash left of a line before it is removed."""
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        if end > 0:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(plain).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of such a file, none if it does not exist. A line that a crash cut short does not count."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
