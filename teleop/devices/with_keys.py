"""A device whose operator also has the terminal's keys: for the session, and for a clutch where it has none."""

from dataclasses import replace

from teleop.devices.device import Device, DeviceSample
from teleop.devices.keyboard import CLUTCH_KEY, buttons_of
from teleop.devices.terminal import RawTerminal


class WithKeys:
    """``device`` with session keys from ``terminal``; with ``key_clutch`` the space key toggles its clutch."""

    def __init__(self, device: Device, *, terminal: RawTerminal, key_clutch: bool) -> None:
        self.name = device.name
        self._device = device
        self._terminal = terminal
        self._key_clutch = key_clutch
        self._clutch = False

    @property
    def problem(self) -> str:
        return self._device.problem

    def sample(self, now_ns: int) -> DeviceSample | None:
        keys = self._terminal.keys()
        if keys.count(CLUTCH_KEY) % 2:
            self._clutch = not self._clutch
        sample = self._device.sample(now_ns)
        if sample is None:
            return None
        clutch = sample.clutch and self._clutch if self._key_clutch else sample.clutch
        return replace(sample, clutch=clutch, pressed=(*sample.pressed, *buttons_of(keys)))

    def close(self) -> None:
        self._device.close()
        self._terminal.close()
