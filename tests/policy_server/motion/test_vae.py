import json
from pathlib import Path

import pytest
import torch

from policy_server.motion.small_vae import SmallVae, SmallVaeConfig
from policy_server.motion.vae import VaeError, check_latent_shape, load_vae

CPU = torch.device("cpu")


def test_a_small_autoencoder_is_the_same_after_saving_and_loading(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = SmallVae(SmallVaeConfig(channels=(4, 8, 8)))
    vae.scale.fill_(0.5)
    vae.save(tmp_path / "vae")
    loaded = load_vae(tmp_path / "vae", device=CPU)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    assert loaded.identity == vae.identity
    assert torch.equal(loaded.encode(images), vae.encode(images))
    assert loaded.encode(images).shape == (2, 4, 4, 4)
    assert loaded.decode(loaded.encode(images)).shape == images.shape
    assert (loaded.latent_channels, loaded.downscale) == (4, 8)


def test_a_loaded_autoencoder_is_frozen(tmp_path: Path) -> None:
    SmallVae(SmallVaeConfig(channels=(4, 8, 8))).save(tmp_path)
    vae = load_vae(tmp_path, device=CPU)
    assert isinstance(vae, SmallVae)
    assert not any(parameter.requires_grad for parameter in vae.parameters())


def test_diffusers_autoencoder_is_scaled_by_its_own_factor_and_takes_the_mode(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    original = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
        layers_per_block=1,
        scaling_factor=0.13025,
    )
    original.save_pretrained(tmp_path)
    vae = load_vae(tmp_path, device=CPU)
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    latents = vae.encode(images)
    assert torch.allclose(latents, original.encode(images).latent_dist.mode() * 0.13025, atol=1e-6)
    assert torch.equal(latents, vae.encode(images))
    assert vae.decode(latents).shape == images.shape
    assert (vae.latent_channels, vae.downscale) == (4, 8)


def test_an_absent_or_empty_folder_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(VaeError, match="launch/train --recipe nano-vae"):
        load_vae(tmp_path / "absent", device=CPU)
    with pytest.raises(VaeError, match=r"no config\.json"):
        load_vae(tmp_path, device=CPU)


def test_latents_that_do_not_fit_the_head_are_refused() -> None:
    vae = SmallVae(SmallVaeConfig(channels=(4, 8, 8)))
    check_latent_shape(vae, channels=4, size=12, image_size=96)
    with pytest.raises(VaeError, match="side 12 from 96 px pictures, the motion head expects 4 channels and side 28"):
        check_latent_shape(vae, channels=4, size=28, image_size=96)


def test_saved_configuration_is_plain_json(tmp_path: Path) -> None:
    SmallVae(SmallVaeConfig()).save(tmp_path)
    assert json.loads((tmp_path / "small_vae.json").read_text())["latent_channels"] == 4
