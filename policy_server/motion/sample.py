"""From noise to a latent, and from a latent to the flow image that people look at."""

import torch
from torch import Tensor

from policy_server.motion.flow_image import FlowEncoding, view
from policy_server.motion.head import MotionHead
from policy_server.motion.vae import FlowVae

EULER_STEPS = 10


@torch.no_grad()
def sample_latents(
    head: MotionHead, *, context: Tensor, context_mask: Tensor, noise: Tensor, steps: int = EULER_STEPS
) -> Tensor:
    """Integrate from `noise` (B, C, S, S) at time 1 to latents at time 0; context as in `MotionHead.remember`.

    The noise comes from the caller's own generator, so that looking at motion never shifts the actions' noise.
    """
    memory = head.remember(context, context_mask)
    latents = noise
    for step in range(steps):
        time = torch.full((len(noise),), 1.0 - step / steps, dtype=torch.float64, device=noise.device)
        latents = latents - head(latents, time, memory) / steps
    return latents


@torch.no_grad()
def latents_to_flow(latents: Tensor, *, vae: FlowVae, encoding: FlowEncoding) -> Tensor:
    """Latents to flow (B, 2, H, W) in pixels. For an encoding without a fixed scale, relative to its norm_px."""
    image = vae.decode(latents).clamp(-1.0, 1.0)
    scale = image.new_full((len(image), 1, 1, 1), encoding.norm_px)
    return encoding.decode(image, scale_px=scale)


def flow_pictures(latents: Tensor, *, vae: FlowVae, encoding: FlowEncoding) -> Tensor:
    """Latents to the shared viewer's pictures, uint8 (B, H, W, 3)."""
    return view(latents_to_flow(latents, vae=vae, encoding=encoding))
