"""What robotd does when something fails: stop sending, latch, say why, and go on only after an operator's word."""

import time
from itertools import pairwise

import pytest

from robot.arm.protocol import RobotMode
from robot.daemon.errors import AcknowledgeError, FaultError, StateError
from robot.daemon.servo_core import Activity
from robot.faults import FAULTS, Fault, describe
from robot.gripper.modbus import InitState, Register
from robot.ring import RingReader
from robot.runtime import ring_name
from robot.state import GripperStatus, MachineState


def is_fault(client, fault):
    return lambda: client.status().fault is fault


def streaming(client, ramp, eventually):
    client.send_waypoints(ramp(seconds=4.0, speed_rad_s=0.1))
    assert eventually(lambda: client.state().joints_rad[0] > 0.005)


def last_activity(bench):
    return Activity(int(RingReader(ring_name(bench.rig.name, "servo")).latest().value["activity"]))


def assert_silent(controller):
    time.sleep(0.05)  # what was under way has arrived
    sent = len(controller.servo_requests())
    time.sleep(0.15)
    assert len(controller.servo_requests()) == sent


def test_an_alarm_stops_the_stream_is_explained_and_is_never_cleared_by_itself(bench, client, ramp, eventually):
    streaming(client, ramp, eventually)
    bench.controller.raise_alarm(50)
    assert eventually(is_fault(client, Fault.ARM_ALARM))
    assert_silent(bench.controller)
    assert eventually(lambda: "joint 3 was commanded faster" in client.status().fault_text)
    with pytest.raises(FaultError, match="joint 3"):
        client.send_waypoints(ramp())
    with pytest.raises(AcknowledgeError, match="alarm 50"):
        client.acknowledge()
    assert "ClearError" not in bench.controller.names()
    client.acknowledge(clear_alarm=True)
    assert client.status().machine_state is MachineState.READY
    assert client.send_waypoints(ramp(start=client.state().joints_rad)).accepted > 0


def test_an_emergency_stop_is_told_apart_from_other_alarms(bench, client, ramp, eventually):
    streaming(client, ramp, eventually)
    bench.controller.raise_alarm(116)
    assert eventually(is_fault(client, Fault.EMERGENCY_STOP))
    assert_silent(bench.controller)


@pytest.mark.parametrize(
    ("mode", "fault"),
    [
        (RobotMode.COLLISION, Fault.COLLISION),
        (RobotMode.BACKDRIVE, Fault.DRAG_MODE),
        (RobotMode.DISABLED, Fault.ARM_DISABLED),
        (RobotMode.POWEROFF, Fault.ARM_DISABLED),
        (RobotMode.SINGLE_MOVE, Fault.CONTROL_TAKEN),
    ],
)
def test_a_mode_that_is_not_ours_is_a_fault(bench, client, ramp, eventually, mode, fault):
    streaming(client, ramp, eventually)
    bench.controller.mode = int(mode)
    assert eventually(is_fault(client, fault))
    assert_silent(bench.controller)
    assert last_activity(bench) is Activity.FOLLOW, "silence, not even braking: the controller stops the arm"


def test_the_fault_is_in_the_state_ring_too(bench, client, eventually):
    bench.controller.mode = int(RobotMode.BACKDRIVE)
    assert eventually(lambda: client.state().fault is Fault.DRAG_MODE)
    assert client.state().machine_state is MachineState.FAULT


def test_a_fault_is_acknowledged_only_when_its_cause_is_gone(bench, client, eventually):
    bench.controller.mode = int(RobotMode.BACKDRIVE)
    assert eventually(is_fault(client, Fault.DRAG_MODE))
    with pytest.raises(AcknowledgeError, match="BACKDRIVE"):
        client.acknowledge()
    bench.controller.mode = int(RobotMode.ENABLE)
    time.sleep(0.05)
    assert client.status().machine_state is MachineState.FAULT, "going away is not enough"
    client.acknowledge()
    assert client.status().machine_state is MachineState.READY
    with pytest.raises(StateError, match="no fault"):
        client.acknowledge()


@pytest.mark.parametrize("how", ["feedback_paused", "clock_stopped"])
def test_feedback_that_stops_or_stands_still_stops_the_stream(bench, robotd, client, ramp, eventually, how):
    streaming(client, ramp, eventually)
    setattr(bench.controller.faults, how, True)
    assert eventually(is_fault(client, Fault.FEEDBACK_STALE))
    assert_silent(bench.controller)
    robotd.heartbeat()
    assert client.state().machine_state is MachineState.FAULT, "the ring says so although no packet comes"


def test_a_lost_command_connection_is_a_fault_and_the_operators_word_connects_again(bench, client, ramp, eventually):
    streaming(client, ramp, eventually)
    bench.controller.drop("dashboard")
    assert eventually(is_fault(client, Fault.DASHBOARD_LOST))
    sent = len(bench.controller.servo_requests())
    client.acknowledge()
    assert client.status().machine_state is MachineState.DISABLED, "the controller has forgotten our settings"
    client.enable()
    assert len(bench.controller.servo_requests()) == sent, "no motion is sent again"
    assert client.send_waypoints(ramp(start=client.state().joints_rad)).accepted > 0


def test_leaving_tcp_mode_is_a_fault(bench, client, ramp, eventually):
    streaming(client, ramp, eventually)
    bench.controller.faults.not_tcp = True
    assert eventually(is_fault(client, Fault.NOT_TCP_MODE))


def test_an_arm_that_runs_although_nothing_is_sent_is_moved_by_somebody_else(bench, client, eventually):
    bench.controller.mode = int(RobotMode.RUNNING)
    assert eventually(is_fault(client, Fault.CONTROL_TAKEN))


def test_lost_feedback_bytes_are_noted_and_disturb_nothing(bench, robotd, client, eventually):
    bench.controller.faults.garbage = b"\x01\x02" * 50
    assert eventually(lambda: robotd.heartbeat() or client.guard_events().get("feedback_misframed"))
    assert client.status().machine_state is MachineState.READY


def test_a_refused_set_point_is_a_fault(bench, client, ramp, eventually):
    streaming(client, ramp, eventually)
    bench.controller.faults.reply_codes["ServoJ"] = -1
    assert eventually(is_fault(client, Fault.SETPOINT_REFUSED))
    assert_silent(bench.controller)


def test_a_dropped_reply_disturbs_nothing(bench, client, ramp, eventually):
    streaming(client, ramp, eventually)
    bench.controller.faults.drop_replies["ServoJ"] = 3
    assert eventually(lambda: client.status().servo.lost_replies >= 3)
    assert client.status().machine_state is MachineState.STREAMING


def test_a_slow_controller_gets_skipped_periods_and_no_jump_afterwards(bench, client, ramp, eventually):
    streaming(client, ramp, eventually)
    bench.controller.faults.hold_replies = True
    assert eventually(lambda: client.status().servo.skipped >= 20)
    bench.controller.release_held_replies()
    before = client.status().servo.ticks
    assert eventually(lambda: client.status().servo.ticks > before + 10)
    joint = [angles[0] for _, angles in bench.controller.servo_requests()]
    steps = [abs(after - earlier) for earlier, after in pairwise(joint)]
    largest_deg = 57.3 * bench.rig.limits.max_joint_speed_rad_s / bench.rig.arm.servo.rate_hz
    assert max(steps) <= largest_deg * 1.01
    assert client.status().machine_state is MachineState.STREAMING


def test_a_controller_that_never_answers_set_points_again_is_a_fault(bench, client, ramp, eventually):
    streaming(client, ramp, eventually)
    bench.controller.faults.hold_replies = True
    assert eventually(is_fault(client, Fault.SERVO_REPLIES_MISSING))


def test_a_silent_gripper_brakes_and_latches(bench, client, ramp, eventually):
    streaming(client, ramp, eventually)
    bench.gripper.faults.silent = True
    assert eventually(is_fault(client, Fault.GRIPPER_SILENT))
    assert eventually(lambda: last_activity(bench) is Activity.BRAKE)
    assert client.state().gripper_status is GripperStatus.UNKNOWN
    assert eventually(lambda: client.status().at_rest)
    with pytest.raises(AcknowledgeError, match="gripper still does not answer"):
        client.acknowledge()
    bench.gripper.faults.silent = False
    assert eventually(lambda: client.state().gripper_status is GripperStatus.REACHED)
    client.acknowledge()
    assert client.status().machine_state is MachineState.READY


def test_a_gripper_that_lost_its_initialisation_is_a_fault(bench, client, eventually):
    bench.gripper.faults.silent = True
    assert eventually(lambda: client.state().gripper_status is GripperStatus.UNKNOWN)
    bench.gripper.registers[Register.INIT_STATE] = int(InitState.NOT_INITIALISED)
    bench.gripper.faults.silent = False
    assert eventually(lambda: client.status().fault in (Fault.GRIPPER_NOT_INITIALISED, Fault.GRIPPER_SILENT))
    assert eventually(lambda: client.state().gripper_status is GripperStatus.NOT_INITIALISED)
    client.acknowledge()
    assert client.status().machine_state is MachineState.DISABLED
    client.enable()
    assert client.state().gripper_status is GripperStatus.REACHED


def test_a_lost_object_is_noted(bench, client, eventually):
    bench.gripper.registers[Register.GRIP_STATE] = 3
    assert eventually(lambda: client.guard_events().get("object_lost") == 1)


def test_every_fault_has_a_row_with_a_text():
    assert set(FAULTS) == set(Fault)
    assert describe(Fault.COLLISION, detail="mode 11").startswith("COLLISION (402): the arm detected a collision")
