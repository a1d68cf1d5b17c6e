"""The randomness of a training step: noise and times, each from a generator of its own.

Everything is a function of (seed, step), so a resumed run draws what an uninterrupted one would have, and the motion
head's draws never shift the actions'. Time is openpi's: t = 0.999 * Beta(1.5, 1) + 0.001, 1 is noise.
"""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from policy_server.training.recipe import PrefixConditioning


class Stream(IntEnum):
    """Which generator."""

    ACTION = 1
    PREFIX = 2
    MOTION = 3
    AUGMENTATION = 4
    VALIDATION = 5


@dataclass(frozen=True)
class Draws:
    """action_noise (B, K, H, D), action_time (B, K), committed (B, K) int64: how many first actions are given rather
    than noisy; motion_noise (B, C, S, S) and motion_time (B,), or None without a head."""

    action_noise: Tensor
    action_time: Tensor
    committed: Tensor
    motion_noise: Tensor | None
    motion_time: Tensor | None

    def rows(self, start: int, stop: int) -> "Draws":
        """The draws of some samples."""
        noise, time = self.motion_noise, self.motion_time
        return Draws(
            self.action_noise[start:stop],
            self.action_time[start:stop],
            self.committed[start:stop],
            None if noise is None else noise[start:stop],
            None if time is None else time[start:stop],
        )

    def to(self, device: torch.device) -> "Draws":
        """The same draws on a device."""
        noise, time = self.motion_noise, self.motion_time
        return Draws(
            self.action_noise.to(device),
            self.action_time.to(device),
            self.committed.to(device),
            None if noise is None else noise.to(device),
            None if time is None else time.to(device),
        )


def generator(seed: int, step: int, stream: Stream) -> torch.Generator:
    """The generator of one stream at one step."""
    mixed = (seed * 1_000_003 + step) * 16 + int(stream)
    return torch.Generator().manual_seed(mixed % 2**63)


def draw(
    *,
    seed: int,
    step: int,
    batch: int,
    action_shape: tuple[int, int, int],
    latent_shape: tuple[int, int, int] | None,
    prefix: PrefixConditioning,
) -> Draws:
    """The draws of a step for the whole batch; `action_shape` is (K, H, D), `latent_shape` (C, S, S)."""
    actions = generator(seed, step, Stream.ACTION)
    action_noise = torch.randn(batch, *action_shape, generator=actions)
    action_time = _beta_time((batch, action_shape[0]), actions)
    committing = generator(seed, step, Stream.PREFIX)
    length = torch.randint(1, prefix.longest + 1, (batch, action_shape[0]), generator=committing)
    chosen = torch.rand(batch, action_shape[0], generator=committing) < prefix.probability
    motion_noise = motion_time = None
    if latent_shape is not None:
        motion = generator(seed, step, Stream.MOTION)
        motion_noise = torch.randn(batch, *latent_shape, generator=motion)
        motion_time = _beta_time((batch,), motion)
    return Draws(action_noise, action_time, torch.where(chosen, length, 0), motion_noise, motion_time)


def _beta_time(shape: tuple[int, ...], source: torch.Generator) -> Tensor:
    """0.999 * Beta(1.5, 1) + 0.001; Beta(a, 1) has the distribution function x^a, whose inverse is taken of a
    uniform.
    """
    return 0.999 * torch.rand(shape, generator=source, dtype=torch.float64) ** (1.0 / 1.5) + 0.001
