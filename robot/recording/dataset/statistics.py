"""Exact statistics: of columns from all their values, of pictures from histograms of all their pixels.

A histogram of 256 bins a channel holds everything there is to know about uint8 values, adds up over episodes, and gives
quantiles as exact as sorting every pixel would.
"""

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_LEVELS = 256


def column_statistics(values: np.ndarray) -> dict[str, Any]:
    """LeRobot's ten numbers of a column (n,) or (n, d), n >= 1, as JSON-ready lists of length d (1 for scalars)."""
    columns = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    found = {
        "min": columns.min(axis=0),
        "max": columns.max(axis=0),
        "mean": columns.mean(axis=0),
        "std": columns.std(axis=0),
    }
    for name, share in QUANTILES.items():
        found[name] = np.quantile(columns, share, axis=0)
    return {**{name: value.tolist() for name, value in found.items()}, "count": [len(columns)]}


class PictureHistogram:
    """How often each level occurs in each channel: ``counts`` (3, 256) int64, of ``pictures`` pictures."""

    def __init__(self, counts: np.ndarray | None = None, *, pictures: int = 0) -> None:
        self.counts = np.zeros((3, _LEVELS), np.int64) if counts is None else counts
        self.pictures = pictures

    def add(self, image: np.ndarray) -> None:
        """Count the pixels of a picture (H, W, 3) uint8."""
        for channel in range(3):
            found = cv2.calcHist([image], [channel], None, [_LEVELS], [0, _LEVELS])
            # cv2 counts in float32, exact up to 2^24 pixels a picture.
            self.counts[channel] += found[:, 0].astype(np.int64)
        self.pictures += 1

    @classmethod
    def total(cls, histograms: Iterable["PictureHistogram"]) -> "PictureHistogram":
        """The sum of several."""
        together = cls()
        for histogram in histograms:
            together.counts = together.counts + histogram.counts
            together.pictures += histogram.pictures
        return together

    def statistics(self) -> dict[str, Any]:
        """LeRobot's ten numbers, each (3, 1, 1) on a scale from 0 to 1; ``count`` is the number of pictures."""
        levels = np.arange(_LEVELS)
        pixels = self.counts.sum(axis=1)
        mean = (self.counts * levels).sum(axis=1) / pixels
        variance = (self.counts * (levels - mean[:, None]) ** 2).sum(axis=1) / pixels
        present = self.counts > 0
        found = {
            "min": present.argmax(axis=1),
            "max": _LEVELS - 1 - present[:, ::-1].argmax(axis=1),
            "mean": mean,
            "std": np.sqrt(variance),
        }
        for name, share in QUANTILES.items():
            found[name] = np.array([_quantile(counts, share) for counts in self.counts])
        scaled = {name: (value / 255.0).reshape(3, 1, 1).tolist() for name, value in found.items()}
        return {**scaled, "count": [self.pictures]}


def _quantile(counts: np.ndarray, share: float) -> float:
    """What ``np.quantile`` gives for the values that the histogram counts: linear between order statistics."""
    cumulative = np.cumsum(counts)
    position = (int(cumulative[-1]) - 1) * share
    below = int(np.floor(position))
    low = int(np.searchsorted(cumulative, below, side="right"))
    high = int(np.searchsorted(cumulative, min(below + 1, int(cumulative[-1]) - 1), side="right"))
    return low + (position - below) * (high - low)
