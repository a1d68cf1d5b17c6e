"""The gripper through the tool flange: a fake controller with one slave behind one gateway, on a real socket."""

import time
from math import radians

import pytest

from robot.arm.dashboard import DashboardClient
from robot.arm.protocol import RobotMode
from robot.gripper import flange as flange_module
from robot.gripper.ag95 import Ag95, GripperScale
from robot.gripper.errors import (
    GripperPortError,
    GripperSilentError,
    GripperSlaveIdError,
    GripperUnpoweredError,
)
from robot.gripper.flange import FlangeRoute
from robot.gripper.modbus import Register
from robot.state import GripperStatus

SCALE = GripperScale(open_permille=1000, closed_permille=0)


def eventually(condition, timeout_s=5.0):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return False


@pytest.fixture
def controller(make_controller):
    controller = make_controller()
    controller.mode = int(RobotMode.ENABLE)
    return controller


@pytest.fixture
def dashboard(controller):
    with DashboardClient("127.0.0.1", port=controller.dashboard_port) as dashboard:
        yield dashboard


@pytest.fixture
def make_route(dashboard):
    def make(*, gateways=("127.0.0.1",), slave_id=1):
        route = FlangeRoute(dashboard, gateways=gateways, baudrate=115200, slave_id=slave_id)
        route.power()
        return route

    return make


def driver(route, **options):
    return Ag95(route.open, **({"scale": SCALE, "force_n": 60, "poll_rate_hz": 30} | options))


def stream(dashboard, angle=1.0):
    return dashboard.servo_j([radians(angle)] * 6, t_s=0.008, aheadtime=50, gain=500)


def commands(controller, name):
    return [text for _, text in controller.requests if text.startswith(name)]


def test_the_same_driver_moves_the_jaws_over_this_way(controller, make_route):
    with driver(make_route()) as gripper:
        gripper.set_target(1.0)
        assert gripper.wait(timeout_s=5.0).position == 1.0
        assert controller.flange.registers[Register.TARGET_PERMILLE] == 0
        assert controller.flange.registers[Register.FORCE_PERCENT] == 38


def test_setting_up_follows_the_order_that_works_and_frees_what_others_left(controller, make_route):
    controller.flange.masters = dict.fromkeys(range(5), ("old", 9))
    make_route().open()
    assert [text for _, text in controller.requests][:9] == [
        "SetToolPower(1)",
        "SetToolMode(1,1)",
        'SetTool485(115200,"N",1)',
        *(f"ModbusClose({index})" for index in range(5)),
        'ModbusCreate("127.0.0.1",60000,1,1)',
    ]


def test_the_gateways_are_tried_in_order_and_the_good_one_first_next_time(controller, make_route):
    controller.flange.gateway = "192.168.201.1"
    route = make_route(gateways=("127.0.0.1", "192.168.201.1"))
    assert route.open().gateway == "192.168.201.1"
    assert len(controller.flange.masters) == 1, "a master that reaches nobody is closed again"
    before = len(commands(controller, "ModbusCreate"))
    route.open()
    assert commands(controller, "ModbusCreate")[before:] == ['ModbusCreate("192.168.201.1",60000,1,1)']


def test_closing_the_gripper_closes_its_master(controller, make_route):
    with driver(make_route()):
        assert len(controller.flange.masters) == 1
    assert controller.flange.masters == {}


@pytest.mark.parametrize("takes_blocks", [True, False])
def test_a_slave_that_takes_no_block_reads_is_read_register_by_register(controller, make_route, takes_blocks):
    controller.flange.takes_blocks = takes_blocks
    controller.flange.registers[Register.POSITION_PERMILLE] = 250
    link = make_route().open()
    accesses = len(controller.flange.accesses)
    assert link.read_block(Register.GRIP_STATE, count=2) == [1, 250]
    assert len(controller.flange.accesses) - accesses == (1 if takes_blocks else 2)


def test_a_wrong_slave_id_is_named(controller, make_route):
    controller.flange.slave_id = 3
    with pytest.raises(GripperSlaveIdError, match=r"gripper\.slave_id: 3"):
        driver(make_route())


def test_a_slave_that_is_not_there_is_one_error_that_says_what_was_tried(controller, make_route):
    controller.faults.deaf_slave = True
    with pytest.raises(GripperSilentError, match=r"tried 127\.0\.0\.1: no answer; 10\.0\.0\.9: no answer"):
        driver(make_route(gateways=("127.0.0.1", "10.0.0.9")))
    assert controller.flange.masters == {}


def test_while_the_arm_is_off_the_gripper_waits_and_comes_by_itself_later(controller, dashboard):
    controller.mode = int(RobotMode.POWEROFF)
    route = FlangeRoute(dashboard, gateways=("127.0.0.1",), baudrate=115200, slave_id=1)
    with pytest.raises(GripperUnpoweredError, match="comes with enabling"):
        route.open()
    with driver(route) as gripper:
        assert gripper.state.status is GripperStatus.UNKNOWN
        assert "no power" in gripper.state.problem
        controller.mode = int(RobotMode.ENABLE)
        route.power()
        assert eventually(lambda: gripper.state.status is GripperStatus.REACHED)


def test_nobody_is_searched_for_while_the_arm_is_streamed_to(dashboard, make_route):
    route = make_route()
    assert stream(dashboard)
    with pytest.raises(GripperPortError, match="while the arm moves"):
        route.open()


def test_accesses_are_few_while_the_arm_is_streamed_to(controller, dashboard, make_route):
    controller.faults.access_s = 0.005
    with driver(make_route()) as gripper:
        begin_ns, sent = time.monotonic_ns(), 0
        while time.monotonic_ns() - begin_ns < 1.5e9:
            sent += stream(dashboard)
            gripper.set_target(sent % 100 / 100)
            time.sleep(0.01)
        accesses = [at for at in controller.flange.accesses if at > begin_ns + 0.3e9]
        seconds = (time.monotonic_ns() - begin_ns - 0.3e9) * 1e-9
        assert len(accesses) <= flange_module.STREAMING_RATE_HZ * seconds + 2
        assert len(accesses) >= 2, "and yet it goes on"
        assert commands(controller, "SetHoldRegs"), "targets are written"
    assert dashboard.statistics.servo_skipped == 0


def test_an_access_waits_until_the_controller_owes_next_to_nothing(controller, dashboard, make_route):
    link = make_route().open()
    controller.faults.hold_replies = True
    for angle in range(5):
        assert stream(dashboard, angle)
    assert eventually(lambda: len(controller.servo_requests()) == 5)
    before = len(controller.flange.accesses)
    with pytest.raises(GripperSilentError, match="owes replies"):
        link.read(Register.POSITION_PERMILLE)
    assert len(controller.flange.accesses) == before
    controller.release_held_replies()
    assert eventually(lambda: dashboard.statistics.servo_outstanding == 0)
    assert link.read(Register.POSITION_PERMILLE) == 1000


def test_a_late_answer_is_not_taken_for_the_next_ones(controller, dashboard, make_route, monkeypatch):
    monkeypatch.setattr("robot.arm.tool_flange.ACCESS_TIMEOUT_S", 0.2)
    link = make_route().open()
    controller.faults.hold_replies = True
    with pytest.raises(GripperSilentError):
        link.read(Register.POSITION_PERMILLE)
    with pytest.raises(GripperSilentError, match="owes replies"):
        link.read(Register.POSITION_PERMILLE)  # at most one is outstanding
    controller.release_held_replies()
    assert eventually(lambda: dashboard.requests_outstanding == 0)
    controller.flange.registers[Register.POSITION_PERMILLE] = 77
    assert link.read(Register.POSITION_PERMILLE) == 77
    assert dashboard.statistics.late_replies == 1


def test_a_gripper_that_falls_silent_is_left_alone_for_longer_and_longer(controller, make_route):
    link = make_route().open()
    controller.faults.deaf_slave = True
    pauses = []
    for _ in range(5):
        with pytest.raises(GripperSilentError, match="tool connector"):
            link.read(Register.POSITION_PERMILLE)
        pauses.append(link.pause_s())
    assert pauses == pytest.approx([1, 2, 4, 8, 8], abs=0.2)


def test_an_alarm_takes_the_flange_out_of_use_and_it_comes_back_with_a_new_connection(controller, make_route):
    route = make_route()
    with driver(route) as gripper:
        controller.faults.reply_codes["GetHoldRegs"] = -2
        assert eventually(lambda: gripper.state.status is GripperStatus.UNKNOWN)
        assert "out of use" in gripper.state.problem
        controller.faults.reply_codes.clear()
        assert eventually(lambda: gripper.state.status is GripperStatus.REACHED)
        controller.drop("dashboard")
        assert eventually(lambda: gripper.state.status is GripperStatus.UNKNOWN)
        controller.flange.masters.clear()
        with DashboardClient("127.0.0.1", port=controller.dashboard_port) as again:
            route.use(again)
            assert eventually(lambda: gripper.state.status is GripperStatus.REACHED)
