"""Two processes take the step that one takes."""

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import safetensors.torch
import torch
from accelerate import Accelerator
from rich.console import Console

from policy_server.training.board import read_figures
from policy_server.training.recipe import Recipe
from policy_server.training.setup import prepare
from policy_server.training.trainer import Trainer

PROGRAM = """
import sys, torch
sys.path.insert(0, {here!r})
import conftest
from pathlib import Path
from accelerate import Accelerator
from rich.console import Console
from policy_server.pi0.config import PRESETS
from policy_server.training.recipe import load_recipe
from policy_server.training.setup import prepare
from policy_server.training.trainer import Trainer
PRESETS["tiny"] = conftest.TINY
torch.set_num_threads(1)
setup = prepare(load_recipe({recipe!r}), device=torch.device("cpu"), console=Console(quiet=True))
Trainer(setup, Path(sys.argv[1]), accelerator=Accelerator(cpu=True)).train()
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
        _, errors = process.communicate(timeout=110)
        assert process.returncode == 0, errors[-4000:]


def test_two_processes_train_as_one(recipe: Recipe, tmp_path: Path) -> None:
    recipe = recipe.override(["steps=3", "save_every=3", "validate_every=3"])
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    program = tmp_path / "program.py"
    here = str(Path(__file__).parent)
    program.write_text(textwrap.dedent(PROGRAM.format(here=here, recipe=str(tmp_path / "recipe.yaml"))))
    run_together(program, tmp_path / "two", processes=2)
    setup = prepare(recipe, device=torch.device("cpu"), console=Console(quiet=True))
    Trainer(setup, tmp_path / "one", accelerator=Accelerator(cpu=True)).train()
    one, two = (
        safetensors.torch.load_file(tmp_path / name / "step-0000003" / "training.safetensors")
        for name in ("one", "two")
    )
    for name, value in one.items():
        if name.startswith(("weights/", "average/")):
            assert torch.allclose(value, two[name], atol=3e-5), name
    first, second = (read_figures(tmp_path / name) for name in ("one", "two"))
    for a, b in zip(first, second, strict=True):
        assert abs(a["loss"] - b["loss"]) < 1e-3 * a["loss"]
