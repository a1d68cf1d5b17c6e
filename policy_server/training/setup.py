"""From a recipe to everything a run needs, checked before the first step: data, policy, motion head, autoencoder,
targets.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from policy_server.contract import SIX_JOINTS_AND_GRIPPER, Interface
from policy_server.motion.estimators import EstimatorKind, load_estimator
from policy_server.motion.files import (
    MotionDescription,
    has_motion_head,
    load_motion_head,
)
from policy_server.motion.head import MotionHead
from policy_server.motion.vae import FlowVae, check_latent_shape, load_vae
from policy_server.pi0.checkpoint import NANO_TOKENIZER, CheckpointError, load_policy
from policy_server.pi0.config import Pi0Config, StateInput, preset
from policy_server.pi0.normalization import NormKind
from policy_server.pi0.pi0 import Pi0
from policy_server.pi0.policy import PolicySpec
from policy_server.pi0.tokenizer import Tokenizer
from policy_server.training.checkpoints import RunError, resolve_checkpoint
from policy_server.training.data.frames import Progress
from policy_server.training.data.samples import MotionInput, SourceReader, TrainingSamples
from policy_server.training.data.statistics import (
    normalization,
    preflight,
    preflight_table,
    refuse_degenerate,
    state_range,
)
from policy_server.training.joint_model import JointModel
from policy_server.training.language import LocationTokens, location_tokens
from policy_server.training.lora import add_lora, freeze_in_bfloat16
from policy_server.training.motion_targets import MotionTargets
from policy_server.training.recipe import HeadTraining, MotionTarget, Precision, Recipe, Stage

MAX_LISTED_PROMPTS = 64


@dataclass(frozen=True, eq=False)
class Setup:
    """A run, ready to start."""

    recipe: Recipe
    spec: PolicySpec
    tokenizer: Tokenizer
    model: JointModel
    targets: MotionTargets
    vae: FlowVae | None
    description: MotionDescription | None
    readers: Sequence[SourceReader]
    base_digest: str
    device: torch.device


def policy_dimensions(recipe: Recipe) -> Pi0Config:
    """The preset with the recipe's horizon."""
    return replace(preset(recipe.preset), action_horizon=recipe.data.horizon)


def open_sources(recipe: Recipe, *, progress: Callable[[str], Progress] | None = None) -> list[SourceReader]:
    """The recipe's data sets, opened and checked. Raises `DatasetError`."""
    size = policy_dimensions(recipe).vision.image_size
    readers = [SourceReader(recipe, source, image_size=size) for source in recipe.data.sources]
    if recipe.data.frame_cache is not None:
        for reader in readers:
            report = progress(reader.config.path) if progress else None
            reader.fill_cache(Path(recipe.data.frame_cache), progress=report)
    return readers


def prepare(
    recipe: Recipe,
    *,
    device: torch.device,
    console: Console,
    progress: Callable[[str], Progress] | None = None,
) -> Setup:
    """Open, check and build everything. Raises `DatasetError`, `VaeError`, `CheckpointError` or `RunError`."""
    readers = open_sources(recipe, progress=progress)
    windows = [reader.windows() for reader in readers]
    findings = preflight(windows, span_floor=recipe.data.span_floor, may_be_constant=recipe.data.may_be_constant)
    console.print(preflight_table(findings))
    refuse_degenerate(findings)
    spec, tokenizer, policy, base_digest = _build_policy(recipe, readers)
    vae = _load_vae(recipe, spec.model.vision.image_size, device)
    head, description = _build_head(recipe, spec.model, vae)
    if recipe.lora is not None:
        add_lora(policy, recipe.lora, seed=recipe.seed)
        if recipe.precision is Precision.BFLOAT16:
            freeze_in_bfloat16(policy)
    model = JointModel(policy, head, recompute=recipe.recompute)
    choose_trained(model, recipe)
    if device.type == "cpu":
        # Processors convolve a sixth faster so; weights and results are the same.
        model = model.to(memory_format=torch.channels_last)
    return Setup(
        recipe=recipe,
        spec=spec,
        tokenizer=tokenizer,
        model=model.to(device),
        targets=_targets(recipe, spec, tokenizer, vae, readers, device),
        vae=vae,
        description=description,
        readers=readers,
        base_digest=base_digest,
        device=device,
    )


def frame_samples(
    recipe: Recipe, readers: Sequence[SourceReader], device: torch.device
) -> tuple[TrainingSamples, MotionTargets]:
    """Samples and targets for the autoencoder's stage, which needs no policy: pictures, and the flow in them."""
    spec, tokenizer, _, _ = _build_policy(recipe, readers)
    samples = TrainingSamples(readers, spec.transforms(tokenizer, pictures_ready=True))
    return samples, _targets(recipe, spec, tokenizer, None, readers, device)


def choose_trained(model: JointModel, recipe: Recipe) -> None:
    """Freeze what the stage does not train, and what no loss reaches (distributed training would wait for it)."""
    if recipe.stage is Stage.WARMUP:
        model.policy.requires_grad_(requires_grad=False)
    elif not (recipe.has_head and recipe.motion.head.z_layer == -1) and not _language(recipe):
        # Only the last layer's keys and values are read by the actions; the rest of it would go untrained.
        last = model.policy.trunk.layers[-1]
        for name, parameter in last.named_parameters():
            if not name.startswith(("self_attn.k_proj", "self_attn.v_proj", "input_layernorm")):
                parameter.requires_grad = False
        model.policy.trunk.norm.requires_grad_(requires_grad=False)
    if model.motion_head is not None and recipe.motion.train is HeadTraining.FROZEN:
        model.motion_head.requires_grad_(requires_grad=False)


def _language(recipe: Recipe) -> bool:
    return recipe.has_motion and recipe.motion.target is MotionTarget.LANGUAGE


def _build_policy(recipe: Recipe, readers: Sequence[SourceReader]) -> tuple[PolicySpec, Tokenizer, Pi0, str]:
    dimensions = policy_dimensions(recipe)
    digest = ""
    if recipe.init is not None:
        loaded = load_policy(resolve_checkpoint(Path(recipe.init)))
        found = replace(loaded.spec.model, action_horizon=dimensions.action_horizon)
        if found != dimensions:
            raise RunError(f"{recipe.init}: a policy of other dimensions than preset {recipe.preset!r}; change preset")
        if loaded.spec.views != (None if recipe.data.views is None else recipe.data.views.to_views()):
            raise RunError(f"{recipe.init}: a policy that looks at other parts of the pictures; change data.views")
        policy, tokenizer, digest = loaded.model, loaded.tokenizer, loaded.contract.checkpoint_digest
        policy.config = dimensions
    else:
        if recipe.lora is not None or recipe.stage is Stage.FINETUNE:
            raise RunError(f"stage {recipe.stage} starts from a trained policy: give its checkpoint with init")
        tokenizer = Tokenizer(_tokenizer_path(recipe))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            policy = Pi0(dimensions)
    if recipe.data.keep_normalization and recipe.init is not None:
        statistics = loaded.spec.normalization
    else:
        statistics = normalization(
            [reader.windows() for reader in readers],
            horizon=recipe.data.horizon,
            relative=recipe.data.relative,
            per_step=recipe.data.per_step_statistics,
            # A state that is said in words has 256 numbers from -1 to 1, which quantiles fill.
            kind=NormKind.QUANTILE if dimensions.state_input is StateInput.PROMPT else NormKind.Z_SCORE,
            span_floor=recipe.data.span_floor,
        )
    low, high = state_range([reader.windows() for reader in readers])
    spec = PolicySpec(
        name=recipe.name,
        trained=True,
        model=dimensions,
        interface=_interface(recipe, readers[0]),
        normalization=statistics,
        relative=recipe.data.relative,
        camera_backends=_camera_backends(readers),
        prefix_conditioning=recipe.prefix_conditioning.probability > 0.0,
        views=None if recipe.data.views is None else recipe.data.views.to_views(),
        prompts=_prompts(readers),
        state_low=low,
        state_high=high,
    )
    return spec, tokenizer, policy.float(), digest


def _prompts(readers: Sequence[SourceReader]) -> tuple[str, ...]:
    """The tasks in words that the policy learns; empty where they are too many to be listed."""
    found = sorted({prompt for reader in readers for prompt in reader.prompts()})
    return tuple(found) if len(found) <= MAX_LISTED_PROMPTS else ()


def _camera_backends(readers: Sequence[SourceReader]) -> dict[str, list[str]]:
    """Which camera backends the pictures came through, as far as the data sets say (those that this project exported
    do)."""
    found: dict[str, set[str]] = {}
    for reader in readers:
        path = reader.tables.root / "meta" / "nova.json"
        if not path.is_file():
            return {}
        for camera, about in json.loads(path.read_text(encoding="utf-8")).get("cameras", {}).items():
            found.setdefault(camera, set()).add(str(about.get("backend")))
    return {camera: sorted(backends) for camera, backends in found.items()}


def _interface(recipe: Recipe, reader: SourceReader) -> Interface:
    """This project's own interface where the data has its shape; else the data set's names, in its own units."""
    keys = tuple(reader.config.cameras)
    states, actions = (_names(reader, part) for part in (reader.config.state, reader.config.action))
    own = SIX_JOINTS_AND_GRIPPER
    if len(states) == len(own.state_names) and len(actions) == len(own.action_names) and keys == own.image_keys:
        return replace(own, fps=recipe.data.fps, horizon=recipe.data.horizon)
    return Interface(
        state_names=states,
        state_units=("dataset",) * len(states),
        action_names=actions,
        action_units=("dataset",) * len(actions),
        fps=recipe.data.fps,
        horizon=recipe.data.horizon,
        image_keys=keys,
    )


def _names(reader: SourceReader, keys: Sequence[str]) -> tuple[str, ...]:
    names: list[str] = []
    for key in keys:
        feature = reader.tables.features[key]
        count = int(feature["shape"][0]) if feature.get("shape") else 1
        given = feature.get("names")
        listed = given if isinstance(given, list) and len(given) == count else [f"{key}.{i}" for i in range(count)]
        names += [str(name) for name in listed]
    return tuple(names)


def _tokenizer_path(recipe: Recipe) -> Path:
    if recipe.tokenizer is not None:
        return Path(recipe.tokenizer)
    if recipe.preset == "nano":
        return NANO_TOKENIZER
    raise RunError(
        f"preset {recipe.preset!r} has no tokenizer of its own: set tokenizer to a SentencePiece model's path"
    )


def _load_vae(recipe: Recipe, image_size: int, device: torch.device) -> FlowVae | None:
    if not recipe.has_head or recipe.motion.vae is None:
        return None
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    vae = load_vae(Path(recipe.motion.vae), device=device, dtype=dtype)
    check_latent_shape(vae, channels=vae.latent_channels, size=image_size // vae.downscale, image_size=image_size)
    return vae


def _build_head(
    recipe: Recipe, policy: Pi0Config, vae: FlowVae | None
) -> tuple[MotionHead | None, MotionDescription | None]:
    if vae is None:
        return None, None
    size = policy.vision.image_size
    config = recipe.motion.head_config(
        context_width=policy.trunk.width, latent_channels=vae.latent_channels, latent_size=size // vae.downscale
    )
    source = str(recipe.motion.estimator)
    description = MotionDescription(
        head=config,
        encoding=recipe.motion.flow_encoding(size),
        target=str(recipe.motion.target),
        horizon=recipe.data.horizon,
        image_size=size,
        vae=vae.identity,
        source=source,
    )
    init = None if recipe.init is None else resolve_checkpoint(Path(recipe.init))
    if init is not None and has_motion_head(init):
        head, found = load_motion_head(init)
        for name in ("head", "encoding", "horizon", "image_size", "vae"):
            if getattr(found, name) != getattr(description, name):
                raise CheckpointError(
                    f"{init}: its motion head was trained with {name} {getattr(found, name)}, this recipe has "
                    f"{getattr(description, name)}; change the recipe or start from the policy alone"
                )
        return head, description
    with torch.random.fork_rng(devices=[]):  # a seed of its own: the policy's weights don't depend on the head
        torch.manual_seed(recipe.seed + 1)
        return MotionHead(config), description


def _targets(
    recipe: Recipe,
    spec: PolicySpec,
    tokenizer: Tokenizer,
    vae: FlowVae | None,
    readers: Sequence[SourceReader],
    device: torch.device,
) -> MotionTargets:
    kinds = {reader.motion_input for reader in readers if reader.config.motion}
    if len(kinds) > 1:
        raise RunError(
            f"data.sources bring motion in different ways ({', '.join(sorted(kinds))}); give all of them 'flow', or "
            "all 'latents', or 'motion: false' to those that have none"
        )
    estimator = None
    if any(reader.motion_input is MotionInput.PAIR for reader in readers):
        if recipe.motion.estimator is EstimatorKind.SIM:
            raise RunError("motion.estimator is 'sim': set data.sources.N.flow to the folder of simulated flow")
        weights = recipe.motion.estimator_weights
        estimator = load_estimator(
            recipe.motion.estimator,
            weights=Path(weights) if weights else None,
            updates=recipe.motion.estimator_updates,
            device=device,
        )
    locations: LocationTokens | None = None
    if _language(recipe):
        begin = tokenizer.encode_prompt("begin", max_tokens=spec.model.max_prompt_tokens)[0]
        locations = location_tokens(spec.model.vocabulary_size, begin=begin)
    encoding = recipe.motion.flow_encoding(spec.model.vision.image_size)
    return MotionTargets(recipe.motion.target, encoding, vae, estimator, locations)
