"""The motion head on disk, beside a policy and never inside it: ``motion_head.safetensors`` and ``motion.json``.

The JSON says what its latents mean: encoding, norm, pair distance, autoencoder and estimator by digest. Neither
autoencoder nor estimator is stored.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from policy_server.motion.flow_image import EncodingKind, FlowEncoding
from policy_server.motion.head import MotionHead, MotionHeadConfig

WEIGHTS_FILE = "motion_head.safetensors"
DESCRIPTION_FILE = "motion.json"
PREFIX = "motion_head."


class MotionFileError(ValueError):
    """A motion head that is absent, damaged, or does not fit. Says what was expected and found."""


@dataclass(frozen=True)
class MotionDescription:
    """What the head was trained to predict. `target` is ``flow`` or the name of a control, `horizon` is the distance
    of the two frames, `image_size` the picture's side.
    """

    head: MotionHeadConfig
    encoding: FlowEncoding
    target: str
    horizon: int
    image_size: int
    vae: str
    source: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"format": "nova-pi-motion-head", "version": 1, **asdict(self)}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "MotionDescription":
        """The inverse of `to_json`."""
        encoding = {**plain["encoding"], "kind": EncodingKind(plain["encoding"]["kind"])}
        return cls(
            head=MotionHeadConfig.from_json(plain["head"]),
            encoding=FlowEncoding(**encoding),
            target=str(plain["target"]),
            horizon=int(plain["horizon"]),
            image_size=int(plain["image_size"]),
            vae=str(plain["vae"]),
            source=str(plain["source"]),
        )


def save_motion_head(head: MotionHead, description: MotionDescription, folder: Path) -> None:
    """Write weights, under ``motion_head.``, and description."""
    weights = {PREFIX + name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE)
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description.to_json(), indent=2) + "\n", encoding="utf-8")


def has_motion_head(folder: Path) -> bool:
    """Whether a checkpoint has one."""
    return (folder / DESCRIPTION_FILE).is_file()


def load_motion_head(folder: Path) -> tuple[MotionHead, MotionDescription]:
    """The head of a checkpoint. Raises `MotionFileError`."""
    try:
        description = MotionDescription.from_json(json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8")))
        weights: dict[str, Tensor] = load_file(folder / WEIGHTS_FILE)
    except FileNotFoundError as error:
        raise MotionFileError(f"{error.filename}: no such file; this checkpoint has no motion head") from None
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise MotionFileError(f"{folder}: the motion head can't be read: {error}") from None
    with torch.device("meta"):
        head = MotionHead(description.head)
    wanted = {PREFIX + name: value.shape for name, value in head.state_dict().items()}
    unlike = sorted(wanted.keys() ^ weights.keys()) or [n for n in wanted if wanted[n] != weights[n].shape]
    if unlike:
        raise MotionFileError(f"{folder}: {len(unlike)} tensors don't fit motion.json, the first is {unlike[0]}")
    head.load_state_dict({name.removeprefix(PREFIX): value for name, value in weights.items()}, assign=True)
    return head, description
