"""A policy on disk: a folder with ``policy.safetensors``, ``policy.json`` and ``tokenizer.model``.

Other people's formats are loaded too, see `policy_server.pi0.foreign`.

The JSON describes the policy fully (dimensions, interface, units, rate, normalisation) and holds the sha256 of the
other two files, so that nothing has to be known beforehand and nothing can be swapped unseen.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from policy_server.contract import SIX_JOINTS_AND_GRIPPER, ContractError, Interface
from policy_server.pi0.config import ModelConfigError, Pi0Config, preset
from policy_server.pi0.foreign import Assumptions, ForeignError, Layout, describe_foreign, layout_of
from policy_server.pi0.hub import HubError, fetch, is_hub_id
from policy_server.pi0.keys import KeysError
from policy_server.pi0.loading import Loaded, Precision, load_model
from policy_server.pi0.normalization import Normalization, NormalizationError, NormKind, Statistics
from policy_server.pi0.pi0 import Pi0
from policy_server.pi0.policy import Policy, PolicySpec, Sampling
from policy_server.pi0.tokenizer import Tokenizer, TokenizerError
from policy_server.pi0.views import Views
from policy_server.pi0.weights import WeightsError, WeightsFile

FORMAT = "nova-pi-policy"
FORMAT_VERSION = 1
WEIGHTS_FILE = "policy.safetensors"
SPEC_FILE = "policy.json"
TOKENIZER_FILE = "tokenizer.model"
RUN_INDEX_FILE = "checkpoints.json"
"""In the folder of a training run: which of its checkpoints is the last and which the best."""
NANO_TOKENIZER = Path(__file__).parent / "assets" / "nano_tokenizer.model"

SMALL_FILE_BYTES = 256 << 20
"""Up to here a file is read twice, first for its digest: telling damage apart from a misfit is worth it."""

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
    unfinished = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        _write_weights(policy.model, unfinished / WEIGHTS_FILE)
        description = describe(policy.spec) | {
            "weights": {"file": WEIGHTS_FILE, "sha256": _file_sha256(unfinished / WEIGHTS_FILE)},
            "tokenizer": {"file": TOKENIZER_FILE, "sha256": policy.tokenizer.sha256},
        }
        (unfinished / TOKENIZER_FILE).write_bytes(policy.tokenizer.model_bytes)
        (unfinished / SPEC_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        unfinished.chmod(0o755)
        unfinished.rename(directory)
    except (OSError, safetensors.SafetensorError):
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def of_run(folder: Path) -> Path | None:
    """The checkpoint of a training run that is meant: the best, or the last where none was validated. None if the
    folder is no run."""
    index = folder / RUN_INDEX_FILE
    if not index.is_file():
        return None
    names = json.loads(index.read_text(encoding="utf-8"))
    return folder / (names.get("best") or names["last"])


def load_policy(
    source: Path | str,
    *,
    steps: int = 10,
    device: torch.device | None = None,
    precision: Precision = Precision.STORED,
    sampling: Sampling | None = None,
    assumptions: Assumptions | None = None,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Policy:
    """The policy in a folder: ours, openpi's PyTorch files, or LeRobot's; or behind a name of the Hugging Face hub.

    `assumptions` are what a foreign checkpoint does not say. `on_bytes` hears of each piece that was read. Raises
    `CheckpointError` when anything is missing, damaged or does not fit.
    """
    device = device or torch.device("cpu")
    sampling = sampling or Sampling(steps=steps)
    try:
        folder = fetch(str(source)) if is_hub_id(str(source)) else Path(source)
        if layout_of(folder) is not Layout.OWN:
            found = describe_foreign(folder, assumptions or Assumptions())
            spec, weights, tokenizer = found.spec, found.weights, Tokenizer(found.tokenizer)
            digest = f"sampled:{weights.sampled_digest()}"
            loaded = load_model(spec.model, weights, device=device, precision=precision, on_bytes=on_bytes)
        else:
            description = _read_description(folder / SPEC_FILE)
            spec = parse_spec(description)
            tokenizer = Tokenizer(folder / TOKENIZER_FILE, expected_sha256=_digest_of(description, "tokenizer"))
            digest = _digest_of(description, "weights")
            loaded = _load_described(
                spec, folder / WEIGHTS_FILE, digest, device=device, precision=precision, on_bytes=on_bytes
            )
        return Policy(
            spec, model=loaded.model, tokenizer=tokenizer, checkpoint_digest=digest, device=device, sampling=sampling
        )
    except (ModelConfigError, NormalizationError, ContractError, TokenizerError, KeysError) as error:
        raise CheckpointError(f"{source}: {error}") from None
    except (WeightsError, ForeignError, HubError) as error:
        raise CheckpointError(str(error)) from None


def _load_described(
    spec: PolicySpec,
    path: Path,
    expected: str,
    *,
    device: torch.device,
    precision: Precision,
    on_bytes: Callable[[int], None],
) -> Loaded:
    """Read and verify in one pass. A damaged small file is told by its digest before anything else is said of it."""
    if path.is_file() and path.stat().st_size <= SMALL_FILE_BYTES:
        _require_digest(path, _file_sha256(path), expected)
    weights = WeightsFile.open(path)
    loaded = load_model(spec.model, weights, device=device, precision=precision, digest=True, on_bytes=on_bytes)
    _require_digest(path, str(loaded.sha256), expected)
    return loaded


def _require_digest(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise CheckpointError(f"{path}: expected sha256 {expected}, found {found}; another file than described")


def random_policy(
    preset_name: str,
    *,
    seed: int,
    steps: int = 10,
    device: torch.device | None = None,
    sampling: Sampling | None = None,
) -> Policy:
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
        spec,
        model=model,
        tokenizer=Tokenizer(NANO_TOKENIZER),
        checkpoint_digest=digest,
        device=device,
        sampling=sampling or Sampling(steps=steps),
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
        "prefix_conditioning": spec.prefix_conditioning,
        "views": None if spec.views is None else spec.views.to_json(),
        "seen": {
            "prompts": list(spec.prompts),
            "state_low": list(spec.state_low),
            "state_high": list(spec.state_high),
        },
    }


def parse_spec(description: Mapping[str, Any]) -> PolicySpec:
    """The inverse of `describe`; raises `ModelConfigError` and the errors of the parts."""
    expected = {"name": str, "trained": bool, "model": dict, "interface": dict, "normalization": dict, "relative": list}
    for key, kind in expected.items():
        if not isinstance(description.get(key), kind):
            raise ModelConfigError(f"{SPEC_FILE}: {key}: expected {kind.__name__}, found {description.get(key)!r:.60}")
    if not all(isinstance(flag, bool) for flag in description["relative"]):
        raise ModelConfigError(f"{SPEC_FILE}: relative: expected true or false for each action")
    seen = description.get("seen", {})
    return PolicySpec(
        name=description["name"],
        trained=description["trained"],
        model=Pi0Config.from_json(description["model"]),
        interface=Interface.from_json(description["interface"]),
        normalization=Normalization.from_json(description["normalization"]),
        relative=tuple(description["relative"]),
        camera_backends=description.get("camera_backends", {}),
        prefix_conditioning=bool(description.get("prefix_conditioning", False)),
        views=None if description.get("views") is None else Views.from_json(description["views"]),
        prompts=tuple(map(str, seen.get("prompts", ()))),
        state_low=tuple(map(float, seen.get("state_low", ()))),
        state_high=tuple(map(float, seen.get("state_high", ()))),
    )


def read_spec(path: Path) -> PolicySpec:
    """The spec in a policy.json. Raises `CheckpointError`."""
    try:
        return parse_spec(_read_description(path))
    except (ModelConfigError, NormalizationError, ContractError) as error:
        raise CheckpointError(f"{path}: {error}") from None


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


def _serialize(model: Pi0) -> bytes:
    return safetensors.torch.save(_tensors(model))


def _write_weights(model: Pi0, path: Path) -> None:
    safetensors.torch.save_file(_tensors(model), path)


def _tensors(model: Pi0) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: can't read the weights: {error.strerror}") from None
