"""Training the small autoencoder on flow images, once; afterwards it is frozen.

Reconstruction by absolute and squared error, in which coloured pixels count more than the white that most of a flow
image is, with a little Kullback-Leibler divergence. At the end the latents' scale is set so that their standard
deviation is one, as Stable Diffusion's scaling factor does.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from policy_server.motion.small_vae import SmallVae, SmallVaeConfig
from policy_server.training.augment import draw_augmentation
from policy_server.training.data.samples import Schedule, SourceReader, TrainingSamples, batches
from policy_server.training.draws import Stream, generator
from policy_server.training.flow_errors import FlowErrors, flow_errors
from policy_server.training.motion_targets import MotionTargets
from policy_server.training.optimizer import learning_rate, make_optimizer
from policy_server.training.recipe import Recipe

KL_WEIGHT = 1e-5
COLOUR_WEIGHT = 4.0
SCALE_BATCHES = 8


@dataclass(frozen=True)
class VaeResult:
    """The folder, the last reconstruction loss, and the error of flow that goes through the autoencoder and back."""

    folder: Path
    loss: float
    round_trip: FlowErrors


def train_vae(
    recipe: Recipe,
    *,
    readers: list[SourceReader],
    samples: TrainingSamples,
    targets: MotionTargets,
    folder: Path,
    device: torch.device,
    report: Callable[[int, dict[str, float]], None],
) -> VaeResult:
    """Train, scale, save and measure; `targets` needs no autoencoder. The images are augmented as in the later
    stages.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        vae = SmallVae(SmallVaeConfig()).to(device)
    optimizer = make_optimizer(vae.named_parameters(), recipe.optimizer)
    loss_value = 0.0
    for step, (_, images) in enumerate(_flow_images(recipe, readers, samples, targets, device)):
        if step == recipe.steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe.optimizer, steps=recipe.steps)
        mean, log_variance = vae.posterior(images)
        noise = torch.randn(mean.shape, generator=generator(recipe.seed, step, Stream.MOTION)).to(device)
        rebuilt = vae.reconstruct(mean + (0.5 * log_variance).exp() * noise)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
        loss = reconstruction_error(rebuilt, images) + KL_WEIGHT * divergence
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), recipe.optimizer.clip_norm)
        optimizer.step()
        loss_value = float(loss.detach())
        report(step, {"loss": loss_value})
    round_trip = _finish(recipe, vae, _flow_images(recipe, readers, samples, targets, device), targets)
    vae.save(folder)
    return VaeResult(folder=folder, loss=loss_value, round_trip=round_trip)


def reconstruction_error(rebuilt: Tensor, images: Tensor) -> Tensor:
    """Of images (B, 3, H, W) in [-1, 1]; a fully saturated pixel weighs 1 + `COLOUR_WEIGHT` times as much as a white
    one.
    """
    saturation = (1.0 - images.amin(dim=1, keepdim=True)) / 2.0
    error = rebuilt - images
    return ((error.abs() + error.square()) * (1.0 + COLOUR_WEIGHT * saturation)).mean()


@torch.no_grad()
def _finish(
    recipe: Recipe, vae: SmallVae, images: Iterator[tuple[Tensor, Tensor]], targets: MotionTargets
) -> FlowErrors:
    latents, flows, decoded = [], [], []
    for index, (flow, picture) in enumerate(images):
        mean = vae.posterior(picture)[0]
        latents.append(mean)
        flows.append(flow)
        rebuilt = vae.reconstruct(mean).clamp(-1.0, 1.0)
        decoded.append(targets.encoding.decode(rebuilt, scale_px=targets.encoding.scale_px(flow)))
        if index + 1 == SCALE_BATCHES:
            break
    vae.scale.fill_(1.0 / float(torch.cat(latents).std().clamp(min=1e-6)))
    truth = torch.cat(flows)
    moving = max(targets.encoding.dead_band_px, 0.5)
    return flow_errors(torch.cat(decoded), truth, mean_flow=truth.mean(dim=0), moving_px=moving)


def _flow_images(
    recipe: Recipe,
    readers: list[SourceReader],
    samples: TrainingSamples,
    targets: MotionTargets,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Flow (B, 2, S, S) and its images (B, 3, S, S), a batch a step, without end."""
    schedule = Schedule(readers, seed=recipe.seed, batch=recipe.batch)
    last = recipe.steps + SCALE_BATCHES
    feed = batches(samples, schedule, first_step=0, last_step=last, workers=recipe.data.workers)
    for step, batch in enumerate(feed):
        moved = batch.to(device)
        shift = draw_augmentation(
            recipe.augment,
            batch=len(moved),
            cameras=1,
            size_px=moved.observation.images.shape[-1],
            state_width=1,
            generator=generator(recipe.seed, step, Stream.AUGMENTATION),
        )
        flow = targets.flow(moved, affine=shift.affine)
        yield flow, targets.encoding.encode(flow)
