"""Every request that the simulated controller understands, as one table: name, parameters, when allowed, what it does.

Ranges and the queue/immediate split: V4.6.5 guide. To add a command, add a row.
"""

from dataclasses import dataclass
from enum import Enum, auto

from robot.arm.protocol import ErrorCode, RobotMode
from robot.twin import controller_handlers as do
from robot.twin.controller_core import ControllerCore, QueueKind
from robot.twin.controller_grammar import Kind, Parameter, Signature
from robot.twin.controller_handlers import Handler


class Gate(Enum):
    """In which states a command is allowed; each one includes those above it."""

    ALWAYS = auto()
    """Even in alarm and emergency stop."""
    POWERED_OFF = auto()
    POWERED = auto()
    ENABLED = auto()
    """Enabled and not being dragged."""


NO_PARAMETERS = Signature()


@dataclass(frozen=True)
class Command:
    """One row of the table."""

    name: str
    gate: Gate
    run: Handler
    signature: Signature = NO_PARAMETERS


def refusal(core: ControllerCore, gate: Gate) -> int | None:
    """The code that a command with this gate is answered with in the present state; None if it is allowed."""
    if gate is Gate.ALWAYS:
        return None
    if core.estop_pressed:
        return ErrorCode.ESTOP
    mode = core.mode
    if mode in (RobotMode.ERROR, RobotMode.COLLISION):
        return ErrorCode.ALARM_ACTIVE
    if mode is RobotMode.INIT:
        return ErrorCode.FAILED
    if gate is Gate.POWERED_OFF:
        return None
    if mode is RobotMode.POWEROFF:
        return ErrorCode.POWERED_OFF
    if gate is Gate.ENABLED and mode in (RobotMode.DISABLED, RobotMode.BACKDRIVE):
        return ErrorCode.FAILED
    return None


def _integer(name: str, low: float, high: float) -> Parameter:
    return Parameter(name, Kind.INTEGER, low=low, high=high)


def _number(name: str, low: float = -1e6, high: float = 1e6) -> Parameter:
    return Parameter(name, low=low, high=high)


_JOINTS = tuple(_number(f"j{i}") for i in range(1, 7))
_FRAME_CHOICE = (_integer("user", 0, 50), _integer("tool", 0, 50))
_PERCENT = Signature((_integer("ratio", 1, 100),))
_INDEX_50 = Signature((_integer("index", 0, 50),))
_FRAME = Signature(
    (_integer("index", 1, 50), Parameter("frame", Kind.VECTOR, low=-1e5, high=1e5, length=6)), (_integer("type", 0, 1),)
)
_LOAD_CENTER = tuple(_number(axis, -999, 999) for axis in "xyz")
_IO = Signature((_integer("index", 1, 24), _integer("status", 0, 1)))
_TOOL_IO = Signature((_integer("index", 1, 2), _integer("status", 0, 1)))
_IDENTIFY = _integer("identify", 1, 2)
_MASTER = _integer("index", 0, 4)
_REGISTER = (_integer("address", 0, 0xFFFF),)

_TABLE: tuple[Command, ...] = (
    # Allowed even in alarm
    Command("ClearError", Gate.ALWAYS, do.simple(ControllerCore.clear_error)),
    Command("GetErrorID", Gate.ALWAYS, do.error_id),
    Command("EmergencyStop", Gate.ALWAYS, do.emergency_stop, Signature((_integer("mode", 0, 1),))),
    Command("Stop", Gate.ALWAYS, do.simple(ControllerCore.stop)),
    Command("RobotMode", Gate.ALWAYS, do.robot_mode),
    # Power and enabling
    Command("RequestControl", Gate.POWERED_OFF, do.simple(ControllerCore.request_control)),
    Command("PowerOn", Gate.POWERED_OFF, do.simple(ControllerCore.power_on)),
    Command(
        "EnableRobot",
        Gate.POWERED,
        do.enable,
        Signature((), (_number("load", 0, 5), *_LOAD_CENTER, _integer("check", 0, 1)), counts=(0, 1, 4, 5)),
    ),
    Command("DisableRobot", Gate.POWERED, do.simple(ControllerCore.disable)),
    Command("Pause", Gate.POWERED, do.simple(ControllerCore.pause)),
    Command("Continue", Gate.POWERED, do.simple(ControllerCore.resume)),
    Command("StartDrag", Gate.ENABLED, do.simple(ControllerCore.start_drag)),
    Command("StopDrag", Gate.POWERED, do.simple(ControllerCore.stop_drag)),
    # Readings
    Command("GetAngle", Gate.POWERED, do.angle),
    Command("GetPose", Gate.POWERED, do.pose, Signature(named=_FRAME_CHOICE)),
    Command("GetCurrentCommandID", Gate.POWERED, do.command_id),
    Command("PositiveKin", Gate.POWERED, do.positive_kin, Signature(_JOINTS, named=_FRAME_CHOICE)),
    Command(
        "InverseKin",
        Gate.POWERED,
        do.inverse_kin,
        Signature(
            tuple(_number(name) for name in do.POSE_NAMES),
            named=(
                _integer("usejointnear", 0, 1),
                Parameter("jointnear", Kind.VECTOR, low=-720, high=720, length=6),
                *_FRAME_CHOICE,
            ),
        ),
    ),
    # Settings that act at once
    Command("SpeedFactor", Gate.POWERED, do.speed_factor, _PERCENT),
    Command("VelJ", Gate.POWERED, do.set_now("velocity_percent", "ratio"), _PERCENT),
    Command("AccJ", Gate.POWERED, do.set_now("acceleration_percent", "ratio"), _PERCENT),
    Command("VelL", Gate.POWERED, do.set_now("linear_velocity_percent", "ratio"), _PERCENT),
    Command("AccL", Gate.POWERED, do.set_now("linear_acceleration_percent", "ratio"), _PERCENT),
    Command("CP", Gate.POWERED, do.set_now("blend_percent", "ratio"), Signature((_integer("ratio", 0, 100),))),
    Command("SetUser", Gate.POWERED, do.set_frame("users"), _FRAME),
    Command("SetTool", Gate.POWERED, do.set_frame("tools"), _FRAME),
    # Settings that wait in the queue
    Command("User", Gate.POWERED, do.queued(QueueKind.SETTING, do.setting("user", "index")), _INDEX_50),
    Command("Tool", Gate.POWERED, do.queued(QueueKind.SETTING, do.setting("tool", "index")), _INDEX_50),
    Command(
        "SetPayload",
        Gate.POWERED,
        do.queued(QueueKind.SETTING, do.set_payload),
        Signature((_number("load", 0, 5),), _LOAD_CENTER, counts=(1, 4)),
    ),
    Command(
        "SetCollisionLevel",
        Gate.POWERED,
        do.queued(QueueKind.SETTING, do.setting("collision_level", "level")),
        Signature((_integer("level", 0, 5),)),
    ),
    # Motion
    Command(
        "MovJ",
        Gate.ENABLED,
        do.queued(QueueKind.MOVE, do.mov_j),
        Signature(
            (Parameter("target", Kind.TARGET),),
            named=(*_FRAME_CHOICE, _integer("a", 1, 100), _integer("v", 1, 100), _integer("cp", 0, 100)),
        ),
    ),
    Command(
        "ServoJ",
        Gate.ENABLED,
        do.queued(QueueKind.SERVO, do.servo_j),
        Signature(
            _JOINTS, named=(_number("t", 0.004, 3600.0), _number("aheadtime", 20, 100), _number("gain", 200, 1000))
        ),
    ),
    # Inputs, outputs and the tool flange
    Command("DO", Gate.POWERED, do.queued(QueueKind.SETTING, do.output_queued("digital_outputs")), _IO),
    Command("DOInstant", Gate.POWERED, do.output_now("digital_outputs"), _IO),
    Command("GetDO", Gate.POWERED, do.get_output, Signature((_integer("index", 1, 24),))),
    Command("ToolDO", Gate.POWERED, do.queued(QueueKind.SETTING, do.output_queued("tool_outputs")), _TOOL_IO),
    Command("ToolDOInstant", Gate.POWERED, do.output_now("tool_outputs"), _TOOL_IO),
    Command("SetToolPower", Gate.POWERED, do.tool_power, Signature((_integer("status", 0, 1),), (_IDENTIFY,))),
    Command(
        "SetToolMode",
        Gate.POWERED,
        do.tool_mode,
        Signature((_integer("mode", 1, 2), _integer("type", 0, 3)), (_IDENTIFY,)),
    ),
    Command(
        "SetTool485",
        Gate.POWERED,
        do.tool_485,
        Signature(
            (_integer("baud", 1200, 3_000_000),),
            (Parameter("parity", Kind.TEXT, choices=("N", "O", "E")), _integer("stop", 1, 2), _IDENTIFY),
        ),
    ),
    Command(
        "ModbusCreate",
        Gate.POWERED,
        do.modbus_create,
        Signature(
            (Parameter("ip", Kind.TEXT), _integer("port", 0, 65535), _integer("slave", 0, 247)),
            (_integer("is_rtu", 0, 1),),
        ),
    ),
    Command("ModbusClose", Gate.POWERED, do.modbus_close, Signature((_MASTER,))),
    Command(
        "GetHoldRegs",
        Gate.POWERED,
        do.get_registers,
        Signature((_MASTER, *_REGISTER, _integer("count", 1, 4)), (Parameter("type", Kind.TEXT, choices=("U16",)),)),
    ),
    Command(
        "SetHoldRegs",
        Gate.POWERED,
        do.set_registers,
        Signature(
            (_MASTER, *_REGISTER, _integer("count", 1, 4), Parameter("values", Kind.VECTOR, low=0, high=0xFFFF)),
            (Parameter("type", Kind.TEXT, choices=("U16",)),),
        ),
    ),
)

COMMANDS: dict[str, Command] = {command.name.lower(): command for command in _TABLE}
"""The table by lower-case name."""
