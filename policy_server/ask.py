"""One question to a policy, whatever transport it came by. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np


class Continuity(StrEnum):
    """What to do with the actions that are left of the previous chunk.

    ``committed``: those that are decided already are given to a model that was trained so. ``guided``: any model is
    pulled towards all of them while it samples.
    """

    NONE = "none"
    COMMITTED = "committed"
    GUIDED = "guided"


@dataclass(frozen=True, eq=False)
class Leftover:
    """What is left of the previous chunk, from the new chunk's first action on: actions (n, D) absolute, in physical
    units, of which the first `committed` will be carried out whatever comes."""

    actions: np.ndarray
    committed: int


@dataclass(frozen=True, eq=False)
class Ask:
    """An observation under openpi's keys, and what else may be asked of a policy.

    Without `continuity` a leftover goes to a model that was trained with committed actions, and is not used otherwise.
    `seed` fixes the noise; without it the server's own generator goes on. `keep_prefix` keeps what a motion image is
    made from.
    """

    observation: Mapping[str, Any]
    leftover: Leftover | None = None
    continuity: Continuity | None = None
    seed: int | None = None
    keep_prefix: bool = False


@dataclass(frozen=True, eq=False)
class Picture:
    """A motion image (H, W, 3) uint8 RGB, and what it shows in pixels of the exterior camera's picture as it was sent:
    motion of `scale_px` has full saturation, and `region` (top, left, height, width) is the part that the policy looks
    at, which may reach beyond the picture."""

    image: np.ndarray
    scale_px: float
    region: tuple[float, float, float, float]
