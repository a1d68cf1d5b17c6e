"""Pictures whose motion is known."""

import pytest
import torch
import torch.nn.functional as F


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def textured() -> torch.Tensor:
    """Smooth random texture, (3, 128, 128) float in [0, 255]: trackable everywhere."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 3, 24, 24, generator=generator)
    return 255.0 * F.interpolate(coarse, size=(128, 128), mode="bicubic").clamp(0.0, 1.0)[0]
