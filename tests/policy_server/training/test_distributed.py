"""Two processes take the step that one takes, whether each has a copy of the model or a part of it."""

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from accelerate import Accelerator
from rich.console import Console

from configs.schema import ConfigError
from policy_server.pi0.checkpoint import load_policy
from policy_server.training.board import read_figures
from policy_server.training.checkpoints import last_checkpoint
from policy_server.training.recipe import Recipe, Sharding
from policy_server.training.setup import prepare
from policy_server.training.trainer import Trainer

Program = Callable[[Recipe, Path], None]

PROGRAM = """
import sys, torch
sys.path.insert(0, {here!r})
import conftest
from pathlib import Path
from rich.console import Console
from torch.distributed.tensor import DTensor
from policy_server.pi0.config import PRESETS
from policy_server.training.recipe import load_recipe
from policy_server.training.setup import prepare
from policy_server.training.sharding import make_accelerator
from policy_server.training.trainer import Trainer
PRESETS["tiny"] = conftest.TINY
torch.set_num_threads(1)
recipe = load_recipe({recipe!r})
accelerator = make_accelerator(cpu=True)
setup = prepare(recipe, device=torch.device("cpu"), console=Console(quiet=True))
trainer = Trainer(setup, Path(sys.argv[1]), accelerator=accelerator)
parts = [isinstance(parameter, DTensor) for parameter in trainer.model.parameters()]
assert all(parts) if recipe.sharding == "fsdp2" else not any(parts)
trainer.train()
"""


def run_together(program: Path, out: Path, *, processes: int) -> None:
    """Start the processes as accelerate's launcher does, each with its rank in the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "ACCELERATE_USE_CPU": "true",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
    }
    started = [
        subprocess.Popen(
            [sys.executable, str(program), str(out)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    for process in started:
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors[-4000:]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Starts two processes that train a recipe into a folder."""

    def start(recipe: Recipe, out: Path) -> None:
        (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
        path = tmp_path / "program.py"
        here = str(Path(__file__).parent)
        path.write_text(textwrap.dedent(PROGRAM.format(here=here, recipe=str(tmp_path / "recipe.yaml"))))
        run_together(path, out, processes=2)

    return start


def train_alone(recipe: Recipe, out: Path) -> None:
    setup = prepare(recipe, device=torch.device("cpu"), console=Console(quiet=True))
    Trainer(setup, out, accelerator=Accelerator(cpu=True)).train()


def weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = last_checkpoint(run)
    assert checkpoint is not None
    found = safetensors.torch.load_file(checkpoint / "training.safetensors")
    return {name: value for name, value in found.items() if name.startswith(("weights/", "average/"))}


def assert_same_run(first: Path, second: Path) -> None:
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=3e-5), name
    for a, b in zip(read_figures(first), read_figures(second), strict=True):
        assert abs(a["loss"] - b["loss"]) < 1e-3 * a["loss"]
        assert abs(a["gradient_norm"] - b["gradient_norm"]) < 1e-3 * a["gradient_norm"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "sharding",
    [Sharding.NONE, pytest.param(Sharding.FSDP2, marks=pytest.mark.slow)],
    ids=lambda sharding: sharding.value,
)
def test_two_processes_train_as_one(recipe: Recipe, tmp_path: Path, program: Program, sharding: Sharding) -> None:
    recipe = recipe.override(["steps=3", "save_every=3", "validate_every=2", f"sharding={sharding}", "micro_batch=1"])
    program(recipe, tmp_path / "two")
    train_alone(recipe, tmp_path / "one")
    assert_same_run(tmp_path / "one", tmp_path / "two")
    served = [load_policy(tmp_path / run / "step-0000003") for run in ("one", "two")]
    chunks = [p.infer(p.example(), generator=torch.Generator().manual_seed(0))["actions"] for p in served]
    assert abs(chunks[0] - chunks[1]).max() < 1e-3


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_sharded_run_goes_on_unsharded_and_the_other_way_round(
    recipe: Recipe, tmp_path: Path, program: Program
) -> None:
    recipe = recipe.override(["steps=4", "save_every=2", "validate_every=100"])
    sharded, half = (recipe.override([change]) for change in ("sharding=fsdp2", "steps=2"))
    train_alone(recipe, tmp_path / "whole")
    program(half.override(["sharding=fsdp2"]), tmp_path / "first")
    train_alone(recipe, tmp_path / "first")
    assert_same_run(tmp_path / "whole", tmp_path / "first")
    train_alone(half, tmp_path / "second")
    program(sharded, tmp_path / "second")
    assert_same_run(tmp_path / "whole", tmp_path / "second")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.kind=muon", "muon needs whole"),
        ("motion.target=language", "motion.target language"),
    ],
)
def test_what_can_not_be_sharded_is_refused(recipe: Recipe, change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe.override(["sharding=fsdp2", change])
