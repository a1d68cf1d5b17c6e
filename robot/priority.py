"""Real-time scheduling, where the system allows it: what must be regular runs before what may wait.

Linux limits real-time threads so that the machine stays usable. Without the right nothing changes but a busy machine
makes things late; give it with an rtprio line for your user in /etc/security/limits.conf.
"""

import contextlib
import logging
import os

log = logging.getLogger(__name__)

ENVIRONMENT = "NOVA_PI_DRAWING_WAITS"
"""Set to 1, the twin's pictures are not preferred: a browser on the same few cores would get nothing beside them."""

DRAWING_PRIORITY = 1
"""The twin's pictures, and the policy server where it shares the robot PC's processor: tens of milliseconds at a time,
for which nothing else may have to wait."""
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
    return priority > DRAWING_PRIORITY or os.environ.get(ENVIRONMENT) != "1"
