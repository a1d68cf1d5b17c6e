"""Gamepad, SpaceMouse and browser on the bytes and messages that the real ones send."""

import json
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from teleop.devices import Button, DeviceError, PoseMotion, RateMotion
from teleop.devices.browser import BrowserDevice, BrowserSocket, MessageError
from teleop.devices.evdev import AxisRange, EventDevice, EventParser, InputEvent
from teleop.devices.gamepad import Gamepad
from teleop.devices.spacemouse import SpaceMouse, find_spacemouse

NOW_NS = 5_000_000_000


def event(kind: int, code: int, value: int) -> bytes:
    return struct.pack("@qqHHi", 1700000000, 250000, kind, code, value)


SYN = event(0, 0, 0)


class Stream:
    """A pad with 16-bit sticks and 8-bit triggers, whose bytes a test writes."""

    def __init__(self) -> None:
        self.problem = ""
        self.data = b""
        self._parser = EventParser()

    def axis(self, code: int) -> AxisRange | None:
        return AxisRange(0, 255, 0) if code in (2, 5) else AxisRange(-32768, 32767, 0)

    def read(self) -> list[InputEvent]:
        data, self.data = self.data, b""
        return self._parser.feed(data)

    def close(self) -> None:
        return


def twist_of(sample: object) -> np.ndarray:
    motion = getattr(sample, "motion", None)
    assert isinstance(motion, RateMotion)
    return motion.twist


def test_a_gamepad_s_events_become_motion_clutch_and_buttons_even_when_reads_cut_them() -> None:
    stream = Stream()
    pad = Gamepad(stream)
    whole = event(3, 0x01, -32768) + event(3, 0x03, 32767) + event(1, 0x137, 1) + event(1, 0x130, 1) + SYN
    stream.data = whole[:37]
    first = pad.sample(NOW_NS)
    assert first is not None
    assert not first.clutch
    stream.data = whole[37:]
    sample = pad.sample(NOW_NS)
    assert sample is not None
    assert sample.clutch
    assert sample.pressed == (Button.GRIPPER,)
    np.testing.assert_allclose(twist_of(sample), [1, 0, 0, 0, 0, -1], atol=1e-4)
    assert pad.sample(NOW_NS).pressed == (), "each press comes once"  # type: ignore[union-attr]
    stream.data = event(1, 0x137, 0) + event(3, 0x05, 255) + event(3, 0x11, -1) + SYN
    sample = pad.sample(NOW_NS)
    assert sample is not None
    assert not sample.clutch
    assert sample.pressed == (Button.FASTER,)
    assert twist_of(sample)[2] == 1.0


def test_an_overflow_of_the_kernel_s_buffer_lets_the_clutch_go() -> None:
    stream = Stream()
    pad = Gamepad(stream)
    stream.data = event(1, 0x137, 1) + SYN + event(0, 3, 0) + event(3, 0x01, -32768) + SYN
    sample = pad.sample(NOW_NS)
    assert sample is not None
    assert not sample.clutch
    assert np.max(np.abs(twist_of(sample)[:2])) < 1e-4


def test_an_unplugged_gamepad_stays_at_the_time_when_it_was_last_heard() -> None:
    stream = Stream()
    pad = Gamepad(stream)
    pad.sample(NOW_NS)
    stream.problem = "unplugged"
    sample = pad.sample(NOW_NS + 10**9)
    assert sample is not None
    assert sample.time_ns == NOW_NS
    assert pad.problem == "unplugged"


def test_absent_hardware_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="is the device plugged in"):
        Gamepad.open(tmp_path / "event9")
    (tmp_path / "event1").write_bytes(b"")
    with pytest.raises(DeviceError, match="expected an event device"):
        EventDevice(tmp_path / "event1")
    with pytest.raises(DeviceError, match="is it plugged in"):
        SpaceMouse.open(tmp_path / "hidraw9")


@pytest.fixture
def spacemouse() -> Iterator[tuple[SpaceMouse, socket.socket]]:
    """A SpaceMouse on a packet socket: like hidraw, one read gives one report."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    device = SpaceMouse(os.dup(theirs.fileno()), path="hidraw0")
    theirs.close()
    yield device, ours
    device.close()
    ours.close()


def test_spacemouse_reports_become_operator_s_axes(spacemouse: tuple[SpaceMouse, socket.socket]) -> None:
    device, wire = spacemouse
    wire.send(bytes.fromhex("01 0000 a2fe 0000"))  # pushed away: y = -350
    wire.send(bytes.fromhex("02 0000 0000 af00"))  # turned clockwise seen from above: rz = 175
    wire.send(bytes.fromhex("03 01 00 00"))
    sample = device.sample(NOW_NS)
    assert sample is not None
    assert sample.clutch
    np.testing.assert_allclose(twist_of(sample), [1, 0, 0, 0, 0, -0.5], atol=1e-12)
    wire.send(bytes.fromhex("03 02 00 00"))
    wire.send(bytes.fromhex("03 00 00 00"))
    wire.send(bytes.fromhex("01 5e01 0000 a2fe 0000 0000 0000"))  # the six-axis report: right and up
    wire.send(b"\x01\x00")
    wire.send(b"\x17battery")
    sample = device.sample(NOW_NS)
    assert sample is not None
    assert not sample.clutch
    assert sample.pressed == (Button.GRIPPER,), "a press between two samples is not lost"
    np.testing.assert_allclose(twist_of(sample), [0, -1, 1, 0, 0, 0], atol=1e-12)
    wire.close()
    gone = device.sample(NOW_NS + 10**9)
    assert gone is not None
    assert gone.time_ns == NOW_NS
    assert "unplugged" in device.problem


def test_a_spacemouse_is_found_by_its_ids(tmp_path: Path) -> None:
    for name, ids in (("hidraw0", "0003:0000046D:0000C52B"), ("hidraw1", "0003:0000256F:0000C635")):
        (tmp_path / name / "device").mkdir(parents=True)
        (tmp_path / name / "device" / "uevent").write_text(f"HID_ID={ids}\nHID_NAME=some device\n")
    assert find_spacemouse(folder=tmp_path) == Path("/dev/hidraw1")
    assert find_spacemouse(folder=tmp_path / "none") is None


def message(seq: int, **more: object) -> str:
    return json.dumps({"seq": seq, "clutch": True, "twist": [0, 0, 0, 0, 0, 0], **more})


def test_browser_messages_are_taken_in_order_and_each_press_once() -> None:
    page = BrowserDevice()
    assert page.sample(NOW_NS) is None
    page.feed(message(1, pressed=["start"], twist=[2, 0, 0, 0, 0, 0]), now_ns=NOW_NS)
    page.feed(message(4, pressed=["gripper"], gripper=0.25), now_ns=NOW_NS + 1)
    page.feed(message(2, pressed=["quit"]), now_ns=NOW_NS + 2)
    sample = page.sample(NOW_NS + 3)
    assert sample is not None
    assert sample.pressed == (Button.START, Button.GRIPPER)
    assert (sample.time_ns, sample.gripper, page.missing) == (NOW_NS + 1, 0.25, 2)
    again = page.sample(NOW_NS + 4)
    assert again is not None
    assert again.pressed == ()
    page.feed(
        {"seq": 5, "clutch": False, "pose": {"position_m": [1, 2, 3], "quaternion_wxyz": [1, 0, 0, 0]}}, now_ns=NOW_NS
    )
    sample = page.sample(NOW_NS)
    assert sample is not None
    assert isinstance(sample.motion, PoseMotion)
    np.testing.assert_allclose(sample.motion.pose[:3, 3], [1, 2, 3])


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        message(-1),
        message(1, clutch=1),
        message(1, twist=[0] * 5),
        message(1, twist=[0, 0, 0, 0, 0, float("nan")]),
        message(1, gripper=2),
        message(1, pressed=["explode"]),
        message(1, speed=3),
        message(1, pose={"position_m": [0, 0, 0], "quaternion_wxyz": [1, 0, 0, 0]}),
        '{"seq": 1, "clutch": true, "pose": {"position_m": [0, 0, 0], "quaternion_wxyz": [0, 0, 0, 0]}}',
        b"\xff\xfe",
    ],
)
def test_a_malformed_browser_message_is_refused_and_counts_for_nothing(text: str) -> None:
    page = BrowserDevice()
    with pytest.raises(MessageError):
        page.feed(text, now_ns=NOW_NS)
    assert page.sample(NOW_NS) is None
    assert page.refused == 1


def test_the_browser_socket_takes_datagrams_and_a_second_collector_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "operator.sock"
    page = BrowserSocket(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as console:
        console.connect(str(path))
        console.send(b"nonsense")
        console.send(message(1, pressed=["pause"]).encode())
        sample = page.sample(NOW_NS)
    assert sample is not None
    assert sample.pressed == (Button.PAUSE,)
    with pytest.raises(DeviceError, match="another collector"):
        BrowserSocket(path)
    page.close()
    assert not path.exists()
    path.touch()
    BrowserSocket(path).close()
