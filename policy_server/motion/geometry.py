"""Geometry that images and flow undergo together.

A flow field that is warped must have its *vectors* warped as well: rotating a scene rotates where things move to.
Geometry of the policy (LIBERO's half turn, resizing, padding) is applied to the frames before flow is estimated; only
a random augmentation is applied afterwards, to image and flow alike.

An affine map is (B, 2, 3): it takes a pixel (x, y), measured from the picture's centre, to where it is after the warp.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def random_affine(batch: int, *, crop: float, rotation_rad: float, size_px: int, generator: torch.Generator) -> Tensor:
    """One draw per sample of a random crop that keeps the share `crop` of each side, and a rotation within
    +-`rotation_rad`.

    openpi trains with crop 0.95 and 5 degrees on the base camera. The crop is enlarged back, so lengths grow by 1 /
    crop.
    """
    turn = (torch.rand(batch, generator=generator) * 2.0 - 1.0) * rotation_rad
    shift = (torch.rand(batch, 2, generator=generator) * 2.0 - 1.0) * (1.0 - crop) / 2.0 * size_px
    linear = _rotation(turn) / crop
    return torch.cat([linear, -(linear @ shift[..., None])], dim=-1)


def identity_affine(batch: int) -> Tensor:
    """The map that changes nothing, (B, 2, 3)."""
    return torch.eye(2, 3).expand(batch, -1, -1).contiguous()


def shift_affine(shift_px: Tensor) -> Tensor:
    """The map that moves pictures by (B, 2) pixels."""
    return torch.cat([torch.eye(2).expand(len(shift_px), -1, -1), shift_px[..., None].float()], dim=-1)


def warp(images: Tensor, affine: Tensor, *, fill: float = 0.0, mode: str = "bilinear") -> Tensor:
    """Images (B, C, H, W) moved by `affine`; what comes from outside the picture is `fill`."""
    height, width = images.shape[-2:]
    grid = F.affine_grid(_sampling(affine, height, width).to(images), list(images.shape), align_corners=False)
    moved = F.grid_sample(images - fill, grid, mode=mode, padding_mode="zeros", align_corners=False)
    return moved + fill


def warp_flow(flow: Tensor, affine: Tensor) -> Tensor:
    """A flow field (B, 2, H, W) of pictures that were moved by `affine`: the field is moved, its vectors are mapped.

    Outside the old picture the flow is zero.
    """
    linear = affine[:, :, :2].to(flow)
    return torch.einsum("bij,bjhw->bihw", linear, warp(flow, affine))


def half_turn(images: Tensor) -> Tensor:
    """LIBERO's pictures (..., H, W) are stored upside down: turned by 180 degrees before anything else."""
    return images.flip(-2, -1)


def _rotation(angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], dim=-1), torch.stack([sin, cos], dim=-1)], dim=-2)


def _sampling(affine: Tensor, height: int, width: int) -> Tensor:
    """The inverse map, in the normalised coordinates of `affine_grid` (each axis from -1 to 1)."""
    inverse = torch.linalg.inv(affine[:, :, :2].double())
    offset = -(inverse @ affine[:, :, 2:].double())
    half = torch.tensor([width / 2.0, height / 2.0], dtype=torch.float64, device=affine.device)
    linear = inverse * half[None, None, :] / half[None, :, None]
    return torch.cat([linear, offset / half[None, :, None]], dim=-1)
