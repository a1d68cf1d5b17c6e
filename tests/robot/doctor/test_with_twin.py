"""The doctor on a running twin: all green, and each fault turns exactly its own line red."""

import json
import time
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import pytest

from configs.schema import load_rig
from robot.arm.dashboard import DashboardClient
from robot.arm.errors import ArmError
from robot.arm.motions import ControllerMotions, Pace
from robot.arm.protocol import RobotMode
from robot.daemon import RobotClient
from robot.daemon.lock import holder_pid
from robot.doctor import arm_view, camera_checks, first_day, recover
from robot.doctor.check import Status
from robot.doctor.examine import examine, examine_devices
from robot.doctor.main import main
from robot.gripper import link
from robot.processes import Child
from robot.twin.control import TwinFault


def red(checks):
    return {check.name for check in checks if check.status is Status.RED}


def found(checks, name):
    return next(check.found for check in checks if check.name == name)


def wait_for(condition, timeout_s=40.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def hurried(monkeypatch):
    """Short looks and time-outs: these tests look again until they see what they expect."""
    monkeypatch.setattr(camera_checks, "PATIENCE_S", 0.0)
    monkeypatch.setattr(arm_view, "FEEDBACK_WATCH_S", 0.15)
    monkeypatch.setattr(arm_view, "PACKET_TIMEOUT_S", 0.5)
    monkeypatch.setattr(link, "REPLY_TIMEOUT_S", 0.06)
    monkeypatch.setattr(link, "_PROBED_SLAVES", range(1, 7))


def with_dashboard(twin, act):
    """``act(dashboard)`` as soon as the controller lets somebody in."""

    def attempt():
        try:
            with DashboardClient(twin.rig.arm.host, port=twin.rig.arm.dashboard_port) as dashboard:
                return act(dashboard) is not False
        except ArmError:
            return False

    wait_for(attempt)


def clear(twin):
    with_dashboard(twin, lambda dashboard: dashboard.clear_error())


def make_ready(twin, *, move):
    """The arm enabled and at rest, or on a slow way."""

    def act(dashboard):
        mode = dashboard.robot_mode()
        if mode is RobotMode.POWEROFF:
            dashboard.power_on()
        elif mode is RobotMode.DISABLED:
            dashboard.enable(mass_kg=1.0, center_of_mass_m=(0.0, 0.0, 0.08))
        elif mode is RobotMode.ENABLE:
            if move:
                aside = twin.rig.start.joints_rad + np.array([0.3, 0, 0, 0, 0, 0])
                ControllerMotions(dashboard).move_joints(aside, pace=Pace(speed_percent=1))
            return True
        return False

    with_dashboard(twin, act)


def test_on_a_healthy_twin_every_line_is_green(twin):
    checks = examine(twin.rig, today=date(2026, 1, 1))
    dull = {check.name: check.found for check in checks if check.status is not Status.GREEN}
    assert not set(dull) - {"disk"}, dull
    assert len(checks) > 20


@dataclass(frozen=True)
class Broken:
    """A fault of the twin: the doctor's lines that it turns red, and how it is switched."""

    fault: TwinFault
    lines: frozenset[str]
    arguments: dict[str, Any] = field(default_factory=dict)
    enabled: bool = False
    """The arm must be enabled for it to matter."""
    moving: bool = False


def broken(fault, *lines, enabled=False, moving=False, **arguments):
    return Broken(fault, frozenset(lines), arguments, enabled=enabled or moving, moving=moving)


ITS_OWN_LINE = (
    broken(TwinFault.GRIPPER_SILENT, "gripper"),
    broken(TwinFault.GRIPPER_NOISE, "gripper"),
    broken(TwinFault.GRIPPER_WRONG_ID, "gripper", id=5),
    broken(TwinFault.GRIPPER_CAN_BOX, "gripper"),
    broken(TwinFault.GRIPPER_POWER, "gripper", on=False),
    broken(TwinFault.CAMERA_UNPLUG, "camera exterior", camera="exterior"),
    broken(TwinFault.CAMERA_FREEZE, "camera wrist", camera="wrist"),
    broken(TwinFault.CAMERA_BLACK, "camera wrist", camera="wrist"),
    broken(TwinFault.CAMERA_LATE, "camera exterior", camera="exterior"),
    broken(TwinFault.CAMERA_FPS, "camera exterior", camera="exterior"),
    broken(TwinFault.CAMERA_EXPOSURE, "camera wrist", camera="wrist"),
    broken(TwinFault.CAMERA_SWAP, "camera exterior", "camera wrist"),
    broken(TwinFault.FEEDBACK_SILENT, "feedback"),
    broken(TwinFault.FEEDBACK_STUCK, "feedback"),
    broken(TwinFault.DASHBOARD_OCCUPIED, "command port"),
    broken(TwinFault.NOT_TCP, "control mode"),
    broken(TwinFault.ALARM, "alarms", id=50),
    broken(TwinFault.COLLISION, "alarms"),
    broken(TwinFault.ESTOP, "alarms"),
    broken(TwinFault.PENDANT_DRAG, "robot mode", enabled=True),
    broken(TwinFault.PENDANT_SCRIPT, "robot mode", enabled=True),
    broken(TwinFault.PENDANT_PAUSE, "robot mode", moving=True),
)
BORNE = (
    broken(TwinFault.FEEDBACK_DROP),
    broken(TwinFault.FEEDBACK_MISFRAMED),
    broken(TwinFault.FEEDBACK_BACKLOG),
    broken(TwinFault.FEEDBACK_RESETS),
    broken(TwinFault.DASHBOARD_DROP),
    broken(TwinFault.DASHBOARD_LINGER, seconds=0.2),
    broken(TwinFault.DASHBOARD_DELAY),
    broken(TwinFault.SPLIT_REPLIES),
    broken(TwinFault.COALESCE_REPLIES),
    broken(TwinFault.OLD_ERROR_LIST),
    broken(TwinFault.NO_RESULT_IDS),
    broken(TwinFault.PENDANT_DISABLE),
    broken(TwinFault.REFUSE),
    broken(TwinFault.PUSH, force_n=[0, 0, 1]),
    broken(TwinFault.GRIPPER_OBJECT),
    broken(TwinFault.OBJECT_LOST),
    broken(TwinFault.FLANGE_GATEWAY),
    broken(TwinFault.FLANGE_POWER_DROPS),
    broken(TwinFault.DIGITAL_INPUT),
    broken(TwinFault.CLOCK_JUMP),
)
"""What the stack bears or sees only while it works: a job can start, so no line is red."""
DEPENDS_ON_THE_MACHINE = {TwinFault.CPU_HOG}


def test_every_fault_of_the_twin_is_looked_at_by_the_doctor():
    looked_at = [row.fault for row in (*ITS_OWN_LINE, *BORNE)]
    assert len(looked_at) == len(set(looked_at))
    assert set(looked_at) | DEPENDS_ON_THE_MACHINE == set(TwinFault)


def looks_only_at_cameras(lines):
    return all(line.startswith("camera ") for line in lines)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("row", ITS_OWN_LINE, ids=lambda row: row.fault.value)
def test_a_fault_turns_its_own_line_red_and_no_other(twin, row):
    if row.enabled:
        make_ready(twin, move=row.moving)
    twin.control.fault(row.fault, **row.arguments)
    seen = []
    try:
        if looks_only_at_cameras(row.lines):  # enough of its pictures must have come
            wait_for(lambda: red(camera_checks.all_checks(twin.rig, usb=[])) == row.lines)
        wait_for(lambda: seen.append(examine_devices(twin.rig)) or red(seen[-1]) == row.lines)
    finally:
        twin.control.mend()
        clear(twin)
    assert all(check.fix for check in seen[-1] if check.status is Status.RED)
    if row.fault is TwinFault.GRIPPER_WRONG_ID:
        assert "slave_id: 5" in found(seen[-1], "gripper")
    if looks_only_at_cameras(row.lines):
        wait_for(lambda: red(camera_checks.all_checks(twin.rig, usb=[])) == set())


@pytest.mark.usefixtures("hurried")
def test_what_the_stack_bears_turns_no_line_red(twin):
    try:
        for row in BORNE:
            twin.control.fault(row.fault, **row.arguments)
        wait_for(lambda: red(examine_devices(twin.rig)) == set())
    finally:
        twin.control.mend()


@pytest.mark.usefixtures("hurried")
def test_mended_it_is_green_again(twin):
    wait_for(lambda: red(examine_devices(twin.rig)) == set())


def test_a_second_client_turns_the_command_port_red_and_says_so(twin):
    with DashboardClient(twin.rig.arm.host, port=twin.rig.arm.dashboard_port) as other:
        other.robot_mode()
        checks = examine_devices(twin.rig)
    assert red(checks) == {"command port"}
    assert "another client" in found(checks, "command port")


def test_an_alarm_is_told_in_words_and_the_way_back_is_walked_question_by_question(twin, capsys, monkeypatch):
    monkeypatch.setattr(recover, "SETTLE_S", 0.1)
    twin.control.fault(TwinFault.ESTOP, pressed=True)
    time.sleep(0.3)
    checks = examine_devices(twin.rig)
    assert "mergency" in found(checks, "alarms")
    assert main(["recover", "--rig", str(twin.path), "--yes"]) == 1
    assert "springs out" in capsys.readouterr().err, "the button is still down, whatever was answered"
    twin.control.fault(TwinFault.ESTOP, pressed=False)
    result = twin.folder / "recover.json"
    assert main(["recover", "--rig", str(twin.path), "--yes", "--json", str(result)]) == 0
    content = json.loads(result.read_text())
    assert content["ok"]
    assert content["steps"][-1] == {"name": "EnableRobot", "mode": "ENABLE (5)"}
    assert red(examine_devices(twin.rig)) == set()


@pytest.mark.slow
def test_the_first_day_is_walked_through_and_its_answers_land_in_a_copy(twin, monkeypatch):
    monkeypatch.setattr(first_day, "TRIAL_S", 0.4)
    monkeypatch.setattr(first_day, "RATES_HZ", (33.0, 125.0))
    monkeypatch.setattr(first_day, "WATCH_S", 0.2)
    monkeypatch.setattr(first_day, "EXTRA_WATCH_S", 1.1)
    before = twin.path.read_text()
    target, result = twin.folder / "out" / "answers.yaml", twin.folder / "commission.json"
    arguments = ["commission", "--rig", str(twin.path), "--yes", "--output", str(target), "--json", str(result)]
    assert main(arguments) == 0, [q for q in json.loads(result.read_text())["questions"] if q["problem"]]
    assert twin.path.read_text() == before
    answers = load_rig(target).commissioning
    assert answers["queue_ids"].value is True
    assert answers["error_id_shape"].value in ("flat", "nested")
    assert answers["gripper_low_permille_closes"].value is True
    assert answers["servo_disconnect_overshoot"].value == pytest.approx(0.0, abs=0.02)
    assert answers["servo_rate"].value in (33.0, 62.5, 125.0)
    assert json.loads(result.read_text())["ok"]


def test_beside_a_running_robotd_the_doctor_asks_it_and_says_so(twin, tmp_path):
    robotd = Child("robotd", module="robot.daemon", args=["--rig", str(twin.path)], log_path=tmp_path / "log")
    try:
        wait_for(lambda: holder_pid(twin.rig.name) is not None)
        seen = examine_devices(twin.rig)
        RobotClient.connect(twin.rig, name="test", timeout_s=40.0).close()
        assert red(seen) == set(), "a robotd that is starting is left alone"
        checks = examine_devices(twin.rig)
        assert red(checks) == set()
        assert "held by robotd" in found(checks, "command port")
        assert "says robotd" in found(checks, "gripper")
        assert main(["recover", "--rig", str(twin.path), "--yes"]) == 1
    finally:
        robotd.stop()
