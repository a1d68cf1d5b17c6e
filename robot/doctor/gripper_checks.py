"""The gripper's lines: the serial adapter, its latency, and whether somebody answers."""

import os
from pathlib import Path

from configs.schema import RigConfig
from robot.daemon.snapshot import GripperReport
from robot.doctor.check import Check, Status, green, red, unseen, yellow
from robot.doctor.gripper_view import GripperView
from robot.gripper.link import is_can_box
from robot.runtime import RUNTIME_PREFIX, resolve_device
from robot.state import GripperStatus

GOOD_LATENCY_MS = 1
SYSFS = Path("/sys")


def all_checks(
    rig: RigConfig, *, view: GripperView | None, report: GripperReport | None, sysfs: Path = SYSFS
) -> list[Check]:
    """Every line about the gripper; ``report`` is robotd's word when it owns the gripper, ``view`` our own look."""
    adapter = serial_adapter(rig)
    if adapter.status is Status.RED and report is None:
        answer = unseen("gripper", because="its serial adapter comes first")
    else:
        answer = gripper(view, report=report)
    return [adapter, latency_timer(rig, sysfs=sysfs), answer]


def serial_adapter(rig: RigConfig) -> Check:
    """Is the serial device there, ours to use, and of the kind that speaks Modbus."""
    name = "serial adapter"
    if rig.gripper.route == "flange":
        return green(name, "none: the gripper hangs on the tool flange")
    device = Path(resolve_device(rig.name, rig.gripper.port))
    if not device.exists():
        fix = "start the twin" if rig.gripper.port.startswith(RUNTIME_PREFIX) else "plug the USB-RS485 adapter in"
        return red(
            name,
            f"{device} is not there; there are {_serial_devices()}",
            expected=str(device),
            fix=f"{fix}, or put its name into gripper.port (a name under /dev/serial/by-id survives re-plugging)",
        )
    if not os.access(device, os.R_OK | os.W_OK):
        return red(
            name,
            f"{device} may not be opened by this user",
            expected="read and write permission",
            fix="sudo usermod -aG dialout $USER, then log in anew",
        )
    if is_can_box(str(device)):
        return red(
            name,
            f"{device} is a USB modem device, as the AG-95's CAN box is",
            expected="a USB-RS485 adapter (ttyUSB)",
            fix="the CAN box speaks no Modbus: wire the gripper's RS-485 to an adapter",
        )
    return green(name, str(device))


def latency_timer(rig: RigConfig, *, sysfs: Path = SYSFS) -> Check:
    """FTDI adapters hold received bytes back for 16 ms unless told otherwise: each transaction then takes that long."""
    name = "latency timer"
    if rig.gripper.route == "flange":
        return green(name, "not used: the gripper hangs on the tool flange")
    device = Path(resolve_device(rig.name, rig.gripper.port)).resolve()
    setting = sysfs / "bus" / "usb-serial" / "devices" / device.name / "latency_timer"
    try:
        found_ms = int(setting.read_text())
    except (OSError, ValueError):
        return green(name, "this device has none")
    if found_ms <= GOOD_LATENCY_MS:
        return green(name, f"{found_ms} ms")
    return yellow(
        name,
        f"{found_ms} ms",
        expected=f"{GOOD_LATENCY_MS} ms",
        fix=f"echo {GOOD_LATENCY_MS} | sudo tee {setting} (for good: a udev rule that sets latency_timer)",
    )


def gripper(view: GripperView | None, *, report: GripperReport | None) -> Check:
    """Does the gripper answer."""
    name, fix = "gripper", "check its 24 V supply and the RS-485 wires A and B"
    if report is not None:
        if report.status is GripperStatus.UNKNOWN:
            return red(name, report.problem or "silent", expected="an answer", fix=fix)
        return green(name, f"{report.status.name} at {report.position:.2f} (0 open, 1 closed), says robotd")
    if view is None or view.why_not_asked:
        reason = view.why_not_asked if view is not None else "the arm was not reached"
        return yellow(name, "not asked", expected="an answer", fix=f"{reason}: enable the arm, then look again")
    if view.error is not None:
        return red(name, str(view.error), expected="an answer", fix=fix)
    return green(name, "answers" if view.initialised else "answers; it is initialised when the arm is enabled")


def _serial_devices() -> str:
    found = sorted(str(path) for pattern in ("ttyUSB*", "ttyACM*") for path in Path("/dev").glob(pattern))
    return ", ".join(found) or "no USB serial devices"
