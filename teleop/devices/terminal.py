"""Single keys from a terminal: raw mode on, everything as it was afterwards."""

import os
import select
import sys
import termios
import tty
from types import TracebackType
from typing import Self

from teleop.devices.device import DeviceError

ESCAPE = "escape"
_ESCAPE_SEQUENCES = {
    b"[A": "up", b"[B": "down", b"[C": "right", b"[D": "left",
    b"OA": "up", b"OB": "down", b"OC": "right", b"OD": "left",
    b"[5~": "page up", b"[6~": "page down",
}  # fmt: skip
_CONTROL_KEYS = {
    b"\r": "enter",
    b"\n": "enter",
    b"\x7f": "backspace",
    b"\x08": "backspace",
    b"\t": "tab",
    b" ": "space",
}


class KeyParser:
    """Bytes of a terminal to names of keys: ``a``, ``up``, ``enter``, ``escape``. Unknown sequences give nothing."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[str]:
        """The keys that ``data`` completes. An escape that nothing follows is the Escape key: `flush` gives it."""
        rest, keys = self._pending + data, []
        while rest:
            if rest[:1] != b"\x1b":
                keys += [_CONTROL_KEYS.get(rest[:1], chr(rest[0]) if 32 <= rest[0] < 127 else "")]
                rest = rest[1:]
                continue
            length = _sequence_length(rest)
            if length is None:
                break
            keys.append(ESCAPE if length == 1 else _ESCAPE_SEQUENCES.get(rest[1:length], ""))
            rest = rest[length:]
        self._pending = rest
        return [key for key in keys if key]

    def flush(self) -> list[str]:
        """What is left when nothing more comes: a lone escape byte was the Escape key."""
        left, self._pending = self._pending, b""
        return [ESCAPE] if left else []


class RawTerminal:
    """The keys of a terminal, without waiting and without echo. Ctrl-C still raises its signal.

    ``fd`` is a terminal, standard input when left out. Raises `DeviceError` if it is none. A context manager; `close`
    gives the terminal its old settings back.
    """

    def __init__(self, fd: int | None = None) -> None:
        self._fd = sys.stdin.fileno() if fd is None else fd
        if not os.isatty(self._fd):
            raise DeviceError("expected a terminal for the keys, standard input is none: start it from a terminal")
        self._saved = termios.tcgetattr(self._fd)
        self._parser = KeyParser()
        self.problem = ""
        tty.setcbreak(self._fd, termios.TCSANOW)

    def keys(self) -> list[str]:
        """Keys pressed since the last call."""
        found: list[str] = []
        while not self.problem and select.select([self._fd], [], [], 0.0)[0]:
            try:
                data = os.read(self._fd, 1024)
            except OSError as error:
                self.problem = f"the terminal is gone ({error.strerror})"
                break
            if not data:
                self.problem = "the terminal is gone"
                break
            found += self._parser.feed(data)
        return found + self._parser.flush()

    def close(self) -> None:
        try:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)
        except termios.error:
            self.problem = self.problem or "the terminal is gone"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _sequence_length(data: bytes) -> int | None:
    """Bytes of the escape sequence that ``data`` begins with, None while it is incomplete."""
    if len(data) == 1:
        return None
    if data[1:2] == b"O":
        return 3 if len(data) >= 3 else None
    if data[1:2] != b"[":
        return 1
    for index in range(2, len(data)):
        if 0x40 <= data[index] <= 0x7E:
            return index + 1
    return None
