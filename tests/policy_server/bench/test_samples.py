"""What the benchmark lets its contestants sample."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from policy_server.bench import samples
from policy_server.bench.samples import SIZES, Size, operations, read_model, read_samples, write_samples
from policy_server.bench.serve import health_row
from policy_server.bench.turns import Contestant, ContestantError, in_turns
from policy_server.pi0.config import GemmaConfig, VisionConfig
from policy_server.pi0.lean import LeanSampler
from policy_server.pi0.loading import Precision

TINY = Size(
    replace(
        SIZES["nano"].config,
        vision=VisionConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2, mlp_width=24),
        trunk=GemmaConfig(width=24, depth=2, mlp_width=32, heads=4, kv_heads=1, head_width=8),
        expert=GemmaConfig(width=16, depth=2, mlp_width=24, heads=4, kv_heads=1, head_width=8),
        vocabulary_size=600,
    ),
    samples=1,
    goal=1.0,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_written_weights_load_strictly_and_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setitem(samples.SIZES, "tiny", TINY)
    monkeypatch.setattr(samples, "BLOCK_VALUES", 1000)
    write_samples(tmp_path, "tiny", dtype=dtype)
    observation, noise = read_samples(tmp_path)
    lean = LeanSampler(read_model(tmp_path, precision=Precision.FLOAT32), steps=3)
    with torch.inference_mode():
        plain = read_model(tmp_path, precision=Precision.FLOAT32).sample_actions(observation, noise=noise, steps=3)
    assert (lean.sample(observation, noise=noise).actions - plain.actions).abs().max() <= 1e-5
    assert plain.actions.std() > 0.1


def test_the_published_size_is_counted_as_the_roofline_counts_it() -> None:
    gflop = operations(SIZES["pi0"].config) / 1e9
    assert 2_300 < gflop < 2_900  # 2 x 256 image tokens, a short prompt, 15 actions, 10 steps


def test_contestants_take_turns_forth_and_back(tmp_path: Path) -> None:
    script = tmp_path / "player.py"
    script.write_text(
        "import json, sys\n"
        "print('a greeting that is no JSON')\nprint(json.dumps('ready'), flush=True)\n"
        "for count, line in enumerate(sys.stdin):\n    print(json.dumps([count]), flush=True)\n"
    )
    with Contestant(["python3", str(script)]) as first, Contestant(["python3", str(script)]) as second:
        assert first.hear() == second.hear() == "ready"
        assert in_turns([first, second], "go", rounds=2) == [[0, 1, 2, 3], [0, 1, 2, 3]]


def test_a_contestant_that_breaks_down_says_why() -> None:
    with Contestant(["python3", "-c", "raise SystemExit('no peer here')"]) as player:
        with pytest.raises(ContestantError, match="no peer here"):
            player.hear()


def test_the_sizes_are_json_for_the_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(samples.SIZES, "tiny", TINY)
    write_samples(tmp_path, "tiny")
    assert json.loads((tmp_path / "sizes.json").read_text())["trunk"]["width"] == 24
    with np.load(tmp_path / "inputs.npz") as inputs:
        assert inputs["images"].shape == (1, 2, 3, 16, 16)


@pytest.mark.slow
def test_health_is_measured_beside_a_busy_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policy_server.bench.serve.HEALTH_CHECKS", 5)
    assert health_row().value > 0.0
