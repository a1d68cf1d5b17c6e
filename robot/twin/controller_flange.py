"""The tool flange of the simulated arm: its RS-485 line, and the controller's Modbus masters that reach the gripper.

As users of the real arm report: at most five masters, each access takes about 20 ms, and an access that nobody answers
blocks for half a second before it fails. Creating a master succeeds whether or not a slave is there.
"""

from dataclasses import dataclass
from typing import Protocol

MAX_MASTERS = 5
GATEWAY_PORT = 60000
ACCESS_S = 0.02
STALL_S = 0.5


class SlaveRegisters(Protocol):
    """The device on the flange. Reading and writing raise `LookupError` when it would refuse the access."""

    @property
    def slave_id(self) -> int: ...

    def read(self, address: int) -> int: ...

    def write(self, address: int, *, value: int) -> None: ...


@dataclass(frozen=True)
class ModbusMaster:
    """One created master."""

    port: int
    slave_id: int
    is_rtu: bool


class Flange:
    """Line settings and masters. ``registers`` is the gripper, None when nothing is connected."""

    def __init__(self, registers: SlaveRegisters | None = None) -> None:
        self.registers = registers
        self.powered = True
        self.rs485 = True
        self.baudrate = 115200
        self._masters: dict[int, ModbusMaster] = {}

    def create_master(self, master: ModbusMaster) -> int | None:
        """Index of the new master, None when all are taken."""
        free = [index for index in range(MAX_MASTERS) if index not in self._masters]
        if not free:
            return None
        self._masters[free[0]] = master
        return free[0]

    def close_master(self, index: int) -> bool:
        """False when there is no such master."""
        return self._masters.pop(index, None) is not None

    def close_all(self) -> None:
        """Forget all masters, as when the TCP session ends."""
        self._masters.clear()

    def read(self, index: int, *, address: int, count: int) -> list[int] | None:
        """``count`` holding registers, None when nobody answers or the slave refuses."""
        registers = self._reached(index)
        if registers is None:
            return None
        try:
            return [registers.read(address + offset) for offset in range(count)]
        except LookupError:
            return None

    def write(self, index: int, *, address: int, values: list[int]) -> bool:
        """Writes registers one after the other; False when nobody answers or the slave refuses."""
        registers = self._reached(index)
        if registers is None:
            return False
        try:
            for offset, value in enumerate(values):
                registers.write(address + offset, value=value)
        except LookupError:
            return False
        return True

    def _reached(self, index: int) -> SlaveRegisters | None:
        master = self._masters.get(index)
        answers = (
            master is not None
            and self.registers is not None
            and master.port == GATEWAY_PORT
            and master.is_rtu
            and master.slave_id == self.registers.slave_id
            and self.powered
            and self.rs485
            and self.baudrate == 115200
        )
        return self.registers if answers else None
