"""From a policy's configuration to a policy ready to be served, with its motion head if it is wanted."""

from collections.abc import Callable
from pathlib import Path

import torch

from configs.schema import PolicyConfig
from policy_server.contract import SIX_JOINTS_AND_GRIPPER
from policy_server.motion.imager import MotionImager
from policy_server.motion_view import MotionView
from policy_server.pi0 import checkpoint
from policy_server.pi0.foreign import Assumptions
from policy_server.pi0.hub import fetch, is_hub_id
from policy_server.pi0.loading import Precision
from policy_server.pi0.policy import Policy, Sampling

ROOT = Path(__file__).resolve().parents[1]
VAE_FOLDER = "vae"


def load(
    config: PolicyConfig,
    *,
    device: torch.device,
    sampling: Sampling | None = None,
    precision: Precision = Precision.STORED,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Policy:
    """The policy that a configuration describes: its checkpoint, or its preset with random weights.

    Raises `checkpoint.CheckpointError` and `ModelConfigError`.
    """
    sampling = sampling or Sampling(steps=config.inference_steps, lean=True, noise_scale=config.noise_scale)
    if config.checkpoint is None:
        return checkpoint.random_policy(config.preset, seed=config.seed, device=device, sampling=sampling)
    return checkpoint.load_policy(
        located(config.checkpoint),
        device=device,
        precision=precision,
        sampling=sampling,
        assumptions=assumptions_of(config),
        on_bytes=on_bytes,
    )


def located(source: str) -> str:
    """A relative folder is looked for from here, then from the project's own folder; of a training run it is the best
    checkpoint, or the last where none was validated; anything else is left as it is."""
    beside_project = ROOT / source
    found = str(beside_project) if not Path(source).exists() and beside_project.is_dir() else source
    return str(checkpoint.of_run(Path(found)) or found)


def assumptions_of(config: PolicyConfig) -> Assumptions:
    """What the configuration says about a foreign checkpoint."""
    joints = len(SIX_JOINTS_AND_GRIPPER.action_names) - 1
    return Assumptions(
        relative=None if config.relative is None else (config.relative,) * joints + (False,),
        tokenizer=None if config.tokenizer is None else Path(config.tokenizer),
        asset=config.asset,
        statistics=None if config.statistics is None else Path(config.statistics),
        horizon=config.horizon,
        discrete_state=config.discrete_state,
    )


def load_motion_view(config: PolicyConfig, policy: Policy, *, device: torch.device) -> MotionView:
    """The motion head beside the checkpoint, with its autoencoder: ``motion_vae`` of the configuration, or the folder
    ``vae`` in the checkpoint. Raises `MotionFileError`, `VaeError` and `CheckpointError`."""
    if config.checkpoint is None:
        raise checkpoint.CheckpointError("--motion needs a trained checkpoint; this policy's weights are random")
    source = located(config.checkpoint)
    folder = fetch(source) if is_hub_id(source) else Path(source)
    vae = folder / VAE_FOLDER if config.motion_vae is None else Path(config.motion_vae)
    return MotionView(policy, MotionImager.load(folder, vae=vae, device=device, seed=config.seed))
