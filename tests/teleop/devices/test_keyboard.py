"""The keyboard, typed on through a pseudo-terminal."""

import os
import pty
import termios
from collections.abc import Iterator

import numpy as np
import pytest

from teleop.devices import Button, DeviceError, RateMotion
from teleop.devices.keyboard import Keyboard
from teleop.devices.terminal import KeyParser

NOW_NS = 5_000_000_000
MS = 1_000_000


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """The operator's end and the program's end of a terminal."""
    master, slave = pty.openpty()
    yield master, slave
    for fd in (master, slave):
        try:
            os.close(fd)
        except OSError:
            continue  # a test has closed it


def test_keys_move_for_a_moment_and_the_space_key_is_the_clutch(terminal: tuple[int, int]) -> None:
    master, slave = terminal
    keyboard = Keyboard(slave)
    os.write(master, b" w\x1b[Dg")
    sample = keyboard.sample(NOW_NS)
    assert sample is not None
    assert sample.clutch
    assert sample.pressed == (Button.GRIPPER,)
    assert isinstance(sample.motion, RateMotion)
    np.testing.assert_array_equal(sample.motion.twist, [1, 1, 0, 0, 0, 0])
    later = keyboard.sample(NOW_NS + 130 * MS)
    assert later is not None
    assert isinstance(later.motion, RateMotion)
    np.testing.assert_array_equal(later.motion.twist, np.zeros(6))
    assert later.time_ns == NOW_NS + 130 * MS, "a terminal that says nothing is still there"
    os.write(master, b" \ry\x1b")
    sample = keyboard.sample(NOW_NS + 200 * MS)
    assert sample is not None
    assert not sample.clutch
    assert sample.pressed == (Button.START, Button.SUCCESS, Button.QUIT)
    keyboard.close()


def test_the_terminal_gets_its_settings_back_and_a_closed_one_is_noticed(terminal: tuple[int, int]) -> None:
    master, slave = terminal
    before = termios.tcgetattr(slave)
    keyboard = Keyboard(slave)
    assert termios.tcgetattr(slave)[3] & termios.ICANON == 0
    assert termios.tcgetattr(slave)[3] & termios.ISIG, "Ctrl-C must stay a signal"
    keyboard.close()
    assert termios.tcgetattr(slave) == before
    keyboard = Keyboard(slave)
    keyboard.sample(NOW_NS)
    os.close(master)
    sample = keyboard.sample(NOW_NS + MS)
    assert "gone" in keyboard.problem
    assert sample is not None
    assert sample.time_ns == NOW_NS


def test_without_a_terminal_it_says_so() -> None:
    reader, writer = os.pipe()
    with pytest.raises(DeviceError, match="expected a terminal"):
        Keyboard(reader)
    os.close(reader)
    os.close(writer)


def test_escape_sequences_may_come_in_pieces_and_unknown_ones_are_no_keys() -> None:
    parser = KeyParser()
    assert parser.feed(b"a\x1b[") == ["a"]
    assert parser.feed(b"A\x1b[5~\x1b[99;2~\x1bOB") == ["up", "page up", "down"]
    assert parser.feed(b"\x1b") == []
    assert parser.flush() == ["escape"]
