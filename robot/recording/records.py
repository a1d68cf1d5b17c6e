"""What the control loop tells the recorder: one record a 15 Hz step, and named events.

Both travel through shared-memory rings that the control loop writes, so telling never waits for anything.
"""

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np

DEVICE_AXES = 16
"""Room for the raw reading of any operator device."""
EVENT_NAME_BYTES = 64
EVENT_TEXT_BYTES = 1900


class ActionStage(Enum):
    """The same action on its way from the operator or policy to the arm."""

    REQUESTED = "requested"
    """What the policy or the mapped device asked for."""
    GUARDED = "guarded"
    """What the guard left of it."""
    SENT = "sent"
    """The set-point that robotd was given, after blending and limits."""
    MEASURED = "measured"
    """Where the arm and the gripper really were."""


def stage_fields(stage: ActionStage) -> tuple[str, str, str, str]:
    """Names in `STEP_DTYPE` of a stage's joints, gripper, tool position and tool orientation."""
    name = stage.value
    return f"{name}_joints_rad", f"{name}_gripper", f"{name}_tcp_position_m", f"{name}_tcp_quaternion_wxyz"


def _stage_dtype(stage: ActionStage) -> list[tuple[Any, ...]]:
    joints, gripper, position, quaternion = stage_fields(stage)
    return [(joints, "<f8", (6,)), (gripper, "<f8"), (position, "<f8", (3,)), (quaternion, "<f8", (4,))]


STEP_DTYPE = np.dtype(
    [
        ("tick", "<i8"),
        ("deadline_ns", "<i8"),
        ("wake_ns", "<i8"),
        ("observation_ns", "<i8"),
        ("exterior_capture_ns", "<i8"),
        ("wrist_capture_ns", "<i8"),
        ("target_ns", "<i8"),
        ("device_ns", "<i8"),
        ("device_raw", "<f8", (DEVICE_AXES,)),
        ("engaged", "u1"),
        ("intervention", "u1"),
        ("chunk_id", "<u8"),
        ("chunk_index", "<i4"),
        ("round_trip_s", "<f8"),
        ("guard_events", "<u8"),
        *(entry for stage in ActionStage for entry in _stage_dtype(stage)),
    ]
)
"""One 15 Hz step. ``deadline_ns`` is when the tick was due and ``wake_ns`` when it began; ``observation_ns`` is the
reference time of the observation acted on; ``target_ns`` is when the commanded posture is to be reached (0: one control
period after ``deadline_ns``); ``device_*`` is the operator's device as read; ``engaged`` and ``intervention`` are
flags; ``guard_events`` has one bit for each guard event number. A float that is not known is NaN, a time or id that
is not known 0. Tool poses left NaN are filled from the joints when the step is recorded."""

EVENT_DTYPE = np.dtype([("name", f"S{EVENT_NAME_BYTES}"), ("text", f"S{EVENT_TEXT_BYTES}")])
"""An event of the control loop: its name and its data as JSON, UTF-8."""


def empty_step() -> np.ndarray:
    """A 0-d record of `STEP_DTYPE` in which nothing is known yet."""
    step = np.zeros((), STEP_DTYPE)
    for name in STEP_DTYPE.names or ():
        if STEP_DTYPE[name].base.kind == "f":
            step[name] = np.nan
    return step


def make_step(**fields: Any) -> np.ndarray:
    """A 0-d record of `STEP_DTYPE` from the fields given. Raises `ValueError` for a name that it does not have."""
    step = empty_step()
    for name, value in fields.items():
        if name not in (STEP_DTYPE.names or ()):
            raise ValueError(f"a step has no field {name!r}; it has {', '.join(STEP_DTYPE.names or ())}")
        step[name] = value
    return step


def make_event(name: str, *, data: Mapping[str, Any]) -> np.ndarray:
    """A 0-d record of `EVENT_DTYPE`. Raises `ValueError` if name or data are too long or ``data`` is no JSON."""
    text = json.dumps(dict(data), allow_nan=False).encode()
    encoded = name.encode()
    if not 0 < len(encoded) <= EVENT_NAME_BYTES or len(text) > EVENT_TEXT_BYTES:
        raise ValueError(
            f"event {name[:EVENT_NAME_BYTES]!r}: expected a name of 1 to {EVENT_NAME_BYTES} bytes and at most "
            f"{EVENT_TEXT_BYTES} bytes of JSON, got {len(encoded)} and {len(text)}"
        )
    event = np.zeros((), EVENT_DTYPE)
    event["name"], event["text"] = encoded, text
    return event
