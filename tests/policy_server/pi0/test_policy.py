from dataclasses import replace

import numpy as np
import pytest
import torch

from policy_server.errors import RequestError
from policy_server.pi0.checkpoint import random_policy
from policy_server.pi0.config import ModelConfigError
from policy_server.pi0.policy import Policy, PolicyFault, collate


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_chunk_is_absolute_and_has_the_contracts_shape(nano: Policy) -> None:
    observation = nano.example() | {"observation/joint_position": np.array([1.0, -1.0, 2.0, 0.5, 0.0, -2.0])}
    reply = nano.infer(observation, generator=seeded(0))
    assert reply["actions"].shape == (15, 7)
    assert reply["actions"].dtype == np.float64
    assert np.abs(reply["actions"][:, :6] - observation["observation/joint_position"]).max() < 0.2
    assert reply["policy_timing"]["infer_ms"] > 0


def test_the_gripper_stays_between_open_and_closed(nano: Policy) -> None:
    for seed in range(5):
        gripper = nano.infer(nano.example(), generator=seeded(seed))["actions"][:, 6]
        assert ((gripper >= 0) & (gripper <= 1)).all()


def test_the_same_seed_gives_the_same_chunk_and_another_seed_another(nano: Policy) -> None:
    first, again, other = (nano.infer(nano.example(), generator=seeded(s))["actions"] for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("key", ["observation/exterior_image_1_left", "observation/wrist_image_left"])
def test_what_a_camera_sees_changes_the_chunk(nano: Policy, key: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    plain = nano.infer(nano.example(), generator=seeded(0))["actions"]
    assert not np.array_equal(plain, nano.infer(nano.example() | {key: image}, generator=seeded(0))["actions"])


def test_what_is_asked_changes_the_chunk(nano: Policy) -> None:
    cup, can = (
        nano.infer(nano.example() | {"prompt": prompt}, generator=seeded(0))["actions"]
        for prompt in ("Put the cup on the plate", "Put the coke can on the plate")
    )
    assert not np.array_equal(cup, can)


def test_random_weights_say_that_they_are(nano: Policy) -> None:
    assert nano.contract.trained is False
    assert nano.contract.policy == "nano-random"
    assert nano.metadata["contract"]["trained"] is False


def test_the_weights_are_a_function_of_the_seed() -> None:
    digests = [random_policy("nano", seed=seed).contract.checkpoint_digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_making_a_random_policy_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    random_policy("nano", seed=3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_preset_without_a_tokenizer_needs_a_checkpoint() -> None:
    with pytest.raises(ModelConfigError, match="set 'checkpoint'"):
        random_policy("pi0", seed=0)


def test_an_observation_that_cannot_be_served_is_refused(nano: Policy) -> None:
    with pytest.raises(RequestError, match="prompt: expected at most 32 tokens"):
        nano.infer(nano.example() | {"prompt": "z" * 500}, generator=seeded(0))


def test_actions_that_are_not_finite_never_leave_the_policy() -> None:
    broken = random_policy("nano", seed=0, steps=1)
    with torch.no_grad():
        broken.model.action_out_proj.bias[2] = float("nan")
    with pytest.raises(PolicyFault, match="NaN or infinity"):
        broken.infer(broken.example(), generator=seeded(0))


def test_a_collated_ragged_batch_gives_each_sample_its_own_actions(nano: Policy) -> None:
    prompts = ("put the cup", "put the coke can on the plate please")
    samples = [nano.transforms.apply_inputs(nano.example() | {"prompt": prompt}) for prompt in prompts]
    noise = torch.randn(2, 15, 7, generator=seeded(0))
    with torch.inference_mode():
        together = nano.model.sample_actions(collate(samples), noise=noise, steps=2).actions
        alone = [
            nano.model.sample_actions(collate([sample]), noise=noise[i : i + 1], steps=2).actions[0]
            for i, sample in enumerate(samples)
        ]
    assert (together - torch.stack(alone)).abs().max() <= 1e-5


def test_pictures_reach_the_model_between_minus_one_and_one(nano: Policy) -> None:
    black_and_white = nano.example() | {
        "observation/exterior_image_1_left": np.zeros((96, 96, 3), dtype=np.uint8),
        "observation/wrist_image_left": np.full((96, 96, 3), 255, dtype=np.uint8),
    }
    images = collate([nano.transforms.apply_inputs(black_and_white)]).images
    assert images.shape == (1, 2, 3, 96, 96)
    assert (images[0, 0].unique().item(), images[0, 1].unique().item()) == (-1.0, 1.0)


def test_a_policy_whose_parts_do_not_fit_is_refused(nano: Policy) -> None:
    with pytest.raises(ModelConfigError, match="relative: expected 7, found 3"):
        replace(nano.spec, relative=(True,) * 3)
    with pytest.raises(ModelConfigError, match="horizon: expected 15, found 10"):
        replace(nano.spec, interface=replace(nano.spec.interface, horizon=10))
