"""The simulated AG-95: registers with trivial jaws, the wire on a real pseudo-terminal, states with real physics."""

import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import serial
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.gripper.modbus import (
    GripState,
    InitState,
    ModbusExceptionReply,
    Register,
    parse_read_reply,
    parse_write_reply,
    read_reply_length,
    read_request,
    with_crc,
    write_request,
)
from robot.twin.gripper_registers import GripperRegisters
from robot.twin.gripper_slave import FrameBuffer, GripperSlave, answer
from robot.twin.plant import SLICE_S, SLICE_STEPS
from robot.twin.props import Prop
from robot.twin.sim import TwinSim


class Jaws:
    """A gripper with trivial jaws whose time passes only in `run`."""

    def __init__(self, plant) -> None:
        self.plant = plant
        self.registers = GripperRegisters(init_s=2.0)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / SLICE_S)):
            command = self.registers.advance(SLICE_S, opening_m=self.plant.gripper_opening_m)
            self.plant.set_gripper_target(command.opening_m, force_n=command.force_n)
            self.plant.step_towards(self.plant.joints_rad, steps=SLICE_STEPS)

    def read(self, register: Register) -> int:
        return self.registers.read(register)

    def write(self, register: Register, value: int) -> None:
        self.registers.write(register, value=value)


@pytest.fixture
def jaws(bench) -> Jaws:
    """A gripper just powered, jaws open."""
    return Jaws(bench.plant)


@pytest.fixture
def ready(jaws: Jaws) -> Jaws:
    """An initialised gripper."""
    jaws.write(Register.INITIALISE, 1)
    jaws.run(2.2)
    assert jaws.read(Register.INIT_STATE) == InitState.DONE
    return jaws


def test_it_does_not_move_before_it_is_initialised(jaws: Jaws) -> None:
    jaws.write(Register.TARGET_PERMILLE, 0)
    jaws.run(1.0)
    assert jaws.read(Register.POSITION_PERMILLE) == 1000
    assert jaws.read(Register.INIT_STATE) == InitState.NOT_INITIALISED


def test_initialising_takes_two_seconds_and_the_whole_stroke(jaws: Jaws) -> None:
    jaws.write(Register.INITIALISE, 1)
    assert jaws.read(Register.INIT_STATE) == InitState.IN_PROGRESS
    seen = []
    for _ in range(18):
        jaws.run(0.1)
        seen.append(jaws.read(Register.POSITION_PERMILLE))
        assert jaws.read(Register.INIT_STATE) == InitState.IN_PROGRESS
    assert min(seen) == 0
    jaws.run(0.3)
    assert jaws.read(Register.INIT_STATE) == InitState.DONE
    assert jaws.read(Register.POSITION_PERMILLE) == 1000


def test_a_move_reads_moving_and_then_reached(ready: Jaws) -> None:
    ready.run(0.2)
    assert ready.read(Register.GRIP_STATE) == GripState.REACHED
    ready.write(Register.TARGET_PERMILLE, 300)
    assert ready.read(Register.GRIP_STATE) == GripState.REACHED, "the state is stale right after a new target"
    ready.run(0.1)
    assert ready.read(Register.GRIP_STATE) == GripState.MOVING
    ready.run(0.6)
    assert ready.read(Register.GRIP_STATE) == GripState.REACHED
    assert ready.read(Register.POSITION_PERMILLE) == 300


def test_an_object_in_the_way_is_caught_and_when_it_goes_dropped(ready: Jaws) -> None:
    ready.plant.object_width_m = 0.04
    ready.write(Register.TARGET_PERMILLE, 0)
    ready.run(1.0)
    assert ready.read(Register.GRIP_STATE) == GripState.CAUGHT
    assert ready.read(Register.POSITION_PERMILLE) == pytest.approx(421, abs=2)
    ready.plant.object_width_m = 0.0
    ready.run(0.5)
    assert ready.read(Register.GRIP_STATE) == GripState.DROPPED
    ready.write(Register.TARGET_PERMILLE, 1000)
    ready.run(1.0)
    assert ready.read(Register.GRIP_STATE) == GripState.REACHED


def test_force_below_twenty_percent_is_twenty_percent(jaws: Jaws) -> None:
    jaws.write(Register.FORCE_PERCENT, 5)
    assert jaws.read(Register.FORCE_PERCENT) == 20


@pytest.mark.parametrize(
    ("request_frame", "code"),
    [
        (read_request(1, address=0x0203), 2),
        (read_request(1, address=0x0200, count=4), 2),
        (write_request(1, address=0x0200, value=1), 2),
        (write_request(1, address=0x0103, value=1001), 3),
        (write_request(1, address=0x0100, value=7), 3),
        (read_request(1, address=0x0200, count=0), 3),
        (with_crc(struct.pack(">BBHH", 1, 0x04, 0x0200, 1)), 1),
    ],
)
def test_what_it_cannot_do_is_an_exception_reply(request_frame: bytes, code: int) -> None:
    reply = answer(request_frame, GripperRegisters())
    assert reply[1] == request_frame[1] | 0x80
    assert reply[2] == code
    if request_frame[1] == 3:
        with pytest.raises(ModbusExceptionReply):
            parse_read_reply(reply, slave_id=1, count=1)


def test_frames_for_others_and_with_a_wrong_crc_are_ignored() -> None:
    good = read_request(1, address=0x0200)
    assert answer(read_request(2, address=0x0200), GripperRegisters()) == b""
    assert answer(good[:-1] + bytes([good[-1] ^ 1]), GripperRegisters()) == b""


@settings(deadline=None)
@given(noise=st.binary(max_size=40), cut=st.integers(0, 8), frames=st.integers(1, 4))
def test_frames_are_found_in_noise_however_they_are_cut(noise: bytes, cut: int, frames: int) -> None:
    # Bytes that could begin a frame of their own are no noise.
    noise = bytes(byte for byte in noise if byte > 0x7F)
    request = read_request(1, address=0x0201)
    buffer = FrameBuffer()
    found = buffer.feed(noise)
    for _ in range(frames):
        found += buffer.feed(request[:cut])
        found += buffer.feed(request[cut:])
    assert found[-frames:] == [request] * frames


class Line:
    """The host's end of the serial line."""

    def __init__(self, device: Path) -> None:
        self.port = serial.Serial(str(device), 115200, timeout=2.0)

    def read(self, register: Register, *, count: int = 1) -> list[int]:
        self.port.write(read_request(1, address=register, count=count))
        return parse_read_reply(self.port.read(read_reply_length(count)), slave_id=1, count=count)

    def write(self, register: Register, value: int) -> None:
        request = write_request(1, address=register, value=value)
        self.port.write(request)
        parse_write_reply(self.port.read(8), request=request)

    def hears_nothing(self) -> bool:
        self.port.timeout = 0.2
        silent = self.port.read(1) == b""
        self.port.timeout = 2.0
        return silent


@pytest.fixture
def slave(tmp_path: Path) -> Iterator[GripperSlave]:
    slave = GripperSlave(GripperRegisters(), link=tmp_path / "gripper")
    yield slave
    slave.close()


@pytest.fixture
def line(slave: GripperSlave) -> Iterator[Line]:
    line = Line(slave.link)
    yield line
    line.port.close()


def test_registers_are_read_and_written_over_the_line(line: Line) -> None:
    assert line.read(Register.INIT_STATE, count=3) == [0, 0, 1000]
    line.write(Register.INITIALISE, 1)
    assert line.read(Register.INIT_STATE) == [2]


def test_the_frames_of_the_manual_are_understood(slave: GripperSlave, line: Line) -> None:
    for text in ("01 06 01 00 00 01 49 F6", "01 06 01 00 00 A5 48 4D", "01 06 01 03 01 F4 78 21"):
        line.port.write(bytes.fromhex(text))
        assert line.port.read(8) == bytes.fromhex(text)
    assert slave.registers.read(Register.TARGET_PERMILLE) == 500


def test_a_request_in_pieces_is_understood_and_a_broken_one_forgotten(line: Line) -> None:
    request = read_request(1, address=Register.INIT_STATE)
    line.port.write(request[:3])
    time.sleep(0.1)
    assert line.read(Register.INIT_STATE) == [0]
    line.port.write(request[:5])
    line.port.write(request[5:])
    assert line.port.read(read_reply_length(1))[1] == 3


def test_wrong_slave_wrong_crc_and_wrong_baud_get_silence(line: Line) -> None:
    line.port.write(read_request(7, address=Register.INIT_STATE))
    assert line.hears_nothing()
    line.port.write(read_request(1, address=Register.INIT_STATE)[:-1] + b"\0")
    assert line.hears_nothing()
    line.port.baudrate = 9600
    line.port.write(read_request(1, address=Register.INIT_STATE))
    assert line.hears_nothing()
    line.port.baudrate = 115200
    assert line.read(Register.INIT_STATE) == [0]


def test_the_line_survives_clients_that_come_and_go(slave: GripperSlave) -> None:
    for _ in range(3):
        line = Line(slave.link)
        assert line.read(Register.POSITION_PERMILLE) == [1000]
        line.port.close()


def test_the_link_is_removed_at_the_end_and_left_overs_are_replaced(tmp_path: Path) -> None:
    link = tmp_path / "gripper"
    link.symlink_to("/dev/pts/does-not-exist")
    slave = GripperSlave(GripperRegisters(), link=link)
    Line(link).port.close()
    slave.close()
    assert not link.is_symlink()


def test_with_real_physics_an_object_is_caught_and_taking_it_away_drops_it(
    sim: TwinSim, slave: GripperSlave, line: Line
) -> None:
    stop = threading.Event()
    hold = threading.Event()
    hold.set()

    def pin_can() -> None:
        pose = sim.flange_pose
        middle = sim.tool_point_m - 0.015 * pose[:3, 2]
        sim.set_object_pose(Prop.CAN, position_m=middle, quaternion=np.array([1.0, 0.0, 0.0, 0.0]))

    def physics() -> None:
        target = sim.joints_rad
        while not stop.is_set():
            command = slave.registers.advance(SLICE_S, opening_m=sim.gripper_opening_m)
            sim.set_gripper_target(command.opening_m, force_n=command.force_n)
            if hold.is_set():
                pin_can()
            else:
                sim.set_object_pose(
                    Prop.CAN, position_m=np.array([0.6, 0.3, 0.06]), quaternion=np.array([1.0, 0.0, 0.0, 0.0])
                )
            sim.step_towards(target, steps=SLICE_STEPS)
            time.sleep(0.0005)

    def wait_for(register: Register, value: int) -> None:
        deadline = time.monotonic() + 30
        while line.read(register) != [value]:
            assert time.monotonic() < deadline, f"{register.name} stays {line.read(register)}, expected {value}"
            time.sleep(0.005)

    hold.clear()
    thread = threading.Thread(target=physics)
    thread.start()
    try:
        line.write(Register.INITIALISE, 1)
        wait_for(Register.INIT_STATE, InitState.DONE)
        wait_for(Register.GRIP_STATE, GripState.REACHED)
        hold.set()
        line.write(Register.FORCE_PERCENT, 40)
        line.write(Register.TARGET_PERMILLE, 0)
        wait_for(Register.GRIP_STATE, GripState.CAUGHT)
        assert 300 < line.read(Register.POSITION_PERMILLE)[0] < 900
        hold.clear()
        wait_for(Register.GRIP_STATE, GripState.DROPPED)
    finally:
        stop.set()
        thread.join()


def test_callers_from_several_threads_do_not_disturb_each_other(slave: GripperSlave, line: Line) -> None:
    stop = threading.Event()

    def advance() -> None:
        while not stop.is_set():
            slave.registers.advance(SLICE_S, opening_m=0.05)
            time.sleep(0.001)

    thread = threading.Thread(target=advance)
    thread.start()
    try:
        for _ in range(100):
            assert line.read(Register.INIT_STATE, count=3)[0] == 0
    finally:
        stop.set()
        thread.join()
