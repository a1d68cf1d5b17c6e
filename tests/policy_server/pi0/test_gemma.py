import math

import pytest
import torch

from policy_server.pi0.config import GemmaConfig
from policy_server.pi0.gemma import MASKED, RMSNorm, Stack, attend, rotate, rotation

CONFIG = GemmaConfig(width=12, depth=1, mlp_width=20, heads=4, kv_heads=2, head_width=6)


def test_rms_norm_divides_by_the_root_mean_square_and_scales_by_one_plus_the_weight() -> None:
    norm = RMSNorm(3)
    norm.weight.data = torch.tensor([0.0, 1.0, -0.5])
    x = torch.tensor([3.0, -4.0, 12.0])
    rms = math.sqrt((9 + 16 + 144) / 3 + 1e-6)
    expected = torch.tensor([3 / rms * 1.0, -4 / rms * 2.0, 12 / rms * 0.5])
    assert torch.allclose(norm(x), expected, atol=1e-6)


def test_rms_norm_of_half_precision_is_computed_in_single_precision() -> None:
    x = torch.full((1, 4), 300.0, dtype=torch.float16)  # its square does not fit float16
    assert torch.equal(RMSNorm(4)(x), torch.ones(1, 4, dtype=torch.float16))


def test_rotation_turns_each_pair_of_halves_by_its_own_angle() -> None:
    position, width = 5, 6
    x = torch.arange(1.0, 7.0).reshape(1, 1, 1, width)
    turned = rotate(x, rotation(torch.tensor([[position]]), head_width=width))[0, 0, 0]
    for i in range(width // 2):
        angle = position / 10_000 ** (2 * i / width)
        a, b = float(x[0, 0, 0, i]), float(x[0, 0, 0, i + width // 2])
        assert turned[i].item() == pytest.approx(a * math.cos(angle) - b * math.sin(angle), abs=1e-5)
        assert turned[i + width // 2].item() == pytest.approx(b * math.cos(angle) + a * math.sin(angle), abs=1e-5)


def test_a_rotated_product_depends_only_on_the_distance() -> None:
    query, key = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def product(query_at: int, key_at: int) -> float:
        turned = [
            rotate(x, rotation(torch.tensor([[at]]), head_width=8)) for x, at in ((query, query_at), (key, key_at))
        ]
        return (turned[0] * turned[1]).sum().item()

    assert product(9, 4) == pytest.approx(product(25, 20), abs=1e-4)


def test_attention_is_softmax_of_scaled_products_with_shared_key_heads() -> None:
    query, key, value = torch.randn(1, 4, 3, 6), torch.randn(1, 2, 5, 6), torch.randn(1, 2, 5, 6)
    bias = torch.where(torch.rand(1, 1, 3, 5) < 0.7, 0.0, MASKED)
    out = attend(query, key, value, bias).unflatten(-1, (4, 6))
    for head in range(4):
        logits = query[0, head] @ key[0, head // 2].T / math.sqrt(6) + bias[0, 0]
        assert torch.allclose(out[0, :, head], logits.softmax(-1) @ value[0, head // 2], atol=1e-5)


def test_a_token_with_nothing_to_attend_to_gives_numbers() -> None:
    x = torch.randn(1, 2, 3, 6)
    assert torch.isfinite(attend(x, x, x, torch.full((1, 1, 3, 3), MASKED))).all()


def test_the_mlp_gates_with_tanh_gelu() -> None:
    mlp = Stack(CONFIG).layers[0].mlp
    x = torch.randn(1, 2, 12)
    gate, up = x @ mlp.gate_proj.weight.T, x @ mlp.up_proj.weight.T
    gelu = 0.5 * gate * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    assert torch.allclose(mlp(x), (gelu * up) @ mlp.down_proj.weight.T, atol=1e-5)


def test_text_is_scaled_by_the_root_of_the_width() -> None:
    stack = Stack(CONFIG, vocabulary_size=10)
    tokens = torch.tensor([[3, 7]])
    assert torch.allclose(stack.embed_text(tokens), stack.embed_tokens.weight[[3, 7]] * math.sqrt(12))
