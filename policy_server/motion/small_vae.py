"""A small convolutional autoencoder of flow images, for policies that are trained on a CPU.

Eight times smaller in each direction with four channels, as SDXL's is, so the motion head can't tell them apart.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CONFIG_FILE = "small_vae.json"
WEIGHTS_FILE = "small_vae.safetensors"


@dataclass(frozen=True)
class SmallVaeConfig:
    """`channels` are those of the stages, each of which halves the picture."""

    channels: tuple[int, ...] = (16, 32, 64)
    latent_channels: int = 4


class Residual(nn.Module):
    """Two 3x3 convolutions around the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        return features + self.second(F.silu(self.first(F.silu(features))))


class SmallVae(nn.Module):
    """Meets `FlowVae`; `posterior` and `reconstruct` are what its training uses.

    `scale` makes latents have a standard deviation near one (as Stable Diffusion's scaling factor does); the trainer
    sets it from real flow images.
    """

    scale: Tensor

    def __init__(self, config: SmallVaeConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.channels
        down: list[nn.Module] = []
        for before, after in zip((3, *widths[:-1]), widths, strict=True):
            down += [nn.Conv2d(before, after, 4, stride=2, padding=1), Residual(after)]
        self.encoder = nn.Sequential(*down, nn.SiLU(), nn.Conv2d(widths[-1], 2 * config.latent_channels, 1))
        up: list[nn.Module] = [nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1), Residual(widths[-1])]
        for before, after in zip(widths[:0:-1], widths[-2::-1], strict=True):
            up += [nn.Conv2d(before, 4 * after, 3, padding=1), nn.PixelShuffle(2), Residual(after)]
        # At full size a pixel's colour is its neighbours' business no more: the last step is one convolution.
        self.decoder = nn.Sequential(*up, nn.SiLU(), nn.Conv2d(widths[0], 4 * 3, 3, padding=1), nn.PixelShuffle(2))
        self.register_buffer("scale", torch.ones(()))

    @property
    def identity(self) -> str:
        """Class and digest of the weights."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return f"SmallVae sha256:{digest.hexdigest()[:16]}"

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return self.config.latent_channels

    @property
    def downscale(self) -> int:
        """How many times smaller a latent's side is."""
        return int(2 ** len(self.config.channels))

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the unscaled latents."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        return mean, log_variance.clamp(-20.0, 10.0)

    def reconstruct(self, latents: Tensor) -> Tensor:
        """Unscaled latents to images."""
        images: Tensor = self.decoder(latents)
        return images

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """See `FlowVae.encode`."""
        return self.posterior(images)[0] * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """See `FlowVae.decode`."""
        return self.reconstruct(latents / self.scale)

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether the folder holds a small autoencoder."""
        return (folder / CONFIG_FILE).is_file()

    def save(self, folder: Path) -> None:
        """Write weights and configuration; the configuration last, since it is what marks the folder as complete."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / WEIGHTS_FILE)
        (folder / CONFIG_FILE).write_text(json.dumps(asdict(self.config)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "SmallVae":
        """Read what `save` wrote; the folder must hold both files."""
        plain = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        vae = cls(SmallVaeConfig(channels=tuple(plain["channels"]), latent_channels=plain["latent_channels"]))
        vae.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return vae
