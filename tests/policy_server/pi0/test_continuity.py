"""Real-time chunking against the equations written out, and what a policy does with what is left of a chunk."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from policy_server.ask import Ask, Continuity, Leftover
from policy_server.errors import RequestError
from policy_server.pi0.continuity import (
    MAX_GUIDANCE,
    GuidanceForm,
    Target,
    guidance,
    guidance_scale,
    guidance_weights,
    most_coherent,
)
from policy_server.pi0.pi0 import integrate
from policy_server.pi0.policy import Answer, Policy, Sampling

MakePolicy = Callable[..., Policy]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_weights_are_one_then_decay_exponentially_then_nothing() -> None:
    weights = guidance_weights(committed=2, left=5, horizon=8)
    ramp = [3 / 4, 2 / 4, 1 / 4]
    expected = [1.0, 1.0] + [c * (math.exp(c) - 1.0) / (math.e - 1.0) for c in ramp] + [0.0, 0.0, 0.0]
    assert weights == pytest.approx(expected)


@pytest.mark.parametrize(("committed", "left"), [(0, 0), (0, 4), (4, 4), (8, 8)])
def test_edge_cases_of_the_weights(committed: int, left: int) -> None:
    weights = guidance_weights(committed=committed, left=left, horizon=8)
    assert weights.shape == (8,)
    assert (weights[:committed] == 1.0).all()
    assert (weights[left:] == 0.0).all()
    assert (np.diff(weights) <= 0.0).all()


def test_more_committed_than_left_is_refused() -> None:
    with pytest.raises(ValueError, match="0 <= committed <= left <= 8, found 5 and 3"):
        guidance_weights(committed=5, left=3, horizon=8)


@pytest.mark.parametrize("tau", [0.0, 0.1, 0.5, 0.9])
def test_the_pull_is_the_papers_clipped_weight(tau: float) -> None:
    if tau == 0.0:
        assert guidance_scale(1.0) == MAX_GUIDANCE
        return
    r_squared = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
    assert guidance_scale(1.0 - tau) == pytest.approx(min(MAX_GUIDANCE, (1 - tau) / (tau * r_squared)))


MIX = torch.randn(4, 4, generator=seeded(5)) * 0.4


def field(noisy: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """A velocity that is not linear in its input."""
    return torch.tanh(noisy @ MIX) + time.float().view(-1, 1, 1)


def reference(noise: torch.Tensor, target: Target, *, steps: int, through_model: bool) -> torch.Tensor:
    """Real-time chunking as the paper has it: tau from 0 (noise) to 1 (data), v = data - noise."""
    x = noise.clone()
    for k in range(steps):
        tau = k / steps
        time = torch.full((len(x),), 1.0 - tau, dtype=torch.float64)
        weight = MAX_GUIDANCE
        if tau > 0:
            r_squared = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
            weight = min(MAX_GUIDANCE, (1 - tau) / (tau * r_squared))
        v = -field(x, time)
        error = target.weights * (target.actions - (x + (1 - tau) * v))
        if through_model:
            jacobian = torch.autograd.functional.jacobian(
                lambda a, time=time, tau=tau: a + (1 - tau) * -field(a, time), x
            )
            size = x.numel()
            error = (error.reshape(1, size) @ jacobian.reshape(size, size)).view_as(x)
        x = x + (v + weight * error) / steps
    return x


@pytest.mark.parametrize("form", list(GuidanceForm))
def test_guidance_is_the_algorithm_written_out(form: GuidanceForm) -> None:
    noise = torch.randn(2, 3, 4, generator=seeded(1))
    target = Target(torch.randn(2, 3, 4, generator=seeded(2)), torch.rand(2, 3, 4, generator=seeded(3)))
    found = integrate(field, noise=noise, steps=6, committed=None, correct=guidance(target, form=form))
    expected = reference(noise, target, steps=6, through_model=form is GuidanceForm.PUBLISHED)
    assert (found - expected).abs().max() <= 1e-5


def test_the_most_coherent_chunk_is_the_nearest_where_it_counts() -> None:
    chunks = torch.zeros(2, 3, 4, 2)
    chunks[0, 1], chunks[1, 2] = 1.0, 1.0
    chunks[0, 0, 3] = 1.0  # near only where the weight is nothing
    weights = torch.zeros(2, 4, 2)
    weights[:, :3] = 1.0
    assert most_coherent(chunks, Target(torch.ones(2, 4, 2), weights)).tolist() == [1, 2]


def leftover_of(chunk: np.ndarray, *, after: int, committed: int) -> Leftover:
    return Leftover(chunk[after:], committed)


def one(policy: Policy, ask: Ask, seed: int = 0) -> np.ndarray:
    answer = policy.infer_batch([ask], generator=seeded(seed))[0]
    assert isinstance(answer, Answer)
    return answer.actions


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_a_policy_trained_so_keeps_the_committed_actions(small_policy: MakePolicy, kind: str) -> None:
    policy = small_policy(kind, prefix_conditioning=True)
    assert policy.contract.prefix_conditioning
    left = leftover_of(one(policy, Ask(policy.example()), seed=1), after=5, committed=3)
    moved = policy.example() | {"observation/joint_position": np.full(6, 0.1)}
    chunk = one(policy, Ask(moved, left), seed=2)
    assert np.abs(chunk[:3] - left.actions[:3]).max() <= 1e-5  # absolute again, though the state has moved
    assert np.abs(chunk[3:10] - left.actions[3:]).max() > 1e-3


@pytest.mark.parametrize("form", list(GuidanceForm))
@pytest.mark.parametrize("lean", [False, True])
def test_guidance_pulls_any_policy_towards_what_is_left(
    small_policy: MakePolicy, form: GuidanceForm, lean: bool
) -> None:
    policy = small_policy("pi0", sampling=Sampling(steps=10, guidance=form, lean=lean))
    left = leftover_of(one(policy, Ask(policy.example()), seed=1), after=5, committed=4)
    free = one(policy, Ask(policy.example(), left, Continuity.NONE), seed=2)
    pulled = one(policy, Ask(policy.example(), left, Continuity.GUIDED), seed=2)
    far, near = (np.abs(chunk[:4] - left.actions[:4]).mean() for chunk in (free, pulled))
    assert near < 0.5 * far


def test_without_being_asked_an_untrained_policy_ignores_what_is_left(small_policy: MakePolicy) -> None:
    policy = small_policy("pi0")
    left = leftover_of(one(policy, Ask(policy.example()), seed=1), after=5, committed=4)
    assert np.array_equal(one(policy, Ask(policy.example(), left)), one(policy, Ask(policy.example())))
    refused = policy.infer_batch([Ask(policy.example(), left, Continuity.COMMITTED)], generator=seeded())[0]
    assert isinstance(refused, RequestError)
    assert "not trained with committed actions" in str(refused)


@pytest.mark.parametrize("lean", [False, True])
def test_without_noise_the_observation_alone_decides_the_chunk(small_policy: MakePolicy, lean: bool) -> None:
    def chunks(noise_scale: float) -> list[np.ndarray]:
        policy = small_policy("pi0", sampling=Sampling(steps=4, lean=lean, noise_scale=noise_scale))
        return [one(policy, Ask(policy.example()), seed=seed) for seed in range(8)]

    none, half, full = (np.ptp(chunks(scale), axis=0).mean() for scale in (0.0, 0.5, 1.0))
    assert none == 0.0
    assert 0.0 < half < full


def test_the_best_of_several_chunks_is_nearer_than_one(small_policy: MakePolicy) -> None:
    single, best = (small_policy("pi0", sampling=Sampling(steps=4, lean=True, best_of=n)) for n in (1, 8))
    left = leftover_of(one(single, Ask(single.example()), seed=1), after=3, committed=8)
    ask = Ask(single.example(), left, Continuity.GUIDED)
    far, near = (np.abs(one(p, ask, seed=4)[:8] - left.actions[:8]).mean() for p in (single, best))
    assert near < far


def test_a_mixed_batch_gives_each_request_its_own(small_policy: MakePolicy) -> None:
    policy = small_policy("pi05", prefix_conditioning=True, sampling=Sampling(steps=4, lean=True))
    left = leftover_of(one(policy, Ask(policy.example()), seed=1), after=5, committed=3)
    asks = [
        Ask(policy.example(), seed=1),
        Ask(policy.example() | {"prompt": ""}, seed=2),
        Ask(policy.example(), left, seed=3),
        Ask(policy.example() | {"prompt": "put the tape down"}, left, Continuity.GUIDED, seed=4),
    ]
    together = policy.infer_batch(asks, generator=seeded())
    assert isinstance(together[1], RequestError)
    for index in (0, 2, 3):
        answer = together[index]
        assert isinstance(answer, Answer)
        assert np.abs(answer.actions - one(policy, asks[index])).max() <= 1e-5
