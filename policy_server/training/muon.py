"""Muon: momentum whose matrices are made orthogonal before each step; AdamW for everything that is no hidden matrix.

An update of a hidden weight is the nearest semi-orthogonal matrix to its momentum, found by five Newton-Schulz
iterations (Jordan et al. 2024, kellerjordan.github.io/posts/muon), and scaled by 0.2 * sqrt(max(rows, columns)) so that
its size is that of AdamW's updates and AdamW's learning rate and weight decay fit (arXiv 2502.16982, Eq. 4).
Convolutions count as matrices of (output channels, the rest).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MATCHED_SIZE = 0.2
SLENDER = 1.5
"""Columns for each row from which an iteration on the rows alone is less work."""


class Muon(torch.optim.Optimizer):
    """Groups with ``muon`` true are orthogonalised; the others are updated as AdamW does."""

    def __init__(self, groups: Sequence[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(list(groups), {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "muon": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            changed = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["muon"]:
                self._orthogonal_step(changed, group)
            else:
                for parameter in changed:
                    self._adam_step(parameter, group)

    def _orthogonal_step(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> None:
        """Matrices of one shape go through the iterations together: one small matrix is no work for several cores."""
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for parameter in parameters:
            state, gradient = self.state[parameter], parameter.grad
            assert gradient is not None
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].lerp_(gradient, 1.0 - MOMENTUM)
            ahead = gradient.lerp(state["momentum"], MOMENTUM).flatten(1)
            alike[ahead.shape[0], ahead.shape[1]].append((parameter, ahead))
        for shape, members in alike.items():
            rate = group["lr"] * MATCHED_SIZE * max(shape) ** 0.5
            directions = orthogonal(torch.stack([ahead for _, ahead in members]))
            for (parameter, _), direction in zip(members, directions, strict=True):
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                parameter.add_(direction.view(parameter.shape), alpha=-rate)

    def _adam_step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        gradient = parameter.grad
        assert gradient is not None
        state["step"] += 1
        step, (beta1, beta2) = float(state["step"]), group["betas"]
        state["exp_avg"].lerp_(gradient, 1.0 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        spread = (state["exp_avg_sq"] / (1.0 - beta2**step)).sqrt_().add_(group["eps"])
        parameter.addcdiv_(state["exp_avg"], spread, value=-group["lr"] / (1.0 - beta1**step))


def orthogonal(matrices: Tensor) -> Tensor:
    """About the nearest semi-orthogonal matrices to some of shape (count, rows, columns): singular values between 0.7
    and 1.2.

    An iteration is x <- (a + b s + c s²) x with s = x xᵀ. Where rows are much fewer than columns the factors are
    collected on the small side and applied once; they are functions of one s, so their order does not matter.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    x = wide / (torch.linalg.vector_norm(wide, dim=(-2, -1), keepdim=True) + 1e-7)
    square = x @ x.mT
    if wide.shape[-1] < SLENDER * wide.shape[-2]:
        for iteration in range(ITERATIONS):
            square = x @ x.mT if iteration else square
            x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    else:
        factors: Tensor | None = None
        for _ in range(ITERATIONS):
            factor = torch.baddbmm(square, square, square, beta=b, alpha=c)
            factor.diagonal(dim1=-2, dim2=-1).add_(a)
            factors = factor if factors is None else factor @ factors
            square = factor @ square @ factor
        assert factors is not None
        x = factors @ x
    return x if matrices.shape[-2] <= matrices.shape[-1] else x.mT
