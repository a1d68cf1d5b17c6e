"""The policy sees the pictures that training saw: our resize against Pillow's, pixel by pixel."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.rollout.resize import resize, resize_with_pad

# Made with Pillow from the same picture.
GOLDEN = "f1177c2398ab84596ceaba4f46cce5c8beb3044bf5a88601fa0067db85afe9c2"


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 40), extra=st.integers(0, 40), factor=st.integers(1, 9), grow=st.booleans())
def test_it_equals_pillow_for_any_wide_picture_that_keeps_its_aspect(
    height: int, extra: int, factor: int, grow: bool
) -> None:
    pillow = pytest.importorskip("PIL.Image")
    width = height + extra
    small, large = (height, width), (height * factor, width * factor)
    source, target = (small, large) if grow else (large, small)
    image = picture(*source)
    expected = np.asarray(pillow.fromarray(image).resize(target[::-1], pillow.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize(image, height=target[0], width=target[1]), expected)


@pytest.mark.parametrize(
    ("source", "target"), [((360, 640), (112, 112)), ((720, 1280), (224, 224)), ((37, 91), (64, 33))]
)
def test_it_equals_pillow_at_camera_sizes(source: tuple[int, int], target: tuple[int, int]) -> None:
    pillow = pytest.importorskip("PIL.Image")
    image = picture(*source)
    height, width = target
    ratio = max(source[1] / width, source[0] / height)
    inner = (int(source[1] / ratio), int(source[0] / ratio))
    expected = pillow.new("RGB", (width, height))
    corner = ((width - inner[0]) // 2, (height - inner[1]) // 2)
    expected.paste(pillow.fromarray(image).resize(inner, pillow.Resampling.BILINEAR), corner)
    np.testing.assert_array_equal(resize_with_pad(image, height=height, width=width), np.asarray(expected))


def test_a_known_picture_gives_known_bytes_without_pillow() -> None:
    resized = resize_with_pad(picture(360, 640), height=112, width=112)
    assert hashlib.sha256(resized.tobytes()).hexdigest() == GOLDEN


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    image = picture(112, 112)
    assert resize_with_pad(image, height=112, width=112) is image


def test_padding_is_black_and_an_odd_row_goes_to_the_bottom() -> None:
    padded = resize_with_pad(np.full((360, 640, 3), 255, np.uint8), height=112, width=112)
    filled = np.flatnonzero(padded.any(axis=(1, 2)))
    assert (filled[0], 111 - filled[-1]) == (24, 25)
    assert np.all(padded[24:87] == 255)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)])
def test_anything_but_an_rgb_picture_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        resize_with_pad(image, height=8, width=8)
