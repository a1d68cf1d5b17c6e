"""Scheduling for what stands in for a device: a real controller does not slow down when the PC is busy."""

import contextlib
import os

REALTIME_PRIORITY = 1


def prefer_this_thread() -> None:
    """Run the calling thread before ordinary ones where the system allows it; without that right nothing changes.

    For threads that sleep most of the time; Linux limits real-time threads so that the machine stays usable. Every
    thread of the twin calls this: an ordinary one that loses its core while it holds the interpreter stops the others.
    Processes and threads started from here are ordinary ones again.
    """
    with contextlib.suppress(PermissionError):
        policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(REALTIME_PRIORITY))
