"""Predicted and measured motion: the same colours as the policy server's, and a measurement one second later."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot.ring import Sample
from robot.rollout.flow import FLOW_DTYPE, HORIZON_S, WHOLE, FlowComparison, PolicyView
from robot.rollout.flow_view import arrows, colours, difference, from_colours, full_scale_px, wheel
from robot.rollout.resize import resize_with_pad
from robot.rollout.telemetry import MOTION_DTYPE

SIZE = 224
SECOND_NS = 1_000_000_000


def uniform_flow(dx: float, dy: float) -> np.ndarray:
    return np.broadcast_to(np.array([dx, dy], np.float32), (16, 16, 2)).copy()


@pytest.mark.parametrize(
    ("direction", "colour"),
    [((10, 0), (0, 255, 255)), ((-10, 0), (255, 0, 0)), ((0, 10), (128, 0, 255)), ((0, -10), (128, 255, 0))],
)
def test_right_is_cyan_left_red_down_violet_up_yellow_green(
    direction: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    assert np.abs(colours(uniform_flow(*direction))[0, 0].astype(int) - colour).max() <= 1


def test_what_stands_still_is_white_and_has_no_direction() -> None:
    white = colours(uniform_flow(0, 0))
    assert (white == 255).all()
    assert (from_colours(white, scale_px=10.0) == 0).all()
    assert difference(uniform_flow(0, 0), uniform_flow(0, 0)).endpoint_px is None


@given(angle=st.floats(-math.pi, math.pi), length=st.floats(2.0, 40.0))
def test_colours_tell_direction_and_length_back(angle: float, length: float) -> None:
    flow = uniform_flow(length * math.cos(angle), length * math.sin(angle))
    back = from_colours(colours(flow, scale_px=40.0), scale_px=40.0)
    assert np.linalg.norm(back - flow, axis=2).max() < 0.6


def test_the_colours_are_the_policy_servers() -> None:
    torch = pytest.importorskip("torch")
    flow_image = pytest.importorskip("policy_server.motion.flow_image")
    flow = np.random.default_rng(3).normal(0.0, 6.0, (40, 50, 2)).astype(np.float32)
    theirs = flow_image.view(torch.from_numpy(flow).permute(2, 0, 1)).numpy()
    assert np.abs(theirs.astype(int) - colours(flow).astype(int)).max() <= 1


def test_the_difference_of_two_flows_is_known_by_hand() -> None:
    found = difference(uniform_flow(6, 0), uniform_flow(0, 8))
    assert found.endpoint_px == pytest.approx(10.0)
    assert found.angle_deg == pytest.approx(90.0)
    assert arrows(uniform_flow(3, -2), count=4)[1, 2] == pytest.approx([3, -2])
    assert wheel(32).shape == (32, 32, 4)


def texture(seed: int, size: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 255, (size, size, 3)).astype(np.float32)
    return np.clip((cv2.GaussianBlur(noise, (0, 0), 3) - 127) * 9 + 127, 0, 255).astype(np.uint8)


def picture(shift_px: float) -> np.ndarray:
    """A square on a ground, both with a texture; the square is moved to the right by so many pixels."""
    image = texture(1, SIZE)
    left = 60 + round(shift_px)
    image[70:150, left : left + 80] = texture(0, 80)
    return image


def predicted_sample(observation_ns: int, flow: np.ndarray, *, scale_px: float) -> Sample:
    record = np.zeros((), MOTION_DTYPE)
    record["observation_ns"], record["sent_ns"] = observation_ns, observation_ns
    record["received_ns"], record["scale_px"] = observation_ns + 80_000_000, scale_px
    record["image"] = colours(flow, scale_px=scale_px)
    record["region"], record["sent_size"] = (0.0, 0.0, SIZE, SIZE), (SIZE, SIZE)
    return Sample(observation_ns, observation_ns, 0, record)


def compared(flow: np.ndarray, *, scale_px: float = 20.0) -> np.ndarray:
    """A square moves to the right by 12 px in the horizon; ``flow`` was predicted."""
    comparison = FlowComparison()
    comparison.frame(picture(0), capture_ns=0)
    first = comparison.predicted(predicted_sample(0, flow, scale_px=scale_px))
    assert not first["has_measured"]
    assert first["image_delay_ms"] == pytest.approx(80.0)
    for frame in range(1, 17):
        assert comparison.measured() is None, "nothing is measured before it has happened"
        share = frame / 15 / HORIZON_S
        comparison.frame(picture(12 * min(share, 1.0)), capture_ns=int(frame / 15 * SECOND_NS))
    record = comparison.measured()
    assert record is not None
    assert record.dtype == FLOW_DTYPE
    return record


def moving_square(dx: float, dy: float) -> np.ndarray:
    flow = np.zeros((SIZE, SIZE, 2), np.float32)
    flow[70:150, 60:140] = (dx, dy)
    return flow


def test_a_right_prediction_has_a_small_error_and_a_wrong_one_a_large_one() -> None:
    right, wrong = compared(moving_square(12, 0)), compared(moving_square(0, -12))
    assert right["has_measured"]
    assert right["endpoint_px"] < 4.0 < wrong["endpoint_px"]
    assert right["angle_deg"] < 20.0 < wrong["angle_deg"]
    middle = right["measured_arrows"][7, 6]
    assert middle == pytest.approx([12.0, 0.0], abs=2.0)
    assert right["measured_scale_px"] == pytest.approx(full_scale_px(moving_square(12, 0)), rel=0.4)


def test_without_its_scale_a_prediction_has_directions_but_no_lengths() -> None:
    flow = moving_square(12, 0)
    comparison = FlowComparison()
    comparison.frame(picture(0), capture_ns=0)
    sample = predicted_sample(0, flow, scale_px=20.0)
    sample.value["scale_px"] = math.nan
    comparison.predicted(sample)
    for frame in range(1, 17):
        comparison.frame(picture(12 * min(frame / 15, 1.0)), capture_ns=int(frame / 15 * SECOND_NS))
    record = comparison.measured()
    assert record is not None
    assert math.isnan(record["endpoint_px"])
    assert record["angle_deg"] < 20.0


def test_a_prediction_whose_frame_is_missing_is_passed_over() -> None:
    comparison = FlowComparison()
    comparison.predicted(predicted_sample(0, moving_square(12, 0), scale_px=20.0))
    comparison.frame(picture(0), capture_ns=3 * SECOND_NS)
    assert comparison.measured() is None


def test_a_policys_view_is_cut_out_of_the_cameras_picture() -> None:
    frame = np.zeros((360, 640, 3), np.uint8)
    frame[100:340, 210:450] = 255  # what lies in [40, 84, 96, 96] of 144 x 256
    view = PolicyView((40.0, 84.0, 96.0, 96.0), (144.0, 256.0))
    assert view.of(frame).shape == (SIZE, SIZE, 3)
    assert view.of(frame).min() == 255
    assert view.shares(height=360, width=640) == pytest.approx((40 / 144, 84 / 256, 96 / 144, 96 / 256))


def test_without_a_cut_the_whole_picture_is_seen_between_black_bars() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (360, 640, 3), dtype=np.uint8)
    seen, padded = WHOLE.of(frame), resize_with_pad(frame, height=SIZE, width=SIZE)
    assert np.array_equal(seen[52:172], padded[52:172])  # at the bars' edges they are blended
    assert not seen[:47].any()
    assert not seen[177:].any()
    assert WHOLE.shares(height=360, width=640) == pytest.approx((-140 / 360, 0.0, 640 / 360, 1.0))


def test_motion_is_measured_in_what_the_policy_looks_at() -> None:
    """A camera of twice the size, of which the policy sees the middle: the square moves there, and is measured."""
    region, sent_size = (SIZE / 2, SIZE / 2, SIZE, SIZE), (2.0 * SIZE, 2.0 * SIZE)
    comparison = FlowComparison()
    flow = np.zeros((SIZE, SIZE, 2), np.float32)
    flow[70:150, 60:140] = (12, 0)
    sample = predicted_sample(0, flow, scale_px=20.0)
    sample.value["region"], sample.value["sent_size"] = region, sent_size

    def frame(shift_px: float) -> np.ndarray:
        whole = texture(2, 2 * SIZE)
        whole[SIZE // 2 : SIZE // 2 + SIZE, SIZE // 2 : SIZE // 2 + SIZE] = picture(shift_px)
        return whole

    comparison.frame(frame(0), capture_ns=0)
    assert (comparison.predicted(sample)["observation"] == picture(0)).all()
    for number in range(1, 17):
        comparison.frame(frame(12 * min(number / 15 / HORIZON_S, 1.0)), capture_ns=int(number / 15 * SECOND_NS))
    record = comparison.measured()
    assert record is not None
    assert record["endpoint_px"] < 2.0
    assert record["region"] == pytest.approx((0.25, 0.25, 0.5, 0.5))
