"""Dynamixel protocol 2.0 on a serial line: packets, checksum, and the two things a leader arm needs of it.

Robotis e-manual, "Protocol 2.0": header FF FF FD 00, id, length (16 bit, from the instruction on), instruction,
parameters, CRC-16 (polynomial 0x8005, start 0, high bit first). FF FF FD inside is followed by a stuffed FD.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import serial

from teleop.devices.device import DeviceError

BROADCAST = 0xFE
PING, WRITE, STATUS, SYNC_READ = 0x01, 0x03, 0x55, 0x82
PRESENT_POSITION, POSITION_BYTES = 132, 4
TORQUE_ENABLE = 64
COUNTS_PER_TURN = 4096
_HEADER = b"\xff\xff\xfd\x00"
_MARK = b"\xff\xff\xfd"
_LONGEST = 256


class DynamixelError(DeviceError):
    """The bus does not answer, or a servo reports an error."""


@dataclass(frozen=True)
class Packet:
    """One packet; of a status packet ``error`` is its error byte, 0 otherwise."""

    id: int
    instruction: int
    parameters: bytes
    error: int = 0


class Port(Protocol):
    """What is needed of a serial port."""

    def write(self, data: bytes, /) -> int | None: ...
    def read(self, size: int, /) -> bytes: ...
    def reset_input_buffer(self) -> None: ...
    def close(self) -> None: ...


def crc16(data: bytes) -> int:
    """The protocol's CRC of ``data``."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x8005) & 0xFFFF if crc & 0x8000 else crc << 1
    return crc


def encode(id: int, instruction: int, parameters: bytes = b"") -> bytes:
    """An instruction packet (or, with `STATUS`, an answer whose first parameter is the error byte)."""
    body = (bytes([instruction]) + parameters).replace(_MARK, _MARK + b"\xfd")
    head = _HEADER + bytes([id]) + (len(body) + 2).to_bytes(2, "little")
    return head + body + crc16(head + body).to_bytes(2, "little")


class PacketParser:
    """A byte stream to packets; noise and packets with a wrong checksum are skipped and counted in ``damaged``."""

    def __init__(self) -> None:
        self._data = b""
        self.damaged = 0

    def feed(self, data: bytes) -> Iterator[Packet]:
        """The packets that ``data`` completes."""
        self._data += data
        while True:
            start = self._data.find(_HEADER)
            if start < 0:
                self._data = self._data[-3:]
                return
            self._data = self._data[start:]
            if len(self._data) < 7:
                return
            length = int.from_bytes(self._data[5:7], "little")
            if not 3 <= length <= _LONGEST:
                self._skip()
                continue
            if len(self._data) < 7 + length:
                return
            packet, checksum = self._data[: 5 + length], self._data[5 + length : 7 + length]
            if crc16(packet) != int.from_bytes(checksum, "little"):
                self._skip()
                continue
            self._data = self._data[7 + length :]
            body = packet[7:].replace(_MARK + b"\xfd", _MARK)
            if body[0] == STATUS and len(body) >= 2:
                yield Packet(packet[4], STATUS, body[2:], error=body[1])
            else:
                yield Packet(packet[4], body[0], body[1:])

    def _skip(self) -> None:
        self.damaged += 1
        self._data = self._data[1:]


class DynamixelBus:
    """Servos on one serial line. Not thread-safe."""

    def __init__(self, port: Port, *, reply_timeout_s: float = 0.05) -> None:
        self._port = port
        self._parser = PacketParser()
        self._reply_timeout_s = reply_timeout_s

    @classmethod
    def open(cls, device: str, *, baudrate: int = 57600) -> "DynamixelBus":
        """Raises `DynamixelError` if the port can't be opened."""
        try:
            port = serial.Serial(device, baudrate, timeout=0.005, exclusive=True)
        except (serial.SerialException, OSError, ValueError) as error:
            raise DynamixelError(
                f"{device}: expected the leader arm's USB adapter, can't be opened ({error}): plug it in, or add "
                "yourself to the group 'dialout'"
            ) from None
        return cls(port)

    def read_positions(self, ids: Sequence[int]) -> list[int]:
        """Present positions in counts, signed, of all servos in one sync-read.

        Raises `DynamixelError` that names the servos which did not answer in time.
        """
        address = PRESENT_POSITION.to_bytes(2, "little") + POSITION_BYTES.to_bytes(2, "little")
        self._send(encode(BROADCAST, SYNC_READ, address + bytes(ids)))
        found: dict[int, int] = {}
        deadline_s = time.monotonic() + self._reply_timeout_s + 0.004 * len(ids)
        while len(found) < len(ids) and time.monotonic() < deadline_s:
            for packet in self._parser.feed(self._receive()):
                if packet.instruction == STATUS and len(packet.parameters) == POSITION_BYTES and packet.id in ids:
                    found[packet.id] = int.from_bytes(packet.parameters, "little", signed=True)
        missing = [str(id) for id in ids if id not in found]
        if missing:
            raise DynamixelError(f"no answer from servo {', '.join(missing)}: check its power, cable and id")
        return [found[id] for id in ids]

    def release(self, id: int) -> None:
        """Switch a servo's torque off, so that a hand can move it."""
        self._send(encode(id, WRITE, TORQUE_ENABLE.to_bytes(2, "little") + b"\x00"))
        deadline_s = time.monotonic() + self._reply_timeout_s
        while time.monotonic() < deadline_s:
            for packet in self._parser.feed(self._receive()):
                if packet.id == id and packet.instruction == STATUS:
                    return
        raise DynamixelError(f"no answer from servo {id}: check its power, cable and id")

    def close(self) -> None:
        self._port.close()

    def _send(self, data: bytes) -> None:
        try:
            self._port.reset_input_buffer()
            self._port.write(data)
        except (serial.SerialException, OSError) as error:
            raise DynamixelError(f"the leader arm is unplugged ({error})") from None

    def _receive(self) -> bytes:
        try:
            return self._port.read(64)
        except (serial.SerialException, OSError) as error:
            raise DynamixelError(f"the leader arm is unplugged ({error})") from None
