"""From a run to a checkpoint folder that others are given: policy, motion head, autoencoder, and a card.

The card says what the weights were trained on, by which recipe and commit, and how well they did on held-out data.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policy_server.motion.files import DESCRIPTION_FILE as MOTION_FILE
from policy_server.motion.files import WEIGHTS_FILE as MOTION_WEIGHTS
from policy_server.pi0.checkpoint import SPEC_FILE, TOKENIZER_FILE, WEIGHTS_FILE, load_policy
from policy_server.training.checkpoints import RunError, read_progress, resolve_checkpoint
from policy_server.training.recipe import Recipe, load_recipe

VAE_FOLDER = "vae"
CARD_NAME = "README.md"
LARGEST_BYTES = 25 * 2**20
_POLICY_FILES = (SPEC_FILE, WEIGHTS_FILE, TOKENIZER_FILE)
_MOTION_FILES = (MOTION_FILE, MOTION_WEIGHTS)


@dataclass(frozen=True)
class Shipped:
    """Where it is, its size, and the digest of the policy's weights."""

    folder: Path
    size_bytes: int
    digest: str


def ship(run: Path, target: Path, *, commands: Sequence[str], evaluation: Path | None = None) -> Shipped:
    """Copy a run's checkpoint, the one that would be served, to a new folder with a card, complete or not at all.

    `commands` are what makes the checkpoint from nothing; `evaluation` is a result file of launch/evaluate. Raises
    `RunError` when the run has no checkpoint, the folder exists, the evaluation is of other weights, or the whole is
    larger than a repository should hold.
    """
    source = resolve_checkpoint(run)
    if not (source / SPEC_FILE).is_file():
        raise RunError(f"{run}: no checkpoint in it; train first")
    if target.exists():
        raise RunError(f"{target} exists already; remove it or give another folder")
    recipe = load_recipe(source / "recipe.yaml")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        names = _POLICY_FILES + (_MOTION_FILES if (source / MOTION_FILE).is_file() else ())
        for name in names:
            shutil.copyfile(source / name, draft / name)
        if recipe.has_head and recipe.motion.vae is not None:
            shutil.copytree(recipe.motion.vae, draft / VAE_FOLDER)
        (draft / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        policy = load_policy(draft)
        digest = policy.contract.checkpoint_digest
        result = None if evaluation is None else _evaluation(evaluation, digest=digest)
        text = _card(run, source, recipe, commands=commands, result=result, digest=digest)
        (draft / CARD_NAME).write_text(text, encoding="utf-8")
        size = sum(path.stat().st_size for path in draft.rglob("*") if path.is_file())
        if size > LARGEST_BYTES:
            raise RunError(f"{source}: {size / 2**20:.1f} MiB; a checkpoint in a repository has at most 25 MiB")
        draft.chmod(0o755)
        for path in draft.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return Shipped(target, size, digest)


def _evaluation(path: Path, *, digest: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found = result["policy"]["digest"]
    if found != digest:
        raise RunError(f"{path}: an evaluation of the weights {found}, not of these, {digest}; evaluate the run again")
    return result


def _card(
    run: Path, source: Path, recipe: Recipe, *, commands: Sequence[str], result: dict[str, Any] | None, digest: str
) -> str:
    progress = read_progress(source)
    lines = [
        f"# {recipe.name}",
        "",
        f"A π0 of the preset `{recipe.preset}`, stage `{recipe.stage}`, after {progress.next_step} steps of batch "
        f"{recipe.batch} (seed {recipe.seed}).",
        f"Weights: sha256 `{digest}`. Commit: `{_commit()}`.",
        "",
        "## Data",
        "",
    ]
    for configured in recipe.data.sources:
        lines.append(f"* `{configured.path}`: {_data(Path(configured.path))}")
    lines += ["", "## Held-out losses", "", "| step | figure | value |", "|---|---|---|"]
    lines += [f"| {step} | {name} | {value:.4f} |" for step, name, value in _validation(run, until=progress.next_step)]
    if result is not None:
        lines += ["", "## Evaluation", "", "| chunks | task | success | 95 % |", "|---|---|---|---|"]
        for cell in result["cells"]:
            low, high = cell["wilson95"]
            how = cell["condition"]
            told = f"{how['mode']}, every {how['replan_ticks']} ticks, {1e3 * how['latency_s']:.0f} ms"
            share = f"{cell['successes']}/{cell['trials']}"
            lines.append(f"| {told} | {cell['task']} | {share} | {100 * low:.0f} to {100 * high:.0f} % |")
        plan = result["plan"]
        lines += ["", f"Seeded starts from {plan['seed']} in the twin without its wires, in simulated time."]
    lines += ["", "## How it was made", "", "```", *commands, "```", ""]
    return "\n".join(lines)


def _data(root: Path) -> str:
    info = root / "meta" / "info.json"
    if not info.is_file():
        return "not on this machine any more"
    plain: dict[str, Any] = json.loads(info.read_text(encoding="utf-8"))
    return f"{plain['total_episodes']} episodes, {plain['total_frames']} frames at {plain['fps']} Hz"


def _validation(run: Path, *, until: int) -> list[tuple[int, str, float]]:
    """Of the last validation in the run's metrics up to that step."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    found: list[tuple[int, str, float]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        figures = json.loads(line)
        mine = [(k, v) for k, v in figures.items() if k.startswith(("validation_", "flow_"))]
        if mine and int(figures["step"]) < until:
            found = [(int(figures["step"]) + 1, name, float(value)) for name, value in mine]
    return found


def _commit() -> str:
    found = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"
