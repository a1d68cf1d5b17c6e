"""Which protocol the controller speaks: V4, for which this driver is made, or V3, which it refuses by name.

V3 and V4 answer alike at first sight. What tells them apart (V4.6.5 and V3 guides): ``GetCurrentCommandID()`` exists
only in V4; the motion port 30003 only in V3; and only V3 says "not tcp mode or system is starting".
"""

import contextlib
import socket
from enum import Enum

from robot.arm.dashboard import DashboardClient
from robot.arm.errors import ArmError, CommandRefusedError, FirmwareError, UnexpectedReplyError, UnknownCommandError
from robot.arm.protocol import V3_MOTION_PORT

_CONNECT_S = 0.5


class Protocol(Enum):
    """The family of the controller's firmware."""

    V3 = "V3"
    V4 = "V4"
    UNKNOWN = "unknown"


def identify_protocol(dashboard: DashboardClient, *, motion_port: int = V3_MOTION_PORT) -> Protocol:
    """The protocol behind ``dashboard``. Raises `ArmError` when the connection does not let it be found out."""
    try:
        dashboard.get_current_command_id()
    except UnknownCommandError:
        return Protocol.V3 if has_motion_port(dashboard.host, port=motion_port) else Protocol.UNKNOWN
    except CommandRefusedError:
        # Known, and not allowed now. A controller in alarm may say so before it looks at the name.
        return Protocol.V3 if has_motion_port(dashboard.host, port=motion_port) else Protocol.V4
    except UnexpectedReplyError:
        return Protocol.V4
    return Protocol.V4


def require_v4(dashboard: DashboardClient, *, motion_port: int = V3_MOTION_PORT) -> None:
    """`FirmwareError` unless the controller speaks V4."""
    match identify_protocol(dashboard, motion_port=motion_port):
        case Protocol.V4:
            return
        case Protocol.V3:
            raise FirmwareError(
                f"expected V4 firmware (controller 4.6 or newer) at {dashboard.host}, found V3: it has the motion port "
                f"{motion_port} and does not know GetCurrentCommandID. V3 takes other commands, on two ports: update "
                "the controller with the vendor's software"
            )
        case Protocol.UNKNOWN:
            raise FirmwareError(
                f"expected V4 firmware (controller 4.6 or newer) at {dashboard.host}, found one that does not know "
                "GetCurrentCommandID and has no V3 motion port either: update the controller (before 4.3?), or check "
                "the address"
            )


def has_motion_port(host: str, *, port: int = V3_MOTION_PORT) -> bool:
    """Whether V3's motion port takes connections."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=_CONNECT_S):
        return True
    return False


def explain_v3(host: str, error: ArmError, *, motion_port: int = V3_MOTION_PORT) -> ArmError:
    """``error`` as it is, or as `FirmwareError` when the host has V3's motion port: then that is the real trouble."""
    if not has_motion_port(host, port=motion_port):
        return error
    return FirmwareError(
        f"{error} (the controller has the port {motion_port}: it runs V3 firmware; this driver speaks V4: update it)"
    )
