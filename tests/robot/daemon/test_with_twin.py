"""robotd on the twin's wires: the same code as above against a controller and a gripper with physics behind them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from configs.schema import load_rig
from robot.daemon.client import RobotClient
from robot.daemon.errors import AcknowledgeError
from robot.faults import Fault
from robot.processes import Child
from robot.rollout.trials import TwinTrials
from robot.runtime import ring_name
from robot.state import GripperStatus, MachineState
from robot.twin.control import TwinControl, TwinFault

REPOSITORY = Path(__file__).parent.parent.parent.parent


@pytest.fixture
def twin(tmp_path, monkeypatch, write_rig) -> Iterator[tuple[RobotClient, TwinControl, Child]]:
    """A client of a robotd on a twin without cameras, its control, and the twin's process."""
    monkeypatch.setenv("NOVA_PI_RUNTIME_DIR", str(tmp_path))
    path = write_rig(tmp_path, "dtwin")
    rig = load_rig(path)
    environment = {"PYTHONPATH": str(REPOSITORY)}
    options = {"log_path": tmp_path / "log", "environment": environment}
    twin = Child("twin", module="robot.twin.server", args=["--rig", str(path), "--headless", "--no-cameras"], **options)
    daemon = None
    try:
        with TwinControl.wait(rig, timeout_s=40.0) as control:
            daemon = Child("robotd", module="robot.daemon", args=["--rig", str(path)], **options)
            with RobotClient.connect(rig, name="test", timeout_s=20.0) as client:
                client.acquire()
                client.enable()
                yield client, control, twin
    finally:
        if daemon is not None:
            assert daemon.stop() == 0
        twin.stop()
        # A killed twin cannot remove its shared memory.
        for left_over in Path("/dev/shm").glob(f"{ring_name(rig.name, '')}*"):
            left_over.unlink()


def test_the_twins_arm_follows_is_stopped_by_its_faults_and_comes_back(twin, ramp, eventually):
    client, control, process = twin
    start = np.array(client.rig.start.joints_rad)
    client.move_to(start, gripper=1.0)
    assert client.state().joints_rad == pytest.approx(start, abs=0.01)
    assert eventually(lambda: client.state().gripper_status is GripperStatus.REACHED)
    assert client.state().gripper == pytest.approx(1.0, abs=0.02)

    client.send_waypoints(ramp(seconds=0.8, start=client.state().setpoint_rad))
    assert eventually(lambda: client.state().machine_state is MachineState.HOLDING)
    assert client.state().joints_rad[0] == pytest.approx(client.state().setpoint_rad[0], abs=0.05)
    assert client.state().joints_rad[0] > 0.15

    client.send_waypoints(ramp(seconds=5.0, speed_rad_s=0.05, start=client.state().setpoint_rad))
    assert eventually(lambda: client.state().machine_state is MachineState.STREAMING)
    control.fault(TwinFault.ESTOP, pressed=True)
    assert eventually(lambda: client.status().fault is Fault.EMERGENCY_STOP)
    with pytest.raises(AcknowledgeError):
        client.acknowledge(clear_alarm=True)
    control.fault(TwinFault.ESTOP, pressed=False)
    client.acknowledge(clear_alarm=True)
    client.enable()

    client.send_waypoints(ramp(seconds=5.0, speed_rad_s=0.05, start=client.state().setpoint_rad))
    process.kill()
    assert eventually(lambda: client.state().machine_state is MachineState.FAULT)
    assert client.status().fault in (Fault.DASHBOARD_LOST, Fault.FEEDBACK_STALE)


def test_after_a_fault_a_simulated_rig_is_made_ready_without_a_person(twin, eventually):
    client, control, _ = twin
    client.move_to(np.add(client.rig.start.joints_rad, [0.2, 0, 0, 0, 0, 0]), gripper=1.0)
    with TwinTrials(client.rig) as trials:
        for fault, values in ((TwinFault.COLLISION, {}), (TwinFault.FEEDBACK_SILENT, {"on": True})):
            control.fault(fault, **values)
            assert eventually(lambda: client.state().machine_state is MachineState.FAULT)
            control.mend()
            assert trials.recover(client)
            assert eventually(lambda: client.state().machine_state is MachineState.READY)
            assert client.state().joints_rad == pytest.approx(client.rig.start.joints_rad, abs=0.02)
