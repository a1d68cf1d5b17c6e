"""What the twin's teacher looks at, from outside the twin: objects over its control socket, the arm from robotd."""

import threading
from dataclasses import dataclass

import numpy as np

from configs.schema import RigConfig
from robot.motion.envelope import TOOL_POINT_M
from robot.motion.kinematics import tool_pose
from robot.motion.nova5 import GRIPPER_STROKE_M
from robot.motion.rotations import invert_pose, make_pose
from robot.ring import RingReader, Sample
from robot.runtime import ring_name
from robot.state import GripperStatus
from robot.twin.control import TwinControl, TwinControlError
from robot.twin.props import Prop

LOOK_PERIOD_S = 0.05
STATE_TIMEOUT_S = 5.0
_HELD_WITHIN_M = 0.08
_TOOL = make_pose(TOOL_POINT_M)


@dataclass(frozen=True, eq=False)
class SeenObject:
    """Middle of an object, (3,) m."""

    position_m: np.ndarray


@dataclass(frozen=True)
class SeenContacts:
    """The object in the jaws, None when they are empty."""

    held: Prop | None


class SceneView:
    """The present scene under the names that `robot.twin.expert.Expert` reads. A thread keeps the objects fresh."""

    def __init__(self, rig: RigConfig) -> None:
        """Raises `TwinControlError` without a twin, `RingError` without robotd."""
        self._control = TwinControl.connect(rig)
        try:
            self._states = RingReader.wait(ring_name(rig.name, "state"), timeout_s=STATE_TIMEOUT_S, with_sample=True)
        except BaseException:
            self._control.close()
            raise
        self.joint_target_rad = self.state.value["setpoint_rad"].copy()
        """What the operator asked for last: the teacher goes on from there."""
        self.prop = Prop.CUP
        self.problem = ""
        self.solved = False
        self._judged = False
        self._felt = SeenContacts(None)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._look()
        self._looker = threading.Thread(target=self._keep_looking, name="expert's eyes", daemon=True)
        self._looker.start()

    @property
    def state(self) -> Sample:
        """The newest record of robotd."""
        sample = self._states.latest()
        assert sample is not None, "the ring had a sample when it was opened"
        return sample

    @property
    def plate_position_m(self) -> np.ndarray:
        return self._objects["plate"]

    @property
    def gripper_opening_m(self) -> float:
        return float((1.0 - self.state.value["gripper"]) * GRIPPER_STROKE_M)

    @property
    def contacts(self) -> SeenContacts:
        value = self.state.value
        if value["gripper_status"] == GripperStatus.UNKNOWN:
            return self._felt  # a gripper that is silent for a moment has not let go
        tool_point = tool_pose(value["joints_rad"], tool=_TOOL)[:3, 3]
        near = np.linalg.norm(tool_point - self._objects[self.prop.label]) < _HELD_WITHIN_M
        holds = bool(near) and value["gripper_status"] == GripperStatus.CAUGHT
        self._felt = SeenContacts(self.prop if holds else None)
        return self._felt

    def object_pose(self, prop: Prop) -> SeenObject:
        """Where an object is; of the object in the jaws, where it will be when the arm has done what was asked of it.

        Without that foresight the teacher would correct again and again what is under way already, and swing.
        """
        if self.contacts.held is not prop:
            return SeenObject(self._objects[prop.label])
        in_tool = invert_pose(self._seen_tool) @ np.append(self._objects[prop.label], 1.0)
        return SeenObject((tool_pose(self.joint_target_rad, tool=_TOOL) @ in_tool)[:3])

    def begin(self, prop: Prop) -> None:
        """Another episode: look at the new scene now, and judge it anew."""
        with self._lock:
            self.prop, self.solved, self._judged, self._felt = prop, False, True, SeenContacts(None)
            self._look()

    def close(self) -> None:
        self._stop.set()
        self._looker.join()
        self._control.close()

    def _keep_looking(self) -> None:
        while not self._stop.wait(LOOK_PERIOD_S):
            try:
                with self._lock:
                    self._look()
                    if self._judged and not self.solved:
                        self.solved = self._control.success(self.prop.label).success
            except TwinControlError as error:
                self.problem = str(error)
                return

    def _look(self) -> None:
        self._seen_tool = tool_pose(self.state.value["joints_rad"], tool=_TOOL)
        self._objects = {name: np.array(found.position_m) for name, found in self._control.objects().items()}
