"""The 15 Hz grid: absolute deadlines, no drift, no bursts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot.clock import FakeClock, Ticker

PERIOD_NS = 66_666_667


@given(delays=st.lists(st.integers(0, PERIOD_NS // 2 - 1), max_size=40))
def test_work_that_fits_never_shifts_the_grid(delays: list[int]) -> None:
    clock = FakeClock(1_000)
    ticker = Ticker(PERIOD_NS, clock)
    for index, delay in enumerate(delays):
        assert ticker.wait() == 1_000 + index * PERIOD_NS
        clock.advance_ns(delay)
    assert ticker.statistics.missed == 0


@given(delays=st.lists(st.integers(0, 6 * PERIOD_NS), max_size=40))
def test_overruns_are_counted_and_skipped_never_caught_up(delays: list[int]) -> None:
    clock = FakeClock(0)
    ticker = Ticker(PERIOD_NS, clock)
    last = -PERIOD_NS
    for delay in delays:
        deadline = ticker.wait()
        assert deadline % PERIOD_NS == 0
        assert deadline > last
        assert clock.now_ns() - deadline <= PERIOD_NS // 2
        clock.advance_ns(delay)
        last = deadline
    if delays:
        assert last // PERIOD_NS + 1 == ticker.statistics.ticks + ticker.statistics.missed


def test_a_fake_clock_refuses_to_go_back() -> None:
    with pytest.raises(ValueError, match="cannot go back"):
        FakeClock().advance_ns(-1)


def test_a_period_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="period > 0"):
        Ticker(0, FakeClock())
