import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policy_server.motion.flow_image import EncodingKind, FlowEncoding, view


def uniform(dx: float, dy: float, size: int = 8) -> torch.Tensor:
    return torch.tensor([dx, dy]).view(2, 1, 1).expand(2, size, size)


def angle_between(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    turned = torch.atan2(first[1], first[0]) - torch.atan2(second[1], second[0])
    return torch.atan2(turned.sin(), turned.cos()).abs()


@pytest.mark.parametrize(
    ("dx", "dy", "rgb"),
    [
        (64, 0, (0, 255, 255)),  # right: cyan
        (0, 64, (128, 0, 255)),  # down: violet
        (-64, 0, (255, 0, 0)),  # left: red
        (0, -64, (128, 255, 0)),  # up: yellow-green
        (0, 0, (255, 255, 255)),  # still: white
    ],
)
def test_the_four_directions_have_the_published_colours(dx: float, dy: float, rgb: tuple[int, int, int]) -> None:
    image = FlowEncoding().encode(uniform(dx, dy))
    shown = ((image + 1) * 127.5).round()[:, 0, 0]
    assert torch.allclose(shown, torch.tensor(rgb, dtype=torch.float32), atol=1.0)


@given(angle=st.floats(-math.pi, math.pi), length=st.floats(2.0, 63.9), kind=st.sampled_from(EncodingKind))
def test_decoding_gives_the_flow_back(angle: float, length: float, kind: EncodingKind) -> None:
    encoding = FlowEncoding(kind=kind)
    flow = uniform(length * math.cos(angle), length * math.sin(angle)).double().float()
    flow = flow + torch.tensor([[[0.0]], [[0.0]]])
    back = encoding.decode(encoding.encode(flow), scale_px=encoding.scale_px(flow))
    assert (back - flow).norm(dim=0).max() < 0.5
    assert angle_between(back, flow).max() < math.radians(2.0)


def test_decoding_a_p99_image_without_its_scale_is_refused() -> None:
    encoding = FlowEncoding(kind=EncodingKind.HSV_P99)
    with pytest.raises(ValueError, match="scale_px"):
        encoding.decode(encoding.encode(uniform(3.0, 4.0)))


def test_motion_in_the_dead_band_is_white_and_just_above_it_is_not() -> None:
    encoding = FlowEncoding(dead_band_px=0.5)
    assert torch.equal(encoding.encode(uniform(0.3, 0.3)), torch.ones(3, 8, 8))
    assert encoding.encode(uniform(0.4, 0.4)).min() < 1.0


def test_the_clip_fraction_counts_moving_pixels_only() -> None:
    flow = torch.zeros(2, 4, 4)
    flow[0, 0, :2] = 100.0
    flow[0, 1, :2] = 10.0
    assert FlowEncoding().clip_fraction(flow) == pytest.approx(0.5)
    assert FlowEncoding().clip_fraction(torch.zeros(2, 4, 4)) == 0.0


def test_the_norm_scales_with_the_picture() -> None:
    assert FlowEncoding().for_size(96).norm_px == pytest.approx(64 * 96 / 224)
    large = FlowEncoding().encode(uniform(32.0, 0.0))
    small = FlowEncoding().for_size(112).encode(uniform(16.0, 0.0))
    assert torch.allclose(large, small)


def test_a_batch_is_encoded_image_by_image() -> None:
    flows = torch.randn(5, 2, 16, 16) * 20
    for kind in EncodingKind:
        encoding = FlowEncoding(kind=kind)
        together = encoding.encode(flows)
        assert all(
            torch.allclose(encoding.encode(one), image, atol=1e-6) for one, image in zip(flows, together, strict=True)
        )


def test_the_viewer_shows_one_picture_whatever_the_units() -> None:
    flow = torch.randn(2, 16, 16) * 20
    assert view(flow).shape == (16, 16, 3)
    assert torch.equal(view(flow), view(flow * 3.0))
    assert view(torch.zeros(2, 16, 16)).min() == 255
