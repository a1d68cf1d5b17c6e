"""A policy: transforms, model, their inverses, and what it says about itself. One object for training and serving."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from policy_server.contract import GRIPPER_POSITION_KEY, JOINT_POSITION_KEY, PROMPT_KEY, Contract, Interface
from policy_server.pi0.config import IMAGE_SLOTS, ModelConfigError, Pi0Config
from policy_server.pi0.normalization import Normalization
from policy_server.pi0.pi0 import Observation, Pi0
from policy_server.pi0.tokenizer import Tokenizer
from policy_server.pi0.transforms import (
    AbsoluteActions,
    ClipFraction,
    Data,
    DropPadding,
    Group,
    Normalize,
    PadDimensions,
    ReadObservation,
    RelativeActions,
    ResizeImages,
    TokenizePrompt,
    Unnormalize,
)


class PolicyFault(RuntimeError):
    """The model produced something that must not reach a robot."""


@dataclass(frozen=True, eq=False)
class PolicySpec:
    """Everything about a policy except its weights and its tokenizer's file.

    `relative` (action dimension) marks the actions that were trained as differences to the state at the chunk's start.
    The interface's image keys fill openpi's camera slots in order; its last action is the gripper. `camera_backends`
    maps a camera to the backends that its training pictures came through; empty: not known.
    """

    name: str
    trained: bool
    model: Pi0Config
    interface: Interface
    normalization: Normalization
    relative: tuple[bool, ...]
    camera_backends: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        states, actions = len(self.interface.state_names), len(self.interface.action_names)
        checks = (
            ("interface.horizon", self.interface.horizon, self.model.action_horizon),
            ("normalization.state", self.normalization.state.dimension, states),
            ("normalization.actions", self.normalization.actions.dimension, actions),
            ("relative", len(self.relative), actions),
        )
        for name, found, expected in checks:
            if found != expected:
                raise ModelConfigError(f"policy {self.name!r}: {name}: expected {expected}, found {found}")
        steps = self.normalization.actions.low.shape[:-1]
        if steps not in ((), (self.interface.horizon,)):
            raise ModelConfigError(
                f"policy {self.name!r}: normalization.actions: expected {self.interface.horizon} steps, "
                f"found {steps[0]}"
            )
        if max(states, actions) > self.model.action_dim:
            raise ModelConfigError(
                f"policy {self.name!r}: {states} states, {actions} actions exceed action_dim {self.model.action_dim}"
            )
        if not 1 <= len(self.interface.image_keys) <= len(IMAGE_SLOTS):
            raise ModelConfigError(f"policy {self.name!r}: expected 1 to {len(IMAGE_SLOTS)} cameras")

    def transforms(self, tokenizer: Tokenizer) -> Group:
        """The steps between the wire and the model, with their inverses."""
        states, actions = len(self.interface.state_names), len(self.interface.action_names)
        slots = dict(zip(self.interface.image_keys, IMAGE_SLOTS, strict=False))
        return (
            Group()
            .push(inputs=ReadObservation(slots, joints=states - 1), outputs=ClipFraction(actions - 1))
            .push(inputs=RelativeActions(self.relative), outputs=AbsoluteActions(self.relative))
            .push(inputs=Normalize(self.normalization), outputs=Unnormalize(self.normalization))
            .push(inputs=ResizeImages(self.model.vision.image_size))
            .push(inputs=TokenizePrompt(tokenizer, max_tokens=self.model.max_prompt_tokens))
            .push(inputs=PadDimensions(self.model.action_dim), outputs=DropPadding(states, actions))
        )


class Policy:
    """A model that turns observations on the wire into action chunks in physical units."""

    def __init__(
        self,
        spec: PolicySpec,
        *,
        model: Pi0,
        tokenizer: Tokenizer,
        checkpoint_digest: str,
        steps: int = 10,
        device: torch.device | None = None,
    ) -> None:
        """`steps` are the Euler steps of the sampler; `checkpoint_digest` names the weights."""
        if tokenizer.vocabulary_size > spec.model.vocabulary_size:
            raise ModelConfigError(
                f"policy {spec.name!r}: the tokenizer has {tokenizer.vocabulary_size} tokens, "
                f"the model {spec.model.vocabulary_size}"
            )
        self.spec = spec
        self.tokenizer = tokenizer
        self.transforms = spec.transforms(tokenizer)
        self.device = device or torch.device("cpu")
        self.model = model.to(self.device).eval()
        self.steps = steps
        self.contract = Contract(
            policy=spec.name,
            trained=spec.trained,
            interface=spec.interface,
            image_size=(spec.model.vision.image_size,) * 2,
            relative_joints=any(spec.relative),
            prefix_conditioning=False,
            motion_image=False,
            normalization_digest=spec.normalization.digest,
            checkpoint_digest=checkpoint_digest,
            camera_backends=spec.camera_backends,
        )

    @property
    def metadata(self) -> dict[str, Any]:
        """What the server's first frame holds."""
        return {"contract": self.contract.to_metadata()}

    def infer(self, observation: Mapping[str, Any], *, generator: torch.Generator) -> dict[str, Any]:
        """openpi's reply: ``actions`` (horizon, action dimension) float64, absolute, and ``policy_timing``.

        The noise that the chunk grows from is drawn from `generator`. Raises `RequestError` for an observation that
        can't be served and `PolicyFault` when the model's output is not finite.
        """
        sample = self.transforms.apply_inputs(dict(observation))
        batch = collate([sample]).to(self.device)
        config = self.spec.model
        noise = torch.randn(1, config.action_horizon, config.action_dim, generator=generator).to(self.device)
        started_ns = time.perf_counter_ns()
        with torch.inference_mode():
            chunk = self.model.sample_actions(batch, noise=noise, steps=self.steps).actions[0].double().cpu().numpy()
        infer_ms = (time.perf_counter_ns() - started_ns) / 1e6
        actions = self.transforms.apply_outputs({"state": sample["state"], "actions": chunk})["actions"]
        if not np.isfinite(actions).all():
            raise PolicyFault(f"policy {self.spec.name!r} produced NaN or infinity")
        return {"actions": actions, "policy_timing": {"infer_ms": infer_ms}}

    def example(self) -> dict[str, Any]:
        """An observation that this policy accepts: grey pictures, zero state. For warm-up and tests."""
        side = self.spec.model.vision.image_size
        keys = self.spec.interface.image_keys
        return {key: np.full((side, side, 3), 128, dtype=np.uint8) for key in keys} | {
            JOINT_POSITION_KEY: np.zeros(len(self.spec.interface.state_names) - 1),
            GRIPPER_POSITION_KEY: np.zeros(1),
            PROMPT_KEY: "put the cup on the plate",
        }


def collate(samples: Sequence[Data]) -> Observation:
    """Transformed samples as one batch: images to [-1, 1], prompts padded to the longest of the batch.

    Only the cameras that the samples have are in it: an absent slot costs nothing and changes nothing.
    """
    slots = [slot for slot in IMAGE_SLOTS if slot in samples[0]["images"]]
    images = torch.from_numpy(np.stack([[sample["images"][slot] for slot in slots] for sample in samples]))
    longest = max(len(sample["tokens"]) for sample in samples)
    tokens = torch.zeros(len(samples), longest, dtype=torch.int64)
    token_mask = torch.zeros(len(samples), longest, dtype=torch.bool)
    for row, sample in enumerate(samples):
        length = len(sample["tokens"])
        tokens[row, :length] = torch.tensor(sample["tokens"])
        token_mask[row, :length] = True
    return Observation(
        images=images.permute(0, 1, 4, 2, 3).float() / 255.0 * 2.0 - 1.0,
        image_mask=torch.ones(len(samples), len(slots), dtype=torch.bool),
        tokens=tokens,
        token_mask=token_mask,
        state=torch.from_numpy(np.stack([sample["state"] for sample in samples])).float(),
    )
