"""Experiments: what is declared, what is run, and what the analysis makes of rollouts whose truth is known."""

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

from configs.report import append_line
from configs.schema import CONFIGS
from robot.evaluation.experiment.analysis import (
    Rollout,
    corrected,
    difference,
    figures,
    hierarchical_bootstrap,
    mixed_logistic,
    paired_table,
)
from robot.evaluation.experiment.config import Experiment, Scale, load_experiment
from robot.evaluation.experiment.execution import Calls, ExperimentError, execute
from robot.evaluation.experiment.main import all_steps, main
from robot.evaluation.experiment.report import STAGES, analyse, read_rollouts, write_report, write_rollouts
from robot.evaluation.experiment.results import Declaration, Results
from robot.evaluation.experiment.steps import (
    Layout,
    Run,
    Step,
    last_training,
    run_steps,
    runs,
    served_checkpoint,
    shared_steps,
)
from robot.evaluation.experiment.training import TrainingFigures, read_training, write_training
from robot.evaluation.trial import Outcome, Trial

QUIET = Console(quiet=True)


@pytest.fixture(params=["joint-vs-action", "lora"])
def experiment(request: pytest.FixtureRequest) -> Experiment:
    return load_experiment(request.param)


def argument(step: Step, name: str) -> str:
    return step.command[step.command.index(name) + 1]


def settings_of(step: Step) -> set[str]:
    after = step.command[step.command.index("--set") + 1 :]
    return {word for word in after if "=" in word}


def training_steps(experiment: Experiment, run: Run) -> list[Step]:
    return [s for s in run_steps(experiment, Scale.FULL, Layout(Path("w")), run) if "--recipe" in s.command]


def test_arms_differ_in_nothing_but_what_they_are_there_for() -> None:
    experiment = load_experiment("joint-vs-action")
    (action,), (motion,), (placebo,) = (
        training_steps(experiment, Run(arm, "25 %", 3)) for arm in ("action-only", "motion", "placebo")
    )
    assert settings_of(action) - settings_of(motion) == {"stage=action-only"}
    assert settings_of(placebo) - settings_of(motion) == {"motion.target=shuffled"}
    assert not settings_of(motion) - settings_of(placebo)
    assert "seed=3" in settings_of(motion)
    assert argument(action, "--steps") == argument(motion, "--steps") == argument(placebo, "--steps")
    assert argument(action, "--recipe") == argument(motion, "--recipe")


def test_adapters_start_from_the_base_before_them_and_learn_the_third_task() -> None:
    experiment = load_experiment("lora")
    layout, run = Layout(Path("w")), Run("joint-base", "30 of the third", 1)
    steps = list(run_steps(experiment, Scale.FULL, layout, run))
    base, adapter = (s for s in steps if "--recipe" in s.command)
    assert argument(adapter, "--init") == argument(base, "--out")
    assert "data.keep_normalization=true" in settings_of(adapter)
    subset = next(s for s in steps if "--most" in s.command)
    assert argument(subset, "--most") == "30"
    assert "Put the tape on the plate" in subset.command
    assert any(s.command[2:3] == ("merge",) for s in steps)


def test_arms_that_begin_alike_share_the_run_that_they_begin_with() -> None:
    experiment, layout = load_experiment("lora"), Layout(Path("w"))
    condition = "30 of the third"
    joint, other = (
        training_steps(experiment, Run(arm, condition, 1)) for arm in ("joint-base", "joint-base-action-loss")
    )
    (action, _) = training_steps(experiment, Run("action-base", condition, 1))
    assert other[0] == joint[0] != action
    assert other[1].done != joint[1].done
    assert argument(other[1], "--init") == argument(joint[0], "--out")
    served = [served_checkpoint(experiment, layout, Run(arm, condition, 1)) for arm in experiment.arms]
    assert len(set(served)) == len(experiment.arms)


def test_every_arm_of_a_seed_is_run_before_the_next_seed(experiment: Experiment) -> None:
    order = runs(experiment, Scale.FULL)
    assert [run.seed for run in order] == sorted(run.seed for run in order)
    assert len({run.label for run in order}) == len(order)


def collect(experiment: Experiment, scale: Scale, layout: Layout) -> Results:
    """What every run came to."""
    found = Results()
    for run in runs(experiment, scale):
        found = found.with_run(experiment, layout, run)
    return found


class Machine:
    """Does what the commands promise, without doing it; may fail at one of them."""

    def __init__(self, *, fails_at: int = 10**9, takes_s: float = 0.0) -> None:
        self.titles: list[str] = []
        self.served: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._fails_at = fails_at
        self._takes_s = takes_s

    def __call__(self, step: Step, log: Path | None) -> int:
        if len(self.titles) == self._fails_at:
            return 1
        self.titles.append(step.title)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        time.sleep(self._takes_s)
        self._at_once -= 1
        step.done.parent.mkdir(parents=True, exist_ok=True)
        if "evaluate" in step.command[1]:
            policy = argument(step, "--policy").partition("=")[2]
            served = yaml.safe_load(Path(policy).read_text())
            assert served["noise_scale"] == 0.0
            self.served.append(served["checkpoint"])
            trial = Trial("p", "cup", int(argument(step, "--seed")), "async", 6, 0.1)
            outcome = Outcome(trial, "d", True, 4.0, 60, "stable", (), 0, 9, None, None, None)
            append_line(step.done.parent / "trials-p-0.jsonl", asdict(outcome))
        result = {"checkpoint": str(step.done.parent / "step-0000002"), "validation": {"validation_action": 0.5}}
        step.done.write_text(json.dumps(result))
        return 0


def test_an_experiment_that_was_stopped_goes_on_and_does_nothing_twice(experiment: Experiment, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "work")

    def go(machine: Machine) -> None:
        execute(experiment, Scale.TINY, layout, stop=threading.Event(), console=QUIET, call=machine)

    first, second = Machine(fails_at=5), Machine()
    with pytest.raises(ExperimentError, match="exit code 1"):
        go(first)
    go(second)
    steps = [*shared_steps(experiment, Scale.TINY, layout)]
    steps += [s for run in runs(experiment, Scale.TINY) for s in run_steps(experiment, Scale.TINY, layout, run)]
    assert len(first.titles) + len(second.titles) == len({step.done for step in steps})
    assert len({*first.served, *second.served}) == len(experiment.arms)
    assert len(collect(experiment, Scale.TINY, layout).rollouts) == len(experiment.arms)
    nothing = Machine()
    go(nothing)
    assert nothing.titles == []


def test_a_run_whose_results_are_kept_is_not_run_again_on_another_machine(
    experiment: Experiment, tmp_path: Path
) -> None:
    declaration, kept = Declaration("digest", "commit x"), tmp_path / "kept"
    here, there = Layout(tmp_path / "here" / "work"), Layout(tmp_path / "there" / "work")
    found = Results()

    def finished(run: Run) -> None:
        nonlocal found
        found = found.with_run(experiment, here, run)
        found.write(kept, declaration)

    stop = threading.Event()
    gone = Machine(fails_at=len(everything(experiment)) - 1)  # at the last arm
    with pytest.raises(ExperimentError, match="exit code 1"):
        execute(experiment, Scale.TINY, here, stop=stop, console=QUIET, call=gone, finished=finished)
    known = Results.read(kept)
    assert Declaration.read(kept) == declaration
    assert known == found
    starts = experiment.scales[Scale.TINY].starts * len(experiment.tasks)
    assert not known.runs(experiment, Scale.TINY)  # the machine does one rollout an arm
    whole = Results(tuple(r for r in known.rollouts for _ in range(starts)), known.training)
    done = whole.runs(experiment, Scale.TINY)
    assert {run.arm for run in done} == set(list(experiment.arms)[:2])
    again = Machine()
    execute(experiment, Scale.TINY, there, stop=stop, console=QUIET, call=again, known=done)
    assert len(again.served) == len(experiment.arms) - 2


def everything(experiment: Experiment) -> set[Path]:
    """What is to be done of an experiment at its smallest, each once."""
    return {step.done for step in all_steps(experiment, Scale.TINY, Layout(Path("w")))}


def test_runs_beside_each_other_share_the_cores_and_what_they_have_in_common(
    experiment: Experiment, tmp_path: Path
) -> None:
    layout, machine = Layout(tmp_path / "work"), Machine(takes_s=0.01)
    execute(experiment, Scale.PRIMARY, layout, stop=threading.Event(), console=QUIET, jobs=3, call=machine)
    steps = {step.done for step in all_steps(experiment, Scale.PRIMARY, layout, jobs=3)}
    assert len(machine.titles) == len(steps)
    assert machine.most_at_once == 3
    assert len(collect(experiment, Scale.PRIMARY, layout).rollouts) == len(runs(experiment, Scale.PRIMARY))
    (run, *_) = runs(experiment, Scale.PRIMARY)
    (training, *_, evaluation) = [
        step for step in run_steps(experiment, Scale.PRIMARY, layout, run, cores=3) if "launch" in step.command[1]
    ]
    assert argument(training, "--threads") == argument(evaluation, "--workers") == "3"


def test_after_a_failure_nothing_else_is_begun(tmp_path: Path) -> None:
    experiment, machine = load_experiment("joint-vs-action"), Machine(fails_at=4, takes_s=0.01)
    with pytest.raises(ExperimentError, match=r"see .*logs"):
        execute(
            experiment,
            Scale.PRIMARY,
            Layout(tmp_path / "work"),
            stop=threading.Event(),
            console=QUIET,
            jobs=2,
            call=machine,
        )
    assert len(machine.titles) <= 5


def test_what_is_stopped_stops_its_commands_too(tmp_path: Path) -> None:
    stop, said = threading.Event(), tmp_path / "began"
    program = f"import pathlib, time; pathlib.Path({str(said)!r}).touch(); time.sleep(60)"
    step = Step("sleep", (sys.executable, "-c", program), tmp_path / "never")

    def stop_it() -> None:
        while not said.exists():
            time.sleep(0.01)
        stop.set()

    thread = threading.Thread(target=stop_it)
    thread.start()
    assert Calls(stop)(step, tmp_path / "log.txt") == -signal.SIGTERM
    thread.join()


def test_a_command_that_leaves_no_result_is_no_success(tmp_path: Path) -> None:
    experiment = load_experiment("lora")
    with pytest.raises(ExperimentError, match="exit code 0"):
        execute(
            experiment,
            Scale.TINY,
            Layout(tmp_path / "work"),
            stop=threading.Event(),
            console=QUIET,
            call=lambda step, log: 0,
        )


def rollouts(rates: dict[str, list[float]], *, starts: int = 60, seed: int = 0) -> list[Rollout]:
    random = np.random.default_rng(seed)
    ease = random.normal(0.0, 1.0, starts)
    found = []
    for arm, by_seed in rates.items():
        for run, rate in enumerate(by_seed):
            won = random.random(starts) < 1.0 / (1.0 + np.exp(-(np.log(rate / (1 - rate)) + ease)))
            found += [
                Rollout("25 %", arm, run, "cup", s, bool(w), "stable" if w else "lifted", 5.0)
                for s, w in enumerate(won)
            ]
    return found


def test_a_difference_is_found_with_its_sign_and_its_interval_holds_it() -> None:
    made = rollouts({"motion": [0.7, 0.6, 0.65, 0.7], "action-only": [0.4, 0.35, 0.4, 0.3]})
    found = difference(
        made, condition="25 %", first="motion", second="action-only", tasks=["cup"], primary=True, draws=500
    )
    assert len(found.by_seed) == 4
    assert found.bootstrap95[0] < found.mean < found.bootstrap95[1]
    assert found.bootstrap95[0] > 0.0
    assert found.p is not None
    assert found.p < 0.05
    assert found.odds_ratio95 is not None
    assert found.odds_ratio95[0] > 1.5
    back = difference(
        made, condition="25 %", first="action-only", second="motion", tasks=["cup"], primary=True, draws=500
    )
    assert back.mean == pytest.approx(-found.mean)
    assert back.odds_ratio == pytest.approx(1 / found.odds_ratio, rel=0.02)  # type: ignore[operator]


def test_one_seed_gives_a_difference_and_no_test() -> None:
    made = rollouts({"motion": [0.6], "action-only": [0.5]})
    found = difference(
        made, condition="25 %", first="motion", second="action-only", tasks=["cup"], primary=True, draws=100
    )
    assert found.p is None
    assert found.t_interval95 is None


def test_only_starts_that_both_arms_met_are_compared() -> None:
    made = [r for r in rollouts({"a": [0.5], "b": [0.5]}) if r.arm == "a" or r.start < 20]
    (table,) = paired_table(made, condition="25 %", first="a", second="b", tasks=["cup"])
    assert table.shape == (20, 2)
    with pytest.raises(ValueError, match="share no start"):
        paired_table(made, condition="25 %", first="a", second="c", tasks=["cup"])


def test_spread_between_seeds_widens_the_interval_as_spread_between_starts_cannot() -> None:
    even = [np.tile([[1.0, 0.0], [0.0, 0.0]], (50, 1))] * 5
    uneven = [np.tile([[rate, 0.0]], (100, 1)) for rate in (0.0, 0.25, 0.5, 0.75, 1.0)]

    def width(table: list[np.ndarray]) -> float:
        low, high = hierarchical_bootstrap(table, draws=500)
        return high - low

    assert width(uneven) > 3 * width(even)


def test_the_random_intercept_model_finds_the_odds_that_made_the_data() -> None:
    random = np.random.default_rng(1)
    ease = random.normal(0.0, 1.0, 400)
    table = []
    for seed in range(4):
        logit = 0.2 * seed - 0.3 + ease
        rates = 1 / (1 + np.exp(-np.stack([logit + np.log(2.0), logit], axis=1)))
        table.append((random.random(rates.shape) < rates).astype(float))
    found = mixed_logistic(table)
    assert found is not None
    ratio, (low, high) = found
    assert low < 2.0 < high
    assert 1.6 < ratio < 2.5
    assert mixed_logistic([np.ones((5, 2))]) is None


def test_stages_are_counted_up_to_the_furthest() -> None:
    made = rollouts({"a": [0.5]})
    found = figures(made, condition="25 %", arm="a", tasks=["cup"], stages=STAGES)
    assert found.stages["reached"] == found.stages["lifted"] == 1.0
    assert found.stages["stable"] == found.rate


def test_the_primary_comparison_is_not_corrected_and_the_others_are() -> None:
    made = rollouts({"a": [0.6, 0.5, 0.6], "b": [0.4, 0.4, 0.5]})
    one = difference(made, condition="25 %", first="a", second="b", tasks=["cup"], primary=True, draws=10)
    others = [replace(one, primary=False, p=p) for p in (0.01, 0.04)]
    found = corrected([one, *others])
    assert [d.p_holm for d in found] == [None, pytest.approx(0.02), pytest.approx(0.04)]


def test_table_and_figure_come_from_the_raw_rollouts_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = ("action-only", "motion", "placebo")
    made = rollouts({arm: [0.5, 0.6] for arm in arms}, starts=10)
    write_rollouts(tmp_path / "rollouts.csv", made)
    Declaration("digest", "commit x").write(tmp_path)
    assert read_rollouts(tmp_path / "rollouts.csv") == sorted(made)
    arguments = ["joint-vs-action", "--scale", "reduced", "--report", "--results", str(tmp_path)]
    assert main(arguments) == 0
    table, figure = ((tmp_path / name).read_text() for name in ("table.md", "figure.svg"))
    assert "59.0 % with motion, 44.8 % without" in table
    assert "answers nothing" in table
    assert "**motion** | action-only" in table
    assert figure.startswith("<svg")
    assert main(arguments) == 0
    assert (tmp_path / "table.md").read_text() == table
    assert "Hypothesis" in capsys.readouterr().out


def test_what_the_training_runs_say_stands_beside_their_rollouts(tmp_path: Path) -> None:
    experiment, layout = load_experiment("joint-vs-action"), Layout(tmp_path / "work")
    execute(experiment, Scale.TINY, layout, stop=threading.Event(), console=QUIET, call=Machine())
    motion = last_training(experiment, layout, Run("motion", "25 %", 0))
    flow = {"validation_action": 0.25, "flow_end_point_px": 6.0, "flow_zero_px": 12.0}
    (motion / "result.json").write_text(json.dumps({"checkpoint": "c", "validation": flow}))
    with (motion / "metrics.jsonl").open("w") as file:
        for step in range(3):
            gradients = {"gradient_motion": 2.0 + step, "gradient_action": 1.0, "gradient_cosine": 0.1 * step}
            file.write(json.dumps({"step": step} | gradients) + "\n" + json.dumps({"step": step, "loss": 1.0}) + "\n")
    results = collect(experiment, Scale.TINY, layout)
    found = results.training
    assert TrainingFigures("25 %", "motion", 0, 0.25, 6.0, 12.0, 3.0, 0.1) in found
    assert TrainingFigures("25 %", "action-only", 0, 0.5) in found
    write_training(tmp_path / "training.csv", found)
    assert read_training(tmp_path / "training.csv") == sorted(found, key=lambda each: each.arm)
    write_report(experiment, Scale.TINY, results.rollouts, tmp_path, declared="commit x", training=found)
    assert "| 25 % | motion | 0 | 0.25 | 6 | 12 | 3 | 0.1 |" in (tmp_path / "table.md").read_text()


def test_an_experiment_that_is_half_done_says_so(tmp_path: Path) -> None:
    experiment = load_experiment("joint-vs-action")
    made = rollouts({"action-only": [0.5, 0.6, 0.5], "motion": [0.5, 0.6]}, starts=10)
    write_report(experiment, Scale.PRIMARY, made, tmp_path, declared="commit x")
    text = (tmp_path / "table.md").read_text()
    assert "Not complete: 5 of 9 runs" in text
    assert "answers nothing" not in text


def test_the_lora_study_is_judged_on_the_task_that_was_adapted_to() -> None:
    experiment = load_experiment("lora")
    made = [
        Rollout("30 of the third", arm, 0, task, s, s % 2 == 0, "stable" if s % 2 == 0 else "start", 5.0)
        for arm in experiment.arms
        for task in ("tape", "cup", "can")
        for s in range(4)
    ]
    found = analyse(experiment, made)
    (primary,) = (d for d in found.differences if d.primary)
    assert primary.tasks == "tape"
    assert {a.tasks for a in found.arms} == {"tape", "cup+can"}


def declared_copy(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text((CONFIGS / "experiments" / "joint-vs-action.yaml").read_text())
    return path


def test_nothing_is_run_before_the_declaration_is_committed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = declared_copy(tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    assert main([str(path), "--scale", "reduced", "--work", str(tmp_path / "work")]) == 1
    assert "declared before its first result: commit the file" in capsys.readouterr().err
    assert not (tmp_path / "work" / "flow").exists()


def test_what_was_declared_is_not_changed_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lora", "--scale", "full", "--set", "batch=8", "--work", str(tmp_path)]) == 1
    assert "--scale tiny" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--work", "--results"])
def test_results_of_a_changed_declaration_are_not_mixed(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Declaration("other", "commit abc").write(tmp_path / option)
    folders = [f"{name}={tmp_path / name}" for name in ("--work", "--results")]
    assert main(["lora", "--scale", "tiny", *folders]) == 1
    told = capsys.readouterr().err
    assert "another declaration" in told
    assert f"give {option}" in told


def test_the_report_is_the_same_whoever_makes_it(tmp_path: Path) -> None:
    experiment = load_experiment("joint-vs-action")
    made = rollouts({arm: [0.5, 0.6] for arm in experiment.arms}, starts=10)
    for name, order in (("a", made), ("b", made[::-1])):
        write_report(experiment, Scale.REDUCED, order, tmp_path / name, declared="commit x")
    assert (tmp_path / "a" / "table.md").read_text() == (tmp_path / "b" / "table.md").read_text()
