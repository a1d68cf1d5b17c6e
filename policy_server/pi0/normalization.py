"""Normalisation statistics and openpi's formulas for them. They live inside the checkpoint.

z-score: (x - mean) / (std + 1e-6). Quantile: (x - q01) / (q99 - q01 + 1e-6) * 2 - 1. Nothing is clipped.
Statistics are per dimension, (D,), or per step of a chunk and dimension, (H, D).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

EPSILON = 1e-6


class NormalizationError(ValueError):
    """Statistics that are missing, of unequal shape, not finite or not possible."""


class NormKind(StrEnum):
    """Which formula a checkpoint was trained with: z-score for π0, quantile for π0.5."""

    Z_SCORE = "z_score"
    QUANTILE = "quantile"


@dataclass(frozen=True, eq=False)
class Statistics:
    """One quantity, float64 (D,) or (H, D). `low` and `high` are mean and std, or q01 and q99, by the kind."""

    kind: NormKind
    low: np.ndarray
    high: np.ndarray

    def __post_init__(self) -> None:
        low, high = (np.array(side, dtype=np.float64) for side in (self.low, self.high))
        if low.shape != high.shape or low.ndim not in (1, 2) or low.size == 0:
            raise NormalizationError(f"expected two equal shapes (D,) or (H, D), found {low.shape} and {high.shape}")
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise NormalizationError("expected finite statistics, found NaN or infinity")
        if self.kind is NormKind.Z_SCORE and (high < 0).any():
            raise NormalizationError(f"expected standard deviations >= 0, found {high.min()}")
        if self.kind is NormKind.QUANTILE and (high < low).any():
            raise NormalizationError("expected q99 >= q01 in every dimension")
        for name, side in (("low", low), ("high", high)):
            side.flags.writeable = False
            object.__setattr__(self, name, side)

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.low.shape[-1])

    def normalize(self, values: np.ndarray) -> np.ndarray:
        """(..., D) in physical units to float64 of the same shape, about 1 in size."""
        match self.kind:
            case NormKind.Z_SCORE:
                return (values - self.low) / (self.high + EPSILON)
            case NormKind.QUANTILE:
                return (values - self.low) / (self.high - self.low + EPSILON) * 2.0 - 1.0

    def unnormalize(self, values: np.ndarray) -> np.ndarray:
        """The inverse of `normalize`, float64."""
        match self.kind:
            case NormKind.Z_SCORE:
                return values * (self.high + EPSILON) + self.low
            case NormKind.QUANTILE:
                return (values + 1.0) / 2.0 * (self.high - self.low + EPSILON) + self.low

    def to_json(self) -> dict[str, Any]:
        """Plain lists under openpi's names: mean and std, or q01 and q99."""
        low_name, high_name = _FIELDS[self.kind]
        return {low_name: self.low.tolist(), high_name: self.high.tolist()}


_FIELDS = {NormKind.Z_SCORE: ("mean", "std"), NormKind.QUANTILE: ("q01", "q99")}


@dataclass(frozen=True, eq=False)
class Normalization:
    """How a checkpoint's state and actions were normalised. Actions are normalised after the robot's own transforms."""

    state: Statistics
    actions: Statistics

    @property
    def digest(self) -> str:
        """sha256 of the statistics; two policies with the same digest scale alike."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Plain values for a checkpoint's policy.json."""
        parts = {"state": self.state, "actions": self.actions}
        return {name: {"kind": part.kind.value, **part.to_json()} for name, part in parts.items()}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Normalization":
        """The inverse of `to_json`; raises `NormalizationError`."""
        return cls(state=_statistics(plain, "state"), actions=_statistics(plain, "actions"))


def _statistics(plain: Mapping[str, Any], name: str) -> Statistics:
    part = plain.get(name)
    if not isinstance(part, Mapping):
        raise NormalizationError(f"normalization.{name} is missing")
    try:
        kind = NormKind(part["kind"])
        low_name, high_name = _FIELDS[kind]
        return Statistics(kind, np.array(part[low_name], dtype=np.float64), np.array(part[high_name], dtype=np.float64))
    except (KeyError, TypeError, ValueError) as error:
        raise NormalizationError(f"normalization.{name}: {error}") from None
