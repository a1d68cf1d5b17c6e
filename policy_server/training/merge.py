"""From a LoRA checkpoint to a plain policy that the server loads like any other."""

import shutil
from pathlib import Path

from policy_server.motion.files import DESCRIPTION_FILE, WEIGHTS_FILE, has_motion_head
from policy_server.pi0.checkpoint import load_policy, parse_spec, save_policy
from policy_server.pi0.policy import Policy
from policy_server.training.checkpoints import resolve_checkpoint
from policy_server.training.lora import AdapterError, add_lora, load_adapter, merge_lora, read_adapter


def adapted_policy(checkpoint: Path, *, base: Path | None = None) -> Policy:
    """The base policy with the checkpoint's adapters in it, not merged. Raises `AdapterError` when the base is
    another.
    """
    adapter = read_adapter(checkpoint)
    folder = resolve_checkpoint(base or adapter.base)
    loaded = load_policy(folder)
    if loaded.contract.checkpoint_digest != adapter.base_digest:
        raise AdapterError(
            f"{folder}: not the policy that {checkpoint} was trained on (expected sha256 {adapter.base_digest}); "
            "give it with --base"
        )
    spec = parse_spec(adapter.policy)
    loaded.model.config = spec.model
    add_lora(loaded.model, adapter.settings)
    load_adapter(loaded.model, checkpoint)
    return Policy(spec, model=loaded.model, tokenizer=loaded.tokenizer, checkpoint_digest="unmerged")


def merge_checkpoint(checkpoint: Path, out: Path, *, base: Path | None = None) -> Path:
    """Write the merged policy, with the checkpoint's motion head beside it if it has one, to a new folder."""
    folder = resolve_checkpoint(checkpoint)
    policy = adapted_policy(folder, base=base)
    merge_lora(policy.model)
    save_policy(policy, out)
    if has_motion_head(folder):
        for name in (WEIGHTS_FILE, DESCRIPTION_FILE):
            shutil.copyfile(folder / name, out / name)
    return out
