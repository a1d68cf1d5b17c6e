"""The model's weights laid out for serving: fewer and larger products, and what depends on time alone done beforehand.

Fusing keeps no second copy: the model's own parameters become views of the fused tensors, so its state_dict stays what
it was. On a processor without bfloat16 arithmetic the weights may stay bfloat16 in memory while products are float32:
`Products` widens them block by block into one small buffer.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policy_server.pi0 import siglip
from policy_server.pi0.config import TimeInput
from policy_server.pi0.gemma import AdaptiveRMSNorm, Layer, RMSNorm, Stack
from policy_server.pi0.pi0 import Pi0, time_embedding

SCRATCH_VALUES = 1 << 20
"""Weights that are widened at a time: 4 MiB of float32, which stay in the cache until they are multiplied."""
BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16")


def serving_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """What to compute in with weights stored so: as stored, but float32 on a processor without bfloat16 arithmetic,
    where torch multiplies bfloat16 very slowly."""
    if stored != torch.bfloat16 or device.type != "cpu" or _has_bfloat16_arithmetic():
        return stored
    return torch.float32


def _has_bfloat16_arithmetic() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return any(flag in flags for flag in BFLOAT16_FLAGS)


class Products:
    """Matrix products of activations in one dtype with weights in that dtype or a narrower one. One thread's."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._scratch = torch.empty(0, dtype=dtype)

    def linear(self, rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """rows (R, in) times weight (out, in) transposed, plus bias (out,): (R, out)."""
        if bias is not None:
            bias = bias.to(self.dtype)
        if weight.dtype == self.dtype:
            return F.linear(rows, weight, bias)
        at_once = max(1, SCRATCH_VALUES // weight.shape[1])
        if len(weight) <= at_once:
            return F.linear(rows, self._widened(weight), bias)
        out = rows.new_empty(len(rows), len(weight))
        for start in range(0, len(weight), at_once):
            block = weight[start : start + at_once]
            torch.mm(rows, self._widened(block).T, out=out[:, start : start + len(block)])
        return out if bias is None else out.add_(bias)

    def add_linear(self, onto: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        """onto (R, out) plus rows (R, in) times weight (out, in) transposed."""
        if weight.dtype == self.dtype:
            return torch.addmm(onto, rows, weight.T)
        return self.linear(rows, weight).add_(onto)

    def _widened(self, weight: Tensor) -> Tensor:
        if self._scratch.numel() < weight.numel():
            self._scratch = torch.empty(max(SCRATCH_VALUES, weight.numel()), dtype=self.dtype, device=weight.device)
        return self._scratch[: weight.numel()].view_as(weight).copy_(weight)


@dataclass(frozen=True)
class FusedLayer:
    """One block: queries, keys and values in one product; gate and up in another. The scales of plain norms are
    1 + weight in float32; adaptive norms have none, see `Modulation`."""

    qkv: Tensor
    out: Tensor
    gate_up: Tensor
    down: Tensor
    scale_before: Tensor | None
    scale_between: Tensor | None


@dataclass(frozen=True)
class FusedStack:
    """A Gemma stack."""

    layers: tuple[FusedLayer, ...]
    final_scale: Tensor | None
    heads: int
    kv_heads: int
    head_width: int


@dataclass(frozen=True)
class FusedVisionLayer:
    """One SigLIP block: queries, keys and values in one product. Norms are (weight, bias) in the dtype of products."""

    norm1: tuple[Tensor, Tensor]
    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    norm2: tuple[Tensor, Tensor]
    fc1: tuple[Tensor, Tensor]
    fc2: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Modulation:
    """What an adaptive norm does at each of T times, float32: 1 + scale, shift and gate, each (T, width)."""

    scale: Tensor
    shift: Tensor
    gate: Tensor


@dataclass(frozen=True)
class Times:
    """Everything that depends on time alone, for the times of the Euler steps and, last, time 0 (committed actions).

    `action_weight` (width, D) and `action_bias` (T, width) are the first layer above the actions; `modulations` are
    three per layer and one: before attention, before the MLP, ..., final. Empty without adaptive norms.
    """

    action_weight: Tensor
    action_bias: Tensor
    modulations: tuple[Modulation, ...]


def fuse_stack(stack: Stack) -> FusedStack:
    """Fuse a stack; its parameters become views of the fused tensors."""
    config = stack.config
    layers: list[Layer] = list(stack.layers)
    return FusedStack(
        layers=tuple(
            FusedLayer(
                qkv=_joined(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
                out=layer.self_attn.o_proj.weight.detach(),
                gate_up=_joined(layer.mlp.gate_proj, layer.mlp.up_proj),
                down=layer.mlp.down_proj.weight.detach(),
                scale_before=_scale(layer.input_layernorm),
                scale_between=_scale(layer.post_attention_layernorm),
            )
            for layer in layers
        ),
        final_scale=_scale(stack.norm),
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_width=config.head_width,
    )


def fuse_vision(encoder: siglip.Encoder, *, dtype: torch.dtype) -> tuple[FusedVisionLayer, ...]:
    """Fuse SigLIP's blocks; their parameters become views of the fused tensors."""
    layers: list[siglip.VisionLayer] = list(encoder.layers)
    fused = []
    for layer in layers:
        parts = (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
        bias = torch.cat([part.bias.detach() for part in parts])
        fused.append(
            FusedVisionLayer(
                norm1=_pair(layer.layer_norm1, dtype),
                qkv=(_joined(*parts), bias),
                out=_pair(layer.self_attn.out_proj),
                norm2=_pair(layer.layer_norm2, dtype),
                fc1=_pair(layer.mlp.fc1),
                fc2=_pair(layer.mlp.fc2),
            )
        )
    return tuple(fused)


@torch.no_grad()
def precompute_times(model: Pi0, *, steps: int) -> Times:
    """The time's part of `steps` Euler steps, in float64 where products are folded, kept as float32."""
    config, width = model.config, model.config.expert.width
    device = model.action_in_proj.weight.device
    moments = torch.tensor([1.0 - step / steps for step in range(steps)] + [0.0], dtype=torch.float64, device=device)
    embedded = time_embedding(moments, width=width)
    into = model.action_in_proj
    if config.time_input is TimeInput.ACTION_MLP:
        mix = model.action_time_mlp_in
        of_actions, of_time = mix.weight.double().split(width, dim=1)
        return Times(
            action_weight=(of_actions @ into.weight.double()).float(),
            action_bias=(embedded @ of_time.T + of_actions @ into.bias.double() + mix.bias.double()).float(),
            modulations=(),
        )
    condition = model.embed_time(embedded)
    layers: list[Layer] = list(model.expert.layers)
    norms = [norm for layer in layers for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
    return Times(
        action_weight=into.weight.detach().float(),
        action_bias=into.bias.detach().float().expand(len(moments), -1),
        modulations=tuple(_modulation(norm, condition) for norm in [*norms, model.expert.norm]),
    )


def _modulation(norm: nn.Module, condition: Tensor | None) -> Modulation:
    if not isinstance(norm, AdaptiveRMSNorm) or condition is None:
        raise TypeError(f"expected an adaptive norm, found {type(norm).__name__}")
    scale, shift, gate = norm.dense(condition.to(norm.dense.weight.dtype)).float().chunk(3, dim=-1)
    return Modulation(scale=1.0 + scale, shift=shift.contiguous(), gate=gate.contiguous())


@torch.no_grad()
def _joined(*parts: nn.Linear) -> Tensor:
    """The weights below each other in one tensor, of which the parts' weights become views."""
    joined = torch.cat([part.weight for part in parts])
    for part, view in zip(parts, joined.split([part.out_features for part in parts]), strict=True):
        part.weight = nn.Parameter(view, requires_grad=False)
    return joined


def _scale(norm: nn.Module) -> Tensor | None:
    return 1.0 + norm.weight.detach().float() if isinstance(norm, RMSNorm) else None


def _pair(module: nn.Linear | nn.LayerNorm, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    weight, bias = module.weight.detach(), module.bias.detach()
    return (weight, bias) if dtype is None else (weight.to(dtype), bias.to(dtype))
