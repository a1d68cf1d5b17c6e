"""Every request that the simulated controller understands, as one table: name, parameters, when allowed, what it does.

Ranges and the queue/immediate split: V4.6.5 guide. To add a command, add a row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np

from robot.arm.protocol import ErrorCode, RobotMode
from robot.motion.inverse_kinematics import nearest_inverse
from robot.motion.nova5 import MAX_JOINT_SPEED_RAD_S
from robot.motion.rotations import invert_pose, rpy_from_rotation
from robot.twin.controller_core import Alarm, ControllerCore, QueueItem, QueueKind, frame_from_wire
from robot.twin.controller_flange import ACCESS_S, STALL_S, Flange, ModbusMaster
from robot.twin.controller_grammar import Kind, Parameter, Signature
from robot.twin.controller_motion import MAX_JOINT_ACCELERATION_RAD_S2
from robot.twin.servo_filter import DEFAULT_AHEADTIME, DEFAULT_GAIN, DEFAULT_TIME_S, ServoPoint


class Gate(Enum):
    """In which states a command is allowed; each one includes those above it."""

    ALWAYS = auto()
    """Even in alarm and emergency stop."""
    POWERED_OFF = auto()
    POWERED = auto()
    ENABLED = auto()
    """Enabled and not being dragged."""


@dataclass(frozen=True)
class Outcome:
    """What a command answers: code, text between the braces, and how long the controller is busy with it."""

    code: int = ErrorCode.OK
    values: str = ""
    busy_s: float = 0.0


@dataclass(frozen=True)
class Unit:
    """What commands act on."""

    core: ControllerCore
    flange: Flange


Arguments = dict[str, Any]
NO_PARAMETERS = Signature()


@dataclass(frozen=True)
class Command:
    """One row of the table."""

    name: str
    gate: Gate
    run: Callable[[Unit, Arguments], Outcome]
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


def _simple(action: Callable[[ControllerCore], int]) -> Callable[[Unit, Arguments], Outcome]:
    return lambda unit, _: Outcome(int(action(unit.core)))


def _queued(
    kind: QueueKind, prepare: Callable[[ControllerCore, Arguments], Callable[[], None]]
) -> Callable[[Unit, Arguments], Outcome]:
    def run(unit: Unit, arguments: Arguments) -> Outcome:
        command_id = unit.core.enqueue(QueueItem(kind, prepare(unit.core, arguments)))
        return Outcome(ErrorCode.FAILED) if command_id is None else Outcome(values=str(command_id))

    return run


def _setting(attribute: str, argument: str) -> Callable[[ControllerCore, Arguments], Callable[[], None]]:
    return lambda core, arguments: lambda: setattr(core.settings, attribute, arguments[argument])


def _set_now(attribute: str, argument: str) -> Callable[[Unit, Arguments], Outcome]:
    def run(unit: Unit, arguments: Arguments) -> Outcome:
        setattr(unit.core.settings, attribute, arguments[argument])
        return Outcome()

    return run


def _enable(unit: Unit, arguments: Arguments) -> Outcome:
    _apply_payload(unit.core, arguments)
    return Outcome(int(unit.core.enable()))


def _apply_payload(core: ControllerCore, arguments: Arguments) -> None:
    if "load" in arguments:
        core.settings.payload_kg = arguments["load"]
    if "x" in arguments:
        core.settings.payload_center_m = (
            arguments["x"] * 1e-3,
            arguments.get("y", 0.0) * 1e-3,
            arguments.get("z", 0.0) * 1e-3,
        )


def _set_payload(core: ControllerCore, arguments: Arguments) -> Callable[[], None]:
    return lambda: _apply_payload(core, arguments)


def _speed_factor(unit: Unit, arguments: Arguments) -> Outcome:
    unit.core.set_speed_factor(arguments["ratio"])
    return Outcome()


def _set_frame(attribute: str) -> Callable[[Unit, Arguments], Outcome]:
    def run(unit: Unit, arguments: Arguments) -> Outcome:
        getattr(unit.core.settings, attribute)[arguments["index"]] = frame_from_wire(arguments["frame"])
        return Outcome()

    return run


def _emergency_stop(unit: Unit, arguments: Arguments) -> Outcome:
    return Outcome(int(unit.core.emergency_stop(pressed=arguments["mode"] == 1)))


def _robot_mode(unit: Unit, _: Arguments) -> Outcome:
    return Outcome(values=str(int(unit.core.mode)))


def _error_id(unit: Unit, _: Arguments) -> Outcome:
    return Outcome(values=f"[{','.join(map(str, unit.core.alarms))}]")


def _command_id(unit: Unit, _: Arguments) -> Outcome:
    return Outcome(values=str(unit.core.current_command_id))


def _numbers(values: np.ndarray) -> str:
    return ",".join(f"{value:.6f}" for value in values)


def _pose_text(pose: np.ndarray) -> str:
    return _numbers(np.concatenate([pose[:3, 3] * 1e3, np.degrees(rpy_from_rotation(pose[:3, :3]))]))


def _angle(unit: Unit, _: Arguments) -> Outcome:
    return Outcome(values=_numbers(np.degrees(unit.core.measured_rad)))


def _pose(unit: Unit, arguments: Arguments) -> Outcome:
    if ("user" in arguments) != ("tool" in arguments):
        return Outcome(ErrorCode.PARAMETER_COUNT)
    core = unit.core
    return Outcome(values=_pose_text(core.tool_pose(core.measured_rad, **arguments)))


def _positive_kin(unit: Unit, arguments: Arguments) -> Outcome:
    joints = np.radians([arguments[f"j{i}"] for i in range(1, 7)])
    pose = unit.core.tool_pose(joints, user=arguments.get("user"), tool=arguments.get("tool"))
    return Outcome(values=_pose_text(pose))


def _inverse_kin(unit: Unit, arguments: Arguments) -> Outcome:
    wire = tuple(arguments[name] for name in _POSE_NAMES)
    near = arguments.get("jointnear") if arguments.get("usejointnear") == 1 else None
    reference = unit.core.measured_rad if near is None else np.radians(near)
    joints = _solve(unit.core, wire, reference=reference, user=arguments.get("user"), tool=arguments.get("tool"))
    return Outcome(ErrorCode.FAILED) if joints is None else Outcome(values=_numbers(np.degrees(joints)))


def _solve(
    core: ControllerCore, wire: tuple[float, ...], *, reference: np.ndarray, user: int | None, tool: int | None
) -> np.ndarray | None:
    """Joints (6,) rad that bring a tool to a wire pose in a user frame, None out of reach."""
    flange = core.user_frame(user) @ frame_from_wire(wire) @ invert_pose(core.tool_frame(tool))
    return nearest_inverse(flange, reference_rad=reference)


def _mov_j(core: ControllerCore, arguments: Arguments) -> Callable[[], None]:
    what, target = arguments["target"]
    settings = core.settings
    speed = MAX_JOINT_SPEED_RAD_S * arguments.get("v", settings.velocity_percent) / 100.0
    acceleration = MAX_JOINT_ACCELERATION_RAD_S2 * arguments.get("a", settings.acceleration_percent) / 100.0

    def begin() -> None:
        if what == "joint":
            joints: np.ndarray | None = np.radians(target)
        else:
            user, tool = arguments.get("user"), arguments.get("tool")
            joints = _solve(core, target, reference=core.motion.position, user=user, tool=tool)
        if joints is None:
            core.raise_alarm(Alarm.IK_NO_SOLUTION)
        else:
            core.begin_move(joints, speed_rad_s=speed, acceleration_rad_s2=acceleration)

    return begin


def _servo_j(core: ControllerCore, arguments: Arguments) -> Callable[[], None]:
    point = ServoPoint(
        target=np.radians([arguments[f"j{i}"] for i in range(1, 7)]),
        time_s=arguments.get("t", DEFAULT_TIME_S),
        aheadtime=arguments.get("aheadtime", DEFAULT_AHEADTIME),
        gain=arguments.get("gain", DEFAULT_GAIN),
    )
    return lambda: core.begin_servo(point)


def _output(core: ControllerCore, attribute: str, arguments: Arguments) -> None:
    bit = 1 << (arguments["index"] - 1)
    outputs = getattr(core.settings, attribute)
    setattr(core.settings, attribute, outputs | bit if arguments["status"] else outputs & ~bit)


def _output_now(attribute: str) -> Callable[[Unit, Arguments], Outcome]:
    def run(unit: Unit, arguments: Arguments) -> Outcome:
        _output(unit.core, attribute, arguments)
        return Outcome()

    return run


def _output_queued(attribute: str) -> Callable[[ControllerCore, Arguments], Callable[[], None]]:
    return lambda core, arguments: lambda: _output(core, attribute, arguments)


def _get_output(unit: Unit, arguments: Arguments) -> Outcome:
    return Outcome(values=str(unit.core.settings.digital_outputs >> (arguments["index"] - 1) & 1))


def _tool_power(unit: Unit, arguments: Arguments) -> Outcome:
    unit.flange.powered = arguments["status"] == 1
    return Outcome(busy_s=0.004)


def _tool_mode(unit: Unit, arguments: Arguments) -> Outcome:
    unit.flange.rs485 = arguments["mode"] == 1
    return Outcome()


def _tool_485(unit: Unit, arguments: Arguments) -> Outcome:
    unit.flange.baudrate = arguments["baud"]
    return Outcome()


def _modbus_create(unit: Unit, arguments: Arguments) -> Outcome:
    master = ModbusMaster(arguments["port"], arguments["slave"], arguments.get("is_rtu", 0) == 1)
    index = unit.flange.create_master(master)
    return Outcome(ErrorCode.FAILED) if index is None else Outcome(values=str(index))


def _modbus_close(unit: Unit, arguments: Arguments) -> Outcome:
    return Outcome(ErrorCode.OK if unit.flange.close_master(arguments["index"]) else ErrorCode.FAILED)


def _get_registers(unit: Unit, arguments: Arguments) -> Outcome:
    values = unit.flange.read(arguments["index"], address=arguments["address"], count=arguments["count"])
    if values is None:
        return Outcome(ErrorCode.FAILED, busy_s=STALL_S)
    return Outcome(values=",".join(map(str, values)), busy_s=ACCESS_S)


def _set_registers(unit: Unit, arguments: Arguments) -> Outcome:
    values = [int(value) for value in arguments["values"]]
    if len(values) != arguments["count"]:
        return Outcome(ErrorCode.REQUIRED_RANGE - 4)
    if unit.flange.write(arguments["index"], address=arguments["address"], values=values):
        return Outcome(busy_s=ACCESS_S)
    return Outcome(ErrorCode.FAILED, busy_s=STALL_S)


def _integer(name: str, low: float, high: float) -> Parameter:
    return Parameter(name, Kind.INTEGER, low=low, high=high)


def _number(name: str, low: float = -1e6, high: float = 1e6) -> Parameter:
    return Parameter(name, low=low, high=high)


_POSE_NAMES = ("px", "py", "pz", "rx", "ry", "rz")
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
    Command("ClearError", Gate.ALWAYS, _simple(ControllerCore.clear_error)),
    Command("GetErrorID", Gate.ALWAYS, _error_id),
    Command("EmergencyStop", Gate.ALWAYS, _emergency_stop, Signature((_integer("mode", 0, 1),))),
    Command("Stop", Gate.ALWAYS, _simple(ControllerCore.stop)),
    Command("RobotMode", Gate.ALWAYS, _robot_mode),
    # Power and enabling
    Command("RequestControl", Gate.POWERED_OFF, _simple(ControllerCore.request_control)),
    Command("PowerOn", Gate.POWERED_OFF, _simple(ControllerCore.power_on)),
    Command(
        "EnableRobot",
        Gate.POWERED,
        _enable,
        Signature((), (_number("load", 0, 5), *_LOAD_CENTER, _integer("check", 0, 1)), counts=(0, 1, 4, 5)),
    ),
    Command("DisableRobot", Gate.POWERED, _simple(ControllerCore.disable)),
    Command("Pause", Gate.POWERED, _simple(ControllerCore.pause)),
    Command("Continue", Gate.POWERED, _simple(ControllerCore.resume)),
    Command("StartDrag", Gate.ENABLED, _simple(ControllerCore.start_drag)),
    Command("StopDrag", Gate.POWERED, _simple(ControllerCore.stop_drag)),
    # Readings
    Command("GetAngle", Gate.POWERED, _angle),
    Command("GetPose", Gate.POWERED, _pose, Signature(named=_FRAME_CHOICE)),
    Command("GetCurrentCommandID", Gate.POWERED, _command_id),
    Command("PositiveKin", Gate.POWERED, _positive_kin, Signature(_JOINTS, named=_FRAME_CHOICE)),
    Command(
        "InverseKin",
        Gate.POWERED,
        _inverse_kin,
        Signature(
            tuple(_number(name) for name in _POSE_NAMES),
            named=(
                _integer("usejointnear", 0, 1),
                Parameter("jointnear", Kind.VECTOR, low=-720, high=720, length=6),
                *_FRAME_CHOICE,
            ),
        ),
    ),
    # Settings that act at once
    Command("SpeedFactor", Gate.POWERED, _speed_factor, _PERCENT),
    Command("VelJ", Gate.POWERED, _set_now("velocity_percent", "ratio"), _PERCENT),
    Command("AccJ", Gate.POWERED, _set_now("acceleration_percent", "ratio"), _PERCENT),
    Command("VelL", Gate.POWERED, _set_now("linear_velocity_percent", "ratio"), _PERCENT),
    Command("AccL", Gate.POWERED, _set_now("linear_acceleration_percent", "ratio"), _PERCENT),
    Command("CP", Gate.POWERED, _set_now("blend_percent", "ratio"), Signature((_integer("ratio", 0, 100),))),
    Command("SetUser", Gate.POWERED, _set_frame("users"), _FRAME),
    Command("SetTool", Gate.POWERED, _set_frame("tools"), _FRAME),
    # Settings that wait in the queue
    Command("User", Gate.POWERED, _queued(QueueKind.SETTING, _setting("user", "index")), _INDEX_50),
    Command("Tool", Gate.POWERED, _queued(QueueKind.SETTING, _setting("tool", "index")), _INDEX_50),
    Command(
        "SetPayload",
        Gate.POWERED,
        _queued(QueueKind.SETTING, _set_payload),
        Signature((_number("load", 0, 5),), _LOAD_CENTER, counts=(1, 4)),
    ),
    Command(
        "SetCollisionLevel",
        Gate.POWERED,
        _queued(QueueKind.SETTING, _setting("collision_level", "level")),
        Signature((_integer("level", 0, 5),)),
    ),
    # Motion
    Command(
        "MovJ",
        Gate.ENABLED,
        _queued(QueueKind.MOVE, _mov_j),
        Signature(
            (Parameter("target", Kind.TARGET),),
            named=(*_FRAME_CHOICE, _integer("a", 1, 100), _integer("v", 1, 100), _integer("cp", 0, 100)),
        ),
    ),
    Command(
        "ServoJ",
        Gate.ENABLED,
        _queued(QueueKind.SERVO, _servo_j),
        Signature(
            _JOINTS, named=(_number("t", 0.004, 3600.0), _number("aheadtime", 20, 100), _number("gain", 200, 1000))
        ),
    ),
    # Inputs, outputs and the tool flange
    Command("DO", Gate.POWERED, _queued(QueueKind.SETTING, _output_queued("digital_outputs")), _IO),
    Command("DOInstant", Gate.POWERED, _output_now("digital_outputs"), _IO),
    Command("GetDO", Gate.POWERED, _get_output, Signature((_integer("index", 1, 24),))),
    Command("ToolDO", Gate.POWERED, _queued(QueueKind.SETTING, _output_queued("tool_outputs")), _TOOL_IO),
    Command("ToolDOInstant", Gate.POWERED, _output_now("tool_outputs"), _TOOL_IO),
    Command("SetToolPower", Gate.POWERED, _tool_power, Signature((_integer("status", 0, 1),), (_IDENTIFY,))),
    Command(
        "SetToolMode",
        Gate.POWERED,
        _tool_mode,
        Signature((_integer("mode", 1, 2), _integer("type", 0, 3)), (_IDENTIFY,)),
    ),
    Command(
        "SetTool485",
        Gate.POWERED,
        _tool_485,
        Signature(
            (_integer("baud", 1200, 3_000_000),),
            (Parameter("parity", Kind.TEXT, choices=("N", "O", "E")), _integer("stop", 1, 2), _IDENTIFY),
        ),
    ),
    Command(
        "ModbusCreate",
        Gate.POWERED,
        _modbus_create,
        Signature(
            (Parameter("ip", Kind.TEXT), _integer("port", 0, 65535), _integer("slave", 0, 247)),
            (_integer("is_rtu", 0, 1),),
        ),
    ),
    Command("ModbusClose", Gate.POWERED, _modbus_close, Signature((_MASTER,))),
    Command(
        "GetHoldRegs",
        Gate.POWERED,
        _get_registers,
        Signature((_MASTER, *_REGISTER, _integer("count", 1, 4)), (Parameter("type", Kind.TEXT, choices=("U16",)),)),
    ),
    Command(
        "SetHoldRegs",
        Gate.POWERED,
        _set_registers,
        Signature(
            (_MASTER, *_REGISTER, _integer("count", 1, 4), Parameter("values", Kind.VECTOR, low=0, high=0xFFFF)),
            (Parameter("type", Kind.TEXT, choices=("U16",)),),
        ),
    ),
)

COMMANDS: dict[str, Command] = {command.name.lower(): command for command in _TABLE}
"""The table by lower-case name."""
