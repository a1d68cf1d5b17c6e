"""What the operator's page costs: processor time, memory, age of pictures, and its effect on a 15 Hz loop.

Cameras and robotd are stood in for by a process that fills their rings at 15 fps (`robot.recording.synthetic`); the
pages are clients that ask as the page does. Without pages, with three, and with three and one that hangs take turns.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from configs.report import BenchRow, at_most
from configs.schema import load_rig
from robot.clock import NS_PER_S, MonotonicClock, Ticker
from robot.policy_process import free_port
from robot.priority import CLIENT_PRIORITY, prefer_this_thread
from robot.processes import Child
from robot.ring import RingReader
from robot.runtime import ring_name

PAGES = 3
TOKEN = "bench-console-token"
READY_S = 20.0
_RIG = "twin"
_PERIOD_NS = round(NS_PER_S / 15)
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass
class _Turn:
    """One kind of turn, all of its rounds together."""

    cores: list[float] = field(default_factory=list)
    period_error_ms: list[float] = field(default_factory=list)
    age_ms: list[float] = field(default_factory=list)
    stop_ms: list[float] = field(default_factory=list)
    pictures_per_s: list[float] = field(default_factory=list)


def run(*, seconds: float = 10.0, rounds: int = 3) -> list[BenchRow]:
    """All rows of ``launch/bench console``."""
    with tempfile.TemporaryDirectory(prefix="nova-pi-bench-") as folder, _own_runtime(Path(folder)):
        rings = Child("rings", module="robot.recording.synthetic", args=("--rig", _RIG, "--fps", "15"))
        port = free_port(0)
        console = Child(
            "console",
            module="robot.console.main",
            args=("--port", str(port), "--token", TOKEN, "--no-station", "--no-browser", "--outputs", folder),
            log_path=Path(folder) / "console.log",
        )
        try:
            RingReader.wait(ring_name(load_rig(_RIG).name, "state"), timeout_s=READY_S, with_sample=True).detach()
            _wait(port, console)
            return _measured(console, port, seconds=seconds, rounds=rounds)
        finally:
            console.stop(timeout_s=15.0)
            rings.stop()


def _measured(console: Child, port: int, *, seconds: float, rounds: int) -> list[BenchRow]:
    nobody, watched, hanging = _Turn(), _Turn(), _Turn()
    _turn(_Turn(), console, port, seconds=2.0, pages=PAGES, stalled=0)  # what is first used costs memory once
    started_s, before_mib = time.monotonic(), _rss_mib(console.pid)
    for _ in range(rounds):
        _turn(nobody, console, port, seconds=seconds, pages=0, stalled=0)
        _turn(watched, console, port, seconds=seconds, pages=PAGES, stalled=0)
        _turn(hanging, console, port, seconds=seconds, pages=PAGES, stalled=1)
    minutes, grown_mib = (time.monotonic() - started_s) / 60, _rss_mib(console.pid) - before_mib
    added_ms = _p99(watched.period_error_ms) - _p99(nobody.period_error_ms)
    return [
        at_most(f"console with {PAGES} pages: processor", float(np.median(watched.cores)), limit=0.35, unit="cores"),
        BenchRow("console with no page: processor", float(np.median(nobody.cores)), "cores"),
        at_most("15 Hz loop: period error p99 added by the pages", max(0.0, added_ms), limit=0.3, unit="ms"),
        BenchRow("15 Hz loop: period error p99 without pages", _p99(nobody.period_error_ms), "ms"),
        at_most("picture's age when received, p99", _p99(watched.age_ms), limit=120.0, unit="ms"),
        BenchRow("picture's age when received, p50", float(np.median(watched.age_ms)), "ms"),
        BenchRow("pictures a second and page, both cameras", float(np.median(watched.pictures_per_s)), "1/s"),
        at_most("picture's age p99 beside a page that hangs", _p99(hanging.age_ms), limit=120.0, unit="ms"),
        BenchRow("STOP channel: round trip p99 beside the pictures", _p99(watched.stop_ms), "ms"),
        BenchRow("console: resident memory", _rss_mib(console.pid), "MiB"),
        BenchRow(f"console: memory grown in {minutes:.1f} min", grown_mib, "MiB"),
    ]


def _turn(turn: _Turn, console: Child, port: int, *, seconds: float, pages: int, stalled: int) -> None:
    clients = None
    if pages:
        command = [
            *(sys.executable, "-m", "robot.bench.console_clients", "--url", f"ws://127.0.0.1:{port}"),
            *("--token", TOKEN, "--pages", str(pages), "--stalled", str(stalled), "--seconds", f"{seconds + 1:g}"),
        ]
        clients = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        time.sleep(1.0)
    before_s, started_s = _processor_s(console.pid), time.monotonic()
    turn.period_error_ms += _loop(seconds)
    turn.cores.append((_processor_s(console.pid) - before_s) / (time.monotonic() - started_s))
    if clients is not None:
        told = json.loads(clients.communicate(timeout=30.0)[0])
        turn.age_ms += told["age_ms"]
        turn.stop_ms += told["stop_ms"]
        turn.pictures_per_s.append(told["pictures"] / pages / (seconds + 1))


def _loop(seconds: float) -> list[float]:
    """Period errors in ms of a loop that only keeps time, scheduled as the real one."""
    prefer_this_thread(CLIENT_PRIORITY)
    ticker = Ticker(_PERIOD_NS, MonotonicClock())
    for _ in range(round(seconds * NS_PER_S / _PERIOD_NS)):
        ticker.wait()
    return [abs(period - _PERIOD_NS) / 1e6 for period in ticker.statistics.periods_ns]


def _p99(values: list[float]) -> float:
    return float(np.percentile(values, 99)) if values else float("nan")


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _rss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def _wait(port: int, console: Child) -> None:
    deadline_s = time.monotonic() + READY_S
    while True:
        console.check()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1.0):
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline_s:
                raise
        time.sleep(0.05)


@contextmanager
def _own_runtime(folder: Path) -> Iterator[None]:
    """A rig that is running on this machine is left alone."""
    previous = os.environ.get("NOVA_PI_RUNTIME_DIR")
    os.environ["NOVA_PI_RUNTIME_DIR"] = str(folder)
    try:
        yield
    finally:
        if previous is None:
            del os.environ["NOVA_PI_RUNTIME_DIR"]
        else:
            os.environ["NOVA_PI_RUNTIME_DIR"] = previous
