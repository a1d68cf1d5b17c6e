"""The AG-95 driver on a real serial line (a pseudo-terminal)."""

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot.gripper.ag95 import Ag95, GripperScale, force_percent
from robot.gripper.errors import (
    GripperInitialisationError,
    GripperPortError,
    GripperRefusedError,
    GripperSilentError,
)
from robot.gripper.modbus import GripState, Register
from robot.state import GripperStatus

SCALE = GripperScale(open_permille=1000, closed_permille=0)


def eventually(condition, timeout_s=4.0):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return False


def driver(fake, **options):
    settings = {"baudrate": 115200, "slave_id": 1, "scale": SCALE, "force_n": 60, "poll_rate_hz": 50}
    return Ag95(fake.port, **(settings | options))


def written(fake, register):
    return [value for address, value in fake.writes if address == register]


@given(fraction=st.floats(0, 1), ends=st.sampled_from([(1000, 0), (0, 1000), (950, 30)]))
def test_the_scale_goes_both_ways_whatever_the_sense(fraction, ends):
    scale = GripperScale(open_permille=ends[0], closed_permille=ends[1])
    assert scale.to_fraction(scale.to_permille(fraction)) == pytest.approx(fraction, abs=1e-3)
    assert scale.to_permille(0.0) == ends[0]
    assert scale.to_permille(1.0) == ends[1]


@pytest.mark.parametrize(("force_n", "percent"), [(160, 100), (60, 38), (20, 20), (999, 100)])
def test_force_is_a_share_of_160_newton_and_at_least_20_percent(force_n, percent):
    assert force_percent(force_n) == percent


def test_closing_writes_the_register_that_means_closed(make_gripper):
    fake = make_gripper(initialised=True)
    with driver(fake) as gripper:
        gripper.set_target(1.0)
        assert eventually(lambda: gripper.state.position == 1.0)
        assert written(fake, Register.TARGET_PERMILLE) == [0]
        assert written(fake, Register.FORCE_PERCENT) == [38]


def test_an_unchanged_target_is_not_written_again(make_gripper):
    fake = make_gripper(initialised=True)
    with driver(fake) as gripper:
        for _ in range(20):
            gripper.set_target(0.5)
            time.sleep(0.005)
        assert written(fake, Register.TARGET_PERMILLE) == [500]


def test_the_newest_of_many_targets_wins(make_gripper):
    fake = make_gripper(initialised=True)
    with driver(fake) as gripper:
        for step in range(1001):
            gripper.set_target(step / 1000)
        assert eventually(lambda: gripper.state.position == 1.0)
        assert len(written(fake, Register.TARGET_PERMILLE)) < 10


def test_it_is_initialised_only_if_needed(make_gripper):
    ready, fresh = make_gripper(initialised=True), make_gripper()
    with driver(ready) as gripper:
        gripper.initialise()
    assert written(ready, Register.INITIALISE) == []
    with driver(fresh) as gripper:
        assert gripper.state.status is GripperStatus.NOT_INITIALISED
        gripper.initialise()
        assert eventually(lambda: gripper.state.status is GripperStatus.REACHED)
    assert written(fresh, Register.INITIALISE) == [1]
    assert written(fresh, Register.FORCE_PERCENT) == [38]


def test_an_initialisation_that_never_ends_is_an_error_with_a_time_limit(make_gripper):
    fake = make_gripper()
    fake.faults.never_initialises = True
    with driver(fake) as gripper, pytest.raises(GripperInitialisationError, match=r"within 0\.3 s"):
        gripper.initialise(timeout_s=0.3)


def test_nothing_moves_before_it_is_initialised(make_gripper):
    fake = make_gripper()
    with driver(fake) as gripper:
        gripper.set_target(1.0)
        reads = fake.reads
        assert eventually(lambda: fake.reads > reads + 6)
        assert written(fake, Register.TARGET_PERMILLE) == []


def test_a_caught_state_from_before_a_new_target_is_not_believed(make_gripper):
    fake = make_gripper(initialised=True)
    fake.registers[Register.GRIP_STATE] = int(GripState.CAUGHT)
    seen = []
    with driver(fake) as gripper:
        assert eventually(lambda: gripper.state.status is GripperStatus.CAUGHT)
        gripper.subscribe(lambda state: seen.append((state.target, state.status)))
        gripper.set_target(1.0)
        assert eventually(lambda: (1.0, GripperStatus.CAUGHT) in seen)
    first = next(status for target, status in seen if target == 1.0)
    assert first is GripperStatus.MOVING


def test_replies_with_a_wrong_checksum_are_asked_for_again(make_gripper):
    fake = make_gripper(initialised=True)
    with driver(fake) as gripper:
        fake.faults.bad_crc = 2
        gripper.set_target(1.0)
        assert eventually(lambda: fake.faults.bad_crc == 0 and gripper.state.position == 1.0)
        assert gripper.state.status is not GripperStatus.UNKNOWN


def test_noise_before_a_reply_does_not_put_the_line_out_of_step(make_gripper):
    fake = make_gripper(initialised=True)
    with driver(fake) as gripper:
        for _ in range(3):
            fake.faults.noise = b"\x55\xaa\x01"
            assert eventually(lambda: fake.faults.noise == b"")
        assert eventually(lambda: gripper.set_target(0.25) or gripper.state.position == 0.25)


def test_silence_makes_the_state_unknown_and_drops_the_target(make_gripper):
    fake = make_gripper(initialised=True)
    with driver(fake) as gripper:
        fake.faults.silent = True
        assert eventually(lambda: gripper.state.status is GripperStatus.UNKNOWN)
        assert "24 V" in gripper.state.problem
        fake.writes.clear()
        fake.faults.silent = False
        assert eventually(lambda: gripper.state.status is GripperStatus.REACHED)
        assert written(fake, Register.TARGET_PERMILLE) == [], "an old target must not move the jaws later"


def test_a_gripper_that_is_silent_from_the_start_is_one_clear_error(make_gripper):
    fake = make_gripper()
    fake.faults.silent = True
    with pytest.raises(GripperSilentError, match="slave 1 on /dev/"):
        driver(fake)


def test_the_wrong_slave_id_is_silence(make_gripper):
    with pytest.raises(GripperSilentError, match=r"gripper\.slave_id"):
        driver(make_gripper(slave_id=2))


def test_a_refused_request_is_named(make_gripper):
    fake = make_gripper()
    fake.faults.refuse = True
    with pytest.raises(GripperRefusedError, match="illegal data address"):
        driver(fake)


def test_an_absent_port_is_one_clear_error(tmp_path):
    with pytest.raises(GripperPortError, match=r"gripper\.port"):
        Ag95(str(tmp_path / "none"), baudrate=115200, slave_id=1, scale=SCALE, force_n=60, poll_rate_hz=30)


def test_a_line_that_is_unplugged_is_unknown_and_closing_still_works(make_gripper):
    fake = make_gripper(initialised=True)
    gripper = driver(fake)
    fake._closing.set()
    fake._thread.join()
    os.close(fake._master)
    assert eventually(lambda: gripper.state.status is GripperStatus.UNKNOWN)
    gripper.close()


def test_a_target_that_is_no_number_is_refused(make_gripper):
    with driver(make_gripper(initialised=True)) as gripper, pytest.raises(ValueError, match="0 \\(open\\) to 1"):
        gripper.set_target(float("nan"))
