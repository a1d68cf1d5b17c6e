import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from policy_server.contract import SIX_JOINTS_AND_GRIPPER
from policy_server.errors import RequestError
from policy_server.pi0.images import resize_with_pad
from policy_server.pi0.normalization import Normalization, NormalizationError, NormKind, Statistics
from policy_server.pi0.transforms import (
    AbsoluteActions,
    ClipFraction,
    DropPadding,
    Group,
    Normalize,
    PadDimensions,
    ReadObservation,
    RelativeActions,
    Unnormalize,
)

READ = ReadObservation({"observation/exterior_image_1_left": "base_0_rgb"}, joints=6)
MASK = (True,) * 6 + (False,)
NORMALIZATION = Normalization(
    state=Statistics(NormKind.Z_SCORE, np.linspace(-1, 1, 7), np.linspace(0.1, 2, 7)),
    actions=Statistics(NormKind.QUANTILE, np.full((15, 7), -0.5), np.linspace(0.1, 2, 105).reshape(15, 7)),
)
moderate = st.floats(-10, 10)


def an_observation(**changes: object) -> dict[str, object]:
    return {
        "observation/exterior_image_1_left": np.zeros((8, 10, 3), dtype=np.uint8),
        "observation/joint_position": np.arange(6.0),
        "observation/gripper_position": np.array([0.5]),
        "prompt": "put the cup",
    } | {
        {"image": "observation/exterior_image_1_left", "joints": "observation/joint_position"}[k]: v
        for k, v in changes.items()
    }


@given(hnp.arrays(np.float64, 7, elements=moderate), hnp.arrays(np.float64, (15, 7), elements=moderate))
def test_outputs_undo_inputs(state: np.ndarray, actions: np.ndarray) -> None:
    group = (
        Group()
        .push(inputs=RelativeActions(MASK), outputs=AbsoluteActions(MASK))
        .push(inputs=Normalize(NORMALIZATION), outputs=Unnormalize(NORMALIZATION))
        .push(inputs=PadDimensions(32), outputs=DropPadding(7, 7))
    )
    model_side = group.apply_inputs({"state": state, "actions": actions})
    assert model_side["actions"].shape == (15, 32)
    back = group.apply_outputs(model_side)
    assert np.allclose(back["actions"], actions, atol=1e-9)
    assert np.allclose(back["state"], state, atol=1e-9)


def test_relative_actions_are_differences_to_the_chunks_start_and_the_gripper_stays_absolute() -> None:
    state, actions = np.arange(7.0), np.ones((2, 7))
    assert RelativeActions(MASK)({"state": state, "actions": actions})["actions"][1].tolist() == [
        1,
        0,
        -1,
        -2,
        -3,
        -4,
        1,
    ]
    assert actions.tolist() == np.ones((2, 7)).tolist()


def test_z_score_and_quantile_are_openpis_formulas() -> None:
    x = np.array([2.0])
    z = Statistics(NormKind.Z_SCORE, np.array([0.5]), np.array([3.0]))
    q = Statistics(NormKind.QUANTILE, np.array([0.5]), np.array([3.0]))
    assert z.normalize(x)[0] == pytest.approx((2 - 0.5) / (3 + 1e-6), abs=1e-15)
    assert q.normalize(x)[0] == pytest.approx((2 - 0.5) / (2.5 + 1e-6) * 2 - 1, abs=1e-15)


def test_normalization_survives_json_and_its_digest_tells_statistics_apart() -> None:
    again = Normalization.from_json(NORMALIZATION.to_json())
    assert again.digest == NORMALIZATION.digest
    other = Normalization(state=NORMALIZATION.actions, actions=NORMALIZATION.actions)
    assert other.digest != NORMALIZATION.digest


@pytest.mark.parametrize(("low", "high"), [([0.0], [-1.0]), ([np.nan], [1.0]), ([0.0, 1.0], [1.0])])
def test_impossible_statistics_are_refused(low: list[float], high: list[float]) -> None:
    with pytest.raises(NormalizationError):
        Statistics(NormKind.Z_SCORE, np.array(low), np.array(high))


def test_an_overshooting_gripper_is_clipped_and_joints_are_not() -> None:
    actions = np.array([[3.0, -2.0], [3.0, 2.0]])
    assert ClipFraction(1)({"actions": actions})["actions"].tolist() == [[3.0, 0.0], [3.0, 1.0]]


def test_an_observation_is_read_into_slots_and_state() -> None:
    read = READ(an_observation())
    assert read["state"].tolist() == [0, 1, 2, 3, 4, 5, 0.5]
    assert list(read["images"]) == ["base_0_rgb"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": np.zeros((3, 8, 8), dtype=np.uint8)}, r"uint8, found an array of shape \(3, 8, 8\)"),
        ({"image": np.zeros((8, 8, 3), dtype=np.float32)}, "found an array .* float32"),
        ({"image": np.zeros((0, 8, 3), dtype=np.uint8)}, "sides of 1 to 4096"),
        ({"image": np.zeros((5000, 1, 3), dtype=np.uint8)}, "sides of 1 to 4096"),
        ({"image": b"jpeg"}, "found bytes"),
        ({"joints": np.zeros(7)}, r"expected shape \(6,\), found \(7,\)"),
        ({"joints": np.array([0, 0, np.nan, 0, 0, 0])}, "found nan at index 2"),
        ({"joints": np.array([0, 0, 0, 0, 0, 1e9])}, "found 1000000000.0 at index 5"),
        ({"joints": [0.0] * 6}, "found list"),
        ({"joints": np.array(["0"] * 6)}, "expected an array of 6 numbers"),
    ],
)
def test_a_wrong_value_is_refused_with_key_expected_and_found(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        READ(an_observation(**changes))


@pytest.mark.parametrize("key", [*an_observation()])
def test_a_missing_key_is_named(key: str) -> None:
    observation = an_observation()
    del observation[key]
    with pytest.raises(RequestError, match=f"{key}: .* is missing"):
        READ(observation)


@pytest.mark.parametrize(("height", "width"), [(360, 640), (641, 360), (50, 50), (97, 96), (4000, 3), (224, 224)])
def test_resizing_is_pillows_bilinear_on_centred_black(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(1, 256, (height, width, 3), dtype=np.uint8)
    resized = resize_with_pad(image, side=224)
    ratio = max(height, width) / 224
    inner = max(1, int(width / ratio)), max(1, int(height / ratio))
    canvas = Image.new("RGB", (224, 224), 0)
    canvas.paste(
        Image.fromarray(image).resize(inner, resample=Image.Resampling.BILINEAR),
        (int((224 - inner[0]) / 2), int((224 - inner[1]) / 2)),
    )
    assert np.array_equal(resized, np.asarray(canvas))


def test_the_interface_fills_openpis_slots_in_order() -> None:
    assert SIX_JOINTS_AND_GRIPPER.image_keys == (
        "observation/exterior_image_1_left",
        "observation/wrist_image_left",
    )
