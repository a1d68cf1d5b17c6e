import json
from dataclasses import replace
from pathlib import Path

import pytest

from policy_server.load import located
from policy_server.pi0.checkpoint import RUN_INDEX_FILE, load_policy, random_policy, save_policy
from policy_server.pi0.policy import Policy
from policy_server.training.checkpoints import Progress, RunError, resolve_checkpoint, write_checkpoint
from policy_server.training.nano_command import NanoOptions, commands, nano_main
from policy_server.training.recipe import load_recipe
from policy_server.training.ship import ship


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with one checkpoint, as the trainer leaves it."""
    plain = random_policy("nano", seed=1)
    spec = replace(plain.spec, name="nano-action-only", trained=True)
    policy = Policy(spec, model=plain.model, tokenizer=plain.tokenizer, checkpoint_digest="")

    def write(draft: Path) -> None:
        save_policy(policy, draft)
        (draft / "training.safetensors").write_bytes(b"moments of the optimizer")
        (draft / "recipe.yaml").write_text(load_recipe("nano-action-only").to_yaml())

    folder = tmp_path / "run"
    write_checkpoint(folder, Progress(40, 0.25, 40), write)
    figures = [{"step": 19, "loss": 1.0}, {"step": 39, "loss": 0.3, "validation_loss": 0.25}]
    figures.append({"step": 59, "loss": 0.2, "validation_loss": 0.35})  # later than the checkpoint that was best
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in figures))
    return folder


def test_what_is_shipped_can_be_served_and_says_what_it_is(run: Path, tmp_path: Path) -> None:
    shipped = ship(run, tmp_path / "nano", commands=["launch/train --recipe nano-action-only"])
    found = load_policy(shipped.folder)
    assert found.contract.trained
    assert found.contract.checkpoint_digest == shipped.digest
    card = (shipped.folder / "README.md").read_text()
    assert "after 40 steps of batch 32" in card
    assert "| 40 | validation_loss | 0.2500 |" in card
    assert "launch/train --recipe nano-action-only" in card
    assert shipped.digest in card


def test_the_optimizers_state_stays_behind(run: Path, tmp_path: Path) -> None:
    shipped = ship(run, tmp_path / "nano", commands=[])
    assert not (shipped.folder / "training.safetensors").exists()
    assert shipped.size_bytes < 25 * 2**20


def test_the_card_has_the_evaluation(run: Path, tmp_path: Path) -> None:
    cell: dict[str, object] = {"task": "cup", "successes": 9, "trials": 10, "wilson95": [0.6, 0.98]}
    cell["condition"] = {"mode": "async", "replan_ticks": 6, "latency_s": 0.2}
    result = {"policy": {"digest": "another"}, "cells": [cell], "plan": {"seed": 900_000}}
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    with pytest.raises(RunError, match="weights another, not of these"):
        ship(run, tmp_path / "nano", commands=[], evaluation=path)
    result["policy"] = {"digest": ship(run, tmp_path / "first", commands=[]).digest}
    path.write_text(json.dumps(result))
    shipped = ship(run, tmp_path / "nano", commands=[], evaluation=path)
    assert "| async, every 6 ticks, 200 ms | cup | 9/10 | 60 to 98 % |" in (shipped.folder / "README.md").read_text()


def test_nothing_is_overwritten_and_nothing_half_done_is_left(run: Path, tmp_path: Path) -> None:
    ship(run, tmp_path / "nano", commands=[])
    with pytest.raises(RunError, match="exists already"):
        ship(run, tmp_path / "nano", commands=[])
    with pytest.raises(RunError, match="no checkpoint in it"):
        ship(tmp_path / "empty", tmp_path / "other", commands=[])
    assert not list(tmp_path.glob(".*"))


def test_the_way_from_nothing_names_recipes_that_exist() -> None:
    options = NanoOptions()
    for only in (True, False):
        for command in commands(demonstrations=9, corrections=options.corrections, action_only=only):
            if "--recipe" in command:
                assert load_recipe(command[-1]).preset == "nano"
    assert commands(demonstrations=450, corrections=90, action_only=False)[-1][-1] == "nano-focused"


def test_a_run_can_be_shipped_without_training_anything(run: Path, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    target = tmp_path / "nano"
    assert nano_main(["--ship", str(run), "--target", str(target), "--json", str(result)]) == 0
    assert json.loads(result.read_text())["digest"] == load_policy(target).contract.checkpoint_digest
    assert nano_main(["--ship", str(run), "--target", str(target)]) == 1


def test_a_relative_checkpoint_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path(located("policy_server/pi0/assets")).is_dir()
    assert located("somebody/policy") == "somebody/policy"


def test_of_a_run_the_best_checkpoint_is_served(run: Path) -> None:
    assert Path(located(str(run))) == resolve_checkpoint(run) == run / "step-0000040"
    (run / RUN_INDEX_FILE).write_text(json.dumps({"last": "step-0000001", "best": None}))
    assert Path(located(str(run))) == run / "step-0000001"
