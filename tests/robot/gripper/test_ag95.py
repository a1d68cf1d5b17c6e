"""The AG-95 driver on a real serial line (a pseudo-terminal)."""

import os
import time
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot.gripper.ag95 import Ag95, GripperScale, WhenHolding, force_percent
from robot.gripper.errors import (
    GripperHoldingError,
    GripperInitialisationError,
    GripperPortError,
    GripperRefusedError,
    GripperSilentError,
    GripperSlaveIdError,
    GripperTimeoutError,
    GripperVariantError,
)
from robot.gripper.link import ModbusLink, is_can_box
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
    return on_port(fake.port, **options)


def on_port(port, **options):
    settings = {"scale": SCALE, "force_n": 60, "poll_rate_hz": 50}
    return Ag95(partial(ModbusLink, port, baudrate=115200, slave_id=1), **(settings | options))


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


def test_a_wrong_slave_id_is_named(make_gripper):
    with pytest.raises(GripperSlaveIdError, match=r"gripper\.slave_id: 7"):
        driver(make_gripper(slave_id=7))


def test_the_can_box_is_named_by_its_device(make_gripper, tmp_path, monkeypatch):
    fake = make_gripper()
    fake.faults.silent = True
    assert not is_can_box(fake.port)
    (tmp_path / "ttyACM0").touch()
    (tmp_path / "gripper").symlink_to(tmp_path / "ttyACM0")
    assert is_can_box(str(tmp_path / "gripper"))
    monkeypatch.setattr("robot.gripper.link.is_can_box", lambda port: True)
    with pytest.raises(GripperVariantError, match="CAN box"):
        driver(fake)


def test_jaws_that_may_hold_something_are_not_initialised_unasked(make_gripper):
    fake = make_gripper()
    fake.registers[Register.POSITION_PERMILLE] = 400
    with driver(fake) as gripper:
        assert gripper.state.may_hold
        with pytest.raises(GripperHoldingError, match="confirm that it may fall"):
            gripper.initialise()
        assert written(fake, Register.INITIALISE) == []
        gripper.initialise(drop_allowed=True)
        assert written(fake, Register.INITIALISE) == [1]
        assert not gripper.state.may_hold


@pytest.mark.parametrize(("choice", "goes_on"), [(WhenHolding.REFUSE, False), (WhenHolding.ALLOW, True)])
def test_the_rig_may_refuse_or_allow_it_for_good(make_gripper, choice, goes_on):
    fake = make_gripper()
    fake.registers[Register.GRIP_STATE] = int(GripState.CAUGHT)
    with driver(fake, when_holding=choice) as gripper:
        if goes_on:
            gripper.initialise()
        else:
            with pytest.raises(GripperHoldingError, match="take it out"):
                gripper.initialise(drop_allowed=True)
    assert bool(written(fake, Register.INITIALISE)) is goes_on


def test_waiting_does_not_believe_the_end_of_the_motion_before(make_gripper):
    fake = make_gripper(initialised=True)
    fake.registers[Register.GRIP_STATE] = int(GripState.CAUGHT)
    with driver(fake) as gripper:
        assert eventually(lambda: gripper.state.status is GripperStatus.CAUGHT)
        fake.registers[Register.GRIP_STATE] = int(GripState.MOVING)
        gripper.set_target(1.0)
        with pytest.raises(GripperTimeoutError, match="MOVING"):
            gripper.wait(timeout_s=0.3)
        fake.registers[Register.GRIP_STATE] = int(GripState.REACHED)
        settled = gripper.wait(timeout_s=3.0)
        assert (settled.status, settled.target) == (GripperStatus.REACHED, 1.0)


def test_waiting_for_a_silent_gripper_ends_in_its_error(make_gripper):
    fake = make_gripper(initialised=True)
    with driver(fake) as gripper:
        fake.faults.silent = True
        with pytest.raises(GripperSilentError, match="fell silent"):
            gripper.wait(timeout_s=0.01) if eventually(lambda: gripper.state.status is GripperStatus.UNKNOWN) else None


def test_a_steady_stream_of_targets_does_not_stop_the_polls(make_gripper):
    fake = make_gripper(initialised=True)
    seen = []
    with driver(fake) as gripper:
        gripper.subscribe(seen.append)
        deadline = time.monotonic() + 0.6
        step = 0
        while time.monotonic() < deadline:
            step += 1
            gripper.set_target(step % 100 / 100)
            time.sleep(0.001)
    assert len(seen) > 5


def test_a_refused_request_is_named(make_gripper):
    fake = make_gripper()
    fake.faults.refuse = True
    with pytest.raises(GripperRefusedError, match="illegal data address"):
        driver(fake)


def test_an_absent_port_is_one_clear_error(tmp_path):
    with pytest.raises(GripperPortError, match=r"gripper\.port"):
        on_port(str(tmp_path / "none"))


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
