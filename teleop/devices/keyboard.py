"""The keyboard of a terminal as a velocity stick.

A terminal tells key presses and repeats, never releases. A motion key therefore moves for `PRESS_S`, which the
keyboard's repeat prolongs; the clutch is a key that toggles.
"""

from enum import Enum

import numpy as np

from robot.clock import seconds_to_ns
from teleop.devices.device import Button, DeviceSample, RateMotion
from teleop.devices.terminal import RawTerminal

PRESS_S = 0.12
"""How long one press moves: longer than the pause between two repeats (33 ms is usual)."""
CLUTCH_KEY = "space"


class _Axis(Enum):
    FORWARD = 0
    LEFT = 1
    UP = 2
    ROLL = 3
    PITCH = 4
    YAW = 5


MOTION_KEYS: dict[str, tuple[_Axis, float]] = {
    "w": (_Axis.FORWARD, 1.0), "s": (_Axis.FORWARD, -1.0), "up": (_Axis.FORWARD, 1.0), "down": (_Axis.FORWARD, -1.0),
    "a": (_Axis.LEFT, 1.0), "d": (_Axis.LEFT, -1.0), "left": (_Axis.LEFT, 1.0), "right": (_Axis.LEFT, -1.0),
    "r": (_Axis.UP, 1.0), "f": (_Axis.UP, -1.0), "page up": (_Axis.UP, 1.0), "page down": (_Axis.UP, -1.0),
    "u": (_Axis.ROLL, 1.0), "o": (_Axis.ROLL, -1.0), "i": (_Axis.PITCH, 1.0), "k": (_Axis.PITCH, -1.0),
    "j": (_Axis.YAW, 1.0), "l": (_Axis.YAW, -1.0),
}  # fmt: skip
BUTTON_KEYS: dict[str, Button] = {
    "g": Button.GRIPPER, "enter": Button.START, "y": Button.SUCCESS, "n": Button.FAILURE, "x": Button.DISCARD,
    "backspace": Button.DISCARD, "p": Button.PAUSE, "q": Button.QUIT, "escape": Button.QUIT,
    "-": Button.SLOWER, "+": Button.FASTER, "=": Button.FASTER,
}  # fmt: skip
HELP = (
    "space clutch · w/s a/d r/f move · u/o i/k j/l turn · g gripper · -/+ speed · "
    "enter start · y success · n failure · x discard · p pause · q quit"
)


def buttons_of(keys: list[str]) -> tuple[Button, ...]:
    """The buttons among the keys."""
    return tuple(BUTTON_KEYS[key] for key in keys if key in BUTTON_KEYS)


class Keyboard:
    """A `Device` on a terminal (``fd``, standard input when left out). Raises `DeviceError` where there is none."""

    name = "keyboard"

    def __init__(self, fd: int | None = None) -> None:
        self._terminal = RawTerminal(fd)
        self._clutch = False
        self._until_ns = np.zeros(6, dtype=np.int64)
        self._direction = np.zeros(6)
        self._heard_ns: int | None = None

    @property
    def problem(self) -> str:
        return self._terminal.problem

    def sample(self, now_ns: int) -> DeviceSample | None:
        keys = self._terminal.keys()
        if not self._terminal.problem:
            self._heard_ns = now_ns  # a terminal that can be read and says nothing says: no key
        if self._heard_ns is None:
            return None
        for key in keys:
            if key == CLUTCH_KEY:
                self._clutch = not self._clutch
                self._until_ns[:] = 0
            elif key in MOTION_KEYS:
                axis, direction = MOTION_KEYS[key]
                self._until_ns[axis.value] = now_ns + seconds_to_ns(PRESS_S)
                self._direction[axis.value] = direction
        twist = np.where(self._until_ns > now_ns, self._direction, 0.0)
        return DeviceSample(
            time_ns=self._heard_ns,
            clutch=self._clutch,
            motion=RateMotion(twist),
            pressed=buttons_of(keys),
            raw=np.append(twist, float(self._clutch)),
        )

    def close(self) -> None:
        self._terminal.close()
