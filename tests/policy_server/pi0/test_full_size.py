"""The published sizes in the published layouts, with random weights: they load strictly and act. 7 GB of disk and of
memory each."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from policy_server.bench.samples import write_random_weights
from policy_server.pi0.checkpoint import CheckpointError, load_policy
from policy_server.pi0.config import TimeInput, preset
from policy_server.pi0.convert import Target, convert
from policy_server.pi0.foreign import CONFIG_NAME, OWN_CONFIG_KEY, WEIGHTS_NAME, Assumptions
from policy_server.pi0.inspection import inspect
from policy_server.pi0.policy import Policy, Sampling

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(params=[(Target.OPENPI, "pi0"), (Target.LEROBOT, "pi05")], ids=["openpi-pi0", "lerobot-pi05"])
def published(
    request: pytest.FixtureRequest, small_policy: Callable[..., Policy], tmp_path: Path
) -> Iterator[tuple[str, Path]]:
    """Statistics, settings and tokenizer of a small policy beside weights of full size: the kind and the folder."""
    target, kind = request.param
    folder = tmp_path / "published"
    convert(small_policy(kind), folder, to=target)
    settings = folder / CONFIG_NAME
    plain = json.loads(settings.read_text())
    settings.write_text(json.dumps({key: value for key, value in plain.items() if key != OWN_CONFIG_KEY}))
    weights = folder / WEIGHTS_NAME
    prefix = "model." if target is Target.LEROBOT else ""
    write_random_weights(preset(kind), weights, dtype=torch.bfloat16, prefix=prefix)
    yield kind, folder
    weights.unlink()


def test_published_sizes_load_strictly_and_act(published: tuple[str, Path]) -> None:
    kind, folder = published
    # The embedding's second name is told in the file's metadata, as safetensors does for a tensor that has two.
    assert len(_header(folder / WEIGHTS_NAME)) == {"pi0": 778, "pi05": 813}[kind]
    assert inspect(str(folder), Assumptions()).parameters == pytest.approx(3.3e9, rel=0.1)

    policy = load_policy(folder, sampling=Sampling(steps=2, lean=True))
    chunk = policy.infer(policy.example(), generator=torch.Generator().manual_seed(1))["actions"]
    assert chunk.shape[1] == 7
    assert np.isfinite(chunk).all()
    assert (policy.spec.model.time_input is TimeInput.ADAPTIVE_NORM) == (kind == "pi05")
    del policy

    one = "language_model.layers.3.mlp.up_proj.weight"
    name = next(name for name in _header(folder / WEIGHTS_NAME) if name.endswith(one))
    _rename(folder / WEIGHTS_NAME, name, name.replace("up_proj", "uq_proj"))
    with pytest.raises(CheckpointError, match=r"uq_proj"):
        load_policy(folder)


def _header(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        plain: dict[str, object] = json.loads(file.read(size))
    return plain


def _rename(path: Path, old: str, new: str) -> None:
    """In place; the names are equally long."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(size).replace(f'"{old}"'.encode(), f'"{new}"'.encode())
        file.seek(8)
        file.write(header)
