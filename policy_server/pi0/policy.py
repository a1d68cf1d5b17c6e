"""A policy: transforms, model, their inverses, and what it says about itself. One object for training and serving."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from policy_server.ask import Ask, Continuity, Leftover
from policy_server.contract import GRIPPER_POSITION_KEY, JOINT_POSITION_KEY, PROMPT_KEY, Contract, Interface
from policy_server.errors import RequestError
from policy_server.pi0.config import IMAGE_SLOTS, ModelConfigError, Pi0Config, StateInput
from policy_server.pi0.continuity import (
    GuidanceForm,
    Target,
    committed_part,
    guidance,
    most_coherent,
    target_of,
)
from policy_server.pi0.cuda_graph import GraphSampler
from policy_server.pi0.lean import LeanSampler, Prefix
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
    Transform,
    Unnormalize,
)
from policy_server.pi0.views import CutViews, Views


class PolicyFault(RuntimeError):
    """The model produced something that must not reach a robot."""


@dataclass(frozen=True, eq=False)
class PolicySpec:
    """Everything about a policy except its weights and its tokenizer's file.

    `relative` (action dimension) marks the actions that were trained as differences to the state at the chunk's start.
    The interface's image keys fill openpi's camera slots in order; its last action is the gripper. `camera_backends`
    maps a camera to the backends that its training pictures came through; empty: not known. `prefix_conditioning` says
    that it was trained to continue actions that are committed already. `views` are the parts of the pictures that it
    looks at; None: all of them. `prompts`, `state_low` and `state_high` say what it has seen in training, as in
    `policy_server.contract.Contract`.
    """

    name: str
    trained: bool
    model: Pi0Config
    interface: Interface
    normalization: Normalization
    relative: tuple[bool, ...]
    camera_backends: dict[str, list[str]] = field(default_factory=dict)
    prefix_conditioning: bool = False
    views: Views | None = None
    prompts: tuple[str, ...] = ()
    state_low: tuple[float, ...] = ()
    state_high: tuple[float, ...] = ()

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

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width in px of the pictures that it wants to be sent."""
        side = self.model.vision.image_size
        return (side, side) if self.views is None else (self.views.height, self.views.width)

    def transforms(self, tokenizer: Tokenizer, *, pictures_ready: bool = False) -> Group:
        """The steps between the wire and the model, with their inverses. `pictures_ready`: they are cut and of the
        model's size already, as training's are."""
        states, actions = len(self.interface.state_names), len(self.interface.action_names)
        slots = dict(zip(self.interface.image_keys, IMAGE_SLOTS, strict=False))
        return (
            Group()
            .push(inputs=ReadObservation(slots, joints=states - 1), outputs=ClipFraction(actions - 1))
            .push(inputs=RelativeActions(self.relative), outputs=AbsoluteActions(self.relative))
            .push(inputs=Normalize(self.normalization), outputs=Unnormalize(self.normalization))
            .push(inputs=self._picture_step(slots, ready=pictures_ready))
            .push(
                inputs=TokenizePrompt(
                    tokenizer,
                    max_tokens=self.model.max_prompt_tokens,
                    tell_state=self.model.state_input is StateInput.PROMPT,
                )
            )
            .push(inputs=PadDimensions(self.model.action_dim), outputs=DropPadding(states, actions))
        )

    def _picture_step(self, slots: Mapping[str, str], *, ready: bool) -> Transform | None:
        side = self.model.vision.image_size
        if ready:
            return None
        if self.views is None:
            return ResizeImages(side)
        return CutViews(self.views, {slot: key for key, slot in slots.items()}, side)


@dataclass(frozen=True)
class Sampling:
    """How chunks are sampled: Euler steps; by the lean path or the plain one, on a GPU as CUDA graphs or not; how
    guidance is computed; of how many chunks the most coherent is taken when something is left of the previous one; and
    what the noise that a chunk grows from is multiplied by (1: as in training; 0: the observation alone decides).
    """

    steps: int = 10
    lean: bool = False
    guidance: GuidanceForm = GuidanceForm.GRADIENT_FREE
    best_of: int = 1
    cuda_graphs: bool = True
    noise_scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Answer:
    """actions (horizon, action dimension) float64, absolute, in physical units; the model's time for the batch it was
    computed in; and what a motion image can be made from, when it was asked for."""

    actions: np.ndarray
    infer_ms: float
    prefix: Prefix | None = None

    def reply(self) -> dict[str, Any]:
        """openpi's reply."""
        return {"actions": self.actions, "policy_timing": {"infer_ms": self.infer_ms}}


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
        sampling: Sampling | None = None,
    ) -> None:
        """`steps` are the Euler steps of the sampler, unless `sampling` says more; `checkpoint_digest` names the
        weights. Lean sampling fuses the model's weights: they must not change any more."""
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
        self.sampling = sampling or Sampling(steps=steps)
        self.steps = self.sampling.steps
        self.lean = LeanSampler(self.model, steps=self.steps) if self.sampling.lean else None
        by_graph = self.lean is not None and self.device.type == "cuda" and self.sampling.cuda_graphs
        self._sampler = GraphSampler(self.lean, self.device) if self.lean is not None and by_graph else self.lean
        self.contract = Contract(
            policy=spec.name,
            trained=spec.trained,
            interface=spec.interface,
            image_size=spec.picture_size,
            relative_joints=any(spec.relative),
            prefix_conditioning=spec.prefix_conditioning,
            motion_image=False,
            normalization_digest=spec.normalization.digest,
            checkpoint_digest=checkpoint_digest,
            camera_backends=spec.camera_backends,
            guidance=True,
            prompts=spec.prompts,
            state_low=spec.state_low,
            state_high=spec.state_high,
        )

    @property
    def metadata(self) -> dict[str, Any]:
        """What the server's first frame holds."""
        return {"contract": self.contract.to_metadata()}

    def infer(
        self,
        observation: Mapping[str, Any],
        *,
        generator: torch.Generator,
        leftover: Leftover | None = None,
        continuity: Continuity | None = None,
    ) -> dict[str, Any]:
        """openpi's reply: ``actions`` (horizon, action dimension) float64, absolute, and ``policy_timing``.

        The noise that the chunk grows from is drawn from `generator`. Raises `RequestError` for an observation that
        can't be served and `PolicyFault` when the model's output is not finite.
        """
        answer = self.infer_batch([Ask(observation, leftover, continuity)], generator=generator)[0]
        if isinstance(answer, Exception):
            raise answer
        return answer.reply()

    def infer_batch(self, asks: Sequence[Ask], *, generator: torch.Generator) -> list[Answer | Exception]:
        """An answer to each, in one run of the model: an `Answer`, or the `RequestError` or `PolicyFault` of that one
        alone."""
        prepared = [self._prepare(ask) for ask in asks]
        good = [item for item in prepared if isinstance(item, Prepared)]
        if not good:
            return [item for item in prepared if isinstance(item, Exception)]
        started_ns = time.perf_counter_ns()
        chunks, prefix = self._sample(good, generator)
        infer_ms = (time.perf_counter_ns() - started_ns) / 1e6
        answers: list[Answer | Exception] = []
        row = 0
        for item in prepared:
            if isinstance(item, Exception):
                answers.append(item)
                continue
            answers.append(self._answer(item, chunks[row], infer_ms, prefix if item.ask.keep_prefix else None, row))
            row += 1
        return answers

    def prefix_hidden(self, prefix: Prefix, *, layer: int) -> torch.Tensor:
        """The hidden states (1, P, width) that a motion head reads, finished from an answer's prefix."""
        if self.lean is None:
            raise ValueError("prefixes are kept by lean sampling only; make the policy with Sampling(lean=True)")
        return self.lean.prefix_hidden(prefix, layer=layer)

    def example(self) -> dict[str, Any]:
        """An observation that this policy accepts: grey pictures, zero state. For warm-up and tests."""
        keys = self.spec.interface.image_keys
        return {key: np.full((*self.spec.picture_size, 3), 128, dtype=np.uint8) for key in keys} | {
            JOINT_POSITION_KEY: np.zeros(len(self.spec.interface.state_names) - 1),
            GRIPPER_POSITION_KEY: np.zeros(1),
            PROMPT_KEY: "put the cup on the plate",
        }

    def _prepare(self, ask: Ask) -> "Prepared | RequestError":
        """The model's inputs. A leftover goes through the same transforms as actions do in training, so that relative
        ones are re-anchored to the present state."""
        mode = ask.continuity
        trained = self.spec.prefix_conditioning
        if mode is Continuity.COMMITTED and not trained:
            return RequestError(
                f"continuity: policy {self.spec.name!r} was not trained with committed actions; ask for 'guided'"
            )
        if mode is None:
            mode = Continuity.COMMITTED if trained else Continuity.NONE
        left = ask.leftover if ask.leftover is not None and len(ask.leftover.actions) else None
        if left is None or mode is Continuity.NONE:
            mode, left = Continuity.NONE, None
        data = dict(ask.observation)
        data.pop("actions", None)
        if left is not None:
            missing = self.spec.interface.horizon - len(left.actions)
            data["actions"] = np.pad(left.actions, [(0, missing), (0, 0)], mode="edge")
        try:
            sample = self.transforms.apply_inputs(data)
        except RequestError as error:
            return error
        if left is None:
            return Prepared(ask, sample, mode)
        known = sample["actions"][: len(left.actions), : len(self.spec.interface.action_names)]
        return Prepared(ask, sample, mode, known, min(left.committed, len(known)))

    def _sample(self, items: "Sequence[Prepared]", generator: torch.Generator) -> tuple[np.ndarray, Prefix | None]:
        config, draws = self.spec.model, self.sampling.best_of
        coherent = draws > 1 and any(item.leftover is not None for item in items)
        draws = draws if coherent else 1
        noise = torch.stack([self._noise(item.ask, generator, draws) for item in items]).flatten(0, 1)
        batch = collate([item.sample for item in items])
        target = target_of(
            [item.leftover for item in items],
            [item.committed for item in items],
            horizon=config.action_horizon,
            width=config.action_dim,
        ).to(self.device)
        counts = [item.committed if item.mode is Continuity.COMMITTED else 0 for item in items]
        repeated = target.repeated(draws)
        committed = None
        if any(counts):
            each = torch.tensor(counts, device=self.device).repeat_interleave(draws)
            committed = committed_part(repeated, counts=each)
        correct = None
        if any(item.mode is Continuity.GUIDED for item in items):
            pulled = torch.tensor([item.mode is Continuity.GUIDED for item in items], device=self.device)
            weights = repeated.weights * pulled.repeat_interleave(draws)[:, None, None]
            correct = guidance(Target(repeated.actions, weights), form=self.sampling.guidance)
        published = correct is not None and self.sampling.guidance is GuidanceForm.PUBLISHED
        prefix: Prefix | None = None
        with torch.inference_mode(mode=not published), torch.no_grad():
            if self._sampler is not None and not published:
                drawn = self._sampler.sample(batch, noise=noise, committed=committed, correct=correct)
                chunks, prefix = drawn.actions, drawn.prefix
            else:
                chunks = self.model.sample_actions(
                    batch.to(self.device),
                    noise=noise.to(self.device),
                    steps=self.steps,
                    committed=committed,
                    correct=correct,
                ).actions
            if coherent:
                each = chunks.unflatten(0, (len(items), draws))
                chunks = each[torch.arange(len(items)), most_coherent(each, target)]
            return chunks.double().cpu().numpy(), prefix

    def _noise(self, ask: Ask, generator: torch.Generator, draws: int) -> torch.Tensor:
        config = self.spec.model
        own = generator if ask.seed is None else torch.Generator().manual_seed(ask.seed)
        noise = torch.randn(draws, config.action_horizon, config.action_dim, generator=own)
        return noise * self.sampling.noise_scale

    def _answer(
        self, item: "Prepared", chunk: np.ndarray, infer_ms: float, prefix: Prefix | None, row: int
    ) -> Answer | PolicyFault:
        actions = self.transforms.apply_outputs({"state": item.sample["state"], "actions": chunk})["actions"]
        if not np.isfinite(actions).all():
            return PolicyFault(f"policy {self.spec.name!r} produced NaN or infinity")
        return Answer(actions, infer_ms, None if prefix is None else prefix.row(row))


@dataclass(frozen=True, eq=False)
class Prepared:
    """An ask as the model takes it: `leftover` (n, D) in the model's units, of which `committed` are decided."""

    ask: Ask
    sample: Data
    mode: Continuity
    leftover: np.ndarray | None = None
    committed: int = 0


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
