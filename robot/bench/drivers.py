"""What the drivers cost and how far they can be trusted with time, against the twin on this machine's loopback.

The feedback reader is measured in a process of its own, the way robotd runs it. The gripper on the tool flange shares
the arm's one connection, so the servo stream is timed with and without it, in turns, beside a row that compares two
turns without it.
"""

import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from configs.report import BenchRow, at_most
from configs.schema import CONFIGS, RigConfig, load_rig
from robot.arm.dashboard import DashboardClient
from robot.arm.feedback import FeedbackReader
from robot.arm.protocol import FEEDBACK_PERIOD_S, RobotMode
from robot.clock import MonotonicClock, Ticker, seconds_to_ns
from robot.daemon.checks import flange_route, open_dashboard, open_gripper
from robot.gripper.flange import STREAMING_RATE_HZ
from robot.priority import prefer_this_process
from robot.processes import Child
from robot.twin.control import TwinControl

CALLS = 700
"""Of one turn."""
READER_S = 10.0
STALL_S = 2.0
FIRST_PACKETS = 10
TURN_S = 5.0
TURNS = 3
TARGETS_HZ = 2.0
TWIN_START_S = 60.0
ENABLE_S = 20.0
_READER = """
import json, resource, signal, sys, time
from robot.arm.feedback import FeedbackReader
host, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
ages = []
with FeedbackReader(host, port=port) as reader:
    reader.wait(timeout_s=5.0)
    reader.subscribe(lambda packet: ages.append((time.time() * 1e3 - packet.controller_time_ms)))
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    time.sleep(seconds)
    after, wall = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - begin
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"share": used / wall, "packets": len(ages)}), flush=True)
    del ages[:]
    signal.raise_signal(signal.SIGSTOP)
    sys.stdin.readline()
    print(json.dumps({"ages_ms": ages}), flush=True)
"""


def run(*, turn_s: float = TURN_S) -> list[BenchRow]:
    """All rows; ``turn_s`` is the length of one timed servo stream, of which there are `TURNS` of each kind."""
    with _twin() as rig:
        prefer_this_process()  # as robotd does
        rows = _round_trip_rows(rig)
        rows += _reader_rows(rig)
        return rows + _flange_rows(rig, turn_s=turn_s)


# -- the dashboard ----------------------------------------------------------------------------------------------------


def _round_trip_rows(rig: RigConfig) -> list[BenchRow]:
    assert rig.twin is not None
    ours, bare = [], []
    for _ in range(TURNS):
        bare.append(_bare_round_trips_ms(rig))
        ours.append(_round_trips_ms(rig))
    latency_ms = 1e3 * rig.twin.reply_latency_s
    ours_ms, bare_ms = np.concatenate(ours) - latency_ms, np.concatenate(bare) - latency_ms
    rows = []
    for percent, limit_ms in ((50, None), (99, 1.0)):
        value, peer = float(np.percentile(ours_ms, percent)), float(np.percentile(bare_ms, percent))
        metric = f"dashboard round trip p{percent}, above the twin's latency"
        row = BenchRow(metric, value, "ms") if limit_ms is None else at_most(metric, value, limit=limit_ms, unit="ms")
        rows.append(replace(row, peer="socket alone", peer_value=peer, ratio=peer / value))
    return rows


def _round_trips_ms(rig: RigConfig) -> np.ndarray:
    times_ms = np.empty(CALLS)
    with DashboardClient(rig.arm.host, port=rig.arm.dashboard_port) as dashboard:
        dashboard.robot_mode()
        for index in range(CALLS):
            begin_ns = time.perf_counter_ns()
            dashboard.robot_mode()
            times_ms[index] = (time.perf_counter_ns() - begin_ns) * 1e-6
    return times_ms


def _bare_round_trips_ms(rig: RigConfig) -> np.ndarray:
    """The same request without our client: what the twin, the kernel and this machine take by themselves."""
    times_ms = np.empty(CALLS)
    with socket.create_connection((rig.arm.host, rig.arm.dashboard_port), timeout=5.0) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for index in range(CALLS):
            begin_ns = time.perf_counter_ns()
            connection.sendall(b"RobotMode()")
            while not connection.recv(4096).endswith(b";"):
                pass
            times_ms[index] = (time.perf_counter_ns() - begin_ns) * 1e-6
    return times_ms


# -- the feedback reader ----------------------------------------------------------------------------------------------


def _reader_rows(rig: RigConfig) -> list[BenchRow]:
    command = [sys.executable, "-c", _READER, rig.arm.host, str(rig.arm.feedback_port), str(READER_S)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        running = json.loads(reader.stdout.readline())
        time.sleep(STALL_S)  # it stops itself
        reader.send_signal(signal.SIGCONT)
        time.sleep(0.5)
        reader.stdin.write("\n")
        reader.stdin.flush()
        ages_ms = json.loads(reader.stdout.readline())["ages_ms"]
    # A packet that was being handed out when the process was stopped is as old as the stall, and nobody's fault.
    handed_out = [age for age in ages_ms if age < 0.95e3 * STALL_S][:FIRST_PACKETS]
    behind = max(0.0, max(handed_out) / (1e3 * FEEDBACK_PERIOD_S) - 1.0)
    rate_note = f"{running['packets'] / READER_S:.0f} packets a second"
    return [
        at_most(
            "feedback reader at 125 Hz: share of a core", 100 * running["share"], limit=5.0, unit="%", note=rate_note
        ),
        at_most(
            f"feedback reader after {STALL_S:g} s stopped: periods behind, worst of the first {FIRST_PACKETS} packets",
            behind,
            limit=1.0,
            unit="packets",
        ),
    ]


# -- the gripper on the flange ----------------------------------------------------------------------------------------


def _flange_rows(rig: RigConfig, *, turn_s: float) -> list[BenchRow]:
    alone, shared = [], []
    with open_dashboard(rig) as dashboard:
        _enable(rig, dashboard)
        flange = flange_route(rig, dashboard)
        assert flange is not None
        flange.power()
        for _ in range(TURNS):
            alone.append(_stream(rig, dashboard, seconds=turn_s))
            with open_gripper(rig, flange=flange) as gripper:
                gripper.initialise(drop_allowed=True)
                stop = threading.Event()
                mover = threading.Thread(target=_move_jaws, args=(gripper.set_target, stop))
                mover.start()
                shared.append(_stream(rig, dashboard, seconds=turn_s))
                stop.set()
                mover.join()
    late_alone, late_shared = (np.concatenate([turn[0] for turn in turns]) for turns in (alone, shared))
    reply_alone, reply_shared = (np.concatenate([turn[1] for turn in turns]) for turns in (alone, shared))
    added_ms = _p99(late_shared) - _p99(late_alone)
    control_ms = abs(_p99(alone[0][0]) - _p99(np.concatenate([turn[0] for turn in alone[1:]])))
    why = (
        "the controller carries out one command at a time and an access to the flange takes it about 20 ms, so "
        f"set-points behind one wait; while the arm is streamed to there are at most {STREAMING_RATE_HZ:g} a second"
    )
    return [
        BenchRow("servo 125 Hz alone: sending jitter p99", _p99(late_alone), "ms"),
        BenchRow("servo 125 Hz with the gripper on the flange: sending jitter p99", _p99(late_shared), "ms"),
        at_most("gripper on the flange: added sending jitter p99", added_ms, limit=1.0, unit="ms"),
        BenchRow("control: alone against alone, sending jitter p99", control_ms, "ms"),
        BenchRow("servo alone: set-points unanswered for, p99", _p99(reply_alone), "ms"),
        BenchRow(
            "servo with the gripper on the flange: set-points unanswered for, p99", _p99(reply_shared), "ms", note=why
        ),
    ]


def _stream(rig: RigConfig, dashboard: DashboardClient, *, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Lateness of each sending (n,) and age of the oldest unanswered set-point at it (n,), ms; the arm stands still."""
    hold = np.asarray(rig.start.joints_rad).tolist()
    servo = rig.arm.servo
    ticker = Ticker(seconds_to_ns(1.0 / servo.rate_hz), MonotonicClock())
    late, unanswered = [], []
    for _ in range(round(seconds * servo.rate_hz)):
        deadline_ns = ticker.wait()
        unanswered.append(dashboard.silent_servo_ns(time.monotonic_ns()) * 1e-6)
        dashboard.servo_j(hold, t_s=1.0 / servo.rate_hz, aheadtime=servo.aheadtime, gain=servo.gain)
        late.append((time.monotonic_ns() - deadline_ns) * 1e-6)
    time.sleep(0.5)
    return np.array(late), np.array(unanswered)


def _move_jaws(set_target: Callable[[float], None], stop: threading.Event) -> None:
    target = 0.0
    while not stop.wait(1.0 / TARGETS_HZ):
        target = 1.0 - target
        set_target(target)


def _enable(rig: RigConfig, dashboard: DashboardClient) -> None:
    payload = rig.arm.payload
    with FeedbackReader(rig.arm.host, port=rig.arm.feedback_port) as feedback:
        if feedback.wait(timeout_s=3.0).robot_mode == RobotMode.POWEROFF:
            dashboard.power_on()
            _wait_for_mode(feedback, RobotMode.DISABLED)
        dashboard.enable(mass_kg=payload.mass_kg, center_of_mass_m=payload.center_of_mass_m)
        _wait_for_mode(feedback, RobotMode.ENABLE)


def _wait_for_mode(feedback: FeedbackReader, mode: RobotMode) -> None:
    deadline_s = time.monotonic() + ENABLE_S
    while feedback.wait(timeout_s=3.0).robot_mode != mode:
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"expected the twin in mode {mode.name} within {ENABLE_S:g} s; look at its log")


def _p99(values: np.ndarray) -> float:
    return float(np.percentile(values, 99))


# -- the twin ---------------------------------------------------------------------------------------------------------


@contextmanager
def _twin() -> Iterator[RigConfig]:
    """A twin without cameras on free ports, its gripper on the flange; gone with the context."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        content = yaml.safe_load((CONFIGS / "rigs" / "twin.yaml").read_text(encoding="utf-8"))
        dashboard, feedback, slow, control = _free_ports(4)
        content["name"] = "bench-drivers"
        content["arm"].update(dashboard_port=dashboard, feedback_port=feedback, slow_feedback_port=slow)
        content["gripper"]["route"] = "flange"
        content["twin"]["control_port"] = control
        path = folder / "bench-drivers.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        rig = load_rig(path)
        twin = Child(
            "the twin",
            module="robot.twin.server",
            args=["--rig", str(path), "--headless", "--no-cameras"],
            log_path=folder / "twin.log",
            environment={"NOVA_PI_RUNTIME_DIR": scratch},
        )
        try:
            TwinControl.wait(rig, timeout_s=TWIN_START_S).close()
            yield rig
            twin.check()
        finally:
            twin.stop()


def _free_ports(count: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(server.getsockname()[1]) for server in servers]
    for server in servers:
        server.close()
    return ports
