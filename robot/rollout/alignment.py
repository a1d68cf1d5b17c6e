"""When the ticks of an episode should be, so that each finds pictures that have just come.

The cameras' period is the control period (or a part of it), and both hold theirs to some millionths: the phase found
before an episode is that of its end. Without it each observation is older by up to a period, as chance has it.
"""

from itertools import pairwise
from statistics import median

from robot.clock import Clock, seconds_to_ns
from robot.rollout.observation import ObservationReader

FRAMES = 6
"""Watched before an episode begins."""
MARGIN_NS = seconds_to_ns(0.015)
"""After the latest of them, for those that come later still: once the policy acts, the machine has more to do. A frame
that just misses its tick is a whole period older at the next."""
POLL_NS = seconds_to_ns(0.001)
LONGEST_NS = seconds_to_ns(1.0)
"""A camera that delivers fewer frames meanwhile is the episode's concern."""


def after_frames(observations: ObservationReader, clock: Clock, *, tick_ns: int) -> int:
    """A time from now on (ns) at which, and whole ticks of ``tick_ns`` later, new frames of all cameras have just come;
    now if none come."""
    arrivals = _arrivals(observations, clock)
    now_ns = clock.now_ns()
    if len(arrivals) < FRAMES:
        return now_ns
    between_ns = median(later - earlier for earlier, later in pairwise(arrivals))
    period_ns = tick_ns / max(1, round(tick_ns / between_ns))
    middle_ns = arrivals[len(arrivals) // 2]
    late_ns = max((arrival - middle_ns + period_ns / 2) % period_ns - period_ns / 2 for arrival in arrivals)
    begin_ns = middle_ns + late_ns + MARGIN_NS
    return round(now_ns + (begin_ns - now_ns) % period_ns)


def _arrivals(observations: ObservationReader, clock: Clock) -> list[int]:
    """When the camera that is furthest behind had a new frame: `FRAMES` times, fewer when that takes too long."""
    begin_ns = now_ns = clock.now_ns()
    captured_ns = now_ns - observations.frame_age_ns(now_ns)
    arrivals: list[int] = []
    while len(arrivals) < FRAMES and now_ns - begin_ns < LONGEST_NS:
        clock.sleep_until_ns(now_ns + POLL_NS)
        now_ns = clock.now_ns()
        newest_ns = now_ns - observations.frame_age_ns(now_ns)
        if newest_ns > captured_ns:
            arrivals.append(now_ns)
            captured_ns = newest_ns
    return arrivals
