"""What each request of the simulated controller does; `robot.twin.controller_commands` is the table of them.

A handler gets the unit it acts on and the request's arguments by parameter name. Handlers of queued commands *prepare*:
they return what is to happen when the command's turn comes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from robot.arm.protocol import ErrorCode
from robot.motion.inverse_kinematics import nearest_inverse
from robot.motion.nova5 import MAX_JOINT_SPEED_RAD_S
from robot.motion.rotations import invert_pose, rpy_from_rotation
from robot.twin.controller_core import Alarm, ControllerCore, QueueItem, QueueKind, frame_from_wire
from robot.twin.controller_flange import ACCESS_S, STALL_S, Flange, ModbusMaster
from robot.twin.controller_motion import MAX_JOINT_ACCELERATION_RAD_S2
from robot.twin.servo_filter import DEFAULT_AHEADTIME, DEFAULT_GAIN, DEFAULT_TIME_S, ServoPoint


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
Handler = Callable[[Unit, Arguments], Outcome]
Preparation = Callable[[ControllerCore, Arguments], Callable[[], None]]
POSE_NAMES = ("px", "py", "pz", "rx", "ry", "rz")


def simple(action: Callable[[ControllerCore], int]) -> Handler:
    """A command without parameters that the core carries out and answers with a code."""
    return lambda unit, _: Outcome(int(action(unit.core)))


def queued(kind: QueueKind, prepare: Preparation) -> Handler:
    """A command that waits in the queue; it is answered with its id, or refused when the queue is full."""

    def run(unit: Unit, arguments: Arguments) -> Outcome:
        command_id = unit.core.enqueue(QueueItem(kind, prepare(unit.core, arguments)))
        return Outcome(ErrorCode.FAILED) if command_id is None else Outcome(values=str(command_id))

    return run


def setting(attribute: str, argument: str) -> Preparation:
    """A setting that takes its argument over when its turn comes."""
    return lambda core, arguments: lambda: setattr(core.settings, attribute, arguments[argument])


def set_now(attribute: str, argument: str) -> Handler:
    """A setting that takes its argument over at once."""

    def run(unit: Unit, arguments: Arguments) -> Outcome:
        setattr(unit.core.settings, attribute, arguments[argument])
        return Outcome()

    return run


def enable(unit: Unit, arguments: Arguments) -> Outcome:
    apply_payload(unit.core, arguments)
    return Outcome(int(unit.core.enable()))


def apply_payload(core: ControllerCore, arguments: Arguments) -> None:
    if "load" in arguments:
        core.settings.payload_kg = arguments["load"]
    if "x" in arguments:
        core.settings.payload_center_m = (
            arguments["x"] * 1e-3,
            arguments.get("y", 0.0) * 1e-3,
            arguments.get("z", 0.0) * 1e-3,
        )


def set_payload(core: ControllerCore, arguments: Arguments) -> Callable[[], None]:
    return lambda: apply_payload(core, arguments)


def speed_factor(unit: Unit, arguments: Arguments) -> Outcome:
    unit.core.set_speed_factor(arguments["ratio"])
    return Outcome()


def set_frame(attribute: str) -> Handler:
    """Stores a user frame or a tool under its index."""

    def run(unit: Unit, arguments: Arguments) -> Outcome:
        getattr(unit.core.settings, attribute)[arguments["index"]] = frame_from_wire(arguments["frame"])
        return Outcome()

    return run


def emergency_stop(unit: Unit, arguments: Arguments) -> Outcome:
    return Outcome(int(unit.core.emergency_stop(pressed=arguments["mode"] == 1)))


def robot_mode(unit: Unit, _: Arguments) -> Outcome:
    return Outcome(values=str(int(unit.core.mode)))


def error_id(unit: Unit, _: Arguments) -> Outcome:
    return Outcome(values=f"[{','.join(map(str, unit.core.alarms))}]")


def command_id(unit: Unit, _: Arguments) -> Outcome:
    return Outcome(values=str(unit.core.current_command_id))


def numbers(values: np.ndarray) -> str:
    return ",".join(f"{value:.6f}" for value in values)


def pose_text(pose: np.ndarray) -> str:
    return numbers(np.concatenate([pose[:3, 3] * 1e3, np.degrees(rpy_from_rotation(pose[:3, :3]))]))


def angle(unit: Unit, _: Arguments) -> Outcome:
    return Outcome(values=numbers(np.degrees(unit.core.measured_rad)))


def pose(unit: Unit, arguments: Arguments) -> Outcome:
    if ("user" in arguments) != ("tool" in arguments):
        return Outcome(ErrorCode.PARAMETER_COUNT)
    core = unit.core
    return Outcome(values=pose_text(core.tool_pose(core.measured_rad, **arguments)))


def positive_kin(unit: Unit, arguments: Arguments) -> Outcome:
    joints = np.radians([arguments[f"j{i}"] for i in range(1, 7)])
    pose = unit.core.tool_pose(joints, user=arguments.get("user"), tool=arguments.get("tool"))
    return Outcome(values=pose_text(pose))


def inverse_kin(unit: Unit, arguments: Arguments) -> Outcome:
    wire = tuple(arguments[name] for name in POSE_NAMES)
    near = arguments.get("jointnear") if arguments.get("usejointnear") == 1 else None
    reference = unit.core.measured_rad if near is None else np.radians(near)
    joints = solve(unit.core, wire, reference=reference, user=arguments.get("user"), tool=arguments.get("tool"))
    return Outcome(ErrorCode.FAILED) if joints is None else Outcome(values=numbers(np.degrees(joints)))


def solve(
    core: ControllerCore, wire: tuple[float, ...], *, reference: np.ndarray, user: int | None, tool: int | None
) -> np.ndarray | None:
    """Joints (6,) rad that bring a tool to a wire pose in a user frame, None out of reach."""
    flange = core.user_frame(user) @ frame_from_wire(wire) @ invert_pose(core.tool_frame(tool))
    return nearest_inverse(flange, reference_rad=reference)


def mov_j(core: ControllerCore, arguments: Arguments) -> Callable[[], None]:
    what, target = arguments["target"]
    settings = core.settings
    speed = MAX_JOINT_SPEED_RAD_S * arguments.get("v", settings.velocity_percent) / 100.0
    acceleration = MAX_JOINT_ACCELERATION_RAD_S2 * arguments.get("a", settings.acceleration_percent) / 100.0

    def begin() -> None:
        if what == "joint":
            joints: np.ndarray | None = np.radians(target)
        else:
            user, tool = arguments.get("user"), arguments.get("tool")
            joints = solve(core, target, reference=core.motion.position, user=user, tool=tool)
        if joints is None:
            core.raise_alarm(Alarm.IK_NO_SOLUTION)
        else:
            core.begin_move(joints, speed_rad_s=speed, acceleration_rad_s2=acceleration)

    return begin


def servo_j(core: ControllerCore, arguments: Arguments) -> Callable[[], None]:
    point = ServoPoint(
        target=np.radians([arguments[f"j{i}"] for i in range(1, 7)]),
        time_s=arguments.get("t", DEFAULT_TIME_S),
        aheadtime=arguments.get("aheadtime", DEFAULT_AHEADTIME),
        gain=arguments.get("gain", DEFAULT_GAIN),
    )
    return lambda: core.begin_servo(point)


def output(core: ControllerCore, attribute: str, arguments: Arguments) -> None:
    bit = 1 << (arguments["index"] - 1)
    outputs = getattr(core.settings, attribute)
    setattr(core.settings, attribute, outputs | bit if arguments["status"] else outputs & ~bit)


def output_now(attribute: str) -> Handler:
    """Switches an output at once."""

    def run(unit: Unit, arguments: Arguments) -> Outcome:
        output(unit.core, attribute, arguments)
        return Outcome()

    return run


def output_queued(attribute: str) -> Preparation:
    """Switches an output when its turn comes."""
    return lambda core, arguments: lambda: output(core, attribute, arguments)


def get_output(unit: Unit, arguments: Arguments) -> Outcome:
    return Outcome(values=str(unit.core.settings.digital_outputs >> (arguments["index"] - 1) & 1))


def tool_power(unit: Unit, arguments: Arguments) -> Outcome:
    unit.flange.powered = arguments["status"] == 1
    return Outcome(busy_s=0.004)


def tool_mode(unit: Unit, arguments: Arguments) -> Outcome:
    unit.flange.rs485 = arguments["mode"] == 1
    return Outcome()


def tool_485(unit: Unit, arguments: Arguments) -> Outcome:
    unit.flange.baudrate = arguments["baud"]
    return Outcome()


def modbus_create(unit: Unit, arguments: Arguments) -> Outcome:
    master = ModbusMaster(arguments["port"], arguments["slave"], arguments.get("is_rtu", 0) == 1)
    index = unit.flange.create_master(master)
    return Outcome(ErrorCode.FAILED) if index is None else Outcome(values=str(index))


def modbus_close(unit: Unit, arguments: Arguments) -> Outcome:
    return Outcome(ErrorCode.OK if unit.flange.close_master(arguments["index"]) else ErrorCode.FAILED)


def get_registers(unit: Unit, arguments: Arguments) -> Outcome:
    values = unit.flange.read(arguments["index"], address=arguments["address"], count=arguments["count"])
    if values is None:
        return Outcome(ErrorCode.FAILED, busy_s=STALL_S)
    return Outcome(values=",".join(map(str, values)), busy_s=ACCESS_S)


def set_registers(unit: Unit, arguments: Arguments) -> Outcome:
    values = [int(value) for value in arguments["values"]]
    if len(values) != arguments["count"]:
        return Outcome(ErrorCode.REQUIRED_RANGE - 4)
    if unit.flange.write(arguments["index"], address=arguments["address"], values=values):
        return Outcome(busy_s=ACCESS_S)
    return Outcome(ErrorCode.FAILED, busy_s=STALL_S)
