"""Held-out episodes: both losses, and how far the predicted flow is from the true one. Always the same samples and
noise.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from policy_server.motion.flow_image import view
from policy_server.motion.sample import latents_to_flow, sample_latents
from policy_server.training.board import Board
from policy_server.training.data.samples import Schedule, TrainingBatch, TrainingSamples, assemble
from policy_server.training.draws import Draws, Stream, draw, generator
from policy_server.training.flow_errors import FlowErrors, flow_errors
from policy_server.training.joint_model import Targets, valid_action_count
from policy_server.training.motion_targets import MotionTruth
from policy_server.training.recipe import MotionTarget, PrefixConditioning, Stage
from policy_server.training.setup import Setup

PICTURES = 4


@dataclass(frozen=True)
class Validation:
    """At a step: the weighted loss, each head's own, and the flow errors where the target is flow."""

    step: int
    loss: float
    losses: dict[str, float]
    flow: FlowErrors | None

    def figures(self) -> dict[str, float]:
        """As they go to the board."""
        named = {f"validation_{name}": value for name, value in self.losses.items()}
        if self.flow is not None:
            named |= {f"flow_{name}": float(value) for name, value in vars(self.flow).items()}
        return named | {"validation_loss": self.loss}


@torch.no_grad()
def validate(
    setup: Setup, samples: TrainingSamples, schedule: Schedule, *, board: Board, step: int
) -> Validation | None:
    """Over the recipe's validation batches; None when nothing is held out."""
    sums: dict[str, float] = {}
    count = 0
    flow: FlowErrors | None = None
    for index, batch in enumerate(_held_out(setup, samples, schedule)):
        truth = _truth(setup, batch)
        for name, value in _losses(setup, batch, truth, index).items():
            sums[name] = sums.get(name, 0.0) + float(value)
        if index == 0 and truth.latents is not None:
            flow = _look(setup, batch, truth, _mean_flow(setup, samples, schedule), board=board, step=step)
        count += 1
    if count == 0:
        return None
    losses = {name: value / count for name, value in sums.items()}
    return Validation(step=step, loss=losses.pop("loss"), losses=losses, flow=flow)


def _held_out(setup: Setup, samples: TrainingSamples, schedule: Schedule) -> Iterator[TrainingBatch]:
    for index in range(setup.recipe.validation_batches):
        keys = schedule.validation_keys(index)
        if keys:
            yield assemble([samples[key] for key in keys]).to(setup.device)


def _truth(setup: Setup, batch: TrainingBatch) -> MotionTruth:
    if not setup.recipe.has_motion:
        return MotionTruth(None, None, None, 0.0)
    return setup.targets.make(batch, affine=None)


def _losses(setup: Setup, batch: TrainingBatch, truth: MotionTruth, index: int) -> dict[str, Tensor]:
    model = setup.spec.model
    head = setup.model.motion_head
    shape = None if head is None else (head.config.latent_channels, head.config.latent_size, head.config.latent_size)
    draws: Draws = draw(
        seed=setup.recipe.seed + int(Stream.VALIDATION) * 1_000_003,
        step=index,
        batch=len(batch),
        action_shape=(1, model.action_horizon, model.action_dim),
        latent_shape=shape,
        prefix=PrefixConditioning(),
    ).to(setup.device)
    targets = Targets(
        actions=batch.actions,
        action_valid=batch.action_valid,
        latents=truth.latents,
        language=truth.language,
        motion_valid=batch.motion_valid,
        action_count=max(1.0, valid_action_count(batch.action_valid, draws.committed)),
        motion_count=float(batch.motion_valid.sum()),
    )
    losses: dict[str, Tensor] = setup.model(
        batch.observation,
        targets,
        draws,
        motion_weight=setup.recipe.motion.weight,
        train_policy=setup.recipe.stage is not Stage.WARMUP,
    )
    return losses


def _look(
    setup: Setup, batch: TrainingBatch, truth: MotionTruth, mean_flow: Tensor | None, *, board: Board, step: int
) -> FlowErrors | None:
    """Sample the head on a batch; put target, its decoding and the prediction on the board; measure flow."""
    head, vae = setup.model.motion_head, setup.vae
    if head is None or vae is None or truth.latents is None:
        return None
    prefix = setup.model.run_prefix(batch.observation, z_layer=head.config.z_layer)
    if prefix.hidden is None:
        return None
    source = generator(setup.recipe.seed, 0, Stream.VALIDATION)
    noise = torch.randn(truth.latents.shape, generator=source).to(setup.device)
    found = sample_latents(head, context=prefix.hidden.float(), context_mask=prefix.valid, noise=noise)
    encoding = setup.targets.encoding
    shown = slice(0, PICTURES)
    if setup.recipe.motion.target is MotionTarget.FUTURE_IMAGE or truth.flow is None:
        decoded, predicted = (_as_pictures(vae.decode(part[shown])) for part in (truth.latents, found))
        board.pictures(step, "target, predicted", [decoded, predicted])
        return None
    predicted_flow = latents_to_flow(found, vae=vae, encoding=encoding)
    decoded_flow = latents_to_flow(truth.latents[shown], vae=vae, encoding=encoding)
    seen = _as_pictures(batch.observation.images[shown, 0])
    rows = [view(part[shown].float().cpu()) for part in (truth.flow, decoded_flow, predicted_flow)]
    board.pictures(step, "image, flow, flow through the autoencoder, predicted flow", [seen, *rows])
    if mean_flow is None:
        return None
    moving = max(encoding.dead_band_px, 0.5)
    return flow_errors(predicted_flow.float(), truth.flow.float(), mean_flow=mean_flow, moving_px=moving)


def _mean_flow(setup: Setup, samples: TrainingSamples, schedule: Schedule) -> Tensor | None:
    """The average flow of some training batches: what a head that ignores the picture would predict."""
    total, count = None, 0
    for step in range(min(2, setup.recipe.steps)):
        batch = assemble([samples[key] for key in schedule.keys(step)]).to(setup.device)
        flow = _truth(setup, batch).flow
        if flow is None:
            return None
        total = flow.sum(dim=0) if total is None else total + flow.sum(dim=0)
        count += len(flow)
    return None if total is None else total / count


def _as_pictures(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] to uint8 (B, H, W, 3)."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
