"""Real time for the twin: a thread that advances the physics in slices of 8 ms on absolute deadlines.

A slice asks the controller for its joint targets and the gripper for its jaw command, advances the physics, and hands
out what the sensors then say. The simulated cell is touched by this thread only; others go through `PhysicsLoop.call`.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from robot.clock import Clock, MonotonicClock, seconds_to_ns
from robot.priority import prefer_this_thread
from robot.twin.controller import Controller
from robot.twin.controller_feedback import Measurement
from robot.twin.gripper_registers import GripperRegisters
from robot.twin.plant import SLICE_S, SLICE_STEPS, Plant

SLICE_NS = seconds_to_ns(SLICE_S)
MAX_CATCH_UP_SLICES = 4
"""So many slices late are caught up without pause; of a longer delay the rest is lost simulated time."""
_RATE_WINDOW = 625
_MAX_WAITING_CALLS = 32

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class LoopStatistics:
    """Slices done, slices that started late by more than one period, slices of simulated time lost, and simulated per
    real time over the last five seconds."""

    slices: int
    overruns: int
    lost: int
    real_time_factor: float


class PhysicsLoop:
    """Runs from `start` to `stop`. ``on_slice(packet, now_ns)`` is called in the loop's thread after each slice."""

    def __init__(
        self,
        plant: Plant,
        *,
        controller: Controller,
        gripper: GripperRegisters,
        on_slice: Callable[[bytes, int], None],
        clock: Clock | None = None,
    ) -> None:
        self._plant = plant
        self._controller = controller
        self._gripper = gripper
        self._on_slice = on_slice
        self._clock = clock or MonotonicClock()
        self._calls: queue.Queue[tuple[Future[Any], Callable[[], Any]]] = queue.Queue(_MAX_WAITING_CALLS)
        self._measurement = self._measure()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="physics", daemon=True)
        self._failure: BaseException | None = None
        self._slices = self._overruns = self._lost = 0
        self._recent: deque[tuple[int, int]] = deque(maxlen=_RATE_WINDOW)

    @property
    def failure(self) -> BaseException | None:
        """What ended the loop, if it was not `stop`."""
        return self._failure

    @property
    def statistics(self) -> LoopStatistics:
        """How real the time has been so far."""
        recent = list(self._recent)
        factor = 1.0
        if len(recent) > 1 and recent[-1][1] > recent[0][1]:
            factor = (recent[-1][0] - recent[0][0]) * SLICE_NS / (recent[-1][1] - recent[0][1])
        return LoopStatistics(self._slices, self._overruns, self._lost, factor)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the loop and wait for it. Stopping twice, or before the start, is fine."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def call(self, function: Callable[[], _Result], *, timeout_s: float = 5.0) -> _Result:
        """Run ``function`` in the loop's thread between two slices and give its result or raise its error.

        Raises TimeoutError when the loop does not get to it.
        """
        future: Future[_Result] = Future()
        try:
            self._calls.put((future, function), timeout=timeout_s)
            return future.result(timeout_s)
        except (queue.Full, TimeoutError):
            future.cancel()
            raise TimeoutError(f"the physics loop did not answer within {timeout_s:g} s") from None

    def _run(self) -> None:
        prefer_this_thread()
        try:
            deadline_ns = self._clock.now_ns()
            while not self._stop.is_set():
                deadline_ns = self._next_deadline(deadline_ns)
                self._clock.sleep_until_ns(deadline_ns)
                self._do_calls()
                self.run_slice()
        except BaseException as error:  # noqa: BLE001  (kept for the owner, who ends the twin and says why)
            self._failure = error

    def _next_deadline(self, last_ns: int) -> int:
        next_ns = last_ns + SLICE_NS
        late = (self._clock.now_ns() - next_ns) // SLICE_NS
        if late <= 0:
            return next_ns
        self._overruns += 1
        lost = max(0, late - MAX_CATCH_UP_SLICES)
        self._lost += lost
        return next_ns + lost * SLICE_NS

    def run_slice(self) -> None:
        """One slice, without waiting: for the loop, and for tests that make their own time."""
        plant = self._plant
        target = self._controller.advance(SLICE_S, measurement=self._measurement)
        jaw = self._gripper.advance(SLICE_S, opening_m=plant.gripper_opening_m)
        plant.set_gripper_target(jaw.opening_m, force_n=jaw.force_n)
        plant.step_towards(target, steps=SLICE_STEPS)
        self._measurement = self._measure()
        packet = self._controller.make_packet(self._measurement)
        now_ns = self._clock.now_ns()
        self._slices += 1
        self._recent.append((self._slices, now_ns))
        self._on_slice(packet, now_ns)

    def _measure(self) -> Measurement:
        plant = self._plant
        return Measurement(
            joints_rad=plant.joints_rad,
            joint_speed_rad_s=plant.joint_speed_rad_s,
            joint_torque_nm=plant.joint_torque_nm,
            contact_force_n=plant.contact_force_n,
            external_torque_nm=plant.external_torque_nm,
        )

    def _do_calls(self) -> None:
        while not self._calls.empty():
            future, function = self._calls.get_nowait()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
                self._measurement = self._measure()
            except Exception as error:  # noqa: BLE001  (belongs to the caller, who gets it from the future)
                future.set_exception(error)
