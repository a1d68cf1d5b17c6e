"""An experiment as declared before any result: ``configs/experiments/NAME.yaml``, every key checked."""

from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from configs.schema import Name, load_config

CONDITION = "condition"
"""What a stage's ``data`` says when it is trained on the condition's own demonstrations."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Scale(StrEnum):
    """How much of it is run: all that was asked, the primary comparison alone, what fits an hour, and what only shows
    that it runs."""

    FULL = "full"
    PRIMARY = "primary"
    REDUCED = "reduced"
    TINY = "tiny"


class Demonstrations(_Section):
    """Which demonstrations: of the tasks (of configs/tasks; all without) a fraction, and at most so many of each."""

    tasks: tuple[Name, ...] = ()
    fraction: float = Field(default=1.0, gt=0.0, le=1.0)
    most: int | None = Field(default=None, ge=1)


class TrainingStage(_Section):
    """One training run of an arm; a stage after the first starts from the one before."""

    recipe: Name
    data: str = CONDITION
    settings: tuple[str, ...] = Field(default=(), description="as launch/train --set")
    steps: dict[Scale, int]
    adapter: bool = Field(default=False, description="ends in a LoRA adapter, which is merged before anything else")


class Size(_Section):
    """How many demonstrations there are in all, how many seeds, which conditions, and how many starts of each task, at
    a scale."""

    demonstrations: int = Field(ge=1)
    dataset: str | None = Field(default=None, description="that is there already, instead of making demonstrations")
    seeds: int = Field(ge=1)
    starts: int = Field(ge=1)
    conditions: tuple[str, ...] = Field(min_length=1)
    precompute_steps: int = Field(ge=1, description="of the autoencoder")
    settings: tuple[str, ...] = Field(default=(), description="for every training run")


class Experiment(_Section):
    """All of it. ``primary`` names the two arms, treatment first, and the condition of the primary comparison;
    ``secondary`` are further pairs of arms."""

    name: Name
    question: str
    hypothesis: str
    claim: str = Field(description="what the paper reports, for the table")
    held_equal: tuple[str, ...]
    analysis: tuple[str, ...]
    limits: tuple[str, ...]
    vae_recipe: Name
    data: dict[str, Demonstrations]
    arms: dict[Name, tuple[TrainingStage, ...]]
    tasks: tuple[Name, ...] = Field(min_length=1)
    first_start: int
    latency_s: float = Field(ge=0.0, le=1.0)
    noise_scale: float = Field(default=1.0, ge=0.0, le=1.0, description="how policies are served, see PolicyConfig")
    inference_steps: int = Field(default=10, ge=1, le=100, description="how policies are served, see PolicyConfig")
    primary: tuple[Name, Name, str]
    secondary: tuple[tuple[Name, Name], ...] = ()
    scales: dict[Scale, Size]

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        arms = {*self.primary[:2], *(arm for pair in self.secondary for arm in pair)}
        if unknown := arms - set(self.arms):
            raise ValueError(f"arms: no arm is called {', '.join(sorted(unknown))}")
        wanted = {stage.data for stages in self.arms.values() for stage in stages} - {CONDITION}
        wanted |= {self.primary[2], *(c for size in self.scales.values() for c in size.conditions)}
        if unknown := wanted - set(self.data):
            raise ValueError(f"data: nothing is called {', '.join(sorted(unknown))}")
        for arm, stages in self.arms.items():
            if not stages:
                raise ValueError(f"arms.{arm}: expected at least one stage")
            for stage in stages:
                if missing := set(self.scales) - set(stage.steps):
                    raise ValueError(f"arms.{arm}: no steps for scale {', '.join(sorted(missing))}")
        return self


def load_experiment(name_or_path: str | Path) -> Experiment:
    """The experiment of that name or in that file. Raises `ConfigError`."""
    return load_config(Experiment, kind="experiments", name_or_path=name_or_path)
