"""Training-time augmentation, one draw per sample and camera: crop and rotation of the third-person view, shifts of the
others, colours of all.

Draws are made for a whole batch and then shared out, so that two processes augment as one would. The third-person
view's affine map is what its motion target has to undergo as well.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from policy_server.motion.geometry import random_affine, shift_affine, warp
from policy_server.pi0.pi0 import Observation
from policy_server.training.recipe import AugmentConfig

BLACK = -1.0


@dataclass(frozen=True)
class Augmentation:
    """What is None is left as it is. affine (B, 2, 3) of the first camera, or None; shifts (B, cameras - 1, 2) in
    pixels, or None; brightness, contrast and saturation factors (B, cameras, 3), or None; state_noise (B, D), or
    None."""

    affine: Tensor | None = None
    shifts: Tensor | None = None
    colors: Tensor | None = None
    state_noise: Tensor | None = None

    def rows(self, start: int, stop: int) -> "Augmentation":
        """The draws of some samples."""
        parts = (self.affine, self.shifts, self.colors, self.state_noise)
        return Augmentation(*(None if part is None else part[start:stop] for part in parts))

    def apply(self, observation: Observation) -> Observation:
        """The observation augmented; what was outside a picture is black."""
        device = observation.images.device
        views = list(observation.images.unbind(dim=1))
        if self.affine is not None:
            views[0] = warp(views[0], self.affine.to(device), fill=BLACK)
        if self.shifts is not None:
            for index in range(1, len(views)):
                moved = shift_affine(self.shifts[:, index - 1]).to(device)
                views[index] = warp(views[index], moved, fill=BLACK)
        if self.colors is not None:
            views = [_recolored(view, self.colors[:, index].to(device)) for index, view in enumerate(views)]
        state = observation.state
        if self.state_noise is not None:
            state = state + self.state_noise.to(device)
        return replace(observation, images=torch.stack(views, dim=1), state=state)


def draw_augmentation(
    config: AugmentConfig,
    *,
    batch: int,
    cameras: int,
    size_px: int,
    state_width: int,
    generator: torch.Generator,
) -> Augmentation:
    """One draw for each sample of a batch; what the configuration leaves off is None."""
    affine = shifts = colors = noise = None
    if config.geometric:
        turn = math.radians(config.rotation_deg)
        affine = random_affine(batch, crop=config.crop, rotation_rad=turn, size_px=size_px, generator=generator)
    if config.shift_px > 0.0 and cameras > 1:
        wide = torch.rand(batch, cameras - 1, 2, generator=generator) * 2.0 - 1.0
        shifts = (wide * config.shift_px).round()
    if config.brightness or config.contrast or config.saturation:
        strength = torch.tensor([config.brightness, config.contrast, config.saturation])
        chosen = torch.rand(batch, cameras, 1, generator=generator) < config.color_probability
        colors = 1.0 + (torch.rand(batch, cameras, 3, generator=generator) * 2.0 - 1.0) * strength * chosen
    if config.state_noise > 0.0:
        noise = config.state_noise * torch.randn(batch, state_width, generator=generator)
    return Augmentation(affine, shifts, colors, noise)


def _recolored(view: Tensor, factors: Tensor) -> Tensor:
    """(B, 3, S, S) in [-1, 1] by factors (B, 3): brightness, contrast about the mean, saturation about grey."""
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(dim=1)
    unit = (view + 1.0) / 2.0 * brightness
    mean = unit.mean(dim=(1, 2, 3), keepdim=True)
    unit = (unit - mean) * contrast + mean
    grey = unit.mean(dim=1, keepdim=True)
    unit = (unit - grey) * saturation + grey
    return unit.clamp(0.0, 1.0) * 2.0 - 1.0
