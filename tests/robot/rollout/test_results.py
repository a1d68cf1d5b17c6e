"""Rates, intervals and the result file."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from configs.report import write_json
from robot.rollout.client import EndReason
from robot.rollout.policy_link import PolicyIdentity
from robot.rollout.results import EpisodeResult, RolloutResult, summary_table, wilson95

POLICY = PolicyIdentity("nano-random", trained=False, digest="d", image_size=(96, 96))


def episode(task: str = "cup", *, success: bool = False, reason: EndReason = EndReason.TIME_LIMIT) -> EpisodeResult:
    return EpisodeResult(
        task,
        seed=3,
        reason=reason,
        success=success,
        ticks=100,
        missed_ticks=1,
        guard_events={"tcp_speed": 2},
        periods_ms=[66.0, 67.0],
        round_trip_ms=[40.0],
        observation_to_action_ms=[110.0],
    )


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (9, 10, 0.5958, 0.9821), (1, 1, 0.2065, 1.0), (0, 0, 0.0, 1.0)],
)
def test_wilson_intervals_equal_published_values(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson95(successes, trials) == pytest.approx((low, high), abs=2e-4)


@given(trials=st.integers(1, 400), share=st.floats(0, 1))
def test_an_interval_holds_its_rate_and_mirrors_with_failures(trials: int, share: float) -> None:
    successes = round(share * trials)
    low, high = wilson95(successes, trials)
    assert 0.0 <= low <= successes / trials <= high <= 1.0
    assert wilson95(trials - successes, trials) == pytest.approx((1.0 - high, 1.0 - low))


def test_more_successes_than_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 to 2 successes, got 3"):
        wilson95(3, 2)


def test_the_result_file_holds_what_the_documentation_promises(tmp_path: Path) -> None:
    episodes = (episode(success=True), episode(), episode("can"), episode(reason=EndReason.CAMERA))
    result = RolloutResult(POLICY, rig="twin", mode="async", episodes=episodes)
    write_json(tmp_path / "r" / "summary.json", result.to_json())
    found = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert found["policy"] == {"name": "nano-random", "trained": False, "digest": "d"}
    assert found["rig"] == "twin"
    assert {"task", "seed", "success", "seconds", "ticks", "missed_ticks", "underruns", "guard_events", "video"} <= set(
        found["episodes"][0]
    )
    assert set(found["loop"]["period_ms"]) == {"mean", "p50", "p99", "max"}
    assert found["loop"]["missed_ticks"] == 4
    assert set(found["latency_ms"]) == {"round_trip", "observation_to_action"}
    assert found["latency_ms"]["round_trip"] == {"p50": 40.0, "p99": 40.0}
    # An aborted episode says nothing about the policy.
    assert found["success"]["cup"]["n"] == 2
    assert found["success"]["cup"]["rate"] == 0.5
    assert found["success"]["cup"]["wilson95"] == pytest.approx([0.0945, 0.9055], abs=1e-3)
    assert found["success"]["can"]["rate"] == 0.0
    assert not result.completed


def test_the_table_says_random_weights_in_capitals() -> None:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(RolloutResult(POLICY, rig="twin", mode="async", episodes=(episode(), episode("can")))))
    text = console.export_text()
    assert "RANDOM WEIGHTS" in text
    assert "tcp_speed 4" in text
    assert "0/2" in text


def test_a_result_without_episodes_can_be_shown() -> None:
    result = RolloutResult(POLICY, rig="twin", mode="async", episodes=())
    assert result.to_json()["latency_ms"]["round_trip"] == {"p50": None, "p99": None}
    Console(file=open("/dev/null", "w")).print(summary_table(result))  # noqa: SIM115
