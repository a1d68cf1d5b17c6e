"""What must be true of a rig before robotd serves it. A failed check is one line: what, expected, found, what to do."""

import logging
import time
from dataclasses import dataclass

from configs.schema import RigConfig
from robot.arm.alarm_text import describe_active_alarms
from robot.arm.dashboard import DashboardClient
from robot.arm.errors import ArmConnectionError, ArmError, CommandRefusedError, NotTcpModeError
from robot.arm.feedback import ArmFeedback, FeedbackReader
from robot.arm.firmware import explain_v3, require_v4
from robot.arm.protocol import RobotMode
from robot.daemon.errors import StartupError
from robot.daemon.machine import mode_name
from robot.gripper.ag95 import Ag95, GripperScale, WhenHolding
from robot.gripper.errors import GripperError
from robot.gripper.flange import FlangeRoute
from robot.gripper.link import ModbusLink
from robot.runtime import resolve_device

log = logging.getLogger(__name__)

FIRST_PACKET_S = 3.0
BOOT_S = 90.0
_BOOT_POLL_S = 0.5
_OCCUPIED_TEXT_S = 0.1
"""A controller that serves somebody else accepts, says so and hangs up; asking it anything before loses its text."""
OUTSTANDING_S = 0.1
"""Set-points may be unanswered for this long before periods are skipped."""

_REFUSED_MODES = {
    RobotMode.BRAKE_OPEN: "a brake is open: close it in the vendor's software",
    RobotMode.BACKDRIVE: "the arm is being hand-guided: end that first",
    RobotMode.RUNNING: "something else moves the arm: stop it first",
    RobotMode.SINGLE_MOVE: "somebody jogs the arm: end that first",
    RobotMode.PAUSE: "a program is paused on the controller: stop it first",
    RobotMode.COLLISION: "the arm stopped at a collision: free it by hand and clear that in the vendor's software",
}


@dataclass(frozen=True)
class Devices:
    """The opened devices of a rig."""

    dashboard: DashboardClient
    feedback: FeedbackReader
    gripper: Ag95
    flange: FlangeRoute | None = None
    """The gripper's way when it goes through the arm; it must be told of a new dashboard connection."""

    def close(self) -> None:
        """Close all of them."""
        self.gripper.close()
        self.feedback.close()
        self.dashboard.close()


def open_dashboard(rig: RigConfig) -> DashboardClient:
    """Connect to the arm's command port and make sure that it takes commands; `ArmError` otherwise."""
    outstanding = max(3, round(OUTSTANDING_S * rig.arm.servo.rate_hz))
    dashboard = DashboardClient(rig.arm.host, port=rig.arm.dashboard_port, max_servo_outstanding=outstanding)
    try:
        time.sleep(_OCCUPIED_TEXT_S)
        ensure_tcp_mode(dashboard)
        require_v4(dashboard)
    except NotTcpModeError as error:
        dashboard.close()
        raise explain_v3(rig.arm.host, error) from None
    except ArmError:
        dashboard.close()
        raise
    return dashboard


def ensure_tcp_mode(dashboard: DashboardClient) -> None:
    """Ask for TCP control if the controller is not in it; `NotTcpModeError` if it does not give it."""
    try:
        dashboard.robot_mode()
        return
    except NotTcpModeError:
        log.info("the controller is not in TCP mode, requesting control")
    try:
        dashboard.request_control()
    except (CommandRefusedError, NotTcpModeError) as error:
        raise NotTcpModeError(
            f"expected the controller in TCP control mode, it is not and refuses to change ({error}): it changes only "
            "while the arm is disabled or powered off; disable it, or choose TCP/IP mode in the vendor's software"
        ) from None
    dashboard.robot_mode()


def open_devices(rig: RigConfig) -> Devices:
    """Open arm and gripper and check them. Raises `StartupError`; what was opened is closed again."""
    try:
        dashboard = open_dashboard(rig)
    except ArmError as error:
        raise StartupError(f"arm: {error}") from None
    feedback: FeedbackReader | None = None
    try:
        feedback = FeedbackReader(rig.arm.host, port=rig.arm.feedback_port)
        first = feedback.wait(timeout_s=FIRST_PACKET_S)
        _check_robot_type(first, rig=rig)
        newest = _after_boot(feedback)
        _check_mode(newest, dashboard=dashboard, alarm_port=rig.arm.alarm_port)
        flange = flange_route(rig, dashboard)
        if flange is not None and newest.robot_mode != RobotMode.POWEROFF:
            dashboard = power_flange(rig, flange, dashboard=dashboard)
        return Devices(dashboard, feedback, open_gripper(rig, flange=flange), flange)
    except (ArmError, GripperError, StartupError) as error:
        if feedback is not None:
            feedback.close()
        dashboard.close()
        kind = "gripper: " if isinstance(error, GripperError) else "arm: " if isinstance(error, ArmError) else ""
        raise StartupError(f"{kind}{error}") from None


def _check_robot_type(feedback: ArmFeedback, *, rig: RigConfig) -> None:
    if feedback.robot_type not in rig.arm.robot_types:
        raise StartupError(
            f"arm: expected robot type {' or '.join(map(str, rig.arm.robot_types))} (Nova 5), the controller at "
            f"{rig.arm.host} reports {feedback.robot_type}: check the address, or arm.robot_types in the rig file"
        )


def _after_boot(feedback: FeedbackReader) -> ArmFeedback:
    """The first packet after the controller has booted; its documentation asks not to command it before."""
    deadline_s = time.monotonic() + BOOT_S
    newest = feedback.wait(timeout_s=FIRST_PACKET_S)
    if newest.robot_mode == RobotMode.INIT:
        log.info("the controller is starting; waiting up to %g s", BOOT_S)
    while newest.robot_mode == RobotMode.INIT:
        if time.monotonic() > deadline_s:
            raise StartupError(
                f"arm: expected the controller to finish starting within {BOOT_S:g} s, it is still in mode INIT (1): "
                "look at the vendor's software"
            )
        time.sleep(_BOOT_POLL_S)
        newest = feedback.wait(timeout_s=FIRST_PACKET_S)
    return newest


def _check_mode(feedback: ArmFeedback, *, dashboard: DashboardClient, alarm_port: int) -> None:
    advice = _REFUSED_MODES.get(RobotMode(feedback.robot_mode)) if 1 <= feedback.robot_mode <= 11 else "unknown mode"
    if feedback.robot_mode == RobotMode.ERROR or (advice is None and feedback.error):
        alarms = describe_active_alarms(dashboard.host, dashboard.get_error_id(), port=alarm_port)
        advice = (
            f"{alarms}; remove the cause and clear it in the vendor's software (robotd never clears an alarm itself)"
        )
    if advice is not None:
        raise StartupError(
            "arm: expected it powered off, disabled or enabled and at rest (mode 3, 4 or 5), found mode "
            f"{mode_name(feedback.robot_mode)}: {advice}"
        )


def flange_route(rig: RigConfig, dashboard: DashboardClient) -> FlangeRoute | None:
    """The gripper's way through the arm, None for a gripper on a serial port."""
    config = rig.gripper
    if config.route == "usb":
        return None
    gateways = (*config.gateways, rig.arm.host)
    return FlangeRoute(dashboard, gateways=gateways, baudrate=config.baudrate, slave_id=config.slave_id)


def power_flange(rig: RigConfig, flange: FlangeRoute, *, dashboard: DashboardClient) -> DashboardClient:
    """Switch the tool connector on; gives the connection to go on with, because the controller may drop this one."""
    try:
        flange.power()
        dashboard.robot_mode()
    except ArmConnectionError:
        log.info("switching the tool connector on ended the arm's command connection; connecting again")
        dashboard.close()
        dashboard = open_dashboard(rig)
        flange.use(dashboard)
    return dashboard


def open_gripper(rig: RigConfig, *, flange: FlangeRoute | None) -> Ag95:
    """The rig's gripper on its serial port, or through the flange. Raises `GripperError`."""
    config = rig.gripper
    port = resolve_device(rig.name, config.port)

    def open_serial() -> ModbusLink:
        return ModbusLink(port, baudrate=config.baudrate, slave_id=config.slave_id)

    return Ag95(
        open_serial if flange is None else flange.open,
        scale=GripperScale(open_permille=config.open_permille, closed_permille=config.closed_permille),
        force_n=config.force_n,
        poll_rate_hz=config.poll_rate_hz,
        when_holding=WhenHolding[config.initialise_when_holding.upper()],
    )
