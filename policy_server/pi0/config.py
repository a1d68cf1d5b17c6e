"""The dimensions of the model as data, and the presets.

Trunk and action expert attend jointly, layer by layer, so they share depth, heads and head width; everything else may
differ. What sets `nano` apart from `pi0` are fields here, not branches in the model.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from pydantic import ConfigDict, TypeAdapter, ValidationError

IMAGE_SLOTS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
"""openpi's camera slots, in the order of the prefix."""

_STRICT = ConfigDict(extra="forbid")


class ModelConfigError(ValueError):
    """Dimensions that can't be a model, or a preset that does not exist."""


class TimeInput(StrEnum):
    """How the action expert knows the time: mixed into each action token (π0), or by its norms (π0.5)."""

    ACTION_MLP = "action_mlp"
    ADAPTIVE_NORM = "adaptive_norm"


class StateInput(StrEnum):
    """The state is a token of the expert (π0), words of the prompt (π0.5), or not used (openpi's pi05_libero)."""

    TOKEN = "token"
    PROMPT = "prompt"
    NONE = "none"


@dataclass(frozen=True)
class VisionConfig:
    """SigLIP. One token per `patch_size` x `patch_size` pixels of a square image.

    `stem_channels` empty: one strided convolution cuts the patches, as in SigLIP. Otherwise a small convolutional stem
    does: each channel count is a stride-2 stage, then a residual 3x3 and a 2x2 merge; `patch_size` = 2 ** (stages + 1).
    With `depth` 0 the tokens go straight to the final LayerNorm and all mixing is left to the trunk.
    """

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    stem_channels: tuple[int, ...] = ()

    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ModelConfigError(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        if self.width % self.heads:
            raise ModelConfigError(f"vision width {self.width} can't be split into {self.heads} heads")
        if self.stem_channels and self.patch_size != 2 ** (len(self.stem_channels) + 1):
            raise ModelConfigError(
                f"{len(self.stem_channels)} stem stages make patches of {2 ** (len(self.stem_channels) + 1)} px, "
                f"patch_size says {self.patch_size}"
            )

    @property
    def tokens_per_image(self) -> int:
        """How many prefix tokens one image becomes."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class GemmaConfig:
    """One Gemma stack: the trunk or the action expert."""

    width: int
    depth: int
    mlp_width: int
    heads: int
    kv_heads: int
    head_width: int

    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ModelConfigError(f"{self.heads} heads can't share {self.kv_heads} key/value heads")
        if self.head_width % 2:
            raise ModelConfigError(f"head_width {self.head_width} must be even for rotary positions")


@dataclass(frozen=True)
class Pi0Config:
    """The whole model. `action_dim` is also the width of the state; a robot with fewer is padded with zeros."""

    vision: VisionConfig
    trunk: GemmaConfig
    expert: GemmaConfig
    vocabulary_size: int
    action_dim: int
    action_horizon: int
    max_prompt_tokens: int
    time_input: TimeInput = TimeInput.ACTION_MLP
    state_input: StateInput = StateInput.TOKEN

    __pydantic_config__ = _STRICT

    def __post_init__(self) -> None:
        for field in ("depth", "heads", "kv_heads", "head_width"):
            trunk, expert = getattr(self.trunk, field), getattr(self.expert, field)
            if trunk != expert:
                raise ModelConfigError(f"trunk and expert attend jointly, but {field} is {trunk} and {expert}")
        if self.expert.width % 2:
            raise ModelConfigError(f"expert width {self.expert.width} must be even for the time embedding")
        if self.time_input is TimeInput.ADAPTIVE_NORM and self.state_input is StateInput.TOKEN:
            raise ModelConfigError(
                "time_input adaptive_norm: a state token has no time; use state_input prompt or none"
            )

    @property
    def state_tokens(self) -> int:
        """How many tokens of the expert hold the state: 1 or 0."""
        return int(self.state_input is StateInput.TOKEN)

    def to_json(self) -> dict[str, object]:
        """Plain values for a checkpoint's policy.json."""
        plain: dict[str, object] = _ADAPTER.dump_python(self, mode="json")
        return plain

    @classmethod
    def from_json(cls, plain: object) -> "Pi0Config":
        """The inverse of `to_json`; raises `ModelConfigError` on an unknown, missing or impossible field."""
        try:
            return _ADAPTER.validate_python(plain)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise ModelConfigError(f"model configuration: {problems}") from None


_ADAPTER = TypeAdapter(Pi0Config)

# PaliGemma-3B and gemma_300m as openpi has them: 3.2 B parameters.
_PI0 = Pi0Config(
    vision=VisionConfig(image_size=224, patch_size=14, width=1152, depth=27, heads=16, mlp_width=4304),
    trunk=GemmaConfig(width=2048, depth=18, mlp_width=16384, heads=8, kv_heads=1, head_width=256),
    expert=GemmaConfig(width=1024, depth=18, mlp_width=4096, heads=8, kv_heads=1, head_width=256),
    vocabulary_size=257152,
    action_dim=32,
    action_horizon=50,
    max_prompt_tokens=48,
)

PRESETS: dict[str, Pi0Config] = {
    "pi0": _PI0,
    "pi05": replace(_PI0, max_prompt_tokens=200, time_input=TimeInput.ADAPTIVE_NORM, state_input=StateInput.PROMPT),
    # π0's shape in small, for benchmarks on a processor: bound by matrix products, where nano is bound by dispatch.
    "mid": Pi0Config(
        vision=VisionConfig(image_size=224, patch_size=14, width=384, depth=6, heads=6, mlp_width=1536),
        trunk=GemmaConfig(width=512, depth=6, mlp_width=4096, heads=8, kv_heads=1, head_width=64),
        expert=GemmaConfig(width=256, depth=6, mlp_width=1024, heads=8, kv_heads=1, head_width=64),
        vocabulary_size=2048,
        action_dim=32,
        action_horizon=15,
        max_prompt_tokens=48,
    ),
    # Small enough for a control loop, and for training, on a laptop's processor.
    "nano": Pi0Config(
        vision=VisionConfig(
            image_size=96, patch_size=16, width=192, depth=0, heads=6, mlp_width=768, stem_channels=(24, 48, 96)
        ),
        trunk=GemmaConfig(width=192, depth=4, mlp_width=384, heads=6, kv_heads=6, head_width=32),
        expert=GemmaConfig(width=128, depth=4, mlp_width=256, heads=6, kv_heads=6, head_width=32),
        vocabulary_size=512,
        action_dim=7,
        action_horizon=15,
        max_prompt_tokens=32,
    ),
}


def preset(name: str) -> Pi0Config:
    """The preset of that name; raises `ModelConfigError` naming the ones there are."""
    if name not in PRESETS:
        raise ModelConfigError(f"no preset {name!r}; there are: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
