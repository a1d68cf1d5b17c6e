"""The doctor on a running twin: all green, and each fault turns exactly its own line red."""

import json
import time
from datetime import date

import pytest

from configs.schema import load_rig
from robot.arm.dashboard import DashboardClient
from robot.doctor import camera_checks, first_day
from robot.doctor.check import Status
from robot.doctor.examine import examine, examine_devices
from robot.doctor.main import main
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


def test_on_a_healthy_twin_every_line_is_green(twin):
    checks = examine(twin.rig, today=date(2026, 1, 1))
    dull = {check.name: check.found for check in checks if check.status is not Status.GREEN}
    assert not set(dull) - {"disk"}, dull
    assert len(checks) > 20


CAMERAS = {"camera exterior", "camera wrist"}


@pytest.mark.parametrize(
    ("lines", "fault", "arguments"),
    [
        ({"gripper"}, TwinFault.GRIPPER_SILENT, {}),
        ({"gripper"}, TwinFault.GRIPPER_CAN_BOX, {}),
        ({"camera exterior"}, TwinFault.CAMERA_UNPLUG, {"camera": "exterior"}),
        ({"camera wrist"}, TwinFault.CAMERA_FREEZE, {"camera": "wrist"}),
        ({"camera wrist"}, TwinFault.CAMERA_BLACK, {"camera": "wrist"}),
        ({"camera exterior"}, TwinFault.CAMERA_LATE, {"camera": "exterior"}),
        ({"camera exterior"}, TwinFault.CAMERA_FPS, {"camera": "exterior"}),
        (CAMERAS, TwinFault.CAMERA_SWAP, {}),
        ({"feedback"}, TwinFault.FEEDBACK_SILENT, {}),
        ({"feedback"}, TwinFault.FEEDBACK_STUCK, {}),
        ({"command port"}, TwinFault.DASHBOARD_OCCUPIED, {}),
        ({"control mode"}, TwinFault.NOT_TCP, {}),
    ],
)
def test_a_fault_turns_its_own_line_red_and_no_other(twin, lines, fault, arguments, monkeypatch):
    monkeypatch.setattr(camera_checks, "PATIENCE_S", 0.0)  # this test has its own
    twin.control.fault(fault, **arguments)
    seen = []
    try:
        if lines <= CAMERAS:  # enough of its pictures must have come
            wait_for(lambda: red(camera_checks.all_checks(twin.rig, usb=[])) == lines)
        wait_for(lambda: seen.append(examine_devices(twin.rig)) or red(seen[-1]) == lines)
    finally:
        twin.control.mend()
    assert all(check.fix for check in seen[-1] if check.status is Status.RED)
    if lines <= CAMERAS:
        wait_for(lambda: red(camera_checks.all_checks(twin.rig, usb=[])) == set())


def test_mended_it_is_green_again(twin):
    wait_for(lambda: red(examine_devices(twin.rig)) == set())


def test_a_gripper_with_another_id_is_found(twin):
    twin.control.fault(TwinFault.GRIPPER_WRONG_ID, id=5)
    seen = []
    try:  # a busy machine may answer too late for the first search
        wait_for(lambda: seen.append(examine_devices(twin.rig)) or "slave_id: 5" in found(seen[-1], "gripper"))
    finally:
        twin.control.fault(TwinFault.GRIPPER_WRONG_ID, id=1)
    assert red(seen[-1]) == {"gripper"}


def test_a_second_client_turns_the_command_port_red_and_says_so(twin):
    with DashboardClient(twin.rig.arm.host, port=twin.rig.arm.dashboard_port) as other:
        other.robot_mode()
        checks = examine_devices(twin.rig)
    assert red(checks) == {"command port"}
    assert "another client" in found(checks, "command port")


def test_an_alarm_is_told_in_words_and_the_way_back_is_walked_question_by_question(twin):
    twin.control.fault(TwinFault.ESTOP, pressed=True)
    time.sleep(0.3)
    checks = examine_devices(twin.rig)
    assert red(checks) == {"alarms"}
    assert "mergency" in found(checks, "alarms")
    twin.control.fault(TwinFault.ESTOP, pressed=False)
    result = twin.folder / "recover.json"
    assert main(["recover", "--rig", str(twin.path), "--yes", "--json", str(result)]) == 0
    content = json.loads(result.read_text())
    assert content["ok"]
    assert content["steps"][-1] == {"name": "EnableRobot", "mode": "ENABLE (5)"}
    assert red(examine_devices(twin.rig)) == set()


def test_hand_guiding_from_the_pendant_is_the_modes_line(twin):
    assert main(["recover", "--rig", str(twin.path), "--yes"]) == 0
    twin.control.fault(TwinFault.PENDANT_DRAG)
    try:
        wait_for(lambda: red(examine_devices(twin.rig)) == {"robot mode"})
    finally:
        twin.control.mend()
    wait_for(lambda: red(examine_devices(twin.rig)) == set())


def test_the_first_day_is_walked_through_and_its_answers_land_in_a_copy(twin, monkeypatch):
    monkeypatch.setattr(first_day, "TRIAL_S", 0.5)
    monkeypatch.setattr(first_day, "WATCH_S", 0.3)
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
        wait_for(lambda: any("held by robotd" in check.found for check in examine_devices(twin.rig)))
        checks = examine_devices(twin.rig)
        assert red(checks) == set()
        assert "says robotd" in found(checks, "gripper")
        assert main(["recover", "--rig", str(twin.path), "--yes"]) == 1
    finally:
        robotd.stop()
