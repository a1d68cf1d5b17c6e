"""A leader arm of Dynamixel servos that speak their protocol on a pseudo-terminal."""

import math
import os
import pty
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleop.devices import DeviceError, JointMotion
from teleop.devices.dynamixel import (
    PING,
    STATUS,
    SYNC_READ,
    WRITE,
    DynamixelBus,
    DynamixelError,
    Packet,
    PacketParser,
    encode,
)
from teleop.devices.leader import LeaderArm, LeaderCalibration
from teleop.devices.leader_calibration import calibrate


class Servos:
    """Servos 1 to 7 behind a pseudo-terminal; ``silent`` ones do not answer."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        tty.setraw(slave)
        self.port = os.ttyname(slave)
        self._slave = slave
        self.counts = {id: 1000 * id for id in range(1, 8)}
        self.silent: set[int] = set()
        self.torque_off: set[int] = set()
        self._over = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over = True
        os.write(self._slave, encode(0xFE, PING))
        self._thread.join()
        os.close(self._master)
        os.close(self._slave)

    def _serve(self) -> None:
        parser = PacketParser()
        while not self._over:
            for packet in parser.feed(os.read(self._master, 256)):
                self._answer(packet)

    def _answer(self, packet: Packet) -> None:
        if packet.instruction == SYNC_READ:
            assert packet.parameters[:4] == bytes([132, 0, 4, 0])
            noise = b"\xff\xff\xfd"
            for id in packet.parameters[4:]:
                if id not in self.silent:
                    body = b"\x00" + self.counts[id].to_bytes(4, "little", signed=True)
                    os.write(self._master, noise + encode(id, STATUS, body))
        elif packet.instruction == WRITE and packet.parameters == bytes([64, 0, 0]):
            self.torque_off.add(packet.id)
            os.write(self._master, encode(packet.id, STATUS, b"\x00"))


@pytest.fixture
def servos() -> Iterator[Servos]:
    made = Servos()
    yield made
    made.close()


def calibration_for(servos: Servos) -> LeaderCalibration:
    return LeaderCalibration(
        port=servos.port,
        ids=(1, 2, 3, 4, 5, 6),
        signs=(1, -1, 1, 1, -1, 1),
        offsets_rad=(0.0,) * 6,
        gripper_id=7,
        gripper_open_rad=0.0,
        gripper_closed_rad=7000 * 2 * math.pi / 4096 * 2,
    )


def wait_for(look: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 5.0
    while not look():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_packets_are_those_of_the_manual() -> None:
    assert encode(1, PING) == bytes.fromhex("FF FF FD 00 01 03 00 01 19 4E")
    (answer,) = PacketParser().feed(bytes.fromhex("FF FF FD 00 01 07 00 55 00 06 04 26 65 5D"))
    assert answer == Packet(1, STATUS, bytes([0x06, 0x04, 0x26]), error=0)


@given(st.lists(st.binary(max_size=20), max_size=5), st.integers(1, 7), st.binary(max_size=6))
def test_any_stream_of_packets_is_read_back_whatever_the_pieces(bodies: list[bytes], piece: int, noise: bytes) -> None:
    stream = noise + b"".join(encode(3, WRITE, body + b"\xff\xff\xfd") for body in bodies)
    if b"\xff" in noise:
        return  # noise that begins like a header may swallow what follows; the checksum then drops it
    parser = PacketParser()
    found = [packet for at in range(0, len(stream), piece) for packet in parser.feed(stream[at : at + piece])]
    assert [packet.parameters for packet in found] == [body + b"\xff\xff\xfd" for body in bodies]


def test_a_leader_is_read_continuously_with_its_torque_off(servos: Servos) -> None:
    leader = LeaderArm(calibration_for(servos))
    try:
        assert servos.torque_off == set(range(1, 8))
        sample = leader.sample(time.monotonic_ns())
        assert sample is not None
        assert isinstance(sample.motion, JointMotion)
        turn = 2 * math.pi / 4096
        np.testing.assert_allclose(
            sample.motion.joints_rad, np.array([1000, -2000, 3000, 4000, -5000, 6000]) * turn, atol=1e-9
        )
        assert sample.gripper == pytest.approx(0.5)
        servos.counts[1] = -512
        wait_for(lambda: abs(leader.sample(0).motion.joints_rad[0] + math.pi / 4) < 1e-9)  # type: ignore[union-attr]
    finally:
        leader.close()


def test_a_servo_that_falls_silent_makes_the_sample_old_and_is_named(servos: Servos) -> None:
    leader = LeaderArm(calibration_for(servos))
    try:
        servos.silent.add(4)
        wait_for(lambda: "servo 4" in leader.problem)
        first = leader.sample(time.monotonic_ns())
        time.sleep(0.2)
        second = leader.sample(time.monotonic_ns())
        assert first is not None
        assert second is not None
        assert first.time_ns == second.time_ns
        servos.silent.clear()
        wait_for(lambda: leader.problem == "")
    finally:
        leader.close()


def test_an_absent_leader_is_one_clear_line_and_never_zeros(servos: Servos, tmp_path: Path) -> None:
    servos.silent.add(2)
    with pytest.raises(DynamixelError, match="no answer from servo 2"):
        LeaderArm(calibration_for(servos))
    with pytest.raises(DeviceError, match="plug it in"):
        DynamixelBus.open(str(tmp_path / "ttyUSB9"))
    with pytest.raises(DeviceError, match="leader_calibration"):
        LeaderCalibration.load(tmp_path / "leader.yaml")


def test_calibration_makes_the_present_reading_mean_the_posture_and_survives_its_file(
    servos: Servos, tmp_path: Path
) -> None:
    posture = [0.0, 0.1, -1.5708, 0.0, 1.5708, -0.2]
    bus = DynamixelBus.open(servos.port)
    found = calibrate(bus, calibration=calibration_for(servos), posture_rad=posture)
    bus.close()
    found.save(tmp_path / "leader.yaml")
    read = LeaderCalibration.load(tmp_path / "leader.yaml")
    assert read == found
    np.testing.assert_allclose(read.joints_rad([servos.counts[id] for id in range(1, 7)]), posture, atol=1e-12)
