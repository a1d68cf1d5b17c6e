"""The simulated AG-95 without its wire: registers, initialisation and the states of a grip.

What the registers do: DH-Robotics manual. How the states come about is a model: an object counts as caught when the
jaws stand still short of their target, and as dropped when they then move on.
"""

import threading
from dataclasses import dataclass
from enum import Enum, auto

from robot.gripper.modbus import INITIALISE_FULL, INITIALISE_NORMAL, GripState, InitState, Register
from robot.motion.nova5 import GRIPPER_MAX_FORCE_N, GRIPPER_MIN_FORCE_N, GRIPPER_STROKE_M

MIN_FORCE_PERCENT = 20
_POSITION_TOLERANCE_M = 0.0008
_STANDSTILL_M_S = 0.002
_STANDSTILL_S = 0.08
_DROP_WAY_M = 0.002
_REACTION_S = 0.03
"""For this long after a new target the previous grip state is still read."""
_STALL_CURRENT_MA = 800
_WRITABLE = {
    Register.INITIALISE: (0, 0xFFFF),
    Register.FORCE_PERCENT: (0, 100),
    Register.TARGET_PERMILLE: (0, 1000),
    Register.SPEED_PERCENT: (0, 100),
    Register.SAVE: (0, 1),
    Register.INIT_DIRECTION: (0, 1),
    Register.SLAVE_ID: (1, 247),
    Register.BAUD: (0, 5),
    Register.STOP_BITS: (0, 1),
    Register.PARITY: (0, 2),
}


class GripperVariant(Enum):
    """What hangs on the serial line: the RS-485 model, or the one with the vendor's CAN box, no Modbus slave at all."""

    RS485 = auto()
    CAN_BOX = auto()


class IllegalAddressError(LookupError):
    """No such register, or not in this direction."""


class IllegalValueError(LookupError):
    """A value that the register does not take."""


class _Phase(Enum):
    """What the jaws do."""

    IDLE = auto()
    FIRST_STROKE = auto()
    SECOND_STROKE = auto()
    FOLLOWING = auto()


@dataclass(frozen=True)
class JawCommand:
    """What the motor is told: opening in m between the pads, force in N."""

    opening_m: float
    force_n: float


def force_n(percent: int) -> float:
    """Force of a setting: 100 % is 160 N, and it never presses with less than 45 N."""
    return max(GRIPPER_MIN_FORCE_N, GRIPPER_MAX_FORCE_N * percent / 100.0)


class GripperRegisters:
    """One simulated gripper, safe to use from several threads: the wire reads and writes, the physics loop advances."""

    def __init__(self, *, slave_id: int = 1, opening_m: float = GRIPPER_STROKE_M, init_s: float = 2.0) -> None:
        self.variant = GripperVariant.RS485
        self._lock = threading.Lock()
        self._powered = True
        self._object_width_m: float | None = None
        self._values = {int(register): 0 for register in Register}
        self._values[Register.FORCE_PERCENT] = MIN_FORCE_PERCENT
        self._values[Register.SPEED_PERCENT] = 100
        self._values[Register.SLAVE_ID] = slave_id
        self._values[Register.TARGET_PERMILLE] = _permille(opening_m)
        self._init_stroke_s = init_s / 2.0
        self._phase = _Phase.IDLE
        self._elapsed_s = 0.0
        self._opening_m = opening_m
        self._still_s = 0.0
        self._caught_at_m = 0.0
        self._target_age_s = 0.0
        self._command = JawCommand(opening_m, force_n(MIN_FORCE_PERCENT))
        self._measured(opening_m)

    @property
    def slave_id(self) -> int:
        return self._values[Register.SLAVE_ID]

    @property
    def speaks_modbus(self) -> bool:
        """Whether anything on the line answers Modbus."""
        return self._powered and self.variant is GripperVariant.RS485

    def read(self, address: int) -> int:
        """One register. Raises `IllegalAddressError`."""
        with self._lock:
            if address not in self._values:
                raise IllegalAddressError(f"register {address:#06x} does not exist")
            return self._values[address]

    def write(self, address: int, *, value: int) -> None:
        """One register. Raises `IllegalAddressError` or `IllegalValueError`."""
        with self._lock:
            if address not in _WRITABLE:
                raise IllegalAddressError(f"register {address:#06x} cannot be written")
            low, high = _WRITABLE[Register(address)]
            if not low <= value <= high:
                raise IllegalValueError(f"register {address:#06x} takes {low} to {high}, got {value}")
            match Register(address):
                case Register.INITIALISE:
                    if value not in (INITIALISE_NORMAL, INITIALISE_FULL):
                        raise IllegalValueError(f"register {address:#06x} takes 0x01 or 0xA5, got {value:#x}")
                    self._begin_initialisation()
                case Register.FORCE_PERCENT:
                    self._values[address] = max(value, MIN_FORCE_PERCENT)
                case Register.TARGET_PERMILLE:
                    self._values[address] = value
                    self._target_age_s = 0.0
                    self._still_s = 0.0
                case _:
                    self._values[address] = value

    def advance(self, dt_s: float, *, opening_m: float) -> JawCommand:
        """What to tell the jaws after ``dt_s``, given where they are."""
        with self._lock:
            speed_m_s = abs(opening_m - self._opening_m) / dt_s
            self._still_s = self._still_s + dt_s if speed_m_s < _STANDSTILL_M_S else 0.0
            self._measured(opening_m)
            match self._phase:
                case _Phase.FIRST_STROKE | _Phase.SECOND_STROKE:
                    self._advance_initialisation(dt_s)
                case _Phase.FOLLOWING:
                    self._target_age_s += dt_s
                    self._follow()
                case _Phase.IDLE:
                    pass
            width_m, command = self._object_width_m, self._command
            return command if width_m is None else JawCommand(max(command.opening_m, width_m), command.force_n)

    def set_power(self, on: bool) -> None:
        """Switch the 24 V supply. Without it the gripper says nothing, and afterwards it must be initialised again."""
        with self._lock:
            if self._powered and not on:
                self._phase = _Phase.IDLE
                self._values[Register.INIT_STATE] = InitState.NOT_INITIALISED
                self._values[Register.GRIP_STATE] = GripState.MOVING
                self._command = JawCommand(self._opening_m, force_n(MIN_FORCE_PERCENT))
            self._powered = on

    def change_slave_id(self, slave_id: int) -> None:
        """Answer under another id, 1 to 247, as a gripper that was set up for another cell. ValueError otherwise."""
        low, high = _WRITABLE[Register.SLAVE_ID]
        if not low <= slave_id <= high:
            raise ValueError(f"slave id: expected {low} to {high}, got {slave_id}")
        with self._lock:
            self._values[Register.SLAVE_ID] = slave_id

    def insert_object(self, width_m: float) -> None:
        """Something rigid is between the jaws from now on; ValueError if it does not fit between them as they are."""
        if not 0.0 < width_m <= self._opening_m:
            raise ValueError(
                f"object width: expected more than 0 and at most the present opening {self._opening_m:.4f} m, "
                f"got {width_m}: open the jaws first"
            )
        with self._lock:
            self._object_width_m = width_m

    @property
    def has_object(self) -> bool:
        """Whether `insert_object` put something between the jaws."""
        return self._object_width_m is not None

    def remove_object(self) -> None:
        """Nothing is between the jaws any more (but for what the physics knows of)."""
        with self._lock:
            self._object_width_m = None

    def relocate(self, opening_m: float) -> None:
        """The jaws were put elsewhere from outside the simulation of time: stay there."""
        with self._lock:
            self._measured(opening_m)
            self._values[Register.TARGET_PERMILLE] = self._values[Register.POSITION_PERMILLE]
            self._command = JawCommand(opening_m, self._command.force_n)
            self._target_age_s = self._still_s = 0.0

    def _measured(self, opening_m: float) -> None:
        self._opening_m = opening_m
        self._values[Register.POSITION_PERMILLE] = _permille(opening_m)

    def _begin_initialisation(self) -> None:
        self._values[Register.INIT_STATE] = InitState.IN_PROGRESS
        self._values[Register.GRIP_STATE] = GripState.MOVING
        self._phase = _Phase.FIRST_STROKE
        self._elapsed_s = 0.0

    def _advance_initialisation(self, dt_s: float) -> None:
        """First away from the end that `Register.INIT_DIRECTION` names, then to it: the full stroke, come what may."""
        final_m = 0.0 if self._values[Register.INIT_DIRECTION] else GRIPPER_STROKE_M
        first = self._phase is _Phase.FIRST_STROKE
        self._command = JawCommand(GRIPPER_STROKE_M - final_m if first else final_m, force_n(MIN_FORCE_PERCENT))
        self._elapsed_s += dt_s
        if self._elapsed_s < self._init_stroke_s:
            return
        self._elapsed_s = 0.0
        if first:
            self._phase = _Phase.SECOND_STROKE
            return
        self._phase = _Phase.FOLLOWING
        self._values[Register.INIT_STATE] = InitState.DONE
        self._values[Register.TARGET_PERMILLE] = _permille(final_m)
        self._target_age_s = 0.0

    def _follow(self) -> None:
        target_m = self._values[Register.TARGET_PERMILLE] / 1000.0 * GRIPPER_STROKE_M
        force = force_n(self._values[Register.FORCE_PERCENT])
        self._command = JawCommand(target_m, force)
        if self._target_age_s < _REACTION_S:
            return
        state = GripState(self._values[Register.GRIP_STATE])
        self._values[Register.GRIP_STATE] = self._next_state(state, target_m)
        stalled = self._values[Register.GRIP_STATE] == GripState.CAUGHT
        self._values[Register.CURRENT] = round(_STALL_CURRENT_MA * force / GRIPPER_MAX_FORCE_N) if stalled else 0

    def _next_state(self, state: GripState, target_m: float) -> GripState:
        is_new = self._target_age_s < _REACTION_S + _STANDSTILL_S
        if is_new and abs(self._opening_m - target_m) > _POSITION_TOLERANCE_M:
            return GripState.MOVING
        if state is GripState.DROPPED:
            return state
        if state is GripState.CAUGHT:
            return GripState.DROPPED if abs(self._opening_m - self._caught_at_m) > _DROP_WAY_M else state
        if abs(self._opening_m - target_m) <= _POSITION_TOLERANCE_M:
            return GripState.REACHED
        if self._still_s >= _STANDSTILL_S:
            self._caught_at_m = self._opening_m
            return GripState.CAUGHT
        return GripState.MOVING


def _permille(opening_m: float) -> int:
    return round(min(max(opening_m / GRIPPER_STROKE_M, 0.0), 1.0) * 1000)
