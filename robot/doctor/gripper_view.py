"""What the doctor asks the gripper while no robotd owns it: is it there, is it initialised. Nothing moves."""

from dataclasses import dataclass

from configs.schema import RigConfig
from robot.arm.dashboard import DashboardClient
from robot.arm.errors import ArmError
from robot.arm.protocol import RobotMode
from robot.gripper.errors import GripperError, GripperSilentError, GripperUnpoweredError
from robot.gripper.flange import FlangeRoute
from robot.gripper.link import ModbusLink, RegisterLink
from robot.gripper.modbus import InitState, Register
from robot.runtime import resolve_device


@dataclass(frozen=True)
class GripperView:
    """``initialised`` is None when the gripper was not asked (``error`` None too) or did not answer."""

    initialised: bool | None
    error: GripperError | None = None
    why_not_asked: str = ""


def look_at_gripper(rig: RigConfig, *, dashboard: DashboardClient | None, mode: RobotMode | None) -> GripperView:
    """Read one register over the rig's route; the flange needs the arm powered and free of alarms."""
    try:
        if rig.gripper.route == "flange":
            if dashboard is None or mode in (None, RobotMode.POWEROFF):
                return GripperView(
                    None, why_not_asked="it hangs on the flange, and the arm is powered off or out of reach"
                )
            return _read(_flange_link(rig, dashboard))
        port = resolve_device(rig.name, rig.gripper.port)
        return _read(ModbusLink(port, baudrate=rig.gripper.baudrate, slave_id=rig.gripper.slave_id))
    except GripperUnpoweredError as error:
        return GripperView(None, why_not_asked=str(error))
    except GripperError as error:
        return GripperView(None, error=error)


def _flange_link(rig: RigConfig, dashboard: DashboardClient) -> RegisterLink:
    gateways = (*rig.gripper.gateways, rig.arm.host)
    route = FlangeRoute(dashboard, gateways=gateways, baudrate=rig.gripper.baudrate, slave_id=rig.gripper.slave_id)
    try:
        route.power()
    except ArmError as error:
        raise GripperUnpoweredError(f"the flange's supply could not be switched on: {error}") from None
    return route.open()


def _read(link: RegisterLink) -> GripperView:
    try:
        return GripperView(link.read(Register.INIT_STATE) == InitState.DONE)
    except GripperSilentError as error:
        return GripperView(None, error=link.diagnose(error))
    finally:
        link.close()
