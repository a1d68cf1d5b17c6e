"""Waiting for the operator between episodes: everything goes through the device's buttons, nothing waits for a line."""

import threading
import time
from collections.abc import Callable, Collection

from teleop.devices.device import Button, Device, DeviceError

_POLL_S = 0.03


def wait_for_button(
    device: Device,
    *,
    wanted: Collection[Button],
    stop: threading.Event,
    on_poll: Callable[[], None] = lambda: None,
) -> Button | None:
    """The first of the ``wanted`` buttons that is pressed, None when ``stop`` is set first.

    ``on_poll`` is called about 30 times a second meanwhile. Raises `DeviceError` when the device is lost.
    """
    while not stop.is_set():
        sample = device.sample(time.monotonic_ns())
        if device.problem:
            raise DeviceError(f"the {device.name} is lost: {device.problem}")
        for button in () if sample is None else sample.pressed:
            if button in wanted:
                return button
        on_poll()
        time.sleep(_POLL_S)
    return None


def count_down(
    device: Device, *, seconds: float, stop: threading.Event, on_second: Callable[[int], None]
) -> Button | None:
    """Let ``seconds`` pass; `Button.QUIT` or `Button.DISCARD` ends it early and is returned."""
    end_s = time.monotonic() + seconds
    shown = 0
    while not stop.is_set() and (left_s := end_s - time.monotonic()) > 0.0:
        whole = int(left_s) + 1
        if whole != shown:
            shown = whole
            on_second(whole)
        sample = device.sample(time.monotonic_ns())
        for button in () if sample is None else sample.pressed:
            if button in (Button.QUIT, Button.DISCARD):
                return button
        time.sleep(min(_POLL_S, left_s))
    return None
