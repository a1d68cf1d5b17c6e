"""The whole twin as a process, on its real wires."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import serial

from configs.schema import load_rig
from robot.arm.protocol import FEEDBACK_BYTES, RobotMode, decode_feedback
from robot.gripper.modbus import Register, parse_read_reply, read_request
from robot.runtime import resolve_device, ring_name
from robot.twin.control import HOST, TwinControl, TwinControlError, TwinFault
from robot.twin.server import main


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def shared_memory(rig_name: str) -> list[str]:
    prefix = ring_name(rig_name, "")
    return [path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(prefix)]


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def switch_on(client) -> None:
    """The dialogue that any driver has with the controller."""
    wait_until(lambda: client.ask("RobotMode()") != "0,{1},RobotMode();")
    client.ask("EmergencyStop(0)")
    client.ask("ClearError()")
    client.ask("PowerOn()")
    wait_until(lambda: client.ask("RobotMode()") in ("0,{4},RobotMode();", "0,{5},RobotMode();"))
    client.ask("EnableRobot(1.0,0,0,80)")
    wait_until(lambda: client.ask("RobotMode()") == "0,{5},RobotMode();")


@pytest.fixture
def client(twin, connect):
    """A client of the controller with the arm enabled; waits for the port that the last test's client had."""
    deadline = time.monotonic() + 10
    while True:
        client = connect(twin.rig.arm.dashboard_port)
        client.send("RobotMode()")
        if client.socket.recv(1) == b"0":
            client.read(1)
            switch_on(client)
            return client
        client.close()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def control(twin):
    with TwinControl.connect(twin.rig) as control:
        yield control


def packet(twin) -> np.void:
    with socket.create_connection((HOST, twin.rig.arm.feedback_port), timeout=10) as connection:
        return decode_feedback(connection.recv(FEEDBACK_BYTES, socket.MSG_WAITALL))


def test_a_servo_stream_moves_the_simulated_arm_and_its_end_holds_it(twin, client) -> None:
    for tick in range(1, 41):
        client.ask(f"ServoJ({0.1 * tick:.3f},0,-90,0,90,0,t=0.02)")
    wait_until(lambda: packet(twin)["robot_mode"] == RobotMode.ENABLE)
    wait_until(lambda: abs(packet(twin)["q_actual"][0] - 4.0) < 0.1)
    held = packet(twin)
    assert np.abs(held["qd_actual"]).max() < 0.5
    assert held["current_command_id"] >= 40
    client.ask("MovJ(joint={0,0,-90,0,90,0},v=30)")
    wait_until(lambda: abs(packet(twin)["q_actual"][0]) < 0.1)


def test_packets_come_each_eight_milliseconds_of_the_controllers_time(twin) -> None:
    with socket.create_connection((HOST, twin.rig.arm.feedback_port), timeout=10) as connection:
        times = [
            int(decode_feedback(connection.recv(FEEDBACK_BYTES, socket.MSG_WAITALL))["run_time"]) for _ in range(100)
        ]
    assert set(np.diff(times)) == {8}


@pytest.mark.usefixtures("runtime_of_twin")
def test_the_gripper_answers_at_the_rigs_port(twin) -> None:
    device = resolve_device(twin.rig.name, twin.rig.gripper.port)
    with serial.Serial(device, 115200, timeout=2.0) as line:
        line.write(read_request(1, address=Register.POSITION_PERMILLE))
        (position,) = parse_read_reply(line.read(7), slave_id=1, count=1)
    assert position > 950


def test_status_tells_how_it_runs(twin, control) -> None:
    status = control.status()
    assert status["ready"]
    assert status["rig"] == twin.rig.name
    assert status["pid"] == twin.process.pid
    assert status["slices"] > 0


def test_a_reset_moves_objects_by_its_seed_and_leaves_the_arm(twin, client, control) -> None:
    client.ask("MovJ(joint={6,0,-90,0,90,0})")
    wait_until(lambda: client.ask("RobotMode()") == "0,{5},RobotMode();")
    control.reset(5, task="can")
    first = control.objects()
    assert set(first) == {"cup", "can", "tape", "plate"}
    assert abs(packet(twin)["q_actual"][0] - 6.0) < 0.1
    control.reset(6)
    assert control.objects()["cup"] != first["cup"]
    control.reset(5)
    np.testing.assert_allclose(control.objects()["cup"].position_m, first["cup"].position_m, atol=1e-3)
    control.reset(5, arm=True)
    wait_until(lambda: abs(packet(twin)["q_actual"][0]) < 0.1)


def test_a_reset_is_refused_while_the_arm_moves(client, control) -> None:
    client.ask("MovJ(joint={20,0,-90,0,90,0},v=5)")
    wait_until(lambda: client.ask("RobotMode()") == "0,{7},RobotMode();")
    time.sleep(0.2)
    with pytest.raises(TwinControlError, match="arm moves"):
        control.reset(1)
    client.ask("Stop()")
    client.ask("MovJ(joint={0,0,-90,0,90,0})")
    wait_until(lambda: client.ask("RobotMode()") == "0,{5},RobotMode();")


def test_the_task_is_judged(control) -> None:
    control.reset(2, task="cup")
    result = control.success()
    assert not result.success
    assert "off plate" in result.flaws
    assert result.best_stage == "start"
    with pytest.raises(TwinControlError, match="cup, can, tape"):
        control.success("banana")


def test_wrong_control_requests_are_answered_and_harm_nobody(twin, control) -> None:
    for line, expected in (
        (b"nonsense\n", "JSON"),
        (b"[1]\n", "op"),
        (b'{"op": "dance"}\n', "unknown op"),
        (b'{"op": "reset", "seed": "x"}\n', "seed"),
        (b'{"op": "reset", "sed": 1}\n', "sed"),
        (b'{"op": "fault", "name": "rain"}\n', "unknown fault"),
    ):
        with socket.create_connection((HOST, twin.rig.twin.control_port), timeout=10) as connection:
            connection.sendall(line)
            reply = json.loads(connection.makefile().readline())
        assert not reply["ok"]
        assert expected in reply["error"]
    assert control.status()["ready"]


def test_the_emergency_stop_button_and_alarms_can_be_rehearsed(client, control) -> None:
    control.fault(TwinFault.ESTOP, pressed=True)
    assert client.ask("RobotMode()") == "0,{9},RobotMode();"
    assert client.ask("GetErrorID()") == "0,{[116]},GetErrorID();"
    control.fault(TwinFault.ESTOP, pressed=False)
    client.ask("ClearError()")
    control.fault(TwinFault.ALARM, id=54)
    assert client.ask("GetErrorID()") == "0,{[54]},GetErrorID();"
    client.ask("ClearError()")


def test_a_push_beyond_the_collision_level_is_a_collision(client, control) -> None:
    client.ask("SetCollisionLevel(3)")
    control.fault(TwinFault.PUSH, force_n=[0, 0, 150], duration_s=0.3)
    wait_until(lambda: client.ask("RobotMode()") == "0,{11},RobotMode();")
    time.sleep(0.5)  # the push outlasts the collision
    client.ask("ClearError()")
    assert client.ask("RobotMode()") == "0,{5},RobotMode();"


def test_an_arm_that_is_hand_guided_gives_way_to_a_force_and_stays_where_it_was_led(twin, client, control) -> None:
    client.ask("StartDrag()")
    before = packet(twin)["tool_vector_actual"][:3].copy()
    control.fault(TwinFault.PUSH, force_n=[0, 30, 0], duration_s=0.4)
    wait_until(lambda: packet(twin)["tool_vector_actual"][1] > before[1] + 20.0)
    time.sleep(0.45)
    led = packet(twin)["tool_vector_actual"][:3].copy()
    client.ask("StopDrag()")
    assert client.ask("RobotMode()") == "0,{5},RobotMode();"
    time.sleep(0.3)
    np.testing.assert_allclose(packet(twin)["tool_vector_actual"][:3], led, atol=2.0)
    client.ask("MovJ(joint={0,0,-90,0,90,0})")
    wait_until(lambda: client.ask("RobotMode()") == "0,{5},RobotMode();")


def test_a_push_is_felt_as_a_force_at_the_tool(twin, client, control) -> None:
    client.ask("SetCollisionLevel(0)")
    control.fault(TwinFault.PUSH, force_n=[0, 0, 40], duration_s=0.5)
    wait_until(lambda: packet(twin)["tcp_force"][2] > 25.0)
    client.ask("SetCollisionLevel(3)")
    wait_until(lambda: abs(packet(twin)["tcp_force"][2]) < 2.0)


@pytest.mark.usefixtures("runtime_of_twin")
def test_dropped_connections_and_a_silent_gripper_can_be_rehearsed(twin, client, control) -> None:
    with socket.create_connection((HOST, twin.rig.arm.feedback_port), timeout=10) as connection:
        connection.recv(FEEDBACK_BYTES, socket.MSG_WAITALL)
        control.fault(TwinFault.FEEDBACK_DROP)
        while connection.recv(65536):
            pass
    control.fault(TwinFault.GRIPPER_SILENT)
    with serial.Serial(resolve_device(twin.rig.name, "run:gripper"), 115200, timeout=0.3) as line:
        line.write(read_request(1, address=Register.INIT_STATE))
        assert line.read(1) == b""
        control.fault(TwinFault.GRIPPER_SILENT, on=False)
        line.write(read_request(1, address=Register.INIT_STATE))
        assert len(line.read(7)) == 7
    control.fault(TwinFault.DASHBOARD_DROP)
    assert client.socket.recv(100) == b""


def test_a_second_twin_on_the_same_ports_says_which_and_ends(twin) -> None:
    second = twin.start()
    _, errors = second.communicate(timeout=40)
    assert second.returncode == 1
    assert f"port {twin.rig.twin.control_port}" in errors
    assert "ss -ltnp" in errors
    assert len(errors.strip().splitlines()) == 1


def test_a_stop_signal_leaves_nothing_behind(start_twin, tmp_path: Path) -> None:
    twin = start_twin("--json", str(tmp_path / "status.json"))
    TwinControl.wait(twin.rig, timeout_s=40).close()
    link = Path(resolve_device(twin.rig.name, "run:gripper"))
    kids = children(twin.process.pid)
    assert kids
    assert link.is_symlink()
    assert len(shared_memory(twin.rig.name)) == 3
    assert twin.stop() == 0
    assert not link.is_symlink()
    assert shared_memory(twin.rig.name) == []
    wait_until(lambda: not any(is_running(pid) for pid in kids))
    assert json.loads((tmp_path / "status.json").read_text())["rig"] == twin.rig.name


@pytest.mark.slow
def test_the_twin_and_its_camera_process_end_together_whichever_is_killed(start_twin) -> None:
    twin = start_twin()
    TwinControl.wait(twin.rig, timeout_s=40).close()
    kids = children(twin.process.pid)
    twin.process.kill()
    twin.process.communicate()
    wait_until(lambda: not any(is_running(pid) for pid in kids))
    # A twin started afterwards on the same rig does not mind the left-overs.
    twin.process = twin.start()
    TwinControl.wait(twin.rig, timeout_s=40).close()
    (camera_process,) = children(twin.process.pid)
    os.kill(camera_process, signal.SIGKILL)
    _, errors = twin.process.communicate(timeout=20)
    assert twin.process.returncode == 1
    assert "camera feed ended" in errors


def test_shutdown_over_the_control_socket(start_twin) -> None:
    twin = start_twin("--no-cameras")
    with TwinControl.wait(twin.rig, timeout_s=40) as control:
        control.shutdown()
    twin.process.communicate(timeout=20)
    assert twin.process.returncode == 0
    with pytest.raises(TwinControlError, match="launch/twin"):
        TwinControl.connect(twin.rig)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["--rig", "nowhere"], "no such file"), (["--rig", "lab"], "no 'twin' section"), (["--task", "banana"], "cup")],
)
def test_bad_arguments_end_in_one_line(
    rig_file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert main(["--headless", "--rig", str(rig_file), *arguments]) == 1
    errors = capsys.readouterr().err
    assert expected in errors
    assert len(errors.strip().splitlines()) == 1
    assert not Path(resolve_device(load_rig(rig_file).name, "run:gripper")).is_symlink()
