"""From what a batch brings to what the motion head learns: flow or frames, moved as the image was, and encoded."""

from dataclasses import dataclass

import torch
from torch import Tensor

from policy_server.motion.estimators import FlowEstimator
from policy_server.motion.flow_image import FlowEncoding
from policy_server.motion.geometry import warp, warp_flow
from policy_server.motion.vae import FlowVae
from policy_server.training.augment import BLACK
from policy_server.training.data.samples import MotionInput, TrainingBatch
from policy_server.training.language import LanguageTarget, LocationTokens, flow_to_tokens
from policy_server.training.recipe import MotionTarget


@dataclass(frozen=True)
class MotionTruth:
    """latents (B, C, S, S), or language tokens; flow (B, 2, H, W) in pixels where it is known; the share of moving
    pixels that saturate."""

    latents: Tensor | None
    language: LanguageTarget | None
    flow: Tensor | None
    clip_fraction: float


@dataclass(frozen=True)
class MotionTargets:
    """Makes targets of one kind."""

    target: MotionTarget
    encoding: FlowEncoding
    vae: FlowVae | None
    estimator: FlowEstimator | None
    locations: LocationTokens | None

    @torch.no_grad()
    def make(self, batch: TrainingBatch, *, affine: Tensor | None) -> MotionTruth:
        """The targets of a batch whose third-person images were moved by `affine` (B, 2, 3), or not at all."""
        if batch.motion_input is MotionInput.LATENTS:
            return MotionTruth(batch.motion, None, None, 0.0)
        if batch.motion_input is MotionInput.FUTURE:
            future = _to_unit(_present(batch.motion))
            moved = future if affine is None else warp(future, affine.to(future.device), fill=BLACK)
            return MotionTruth(self._encoded(moved), None, None, 0.0)
        flow = self.flow(batch, affine=affine)
        if self.target is MotionTarget.LANGUAGE:
            if self.locations is None:
                raise ValueError("the language target needs location tokens")
            return MotionTruth(None, flow_to_tokens(flow, self.locations), flow, 0.0)
        clipped = float(self.encoding.clip_fraction(flow).mean())
        return MotionTruth(self._encoded(self.encoding.encode(flow)), None, flow, clipped)

    @torch.no_grad()
    def flow(self, batch: TrainingBatch, *, affine: Tensor | None) -> Tensor:
        """The flow (B, 2, S, S) of a batch's third-person images, moved by `affine` like them."""
        flow = self._flow(batch, batch.observation.images[:, 0])
        return flow if affine is None else warp_flow(flow, affine.to(flow.device))

    def _flow(self, batch: TrainingBatch, images: Tensor) -> Tensor:
        if batch.motion_input is MotionInput.FLOW:
            return _present(batch.motion).float()
        if batch.motion_input is MotionInput.PAIR:
            if self.estimator is None:
                raise ValueError("pairs of frames need an estimator")
            pairs = _present(batch.motion)
            frames = pairs.flatten(0, 1).permute(0, 3, 1, 2)
            index = torch.arange(len(frames)).view(-1, 2)
            return self.estimator.flows(frames, index).to(images.device)
        return images.new_zeros(len(images), 2, *images.shape[-2:])  # the static control

    def _encoded(self, pictures: Tensor) -> Tensor:
        if self.vae is None:
            raise ValueError("an image target needs an autoencoder")
        with torch.autocast(device_type=pictures.device.type, enabled=False):
            return self.vae.encode(pictures.float()).float()


def _to_unit(pictures: Tensor) -> Tensor:
    """(B, S, S, 3) uint8 to (B, 3, S, S) in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def _present(motion: Tensor | None) -> Tensor:
    if motion is None:
        raise ValueError("the batch brings no motion")
    return motion
