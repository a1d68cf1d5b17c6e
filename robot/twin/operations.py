"""What the twin's control socket offers: status, reset, objects, success, faults, shutdown."""

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from configs.schema import RigConfig
from robot.motion.nova5 import GRIPPER_STROKE_M
from robot.twin.control import TwinControlError
from robot.twin.controller import Controller
from robot.twin.controller_server import ControllerServer
from robot.twin.gripper_slave import GripperSlave
from robot.twin.physics_loop import PhysicsLoop
from robot.twin.props import Prop
from robot.twin.sim import ArmStart, TwinSim
from robot.twin.success import TaskProgress, flaws, snapshot
from robot.twin.switchboard import Switchboard
from robot.twin.variation import VariationRange

PROGRESS_EVERY_SLICES = 5


class TaskWatch:
    """Which task is judged, and how far it has got since the last reset. Belongs to the physics thread."""

    def __init__(self, sim: TwinSim) -> None:
        self._sim = sim
        self._slices = 0
        self.prop: Prop | None = None
        self.progress = TaskProgress()

    def begin(self, task: str | None) -> None:
        """Watch another task from now on. Raises ValueError that lists the tasks there are."""
        self.prop = None if task is None else Prop.from_label(task)
        self.progress = TaskProgress()

    def look(self) -> None:
        """Called once a slice."""
        self._slices += 1
        if self.prop is not None and self._slices % PROGRESS_EVERY_SLICES == 0:
            self.progress = self.progress.after(snapshot(self._sim, self.prop))


class Operations:
    """Everything that can be asked of a running twin. Methods run in the control socket's threads."""

    def __init__(
        self,
        rig: RigConfig,
        *,
        sim: TwinSim,
        loop: PhysicsLoop,
        controller: Controller,
        wires: ControllerServer,
        gripper: GripperSlave,
        watch: TaskWatch,
        switchboard: Switchboard,
        is_ready: Callable[[], bool],
        stop: threading.Event,
    ) -> None:
        self._rig = rig
        self._sim = sim
        self._loop = loop
        self._controller = controller
        self._wires = wires
        self._gripper = gripper
        self._watch = watch
        self._switchboard = switchboard
        self._is_ready = is_ready
        self._stop = stop

    def table(self) -> dict[str, Callable[..., Any]]:
        """Operations by name."""
        return {
            "status": self.status,
            "reset": self.reset,
            "objects": self.objects,
            "success": self.success,
            "fault": self.fault,
            "mend": self.mend,
            "shutdown": self.shutdown,
        }

    def status(self) -> dict[str, Any]:
        """See `TwinControl.status`."""
        statistics = self._loop.statistics
        with self._controller.lock:
            core = self._controller.core
            mode, alarms, uptime_s = core.mode.name, list(core.alarms), core.uptime_s
        return {
            "ready": self._is_ready(),
            "rig": self._rig.name,
            "pid": os.getpid(),
            "mode": mode,
            "alarms": alarms,
            "task": None if self._watch.prop is None else self._watch.prop.label,
            "uptime_s": round(uptime_s, 3),
            "real_time_factor": round(statistics.real_time_factor, 4),
            "slices": statistics.slices,
            "overruns": statistics.overruns,
            "lost_slices": statistics.lost,
            "clients": {"dashboard": self._wires.dashboard_clients, "feedback": self._wires.feedback.clients},
            "gripper_requests": self._gripper.requests_answered,
        }

    def reset(self, seed: int, task: str | None = None, variation: bool = False, arm: bool = False) -> None:
        """See `TwinControl.reset`."""
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise TwinControlError(f"seed: expected an integer >= 0, got {seed!r}")
        self._loop.call(lambda: self._reset(seed, task=task, variation=variation, arm=arm))

    def _reset(self, seed: int, *, task: str | None, variation: bool, arm: bool) -> None:
        with self._controller.lock:
            core = self._controller.core
            if not core.at_rest:
                raise TwinControlError(f"the arm moves (mode {core.mode.name}): reset the scene while it stands still")
            self._watch.begin(task)
            if arm:
                start = ArmStart(
                    joints_rad=self._rig.start.joints_rad, opening_m=(1.0 - self._rig.start.gripper) * GRIPPER_STROKE_M
                )
                core.relocate(np.array(start.joints_rad))
                self._gripper.registers.relocate(start.opening_m)
            else:
                start = ArmStart(joints_rad=tuple(self._sim.joints_rad.tolist()), opening_m=self._sim.gripper_opening_m)
            self._sim.reset(seed, variation=VariationRange() if variation else None, start=start)

    def objects(self) -> dict[str, Any]:
        """See `TwinControl.objects`."""
        return self._loop.call(self._objects)

    def _objects(self) -> dict[str, Any]:
        found = {
            prop.label: {"position_m": pose.position_m.tolist(), "quaternion_wxyz": pose.quaternion.tolist()}
            for prop, pose in self._sim.object_poses().items()
        }
        plate = {"position_m": self._sim.plate_position_m.tolist(), "quaternion_wxyz": [1.0, 0.0, 0.0, 0.0]}
        return {**found, "plate": plate}

    def success(self, task: str | None = None) -> dict[str, Any]:
        """See `TwinControl.success`."""
        return self._loop.call(lambda: self._success(task))

    def _success(self, task: str | None) -> dict[str, Any]:
        prop = self._watch.prop if task is None else Prop.from_label(task)
        if prop is None:
            raise TwinControlError("no task was given, neither here nor at the reset")
        moment = snapshot(self._sim, prop)
        found = flaws(moment)
        progress = (self._watch.progress if prop is self._watch.prop else TaskProgress()).after(moment)
        return {"success": not found, "flaws": [flaw.value for flaw in found], "best_stage": progress.best.name.lower()}

    def fault(self, name: str, arguments: dict[str, Any] | None = None) -> None:
        """See `TwinControl.fault`."""
        self._switchboard.apply(name, arguments or {})

    def mend(self) -> None:
        """See `TwinControl.mend`."""
        self._switchboard.mend()

    def shutdown(self) -> None:
        """See `TwinControl.shutdown`."""
        self._stop.set()
