"""The tool flange of the simulated arm: its supply, its RS-485 line, and the controller's Modbus masters.

As users of the real arm report: at most five masters, which stay until they are closed, whoever created them; each
access takes about 20 ms, and one that nobody answers blocks for half a second before it fails; creating a master
succeeds whether or not a slave is there; the address at which the flange's gateway listens differs between sites.
"""

import struct
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

MAX_MASTERS = 5
GATEWAY_PORT = 60000
GATEWAY_ADDRESS = "127.0.0.1"
ACCESS_S = 0.02
STALL_S = 0.5


class SlaveRegisters(Protocol):
    """The device on the flange. Reading and writing raise `LookupError` when it would refuse the access."""

    @property
    def slave_id(self) -> int: ...

    @property
    def speaks_modbus(self) -> bool:
        """Powered, and a device that answers Modbus at all."""
        ...

    def read(self, address: int) -> int: ...

    def write(self, address: int, *, value: int) -> None: ...

    def set_power(self, on: bool) -> None: ...


class ValueType(Enum):
    """How registers are put together, most significant register first: `struct` code."""

    U16 = "H"
    U32 = "I"
    F32 = "f"
    F64 = "d"

    @property
    def words(self) -> int:
        """Registers a value."""
        return struct.calcsize(f">{self.value}") // 2


class Refused(Enum):
    """Why an access gave nothing: the slave answered with an exception, or nobody answered."""

    BY_SLAVE = "by slave"
    SILENCE = "silence"


@dataclass(frozen=True)
class ModbusMaster:
    """One created master."""

    address: str
    port: int
    slave_id: int
    is_rtu: bool


class Flange:
    """Line settings and masters. ``registers`` is the gripper, None when nothing is connected."""

    def __init__(self, registers: SlaveRegisters | None = None) -> None:
        self.registers = registers
        self.gateway_address = GATEWAY_ADDRESS
        self.power_drops_connections = False
        self.powered = True
        self.rs485 = True
        self.baudrate = 115200
        self._masters: dict[int, ModbusMaster] = {}

    def set_power(self, on: bool) -> None:
        """Switch the 24 V supply; the gripper forgets its initialisation when it goes off."""
        self.powered = on
        if self.registers is not None:
            self.registers.set_power(on)

    def create_master(self, master: ModbusMaster) -> int | None:
        """Index of the new master; None when all are taken or nothing listens at its address."""
        free = [index for index in range(MAX_MASTERS) if index not in self._masters]
        if not free or (master.address, master.port) != (self.gateway_address, GATEWAY_PORT):
            return None
        self._masters[free[0]] = master
        return free[0]

    def create_stray_master(self, slave_id: int) -> int | None:
        """A master on the cabinet's RS-485 port, which does not lead to the flange."""
        free = [index for index in range(MAX_MASTERS) if index not in self._masters]
        if not free:
            return None
        self._masters[free[0]] = ModbusMaster("cabinet", 0, slave_id, is_rtu=False)
        return free[0]

    def close_master(self, index: int) -> bool:
        """False when there is no such master."""
        return self._masters.pop(index, None) is not None

    def read(self, index: int, *, address: int, count: int, kind: ValueType) -> tuple[float, ...] | Refused:
        """``count`` values from holding registers."""
        registers = self._reached(index)
        if registers is None:
            return Refused.SILENCE
        try:
            words = [registers.read(address + offset) for offset in range(count * kind.words)]
        except LookupError:
            return Refused.BY_SLAVE
        return struct.unpack(f">{count}{kind.value}", struct.pack(f">{len(words)}H", *words))

    def write(self, index: int, *, address: int, values: tuple[float, ...], kind: ValueType) -> Refused | None:
        """Writes values to holding registers. OverflowError or struct.error for one that the type cannot hold."""
        plain = values if kind in (ValueType.F32, ValueType.F64) else tuple(int(value) for value in values)
        data = struct.pack(f">{len(plain)}{kind.value}", *plain)
        registers = self._reached(index)
        if registers is None:
            return Refused.SILENCE
        try:
            for offset, word in enumerate(struct.unpack(f">{len(data) // 2}H", data)):
                registers.write(address + offset, value=word)
        except LookupError:
            return Refused.BY_SLAVE
        return None

    def reaches_slave(self, index: int) -> bool:
        """Whether anybody answers this master."""
        return self._reached(index) is not None

    def _reached(self, index: int) -> SlaveRegisters | None:
        master = self._masters.get(index)
        answers = (
            master is not None
            and self.registers is not None
            and master.address == self.gateway_address
            and master.is_rtu
            and master.slave_id == self.registers.slave_id
            and self.registers.speaks_modbus
            and self.powered
            and self.rs485
            and self.baudrate == 115200
        )
        return self.registers if answers else None
