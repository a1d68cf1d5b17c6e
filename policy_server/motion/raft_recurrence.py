"""RAFT's gated recurrence with what does not change between refinements taken out of the loop.

The gates convolve [hidden state, context, motion features]. The context is the same in every refinement, so its share
of each convolution is computed once; and the update and reset gates, which read the same input, are one convolution.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class _Conv:
    """A convolution split by its input: what is applied in each refinement, and what once to the context."""

    changing: Tensor
    constant: Tensor
    bias: Tensor
    padding: tuple[int, int]

    def once(self, context: Tensor) -> Tensor:
        return F.conv2d(context, self.constant, self.bias, padding=self.padding)

    def each(self, state: Tensor) -> Tensor:
        return F.conv2d(state, self.changing, padding=self.padding)


@dataclass(frozen=True)
class _Gates:
    """One convolutional GRU: update and reset gates together, and the candidate."""

    update_reset: _Conv
    candidate: _Conv


@dataclass(frozen=True)
class Recurrence:
    """The recurrent block of a torchvision RAFT (one GRU in the small network, two in the large)."""

    gates: tuple[_Gates, ...]

    @classmethod
    def of(cls, network: Any) -> "Recurrence":
        """From a network whose weights are final."""
        block = network.update_block.recurrent_block
        hidden = network.update_block.hidden_state_size
        units = [unit for unit in (block.convgru1, block.convgru2) if hasattr(unit, "convz")]
        motion = network.update_block.motion_encoder.out_channels
        return cls(tuple(_gates(unit, hidden=hidden, motion=motion) for unit in units))

    def prepare(self, context: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The context's share, for each GRU."""
        return [(gate.update_reset.once(context), gate.candidate.once(context)) for gate in self.gates]

    def step(self, hidden: Tensor, motion: Tensor, prepared: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The next hidden state."""
        for gate, (constant, constant_candidate) in zip(self.gates, prepared, strict=True):
            both = gate.update_reset.each(torch.cat([hidden, motion], dim=1)) + constant
            update, reset = both.sigmoid().chunk(2, dim=1)
            changed = gate.candidate.each(torch.cat([reset * hidden, motion], dim=1)) + constant_candidate
            hidden = torch.lerp(hidden, changed.tanh(), update)
        return hidden


def _gates(unit: Any, *, hidden: int, motion: int) -> _Gates:
    update, reset, candidate = unit.convz, unit.convr, unit.convq
    return _Gates(
        _split(
            torch.cat([update.weight, reset.weight]),
            torch.cat([update.bias, reset.bias]),
            update.padding,
            hidden=hidden,
            motion=motion,
        ),
        _split(candidate.weight, candidate.bias, candidate.padding, hidden=hidden, motion=motion),
    )


def _split(weight: Tensor, bias: Tensor, padding: Any, *, hidden: int, motion: int) -> _Conv:
    """Input channels are [hidden, context, motion]."""
    context = weight.shape[1] - hidden - motion
    first, middle, last = weight.detach().split([hidden, context, motion], dim=1)
    return _Conv(torch.cat([first, last], dim=1), middle.contiguous(), bias.detach(), tuple(padding))
