"""`launch/bench model`: sampling a chunk, against LeRobot's π0 with the same weights, noise and threads.

Nothing is timed before both gave the same actions. The machine's own speed at plain matrix products, measured in the
same run, says how much of it the samplers use.
"""

import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.report import BenchRow, at_most
from policy_server.bench.samples import SIZES, Size, operations, write_samples
from policy_server.bench.turns import Contestant, in_turns
from policy_server.pi0.fused import serving_dtype

PEER = Path(__file__).parent / "lerobot_peer.py"
SAME_WITHIN = 1e-4
PUBLISHED_SAMPLES = 2
Told = dict[str, Any]
"""What a contestant says of itself once it is ready."""
NO_PEER = "no peer: give an interpreter that has lerobot[pi] with --lerobot PYTHON"


def run(
    *, lerobot: str | None = None, sizes: Sequence[str] = ("nano", "mid"), rounds: int = 4, threads: int | None = None
) -> list[BenchRow]:
    """The table's rows. `lerobot` is a Python interpreter that has LeRobot's π0."""
    threads = threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    rows: list[BenchRow] = []
    for name in sizes:
        with tempfile.TemporaryDirectory(prefix="nova-pi-bench-") as folder:
            if SIZES[name].published:
                write_samples(Path(folder), name, dtype=torch.bfloat16)
                rows += _published(Path(folder), name, lerobot=lerobot, threads=threads)
            else:
                write_samples(Path(folder), name)
                rows += _sampling(Path(folder), name, lerobot=lerobot, rounds=rounds, threads=threads)
    return rows


def _sampling(folder: Path, name: str, *, lerobot: str | None, rounds: int, threads: int) -> list[BenchRow]:
    """All of them at once, by turns."""
    size = SIZES[name]
    with ExitStack() as stack:
        players = [stack.enter_context(_ours(folder, way, threads)) for way in ("lean", "plain", "lean")]
        loaded, *_ = (player.hear() for player in players)
        peer = None
        if lerobot is not None and size.goal is not None:
            player = stack.enter_context(_lerobot(lerobot, folder, "float32", threads))
            peer = player.hear()
            _require_same(players[0], player, folder)
            players.append(player)
        times = in_turns(players, f"sample {size.samples}", rounds=rounds)
    medians = [statistics.median(each) for each in times]
    return [
        _against_peer(name, size, medians[0], peer, medians[-1]),
        BenchRow(f"{name}: plain path over lean path", medians[1] / medians[0], "x"),
        BenchRow(f"control {name}: lean over itself", medians[2] / medians[0], "x"),
        _share_of_machine(name, size, medians[0]),
        _cold_start(name, loaded, peer),
    ]


def _published(folder: Path, name: str, *, lerobot: str | None, threads: int) -> list[BenchRow]:
    """One after the other: two such models at once fit into few machines. LeRobot computes in what is fastest for it
    here, which need not round as this project does, so equality is left to the smaller sizes."""
    size = SIZES[name]
    with _ours(folder, "lean", threads) as player:
        loaded = player.hear()
        ours = statistics.median(player.ask(f"sample {PUBLISHED_SAMPLES}"))
    share = _share_of_machine(name, size, ours)
    peer, theirs = None, math.nan
    if lerobot is not None and size.goal is not None:
        with _lerobot(lerobot, folder, _peer_dtype(), threads) as player:
            peer = player.hear()
            theirs = statistics.median(player.ask(f"sample {PUBLISHED_SAMPLES}"))
    over_file = loaded["peak_bytes"] / loaded["file_bytes"]
    memory = at_most(f"{name}: peak memory over the file", over_file, limit=1.1, unit="x")
    if peer is not None:
        over_file_peer = peer["peak_bytes"] / peer["file_bytes"]
        memory = replace(memory, peer=_peer_name(peer), peer_value=over_file_peer, ratio=over_file_peer / over_file)
    return [_against_peer(name, size, ours, peer, theirs), share, _cold_start(name, loaded, peer), memory]


def _ours(folder: Path, way: str, threads: int) -> Contestant:
    return Contestant([sys.executable, "-m", "policy_server.bench.sampler", str(folder), way, str(threads)])


def _lerobot(python: str, folder: Path, dtype: str, threads: int) -> Contestant:
    return Contestant([python, str(PEER), str(folder), dtype, str(threads)])


def _peer_dtype() -> str:
    """LeRobot's best: torch takes minutes for a chunk in bfloat16 on a processor without such arithmetic."""
    fastest = serving_dtype(torch.bfloat16, torch.device("cpu"))
    return "float32" if fastest == torch.float32 else "bfloat16"


def _peer_name(peer: Told) -> str:
    return f"LeRobot {peer['version']}"


def _against_peer(name: str, size: Size, ours: float, peer: Told | None, theirs: float) -> BenchRow:
    label = f"{name}: one chunk, 2 views, 10 steps"
    if peer is None or size.goal is None:
        return BenchRow(label, ours, "ms", note=None if size.goal is None else NO_PEER)
    ratio = theirs / ours
    goal = f"≥ {size.goal:g} times LeRobot"
    return BenchRow(label, ours, "ms", goal, ratio >= size.goal, _peer_name(peer), theirs, ratio)


def _cold_start(name: str, loaded: Told, peer: Told | None) -> BenchRow:
    """A file that the system has in memory to the first action; the peer builds its model and calls load_state_dict."""
    row = BenchRow(f"{name}: load and first action", loaded["seconds"], "s")
    if peer is None:
        return row
    return replace(row, peer=_peer_name(peer), peer_value=peer["seconds"], ratio=peer["seconds"] / loaded["seconds"])


def _share_of_machine(name: str, size: Size, ours: float) -> BenchRow:
    gflops, needed = matmul_gflops(), operations(size.config)
    note = f"{needed / 1e9:.1f} GFLOP a chunk; plain float32 products run at {gflops:.0f} GFLOP/s here"
    share = needed / (ours / 1e3) / (gflops * 1e9)
    return BenchRow(f"{name}: share of the machine's matrix speed", share * 100.0, "%", note=note)


def _require_same(lean: Contestant, peer: Contestant, folder: Path) -> None:
    found = []
    for number, player in enumerate((lean, peer)):
        path = folder / f"actions{number}.npy"
        player.ask(f"actions {path}")
        found.append(np.load(path))
    off = float(np.abs(found[0] - found[1]).max())
    if not off <= SAME_WITHIN:
        raise RuntimeError(f"our actions and LeRobot's differ by {off:g}, over {SAME_WITHIN:g}: nothing is timed")


def matmul_gflops(*, seconds: float = 1.0) -> float:
    """What plain float32 products of the trunk's shape run at, the median."""
    rows, weight = torch.randn(532, 2048), torch.randn(4096, 2048)
    speeds: list[float] = []
    until_s = time.perf_counter() + seconds
    while time.perf_counter() < until_s or len(speeds) < 3:
        started_s = time.perf_counter()
        torch.nn.functional.linear(rows, weight)
        speeds.append(2.0 * rows.numel() * len(weight) / (time.perf_counter() - started_s) / 1e9)
    return statistics.median(speeds)
