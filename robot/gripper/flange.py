"""The way to the gripper through the arm's tool flange: the controller's own Modbus master does the talking.

Everything goes over the dashboard connection, which carries the servo stream too, and the controller takes one command
at a time: each access holds the set-points behind it up for about 20 ms, and one that nobody answers for half a second.
Hence: one access at a time and only when the controller owes next to nothing; at most `STREAMING_RATE_HZ` accesses a
second while the arm is streamed to; no retries, but a growing pause after a silence; and no searching for gateways or
slaves while the arm moves.
"""

import threading
import time
from collections.abc import Sequence

from robot.arm.dashboard import DashboardClient
from robot.arm.errors import (
    AlarmActiveError,
    ArmConnectionError,
    ArmError,
    CommandRefusedError,
    CommandTimeoutError,
    EmergencyStopError,
    NotTcpModeError,
    PoweredOffError,
    UnexpectedReplyError,
)
from robot.arm.tool_flange import MASTERS, ToolFlange
from robot.gripper.errors import GripperPortError, GripperSilentError, GripperSlaveIdError, GripperUnpoweredError
from robot.gripper.modbus import GRIPPER_STATE_REGISTERS, Register

GATEWAY_PORT = 60000
STREAMING_RATE_HZ = 10.0
"""Accesses a second, polls and targets together, while the arm is streamed to."""
RESTING_RATE_HZ = 40.0
STREAMING_POLL_S = 0.25
RESTING_POLL_S = 0.05
FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 8.0
_OWED_SETPOINTS = 2
"""Set-points that the controller may still owe replies to when an access begins."""
_DRAIN_S = 0.3
_PROBED_SLAVES = range(1, 5)


class FlangeLink:
    """An open master; see `robot.gripper.link.RegisterLink`. Made by `FlangeRoute.open`."""

    def __init__(self, flange: ToolFlange, *, master: int, slave_id: int, gateway: str) -> None:
        self.master = master
        self.gateway = gateway
        self._flange = flange
        self._slave_id = slave_id
        self._reads_blocks = False
        self._ready_s = 0.0
        self._backoff_s = 0.0

    def read(self, address: Register) -> int:
        return self._access(address, count=1)[0]

    def read_block(self, address: Register, *, count: int) -> list[int]:
        if self._reads_blocks:
            return self._access(address, count=count)
        return [self.read(Register(address + offset)) for offset in range(count)]

    def write(self, address: Register, *, value: int) -> None:
        self._access(address, value=value)

    def pause_s(self) -> float:
        return max(0.0, self._ready_s - time.monotonic())

    def poll_period_s(self, wanted_s: float) -> float:
        shortest_s = STREAMING_POLL_S if self._flange.dashboard.is_streaming else RESTING_POLL_S
        return max(wanted_s, shortest_s, self.pause_s())

    def diagnose(self, error: GripperSilentError) -> GripperSilentError:
        return error  # `FlangeRoute.open` has looked already

    def close(self) -> None:
        """Close the master, so that the next program finds a free one."""
        if self._flange.dashboard.broken is None:
            try:
                self._flange.close_master(self.master)
            except ArmError:
                return  # the controller closes what a lost connection leaves behind, or `FlangeRoute.open` does

    def learn_blocks(self) -> None:
        """Find out whether this slave answers a read of several registers: it saves accesses. Not while streaming."""
        try:
            registers = len(GRIPPER_STATE_REGISTERS)
            self._flange.read_registers(self.master, address=GRIPPER_STATE_REGISTERS[0], count=registers)
        except (CommandRefusedError, UnexpectedReplyError):
            self._reads_blocks = False
        else:
            self._reads_blocks = True

    def _access(self, address: Register, *, count: int = 0, value: int | None = None) -> list[int]:
        dashboard = self._flange.dashboard
        self._drain(dashboard)
        try:
            if value is None:
                registers = self._flange.read_registers(self.master, address=address, count=count)
            else:
                self._flange.write_registers(self.master, address=address, values=[value])
                registers = []
        except (AlarmActiveError, EmergencyStopError, PoweredOffError) as error:
            raise GripperUnpoweredError(f"the flange is out of use: {error}") from None
        except (CommandRefusedError, CommandTimeoutError, UnexpectedReplyError) as error:
            raise self._silent(address, error) from None
        except (ArmConnectionError, NotTcpModeError) as error:
            raise GripperPortError(f"the way through the flange is gone: {error}") from None
        except ArmError as error:
            raise self._silent(address, error) from None
        self._backoff_s = 0.0
        self._ready_s = time.monotonic() + 1.0 / (STREAMING_RATE_HZ if dashboard.is_streaming else RESTING_RATE_HZ)
        return registers

    def _drain(self, dashboard: DashboardClient) -> None:
        """Wait, within bounds, until nothing of ours and next to nothing of the servo stream is unanswered."""
        deadline_s = time.monotonic() + _DRAIN_S
        while dashboard.requests_outstanding or dashboard.statistics.servo_outstanding > _OWED_SETPOINTS:
            if dashboard.broken is not None:
                raise GripperPortError(f"the way through the flange is gone: {dashboard.broken}")
            if time.monotonic() > deadline_s:
                raise GripperSilentError(
                    "the gripper was not asked: the controller owes replies to what was sent before, and an access to "
                    "the flange would hold up the servo stream even more"
                )
            time.sleep(0.002)

    def _silent(self, address: Register, error: ArmError) -> GripperSilentError:
        self._backoff_s = min(LONGEST_BACKOFF_S, 2 * self._backoff_s or FIRST_BACKOFF_S)
        self._ready_s = time.monotonic() + self._backoff_s
        return GripperSilentError(
            f"expected an answer from the gripper (slave {self._slave_id} through {self.gateway}) about register "
            f"{address:#06x}, the controller got none ({error}): check the tool connector; asking again in "
            f"{self._backoff_s:g} s"
        )


class FlangeRoute:
    """Opens `FlangeLink` on the arm's present connection; ``gateways`` are tried in order, the last good one first."""

    def __init__(self, dashboard: DashboardClient, *, gateways: Sequence[str], baudrate: int, slave_id: int) -> None:
        self._dashboard = dashboard
        self._gateways = list(dict.fromkeys(gateways))
        self._baudrate = baudrate
        self._slave_id = slave_id
        self._allowed = threading.Event()
        self._has_probed = False

    def use(self, dashboard: DashboardClient) -> None:
        """From now on through this connection (the one before was lost)."""
        self._dashboard = dashboard

    def power(self) -> None:
        """Switch the connector's 24 V on and allow `open`. Raises `ArmError`; the connection may be gone then."""
        self._allowed.set()
        ToolFlange(self._dashboard).set_power(on=True)

    def open(self) -> FlangeLink:
        """Set the line up, close masters that earlier programs left, and find the gripper.

        Raises `GripperUnpoweredError` while the arm is off or in alarm, `GripperPortError` while the connection is gone
        or the arm is streamed to, `GripperSlaveIdError` or `GripperSilentError` when the gripper is not found.
        """
        dashboard = self._dashboard
        if not self._allowed.is_set():
            raise GripperUnpoweredError("the flange has no power yet: it comes with enabling the arm")
        if dashboard.broken is not None:
            raise GripperPortError(f"the way through the flange is gone: {dashboard.broken}")
        flange = ToolFlange(dashboard)
        _require_rest(flange)
        try:
            flange.use_rs485()
            flange.set_rs485(baudrate=self._baudrate)
            for master in MASTERS:
                flange.close_master(master)
            return self._find(flange)
        except (AlarmActiveError, EmergencyStopError, PoweredOffError) as error:
            raise GripperUnpoweredError(f"the flange is out of use: {error}") from None
        except ArmError as error:
            raise GripperPortError(f"the flange could not be set up: {error}") from None

    def _find(self, flange: ToolFlange) -> FlangeLink:
        failures = []
        for gateway in self._gateways:
            _require_rest(flange)
            try:
                master = flange.create_master(gateway, port=GATEWAY_PORT, slave_id=self._slave_id)
            except CommandRefusedError as error:
                failures.append(f"{gateway}: no master ({error.code})")
                continue
            link = FlangeLink(flange, master=master, slave_id=self._slave_id, gateway=gateway)
            if _answers(flange, master=master):
                link.learn_blocks()
                self._gateways.sort(key=lambda name, good=gateway: name != good)  # type: ignore[misc]
                return link
            flange.close_master(master)
            failures.append(f"{gateway}: no answer")
        other = None if self._has_probed else self._answering_slave(flange)
        self._has_probed = True  # it takes seconds, and nobody changes the id behind our back
        if other is not None:
            raise GripperSlaveIdError(
                f"expected the gripper as slave {self._slave_id} on the flange, slave {other} answers there: "
                f"put gripper.slave_id: {other} into the rig file"
            )
        raise GripperSilentError(
            f"expected the gripper (slave {self._slave_id}) on the tool flange, tried {'; '.join(failures)}: check the "
            "tool connector (24 V, 485A, 485B), gripper.gateways, gripper.slave_id and gripper.baudrate in the rig "
            "file; the variant with the CAN box cannot be used there"
        )

    def _answering_slave(self, flange: ToolFlange) -> int | None:
        for slave_id in _PROBED_SLAVES:
            for gateway in () if slave_id == self._slave_id else self._gateways:
                _require_rest(flange)
                try:
                    master = flange.create_master(gateway, port=GATEWAY_PORT, slave_id=slave_id)
                except CommandRefusedError:
                    continue
                answers = _answers(flange, master=master)
                flange.close_master(master)
                if answers:
                    return slave_id
        return None


def _require_rest(flange: ToolFlange) -> None:
    if flange.dashboard.is_streaming:
        raise GripperPortError("the flange is not searched for the gripper while the arm moves")


def _answers(flange: ToolFlange, *, master: int) -> bool:
    try:
        flange.read_registers(master, address=Register.INIT_STATE)
    except (AlarmActiveError, EmergencyStopError, PoweredOffError):
        raise
    except (CommandRefusedError, UnexpectedReplyError, CommandTimeoutError):
        return False
    return True
