"""Digital inputs and outputs of the controller's cabinet and of the tool flange.

The queued DO and ToolDO were refused on a real Nova 5 at rest (firmware 4.6.2), so outputs are switched by the
*Instant* variants, which act at once. Indices: V4.6.5 guide; cabinet from 1, tool 1 or 2.
"""

from robot.arm.dashboard import DashboardClient
from robot.arm.errors import UnexpectedReplyError
from robot.arm.protocol import ProtocolError


class InputsOutputs:
    """The inputs and outputs behind one dashboard connection; errors as in `DashboardClient`."""

    def __init__(self, dashboard: DashboardClient) -> None:
        self._dashboard = dashboard

    def read_input(self, index: int) -> bool:
        """A digital input of the cabinet."""
        return self._read(f"DI({index})")

    def read_output(self, index: int) -> bool:
        """What a digital output of the cabinet is set to."""
        return self._read(f"GetDO({index})")

    def read_tool_input(self, index: int) -> bool:
        """A digital input on the flange."""
        return self._read(f"ToolDI({index})")

    def write_output(self, index: int, *, on: bool) -> None:
        """Switch a digital output of the cabinet at once."""
        self._dashboard.call(f"DOInstant({index},{int(on)})")

    def write_tool_output(self, index: int, *, on: bool) -> None:
        """Switch a digital output on the flange at once."""
        self._dashboard.call(f"ToolDOInstant({index},{int(on)})")

    def _read(self, command: str) -> bool:
        reply = self._dashboard.call(command)
        try:
            (number,) = reply.numbers()
        except (ProtocolError, ValueError):
            raise UnexpectedReplyError(f"expected 0 or 1 in the reply to {command}, got {reply.values!r}") from None
        return number != 0
