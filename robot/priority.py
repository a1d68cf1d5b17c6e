"""Real-time scheduling, where the system allows it: what must be regular runs before what may wait.

Linux limits real-time threads so that the machine stays usable. Without the right nothing changes but a busy machine
makes things late; give it with an rtprio line for your user in /etc/security/limits.conf.
"""

import contextlib
import logging
import os
import threading

log = logging.getLogger(__name__)

ENVIRONMENT = "NOVA_PI_DRAWING_WAITS"
"""Set to 1, the twin's pictures are not preferred: a browser on the same few cores would get nothing beside them."""

FAVOURED_NICE = -10
"""The twin's pictures: a third of a core. In real time they and the policy server took both cores of a small machine so
long that the kernel's own threads waited, and with them every byte through a pseudo-terminal: the simulated gripper
moved up to a quarter of a second late, and dropped things."""
WORK_PRIORITY = 1
"""The policy server where it shares the robot PC's processor, and the recorder: tens of milliseconds at a time, for
which nothing else may have to wait."""
DEVICE_PRIORITY = 2
"""The rest of the twin (a real device does not slow down when the PC is busy) and camera workers."""
CLIENT_PRIORITY = 3
"""The 15 Hz loop: a few milliseconds a tick, and its ticks are not to wait for a simulated device."""
SERVO_PRIORITY = 4
"""robotd."""


def prefer_this_thread(priority: int = DEVICE_PRIORITY) -> None:
    """Run the calling thread before ordinary ones; for threads that sleep most of the time.

    Every thread of a process that shares the interpreter lock with it should call this: an ordinary one that loses its
    core while it holds the lock stops the others. Processes and threads started from here are ordinary ones again.
    """
    if not _is_wanted(priority):
        return
    with contextlib.suppress(PermissionError):
        policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(priority))


def favour_this_thread() -> None:
    """Give the calling thread a larger share of the processor than ordinary ones get, though not in real time. Without
    the right (a nice line in limits.conf) nothing changes."""
    if os.environ.get(ENVIRONMENT) != "1":
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), FAVOURED_NICE)


def prefer_all_threads(priority: int) -> None:
    """As `prefer_this_thread` for every thread that this process has now, those of libraries included.

    For a process whose regular thread shares the interpreter lock with threads that others started: a websocket's
    reader, a progress display. Call it again when such threads have been started anew.
    """
    prefer_threads_of(os.getpid(), priority=priority)


def prefer_threads_of(pid: int, *, priority: int) -> None:
    """As `prefer_this_thread` for every thread that another process of this user has now."""
    if not _is_wanted(priority):
        return
    policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
    # A thread or process that ended meanwhile is no concern.
    with contextlib.suppress(FileNotFoundError):
        for thread_id in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(PermissionError, ProcessLookupError):
                os.sched_setscheduler(int(thread_id), policy, os.sched_param(priority))


def prefer_this_process() -> bool:
    """Put the calling thread, and every thread it starts from now on, before everything else of ours.

    All threads share one interpreter lock, so all of them have to be preferred. Returns False, says so and changes
    nothing where the user lacks the right.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(SERVO_PRIORITY))
    except PermissionError:
        log.warning(
            "no right to real-time scheduling: set-points may be late when this machine is busy "
            "(an rtprio line for your user in /etc/security/limits.conf gives it)"
        )
        return False
    return True


def _is_wanted(priority: int) -> bool:
    return priority > WORK_PRIORITY or os.environ.get(ENVIRONMENT) != "1"
