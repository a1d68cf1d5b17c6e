"""Optical flow as a picture: what the motion head learns to predict.

Flow is (..., 2, H, W): dx to the right and dy downwards, in pixels of that very picture. A flow image is (..., 3, H, W)
float in [-1, 1], ready for the VAE. Formulas: arXiv 2512.18007, A.1, with image coordinates (y down): hue =
(atan2(dy, dx) + pi) / 2 pi, saturation = min(|flow| / norm_px, 1), value 1. So right is cyan, down violet, left red, up
yellow-green, and stillness white.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor

PAPER_SIZE_PX = 224
PAPER_NORM_PX = 64.0
VIEW_FLOOR_PX = 5.0
INVISIBLE_SATURATION = 0.02
"""Below this saturation a decoded hue is noise, and the pixel counts as still."""


class EncodingKind(StrEnum):
    """How flow becomes colour. `HSV_P99` is invertible only with the scale of its image, which `scale_px` gives."""

    HSV_FIXED = "hsv_fixed64"
    HSV_P99 = "hsv_p99"
    SQRT_XY = "sqrt_xy64"


@dataclass(frozen=True)
class FlowEncoding:
    """Flow to image and back.

    `norm_px` is the flow that saturates; motion shorter than `dead_band_px` counts as none, so that an estimator's
    noise does not paint hue over a still scene; `gamma` shapes the saturation of `HSV_P99`.
    """

    kind: EncodingKind = EncodingKind.HSV_FIXED
    norm_px: float = PAPER_NORM_PX
    dead_band_px: float = 0.5
    gamma: float = 1.6

    def __post_init__(self) -> None:
        if self.norm_px <= 0 or self.gamma <= 0 or self.dead_band_px < 0:
            raise ValueError(
                f"expected norm_px > 0, gamma > 0 and dead_band_px >= 0, found {self.norm_px}, {self.gamma}, "
                f"{self.dead_band_px}"
            )

    def for_size(self, size_px: int) -> "FlowEncoding":
        """The same encoding for pictures of another width: both lengths are given for 224 px and scale with it."""
        scale = size_px / PAPER_SIZE_PX
        return replace(self, norm_px=self.norm_px * scale, dead_band_px=self.dead_band_px * scale)

    def scale_px(self, flow: Tensor) -> Tensor:
        """The flow that each image saturates at, (..., 1, 1, 1) pixels."""
        if self.kind is EncodingKind.HSV_P99:
            length = _length(_without_noise(flow, self.dead_band_px)).flatten(-3)
            return length.quantile(0.99, dim=-1).clamp(min=VIEW_FLOOR_PX)[..., None, None, None]
        return flow.new_full((*flow.shape[:-3], 1, 1, 1), self.norm_px)

    def encode(self, flow: Tensor) -> Tensor:
        """Flow (..., 2, H, W) to an image (..., 3, H, W) in [-1, 1] (`SQRT_XY` is not clamped)."""
        flow = _without_noise(flow.float(), self.dead_band_px)
        if self.kind is EncodingKind.SQRT_XY:
            xy = flow.sign() * (flow.abs() / self.norm_px).sqrt()
            return torch.cat([xy, xy.mean(dim=-3, keepdim=True)], dim=-3)
        saturation = (_length(flow) / self.scale_px(flow)).clamp(max=1.0)
        if self.kind is EncodingKind.HSV_P99:
            saturation = saturation**self.gamma
        return 2.0 * _hue_to_rgb(_hue(flow), saturation) - 1.0

    def decode(self, image: Tensor, *, scale_px: Tensor | None = None) -> Tensor:
        """An image (..., 3, H, W) in [-1, 1] to flow (..., 2, H, W).

        Motion that was clipped comes back at `norm_px`. `HSV_P99` needs the `scale_px` that its image was made with and
        raises ValueError without.
        """
        image = image.float()
        if self.kind is EncodingKind.SQRT_XY:
            xy = image[..., :2, :, :]
            return xy.sign() * xy.square() * self.norm_px
        hue, saturation = _rgb_to_hue((image + 1.0) / 2.0)
        scale: Tensor | float = self.norm_px
        if self.kind is EncodingKind.HSV_P99:
            if scale_px is None:
                raise ValueError(f"{self.kind} scales each image by its own motion: give the scale_px it was made with")
            saturation, scale = saturation ** (1.0 / self.gamma), scale_px
        saturation = torch.where(saturation < INVISIBLE_SATURATION, 0.0, saturation)
        angle = 2.0 * math.pi * hue - math.pi
        return saturation * scale * torch.cat([angle.cos(), angle.sin()], dim=-3)

    def clip_fraction(self, flow: Tensor) -> Tensor:
        """Of the pixels that move, the share (...) that moves too far to be told apart; 0 where nothing moves."""
        length = _length(flow.float())
        moving = length >= max(self.dead_band_px, 1e-6)
        clipped = length > self.scale_px(flow)
        return (moving & clipped).flatten(-3).sum(-1) / moving.flatten(-3).sum(-1).clamp(min=1)


def view_scale_px(flow: Tensor) -> float:
    """The motion in pixels that has full saturation in the `view` of one flow (2, H, W)."""
    return float(FlowEncoding(kind=EncodingKind.HSV_P99, gamma=1.0, dead_band_px=0.0).scale_px(flow))


def view(flow: Tensor) -> Tensor:
    """Flow (..., 2, H, W) to RGB uint8 (..., H, W, 3) for people: one look, whatever the policy was trained on.

    Each picture is scaled to its own 99th percentile, at least 5 px.
    """
    shown = FlowEncoding(kind=EncodingKind.HSV_P99, gamma=1.0, dead_band_px=0.0).encode(flow)
    return ((shown + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)


def _without_noise(flow: Tensor, dead_band_px: float) -> Tensor:
    return torch.where(_length(flow) < dead_band_px, 0.0, flow)


def _length(flow: Tensor) -> Tensor:
    """(..., 2, H, W) to (..., 1, H, W). `Tensor.norm` over two values takes ten times as long."""
    return torch.hypot(flow[..., 0:1, :, :], flow[..., 1:2, :, :])


def _hue(flow: Tensor) -> Tensor:
    """(..., 2, H, W) to (..., 1, H, W) in [0, 1]."""
    dx, dy = flow[..., 0:1, :, :], flow[..., 1:2, :, :]
    return (torch.atan2(dy, dx) + math.pi) / (2.0 * math.pi)


def _hue_to_rgb(hue: Tensor, saturation: Tensor) -> Tensor:
    """HSV with value 1 to RGB in [0, 1], channel -3; hue and saturation in [0, 1]."""
    sector = [(offset + 6.0 * hue) % 6.0 for offset in (5.0, 3.0, 1.0)]
    return torch.cat([1.0 - saturation * torch.minimum(k, 4.0 - k).clamp(0.0, 1.0) for k in sector], dim=-3)


def _rgb_to_hue(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """RGB in about [0, 1] to hue in [0, 1) and saturation in [0, 1], both (..., 1, H, W)."""
    rgb = rgb.clamp(0.0, 1.0)
    red, green, blue = rgb.split(1, dim=-3)
    highest, lowest = rgb.amax(dim=-3, keepdim=True), rgb.amin(dim=-3, keepdim=True)
    spread = highest - lowest
    safe = spread.clamp(min=1e-8)
    sextant = torch.where(
        highest == red,
        ((green - blue) / safe) % 6.0,
        torch.where(highest == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
    )
    return sextant / 6.0, spread / highest.clamp(min=1e-8)
