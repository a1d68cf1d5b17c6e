"""Everything that can go wrong on a rig, in one table: code, severity, reaction, what the operator is told.

robotd, the camera workers, the logs and the operator's page read from this table. Codes are stable: they are recorded.
What the guard objects to in a *command* has a table of its own: `robot.motion.guard_events`.
"""

from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How much attention a fault wants."""

    NOTICE = 1
    """Counted and shown."""
    WARNING = 2
    """Motion pauses; it may go on when the cause is gone."""
    FAULT = 3
    """Latched until an operator acknowledges it."""


class Reaction(IntEnum):
    """What the stack does by itself. It never clears an alarm and never goes on after a latched fault."""

    COUNT = 1
    """Nothing but counting; what was refused or skipped is not made up for."""
    HOLD = 2
    """Decelerate and hold; new waypoints are accepted again as soon as the cause is gone."""
    BRAKE_AND_LATCH = 3
    """Decelerate along the stream, hold, and wait for an acknowledgement."""
    SILENCE_AND_LATCH = 4
    """Send nothing more at once, forget every target, and wait for an acknowledgement."""
    REFUSE_START = 5
    """The job does not start."""


class Fault(IntEnum):
    """Stable codes. Hundreds: 1 cameras, 2 the arm's wires, 4 the arm itself, 5 gripper, 6 this machine."""

    NONE = 0
    CAMERA_LOST = 101
    CAMERA_FROZEN = 102
    FRAME_STALE = 103
    FRAMES_SKEWED = 104
    FRAME_CORRUPT = 105
    CAMERA_MISMATCH = 106
    CAMERA_SETTINGS = 107
    FEEDBACK_STALE = 201
    FEEDBACK_MISFRAMED = 202
    DASHBOARD_LOST = 203
    PORT_OCCUPIED = 204
    NOT_TCP_MODE = 205
    SERVO_REPLIES_MISSING = 206
    ARM_ALARM = 401
    COLLISION = 402
    EMERGENCY_STOP = 403
    ARM_DISABLED = 404
    DRAG_MODE = 405
    CONTROL_TAKEN = 406
    SETPOINT_REFUSED = 407
    GRIPPER_SILENT = 501
    OBJECT_LOST = 502
    GRIPPER_NOT_INITIALISED = 503
    SERVO_OVERRUN = 601
    CLOCK_STEPPED = 602
    INTERNAL = 603


@dataclass(frozen=True)
class FaultEntry:
    """One row of the table."""

    fault: Fault
    severity: Severity
    reaction: Reaction
    text: str


_ROWS: tuple[FaultEntry, ...] = (
    FaultEntry(Fault.NONE, Severity.NOTICE, Reaction.COUNT, "no fault"),
    FaultEntry(
        Fault.CAMERA_LOST,
        Severity.WARNING,
        Reaction.HOLD,
        "a camera delivers no pictures: check its cable and USB port",
    ),
    FaultEntry(
        Fault.CAMERA_FROZEN,
        Severity.WARNING,
        Reaction.HOLD,
        "a camera repeats the same picture: unplug it and plug it in",
    ),
    FaultEntry(Fault.FRAME_STALE, Severity.NOTICE, Reaction.COUNT, "a picture was too old to act on and was not used"),
    FaultEntry(
        Fault.FRAMES_SKEWED,
        Severity.NOTICE,
        Reaction.COUNT,
        "the cameras' pictures were too far apart in time; not used",
    ),
    FaultEntry(Fault.FRAME_CORRUPT, Severity.NOTICE, Reaction.COUNT, "a damaged, black or green picture was dropped"),
    FaultEntry(
        Fault.CAMERA_MISMATCH,
        Severity.FAULT,
        Reaction.REFUSE_START,
        "a camera is not the one that the rig file names, or delivers another size or rate",
    ),
    FaultEntry(
        Fault.CAMERA_SETTINGS,
        Severity.WARNING,
        Reaction.HOLD,
        "a camera's exposure or white balance is not what was set",
    ),
    FaultEntry(
        Fault.FEEDBACK_STALE,
        Severity.FAULT,
        Reaction.SILENCE_AND_LATCH,
        "the arm's feedback stopped or stands still: check the network cable and the controller, then acknowledge",
    ),
    FaultEntry(
        Fault.FEEDBACK_MISFRAMED,
        Severity.NOTICE,
        Reaction.COUNT,
        "feedback bytes were lost; the reader found the next packet",
    ),
    FaultEntry(
        Fault.DASHBOARD_LOST,
        Severity.FAULT,
        Reaction.SILENCE_AND_LATCH,
        "the command connection to the arm broke: check cable and controller; acknowledging connects again",
    ),
    FaultEntry(
        Fault.PORT_OCCUPIED,
        Severity.FAULT,
        Reaction.SILENCE_AND_LATCH,
        "another program holds the arm's command port: close it, then acknowledge",
    ),
    FaultEntry(
        Fault.NOT_TCP_MODE,
        Severity.FAULT,
        Reaction.SILENCE_AND_LATCH,
        "the controller left TCP control mode: give control back to TCP, then acknowledge",
    ),
    FaultEntry(
        Fault.SERVO_REPLIES_MISSING,
        Severity.FAULT,
        Reaction.SILENCE_AND_LATCH,
        "the controller no longer answers the set-points: check its load and the network, then acknowledge",
    ),
    FaultEntry(
        Fault.ARM_ALARM,
        Severity.FAULT,
        Reaction.SILENCE_AND_LATCH,
        "the arm's controller raised an alarm: remove its cause, then acknowledge and clear it",
    ),
    FaultEntry(
        Fault.COLLISION,
        Severity.FAULT,
        Reaction.SILENCE_AND_LATCH,
        "the arm detected a collision: look at the arm and free it by hand before anything else",
    ),
    FaultEntry(
        Fault.EMERGENCY_STOP,
        Severity.FAULT,
        Reaction.SILENCE_AND_LATCH,
        "the emergency stop is pressed: release it when the area is safe, then acknowledge and clear the alarm",
    ),
    FaultEntry(
        Fault.ARM_DISABLED,
        Severity.FAULT,
        Reaction.SILENCE_AND_LATCH,
        "the arm was disabled or powered off by somebody else: acknowledge, then enable it again",
    ),
    FaultEntry(
        Fault.DRAG_MODE,
        Severity.FAULT,
        Reaction.SILENCE_AND_LATCH,
        "the arm was switched to hand guiding: end it, then acknowledge",
    ),
    FaultEntry(
        Fault.CONTROL_TAKEN,
        Severity.FAULT,
        Reaction.SILENCE_AND_LATCH,
        "somebody jogs or paused the arm from another place: end that, then acknowledge",
    ),
    FaultEntry(
        Fault.SETPOINT_REFUSED,
        Severity.FAULT,
        Reaction.SILENCE_AND_LATCH,
        "the controller refused a set-point",
    ),
    FaultEntry(
        Fault.GRIPPER_SILENT,
        Severity.FAULT,
        Reaction.BRAKE_AND_LATCH,
        "the gripper does not answer: check its 24 V supply and RS-485 wires, then acknowledge",
    ),
    FaultEntry(Fault.OBJECT_LOST, Severity.NOTICE, Reaction.COUNT, "the gripper lost the object that it held"),
    FaultEntry(
        Fault.GRIPPER_NOT_INITIALISED,
        Severity.FAULT,
        Reaction.BRAKE_AND_LATCH,
        "the gripper lost its initialisation (power cut?): acknowledge, then enable again; its jaws will travel",
    ),
    FaultEntry(
        Fault.SERVO_OVERRUN, Severity.NOTICE, Reaction.COUNT, "the servo loop missed deadlines; they were not caught up"
    ),
    FaultEntry(
        Fault.CLOCK_STEPPED, Severity.NOTICE, Reaction.COUNT, "the wall clock was set; control runs on monotonic time"
    ),
    FaultEntry(
        Fault.INTERNAL,
        Severity.FAULT,
        Reaction.SILENCE_AND_LATCH,
        "robotd met an error of its own: see its log, then acknowledge or restart it",
    ),
)
FAULTS: dict[Fault, FaultEntry] = {row.fault: row for row in _ROWS}


def describe(fault: Fault, *, detail: str = "") -> str:
    """``NAME (code): what the operator is told``, with what is known of this case."""
    text = f"{fault.name} ({int(fault)}): {FAULTS[fault].text}"
    return f"{text} [{detail}]" if detail else text
