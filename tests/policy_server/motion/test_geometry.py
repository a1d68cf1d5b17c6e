import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_server.motion.estimators import DisEstimator
from policy_server.motion.geometry import half_turn, identity_affine, random_affine, shift_affine, warp, warp_flow


def rotation(degrees: float) -> torch.Tensor:
    a = math.radians(degrees)
    return torch.tensor([[[math.cos(a), -math.sin(a), 0.0], [math.sin(a), math.cos(a), 0.0]]])


def dis_flow(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    frames = torch.stack([first, second]).round().clamp(0, 255).to(torch.uint8)
    return DisEstimator(threads=1).flows(frames, torch.tensor([[0, 1]]))


def test_the_identity_changes_nothing(textured: torch.Tensor) -> None:
    assert torch.allclose(warp(textured[None], identity_affine(1)), textured[None], atol=1e-2)


def test_a_shift_moves_the_picture_that_way(textured: torch.Tensor) -> None:
    moved = warp(textured[None], shift_affine(torch.tensor([[3.0, -2.0]])))
    assert torch.allclose(moved[0, :, 10:50, 13:50], textured[:, 12:52, 10:47], atol=1e-2)


def test_a_quarter_turn_takes_right_to_down() -> None:
    flow = torch.zeros(1, 2, 8, 8)
    flow[:, 0] = 5.0
    turned = warp_flow(flow, rotation(90.0))
    assert torch.allclose(turned[0, :, 4, 4], torch.tensor([0.0, 5.0]), atol=1e-5)


@pytest.mark.parametrize("degrees", [-20.0, 5.0, 30.0])
def test_rotating_the_frames_and_then_estimating_equals_estimating_and_then_rotating(
    textured: torch.Tensor, degrees: float
) -> None:
    second = warp(textured[None], shift_affine(torch.tensor([[4.0, 2.0]])))[0]
    affine = rotation(degrees)
    of_rotated = dis_flow(warp(textured[None], affine)[0], warp(second[None], affine)[0])
    rotated = warp_flow(dis_flow(textured, second), affine)
    inside = (..., slice(45, 83), slice(45, 83))
    assert (of_rotated[inside] - rotated[inside]).norm(dim=1).mean() < 0.25


def test_flow_of_frames_that_were_turned_first_differs_from_a_field_that_was_merely_flipped(
    textured: torch.Tensor,
) -> None:
    """LIBERO: the half turn comes before the flow. Flipping the field alone leaves its vectors the wrong way round."""
    second = warp(textured[None], shift_affine(torch.tensor([[5.0, 0.0]])))[0]
    right = dis_flow(half_turn(textured), half_turn(second))
    inside = (..., slice(30, 98), slice(30, 98))
    assert right[inside][:, 0].mean() == pytest.approx(-5.0, abs=0.3)
    assert half_turn(dis_flow(textured, second))[inside][:, 0].mean() == pytest.approx(5.0, abs=0.3)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_a_random_crop_keeps_inside_the_picture_and_enlarges_by_its_inverse(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    affine = random_affine(4, crop=0.9, rotation_rad=0.0, size_px=100, generator=generator)
    assert torch.allclose(affine[:, :, :2], torch.eye(2).expand(4, 2, 2) / 0.9)
    assert affine[:, :, 2].abs().max() <= 5.0 / 0.9 + 1e-4
    inside = warp(torch.ones(4, 1, 100, 100), affine)[:, :, 1:-1, 1:-1]
    assert torch.allclose(inside, torch.ones(4, 1, 98, 98))


def test_each_sample_gets_a_draw_of_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    affine = random_affine(8, crop=0.95, rotation_rad=0.1, size_px=224, generator=generator)
    assert len({tuple(row.flatten().tolist()) for row in affine}) == 8
