"""How good predicted flow is, beside what predicting nothing, or always the average, would give."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FlowErrors:
    """Over moving pixels: end-point error in pixels, of the prediction and of the two baselines, and mean angle
    error.
    """

    end_point_px: float
    zero_px: float
    mean_px: float
    angle_deg: float
    moving_fraction: float

    @property
    def beats_baselines(self) -> bool:
        """Whether the prediction is better than no motion and than the average motion."""
        return self.end_point_px < min(self.zero_px, self.mean_px)


def flow_errors(predicted: Tensor, truth: Tensor, *, mean_flow: Tensor, moving_px: float) -> FlowErrors:
    """Errors of flow (B, 2, H, W) where the truth is longer than `moving_px`; `mean_flow` is (2, H, W)."""
    moving = truth.norm(dim=1) > moving_px
    if not moving.any():
        return FlowErrors(0.0, 0.0, 0.0, 0.0, 0.0)

    def end_point(guess: Tensor) -> float:
        return float((guess - truth).norm(dim=1)[moving].mean())

    cosine = torch.nn.functional.cosine_similarity(predicted, truth, dim=1)[moving].clamp(-1.0, 1.0)
    return FlowErrors(
        end_point_px=end_point(predicted),
        zero_px=end_point(torch.zeros_like(truth)),
        mean_px=end_point(mean_flow.expand_as(truth)),
        angle_deg=float(cosine.acos().rad2deg().mean()),
        moving_fraction=float(moving.float().mean()),
    )
