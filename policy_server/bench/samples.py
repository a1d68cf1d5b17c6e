"""What both contestants of `launch/bench model` sample: sizes, random weights in openpi's layout, one observation.

Sizes are such that LeRobot's π0 can be built in them too: SigLIP patches, PaliGemma's vocabulary.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from policy_server.pi0.config import GemmaConfig, Pi0Config, VisionConfig, preset
from policy_server.pi0.keys import DEAD_HEAD, EMBEDDING, TIED_HEAD
from policy_server.pi0.loading import Precision, load_model
from policy_server.pi0.pi0 import Observation, Pi0
from policy_server.pi0.weights import WeightsFile

STEPS = 10
WORDS = 20
VOCABULARY = 257152
BLOCK_VALUES = 1 << 20
_DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}
LEROBOT_TEXT_LENGTH = 48
WEIGHTS, INPUTS, SIZES_FILE = "model.safetensors", "inputs.npz", "sizes.json"


@dataclass(frozen=True)
class Size:
    """A model of the benchmark: how many samples a turn takes, and the goal against LeRobot, None without a peer.

    A `published` size is written in bfloat16, and sampled once a turn.
    """

    config: Pi0Config
    samples: int
    goal: float | None
    published: bool = False


SIZES = {
    "nano": Size(
        Pi0Config(
            vision=VisionConfig(image_size=96, patch_size=16, width=192, depth=1, heads=6, mlp_width=768),
            trunk=GemmaConfig(width=192, depth=4, mlp_width=512, heads=6, kv_heads=6, head_width=32),
            expert=GemmaConfig(width=128, depth=4, mlp_width=384, heads=6, kv_heads=6, head_width=32),
            vocabulary_size=VOCABULARY,
            action_dim=32,
            action_horizon=15,
            max_prompt_tokens=LEROBOT_TEXT_LENGTH,
        ),
        samples=5,
        goal=2.0,
    ),
    "mid": Size(replace(preset("mid"), vocabulary_size=VOCABULARY), samples=1, goal=1.3),
    "pi0": Size(replace(preset("pi0"), action_horizon=15), samples=1, goal=1.25, published=True),
    "pi05": Size(replace(preset("pi05"), action_horizon=15), samples=1, goal=None, published=True),
}


def write_samples(folder: Path, name: str, *, dtype: torch.dtype = torch.float32) -> None:
    """Weights, inputs and sizes of a model into a folder. The weights are random, repeated from a block for speed."""
    config = SIZES[name].config
    write_random_weights(config, folder / WEIGHTS, dtype=dtype)
    random = np.random.default_rng(1)
    side = config.vision.image_size
    np.savez(
        folder / INPUTS,
        images=random.uniform(-1.0, 1.0, (1, 2, 3, side, side)).astype(np.float32),
        tokens=random.integers(3, 500, (1, WORDS)),
        state=random.normal(size=(1, config.action_dim)).astype(np.float32),
        noise=random.normal(size=(1, config.action_horizon, config.action_dim)).astype(np.float32),
    )
    (folder / SIZES_FILE).write_text(json.dumps(config.to_json()), encoding="utf-8")


def write_random_weights(config: Pi0Config, path: Path, *, dtype: torch.dtype, prefix: str = "") -> None:
    """Random weights under exactly the names of openpi's files, of a size that keeps activations sound; written piece
    by piece, so that a full-size file needs no memory to speak of. LeRobot's names are the same after a `prefix`."""
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in Pi0(config).state_dict().items()}
    shapes[TIED_HEAD] = shapes.pop(EMBEDDING)
    shapes[DEAD_HEAD] = (config.vocabulary_size, config.expert.width)
    header: dict[str, object] = {"__metadata__": {prefix + EMBEDDING: prefix + TIED_HEAD}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[prefix + name] = {"dtype": _DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = torch.randn(BLOCK_VALUES, generator=torch.Generator().manual_seed(0))
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number, shape in enumerate(shapes.values()):
            scale = 0.1 if len(shape) == 1 else 0.7 * math.prod(shape[1:]) ** -0.5
            values = (block.roll(number * 7919) * scale).to(dtype).view(torch.uint8).numpy()
            left = math.prod(shape) * dtype.itemsize
            while left > 0:
                left -= file.write(values[:left].data)


def read_samples(folder: Path) -> tuple[Observation, torch.Tensor]:
    """The observation and the noise."""
    with np.load(folder / INPUTS) as inputs:
        values = {key: torch.from_numpy(inputs[key]) for key in inputs.files}
    noise = values.pop("noise")
    return (
        Observation(
            **values,
            image_mask=torch.ones(values["images"].shape[:2], dtype=torch.bool),
            token_mask=torch.ones(values["tokens"].shape, dtype=torch.bool),
        ),
        noise,
    )


def read_model(folder: Path, *, precision: Precision) -> Pi0:
    """Our model with the folder's weights."""
    config = Pi0Config.from_json(json.loads((folder / SIZES_FILE).read_text(encoding="utf-8")))
    file = WeightsFile.open(folder / WEIGHTS)
    return load_model(config, file, device=torch.device("cpu"), precision=precision).model.eval()


def operations(config: Pi0Config, *, words: int = WORDS, steps: int = STEPS) -> float:
    """Floating-point operations of one sample's matrix products, two cameras, without what the lean path leaves out."""
    vision, trunk, expert = config.vision, config.trunk, config.expert
    image_tokens = 2 * vision.tokens_per_image
    per_vision_layer = 4 * vision.width**2 + 2 * vision.width * vision.mlp_width
    total: float = image_tokens * (
        vision.depth * per_vision_layer + vision.width * trunk.width + 3 * vision.patch_size**2 * vision.width
    )
    prefix = image_tokens + words

    def layer(stack: GemmaConfig) -> float:
        inner = stack.heads * stack.head_width
        shared = 2 * stack.kv_heads * stack.head_width
        return stack.width * (2 * inner + shared) + 3 * stack.width * stack.mlp_width

    total += prefix * layer(trunk) * (trunk.depth - 1)
    total += (steps * config.action_horizon + 1) * layer(expert) * expert.depth
    pairs = prefix**2 * (trunk.depth - 1) + steps * config.action_horizon * prefix * expert.depth
    total += 2 * pairs * trunk.heads * trunk.head_width
    return 2.0 * total
