import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from policy_server.pi0.checkpoint import CheckpointError, _sha256, load_policy, save_policy
from policy_server.pi0.policy import Policy


@pytest.fixture
def saved(nano: Policy, tmp_path: Path) -> Path:
    save_policy(nano, tmp_path / "policy")
    return tmp_path / "policy"


def rewrite_weights(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Other weights under a description that vouches for them."""
    data = safetensors.torch.save(tensors)
    (folder / "policy.safetensors").write_bytes(data)
    change_description(folder, weights={"file": "policy.safetensors", "sha256": _sha256(data)})


def change_description(folder: Path, **changes: object) -> None:
    path = folder / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_loaded_policy_acts_as_the_saved_one(nano: Policy, saved: Path) -> None:
    loaded = load_policy(saved, steps=1)
    assert loaded.contract == nano.contract
    ours, theirs = (
        policy.infer(policy.example(), generator=torch.Generator().manual_seed(4))["actions"]
        for policy in (nano, loaded)
    )
    assert np.array_equal(ours, theirs)


def test_a_folder_is_never_overwritten(nano: Policy, saved: Path) -> None:
    with pytest.raises(CheckpointError, match="exists already"):
        save_policy(nano, saved)


def test_saving_leaves_nothing_but_the_policy(saved: Path) -> None:
    assert [path.name for path in saved.parent.iterdir()] == ["policy"]
    assert sorted(path.name for path in saved.iterdir()) == ["policy.json", "policy.safetensors", "tokenizer.model"]


def test_missing_unexpected_and_misshapen_weights_are_listed(nano: Policy, saved: Path) -> None:
    tensors = dict(nano.model.state_dict())
    del tensors["state_proj.bias"]
    tensors["surprise"] = torch.zeros(1)
    tensors["action_out_proj.bias"] = torch.zeros(3)
    rewrite_weights(saved, tensors)
    with pytest.raises(CheckpointError) as caught:
        load_policy(saved)
    text = str(caught.value)
    assert "missing (1): state_proj.bias" in text
    assert "unexpected (1): surprise" in text
    assert "of another shape (1): action_out_proj.bias (3,), expected (7,)" in text


@pytest.mark.parametrize("name", ["policy.safetensors", "tokenizer.model"])
def test_a_file_that_is_not_the_one_described_is_refused(saved: Path, name: str) -> None:
    with (saved / name).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointError, match="sha256"):
        load_policy(saved)


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors", "tokenizer.model"])
def test_an_absent_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}.*No such file"):
        load_policy(saved)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": "other"}, "expected a description with format"),
        ({"version": 9}, "expected version 1, found 9"),
        ({"trained": "yes"}, "trained: expected bool"),
        ({"relative": [1] * 7}, "relative: expected true or false"),
        ({"normalization": {}}, "normalization.state is missing"),
        ({"model": {}}, "model configuration"),
        ({"interface": {}}, "state_names is missing"),
        ({"weights": {}}, "weights.sha256 is missing"),
    ],
)
def test_a_wrong_description_is_refused(saved: Path, changes: dict[str, object], reason: str) -> None:
    change_description(saved, **changes)
    with pytest.raises(CheckpointError, match=reason):
        load_policy(saved)
