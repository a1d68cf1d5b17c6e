import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_server.training.muon import MATCHED_SIZE, Muon, orthogonal
from policy_server.training.optimizer import make_optimizer
from policy_server.training.recipe import OptimizerConfig, OptimizerKind


@settings(max_examples=25)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 10_000))
def test_the_direction_has_singular_values_near_one(rows: int, columns: int, seed: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    spectrum = torch.linalg.svdvals(matrix)
    found = torch.linalg.svdvals(orthogonal(matrix[None])[0])
    known = spectrum > 0.05 * spectrum.norm()  # what is tiny beside the rest is not brought up in five iterations
    assert (found[known] > 0.6).all()
    assert (found < 1.3).all()


def test_the_direction_keeps_the_singular_vectors() -> None:
    matrix = torch.randn(12, 20, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    core = u.T @ orthogonal(matrix[None])[0] @ vh.T
    assert (core - torch.diag(core.diagonal())).abs().max() < 0.05


def written_out(matrix: torch.Tensor) -> torch.Tensor:
    """Five plain iterations in double precision."""
    x = matrix.double() / matrix.double().norm()
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


@settings(max_examples=25)
@given(st.integers(2, 48), st.integers(2, 48), st.integers(1, 48), st.integers(0, 10_000))
def test_matrices_of_any_shape_and_rank_together_get_the_iterations_written_out(
    rows: int, columns: int, rank: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    matrices = torch.randn(3, rows, rank, generator=random) @ torch.randn(3, rank, columns, generator=random)
    for matrix, found in zip(matrices, orthogonal(matrices), strict=True):
        assert torch.allclose(found.double(), written_out(matrix), atol=1e-4)


def test_a_matrix_without_a_gradient_does_not_move() -> None:
    weights = [torch.nn.Parameter(torch.eye(4)) for _ in range(3)]
    optimizer = Muon([{"params": weights, "muon": True}], lr=0.1, betas=(0.9, 0.95), eps=1e-8)
    weights[0].grad, weights[2].grad = torch.ones(4, 4), 2.0 * torch.ones(4, 4)
    optimizer.step()
    assert torch.equal(weights[1].detach(), torch.eye(4))
    assert not torch.equal(weights[0].detach(), torch.eye(4))
    assert torch.allclose(weights[0], weights[2], atol=1e-6)  # the direction has no size


def test_an_update_is_as_large_as_adams() -> None:
    weight = torch.nn.Parameter(torch.zeros(64, 64))
    optimizer = Muon([{"params": [weight], "muon": True}], lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    weight.grad = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    size = float(weight.detach().square().mean().sqrt())
    assert 0.7 * 0.01 * MATCHED_SIZE < size < 1.3 * 0.01 * MATCHED_SIZE


def test_other_parameters_are_updated_exactly_as_by_adamw() -> None:
    vectors = [torch.nn.Parameter(torch.linspace(-1.0, 1.0, 7)) for _ in range(2)]
    ours = Muon([{"params": [vectors[0]], "weight_decay": 0.1}], lr=0.02, betas=(0.9, 0.95), eps=1e-8)
    peer = torch.optim.AdamW([vectors[1]], lr=0.02, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for step in range(5):
        for vector, optimizer in zip(vectors, (ours, peer), strict=True):
            vector.grad = torch.sin(vector.detach() * (step + 1))
            optimizer.step()
    assert torch.allclose(vectors[0], vectors[1], rtol=1e-6)


def test_only_hidden_matrices_are_made_orthogonal() -> None:
    config = OptimizerConfig(kind=OptimizerKind.MUON, learning_rate=1e-3, final_learning_rate=0.0)
    named = {
        "policy.trunk.layers.0.mlp.up_proj.weight": torch.nn.Parameter(torch.zeros(4, 4)),
        "policy.trunk.layers.0.input_layernorm.weight": torch.nn.Parameter(torch.zeros(4)),
        "policy.trunk.embed_tokens.weight": torch.nn.Parameter(torch.zeros(8, 4)),
        "policy.action_out_proj.weight": torch.nn.Parameter(torch.zeros(7, 4)),
    }
    optimizer = make_optimizer(named.items(), config)
    orthogonalised = [p for group in optimizer.param_groups if group.get("muon") for p in group["params"]]
    assert [id(p) for p in orthogonalised] == [id(named["policy.trunk.layers.0.mlp.up_proj.weight"])]


def test_it_fits_a_linear_map_in_few_steps() -> None:
    random = torch.Generator().manual_seed(0)
    truth, x = torch.randn(16, 16, generator=random), torch.randn(256, 16, generator=random)
    weight = torch.nn.Parameter(torch.zeros(16, 16))
    optimizer = Muon([{"params": [weight], "muon": True}], lr=0.1, betas=(0.9, 0.95), eps=1e-8)
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 0.2 * (1.0 - step / 150)
        loss = (x @ weight.T - x @ truth.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.02 * float((x @ truth.T).square().mean())
