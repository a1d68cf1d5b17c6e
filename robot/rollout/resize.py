"""Pictures at the policy's size: the same numbers that training's resize gives, without Pillow on the robot.

Policies of this family are trained on Pillow's bilinear resize, which widens its triangle filter when it shrinks
(antialias) and rounds to uint8 after each of its two passes. OpenCV's INTER_LINEAR and INTER_AREA give other pictures.
Here the same fixed-point weights are applied as small blocks of matrix products in float64, where
every product and sum of this size is exact.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

_WEIGHT_BITS = 22
_BLOCK = 8


@dataclass(frozen=True)
class _Block:
    """Output rows ``start:stop`` depend only on input rows ``low:high``, through ``weights`` (stop-start, high-low)."""

    start: int
    stop: int
    low: int
    high: int
    weights: np.ndarray


def resize_with_pad(image: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """``image`` (H, W, 3) uint8 scaled to fit (height, width) with its aspect kept, on a black ground, centred.

    An odd left-over pixel goes to the bottom or right, as in openpi's ``resize_with_pad``. Raises ValueError for
    anything but uint8 pictures with three channels.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected an image of shape (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if image.shape[:2] == (height, width):
        return image
    ratio = max(image.shape[1] / width, image.shape[0] / height)
    inner_height, inner_width = int(image.shape[0] / ratio), int(image.shape[1] / ratio)
    inner = resize(image, height=inner_height, width=inner_width)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    padded = np.zeros((height, width, 3), dtype=np.uint8)
    padded[top : top + inner_height, left : left + inner_width] = inner
    return padded


def resize(image: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """``image`` (H, W, 3) uint8 at (height, width), equal to Pillow's ``resize((width, height), BILINEAR)``.

    Pillow 13 takes the rows first for tall pictures and for very uneven scales, which can change the last bit. Wide
    pictures that keep their aspect, as cameras give them, come out the same in every version.
    """
    rows, columns = image.shape[:2]
    # Columns first, as Pillow does: the rounding between the passes makes the order visible.
    if columns != width:
        image = cv2.transpose(_resize_rows(cv2.transpose(image), width))
    if rows != height:
        image = _resize_rows(image, height)
    return image


def _resize_rows(image: np.ndarray, rows: int) -> np.ndarray:
    flat = image.reshape(image.shape[0], -1).astype(np.float64)
    scaled = np.empty((rows, flat.shape[1]))
    for block in _blocks(image.shape[0], rows):
        np.matmul(block.weights, flat[block.low : block.high], out=scaled[block.start : block.stop])
    scaled += 0.5
    return scaled.astype(np.uint8).reshape(rows, image.shape[1], 3)


@lru_cache(maxsize=32)
def _blocks(size_in: int, size_out: int) -> tuple[_Block, ...]:
    weights = _weights(size_in, size_out)
    blocks = []
    for start in range(0, size_out, _BLOCK):
        part = weights[start : start + _BLOCK]
        used = np.flatnonzero(part.any(axis=0))
        low, high = int(used[0]), int(used[-1]) + 1
        blocks.append(_Block(start, start + len(part), low, high, np.ascontiguousarray(part[:, low:high])))
    return tuple(blocks)


def _weights(size_in: int, size_out: int) -> np.ndarray:
    """Triangle filter (size_out, size_in), each row summing to 1 up to the rounding to 22 fractional bits."""
    scale = size_in / size_out
    support = max(scale, 1.0)
    weights = np.zeros((size_out, size_in))
    for index in range(size_out):
        center = (index + 0.5) * scale
        low, high = max(0, int(center - support + 0.5)), min(size_in, int(center + support + 0.5))
        distance = np.abs((np.arange(low, high) - center + 0.5) / support)
        taps = np.maximum(0.0, 1.0 - distance)
        weights[index, low:high] = taps / taps.sum()
    return np.floor(weights * (1 << _WEIGHT_BITS) + 0.5) / (1 << _WEIGHT_BITS)
