import pytest
import torch

from policy_server.motion.head import MotionHead, MotionHeadConfig, TimeConditioning
from policy_server.motion.sample import sample_latents

TINY = MotionHeadConfig(width=32, depth=2, heads=4, mlp_width=64, latent_size=8, context_width=24)


def awake(config: MotionHeadConfig = TINY) -> MotionHead:
    """A head whose zero-initialised layers were given something to say."""
    torch.manual_seed(0)
    head = MotionHead(config)
    for parameter in head.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return head


def counted(config: MotionHeadConfig) -> tuple[float, float]:
    with torch.device("meta"):
        head = MotionHead(config)
    blocks, whole = (sum(p.numel() for p in part.parameters()) / 1e6 for part in (head.blocks, head))
    return round(blocks, 1), round(whole)


@pytest.mark.parametrize(
    ("conditioning", "whole"),
    [(TimeConditioning.ADDED, 408), (TimeConditioning.ADALN_SINGLE, 433), (TimeConditioning.ADALN_ZERO, 567)],
)
def test_at_full_size_the_head_has_the_papers_parameters(conditioning: TimeConditioning, whole: int) -> None:
    blocks, total = counted(MotionHeadConfig(time_conditioning=conditioning))
    assert total == whole
    if conditioning is TimeConditioning.ADDED:
        assert blocks == 402.9


@pytest.mark.parametrize("conditioning", TimeConditioning)
@pytest.mark.parametrize("patch", [1, 2])
def test_it_starts_by_predicting_zero(conditioning: TimeConditioning, patch: int) -> None:
    config = MotionHeadConfig(
        width=32,
        depth=2,
        heads=4,
        mlp_width=64,
        latent_size=8,
        context_width=24,
        patch=patch,
        time_conditioning=conditioning,
    )
    head = MotionHead(config)
    memory = head.remember(torch.randn(3, 5, 24), torch.ones(3, 5, dtype=torch.bool))
    velocity = head(torch.randn(3, 4, 8, 8), torch.rand(3), memory)
    assert velocity.shape == (3, 4, 8, 8)
    assert not velocity.any()


@pytest.mark.parametrize("conditioning", TimeConditioning)
def test_time_and_context_matter(conditioning: TimeConditioning) -> None:
    head = awake(MotionHeadConfig(**{**TINY.to_json(), "time_conditioning": conditioning}))
    mask = torch.ones(1, 5, dtype=torch.bool)
    noisy, context = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 24)
    first = head(noisy, torch.tensor([0.2]), head.remember(context, mask))
    assert not torch.allclose(first, head(noisy, torch.tensor([0.8]), head.remember(context, mask)), atol=1e-3)
    assert not torch.allclose(first, head(noisy, torch.tensor([0.2]), head.remember(context.flip(-1), mask)), atol=1e-3)


def test_garbage_in_masked_tokens_changes_nothing() -> None:
    head = awake()
    mask = torch.tensor([[True, True, False, False], [True, False, True, True]])
    noisy, time = torch.randn(2, 4, 8, 8), torch.rand(2)
    context = torch.randn(2, 4, 24)
    garbage = torch.where(mask[..., None], context, 1e4)
    clean, dirty = (head(noisy, time, head.remember(tokens, mask)) for tokens in (context, garbage))
    assert torch.equal(clean, dirty)


def test_sampling_is_euler_from_noise_to_data_and_reads_the_context_once() -> None:
    head = awake()
    mask = torch.ones(2, 5, dtype=torch.bool)
    context, noise = torch.randn(2, 5, 24), torch.randn(2, 4, 8, 8)
    found = sample_latents(head, context=context, context_mask=mask, noise=noise, steps=4)
    expected = noise
    with torch.no_grad():
        for time in (1.0, 0.75, 0.5, 0.25):
            velocity = head(expected, torch.full((2,), time), head.remember(context, mask))
            expected = expected - 0.25 * velocity
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_latent_of_another_shape_is_refused() -> None:
    head = awake()
    memory = head.remember(torch.randn(1, 5, 24), torch.ones(1, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"expected latents of shape \(B, 4, 8, 8\)"):
        head(torch.randn(1, 4, 16, 16), torch.rand(1), memory)


def test_the_configuration_survives_json() -> None:
    assert MotionHeadConfig.from_json(TINY.to_json()) == TINY
