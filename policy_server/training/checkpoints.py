"""The checkpoints of a run: folders that appear complete or not at all, of which the last and the best are kept.

``step-000500/`` is a policy that can be served as it is (the averaged weights, if there is an average), with the
motion head and what is needed to go on (`training.safetensors`: the trained weights themselves, their average and the
optimizer's moments) beside it.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from policy_server.pi0.checkpoint import RUN_INDEX_FILE, of_run
from policy_server.training.optimizer import Average
from policy_server.training.sharding import gathered, shared_out

TRAINING_FILE = "training.safetensors"
PROGRESS_FILE = "training.json"


class RunError(RuntimeError):
    """A run that can't start, go on, or save. Says what to do."""


OPTIMIZER_STATE = ("step", "exp_avg", "exp_avg_sq", "momentum")
"""What AdamW and Muon keep of a parameter."""


@dataclass(frozen=True)
class Progress:
    """How far a run is: the next step, and the best validation loss so far with its step."""

    next_step: int
    best_loss: float | None
    best_step: int | None


def step_folder(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps is."""
    return run / f"step-{step:07d}"


def write_checkpoint(run: Path, progress: Progress, write: Callable[[Path], None]) -> Path:
    """Make the checkpoint of a step: `write` fills a draft folder, which must not exist before it.

    Raises `RunError` when the disk is full or not writable; earlier checkpoints are untouched and no half one is left.
    """
    folder = step_folder(run, progress.next_step)
    run.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=".checkpoint.", dir=run))
    draft = workshop / folder.name
    try:
        write(draft)
        (draft / PROGRESS_FILE).write_text(json.dumps(progress.__dict__) + "\n", encoding="utf-8")
        for file in draft.iterdir():
            _flush(file)
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
        _flush(run)
        _write_index(run, last=folder.name, best=_best_name(run, progress))
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(
            f"{folder}: the checkpoint can't be written: {error}. Free space or give another --out, then call the same "
            "command again: it goes on from the last whole checkpoint"
        ) from None
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    _drop_old(run)
    return folder


def last_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint, or None. Remains of an interrupted save are cleared away."""
    if not run.is_dir():
        return None
    for left in run.glob(".checkpoint.*"):
        shutil.rmtree(left, ignore_errors=True)
    found = sorted(folder for folder in run.glob("step-*") if (folder / PROGRESS_FILE).is_file())
    return found[-1] if found else None


def resolve_checkpoint(path: Path) -> Path:
    """The checkpoint that is meant: the folder itself, or of a run the best one, else the last."""
    return of_run(path) or last_checkpoint(path) or path


def read_progress(folder: Path) -> Progress:
    """How far the run was. Raises `RunError`."""
    try:
        return Progress(**json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{folder}: not a training checkpoint: {error}") from None


def training_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None, *, keep: bool
) -> dict[str, Tensor]:
    """The trained weights, their average and the optimizer's moments, by parameter name, copied to the computer's
    memory. Of a sharded model every process must call it, and those that don't `keep` it get nothing."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensors[f"weights/{name}"] = parameter
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = torch.as_tensor(value)
    if average is not None:
        tensors |= {f"average/{name}": value for name, value in average.values.items()}
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        together = gathered(value.detach())
        if keep:
            found[name] = together.cpu().contiguous().clone()
    return found


def save_training_state(folder: Path, state: dict[str, Tensor]) -> None:
    """Write what `training_state` gave."""
    save_file(state, folder / TRAINING_FILE)


@torch.no_grad()
def load_training_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None
) -> None:
    """Take up what `save_training_state` wrote; the model may be sharded, then or now. Raises `RunError` when the file
    is damaged or of another recipe."""
    path = folder / TRAINING_FILE
    try:
        tensors = load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(f"{path}: damaged: {error}. Remove {folder} to go on from the checkpoint before it") from None
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if f"weights/{name}" not in tensors or tensors[f"weights/{name}"].shape != parameter.shape:
            raise RunError(f"{path}: {name} is missing or of another shape: the run was started with another recipe")
        parameter.copy_(shared_out(tensors[f"weights/{name}"], parameter))
        state: dict[str, Any] = {key: tensors[f"{key}/{name}"] for key in OPTIMIZER_STATE if f"{key}/{name}" in tensors}
        if state:
            optimizer.state[parameter] = {
                key: value if key == "step" else shared_out(value, parameter) for key, value in state.items()
            }
        if average is not None:
            average.values[name].copy_(shared_out(tensors[f"average/{name}"], average.values[name]))


def _best_name(run: Path, progress: Progress) -> str | None:
    return None if progress.best_step is None else step_folder(run, progress.best_step).name


def _write_index(run: Path, *, last: str, best: str | None) -> None:
    draft = run / f".{RUN_INDEX_FILE}.new"
    draft.write_text(json.dumps({"last": last, "best": best}) + "\n", encoding="utf-8")
    _flush(draft)
    draft.replace(run / RUN_INDEX_FILE)


def _drop_old(run: Path) -> None:
    index = json.loads((run / RUN_INDEX_FILE).read_text(encoding="utf-8"))
    for folder in run.glob("step-*"):
        if folder.name not in (index["last"], index["best"]):
            shutil.rmtree(folder, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
