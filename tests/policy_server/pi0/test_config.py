from dataclasses import replace

import pytest
import torch

from policy_server.pi0.config import PRESETS, ModelConfigError, Pi0Config, preset
from policy_server.pi0.siglip import VisionModel


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_survives_json(name: str) -> None:
    assert Pi0Config.from_json(preset(name).to_json()) == preset(name)


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelConfigError, match=r"no preset 'micro'; there are: mid, nano, pi0, pi05"):
        preset("micro")


def test_an_unknown_field_is_refused() -> None:
    plain = preset("nano").to_json() | {"colour": "red"}
    with pytest.raises(ModelConfigError, match="colour"):
        Pi0Config.from_json(plain)


def test_a_missing_field_is_refused() -> None:
    plain = preset("nano").to_json()
    del plain["action_dim"]
    with pytest.raises(ModelConfigError, match="action_dim"):
        Pi0Config.from_json(plain)


def test_trunk_and_expert_must_be_able_to_attend_jointly() -> None:
    nano = preset("nano")
    with pytest.raises(ModelConfigError, match="head_width is 32 and 64"):
        replace(nano, expert=replace(nano.expert, head_width=64))


def test_a_stem_must_make_the_patches_that_patch_size_says() -> None:
    with pytest.raises(ModelConfigError, match="make patches of 16 px, patch_size says 8"):
        replace(preset("nano").vision, patch_size=8)


def test_the_stem_makes_as_many_tokens_as_the_configuration_counts() -> None:
    vision = preset("nano").vision
    tokens = VisionModel(vision)(torch.zeros(2, 3, 96, 96))
    assert tokens.shape == (2, vision.tokens_per_image, vision.width)
    assert vision.tokens_per_image == 36
