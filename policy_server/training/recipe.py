"""What a training run is: the YAML files of ``configs/training``, every key checked.

A recipe may say ``extends: NAME``: it then has everything that the file of that name has, but for what it says itself.

`load_recipe` takes a name (``nano-joint``) or a path to a YAML file. A run writes the recipe it used beside its
checkpoints.
"""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from configs.schema import CONFIGS, ConfigError, Name, load_config
from policy_server.motion.estimators import EstimatorKind
from policy_server.motion.flow_image import EncodingKind, FlowEncoding
from policy_server.motion.head import MotionHeadConfig, TimeConditioning
from policy_server.pi0.views import Cut, Views


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Stage(StrEnum):
    """What is trained: the small autoencoder; the motion head alone; everything; everything from a joint checkpoint; or
    everything without a motion head."""

    VAE = "vae"
    WARMUP = "warmup"
    JOINT = "joint"
    FINETUNE = "finetune"
    ACTION_ONLY = "action-only"


class MotionTarget(StrEnum):
    """What the auxiliary head learns to predict; all but `FLOW` are controls.

    `STATIC` is the flow of no motion, `SHUFFLED` that of another episode at the same phase.
    """

    FLOW = "flow"
    FUTURE_IMAGE = "future_image"
    LANGUAGE = "language"
    STATIC = "static"
    SHUFFLED = "shuffled"


class HeadTraining(StrEnum):
    """What LoRA finetuning does with the motion head."""

    FULL = "full"
    FROZEN = "frozen"
    OFF = "off"


class Precision(StrEnum):
    """Of the forward pass; weights that are trained are kept in float32 either way."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Sharding(StrEnum):
    """What each process of several holds: a copy of everything, or (PyTorch's FSDP2) its part of the weights, their
    gradients, moments and average."""

    NONE = "none"
    FSDP2 = "fsdp2"


class SourceConfig(_Section):
    """One LeRobot v3 data set: where it is, how often it is drawn, and which of its features mean what.

    `cameras` maps each of the policy's image keys to the features that may fill it; of several, one is drawn per
    sample. The first image key is the third-person view, from which motion is learned. `state` and `action` are
    features joined end to end; `prompts` are string features of which one is drawn, and without them the episode's
    task is the prompt.
    """

    path: str
    weight: float = Field(default=1.0, gt=0.0)
    cameras: dict[str, tuple[str, ...]] = Field(
        default={
            "observation/exterior_image_1_left": ("observation.images.exterior",),
            "observation/wrist_image_left": ("observation.images.wrist",),
        },
        min_length=1,
    )
    state: tuple[str, ...] = Field(default=("observation.state",), min_length=1)
    action: tuple[str, ...] = Field(default=("action",), min_length=1)
    prompts: tuple[str, ...] = ()
    half_turn: bool = Field(default=False, description="pictures are stored upside down, as LIBERO's are")
    drop_idle: bool = Field(default=False, description="leave out stretches in which nothing moves, as DROID needs")
    episodes: str | None = Field(default=None, description="a subset's manifest; all episodes without")
    motion: bool = Field(default=True, description="false: only actions are learned from it")
    flow: str | None = Field(default=None, description="folder of precomputed or simulated flow")
    latents: str | None = Field(default=None, description="folder of precomputed latents; excludes augmentation")


class ViewsConfig(_Section):
    """The parts of the pictures that the policy looks at; see `policy_server.pi0.views`."""

    height: int = Field(ge=16, le=1080, description="of the pictures that it is sent, px")
    width: int = Field(ge=16, le=1920)
    cuts: dict[str, tuple[int, int, int, int]] = Field(
        description="by image key: top, left, height and width in px of that picture"
    )

    def to_views(self) -> Views:
        """As the policy has them."""
        return Views(self.height, self.width, {key: Cut(*cut) for key, cut in self.cuts.items()})

    @model_validator(mode="after")
    def _cuts_are_inside(self) -> Self:
        self.to_views()
        return self


class FocusConfig(_Section):
    """Moments that are drawn more often than others: those before the gripper closes, when a hand has to be exact."""

    frames: int = Field(default=15, ge=1, description="how long before")
    times: int = Field(default=3, ge=2, description="how often such a frame is drawn beside any other")


class DataConfig(_Section):
    """The data sets and how their samples are put together."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    fps: float = Field(gt=0.0, le=200.0)
    horizon: int = Field(ge=1, le=200, description="actions in a chunk, and frames between the two of a motion pair")
    views: ViewsConfig | None = Field(default=None, description="what the policy sees; all of each picture without")
    relative: tuple[bool, ...] = Field(
        default=(True,) * 6 + (False,), description="which actions are differences to the state at the chunk's start"
    )
    per_step_statistics: bool = False
    focus: FocusConfig | None = Field(default=None, description="every frame is as likely as any other without")
    keep_normalization: bool = Field(default=False, description="of the policy in init, instead of this data's")
    span_floor: float = Field(default=1e-3, gt=0.0, description="smallest spread a dimension may be divided by")
    may_be_constant: tuple[int, ...] = Field(default=(), description="state or action dimensions that may not vary")
    validation_fraction: float = Field(default=0.05, ge=0.0, le=0.5)
    workers: int = Field(default=0, ge=0, le=64)
    frame_cache: str | None = Field(default=None, description="folder for decoded frames at the policy's size")


class AugmentConfig(_Section):
    """Per sample, at training time. Crop and rotation are the third-person camera's; colour is every camera's."""

    crop: float = Field(default=1.0, gt=0.5, le=1.0)
    rotation_deg: float = Field(default=0.0, ge=0.0, le=45.0)
    shift_px: float = Field(default=0.0, ge=0.0, le=32.0, description="of the other cameras")
    color_probability: float = Field(default=0.5, ge=0.0, le=1.0)
    brightness: float = Field(default=0.0, ge=0.0, lt=1.0)
    contrast: float = Field(default=0.0, ge=0.0, lt=1.0)
    saturation: float = Field(default=0.0, ge=0.0, lt=1.0)
    state_noise: float = Field(default=0.0, ge=0.0, le=1.0, description="standard deviation, in normalised units")

    @property
    def geometric(self) -> bool:
        """Whether pictures are moved, which latents computed beforehand would not follow."""
        return self.crop < 1.0 or self.rotation_deg > 0.0


class HeadConfig(_Section):
    """The motion head's own dimensions; the rest follows from the policy and the autoencoder."""

    width: int = Field(default=2048, ge=32)
    depth: int = Field(default=6, ge=1)
    heads: int = Field(default=16, ge=1)
    mlp_width: int = Field(default=8192, ge=32)
    patch: int = Field(default=2, ge=1)
    z_layer: int = Field(default=-1, le=-1)
    time_conditioning: TimeConditioning = TimeConditioning.ADDED


class MotionConfig(_Section):
    """The auxiliary objective."""

    weight: float = Field(default=1.0, ge=0.0)
    target: MotionTarget = MotionTarget.FLOW
    train: HeadTraining = HeadTraining.FULL
    vae: str | None = Field(default=None, description="folder of the frozen autoencoder")
    estimator: EstimatorKind = EstimatorKind.RAFT_LARGE
    estimator_weights: str | None = None
    estimator_updates: int = Field(default=12, ge=1, le=32)
    encoding: EncodingKind = EncodingKind.HSV_FIXED
    norm_px: float = Field(default=64.0, gt=0.0, description="for 224 px pictures; scaled to the policy's")
    dead_band_px: float = Field(default=0.5, ge=0.0)
    head: HeadConfig = HeadConfig()

    @field_validator("train", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, value: Any) -> Any:
        return HeadTraining.OFF if value is False else value

    def flow_encoding(self, image_size: int) -> FlowEncoding:
        """The encoding for pictures of that size."""
        encoding = FlowEncoding(kind=self.encoding, norm_px=self.norm_px, dead_band_px=self.dead_band_px)
        return encoding.for_size(image_size)

    def head_config(self, *, context_width: int, latent_channels: int, latent_size: int) -> MotionHeadConfig:
        """The head between a policy and an autoencoder."""
        return MotionHeadConfig(
            **self.head.model_dump(),
            context_width=context_width,
            latent_channels=latent_channels,
            latent_size=latent_size,
        )


class OptimizerKind(StrEnum):
    """Muon needs fewer steps for small models from scratch; AdamW is what π0 is finetuned with."""

    ADAMW = "adamw"
    MUON = "muon"


class OptimizerConfig(_Section):
    """AdamW or Muon under a cosine with linear warm-up. openpi's values are the defaults, but for the peak."""

    kind: OptimizerKind = OptimizerKind.ADAMW
    learning_rate: float = Field(gt=0.0, le=0.1)
    final_learning_rate: float = Field(ge=0.0, le=0.1)
    warmup_steps: int = Field(default=1000, ge=0)
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    epsilon: float = Field(default=1e-8, gt=0.0)
    weight_decay: float = Field(default=1e-10, ge=0.0)
    clip_norm: float = Field(default=1.0, gt=0.0)
    ema: float | None = Field(default=None, gt=0.0, lt=1.0, description="decay a step of the averaged weights, if any")
    ema_every: int = Field(default=1, ge=1, description="steps between updates of the average")
    ema_on_host: bool = Field(default=False, description="keep the average in the computer's memory, not the card's")


class PrefixConditioning(_Section):
    """Training for a chunk whose first actions are committed already: with `probability`, 1 to `longest` of them."""

    probability: float = Field(default=0.0, ge=0.0, le=1.0)
    longest: int = Field(default=5, ge=1)


class LoraSettings(_Section):
    """Low-rank adapters on the attention and MLP projections of trunk and expert; heads are trained whole."""

    trunk_rank: int = Field(default=16, ge=1)
    trunk_alpha: int = Field(default=16, ge=1)
    expert_rank: int = Field(default=32, ge=1)
    expert_alpha: int = Field(default=32, ge=1)
    train_vision: bool = False


class Recipe(_Section):
    """One training run."""

    name: Name
    stage: Stage
    preset: str = Field(description="the policy's dimensions: nano, pi0 or pi05")
    init: str | None = Field(default=None, description="checkpoint of a policy (and motion head) to start from")
    tokenizer: str | None = Field(default=None, description="SentencePiece model, for a preset without one of its own")
    data: DataConfig
    motion: MotionConfig = MotionConfig()
    optimizer: OptimizerConfig
    augment: AugmentConfig = AugmentConfig()
    prefix_conditioning: PrefixConditioning = PrefixConditioning()
    lora: LoraSettings | None = None
    steps: int = Field(ge=1)
    batch: int = Field(ge=1, description="over all processes")
    micro_batch: int | None = Field(default=None, ge=1, description="at once on one device; gradients are accumulated")
    noise_draws: int = Field(default=1, ge=1, le=16, description="noisy chunks per observation, in one suffix pass")
    precision: Precision = Precision.BFLOAT16
    recompute: bool = Field(default=False, description="gradient checkpointing: less memory for a third more time")
    sharding: Sharding = Field(default=Sharding.NONE, description="of a run over several cards")
    seed: int = Field(default=0, ge=0)
    save_every: int = Field(default=1000, ge=1)
    validate_every: int = Field(default=1000, ge=1)
    validation_batches: int = Field(default=4, ge=1)
    gradients_every: int = Field(default=0, ge=0, description="steps between logs of each loss's gradient; 0 is never")
    wandb: str | None = Field(default=None, description="project of Weights & Biases that the figures go to as well")

    @model_validator(mode="before")
    @classmethod
    def _with_what_it_extends(cls, given: Any) -> Any:
        return _resolved(given, seen=()) if isinstance(given, dict) else given

    @property
    def has_motion(self) -> bool:
        """Whether an auxiliary objective is trained or carried along."""
        return self.stage is not Stage.ACTION_ONLY and self.motion.train is not HeadTraining.OFF

    @property
    def has_head(self) -> bool:
        """Whether there is a diffusion head; the language target has none."""
        return self.stage is not Stage.VAE and self.has_motion and self.motion.target is not MotionTarget.LANGUAGE

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.stage is Stage.WARMUP and not self.has_head:
            raise ValueError(
                "stage warmup trains the motion head alone, so motion.train can't be off nor target language"
            )
        if self.stage is Stage.WARMUP and self.motion.weight == 0.0:
            raise ValueError("stage warmup trains the motion head alone, so motion.weight can't be 0")
        if self.has_head and self.motion.vae is None:
            raise ValueError("motion.vae is missing: the folder of SDXL's autoencoder, or of one made with stage vae")
        if self.lora is not None and self.stage not in (Stage.FINETUNE, Stage.ACTION_ONLY):
            raise ValueError(f"lora is for the stages finetune and action-only, not {self.stage}")
        if self.sharding is Sharding.FSDP2:
            if self.lora is not None or self.stage is Stage.VAE:
                raise ValueError("sharding fsdp2 is for training the whole policy: lora and stage vae fit one card")
            if self.optimizer.kind is OptimizerKind.MUON:
                raise ValueError("sharding fsdp2 splits matrices, which muon needs whole: use optimizer.kind adamw")
            if self.has_motion and self.motion.target is MotionTarget.LANGUAGE:
                raise ValueError("sharding fsdp2 can't be combined with motion.target language: use sharding none")
        if self.prefix_conditioning.probability > 0 and self.prefix_conditioning.longest >= self.data.horizon:
            raise ValueError("prefix_conditioning.longest must be shorter than data.horizon")
        if self.micro_batch is not None and self.batch % self.micro_batch:
            raise ValueError(f"batch {self.batch} is no multiple of micro_batch {self.micro_batch}")
        if self.data.views is not None:
            unknown = set(self.data.views.cuts) - {key for source in self.data.sources for key in source.cameras}
            if unknown:
                raise ValueError(f"data.views.cuts: no source fills {', '.join(sorted(unknown))}")
        keys = {tuple(source.cameras) for source in self.data.sources}
        if len(keys) > 1:
            raise ValueError(f"data.sources fill different image keys: {sorted(keys)}")
        for source in self.data.sources:
            if source.latents is not None and self.augment.geometric:
                raise ValueError("latents computed beforehand can't follow augment.crop and rotation: use flow instead")
        return self

    def to_yaml(self) -> str:
        """The recipe as a file that `load_recipe` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def override(self, settings: Sequence[str]) -> "Recipe":
        """A recipe with ``section.key=value`` settings changed (values are YAML). Raises `ConfigError`."""
        plain = self.model_dump(mode="json")
        for setting in settings:
            path, equals, value = setting.partition("=")
            *sections, key = path.split(".")
            place: Any = plain
            for section in sections:
                place = _enter(place, section, setting)
            index: Any = int(key) if isinstance(place, list) and key.isdigit() else key
            if not equals or not isinstance(place, dict | list):
                raise ConfigError(f"--set {setting}: expected section.key=value")
            try:
                place[index] = yaml.safe_load(value)
            except (IndexError, TypeError, yaml.YAMLError) as error:
                raise ConfigError(f"--set {setting}: {error}") from None
        try:
            return Recipe.model_validate(plain)
        except ValidationError as error:
            problems = "\n".join(f"  {'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
            raise ConfigError(f"--set {' '.join(settings)}: not allowed:\n{problems}") from None


def load_recipe(name_or_path: str | Path) -> Recipe:
    """The recipe of ``configs/training/NAME.yaml`` or of a YAML file. Raises `ConfigError`."""
    return load_config(Recipe, kind="training", name_or_path=name_or_path)


def available_recipes() -> list[str]:
    """Names that `load_recipe` takes. Files that begin with an underscore are only there to be extended."""
    return sorted(path.stem for path in (CONFIGS / "training").glob("*.yaml") if not path.stem.startswith("_"))


def _resolved(given: dict[str, Any], *, seen: tuple[str, ...]) -> dict[str, Any]:
    """A recipe's content with that of the file it ``extends`` below it."""
    if "extends" not in given:
        return given
    name = str(given["extends"])
    path = CONFIGS / "training" / f"{name}.yaml"
    if name in seen:
        raise ValueError(f"extends: {' extends '.join((*seen, name))}: that goes in a circle")
    try:
        base = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(each.stem for each in path.parent.glob("*.yaml")))
        raise ValueError(f"extends: no recipe {name!r} in {path.parent}; there are {known}") from None
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"extends: {path}: {error}") from None
    rest = {key: value for key, value in given.items() if key != "extends"}
    return _merged(_resolved(base, seen=(*seen, name)), rest)


def _merged(below: Any, above: Any) -> Any:
    """`above` over `below`: sections are merged key by key, everything else is replaced."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: _merged(below[key], value) if key in below else value for key, value in above.items()}


def _enter(place: Any, section: str, setting: str) -> Any:
    if isinstance(place, list) and section.isdigit() and int(section) < len(place):
        return place[int(section)]
    if isinstance(place, dict):
        return place.setdefault(section, {}) if place.get(section) is None else place[section]
    raise ConfigError(f"--set {setting}: there is no {section!r}")
