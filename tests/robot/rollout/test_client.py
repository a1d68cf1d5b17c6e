"""The 15 Hz loop against real rings and a scripted policy server; only robotd is stood in for."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import RigConfig, load_rig
from robot.cameras import frame_dtype
from robot.cameras.exposure import TWIN_EXPOSURE_S
from robot.daemon.errors import NoLeaseError
from robot.daemon.snapshot import WaypointReply
from robot.faults import Fault
from robot.motion.waypoints import Waypoints
from robot.ring import Ring
from robot.rollout import client as client_module
from robot.rollout import policy_link
from robot.rollout.chunks import ChunkScheduler, ExecutionMode, SchedulerConfig
from robot.rollout.client import EndReason, EpisodeEnd, RolloutLoop
from robot.rollout.observation import ObservationReader
from robot.rollout.policy_link import PolicyLink, connect
from robot.rollout.steps import StepLog
from robot.runtime import ring_name
from robot.state import STATE_DTYPE, MachineState

FRAME = frame_dtype(8, 12)
PICTURE = np.zeros((), FRAME)
PICTURE["exposure_s"] = TWIN_EXPOSURE_S


class Rig:
    """Writes what camera workers and robotd write, in real time, from a thread."""

    def __init__(self, rig: RigConfig) -> None:
        self.config = rig
        self.cameras_run = True
        self.machine_state = MachineState.READY
        self.fault = Fault.NONE
        self._rings = {
            part: Ring.create(ring_name(rig.name, part), dtype=dtype, slots=slots)
            for part, dtype, slots in (
                ("camera.exterior", FRAME, 8),
                ("camera.wrist", FRAME, 8),
                ("state", STATE_DTYPE, 128),
            )
        }
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        count = 0
        while not self._stop.wait(0.008):
            now_ns = time.monotonic_ns()
            record = np.zeros((), STATE_DTYPE)
            record["gripper_capture_ns"] = now_ns
            record["machine_state"] = self.machine_state
            record["fault"] = self.fault
            self._rings["state"].write(record, capture_ns=now_ns)
            if count % 8 == 0 and self.cameras_run:
                for part in ("camera.exterior", "camera.wrist"):
                    self._rings[part].write(PICTURE, capture_ns=now_ns - 20_000_000)
            count += 1

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for ring in self._rings.values():
            ring.unlink()


@dataclass
class Arm:
    """Keeps what it is told; ``refuse`` makes it answer as robotd does when the guard takes nothing."""

    refuse: bool = False
    lease_lost: bool = False
    sent: list[Waypoints] = field(default_factory=list)
    sent_ns: list[int] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def send_waypoints(self, waypoints: Waypoints) -> WaypointReply:
        if self.lease_lost:
            raise NoLeaseError("the lease was taken back: 'page' (process 7) said stop")
        self.calls.append("waypoints")
        if self.refuse:
            return WaypointReply(0, 0, {"jump": 1}, "joint 1 is 0.5 rad away")
        self.sent.append(waypoints)
        self.sent_ns.append(time.monotonic_ns())
        return WaypointReply(len(waypoints), 0, {}, "")

    def hold(self) -> None:
        self.calls.append("hold")


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setenv("NOVA_PI_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(policy_link, "REQUEST_TIMEOUT_S", 0.4)
    monkeypatch.setattr(policy_link, "RECONNECT", policy_link.Backoff(first_s=0.02, longest_s=0.1))
    running = Rig(load_rig("twin"))
    yield running
    running.close()


Run = Callable[..., tuple[EpisodeEnd, RolloutLoop, list[dict[str, Any]]]]


@pytest.fixture
def run(rig: Rig, tmp_path: Path) -> Run:
    """Runs one episode against a server: ``run(server, arm, seconds, during=lambda loop: ...)``."""

    def go(
        server: Any,
        arm: Arm,
        seconds: float,
        *,
        mode: ExecutionMode = ExecutionMode.ASYNC,
        during: Callable[[], None] | None = None,
        done: Callable[[], bool] = lambda: False,
        stop: threading.Event | None = None,
    ) -> tuple[EpisodeEnd, RolloutLoop, list[dict[str, Any]]]:
        scheduler = ChunkScheduler(
            SchedulerConfig(
                mode=mode, fps=15, horizon=15, replan_ticks=6, blend_ticks=2, max_seam_step_rad=0.1, lead_ns=5_000_000
            )
        )
        observations = ObservationReader(rig.config)
        helper = threading.Thread(target=during) if during else None
        with PolicyLink(connect(server.uri), prompt="p") as link, StepLog(tmp_path / "steps.jsonl") as log:
            loop = RolloutLoop(
                observations=observations, link=link, arm=arm, scheduler=scheduler, log=log, rate_hz=15, done=done
            )
            if helper:
                helper.start()
            end = loop.run(time_limit_s=seconds, stop=stop or threading.Event())
            if helper:
                helper.join()
        observations.close()
        return end, loop, [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]

    return go


def test_chunks_become_waypoints_and_every_tick_is_written_down(run: Run, make_server: Callable[..., Any]) -> None:
    server, arm = make_server(), Arm()
    end, loop, steps = run(server, arm, 2.0)
    assert end.reason is EndReason.TIME_LIMIT
    assert len(arm.sent) >= 4
    assert all(late.source_id > early.source_id for early, late in zip(arm.sent, arm.sent[1:], strict=False))
    assert arm.calls[-1] == "hold", "the arm must be told to hold at the end"
    assert loop.statistics.ticks == len(steps)
    assert [step["tick"] for step in steps] == list(range(len(steps)))
    chunks = [step["chunk"] for step in steps if step["chunk"]]
    assert len(chunks) == len(arm.sent)
    assert np.array(chunks[0]["actions"]).shape == (15, 7)
    assert len(loop.statistics.observation_to_action_ms) == len(arm.sent)
    assert loop.scheduler.statistics.underruns == 0
    assert any(step["action"] is not None for step in steps)


def test_a_chunk_is_followed_when_it_comes_and_not_at_the_next_tick(run: Run, make_server: Callable[..., Any]) -> None:
    arm = Arm()
    _, _, steps = run(make_server(delay_s=0.03), arm, 3.0)
    ticks_ns = np.array([step["deadline_ns"] for step in steps])
    after_tick_ms = [(sent - ticks_ns[ticks_ns <= sent].max()) / 1e6 for sent in arm.sent_ns]
    assert float(np.median(after_tick_ms)) > 25.0, "at a tick it would be a few milliseconds"
    assert sum(step["chunk"] is not None for step in steps) == len(arm.sent), "the next tick writes it down"


def test_sync_mode_asks_only_after_the_chunk_has_been_carried_out(run: Run, make_server: Callable[..., Any]) -> None:
    arm = Arm()
    run(make_server(), arm, 2.5, mode=ExecutionMode.SYNC)
    assert 3 <= len(arm.sent) <= 6, "six of its actions are carried out before the next is asked for"
    for early, late in zip(arm.sent, arm.sent[1:], strict=False):
        assert late.source_id >= early.expiry_ns
        assert late.t_ns[0] > early.expiry_ns
        assert len(late) == 6


def test_a_killed_server_brings_no_more_waypoints_until_it_is_back(run: Run, make_server: Callable[..., Any]) -> None:
    server, arm = make_server(), Arm()
    gap: list[int] = []

    def kill_and_start_again() -> None:
        while len(arm.sent) < 2:  # the episode begins when pictures come
            time.sleep(0.01)
        server.stop()
        gap.append(time.monotonic_ns())
        time.sleep(1.5)
        gap.append(time.monotonic_ns())
        server.start()

    _, loop, steps = run(server, arm, 4.0, during=kill_and_start_again)
    # A picture is up to two tenths of a second old when it is acted on.
    early_ns, late_ns = gap[0] + 200_000_000, gap[1] - 200_000_000
    during_gap = [waypoints for waypoints in arm.sent if early_ns < waypoints.source_id < late_ns]
    assert not during_gap
    assert max(waypoints.source_id for waypoints in arm.sent) > gap[1], "it must go on with a fresh observation"
    assert loop.scheduler.statistics.failed_requests >= 1
    assert loop.scheduler.statistics.underruns > 0
    assert any(step["failure"] for step in steps)
    assert any(step["link"] == "reconnecting" for step in steps)


def test_a_server_that_hangs_does_not_stop_the_clock(run: Run, make_server: Callable[..., Any], acts: Any) -> None:
    server, arm = make_server(script=[acts.REPLY, acts.HANG]), Arm()
    _, loop, steps = run(server, arm, 2.5)
    assert loop.statistics.ticks + loop.statistics.missed_ticks >= 37
    assert any("did not come in time" in (step["failure"] or "") for step in steps)
    assert len(arm.sent) >= 2


@pytest.mark.parametrize("fault", ["NAN", "WRONG_SHAPE"])
def test_an_unusable_chunk_holds_the_arm_at_once(
    run: Run, make_server: Callable[..., Any], acts: Any, fault: str
) -> None:
    server, arm = make_server(script=[acts.REPLY, acts[fault]]), Arm()
    _, loop, steps = run(server, arm, 1.5)
    assert arm.calls[:2] == ["waypoints", "hold"]
    assert "waypoints" in arm.calls[2:], "a good chunk moves it again"
    assert loop.statistics.holds == 1
    (held,) = [step for step in steps if "unusable" in (step["note"] or "")]
    assert held["action"] is None, "what was planned before the hold is no longer followed"


def test_without_pictures_the_arm_holds_and_goes_on_when_they_are_back(
    run: Run, make_server: Callable[..., Any], rig: Rig
) -> None:
    def blind_for_a_second() -> None:
        time.sleep(0.8)
        rig.cameras_run = False
        time.sleep(1.0)
        rig.cameras_run = True

    arm = Arm()
    end, loop, steps = run(make_server(), arm, 3.0, during=blind_for_a_second)
    assert end.reason is EndReason.TIME_LIMIT
    assert loop.statistics.holds == 1
    assert loop.statistics.rejections["exterior_stale"] >= 8
    middle = arm.calls.index("hold")
    assert "waypoints" in arm.calls[middle + 1 :]
    assert any(step["rejection"] == "exterior_stale" for step in steps)


def test_a_dead_camera_ends_the_episode(
    run: Run, make_server: Callable[..., Any], rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "CAMERA_DEAD_AFTER_S", 0.5)
    rig_stop = threading.Timer(0.4, lambda: setattr(rig, "cameras_run", False))
    rig_stop.start()
    arm = Arm()
    end, _, _ = run(make_server(), arm, 10.0)
    assert end.reason is EndReason.CAMERA
    assert end.reason.aborted
    assert arm.calls[-1] == "hold"


def test_ctrl_c_holds_and_ends_within_a_tick_or_two(run: Run, make_server: Callable[..., Any], acts: Any) -> None:
    stop, arm = threading.Event(), Arm()
    threading.Timer(0.5, stop.set).start()
    end, loop, _ = run(make_server(script=[acts.REPLY, acts.HANG]), arm, 30.0, stop=stop)
    assert end.reason is EndReason.STOPPED
    assert arm.calls[-1] == "hold"
    assert loop.statistics.ticks <= 12


def test_a_fault_of_the_robot_ends_the_episode(run: Run, make_server: Callable[..., Any], rig: Rig) -> None:
    threading.Timer(0.4, lambda: setattr(rig, "machine_state", MachineState.FAULT)).start()
    arm = Arm()
    end, _, _ = run(make_server(), arm, 10.0)
    assert end.reason is EndReason.FAULT
    assert arm.calls[-1] == "hold"


def test_running_into_something_is_the_policys_failure(run: Run, make_server: Callable[..., Any], rig: Rig) -> None:
    rig.fault = Fault.COLLISION
    threading.Timer(0.4, lambda: setattr(rig, "machine_state", MachineState.FAULT)).start()
    end, _, _ = run(make_server(), Arm(), 10.0)
    assert end.reason is EndReason.COLLISION
    assert not end.reason.aborted
    assert not end.reason.in_order, "whatever the scene looks like afterwards"


def test_losing_the_lease_ends_the_episode_with_robotds_words(run: Run, make_server: Callable[..., Any]) -> None:
    end, _, _ = run(make_server(), Arm(lease_lost=True), 10.0)
    assert end.reason is EndReason.REFUSED_BY_ROBOTD
    assert "'page' (process 7) said stop" in end.detail


def test_a_policy_whose_every_chunk_the_guard_refuses_is_given_up(
    run: Run, make_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_REFUSED_CHUNKS", 3)
    end, loop, steps = run(make_server(), Arm(refuse=True), 10.0)
    assert end.reason is EndReason.GUARD
    assert not end.reason.aborted, "a policy that asks for the impossible has failed the task"
    assert loop.statistics.guard_events["jump"] == 3
    assert any("joint 1 is 0.5 rad away" in (step["note"] or "") for step in steps)


def test_a_solved_task_ends_the_episode(run: Run, make_server: Callable[..., Any]) -> None:
    started_s = time.monotonic()
    end, _, _ = run(make_server(), Arm(), 10.0, done=lambda: time.monotonic() - started_s > 0.6)
    assert end.reason is EndReason.SUCCESS


def test_an_episode_without_any_chunk_is_no_result_about_the_policy(
    run: Run, make_server: Callable[..., Any], acts: Any
) -> None:
    end, _, _ = run(make_server(script=[acts.HANG] * 9), Arm(), 1.0)
    assert end.reason is EndReason.NEVER_STARTED
    assert end.reason.aborted
    assert "of them failed" in end.detail


def test_the_arm_is_told_to_hold_even_when_the_loop_itself_breaks(run: Run, make_server: Callable[..., Any]) -> None:
    arm = Arm()

    def broken() -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(make_server(), arm, 5.0, done=broken)
    assert arm.calls == ["hold"]
