"""Observations are assembled at a time, and refused with a name when that is not possible."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import ObservationConfig, RigConfig, load_rig
from robot.cameras import frame_dtype
from robot.cameras.exposure import TWIN_EXPOSURE_S
from robot.ring import Ring, RingError, Sample
from robot.rollout.observation import MAX_STATE_GAP_NS, Observation, ObservationReader, Rejection, assemble, interpolate
from robot.runtime import ring_name
from robot.state import STATE_DTYPE

MS = 1_000_000
LIMITS = ObservationConfig(max_age_s=0.15, max_skew_s=0.05)
FRAME = frame_dtype(4, 6)


def frame(capture_ns: int, *, level: int = 0, exposure_s: float = TWIN_EXPOSURE_S) -> Sample:
    record = np.zeros((), FRAME)
    record["image"] = level
    record["exposure_s"] = exposure_s
    return Sample(capture_ns=capture_ns, receive_ns=capture_ns + 1, seq=0, value=record[()])


def state(capture_ns: int, *, joint: float, gripper: float = 0.0, gripper_capture_ns: int | None = None) -> Sample:
    record = np.zeros((), STATE_DTYPE)
    record["joints_rad"] = joint
    record["gripper"] = gripper
    record["gripper_capture_ns"] = capture_ns if gripper_capture_ns is None else gripper_capture_ns
    return Sample(capture_ns=capture_ns, receive_ns=capture_ns, seq=0, value=record[()])


STATES = [state(1000 * MS + 8 * MS * i, joint=0.1 * i, gripper=0.02 * i) for i in range(20)]


def replace_gripper_time(sample: Sample, gripper_capture_ns: int) -> Sample:
    joint, gripper = float(sample.value["joints_rad"][0]), float(sample.value["gripper"])
    return state(sample.capture_ns, joint=joint, gripper=gripper, gripper_capture_ns=gripper_capture_ns)


def test_joints_and_gripper_are_those_of_the_moment_the_picture_was_taken() -> None:
    seen = assemble(now_ns=1080 * MS, exterior=frame(1042 * MS), wrist=frame(1040 * MS), states=STATES, limits=LIMITS)
    assert isinstance(seen, Observation)
    np.testing.assert_allclose(seen.joints_rad, 0.525)
    assert seen.gripper == pytest.approx(0.105)
    assert (seen.time_ns, seen.wrist_skew_ns) == (1042 * MS, -2 * MS)


def test_a_slowly_polled_gripper_is_interpolated_between_its_own_answers() -> None:
    # The gripper answered at 1000 ms (0.2) and 1032 ms (0.6); the records in between repeat the older answer.
    states = [
        state(1000 * MS, joint=0, gripper=0.2, gripper_capture_ns=1000 * MS),
        state(1008 * MS, joint=0, gripper=0.2, gripper_capture_ns=1000 * MS),
        state(1016 * MS, joint=0, gripper=0.2, gripper_capture_ns=1000 * MS),
        state(1024 * MS, joint=0, gripper=0.2, gripper_capture_ns=1000 * MS),
        state(1032 * MS, joint=0, gripper=0.6, gripper_capture_ns=1032 * MS),
    ]
    seen = assemble(now_ns=1040 * MS, exterior=frame(1016 * MS), wrist=frame(1016 * MS), states=states, limits=LIMITS)
    assert isinstance(seen, Observation)
    assert seen.gripper == pytest.approx(0.4)


@pytest.mark.parametrize(("age_ms", "usable"), [(240, True), (260, False)])
def test_a_gripper_that_answers_late_is_waited_for_longer_than_the_arm(age_ms: int, usable: bool) -> None:
    states = [replace_gripper_time(sample, 1100 * MS - age_ms * MS) for sample in STATES]
    seen = assemble(now_ns=1120 * MS, exterior=frame(1100 * MS), wrist=frame(1100 * MS), states=states, limits=LIMITS)
    assert (seen is Rejection.STATE_GAP) is not usable


@pytest.mark.parametrize(
    ("exterior", "wrist", "states", "now_ms", "reason"),
    [
        (None, frame(1000 * MS), STATES, 1050, Rejection.NO_EXTERIOR_FRAME),
        (frame(1000 * MS), frame(1000 * MS), STATES, 1151, Rejection.EXTERIOR_STALE),
        (frame(1000 * MS), None, STATES, 1050, Rejection.NO_WRIST_FRAME),
        (frame(1060 * MS), frame(1009 * MS), STATES, 1070, Rejection.CAMERAS_APART),
        (frame(1010 * MS), frame(1061 * MS), STATES, 1070, Rejection.CAMERAS_APART),
        (frame(1000 * MS), frame(1000 * MS), [], 1050, Rejection.NO_STATE),
        (frame(999 * MS), frame(999 * MS), STATES, 1050, Rejection.STATE_GAP),
        (frame(1300 * MS), frame(1300 * MS), STATES, 1310, Rejection.STATE_GAP),
        (frame(1060 * MS), frame(1060 * MS), [STATES[0], STATES[15]], 1130, Rejection.STATE_GAP),
    ],
)
def test_what_does_not_fit_together_is_rejected_by_name(
    exterior: Sample | None, wrist: Sample | None, states: list[Sample], now_ms: int, reason: Rejection
) -> None:
    seen = assemble(now_ns=now_ms * MS, exterior=exterior, wrist=wrist, states=states, limits=LIMITS)
    assert seen is reason


@given(
    gaps=st.lists(st.integers(1, MAX_STATE_GAP_NS), min_size=1, max_size=20),
    share=st.floats(0.0, 1.0),
    slope=st.floats(-5.0, 5.0),
)
def test_a_straight_line_is_interpolated_exactly_at_any_time(gaps: list[int], share: float, slope: float) -> None:
    times = [0, *np.cumsum(gaps).tolist()]
    values = [np.full(6, slope * t * 1e-9) for t in times]
    t_ns = round(share * times[-1])
    found = interpolate(t_ns, times_ns=times, values=values)
    assert found is not None
    np.testing.assert_allclose(found, slope * t_ns * 1e-9, atol=1e-9)


def test_the_newest_state_serves_a_picture_slightly_newer_than_it() -> None:
    found = interpolate(1050, times_ns=[900, 1000], values=[np.zeros(6), np.ones(6)])
    np.testing.assert_array_equal(found, np.ones(6))  # type: ignore[arg-type]


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RigConfig:
    monkeypatch.setenv("NOVA_PI_RUNTIME_DIR", str(tmp_path))
    return load_rig("twin")


class Rings:
    """The rings that camera workers and robotd write."""

    def __init__(self, rig: RigConfig) -> None:
        self.rig = rig
        self.rings = {part: self.make(part) for part in ("camera.exterior", "camera.wrist", "state")}

    def make(self, part: str) -> Ring:
        dtype = STATE_DTYPE if part == "state" else FRAME
        return Ring.create(ring_name(self.rig.name, part), dtype=dtype, slots=8 if part != "state" else 64)

    def write(self, part: str, sample: Sample) -> None:
        self.rings[part].write(sample.value, capture_ns=sample.capture_ns, receive_ns=sample.receive_ns)


@pytest.fixture
def rings(rig: RigConfig) -> Iterator[Rings]:
    made = Rings(rig)
    yield made
    for ring in made.rings.values():
        ring.unlink()


def test_the_reader_takes_the_newest_exterior_frame_and_the_wrist_frame_nearest_to_it(
    rig: RigConfig, rings: Rings
) -> None:
    for sample in STATES:
        rings.write("state", sample)
    rings.write("camera.exterior", frame(1010 * MS, level=1))
    rings.write("camera.exterior", frame(1060 * MS, level=2))
    for capture_ms, level in ((1000, 3), (1050, 4), (1100, 5)):
        rings.write("camera.wrist", frame(capture_ms * MS, level=level))
    reader = ObservationReader(rig)
    seen = reader.read(1110 * MS)
    assert isinstance(seen, Observation)
    assert (seen.exterior[0, 0, 0], seen.wrist[0, 0, 0], seen.wrist_skew_ns) == (2, 4, -10 * MS)
    assert reader.read(1300 * MS) is Rejection.EXTERIOR_STALE
    assert reader.rejections == {Rejection.EXTERIOR_STALE: 1}
    reader.close()


@pytest.mark.parametrize("changed", ["exterior", "wrist"])
def test_a_picture_with_another_exposure_than_the_locked_one_is_not_acted_on(
    rig: RigConfig, rings: Rings, changed: str
) -> None:
    for sample in STATES:
        rings.write("state", sample)
    for name in ("exterior", "wrist"):
        exposure_s = 3 * TWIN_EXPOSURE_S if name == changed else TWIN_EXPOSURE_S
        rings.write(f"camera.{name}", frame(1060 * MS, exposure_s=exposure_s))
    reader = ObservationReader(rig)
    assert reader.read(1110 * MS) is Rejection.CAMERA_SETTINGS
    for name in ("exterior", "wrist"):
        rings.write(f"camera.{name}", frame(1080 * MS))
    assert isinstance(reader.read(1110 * MS), Observation)
    reader.close()


def test_the_reader_follows_a_camera_process_that_was_started_again(rig: RigConfig, rings: Rings) -> None:
    for sample in STATES:
        rings.write("state", sample)
    rings.write("camera.exterior", frame(1010 * MS))
    rings.write("camera.wrist", frame(1100 * MS))
    reader = ObservationReader(rig)
    rings.rings["camera.exterior"].unlink()
    assert reader.read(1300 * MS) is Rejection.EXTERIOR_STALE
    rings.rings["camera.exterior"] = rings.make("camera.exterior")
    rings.write("camera.exterior", frame(1100 * MS, level=9))
    assert reader.read(1300 * MS) is Rejection.EXTERIOR_STALE
    seen = reader.read(1140 * MS)
    assert isinstance(seen, Observation)
    assert seen.exterior[0, 0, 0] == 9


def test_an_absent_ring_is_one_clear_error(rig: RigConfig) -> None:
    with pytest.raises(RingError, match=r"camera\.exterior does not exist"):
        ObservationReader(rig, timeout_s=0.05)


def test_the_request_holds_what_the_policy_was_trained_on() -> None:
    picture = np.full((36, 64, 3), 200, np.uint8)
    request = Observation(5, picture, picture, 0, np.arange(6.0), 0.5).request(prompt="do it", height=32, width=32)
    assert set(request) == {
        "observation/exterior_image_1_left",
        "observation/wrist_image_left",
        "observation/joint_position",
        "observation/gripper_position",
        "prompt",
    }
    image = request["observation/exterior_image_1_left"]
    assert image.shape == (32, 32, 3)
    assert image[0].max() == 0
    assert image[16].min() == 200
