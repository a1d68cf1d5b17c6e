"""The frozen autoencoder of flow images: SDXL's through diffusers, or this project's own small one."""

import hashlib
import json
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from policy_server.motion.small_vae import SmallVae


class VaeError(ValueError):
    """An autoencoder that is absent, broken, or does not fit the motion head. Says what to change."""


class FlowVae(Protocol):
    """Images (B, 3, H, W) in [-1, 1] to scaled latents (B, C, H / downscale, W / downscale), and back."""

    @property
    def identity(self) -> str:
        """Names architecture and weights."""
        ...

    @property
    def latent_channels(self) -> int: ...

    @property
    def downscale(self) -> int: ...

    def encode(self, images: Tensor) -> Tensor:
        """The posterior's mode times the scaling factor: deterministic, so it may be cached."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images in about [-1, 1]; not clamped."""
        ...


class DiffusersVae:
    """A `diffusers.AutoencoderKL` from a folder, such as `madebyollin/sdxl-vae-fp16-fix` or SDXL's `vae`."""

    def __init__(self, folder: Path, *, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        try:
            from diffusers import AutoencoderKL
        except ImportError:
            raise VaeError("SDXL's VAE is loaded with diffusers: pip install 'nova-pi[train]'") from None
        if not (folder / "config.json").is_file():
            raise VaeError(
                f"{folder}: no config.json of an AutoencoderKL. Download madebyollin/sdxl-vae-fp16-fix (MIT) there "
                "and set motion.vae to that folder."
            )
        self._vae = AutoencoderKL.from_pretrained(folder, local_files_only=True).to(device, dtype)
        self._vae.eval().requires_grad_(requires_grad=False)
        self._scale = float(self._vae.config.scaling_factor)
        if getattr(self._vae.config, "shift_factor", None):
            raise VaeError(f"{folder}: an autoencoder with a shift_factor is not SDXL's")
        self._identity = f"AutoencoderKL sha256:{_digest(folder)}"

    @property
    def identity(self) -> str:
        """Class and digest of the weights."""
        return self._identity

    @property
    def latent_channels(self) -> int:
        """4 for SDXL."""
        return int(self._vae.config.latent_channels)

    @property
    def downscale(self) -> int:
        """8 for SDXL."""
        return int(2 ** (len(self._vae.config.block_out_channels) - 1))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """See `FlowVae.encode`."""
        mode = self._vae.encode(images.to(self._vae.device, self._vae.dtype)).latent_dist.mode()
        return mode.float() * self._scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """See `FlowVae.decode`."""
        return self._vae.decode(latents.to(self._vae.device, self._vae.dtype) / self._scale).sample.float()


def load_vae(path: Path, *, device: torch.device, dtype: torch.dtype = torch.float32) -> FlowVae:
    """The autoencoder in a folder: a small one, or diffusers'. Raises `VaeError`."""
    if not path.is_dir():
        raise VaeError(
            f"{path}: no such folder. Train a small autoencoder with launch/train --recipe nano-vae, or download "
            "madebyollin/sdxl-vae-fp16-fix, and set motion.vae to its folder."
        )
    if SmallVae.is_in(path):
        return SmallVae.load(path).to(device).eval().requires_grad_(requires_grad=False)
    return DiffusersVae(path, device=device, dtype=dtype)


def check_latent_shape(vae: FlowVae, *, channels: int, size: int, image_size: int) -> None:
    """Raises `VaeError` if the latents of `image_size` pictures are not (channels, size, size)."""
    found = (vae.latent_channels, image_size // vae.downscale)
    if found != (channels, size) or image_size % vae.downscale:
        raise VaeError(
            f"motion.vae makes latents of {found[0]} channels and side {image_size / vae.downscale:g} from "
            f"{image_size} px pictures, the motion head expects {channels} channels and side {size}: "
            "change motion.head or motion.vae"
        )


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        raise VaeError(f"{folder}: no weights (*.safetensors) beside config.json")
    digest.update(json.dumps(json.loads((folder / "config.json").read_text()), sort_keys=True).encode())
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
