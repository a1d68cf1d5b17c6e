"""The evaluation as a user runs it: a real policy server with random weights, real workers, short trials."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from policy_server.client import Continuity
from robot.evaluation.main import main, run
from robot.evaluation.plan import EvaluationError, EvaluationPlan
from robot.evaluation.report import ALL, Condition, cells, comparisons, result_json, write_report
from robot.evaluation.trial import Outcome, Trial, append, read
from robot.rollout.chunks import ExecutionMode


def plan_of(folder: Path, *, trials: int = 1) -> EvaluationPlan:
    task = folder / "short.yaml"
    task.write_text("name: short\nprompt: Put the cup on the plate\ntarget_object: cup\ntime_limit_s: 1.2\n")
    return EvaluationPlan(
        rig="twin",
        policies={"chance": _random_policy(folder)},
        tasks=(str(task),),
        trials=trials,
        seed=7,
        modes=(ExecutionMode.ASYNC,),
        replan_ticks=(),
        latencies_s=(0.1,),
        plain=True,
    )


def _random_policy(folder: Path) -> str:
    path = folder / "chance.yaml"
    path.write_text("name: chance\npreset: nano\ncheckpoint: null\ninference_steps: 1\n")
    return str(path)


def outcome(policy: str, seed: int, *, success: bool, task: str = "cup") -> Outcome:
    trial = Trial(policy, task, seed, "async", 6, 0.2)
    return Outcome(trial, "d" * 20, success, 6.0, 90, "stable" if success else "lifted", (), 0, 15, 0.01, -12.0, 20.0)


def test_an_evaluation_goes_on_where_it_stopped_and_does_no_trial_twice(tmp_path: Path) -> None:
    plan, folder = replace(plan_of(tmp_path, trials=2), continuities=(Continuity.GUIDED,)), tmp_path / "out"
    folder.mkdir()
    done = replace(outcome("chance", 7, success=True), trial=plan.all_trials()[0])
    log = folder / "trials-chance-0.jsonl"
    append(log, done)
    log.write_text(log.read_text() + '{"trial": {"policy": "cha')  # killed while it wrote the second
    found = run(plan, folder=folder, workers=1, stop=threading.Event(), console=Console(quiet=True))
    assert sorted(trial.seed for trial in found) == [7, 8]
    assert found[done.trial] == done
    other = next(each for trial, each in found.items() if trial.seed == 8)
    assert other.ticks == 18
    assert not other.success
    assert other.digest
    assert other.trial.continuity == "guided"


def test_chunk_continuities_are_compared_where_chunks_follow_each_other(tmp_path: Path) -> None:
    both = (ExecutionMode.SYNC, ExecutionMode.ASYNC)
    plan = replace(plan_of(tmp_path), modes=both, continuities=(Continuity.NONE, Continuity.GUIDED))
    assert [(trial.mode, trial.continuity) for trial in plan.all_trials()] == [
        ("sync", ""),
        ("async", "none"),
        ("async", "guided"),
    ]
    assert str(Condition.of(outcome("a", 1, success=True))) == "async, every 6 ticks, 200 ms"
    guided = Condition("async", 6, 0.2, "guided")
    assert str(guided) == "async, guided, every 6 ticks, 200 ms"


def test_another_plan_is_not_mixed_into_a_folder(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    plan.write_once(tmp_path)
    replace(plan, trials=50).write_once(tmp_path)
    with pytest.raises(EvaluationError, match="latencies_s differ"):
        replace(plan, latencies_s=(0.3,)).write_once(tmp_path)


def test_every_policy_meets_every_start_before_the_next_start(tmp_path: Path) -> None:
    plan = replace(plan_of(tmp_path, trials=2), policies={"a": "nano", "b": "nano"}, tasks=("cup", "can"))
    trials = plan.all_trials()
    assert len(trials) == len(set(trials)) == 8
    assert [trial.seed for trial in trials] == [7] * 4 + [8] * 4
    assert {trial.policy for trial in trials[:2]} == {"a", "b"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rig", "lab", "--looks", "3"], "--looks: interim looks compare two policies"),
        (["--rig", "lab", "--tasks", "cup", "--mode", "async", "sync"], "expected one of each"),
        (["--trials", "0"], "expected at least 1"),
        (["--latency", "2"], "expected seconds from 0 to 1"),
        (["--policy", "nanno"], "no such file"),
        (["--tasks", "cupp"], "no such file"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--output", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("launch/evaluate: ")


def test_outcomes_survive_the_file_and_half_a_line_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "trials-x.jsonl"
    one, two = outcome("a", 1, success=True), outcome("a", 2, success=False)
    append(path, one)
    append(path, two)
    path.write_text(path.read_text() + json.dumps(two.to_json())[:40])
    assert read([path]) == {one.trial: one, two.trial: two}


def test_cells_count_by_policy_and_task_with_a_sum() -> None:
    found = cells([outcome("a", s, success=s < 3, task=t) for s in range(4) for t in ("cup", "can")])
    assert {(cell.task, cell.successes, cell.trials) for cell in found} == {("cup", 3, 4), ("can", 3, 4), (ALL, 6, 8)}
    assert found[0].condition == Condition("async", 6, 0.2)
    assert found[0].failures == {"got to 'lifted'": 1}


def test_policies_are_compared_on_the_starts_that_both_have_met() -> None:
    trials = [outcome("a", s, success=True) for s in range(10)] + [outcome("b", s, success=s < 2) for s in range(8)]
    (found,) = comparisons(trials)
    assert (found.counts.both, found.counts.only_first, found.counts.neither) == (2, 6, 0)
    assert found.p == pytest.approx(2 / 2**6)


def test_the_result_file_and_the_report_say_the_same(tmp_path: Path) -> None:
    plan = replace(plan_of(tmp_path, trials=4), policies={"a": "nano"}, tasks=("cup",))
    trials = [outcome("a", seed, success=seed > 7) for seed in range(7, 11)]
    result = result_json(plan, trials)
    assert result["success"]["cup"]["rate"] == 0.75
    assert result["success"]["cup"]["n"] == 4
    assert len(result["episodes"]) == 4
    assert result["episodes"][0]["task"] == "cup"
    text = write_report(plan, trials, tmp_path).read_text()
    assert "| a | async, every 6 ticks, 200 ms | cup | 3/4 | 75.0 % |" in text
