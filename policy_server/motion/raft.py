"""RAFT (Teed & Deng, ECCV 2020) with torchvision's network and weights, run for throughput.

Frames are enlarged twice before and the flow is halved after: at 224 px and less, RAFT works below the sizes it was
trained for. Against calling the network pair by pair this saves the features of frames that are in several pairs, and
the upsampling of every refinement but the last.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.optical_flow import Raft_Large_Weights, Raft_Small_Weights, raft_large, raft_small

from policy_server.motion.raft_recurrence import Recurrence

STRIDE = 8
SMALLEST_PX = 128
ENLARGEMENT = 2


def load_raft(*, large: bool, weights: Path | None = None) -> tuple[nn.Module, str]:
    """The network in evaluation mode, and what identifies it. Nothing is downloaded.

    Raises FileNotFoundError that names the file, where it is looked for and where it can be had.
    """
    published = (Raft_Large_Weights if large else Raft_Small_Weights).DEFAULT
    name = published.url.rpartition("/")[2]
    path = weights or Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        raise FileNotFoundError(
            f"RAFT's weights {name} are not at {path}. Download {published.url} there, give another path with "
            "motion.estimator_weights, or set motion.estimator to 'dis', which needs none."
        )
    build: Callable[..., nn.Module] = raft_large if large else raft_small
    network = build(weights=None, progress=False)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return network.eval(), f"{'raft_large' if large else 'raft_small'} sha256:{digest}"


class RaftEstimator:
    """A `FlowEstimator` around a RAFT network, on the network's device."""

    def __init__(self, network: nn.Module, *, identity: str, updates: int = 12, batch: int | None = None) -> None:
        """`batch` is how many pairs are refined together; by default 16 on a card and 1 on a processor, whose caches
        hold no more."""
        if updates < 1 or (batch is not None and batch < 1):
            raise ValueError(f"expected updates >= 1 and batch >= 1, found {updates} and {batch}")
        self._raft: Any = network.eval().requires_grad_(requires_grad=False)
        self._identity = identity
        self._updates = updates
        self._batch = batch or (1 if next(network.parameters()).device.type == "cpu" else 16)
        self._recurrence = Recurrence.of(network)

    @property
    def identity(self) -> str:
        """Network, digest of its weights, refinements."""
        return f"{self._identity} x{ENLARGEMENT} updates:{self._updates}"

    @torch.no_grad()
    def flows(self, frames: Tensor, pairs: Tensor) -> Tensor:
        """See `FlowEstimator.flows`. Raises ValueError for a size that RAFT can't take."""
        height, width = frames.shape[-2:]
        for side in (height, width):
            if side * ENLARGEMENT % STRIDE or side * ENLARGEMENT < SMALLEST_PX:
                raise ValueError(
                    f"RAFT needs frames whose sides are multiples of {STRIDE // ENLARGEMENT} px and at least "
                    f"{SMALLEST_PX // ENLARGEMENT} px, found {height}x{width}"
                )
        device = next(self._raft.parameters()).device
        pairs = pairs.to("cpu")
        wanted, local = pairs.unique(return_inverse=True)
        enlarged = [self._prepare(part.to(device)) for part in frames[wanted].split(self._batch)]
        features = torch.cat([self._raft.feature_encoder(part) for part in enlarged])
        images = torch.cat(enlarged)
        found = [self._refine(images, features, part) for part in local.split(self._batch)]
        return torch.cat(found)

    @staticmethod
    def _prepare(frames: Tensor) -> Tensor:
        """uint8 to [-1, 1], enlarged."""
        scaled = frames.float() / 127.5 - 1.0
        return F.interpolate(scaled, scale_factor=float(ENLARGEMENT), mode="bilinear", align_corners=False)

    def _refine(self, images: Tensor, features: Tensor, pairs: Tensor) -> Tensor:
        """RAFT's recurrence, §3.3 of the paper, for pairs (M, 2): flow (M, 2, H, W) in pixels before enlargement."""
        first, second = pairs.unbind(dim=1)
        self._raft.corr_block.build_pyramid(features[first], features[second])
        out = self._raft.context_encoder(images[first])
        hidden_size = self._raft.update_block.hidden_state_size
        hidden, context = out[:, :hidden_size].tanh(), out[:, hidden_size:].relu()
        origin = _grid(len(pairs), out.shape[-2], out.shape[-1], out.device)
        target = origin
        update = self._raft.update_block
        prepared = self._recurrence.prepare(context)
        for _ in range(self._updates):
            correlation = self._raft.corr_block.index_pyramid(centroids_coords=target)
            motion = update.motion_encoder(target - origin, correlation)
            hidden = self._recurrence.step(hidden, motion, prepared)
            target = target + update.flow_head(hidden)
        mask = None if self._raft.mask_predictor is None else self._raft.mask_predictor(hidden)
        return F.avg_pool2d(_upsample(target - origin, mask), ENLARGEMENT) / ENLARGEMENT


def _grid(batch: int, height: int, width: int, device: torch.device) -> Tensor:
    """Pixel coordinates (batch, 2, height, width), x first."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return torch.stack([x, y]).float().expand(batch, -1, -1, -1)


def _upsample(flow: Tensor, mask: Tensor | None) -> Tensor:
    """Flow at an eighth of the size to full size, vectors included; by RAFT's learned convex weights where it has
    them.
    """
    if mask is None:
        full = F.interpolate(flow, scale_factor=float(STRIDE), mode="bilinear", align_corners=True)
        return STRIDE * full
    batch, _, height, width = flow.shape
    weights = mask.view(batch, 1, 9, STRIDE, STRIDE, height, width).softmax(dim=2)
    around = F.unfold(STRIDE * flow, kernel_size=3, padding=1).view(batch, 2, 9, 1, 1, height, width)
    fine = (weights * around).sum(dim=2)
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(batch, 2, height * STRIDE, width * STRIDE)
