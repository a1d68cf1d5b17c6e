"""A Modbus-RTU slave on a pseudo-terminal that moves at once and can be silent, noisy or somebody else."""

import contextlib
import os
import select
import struct
import threading
import tty
from dataclasses import dataclass, field

from robot.gripper.modbus import (
    EXCEPTION_FLAG,
    READ_HOLDING,
    GripState,
    InitState,
    Register,
    crc16,
    with_crc,
)


@dataclass
class Faults:
    """What the gripper shall do wrong. Change it at any time."""

    silent: bool = False
    bad_crc: int = 0
    noise: bytes = b""
    refuse: bool = False
    init_polls: int = 2
    never_initialises: bool = False


@dataclass
class FakeGripper:
    """Answers on the pty whose device is `port`. Requests seen are in `writes` as (register, value)."""

    slave_id: int = 1
    initialised: bool = False
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self.writes: list[tuple[int, int]] = []
        self.reads = 0
        self.registers = {
            Register.INIT_STATE: int(InitState.DONE if self.initialised else InitState.NOT_INITIALISED),
            Register.GRIP_STATE: int(GripState.REACHED),
            Register.POSITION_PERMILLE: 1000,
            Register.TARGET_PERMILLE: 1000,
            Register.FORCE_PERCENT: 20,
        }
        self._polls_left = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=2.0)
        for descriptor in (self._master, self._slave):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _run(self) -> None:
        buffer = b""
        while not self._closing.is_set():
            if not select.select([self._master], [], [], 0.05)[0]:
                buffer = b""
                continue
            buffer += os.read(self._master, 256)
            while len(buffer) >= 8:
                request, buffer = buffer[:8], buffer[8:]
                reply = self._answer(request)
                if reply and not self.faults.silent:
                    os.write(self._master, self.faults.noise + self._spoilt(reply))
                    self.faults.noise = b""

    def _spoilt(self, reply: bytes) -> bytes:
        if self.faults.bad_crc <= 0:
            return reply
        self.faults.bad_crc -= 1
        return reply[:-1] + bytes([reply[-1] ^ 0xFF])

    def _answer(self, request: bytes) -> bytes:
        slave, function, address, value = struct.unpack(">BBHH", request[:6])
        if slave != self.slave_id or struct.unpack("<H", request[6:])[0] != crc16(request[:6]):
            return b""
        if self.faults.refuse:
            return with_crc(bytes([slave, function | EXCEPTION_FLAG, 2]))
        if function == READ_HOLDING:
            self.reads += 1
            self._advance(address)
            return with_crc(struct.pack(">BBBH", slave, function, 2, self.registers[Register(address)]))
        self.writes.append((address, value))
        self.registers[Register(address)] = value
        if address == Register.INITIALISE:
            self.registers[Register.INIT_STATE] = int(InitState.IN_PROGRESS)
            self._polls_left = self.faults.init_polls
        if address == Register.TARGET_PERMILLE:
            self.registers[Register.POSITION_PERMILLE] = value
        return request

    def _advance(self, address: int) -> None:
        if address == Register.INIT_STATE and self.registers[Register.INIT_STATE] == InitState.IN_PROGRESS:
            self._polls_left -= 1
            if self._polls_left <= 0 and not self.faults.never_initialises:
                self.registers[Register.INIT_STATE] = int(InitState.DONE)
