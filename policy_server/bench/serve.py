"""`launch/bench serve`: round trips of a policy that computes nothing, health checks while one computes, motion images.

Peer: openpi's client and server from PyPI (``openpi-client``, ``openpi-server``), under an interpreter of their own,
since openpi-client wants NumPy 1. Both sides run in turns in one run.
"""

import statistics
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from configs.report import BenchRow, at_most
from policy_server.bench.motion_image import motion_rows
from policy_server.bench.turns import Contestant, in_turns

PEER = Path(__file__).parent / "openpi_peer.py"
SIZES = {"2 x 224 x 224": (224, 224, 0.7), "2 x 640 x 480": (480, 640, 0.4)}
"""Name to height, width, and the goal: our median over the peer's."""
BATCH = 40
BUSY_MS = 50.0
HEALTH_CHECKS = 200
NO_PEER = (
    "no peer: python3 -m venv PEER && PEER/bin/pip install openpi-client openpi-server typing_extensions, "
    "then --openpi PEER/bin/python"
)


def run(*, openpi: str | None = None, rounds: int = 6) -> list[BenchRow]:
    """The table's rows. `openpi` is a Python interpreter with openpi's two packages."""
    rows: list[BenchRow] = []
    with ExitStack() as stack:
        port = _started(stack, [sys.executable, "-m", "policy_server.bench.null_server", "0"])
        ours = {by: _client(stack, port, by) for by in ("raw", "shared_memory", "jpeg")}
        control = _client(stack, port, "raw")
        peer = _peer(stack, openpi) if openpi is not None else None
        for name, (height, width, goal) in SIZES.items():
            players = [*ours.values(), control, *([peer] if peer is not None else [])]
            order = f"{height} {width} {BATCH}"
            in_turns(players, order, rounds=1)  # does not count
            times = in_turns(players, order, rounds=rounds)
            medians = [statistics.median(each) for each in times]
            rows += _rows(name, medians, times, goal=goal, with_peer=peer is not None)
    return [*rows, health_row(), *motion_rows()]


def health_row() -> BenchRow:
    """How long `/healthz` takes at worst while the policy computes without a pause."""
    with ExitStack() as stack:
        port = _started(stack, [sys.executable, "-m", "policy_server.bench.null_server", str(BUSY_MS)])
        client = _client(stack, port, "raw")
        client.ask("224 224 2")
        client.tell(f"224 224 {2 * HEALTH_CHECKS}")  # busy from here on; nobody waits for the answer
        times = []
        for _ in range(HEALTH_CHECKS):
            started_s = time.perf_counter()
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10).read()
            times.append((time.perf_counter() - started_s) * 1e3)
            time.sleep(0.01)
        client.kill()
    p99 = statistics.quantiles(times, n=100)[98]
    return at_most(f"/healthz p99 while the policy computes {BUSY_MS:g} ms chunks", p99, limit=5.0, unit="ms")


def _rows(name: str, medians: list[float], times: list[list[float]], *, goal: float, with_peer: bool) -> list[BenchRow]:
    raw, shared, jpeg, control = medians[:4]
    p99 = statistics.quantiles(times[0], n=100)[98]
    note = f"p99 {p99:.2f} ms" + ("" if with_peer else f"; {NO_PEER}")
    rows: list[BenchRow] = []
    if with_peer:
        peer = medians[4]
        for label, value in (("raw", raw), ("shared memory", shared)):
            rows.append(
                BenchRow(
                    f"round trip {name}, {label}",
                    value,
                    "ms",
                    f"≤ {goal:g} of the peer",
                    value <= goal * peer,
                    "openpi",
                    peer,
                    peer / value,
                    note if label == "raw" else None,
                )
            )
    else:
        rows.append(BenchRow(f"round trip {name}, raw", raw, "ms", note=note))
        rows.append(BenchRow(f"round trip {name}, shared memory", shared, "ms"))
    rows.append(BenchRow(f"round trip {name}, JPEG", jpeg, "ms", note="coding and decoding; for slow links"))
    rows.append(BenchRow(f"control {name}: raw over itself", control / raw, "x"))
    return rows


def _started(stack: ExitStack, command: list[str]) -> int:
    port: int = stack.enter_context(Contestant(command)).hear()
    return port


def _client(stack: ExitStack, port: int, by: str) -> Contestant:
    client = stack.enter_context(Contestant([sys.executable, "-m", "policy_server.bench.null_client", str(port), by]))
    client.hear()
    return client


def _peer(stack: ExitStack, python: str) -> Contestant:
    port = _started(stack, [python, str(PEER), "server"])
    client = stack.enter_context(Contestant([python, str(PEER), "client", str(port)]))
    client.hear()
    return client
