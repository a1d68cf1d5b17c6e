"""The layers that `lean` runs, on fused weights; query heads that share a key head are attended as one long head."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from policy_server.pi0.fused import FusedStack, FusedVisionLayer, Modulation, Products
from policy_server.pi0.gemma import MASKED, RMS_NORM_EPS, rotate, rotation
from policy_server.pi0.siglip import LAYER_NORM_EPS


class Turn(NamedTuple):
    """Rotations of S tokens, each (B, S, 1, head_width); see `gemma.rotation`."""

    cos: Tensor
    signed_sin: Tensor


def turn_at(positions: Tensor, *, head_width: int) -> Turn:
    """The rotations at positions (B, S)."""
    cos, sin = rotation(positions, head_width=head_width)
    return Turn(cos.transpose(1, 2), sin.transpose(1, 2))


class StackRunner:
    """One Gemma stack. Hidden states are (B, S, width); norms are numbered before attention, before the MLP of each
    layer, and the final one last."""

    def __init__(self, stack: FusedStack, products: Products, *, modulations: tuple[Modulation, ...] = ()) -> None:
        self.stack = stack
        self._products = products
        self._modulations = modulations
        scales = [scale for layer in stack.layers for scale in (layer.scale_before, layer.scale_between)]
        self._norms = tuple(_Norm(scale) for scale in (*scales, stack.final_scale))

    def normed(self, number: int, hidden: Tensor, when: Tensor | int = 0) -> Tensor:
        """Norm `number` of hidden states; `when` says which of the known times an adaptive norm reads: one for all
        tokens, or (B, S)."""
        exact = self._norms[number](hidden.float())
        if self._modulations:
            modulation = self._modulations[number]
            exact = torch.addcmul(modulation.shift[when], exact, modulation.scale[when])
        return exact.to(hidden.dtype)

    def project(self, index: int, normed: Tensor, turn: Turn) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, kv_heads, S * group, W) and keys and values (B, kv_heads, S, W) of layer `index`."""
        stack = self.stack
        batch, length, _ = normed.shape
        flat = self._products.linear(normed.flatten(0, 1), stack.layers[index].qkv)
        heads = flat.view(batch, length, -1, stack.head_width)
        turned = rotate(heads[:, :, : stack.heads + stack.kv_heads], turn)
        grouped = turned[:, :, : stack.heads].view(batch, length, stack.kv_heads, -1, stack.head_width)
        query = grouped.transpose(1, 2).flatten(2, 3)
        key = turned[:, :, stack.heads :].transpose(1, 2)
        return query, key, heads[:, :, stack.heads + stack.kv_heads :].transpose(1, 2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """(B, S, heads * W); `bias` is (B, 1, 1 or S * group, keys) or None."""
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        stack = self.stack
        group = stack.heads // stack.kv_heads
        batch, heads, rows, width = attended.shape
        return attended.view(batch, heads, rows // group, group, width).transpose(1, 2).flatten(2)

    def finish(self, index: int, hidden: Tensor, attended: Tensor, when: Tensor | int = 0) -> Tensor:
        """The rest of layer `index`, once attention is known."""
        layer = self.stack.layers[index]
        hidden = self._add(hidden, attended, layer.out, 2 * index, when)
        gate, up = self._products.linear(self.normed(2 * index + 1, hidden, when).flatten(0, 1), layer.gate_up).chunk(
            2, dim=-1
        )
        inner = F.gelu(gate, approximate="tanh") * up
        return self._add(hidden, inner, layer.down, 2 * index + 1, when)

    def _add(self, hidden: Tensor, rows: Tensor, weight: Tensor, number: int, when: Tensor | int) -> Tensor:
        """hidden plus rows times weight, through the gate of norm `number` if it is adaptive."""
        flat = rows.flatten(0, 1) if rows.ndim == 3 else rows
        if not self._modulations:
            return self._products.add_linear(hidden.flatten(0, 1), flat, weight).view_as(hidden)
        added = self._products.linear(flat, weight).view_as(hidden)
        return torch.addcmul(hidden, added, self._modulations[number].gate[when].to(hidden.dtype))


class _Norm:
    """x / rms(x), times a scale (width,) if there is one. On a processor torch makes this of nine operations; by the
    length of x it takes four."""

    def __init__(self, scale: Tensor | None) -> None:
        self._scale = scale
        self._by_length: tuple[Tensor | float, Tensor] | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """(..., width) float32 to the same."""
        width = hidden.shape[-1]
        if hidden.device.type != "cpu":
            return F.rms_norm(hidden, (width,), self._scale, RMS_NORM_EPS)
        if self._by_length is None:
            root = math.sqrt(width)
            scale = root if self._scale is None else self._scale * root
            self._by_length = scale, torch.tensor(root * math.sqrt(RMS_NORM_EPS))
        scale, least = self._by_length
        length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        return (hidden * scale).div_(torch.hypot(length, least))


def run_vision(layers: Sequence[FusedVisionLayer], tokens: Tensor, *, products: Products, heads: int) -> Tensor:
    """SigLIP's blocks on tokens (images, N, width)."""
    images, length, width = tokens.shape
    hidden = tokens.flatten(0, 1)
    for layer in layers:
        normed = F.layer_norm(hidden, (width,), *layer.norm1, LAYER_NORM_EPS)
        qkv = products.linear(normed, *layer.qkv).view(images, length, 3, heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(images * length, width)
        hidden = products.linear(attended, *layer.out).add_(hidden)
        normed = F.layer_norm(hidden, (width,), *layer.norm2, LAYER_NORM_EPS)
        inner = F.gelu(products.linear(normed, *layer.fc1), approximate="tanh")
        hidden = products.linear(inner, *layer.fc2).add_(hidden)
    return hidden.view(images, length, width)


def key_bias(valid: Tensor, dtype: torch.dtype) -> Tensor:
    """Attention bias (B, 1, 1, K) that hides what is not valid (B, K)."""
    return torch.where(valid, 0.0, MASKED).to(dtype)[:, None, None]
