"""What the head is asked to predict, and that it undergoes what the image does."""

import math
from dataclasses import replace

import pytest
import torch

from policy_server.motion.estimators import DisEstimator
from policy_server.motion.flow_image import FlowEncoding
from policy_server.motion.geometry import identity_affine, warp, warp_flow
from policy_server.motion.small_vae import SmallVae, SmallVaeConfig
from policy_server.pi0.pi0 import Observation
from policy_server.training.augment import Augmentation, draw_augmentation
from policy_server.training.data.samples import MotionInput, TrainingBatch
from policy_server.training.flow_errors import flow_errors
from policy_server.training.motion_targets import MotionTargets
from policy_server.training.recipe import AugmentConfig, MotionTarget

SIZE = 32


def batch_of(kind: MotionInput, motion: torch.Tensor | None, count: int = 2) -> TrainingBatch:
    observation = Observation(
        images=torch.rand(count, 2, 3, SIZE, SIZE) * 2 - 1,
        image_mask=torch.ones(count, 2, dtype=torch.bool),
        tokens=torch.zeros(count, 3, dtype=torch.long),
        token_mask=torch.ones(count, 3, dtype=torch.bool),
        state=torch.randn(count, 8),
    )
    return TrainingBatch(
        observation,
        torch.zeros(count, 5, 8),
        torch.ones(count, 5, dtype=torch.bool),
        kind,
        motion,
        torch.ones(count, dtype=torch.bool),
    )


def targets_of(target: MotionTarget = MotionTarget.FLOW) -> MotionTargets:
    torch.manual_seed(0)
    vae = SmallVae(SmallVaeConfig(channels=(4, 8, 8)))
    return MotionTargets(target, FlowEncoding().for_size(SIZE), vae, DisEstimator(threads=1), None)


def turned(degrees: float) -> torch.Tensor:
    a = math.radians(degrees)
    return torch.tensor([[[math.cos(a), -math.sin(a), 1.0], [math.sin(a), math.cos(a), -2.0]]]).expand(2, -1, -1)


def test_stored_flow_is_moved_with_the_image_and_then_encoded() -> None:
    flow = torch.randn(2, 2, SIZE, SIZE) * 4
    targets = targets_of()
    truth = targets.make(batch_of(MotionInput.FLOW, flow), affine=turned(30.0))
    assert truth.flow is not None
    assert torch.allclose(truth.flow, warp_flow(flow, turned(30.0)))
    assert targets.vae is not None
    assert truth.latents is not None
    assert torch.allclose(truth.latents, targets.vae.encode(targets.encoding.encode(truth.flow)))


def test_a_future_frame_is_moved_with_the_image() -> None:
    future = torch.randint(0, 255, (2, SIZE, SIZE, 3), dtype=torch.uint8)
    targets = targets_of(MotionTarget.FUTURE_IMAGE)
    unit = future.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    truth = targets.make(batch_of(MotionInput.FUTURE, future), affine=turned(10.0))
    assert targets.vae is not None
    assert truth.latents is not None
    assert torch.allclose(truth.latents, targets.vae.encode(warp(unit, turned(10.0), fill=-1.0)), atol=1e-5)
    assert truth.flow is None


def test_the_static_control_is_a_white_picture() -> None:
    targets = targets_of(MotionTarget.STATIC)
    truth = targets.make(batch_of(MotionInput.NONE, None), affine=None)
    assert targets.vae is not None
    assert truth.latents is not None
    assert torch.allclose(truth.latents, targets.vae.encode(torch.ones(2, 3, SIZE, SIZE)))


def test_precomputed_latents_pass_as_they_are() -> None:
    latents = torch.randn(2, 4, 4, 4)
    assert targets_of().make(batch_of(MotionInput.LATENTS, latents), affine=None).latents is latents


def test_an_augmentation_that_draws_nothing_changes_nothing() -> None:
    batch = batch_of(MotionInput.NONE, None)
    drawn = draw_augmentation(
        AugmentConfig(), batch=2, cameras=2, size_px=SIZE, state_width=8, generator=torch.Generator()
    )
    assert drawn == Augmentation()
    after = drawn.apply(batch.observation)
    assert torch.equal(after.images, batch.observation.images)
    assert torch.equal(after.state, batch.observation.state)


def test_only_the_third_person_view_is_cropped_and_turned() -> None:
    observation = batch_of(MotionInput.NONE, None).observation
    drawn = draw_augmentation(
        AugmentConfig(crop=0.9, rotation_deg=5),
        batch=2,
        cameras=2,
        size_px=SIZE,
        state_width=8,
        generator=torch.Generator().manual_seed(0),
    )
    after = drawn.apply(observation)
    assert drawn.affine is not None
    assert torch.allclose(after.images[:, 0], warp(observation.images[:, 0], drawn.affine, fill=-1.0))
    assert torch.equal(after.images[:, 1], observation.images[:, 1])


def test_colours_differ_from_sample_to_sample_and_stay_in_range() -> None:
    observation = batch_of(MotionInput.NONE, None, count=4).observation
    same = replace(observation, images=observation.images[:1].expand(4, -1, -1, -1, -1))
    config = AugmentConfig(brightness=0.3, contrast=0.4, saturation=0.5, color_probability=1.0)
    drawn = draw_augmentation(
        config, batch=4, cameras=2, size_px=SIZE, state_width=8, generator=torch.Generator().manual_seed(0)
    )
    after = drawn.apply(same).images
    assert after.abs().max() <= 1.0
    assert len({round(float(picture.sum()), 3) for picture in after[:, 0]}) == 4


def test_rows_of_an_augmentation_do_what_the_whole_does() -> None:
    batch = batch_of(MotionInput.NONE, None, count=4)
    config = AugmentConfig(crop=0.9, rotation_deg=5, shift_px=2, brightness=0.3, state_noise=0.1)
    drawn = draw_augmentation(
        config, batch=4, cameras=2, size_px=SIZE, state_width=8, generator=torch.Generator().manual_seed(0)
    )
    whole = drawn.apply(batch.observation)
    part = drawn.rows(1, 3).apply(batch.rows(1, 3).observation)
    assert torch.allclose(whole.images[1:3], part.images, atol=1e-6)
    assert torch.allclose(whole.state[1:3], part.state)


def test_flow_errors_compare_with_no_motion_and_with_the_average() -> None:
    truth = torch.zeros(3, 2, 8, 8)
    truth[:, 0, :4] = torch.tensor([2.0, 4.0, 6.0]).view(3, 1, 1)
    perfect = flow_errors(truth, truth, mean_flow=truth.mean(dim=0), moving_px=0.5)
    assert (perfect.end_point_px, perfect.zero_px) == (0.0, 4.0)
    assert perfect.mean_px == pytest.approx(4.0 / 3.0)
    assert perfect.moving_fraction == 0.5
    assert perfect.beats_baselines
    lazy = flow_errors(torch.zeros_like(truth), truth, mean_flow=truth.mean(dim=0), moving_px=0.5)
    assert not lazy.beats_baselines
    across = flow_errors(truth.flip(1), truth, mean_flow=truth.mean(dim=0), moving_px=0.5)
    assert across.angle_deg == pytest.approx(90.0)


def test_the_identity_map_moves_no_flow() -> None:
    flow = torch.randn(2, 2, SIZE, SIZE)
    assert torch.allclose(warp_flow(flow, identity_affine(2)), flow, atol=1e-4)
