"""A gamepad with two sticks (the kernel's gamepad layout): left stick moves, right stick turns and lifts.

Right shoulder: clutch, held. A/south: gripper. Left trigger down, right trigger up. Y/north success, B/east failure,
X/west discard, start: start, select: pause, home: quit. The cross sets the speed.
"""

from pathlib import Path
from typing import Protocol

import numpy as np

from teleop.devices import evdev
from teleop.devices.device import Button, DeviceError, DeviceSample, RateMotion
from teleop.devices.evdev import AxisRange, EventDevice, InputEvent

_BUTTONS = {
    evdev.BTN_SOUTH: Button.GRIPPER,
    evdev.BTN_NORTH: Button.SUCCESS,
    evdev.BTN_EAST: Button.FAILURE,
    evdev.BTN_WEST: Button.DISCARD,
    evdev.BTN_START: Button.START,
    evdev.BTN_SELECT: Button.PAUSE,
    evdev.BTN_MODE: Button.QUIT,
}
_AXES = (evdev.ABS_X, evdev.ABS_Y, evdev.ABS_Z, evdev.ABS_RX, evdev.ABS_RY, evdev.ABS_RZ)
_TRIGGERS = (evdev.ABS_Z, evdev.ABS_RZ)


class EventSource(Protocol):
    """Where events come from; `EventDevice` is the real one."""

    problem: str

    def axis(self, code: int) -> AxisRange | None: ...
    def read(self) -> list[InputEvent]: ...
    def close(self) -> None: ...


class Gamepad:
    """A `Device`. Make it with `open` or, on a recorded stream, from any `EventSource`."""

    name = "gamepad"

    def __init__(self, source: EventSource) -> None:
        self._source = source
        self._ranges = {code: found for code in _AXES if (found := source.axis(code)) is not None}
        self._values = {code: found.value for code, found in self._ranges.items()}
        self._clutch = False
        self._blind = False
        self._heard_ns: int | None = None

    @classmethod
    def open(cls, path: Path | None = None) -> "Gamepad":
        """The gamepad at ``path``, or the only one there is. Raises `DeviceError`."""
        if path is not None:
            return cls(EventDevice(path))
        found = list(evdev.find_devices(evdev.BTN_SOUTH))
        if not found:
            raise DeviceError(
                f"expected a gamepad among {evdev.INPUT}/event*, found none that can be read: plug it in, or add "
                "yourself to the group 'input'"
            )
        if len(found) > 1:
            for device in found:
                device.close()
            names = ", ".join(f"{device.path} ({device.name})" for device in found)
            raise DeviceError(f"expected one gamepad, found {names}: say which with --port")
        return cls(found[0])

    @property
    def problem(self) -> str:
        return self._source.problem

    def sample(self, now_ns: int) -> DeviceSample | None:
        pressed = tuple(button for event in self._source.read() if (button := self._take(event)) is not None)
        if not self._source.problem:
            self._heard_ns = now_ns  # events come on change only; a device that can be read has not changed
        if self._heard_ns is None:
            return None
        axis = {code: self._axis(code) for code in _AXES}
        lift = 0.5 * (axis[evdev.ABS_RZ] - axis[evdev.ABS_Z])
        twist = np.array(
            [-axis[evdev.ABS_Y], -axis[evdev.ABS_X], lift, 0.0, -axis[evdev.ABS_RY], -axis[evdev.ABS_RX]], dtype=float
        )
        raw = np.array([*(axis[code] for code in _AXES), float(self._clutch)])
        return DeviceSample(
            time_ns=self._heard_ns, clutch=self._clutch, motion=RateMotion(twist), pressed=pressed, raw=raw
        )

    def close(self) -> None:
        self._source.close()

    def _axis(self, code: int) -> float:
        found = self._ranges.get(code)
        if found is None:
            return -1.0 if code in _TRIGGERS else 0.0
        return found.normalized(self._values[code])

    def _take(self, event: InputEvent) -> Button | None:
        if event.type == evdev.EV_SYN:
            if event.code == evdev.SYN_DROPPED:
                # The kernel's buffer overflowed: until the next report nothing that comes can be trusted.
                self._blind, self._clutch = True, False
            elif self._blind:
                self._blind = False
                self._values = {code: found.value for code in _AXES if (found := self._source.axis(code)) is not None}
            return None
        if self._blind:
            return None
        if event.type == evdev.EV_ABS:
            if event.code in self._ranges:
                self._values[event.code] = event.value
            elif event.code == evdev.ABS_HAT0Y and event.value != 0:
                return Button.FASTER if event.value < 0 else Button.SLOWER
        elif event.type == evdev.EV_KEY and event.code == evdev.BTN_TR:
            self._clutch = event.value != 0
        elif event.type == evdev.EV_KEY and event.value == 1:
            return _BUTTONS.get(event.code)
        return None
