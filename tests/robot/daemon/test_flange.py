"""robotd with the gripper on the tool flange: it shares the arm's one connection, and comes and goes with its power."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import yaml

from configs.schema import load_rig
from robot.arm.protocol import RobotMode
from robot.daemon.checks import open_devices
from robot.daemon.client import RobotClient
from robot.daemon.errors import RobotdError, StartupError
from robot.daemon.lock import RobotdLock, socket_path
from robot.daemon.robotd import Robotd
from robot.daemon.server import CommandServer
from robot.faults import Fault
from robot.state import GripperStatus, MachineState


@pytest.fixture
def flange_bench(bench):
    content = yaml.safe_load(bench.rig_path.read_text())
    content["gripper"].update(route="flange", gateways=["127.0.0.1"])
    bench.rig_path.write_text(yaml.safe_dump(content))
    return replace(bench, rig=load_rig(bench.rig_path))


@pytest.fixture
def client(flange_bench) -> Iterator[RobotClient]:
    """A client that holds the lease; the arm is as the test left it before asking for this."""
    rig = flange_bench.rig
    with RobotdLock(rig.name):
        daemon = Robotd(rig, devices=open_devices(rig))
        daemon.start()
        server = CommandServer(daemon, path=socket_path(rig.name))
        with RobotClient.connect(rig, name="test", timeout_s=5.0) as client:
            client.acquire()
            yield client
        daemon.close()
        server.close()
    assert flange_bench.controller.flange.masters == {}, "masters are closed when robotd ends"


def test_the_gripper_comes_with_the_arms_power_even_if_that_costs_the_connection(flange_bench, client, eventually):
    controller = flange_bench.controller
    assert client.status().gripper.status is GripperStatus.UNKNOWN
    controller.faults.drop_on_tool_power = True
    client.enable()
    assert client.status().machine_state is MachineState.READY
    client.set_gripper(1.0)
    assert eventually(lambda: client.state().gripper == 1.0)


def test_after_a_lost_connection_the_gripper_is_found_again(flange_bench, client, eventually):
    client.enable()
    flange_bench.controller.drop("dashboard")
    assert eventually(lambda: client.status().fault is Fault.DASHBOARD_LOST)
    flange_bench.controller.flange.masters.clear()
    client.acknowledge()
    assert client.status().gripper.status is not GripperStatus.UNKNOWN
    client.enable()
    assert client.status().machine_state is MachineState.READY


def test_what_the_jaws_hold_is_dropped_only_when_somebody_agrees(flange_bench, client):
    flange_bench.controller.flange.registers.update({0x200: 0, 0x202: 500})
    with pytest.raises(RobotdError, match="may hold something"):
        client.enable()
    assert client.status().machine_state is MachineState.DISABLED
    client.enable(drop_allowed=True)
    assert client.status().machine_state is MachineState.READY


def test_a_gripper_that_is_not_there_is_said_at_the_start(flange_bench):
    flange_bench.controller.mode = int(RobotMode.ENABLE)
    flange_bench.controller.faults.deaf_slave = True
    with pytest.raises(StartupError, match="gripper: expected the gripper"):
        open_devices(flange_bench.rig)


def test_v3_firmware_is_named_at_the_start(bench):
    bench.controller.faults.v3 = True
    with pytest.raises(StartupError, match=r"expected V4 firmware"):
        open_devices(bench.rig)
