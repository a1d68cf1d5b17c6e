"""This machine's lines: the camera SDK, GPU, disk, clock, scheduling rights and headless OpenGL."""

import ctypes
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from configs.schema import RigConfig
from robot.doctor.check import Check, green, red, yellow
from robot.priority import SERVO_PRIORITY

RED_DISK_BYTES = 3 << 30
"""What a recording wants free before it starts."""
YELLOW_DISK_BYTES = 20 << 30
_GL_BACKENDS = ("egl", "osmesa")
_PROBE_TIMEOUT_S = 30.0
_TIME_ERROR = 5
_TIMEX_BYTES = 208


def all_checks(rig: RigConfig) -> list[Check]:
    """Every line about the machine, for the needs of this rig."""
    return [zed_sdk(rig), gpu(rig), disk(Path.cwd()), clock(rig), realtime_priority(rig), headless_gl(rig)]


def zed_sdk(rig: RigConfig) -> Check:
    """pyzed, when a camera needs it."""
    name = "ZED SDK"
    needed = any(config.backend == "zed" for config in rig.cameras.values())
    version = _version("pyzed")
    if version is not None and importlib.util.find_spec("pyzed.sl") is not None:
        return green(name, f"pyzed {version}")
    if not needed:
        return green(name, "not installed, and no camera of this rig needs it")
    return red(
        name,
        "pyzed.sl is not there" if version is None else f"pyzed {version} without pyzed.sl (another project's package)",
        expected="pyzed of the ZED SDK",
        fix="install the ZED SDK, then: .venv/bin/python /usr/local/zed/get_python_api.py; or use the backend uvc",
    )


def gpu(rig: RigConfig) -> Check:
    """An NVIDIA GPU, which the ZED SDK needs; policies run on the policy server's."""
    name = "GPU"
    found = _nvidia_gpus()
    if found:
        return green(name, found)
    if any(config.backend == "zed" for config in rig.cameras.values()):
        return red(
            name,
            "no NVIDIA GPU answers",
            expected="one, for the ZED SDK",
            fix="install the NVIDIA driver (nvidia-smi must list the GPU), or use the camera backend uvc",
        )
    return green(name, "none, and this rig needs none (the policy server may run elsewhere)")


def disk(folder: Path) -> Check:
    """Room for recordings."""
    free = shutil.disk_usage(folder).free
    found = f"{free / 2**30:.0f} GiB free in {folder}"
    if free < RED_DISK_BYTES:
        return red(
            "disk", found, expected=f"{RED_DISK_BYTES >> 30} GiB or more", fix="recordings do not start: free some"
        )
    if free < YELLOW_DISK_BYTES:
        return yellow("disk", found, expected=f"{YELLOW_DISK_BYTES >> 30} GiB", fix="enough for some episodes only")
    return green("disk", found)


def clock(rig: RigConfig) -> Check:
    """A fine monotonic clock, which control runs on; and a wall clock that is kept right, which dates recordings."""
    name, resolution_s = "clock", time.get_clock_info("monotonic").resolution
    if resolution_s > 1e-5:
        return red(
            name,
            f"monotonic time in steps of {resolution_s:g} s",
            expected="1e-05 s or finer",
            fix="boot with clocksource=tsc",
        )
    synchronised = is_synchronised()
    if synchronised:
        return green(name, "monotonic in nanoseconds; wall clock synchronised")
    if rig.twin is not None:
        return green(name, "monotonic in nanoseconds; wall clock not synchronised (it only dates recordings)")
    return yellow(
        name,
        "the wall clock is not synchronised" if synchronised is False else "nobody says whether it is synchronised",
        expected="NTP",
        fix="sudo timedatectl set-ntp true (only recordings' dates depend on it)",
    )


def is_synchronised() -> bool | None:
    """What the kernel says about the wall clock; None where it does not say."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def realtime_priority(rig: RigConfig) -> Check:
    """The right to be scheduled before others, without which a busy machine makes set-points late."""
    name = "real-time priority"
    if may_run_in_real_time():
        return green(name, "allowed")
    if rig.twin is not None:
        return green(name, "no right to it, which a simulated arm forgives")
    return yellow(
        name,
        "no right to it",
        expected=f"rtprio {SERVO_PRIORITY} or more",
        fix="add the line '<your user> - rtprio 10' to /etc/security/limits.conf, then log in anew",
    )


def may_run_in_real_time() -> bool:
    """Whether robotd would get what it asks for; tried on this process for a moment."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(SERVO_PRIORITY))
    except PermissionError:
        return False
    os.sched_setscheduler(0, policy, parameters)
    return True


def headless_gl(rig: RigConfig) -> Check:
    """OpenGL without a display: the twin draws its cameras with it."""
    name = "headless OpenGL"
    if not any(config.backend == "twin" for config in rig.cameras.values()):
        return green(name, "not needed: no camera of this rig is drawn")
    program = "import mujoco; mujoco.GLContext(64, 64).make_current()"
    chosen = os.environ.get("MUJOCO_GL")
    for backend in (chosen,) if chosen else _GL_BACKENDS:
        environment = {**os.environ, "MUJOCO_GL": backend}
        if _succeeds([sys.executable, "-c", program], environment=environment):
            return green(name, backend)
    return red(
        name,
        "neither EGL nor OSMesa works" if not chosen else f"MUJOCO_GL={chosen} does not work",
        expected="one that works",
        fix="sudo apt-get install -y libegl1 libgl1-mesa-dri libosmesa6",
    )


def _succeeds(command: list[str], *, environment: dict[str, str]) -> bool:
    try:
        done = subprocess.run(command, check=False, capture_output=True, env=environment, timeout=_PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _nvidia_gpus() -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
            check=False,
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(done.stdout.strip().splitlines()) if done.returncode == 0 else ""
