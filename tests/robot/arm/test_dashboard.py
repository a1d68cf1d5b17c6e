"""The dashboard client against a controller that splits, delays, drops and refuses."""

import threading
import time
from math import radians

import pytest

from robot.arm.dashboard import DashboardClient
from robot.arm.errors import (
    AlarmActiveError,
    ArmConnectionError,
    CommandTimeoutError,
    EmergencyStopError,
    NotTcpModeError,
    ParameterError,
    PortOccupiedError,
    ReplyLostError,
)
from robot.arm.protocol import RobotMode


@pytest.fixture
def client(controller):
    with DashboardClient("127.0.0.1", port=controller.dashboard_port) as client:
        yield client


def eventually(condition, timeout_s=3.0):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return False


def stream(client, degrees=10.0):
    return client.servo_j([radians(degrees)] * 6, t_s=0.008, aheadtime=50, gain=500)


def test_a_command_returns_what_the_controller_answered(controller, client):
    controller.mode = int(RobotMode.DISABLED)
    assert client.robot_mode() is RobotMode.DISABLED


def test_a_reply_that_arrives_byte_by_byte_is_put_together(controller, client):
    controller.faults.one_byte_at_a_time = True
    assert client.robot_mode() is RobotMode.POWEROFF


def test_replies_that_arrive_in_one_piece_reach_their_own_callers(controller, client):
    controller.faults.hold_replies = True
    controller.alarms = (17, 48)
    answers = {}
    threads = [
        threading.Thread(target=lambda: answers.update(mode=client.robot_mode())),
        threading.Thread(target=lambda: answers.update(alarms=client.get_error_id())),
    ]
    for thread in threads:
        thread.start()
    assert eventually(lambda: len(controller.requests) == 2)
    controller.release_held_replies()
    for thread in threads:
        thread.join(3.0)
    assert answers == {"mode": RobotMode.POWEROFF, "alarms": (17, 48)}


@pytest.mark.parametrize("nested", [False, True])
def test_both_shapes_of_the_alarm_list_are_read(controller, client, nested):
    controller.alarms, controller.nested_alarms = (116, 2057), nested
    assert client.get_error_id() == (116, 2057)


@pytest.mark.parametrize(
    ("code", "error"),
    [(-2, AlarmActiveError), (-3, EmergencyStopError), (-30001, ParameterError), (-40003, ParameterError)],
)
def test_a_refusal_has_a_name_and_says_what_was_refused(controller, client, code, error):
    controller.faults.reply_codes["PowerOn"] = code
    with pytest.raises(error, match=rf"PowerOn\(\) was refused with {code}"):
        client.power_on()


def test_a_late_reply_is_not_taken_for_the_answer_to_the_next_request(controller, client):
    controller.faults.hold_replies = True
    with pytest.raises(CommandTimeoutError):
        client.call("RobotMode()", timeout_s=0.1)
    controller.mode = int(RobotMode.ENABLE)
    answers = []
    asking = threading.Thread(target=lambda: answers.append(client.robot_mode()))
    asking.start()
    assert eventually(lambda: len(controller.requests) == 2)
    controller.release_held_replies()  # the first says POWEROFF, the second ENABLE
    asking.join(3.0)
    assert answers == [RobotMode.ENABLE]
    assert client.statistics.late_replies == 1


def test_a_lost_reply_fails_its_own_request_and_no_other(controller, client):
    controller.faults.drop_replies["PowerOn"] = 1
    errors = []

    def power_on():
        try:
            client.power_on(timeout_s=3.0)
        except ReplyLostError as error:
            errors.append(error)

    waiting = threading.Thread(target=power_on)
    waiting.start()
    assert eventually(lambda: controller.names() == ["PowerOn"])
    assert client.robot_mode() is RobotMode.DISABLED
    waiting.join(3.0)
    assert len(errors) == 1


def test_nothing_is_ever_sent_twice(controller, client):
    controller.faults.drop_replies["PowerOn"] = 1
    with pytest.raises(CommandTimeoutError, match="not sent again"):
        client.power_on(timeout_s=0.2)
    controller.drop("dashboard")
    assert eventually(lambda: client.broken is not None)
    with pytest.raises(ArmConnectionError):
        stream(client)
    assert controller.names() == ["PowerOn"]


def test_not_tcp_mode_is_recognised_although_its_text_has_no_end(controller, client):
    controller.faults.not_tcp = True
    with pytest.raises(NotTcpModeError):
        client.robot_mode()
    client.request_control()
    assert client.robot_mode() is RobotMode.POWEROFF


def test_an_occupied_port_is_named(controller):
    controller.faults.occupied = True
    with DashboardClient("127.0.0.1", port=controller.dashboard_port) as client:
        assert eventually(lambda: client.broken is not None)
        with pytest.raises(PortOccupiedError, match="only client"):
            client.robot_mode()


def test_an_unknown_text_without_an_end_breaks_the_connection_instead_of_hanging(controller, client):
    controller.faults.text = "Something unheard of"
    with pytest.raises(ArmConnectionError, match="Something unheard of"):
        client.call("RobotMode()", timeout_s=5.0)


def test_an_endless_reply_is_not_buffered_for_ever(controller, client):
    client.robot_mode()
    controller.send_text(b"0,{" + b"1" * 70_000)
    assert eventually(lambda: isinstance(client.broken, ArmConnectionError))


def test_garbage_between_replies_is_counted_and_skipped(controller, client):
    client.robot_mode()
    controller.send_text(b"0,nonsense;7,{},Unasked();")
    assert client.robot_mode() is RobotMode.POWEROFF
    assert client.statistics.stray_replies == 2


def test_an_absent_controller_is_one_clear_error(unused_port):
    with pytest.raises(ArmConnectionError, match="expected the arm's controller at 127"):
        DashboardClient("127.0.0.1", port=unused_port)


def test_set_points_are_degrees_on_the_wire_with_the_period_as_time(controller, client):
    assert client.servo_j(
        [radians(angle) for angle in (1, -2, 90, 0, 179.999999, 0.001)], t_s=0.008, aheadtime=50, gain=500
    )
    assert eventually(lambda: controller.requests)
    expected = "ServoJ(1.000000,-2.000000,90.000000,0.000000,179.999999,0.001000,t=0.008,aheadtime=50,gain=500)"
    assert controller.requests[0][1] == expected


def test_a_controller_that_owes_replies_gets_no_burst_but_skipped_set_points(controller):
    with DashboardClient("127.0.0.1", port=controller.dashboard_port, max_servo_outstanding=4) as client:
        controller.faults.hold_replies = True
        assert [stream(client, angle) for angle in range(10)] == [True] * 4 + [False] * 6
        assert client.statistics.servo_skipped == 6
        assert eventually(lambda: len(controller.requests) == 4)
        controller.release_held_replies()
        assert eventually(lambda: client.statistics.servo_outstanding == 0)
        assert stream(client)
        assert eventually(lambda: len(controller.servo_requests()) == 5)


def test_a_dropped_reply_to_a_set_point_does_not_shift_the_accounting(controller, client):
    controller.faults.drop_replies["ServoJ"] = 1
    for angle in range(5):
        stream(client, angle)
    assert eventually(lambda: client.statistics.servo_outstanding == 0)
    assert client.statistics.lost_replies == 1
    assert client.robot_mode() is RobotMode.POWEROFF


def test_a_refused_set_point_is_reported_once(controller, client):
    controller.faults.reply_codes["ServoJ"] = -4
    stream(client)
    codes = []
    assert eventually(lambda: codes.append(client.take_servo_error()) or codes[-1] is not None)
    assert codes[-1] == -4
    assert client.take_servo_error() is None


def test_waiting_for_a_command_does_not_hold_up_the_stream(controller, client):
    controller.faults.drop_replies["PowerOn"] = 1

    def power_on():
        with pytest.raises(ReplyLostError):
            client.power_on()

    waiting = threading.Thread(target=power_on)
    waiting.start()
    assert eventually(lambda: controller.names() == ["PowerOn"])
    assert stream(client)
    assert eventually(lambda: len(controller.servo_requests()) == 1)
    waiting.join(3.0)


def test_closing_wakes_whoever_waits(controller, client):
    controller.faults.hold_replies = True
    errors = []

    def ask():
        try:
            client.robot_mode()
        except ArmConnectionError as error:
            errors.append(error)

    waiting = threading.Thread(target=ask)
    waiting.start()
    assert eventually(lambda: len(controller.requests) == 1)
    client.close()
    waiting.join(2.0)
    assert len(errors) == 1
