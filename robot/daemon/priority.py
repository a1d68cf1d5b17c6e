"""robotd runs before ordinary processes where the system allows it."""

import logging
import os

log = logging.getLogger(__name__)

REALTIME_PRIORITY = 2


def prefer_this_process() -> bool:
    """Put the calling thread, and every thread it starts from now on, under round-robin real-time scheduling.

    All threads share one interpreter lock, so all of them have to be preferred: an ordinary one that loses its core
    while it holds the lock would stop the servo thread. They sleep most of the time, and Linux limits real-time threads
    so that the machine stays usable. Returns False, and changes nothing, where the user lacks the right: give it with
    ``ulimit -r 10`` or an rtprio line in /etc/security/limits.conf.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(REALTIME_PRIORITY))
    except PermissionError:
        log.warning(
            "no right to real-time scheduling: set-points may be late when this machine is busy "
            "(an rtprio line for your user in /etc/security/limits.conf gives it)"
        )
        return False
    return True
