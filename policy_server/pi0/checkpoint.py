"""A policy on disk: a folder with ``policy.safetensors``, ``policy.json`` and ``tokenizer.model``.

The JSON describes the policy fully (dimensions, interface, units, rate, normalisation) and holds the sha256 of the
other two files, so that nothing has to be known beforehand and nothing can be swapped unseen.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from policy_server.contract import SIX_JOINTS_AND_GRIPPER, ContractError, Interface
from policy_server.pi0.config import ModelConfigError, Pi0Config, preset
from policy_server.pi0.normalization import Normalization, NormalizationError, NormKind, Statistics
from policy_server.pi0.pi0 import Pi0
from policy_server.pi0.policy import Policy, PolicySpec
from policy_server.pi0.tokenizer import Tokenizer, TokenizerError

FORMAT = "nova-pi-policy"
FORMAT_VERSION = 1
WEIGHTS_FILE = "policy.safetensors"
SPEC_FILE = "policy.json"
TOKENIZER_FILE = "tokenizer.model"
NANO_TOKENIZER = Path(__file__).parent / "assets" / "nano_tokenizer.model"

# An untrained model's output has the size of its noise. These keep what it does to an arm small.
RANDOM_JOINT_STD_RAD = 0.02
RANDOM_GRIPPER_STD = 0.1


class CheckpointError(ValueError):
    """The folder holds no policy, or one whose parts do not belong together. Says what was expected and found."""


def save_policy(policy: Policy, directory: Path) -> None:
    """Write the policy to a new folder, which appears complete or not at all. Raises `CheckpointError` if it exists."""
    if directory.exists():
        raise CheckpointError(f"{directory} exists already; give a new folder")
    directory.parent.mkdir(parents=True, exist_ok=True)
    weights = _serialize(policy.model)
    description = describe(policy.spec) | {
        "weights": {"file": WEIGHTS_FILE, "sha256": _sha256(weights)},
        "tokenizer": {"file": TOKENIZER_FILE, "sha256": policy.tokenizer.sha256},
    }
    unfinished = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        (unfinished / WEIGHTS_FILE).write_bytes(weights)
        (unfinished / TOKENIZER_FILE).write_bytes(policy.tokenizer.model_bytes)
        (unfinished / SPEC_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        unfinished.chmod(0o755)
        unfinished.rename(directory)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def load_policy(directory: Path, *, steps: int = 10, device: torch.device | None = None) -> Policy:
    """The policy in a folder. Raises `CheckpointError` when anything in it is missing, damaged or does not fit."""
    description = _read_description(directory / SPEC_FILE)
    try:
        spec = parse_spec(description)
        tokenizer = Tokenizer(directory / TOKENIZER_FILE, expected_sha256=_digest_of(description, "tokenizer"))
    except (ModelConfigError, NormalizationError, ContractError, TokenizerError) as error:
        raise CheckpointError(f"{directory}: {error}") from None
    weights = directory / WEIGHTS_FILE
    try:
        with weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{weights}: can't read the weights: {error.strerror}") from None
    expected = _digest_of(description, "weights")
    if found != expected:
        raise CheckpointError(f"{weights}: expected sha256 {expected}, found {found}; another file than described")
    with torch.device("meta"):
        model = Pi0(spec.model)
    _load_strictly(model, weights)
    return Policy(spec, model=model, tokenizer=tokenizer, checkpoint_digest=found, steps=steps, device=device)


def random_policy(preset_name: str, *, seed: int, steps: int = 10, device: torch.device | None = None) -> Policy:
    """A policy that has learned nothing, for running everything around it. It says so: its name ends in ``-random`` and
    its contract has ``trained`` false. The same seed gives the same weights.

    Raises `ModelConfigError` for a preset without a tokenizer of its own.
    """
    config = preset(preset_name)
    if preset_name != "nano":
        raise ModelConfigError(
            f"preset {preset_name!r} has no tokenizer in this repository, so it can't run without a checkpoint; "
            "set 'checkpoint' in the policy's configuration, or use the preset 'nano'"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Pi0(config)
    joints = len(SIX_JOINTS_AND_GRIPPER.action_names) - 1
    normalization = Normalization(
        state=Statistics(NormKind.Z_SCORE, np.zeros(joints + 1), np.ones(joints + 1)),
        actions=Statistics(
            NormKind.Z_SCORE,
            np.array([0.0] * joints + [0.5]),
            np.array([RANDOM_JOINT_STD_RAD] * joints + [RANDOM_GRIPPER_STD]),
        ),
    )
    spec = PolicySpec(
        name=f"{preset_name}-random",
        trained=False,
        model=config,
        interface=SIX_JOINTS_AND_GRIPPER,
        normalization=normalization,
        relative=(True,) * joints + (False,),
    )
    digest = _sha256(_serialize(model))
    return Policy(
        spec, model=model, tokenizer=Tokenizer(NANO_TOKENIZER), checkpoint_digest=digest, steps=steps, device=device
    )


def describe(spec: PolicySpec) -> dict[str, Any]:
    """The policy.json of a spec, without its files."""
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": spec.name,
        "trained": spec.trained,
        "model": spec.model.to_json(),
        "interface": spec.interface.to_json(),
        "normalization": spec.normalization.to_json(),
        "relative": list(spec.relative),
        "camera_backends": spec.camera_backends,
    }


def parse_spec(description: Mapping[str, Any]) -> PolicySpec:
    """The inverse of `describe`; raises `ModelConfigError` and the errors of the parts."""
    expected = {"name": str, "trained": bool, "model": dict, "interface": dict, "normalization": dict, "relative": list}
    for key, kind in expected.items():
        if not isinstance(description.get(key), kind):
            raise ModelConfigError(f"{SPEC_FILE}: {key}: expected {kind.__name__}, found {description.get(key)!r:.60}")
    if not all(isinstance(flag, bool) for flag in description["relative"]):
        raise ModelConfigError(f"{SPEC_FILE}: relative: expected true or false for each action")
    return PolicySpec(
        name=description["name"],
        trained=description["trained"],
        model=Pi0Config.from_json(description["model"]),
        interface=Interface.from_json(description["interface"]),
        normalization=Normalization.from_json(description["normalization"]),
        relative=tuple(description["relative"]),
        camera_backends=description.get("camera_backends", {}),
    )


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: can't read the policy's description: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected a description with format {FORMAT!r}")
    if description.get("version") != FORMAT_VERSION:
        raise CheckpointError(f"{path}: expected version {FORMAT_VERSION}, found {description.get('version')!r}")
    return description


def _digest_of(description: Mapping[str, Any], part: str) -> str:
    entry = description.get(part)
    digest = entry.get("sha256") if isinstance(entry, Mapping) else None
    if not isinstance(digest, str):
        raise CheckpointError(f"{SPEC_FILE}: {part}.sha256 is missing")
    return digest


def _load_strictly(model: Pi0, path: Path) -> None:
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: can't read the weights: {error}") from None
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    both = wanted.keys() & found.keys()
    problems = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "of another shape": [f"{n} {found[n]}, expected {wanted[n]}" for n in sorted(both) if found[n] != wanted[n]],
    }
    lines = [f"  {what} ({len(names)}): {_some(names)}" for what, names in problems.items() if names]
    if lines:
        raise CheckpointError("\n".join([f"{path}: the weights do not fit the model described beside them:", *lines]))
    model.load_state_dict(tensors, strict=True, assign=True)


def _some(names: list[str], *, most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _serialize(model: Pi0) -> bytes:
    return safetensors.torch.save({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()})


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
