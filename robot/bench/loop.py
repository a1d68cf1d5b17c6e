"""The main job timed end to end: twin, policy server and 15 Hz client together on this machine.

The rollout is a process of its own, started as a user would; this process only looks on (robotd's servo ring, the
rollout's result and step files, the twin's status) and does next to nothing while it runs.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from configs.report import BenchRow, at_least, at_most
from configs.schema import RigConfig, load_rig
from robot.clock import MonotonicClock, Ticker, seconds_to_ns
from robot.priority import SERVO_PRIORITY, prefer_this_thread
from robot.processes import Child
from robot.ring import RingError, RingReader
from robot.rollout.local_stack import LocalStack
from robot.runtime import ring_name
from robot.twin.control import TwinControl
from robot.twin.env import CONTROL_RATE_HZ, TwinEnv
from robot.twin.props import Prop

PERIOD_MS = 1e3 / CONTROL_RATE_HZ
ROBOT_SIDE = "robot.rollout.main"
IMPORT_RUNS = 3
IN_PROCESS_STEPS = 150
IN_PROCESS_IMAGE = (224, 224)
SERVO_POLL_S = 2.0
SERVO_RATE_HZ = 125.0
SHORTEST_EPISODE_S = 5.0
"""`nano` takes longer than this; an episode ends when its task is done."""


@dataclass(frozen=True)
class _LoopRun:
    """One rollout: for each episode the ticks' wake-up times (n,) ns and how many were missed; servo lateness and
    periods (m,) ms, and so on."""

    wake_ns: tuple[np.ndarray, ...]
    missed_ticks: tuple[int, ...]
    underruns: int
    aborted: int
    servo_late_ms: np.ndarray
    servo_period_ms: np.ndarray
    timer_late_ms: np.ndarray
    real_time_factor: float
    client_rss_mib: float
    round_trip_ms: dict[str, float]
    observation_to_action_ms: dict[str, float]


def run(*, seconds: float = 60.0) -> list[BenchRow]:
    """All rows; the 15 Hz rollout has as many episodes as take ``seconds`` at least."""
    return [*_loop_rows(_run_loop(seconds)), *_in_process_rows(), *_footprint_rows()]


def _loop_rows(run: _LoopRun) -> list[BenchRow]:
    length_ms = sum(float(wake_ns[-1] - wake_ns[0]) for wake_ns in run.wake_ns) * 1e-6
    periods_ms = np.concatenate([np.diff(wake_ns) for wake_ns in run.wake_ns]) * 1e-6
    missed = sum(run.missed_ticks)
    mean_ms = length_ms / (len(periods_ms) + missed)
    error_ms = np.abs(periods_ms - PERIOD_MS)
    servo_error_ms = np.abs(run.servo_period_ms - np.median(run.servo_period_ms))
    return [
        at_most(f"15 Hz: missed ticks in {length_ms * 1e-3:.0f} s", missed, limit=0, unit="ticks"),
        at_most("15 Hz: drift of the mean period", abs(mean_ms - PERIOD_MS), limit=0.05, unit="ms"),
        at_most("15 Hz: period error p99", float(np.percentile(error_ms, 99)), limit=3.0, unit="ms"),
        BenchRow("15 Hz: period error max", float(np.max(error_ms)), "ms"),
        BenchRow("15 Hz: ticks without a waypoint", run.underruns, "ticks"),
        at_most("episodes that a fault ended", run.aborted, limit=0, unit="episodes"),
        BenchRow("request round trip p50", run.round_trip_ms["p50"], "ms"),
        BenchRow("request round trip p99", run.round_trip_ms["p99"], "ms"),
        BenchRow("observation → action p50", run.observation_to_action_ms["p50"], "ms"),
        BenchRow("observation → action p99", run.observation_to_action_ms["p99"], "ms"),
        at_most("servo 125 Hz: period jitter p99", float(np.percentile(servo_error_ms, 99)), limit=4.0, unit="ms"),
        BenchRow("servo 125 Hz: lateness p99", float(np.percentile(run.servo_late_ms, 99)), "ms"),
        BenchRow("control: a bare 125 Hz timer's lateness p99", float(np.percentile(run.timer_late_ms, 99)), "ms"),
        at_least("twin: real-time factor", run.real_time_factor, limit=0.99, unit="×"),
        at_most("client: resident memory", run.client_rss_mib, limit=250.0, unit="MiB"),
    ]


def _run_loop(seconds: float) -> _LoopRun:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with LocalStack(folder, policy="nano") as stack:
            stack.wait_until_ready()
            rig = load_rig(stack.rig_path)
            with (
                _rollout(stack, folder, seconds=seconds) as child,
                TwinControl.connect(rig) as twin,
                _BareTimer() as timer,
            ):
                servo = _ServoWatch(rig)
                peak_rss_mib = 0.0
                while child.running:
                    time.sleep(SERVO_POLL_S)
                    servo.collect()
                    peak_rss_mib = max(peak_rss_mib, _rss_mib(child.pid))
                    if child.running:
                        factor = float(twin.status()["real_time_factor"])
            result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            wake_ns = _wake_ns(folder / "rollout")
    late_ms, period_ms = servo.timings_ms()
    return _LoopRun(
        wake_ns=wake_ns,
        missed_ticks=tuple(episode["missed_ticks"] for episode in result["episodes"]),
        underruns=sum(episode["underruns"] for episode in result["episodes"]),
        aborted=sum(episode["aborted"] for episode in result["episodes"]),
        servo_late_ms=late_ms,
        servo_period_ms=period_ms,
        timer_late_ms=timer.late_ms,
        real_time_factor=factor,
        client_rss_mib=peak_rss_mib,
        round_trip_ms=result["latency_ms"]["round_trip"],
        observation_to_action_ms=result["latency_ms"]["observation_to_action"],
    )


@contextmanager
def _rollout(stack: LocalStack, folder: Path, *, seconds: float) -> Iterator[Child]:
    episodes = math.ceil(seconds / SHORTEST_EPISODE_S)
    arguments = [
        *("--rig", str(stack.rig_path), "--task", "cup", "--episodes", str(episodes)),
        *("--server", stack.server_url, "--output", str(folder / "rollout"), "--json", str(folder / "result.json")),
    ]
    child = Child("the rollout", module=ROBOT_SIDE, args=arguments, log_path=folder / "rollout.log")
    try:
        yield child
        if not (folder / "result.json").exists():
            child.check()
    finally:
        child.stop()


class _BareTimer:
    """The control: a thread that does nothing but wake 125 times a second, at robotd's priority, beside the rollout.

    Its lateness is what the machine itself adds (its scheduler, its hypervisor), whatever the software does.
    """

    def __init__(self) -> None:
        self._late_ms: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bare timer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def late_ms(self) -> np.ndarray:
        """Lateness (n,) of each wake-up in ms."""
        return np.array(self._late_ms or [0.0])

    def _run(self) -> None:
        prefer_this_thread(SERVO_PRIORITY)
        clock = MonotonicClock()
        ticker = Ticker(seconds_to_ns(1.0 / SERVO_RATE_HZ), clock)
        while not self._stop.is_set():
            deadline_ns = ticker.wait()
            self._late_ms.append((clock.now_ns() - deadline_ns) * 1e-6)


class _ServoWatch:
    """Collects (deadline, sent) of every servo tick from robotd's ring, in gulps so as not to disturb."""

    def __init__(self, rig: RigConfig) -> None:
        self._name = ring_name(rig.name, "servo")
        self._reader: RingReader | None = None
        self._next_seq = 0
        self._ticks: list[tuple[int, int, int]] = []

    def collect(self) -> None:
        """Take what is new; nothing while robotd is not up."""
        try:
            self._reader = self._reader or RingReader(self._name)
        except RingError:
            return
        for seq in range(self._next_seq, self._reader.newest_seq + 1):
            sample = self._reader.read(seq)
            if sample is not None and sample.value["sent"]:
                self._ticks.append((seq, int(sample.value["deadline_ns"]), int(sample.value["sent_ns"])))
        self._next_seq = self._reader.newest_seq + 1

    def timings_ms(self) -> tuple[np.ndarray, np.ndarray]:
        """Lateness of each tick and the periods between ticks that follow each other, in ms."""
        ticks = np.array(self._ticks, dtype=np.int64).reshape(-1, 3)
        if len(ticks) < 2:
            raise RuntimeError("robotd sent no servo command: the arm never streamed; see the rollout's log")
        late_ms = (ticks[:, 2] - ticks[:, 1]) * 1e-6
        follows = np.diff(ticks[:, 0]) == 1
        return late_ms, np.diff(ticks[:, 2])[follows] * 1e-6


def _wake_ns(folder: Path) -> tuple[np.ndarray, ...]:
    files = [path.read_text(encoding="utf-8").splitlines() for path in sorted(folder.rglob("steps.jsonl"))]
    return tuple(np.array([json.loads(line)["wake_ns"] for line in lines], dtype=np.int64) for lines in files)


def _rss_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def _in_process_rows() -> list[BenchRow]:
    height, width = IN_PROCESS_IMAGE
    with TwinEnv(IN_PROCESS_IMAGE) as env:
        observation = env.reset(0, Prop.CUP)
        hold = np.append(observation["observation/joint_position"], 0.0)
        env.step(hold)
        begin = time.perf_counter()
        for _ in range(IN_PROCESS_STEPS):
            env.step(hold)
        elapsed_s = time.perf_counter() - begin
    factor = IN_PROCESS_STEPS / CONTROL_RATE_HZ / elapsed_s
    return [at_least(f"in-process twin, two {height}×{width} pictures a step", factor, limit=3.0, unit="× real time")]


def _footprint_rows() -> list[BenchRow]:
    program = f"import time; t = time.perf_counter(); import {ROBOT_SIDE}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", program]
    times_s = [
        float(subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ)).stdout)
        for _ in range(IMPORT_RUNS)
    ]
    return [at_most("robot side: import without torch (median)", float(np.median(times_s)), limit=1.0, unit="s")]
