"""AdamW on float32 master weights, a cosine with linear warm-up, and the average of the weights that is served."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from policy_server.training.recipe import OptimizerConfig


def make_optimizer(parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices, not on norms, biases and other vectors."""
    trained = [parameter for _, parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
    )


def learning_rate(step: int, config: OptimizerConfig, *, steps: int) -> float:
    """At step 0, 1, ...: linear from peak / (warm-up + 1) to the peak, then a cosine to the final rate at the last
    step.
    """
    peak, final, warmup = config.learning_rate, config.final_learning_rate, config.warmup_steps
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


class Average:
    """Exponential moving average of the trained weights; young averages forget faster."""

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], *, decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in parameters if p.requires_grad}

    @torch.no_grad()
    def update(self, parameters: Iterable[tuple[str, nn.Parameter]], *, step: int) -> None:
        """After the optimizer's step number `step`, counted from 0."""
        decay = min(self.decay, (step + 2) / (step + 11))
        for name, parameter in parameters:
            if name in self.values:
                self.values[name].lerp_(parameter.detach(), 1.0 - decay)


class swapped_in:
    """``with swapped_in(average, model)``: the model has the averaged weights inside the block and its own after it."""

    def __init__(self, average: Average | None, model: nn.Module) -> None:
        self._average = average
        self._model = model
        self._own: dict[str, Tensor] = {}

    def __enter__(self) -> None:
        if self._average is not None:
            for name, parameter in self._model.named_parameters():
                if name in self._average.values:
                    self._own[name] = parameter.data
                    parameter.data = self._average.values[name]

    def __exit__(self, *_: object) -> None:
        for name, parameter in self._model.named_parameters():
            if name in self._own:
                parameter.data = self._own.pop(name)
