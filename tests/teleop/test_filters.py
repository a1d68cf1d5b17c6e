"""Filters: smooth, prompt, never inventing anything."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleop.filters import OneEuro, SpikeGate, dead_zone

TICK_NS = 66_666_667
VALUES = st.floats(-10, 10)


@given(st.lists(VALUES, min_size=1, max_size=40))
def test_the_one_euro_filter_stays_inside_the_range_of_what_it_saw(values: list[float]) -> None:
    one_euro = OneEuro()
    for index, value in enumerate(values):
        filtered = one_euro.step([value], t_ns=index * TICK_NS)[0]
        assert min(values[: index + 1]) - 1e-9 <= filtered <= max(values[: index + 1]) + 1e-9


def test_the_one_euro_filter_calms_a_tremor_and_reaches_a_step() -> None:
    random = np.random.default_rng(1)
    tremor = random.normal(0.0, 0.003, 200)
    one_euro = OneEuro()
    calm = [one_euro.step([value], t_ns=index * TICK_NS)[0] for index, value in enumerate(tremor)]
    assert np.std(calm[50:]) < 0.7 * np.std(tremor[50:])
    for index in range(200, 220):
        reached = one_euro.step([0.5], t_ns=index * TICK_NS)[0]
    assert abs(reached - 0.5) < 0.01


def test_a_single_glitch_is_replaced_and_a_real_move_gets_through() -> None:
    gate = SpikeGate(floor=0.03)
    steady = [gate.step([0.001 * index])[0] for index in range(10)]
    assert steady[-1] == pytest.approx(0.009)
    assert abs(gate.step([0.7])[0]) < 0.02
    assert gate.rejected == 1
    assert gate.step([0.011])[0] == 0.011
    moved = [gate.step([0.4])[0] for _ in range(4)]
    assert moved[-1] == 0.4


@given(st.lists(VALUES, min_size=1, max_size=6))
def test_the_dead_zone_is_odd_continuous_and_keeps_the_ends(values: list[float]) -> None:
    out = dead_zone(values, width=0.1)
    np.testing.assert_allclose(dead_zone(-np.array(values), width=0.1), -out)
    assert np.all(np.abs(out) <= 1.0)
    assert np.all(out[np.abs(values) <= 0.1] == 0.0)
    np.testing.assert_allclose(dead_zone([1.0, 0.1 + 1e-9], width=0.1), [1.0, 0.0], atol=1e-8)
