"""robotd moves the arm: enable, stream, expire, hold, move to a posture."""

import threading
import time
from math import degrees

import numpy as np
import pytest

from robot.daemon.errors import MoveInterruptedError, MoveRefusedError, NoLeaseError, StateError
from robot.motion.waypoints import Waypoints
from robot.ring import RingReader
from robot.runtime import ring_name
from robot.state import GripperStatus, MachineState


def is_state(client, state):
    return lambda: client.state().machine_state is state


def turned(bench, *changes_rad):
    """The start pose with its joints turned by so much."""
    return np.add(bench.rig.start.joints_rad, changes_rad)


def servo_records(bench, *, sent=True):
    reader = RingReader(ring_name(bench.rig.name, "servo"))
    records = [sample.value for sample in reader.last(1000)]
    return [record for record in records if record["sent"]] if sent else records


def test_enabling_powers_on_sets_the_payload_and_makes_ready(bench, client):
    assert client.status().machine_state is MachineState.READY
    names = bench.controller.names()
    assert names.index("PowerOn") < names.index("EnableRobot") < names.index("SetCollisionLevel")
    assert any(text == "EnableRobot(1.000,0.00,0.00,80.00)" for _, text in bench.controller.requests)


def test_waypoints_move_the_arm_and_their_expiry_makes_it_hold(bench, client, ramp, eventually):
    reply = client.send_waypoints(ramp(seconds=0.6))
    assert reply.accepted == 9
    assert reply.events == {}
    assert eventually(is_state(client, MachineState.STREAMING))
    assert client.state().source_id in (0, 7)
    assert eventually(is_state(client, MachineState.HOLDING))
    assert 0.1 < client.state().joints_rad[0] < 0.3
    assert eventually(lambda: client.status().at_rest)
    sent = len(bench.controller.servo_requests())
    time.sleep(0.2)
    assert len(bench.controller.servo_requests()) == sent, "at rest nothing is sent"


def test_the_stream_respects_speed_and_acceleration_whatever_is_asked(bench, client, ramp, eventually):
    client.send_waypoints(ramp(seconds=0.5, speed_rad_s=1.9))
    assert eventually(is_state(client, MachineState.HOLDING))
    assert eventually(lambda: client.status().at_rest)
    joints = np.stack([record["setpoint_rad"] for record in servo_records(bench)])
    limits, dt_s = bench.rig.limits, 1 / bench.rig.arm.servo.rate_hz
    speeds = np.diff(joints, axis=0) / dt_s
    assert np.max(np.abs(speeds)) <= limits.max_joint_speed_rad_s * 1.001
    assert np.max(np.abs(np.diff(speeds, axis=0))) / dt_s <= limits.max_joint_acceleration_rad_s2 * 1.001
    assert np.max(np.abs(speeds)) > 0.5


def test_waypoints_are_where_the_arm_is_at_their_time(bench, client, ramp, eventually):
    """A command is sent early by one period and the arm's latency, and late by nothing."""
    waypoints = ramp(seconds=1.0, speed_rad_s=0.2)
    client.send_waypoints(waypoints)
    assert eventually(is_state(client, MachineState.HOLDING))
    lead_ns = round(bench.rig.arm.command_latency.seconds * 1e9) + round(1e9 / bench.rig.arm.servo.rate_hz)
    records = servo_records(bench)
    arrival_ns = np.array([record["deadline_ns"] + lead_ns for record in records])
    joint = np.array([record["setpoint_rad"][0] for record in records])
    inside = slice(5, 12)
    there = np.interp(waypoints.t_ns[inside], arrival_ns, joint)
    # The median, because a machine that is busy with other things may have missed a period or two.
    assert np.median(np.abs(there - waypoints.joints_rad[inside, 0])) < 1e-3


def test_the_wire_carries_degrees_of_the_set_point(bench, client, ramp, eventually):
    client.send_waypoints(ramp(seconds=0.3))
    assert eventually(is_state(client, MachineState.HOLDING))
    assert eventually(lambda: client.status().at_rest)
    assert bench.controller.servo_requests()[-1][1] == pytest.approx(
        [degrees(angle) for angle in client.state().setpoint_rad], abs=1e-5
    )


def test_the_gripper_follows_the_waypoint_due(client, ramp, eventually):
    client.send_waypoints(ramp(seconds=0.4, gripper=1.0))
    assert eventually(lambda: client.state().gripper == 1.0)
    assert eventually(lambda: client.state().gripper_status is GripperStatus.REACHED)


def test_new_waypoints_replace_the_future(client, ramp, eventually):
    client.send_waypoints(ramp(seconds=1.0, speed_rad_s=0.3, source_id=1))
    assert eventually(lambda: client.state().source_id == 1)
    here = client.state().setpoint_rad
    client.send_waypoints(ramp(seconds=0.5, speed_rad_s=0.0, start=here, source_id=2))
    assert eventually(lambda: client.state().source_id == 2)
    assert eventually(is_state(client, MachineState.HOLDING))
    assert client.state().joints_rad[0] == pytest.approx(here[0], abs=0.02)


def test_hold_decelerates_and_streaming_may_go_on(client, ramp, eventually):
    client.send_waypoints(ramp(seconds=2.0))
    assert eventually(lambda: client.state().joints_rad[0] > 0.02)
    client.hold()
    assert eventually(lambda: client.status().at_rest)
    assert client.status().machine_state is MachineState.HOLDING
    here = client.state().joints_rad
    assert client.send_waypoints(ramp(seconds=0.3, start=here)).accepted > 0
    assert eventually(lambda: client.state().joints_rad[0] > here[0] + 0.01)


def test_a_chunk_with_nan_is_refused_whole_and_nothing_moves(bench, client, ramp):
    good = ramp()
    joints = good.joints_rad.copy()
    joints[7, 2] = np.nan
    reply = client.send_waypoints(
        Waypoints(t_ns=good.t_ns, joints_rad=joints, gripper=good.gripper, expiry_ns=good.expiry_ns)
    )
    assert (reply.accepted, reply.events) == (0, {"non_finite": 1})
    assert client.guard_events() == {"non_finite": 1}
    assert client.status().machine_state is MachineState.READY
    assert bench.controller.servo_requests() == []


def test_a_chunk_that_starts_far_away_is_refused(client, ramp, bench):
    start = turned(bench, 0.5, 0, 0, 0, 0, 0)
    reply = client.send_waypoints(ramp(start=start))
    assert (reply.accepted, set(reply.events)) == (0, {"jump"})


def test_waypoints_of_the_past_are_dropped_not_shifted(client, bench):
    now_ns = time.monotonic_ns()
    joints = np.tile(bench.rig.start.joints_rad, (5, 1))
    times = now_ns + np.arange(-4, 1) * 66_000_000
    late = Waypoints(t_ns=times, joints_rad=joints, gripper=np.zeros(5), expiry_ns=now_ns + 1_000_000_000)
    reply = client.send_waypoints(late)
    assert (reply.accepted, reply.late) == (0, 5)
    assert client.status().machine_state is MachineState.READY


def test_a_move_reaches_its_goal_slowly(bench, client):
    goal = turned(bench, 0.2, 0, 0.1, 0, 0, 0.2)
    client.move_to(goal, gripper=1.0)
    state = client.state()
    assert state.joints_rad == pytest.approx(goal, abs=2e-3)
    assert state.machine_state is MachineState.READY
    assert state.gripper_target == 1.0
    speeds = [np.max(np.abs(record["setpoint_speed_rad_s"])) for record in servo_records(bench)]
    assert max(speeds) <= bench.rig.limits.approach_speed_rad_s * 1.02


def test_a_move_out_of_the_workspace_is_refused_before_anything_moves(bench, client):
    with pytest.raises(MoveRefusedError, match="workspace"):
        client.move_to([0.0, 0.6, -0.3, 0.0, 1.5708, 0.0])
    assert bench.controller.servo_requests() == []


def test_from_outside_the_workspace_only_the_way_back_in_is_allowed(bench, robotd, connect):
    bench.controller.joints_deg = [degrees(angle) for angle in (-0.75, 0.0, -1.5708, 0.0, 1.5708, 0.0)]
    client = connect("test")
    client.acquire()
    client.enable()
    with pytest.raises(MoveRefusedError):
        client.move_to([-0.85, 0.0, -1.5708, 0.0, 1.5708, 0.0])
    client.move_to(turned(bench, -0.5, 0, 0, 0, 0, 0))
    assert client.state().joints_rad[0] == pytest.approx(-0.5, abs=2e-3)


def test_stop_by_anybody_ends_a_move_and_takes_the_lease(client, connect, eventually, bench, ramp):
    outcome = []

    def move():
        try:
            client.move_to(turned(bench, 0.4, 0, 0, 0, 0, 0))
        except MoveInterruptedError as error:
            outcome.append(error)

    moving = threading.Thread(target=move)
    moving.start()
    assert eventually(lambda: client.state().joints_rad[0] > 0.02)
    connect("bystander").stop()
    moving.join(5.0)
    assert len(outcome) == 1
    assert client.state().joints_rad[0] < 0.3
    with pytest.raises(NoLeaseError, match=r"bystander.*said stop"):
        client.send_waypoints(ramp())


def test_waypoints_are_refused_before_the_arm_is_enabled(robotd, connect, ramp):
    client = connect("test")
    client.acquire()
    with pytest.raises(StateError, match="enable the arm first"):
        client.send_waypoints(ramp())


def test_the_gripper_can_be_set_while_nothing_streams(client, eventually):
    client.set_gripper(0.5)
    assert eventually(lambda: client.state().gripper == pytest.approx(0.5, abs=1e-3))


def test_disabling_is_no_fault(bench, client):
    client.disable()
    assert client.status().machine_state is MachineState.DISABLED
    client.enable()
    assert client.status().machine_state is MachineState.READY


def test_the_set_point_starts_where_the_arm_is(bench, client, ramp, eventually):
    """Somebody moved the arm by hand while it was at rest: the stream begins at the arm, not at the old set-point."""
    client.move_to(turned(bench, 0.1, 0, 0, 0, 0, 0))
    bench.controller.joints_deg[0] += 8.0
    assert eventually(lambda: client.state().joints_rad[0] > 0.2)
    before = len(bench.controller.servo_requests())
    client.send_waypoints(ramp(seconds=0.3, speed_rad_s=0.0, start=client.state().joints_rad))
    assert eventually(lambda: len(bench.controller.servo_requests()) > before)
    first = bench.controller.servo_requests()[before][1]
    assert first[0] == pytest.approx(degrees(client.state().joints_rad[0]), abs=0.2)
