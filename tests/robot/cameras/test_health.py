"""Which pictures are good enough to act on."""

import numpy as np
import pytest

from robot.cameras.backend import Grab
from robot.cameras.health import FrameChecker, FrameProblem


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (72, 128, 3), dtype=np.uint8)


def grab(image: np.ndarray, *, index: int, intact: bool = True) -> Grab:
    return Grab(
        image, capture_ns=1000 * index, receive_ns=1000 * index + 1, device_seq=index, exposure_s=0.01, intact=intact
    )


def test_changing_pictures_are_good() -> None:
    checker = FrameChecker(fps=15, sensor_noise=True)
    assert [checker.check(grab(picture(i), index=i)) for i in range(1, 40)] == [None] * 39
    assert checker.accepted == 39


def test_the_same_bytes_for_half_a_second_mean_a_frozen_camera_although_its_clock_runs() -> None:
    checker = FrameChecker(fps=15, sensor_noise=True)
    verdicts = [checker.check(grab(picture(), index=i)) for i in range(1, 16)]
    assert verdicts[:8] == [None] * 8
    assert verdicts[8:] == [FrameProblem.FROZEN] * 7
    assert checker.check(grab(picture(1), index=16)) is None


def test_a_rendered_scene_may_rest() -> None:
    checker = FrameChecker(fps=15, sensor_noise=False)
    assert {checker.check(grab(picture(), index=i)) for i in range(1, 40)} == {None}


@pytest.mark.parametrize("colour", [(0, 0, 0), (0, 150, 0), (255, 255, 255)])
def test_one_coloured_pictures_are_refused(colour: tuple[int, int, int]) -> None:
    image = np.broadcast_to(np.array(colour, dtype=np.uint8), (72, 128, 3))
    checker = FrameChecker(fps=15, sensor_noise=True)
    assert checker.check(grab(image, index=1)) is FrameProblem.FEATURELESS


def test_damaged_pictures_and_times_that_do_not_advance_are_refused() -> None:
    checker = FrameChecker(fps=15, sensor_noise=True)
    assert checker.check(grab(picture(), index=1, intact=False)) is FrameProblem.DAMAGED
    assert checker.check(grab(picture(1), index=2)) is None
    assert checker.check(grab(picture(2), index=2)) is FrameProblem.NOT_NEWER
    assert checker.problems == {FrameProblem.DAMAGED: 1, FrameProblem.NOT_NEWER: 1}
