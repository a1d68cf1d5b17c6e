"""Ticks that begin shortly after pictures come."""

from dataclasses import dataclass
from typing import cast

import pytest

from robot.clock import FakeClock
from robot.rollout.alignment import FRAMES, LONGEST_NS, MARGIN_NS, POLL_NS, after_frames
from robot.rollout.observation import ObservationReader

PERIOD_NS = 66_666_667
LATENCY_NS = 30_000_000


@dataclass
class Cameras:
    """Frames at whole periods that can be read ``late_ns`` after they were captured, in turns."""

    phase_ns: int = 0
    period_ns: int = PERIOD_NS
    late_ns: tuple[int, ...] = (LATENCY_NS,)
    first_ns: int = 0

    def frame_age_ns(self, now_ns: int) -> int:
        count = (now_ns - self.phase_ns) // self.period_ns
        captured_ns = [self.phase_ns + index * self.period_ns for index in range(count - 2, count + 1)]
        here = [t for i, t in enumerate(captured_ns, count - 2) if t + self.late_ns[i % len(self.late_ns)] <= now_ns]
        return now_ns - max((t for t in here if t >= self.first_ns), default=0)


def begin(cameras: Cameras, clock: FakeClock) -> int:
    return after_frames(cast(ObservationReader, cameras), clock, tick_ns=PERIOD_NS)


@pytest.mark.parametrize("phase_ns", [0, 1_000_000, 20_000_000, 40_000_000, 66_000_000])
@pytest.mark.parametrize("period_ns", [PERIOD_NS, PERIOD_NS // 2])
def test_every_tick_finds_a_picture_that_has_just_come(phase_ns: int, period_ns: int) -> None:
    cameras, clock = Cameras(phase_ns, period_ns), FakeClock(5 * 10**9)
    start_ns = begin(cameras, clock)
    assert 0 <= start_ns - clock.now_ns() < period_ns
    for tick in range(0, 300, 50):
        age_ns = cameras.frame_age_ns(start_ns + tick * PERIOD_NS)
        assert 0 <= age_ns - LATENCY_NS <= MARGIN_NS + 2 * POLL_NS + 100 * 50


def test_the_latest_of_uneven_frames_has_come_by_then() -> None:
    cameras, clock = Cameras(late_ns=(25_000_000, 40_000_000, 31_000_000)), FakeClock(5 * 10**9)
    start_ns = begin(cameras, clock)
    for tick in range(12):
        age_ns = cameras.frame_age_ns(start_ns + tick * PERIOD_NS)
        assert age_ns < PERIOD_NS, "the frame of this period is here"
        assert age_ns >= 40_000_000 - POLL_NS


def test_without_pictures_the_episode_begins_nevertheless() -> None:
    clock = FakeClock(5 * 10**9)
    assert begin(Cameras(first_ns=10**12), clock) == clock.now_ns()
    assert clock.now_ns() <= 5 * 10**9 + LONGEST_NS + POLL_NS


def test_a_camera_that_ends_meanwhile_does_not_either() -> None:
    clock = FakeClock(5 * 10**9)
    assert begin(Cameras(period_ns=LONGEST_NS // (FRAMES - 2)), clock) == clock.now_ns()
