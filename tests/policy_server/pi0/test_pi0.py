import math
from dataclasses import replace

import pytest
import torch

from policy_server.pi0.config import GemmaConfig, Pi0Config, VisionConfig, preset
from policy_server.pi0.pi0 import Observation, Pi0, attention_rule, time_embedding

TINY = Pi0Config(
    vision=VisionConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2, mlp_width=24),
    trunk=GemmaConfig(width=24, depth=3, mlp_width=32, heads=4, kv_heads=1, head_width=8),
    expert=GemmaConfig(width=16, depth=3, mlp_width=24, heads=4, kv_heads=1, head_width=8),
    vocabulary_size=20,
    action_dim=5,
    action_horizon=6,
    max_prompt_tokens=8,
)
PATCHES = 4


@pytest.fixture(scope="module")
def model() -> Pi0:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Pi0(TINY)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def ragged_batch(seed: int = 2) -> Observation:
    """Three samples: two cameras and a full prompt; the second camera absent; a short prompt."""
    generator = torch.Generator().manual_seed(seed)
    return Observation(
        images=torch.rand(3, 2, 3, 16, 16, generator=generator) * 2 - 1,
        image_mask=torch.tensor([[True, True], [True, False], [True, True]]),
        tokens=torch.randint(0, 20, (3, 5), generator=generator),
        token_mask=torch.tensor([[True] * 5, [True] * 5, [True, True, False, False, False]]),
        state=torch.randn(3, 5, generator=generator),
    )


def noise(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 6, 5, generator=torch.Generator().manual_seed(3))


def one(batch: Observation, row: int, *, cameras: int, words: int) -> Observation:
    """A single sample of a batch, with its padding cut away."""
    return Observation(
        images=batch.images[row : row + 1, :cameras],
        image_mask=batch.image_mask[row : row + 1, :cameras],
        tokens=batch.tokens[row : row + 1, :words],
        token_mask=batch.token_mask[row : row + 1, :words],
        state=batch.state[row : row + 1],
    )


def test_the_pi0_preset_has_exactly_the_parameters_of_openpis_checkpoint() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Pi0(preset("pi0")).state_dict().items()}
    prefix = "paligemma_with_expert."
    tower = prefix + "paligemma.model.vision_tower.vision_model."
    expected = {
        tower + "embeddings.patch_embedding.weight": (1152, 3, 14, 14),
        tower + "embeddings.patch_embedding.bias": (1152,),
        tower + "embeddings.position_embedding.weight": (256, 1152),
        tower + "post_layernorm.weight": (1152,),
        tower + "post_layernorm.bias": (1152,),
        prefix + "paligemma.model.multi_modal_projector.linear.weight": (2048, 1152),
        prefix + "paligemma.model.multi_modal_projector.linear.bias": (2048,),
        prefix + "paligemma.model.language_model.embed_tokens.weight": (257152, 2048),
        prefix + "paligemma.model.language_model.norm.weight": (2048,),
        prefix + "gemma_expert.model.norm.weight": (1024,),
        "state_proj.weight": (1024, 32),
        "action_in_proj.weight": (1024, 32),
        "action_time_mlp_in.weight": (1024, 2048),
        "action_time_mlp_out.weight": (1024, 1024),
        "action_out_proj.weight": (32, 1024),
        "action_out_proj.bias": (32,),
    } | {
        f"{head}.bias": (1024,)
        for head in ("state_proj", "action_in_proj", "action_time_mlp_in", "action_time_mlp_out")
    }
    for n in range(27):
        layer = f"{tower}encoder.layers.{n}."
        for name in ("layer_norm1", "layer_norm2"):
            expected |= {f"{layer}{name}.weight": (1152,), f"{layer}{name}.bias": (1152,)}
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            expected |= {f"{layer}self_attn.{name}.weight": (1152, 1152), f"{layer}self_attn.{name}.bias": (1152,)}
        expected |= {f"{layer}mlp.fc1.weight": (4304, 1152), f"{layer}mlp.fc1.bias": (4304,)}
        expected |= {f"{layer}mlp.fc2.weight": (1152, 4304), f"{layer}mlp.fc2.bias": (1152,)}
    for stack, width, mlp in (("paligemma.model.language_model", 2048, 16384), ("gemma_expert.model", 1024, 4096)):
        for n in range(18):
            layer = f"{prefix}{stack}.layers.{n}."
            expected |= {
                layer + "self_attn.q_proj.weight": (2048, width),
                layer + "self_attn.k_proj.weight": (256, width),
                layer + "self_attn.v_proj.weight": (256, width),
                layer + "self_attn.o_proj.weight": (width, 2048),
                layer + "mlp.gate_proj.weight": (mlp, width),
                layer + "mlp.up_proj.weight": (mlp, width),
                layer + "mlp.down_proj.weight": (width, mlp),
                layer + "input_layernorm.weight": (width,),
                layer + "post_attention_layernorm.weight": (width,),
            }
    # 778 in openpi, less the tied second name of the embeddings and an output head that is never used.
    assert len(expected) == 776
    assert shapes == expected


def test_the_nano_preset_is_small() -> None:
    parameters = sum(parameter.numel() for parameter in Pi0(preset("nano")).parameters())
    assert 2e6 < parameters < 4e6


def test_attention_follows_the_cumulative_block_rule() -> None:
    valid = torch.tensor([[True, False, True, True, True, True]])
    starts = torch.tensor([[False, False, False, True, True, False]])
    allowed = attention_rule(valid, starts)[0].int().tolist()
    assert allowed == [
        [1, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [1, 0, 1, 1, 0, 0],
        [1, 0, 1, 1, 1, 1],
        [1, 0, 1, 1, 1, 1],
    ]


def test_the_time_embedding_is_sines_then_cosines_of_geometric_periods() -> None:
    embedded = time_embedding(torch.tensor([0.3]), width=8)[0]
    time = torch.tensor(0.3).double().item()
    for i in range(4):
        period = 4e-3 * (4.0 / 4e-3) ** (i / 3)
        assert embedded[i].item() == pytest.approx(math.sin(2 * math.pi * time / period), abs=1e-9)
        assert embedded[4 + i].item() == pytest.approx(math.cos(2 * math.pi * time / period), abs=1e-9)
    assert embedded.dtype == torch.float64


def test_one_euler_step_on_the_cached_prefix_equals_the_joint_pass(model: Pi0) -> None:
    batch = ragged_batch()
    with torch.inference_mode():
        joint = model(batch, noisy_actions=noise(), time=torch.ones(3))
        stepped = model.sample_actions(batch, noise=noise(), steps=1, with_prefix_hidden=True)
    assert (noise() - joint.velocity - stepped.actions).abs().max() <= 1e-5
    assert stepped.prefix_hidden is not None
    real = torch.cat([batch.image_mask.repeat_interleave(PATCHES, dim=1), batch.token_mask], dim=1)
    assert (joint.prefix_hidden - stepped.prefix_hidden)[real].abs().max() <= 1e-5


def test_ten_cached_steps_equal_ten_joint_passes(model: Pi0) -> None:
    batch, actions = ragged_batch(), noise()
    with torch.inference_mode():
        for step in range(10):
            velocity = model(batch, noisy_actions=actions, time=torch.full((3,), 1.0 - step / 10)).velocity
            actions = actions - velocity / 10
        sampled = model.sample_actions(batch, noise=noise(), steps=10).actions
    assert (actions - sampled).abs().max() <= 1e-5


def test_reading_the_prefix_does_not_change_the_actions(model: Pi0) -> None:
    with torch.inference_mode():
        plain = model.sample_actions(ragged_batch(), noise=noise(), steps=2)
        read = model.sample_actions(ragged_batch(), noise=noise(), steps=2, with_prefix_hidden=True)
    assert plain.prefix_hidden is None
    assert torch.equal(plain.actions, read.actions)


@pytest.mark.parametrize(("row", "cameras", "words"), [(1, 1, 5), (2, 2, 2)])
def test_leaving_out_an_absent_camera_or_padding_leaves_the_actions(
    model: Pi0, row: int, cameras: int, words: int
) -> None:
    with torch.inference_mode():
        padded = model.sample_actions(ragged_batch(), noise=noise(), steps=10).actions[row]
        alone = one(ragged_batch(), row, cameras=cameras, words=words)
        trimmed = model.sample_actions(alone, noise=noise()[row : row + 1], steps=10).actions[0]
    assert (padded - trimmed).abs().max() <= 1e-5


def test_what_a_masked_camera_shows_does_not_matter(model: Pi0) -> None:
    batch = ragged_batch()
    images = batch.images.clone()
    images[1, 1] = 5.0
    with torch.inference_mode():
        before = model.sample_actions(batch, noise=noise(), steps=2).actions
        after = model.sample_actions(replace(batch, images=images), noise=noise(), steps=2).actions
    assert torch.equal(before, after)


def gradient_reaches(output: torch.Tensor, leaf: torch.Tensor) -> bool:
    (gradient,) = torch.autograd.grad(output.square().sum(), leaf, allow_unused=True, retain_graph=True)
    return gradient is not None and bool(gradient.abs().max() > 0)


def test_the_prefix_sees_neither_state_nor_actions(model: Pi0) -> None:
    state, actions = ragged_batch().state.requires_grad_(), noise().requires_grad_()
    out = model(replace(ragged_batch(), state=state), noisy_actions=actions, time=torch.rand(3))
    real = torch.cat([ragged_batch().image_mask.repeat_interleave(PATCHES, dim=1), ragged_batch().token_mask], dim=1)
    assert not gradient_reaches(out.prefix_hidden[real], state)
    assert not gradient_reaches(out.prefix_hidden[real], actions)
    assert gradient_reaches(out.velocity, state)
    assert gradient_reaches(out.velocity, actions)


def test_the_state_token_does_not_see_the_actions(model: Pi0) -> None:
    positions, allowed = model._layout(torch.ones(1, 3, dtype=torch.bool))
    assert allowed[0, 3].tolist() == [True] * 4 + [False] * 6
    assert positions[0].tolist() == list(range(10))


def test_every_action_sees_every_other(model: Pi0) -> None:
    actions = noise().requires_grad_()
    velocity = model(ragged_batch(), noisy_actions=actions, time=torch.rand(3)).velocity
    (gradient,) = torch.autograd.grad(velocity[:, 0].sum(), actions)
    assert (gradient[:, -1].abs() > 0).any()


def test_every_parameter_learns_from_the_velocity(model: Pi0) -> None:
    velocity = model(ragged_batch(), noisy_actions=noise(), time=torch.rand(3)).velocity
    # The trunk's last block feeds only the prefix's hidden states, never the actions.
    last = f"language_model.layers.{TINY.trunk.depth - 1}."
    unused = ("q_proj", "o_proj", "mlp.", "post_attention_layernorm")
    for name, parameter in model.named_parameters():
        silent = "language_model.norm" in name or (last in name and any(part in name for part in unused))
        assert gradient_reaches(velocity, parameter) != silent, name


def test_images_of_another_size_are_refused(model: Pi0) -> None:
    batch = replace(ragged_batch(), images=torch.zeros(3, 2, 3, 24, 24))
    with pytest.raises(ValueError, match=r"\(B, 3, 16, 16\), found \(6, 3, 24, 24\)"):
        model.sample_actions(batch, noise=noise(), steps=1)
