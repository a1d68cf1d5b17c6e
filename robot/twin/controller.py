"""The simulated controller as its wires see it: requests in, replies and feedback packets out, one lock around both."""

import threading
from dataclasses import dataclass

import numpy as np

from robot.arm.protocol import NOT_TCP_TEXT, ErrorCode
from robot.twin.controller_commands import COMMANDS
from robot.twin.controller_core import ControllerCore
from robot.twin.controller_feedback import Measurement, PacketBuilder
from robot.twin.controller_flange import Flange
from robot.twin.controller_gates import Outcome, Unit, refusal
from robot.twin.controller_grammar import Request
from robot.twin.controller_settings import ControllerOptions

_ALLOWED_OUTSIDE_TCP_MODE = "requestcontrol"


@dataclass(frozen=True)
class Answer:
    """The bytes to send for one request, how long the controller takes beyond its usual latency, and whether it closes
    its connections afterwards."""

    data: bytes
    busy_s: float = 0.0
    drops_connections: bool = False


class Controller:
    """One simulated controller, safe to use from several threads."""

    def __init__(self, options: ControllerOptions, *, joints_rad: np.ndarray, flange: Flange | None = None) -> None:
        self.lock = threading.Lock()
        self.core = ControllerCore(options, joints_rad=joints_rad)
        self.flange = flange or Flange()
        self.packet = b""
        self.refused_commands: dict[str, int] = {}
        """Lower-case names that are answered with a code whatever the state, to rehearse refusals."""
        self._unit = Unit(self.core, self.flange)
        self._builder = PacketBuilder()

    def answer(self, request: Request) -> Answer:
        """Carry out one request. Outside TCP mode a text without ``;`` answers everything but RequestControl."""
        with self.lock:
            if not self.core.tcp_mode and request.name != _ALLOWED_OUTSIDE_TCP_MODE:
                return Answer(f"{NOT_TCP_TEXT}\t".encode())
            outcome = self._carry_out(request)
        head = f"{int(outcome.code)},{{{outcome.values}}},".encode()
        return Answer(head + request.echo + b";", busy_s=outcome.busy_s, drops_connections=outcome.drops_connections)

    def _carry_out(self, request: Request) -> Outcome:
        command = COMMANDS.get(request.name)
        if command is None:
            return Outcome(ErrorCode.UNKNOWN_COMMAND)
        refused = refusal(self.core, command)
        if refused is None:
            refused = self.refused_commands.get(request.name)
        if refused is not None:
            return Outcome(refused)
        arguments = command.signature.read(request.items)
        if isinstance(arguments, int):
            return Outcome(arguments)
        return command.run(self._unit, arguments)

    def shift_clock(self, offset_ms: int) -> None:
        """Set the controller's wall clock so far beside this machine's: the feedback's time stamps jump."""
        with self.lock:
            self._builder.clock_offset_ms = offset_ms

    def advance(self, dt_s: float, *, measurement: Measurement) -> np.ndarray:
        """Joint targets (6,) rad for the next ``dt_s`` of physics."""
        with self.lock:
            return self.core.advance(
                dt_s, measured_rad=measurement.joints_rad, contact_force_n=measurement.contact_force_n
            )

    def make_packet(self, measurement: Measurement) -> bytes:
        """The feedback packet of this instant, kept in ``packet`` for the slow port."""
        with self.lock:
            self.packet = self._builder.build(self.core, measurement)
        return self.packet
