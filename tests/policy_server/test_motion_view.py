"""The motion head served: a real head and autoencoder behind a real server."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.schema import PolicyConfig
from policy_server.ask import Ask
from policy_server.client import MotionPicture, PolicyClient
from policy_server.load import load_motion_view
from policy_server.motion.files import MotionDescription, MotionFileError, save_motion_head
from policy_server.motion.flow_image import FlowEncoding
from policy_server.motion.head import MotionHead, MotionHeadConfig
from policy_server.motion.small_vae import SmallVae, SmallVaeConfig
from policy_server.motion_view import MotionView
from policy_server.pi0.checkpoint import CheckpointError, random_policy, save_policy
from policy_server.pi0.policy import Policy, Sampling
from policy_server.pi0.views import Cut, Views

HEAD = MotionHeadConfig(width=32, depth=1, heads=2, mlp_width=32, latent_size=12, context_width=192)


@pytest.fixture(scope="module")
def policy() -> Policy:
    torch.set_num_threads(1)
    return random_policy("nano", seed=0, sampling=Sampling(steps=1, lean=True))


@pytest.fixture
def checkpoint(policy: Policy, tmp_path: Path) -> Path:
    return write(policy, tmp_path / "policy", HEAD)


def write(policy: Policy, folder: Path, head_config: MotionHeadConfig) -> Path:
    """A policy with a motion head beside it and the autoencoder inside."""
    save_policy(policy, folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae, head = SmallVae(SmallVaeConfig(channels=(4, 4, 4))), MotionHead(head_config)
        torch.nn.init.normal_(head.output.weight, std=0.1)
    (folder / "vae").mkdir()
    vae.save(folder / "vae")
    description = MotionDescription(
        head=head_config,
        encoding=FlowEncoding().for_size(96),
        target="flow",
        horizon=15,
        image_size=96,
        vae=vae.identity,
        source="test",
    )
    save_motion_head(head, description, folder)
    return folder


def configured(folder: Path | None) -> PolicyConfig:
    return PolicyConfig(name="test", preset="nano", checkpoint=None if folder is None else str(folder))


def painted(view: MotionView, policy: Policy) -> tuple[np.ndarray, int]:

    answer = policy.infer_batch([Ask(policy.example(), keep_prefix=True)], generator=torch.Generator().manual_seed(0))[
        0
    ]
    assert not isinstance(answer, Exception)
    assert answer.prefix is not None
    steps: Iterator[Any] = view.paint(answer.prefix)
    pictures = list(steps)
    assert all(step is None for step in pictures[:-1])
    assert pictures[-1].scale_px >= 5.0
    return pictures[-1].image, len(pictures)


@pytest.mark.parametrize("layer", [-1, -2])
def test_a_picture_is_painted_in_small_steps(policy: Policy, tmp_path: Path, layer: int) -> None:
    folder = write(policy, tmp_path / "policy", replace(HEAD, z_layer=layer))
    view = load_motion_view(configured(folder), policy, device=torch.device("cpu"))
    image, steps = painted(view, policy)
    assert image.shape == (224, 224, 3)
    assert image.dtype == np.uint8
    assert steps > 10  # one for each Euler step at least
    assert image.std() > 0


def test_a_client_gets_the_picture_of_the_head(
    policy: Policy, checkpoint: Path, run_server: Any, wait_for: Any
) -> None:
    view = load_motion_view(configured(checkpoint), policy, device=torch.device("cpu"))
    pictures: list[MotionPicture] = []
    with run_server(policy, painter=view) as server:
        with PolicyClient(server.uri, on_motion_picture=pictures.append) as client:
            client.infer(policy.example(), observation_time_ns=5, motion_image=True)
            wait_for(lambda: client.receive_pictures(wait_s=0.2) == 1)
    assert pictures[0].image.shape == (224, 224, 3)
    assert pictures[0].motion_ms > 0.0
    assert pictures[0].region == (0.0, 0.0, *map(float, policy.contract.image_size))


def test_a_picture_says_which_part_of_the_cameras_it_shows(policy: Policy, checkpoint: Path) -> None:
    """96 of 256 px are enlarged to the policy's square; what moves 12 px there moves 12 * 96 / side in the camera's."""
    key = policy.spec.interface.image_keys[0]
    views = Views(144, 256, {key: Cut(40, 84, 96, 96)})
    cutting = Policy(
        replace(policy.spec, views=views),
        model=policy.model,
        tokenizer=policy.tokenizer,
        checkpoint_digest="cut",
        sampling=Sampling(steps=1, lean=True),
    )
    whole, part = (
        load_motion_view(configured(checkpoint), one, device=torch.device("cpu")) for one in (policy, cutting)
    )
    answer = policy.infer_batch([Ask(policy.example(), keep_prefix=True)], generator=torch.Generator().manual_seed(0))[
        0
    ]
    assert not isinstance(answer, Exception)
    of_whole, of_part = (list(view.paint(answer.prefix))[-1] for view in (whole, part))
    assert of_whole is not None
    assert of_part is not None
    assert of_part.region == (40.0, 84.0, 96.0, 96.0)
    assert np.array_equal(of_part.image, of_whole.image)
    assert of_part.scale_px / of_whole.scale_px == pytest.approx(96 / policy.contract.image_size[1])


def test_a_head_that_reads_an_earlier_layer_is_refused(policy: Policy, tmp_path: Path) -> None:
    folder = write(policy, tmp_path / "policy", replace(HEAD, z_layer=-3))
    with pytest.raises(MotionFileError, match="reads layer -3; a served policy keeps the last two"):
        load_motion_view(configured(folder), policy, device=torch.device("cpu"))


def test_motion_without_a_head_or_checkpoint_is_refused(policy: Policy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "bare")
    with pytest.raises(MotionFileError, match="has no motion head"):
        load_motion_view(configured(tmp_path / "bare"), policy, device=torch.device("cpu"))
    with pytest.raises(CheckpointError, match="--motion needs a trained checkpoint"):
        load_motion_view(configured(None), policy, device=torch.device("cpu"))
