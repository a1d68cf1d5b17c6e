"""The tool flange's supply and RS-485 line, and the controller's own Modbus masters that reach devices on it.

V4.6.5 guide; what users of real arms add: `set_power` may make the controller drop the dashboard and feedback
connections; creating a master succeeds whether or not a slave is there; at most five masters exist and those of an
earlier program stay; an access takes about 20 ms, and one that nobody answers blocks the dashboard for half a second.
All of these commands are refused while the arm is powered off.
"""

import time
from collections.abc import Callable, Sequence
from enum import Enum

from robot.arm.dashboard import DashboardClient
from robot.arm.errors import CommandRefusedError, UnexpectedReplyError
from robot.arm.protocol import ProtocolError

MASTERS = range(5)
"""Indices that the controller hands out."""
MAX_REGISTERS = 4
"""Registers of one access."""
POWER_PAUSE_S = 0.004
"""Least time between two calls of SetToolPower."""
ACCESS_TIMEOUT_S = 1.5
"""Well above the half second that an access without an answer takes."""


class Parity(Enum):
    """Parity of the flange's RS-485 line."""

    NONE = "N"
    ODD = "O"
    EVEN = "E"


class ToolFlange:
    """The flange behind one dashboard connection; errors as in `DashboardClient`."""

    def __init__(self, dashboard: DashboardClient) -> None:
        self.dashboard = dashboard

    def set_power(self, *, on: bool) -> None:
        """Switch the 24 V of the tool connector. Be ready for the connection to drop."""
        self.dashboard.call(f"SetToolPower({int(on)})")
        time.sleep(POWER_PAUSE_S)

    def use_rs485(self) -> None:
        """Make the connector's two-purpose pins an RS-485 line (nothing happens on tools that have only that)."""
        self.dashboard.call("SetToolMode(1,1)")

    def set_rs485(self, *, baudrate: int, parity: Parity = Parity.NONE, stop_bits: int = 1) -> None:
        """Set the line's speed and framing, 8 data bits; for this TCP session."""
        self.dashboard.call(f'SetTool485({baudrate},"{parity.value}",{stop_bits})')

    def create_master(self, gateway: str, *, port: int, slave_id: int) -> int:
        """Make a Modbus-RTU master that talks through ``gateway:port``; gives its index, 0 to 4.

        `CommandFailedError` when all five are taken or the gateway is not there.
        """
        reply = self.dashboard.call(f'ModbusCreate("{gateway}",{port},{slave_id},1)', timeout_s=2 * ACCESS_TIMEOUT_S)
        numbers = _integers(reply.numbers, what=reply.echo)
        if len(numbers) != 1 or numbers[0] not in MASTERS:
            raise UnexpectedReplyError(f"expected a master's index from 0 to 4 from {reply.echo}, got {reply.values!r}")
        return numbers[0]

    def close_master(self, index: int) -> bool:
        """Close a master; False when the controller says that there is none of that index."""
        try:
            self.dashboard.call(f"ModbusClose({index})")
        except CommandRefusedError:
            return False
        return True

    def read_registers(self, master: int, *, address: int, count: int = 1) -> list[int]:
        """``count`` (1 to 4) holding registers. `CommandFailedError` when no slave answers, after half a second."""
        command = f"GetHoldRegs({master},{address},{count},U16)"
        reply = self.dashboard.call(command, timeout_s=ACCESS_TIMEOUT_S)
        values = _integers(reply.numbers, what=command)
        if len(values) != count or not all(0 <= value <= 0xFFFF for value in values):
            raise UnexpectedReplyError(f"expected {count} register(s) of 16 bits from {command}, got {reply.values!r}")
        return values

    def write_registers(self, master: int, *, address: int, values: Sequence[int]) -> None:
        """Write 1 to 4 holding registers. `CommandFailedError` when no slave answers, after half a second."""
        listed = ",".join(str(value) for value in values)
        self.dashboard.call(
            f"SetHoldRegs({master},{address},{len(values)},{{{listed}}},U16)", timeout_s=ACCESS_TIMEOUT_S
        )


def _integers(read: Callable[[], list[float]], *, what: str) -> list[int]:
    try:
        return [int(number) for number in read()]
    except ProtocolError as error:
        raise UnexpectedReplyError(f"{what}: {error}") from None
