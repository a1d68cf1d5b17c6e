"""From what the operator's hand does to where the arm shall be next: clutch, frames, filters, limits. No I/O.

Call `TeleopMapper.step` once a tick. Nothing moves before the clutch has been released and pressed. At each press the
hand's pose and the arm's commanded pose are taken as references anew, so engaging never makes a jump.
"""

from dataclasses import dataclass, field

import numpy as np

from robot.motion.kinematics import tool_pose
from robot.motion.limits import GuardLimits
from robot.motion.rotations import Array, vector_from_rotation
from teleop.clutch import Clutch, ClutchEvent, ClutchState
from teleop.devices.device import Button, DeviceSample, JointMotion, PoseMotion, RateMotion
from teleop.filters import OneEuro, SpikeGate, dead_zone
from teleop.frames import MappingFrame, frame_rotation
from teleop.tracking import (
    TOOL,
    Lead,
    Limitation,
    displaced,
    inside_workspace,
    pose_displacement,
    shortened,
    step_to_joints,
    step_to_pose,
)

SPEED_SCALES = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
"""What the operator's slower and faster keys step through."""
_TAKEOVER = 0.1
"""An analog gripper takes over once it is this near to the present target: picking up the device drops nothing."""
_POSE_SPIKE = np.array([0.03] * 3 + [0.25] * 3)
"""Change of a tracked hand within one sample (m, rad) that may be a glitch."""
_JOINT_SPIKE_RAD = 0.2


@dataclass(frozen=True, eq=False)
class MappingConfig:
    """How a hand becomes a motion. Speeds are those at ``speed_scale`` 1; ``view`` (3, 3) from `view_rotation`."""

    frame: MappingFrame = MappingFrame.BASE
    view: Array | None = None
    speed_scale: float = 1.0
    stick_speed_m_s: float = 0.15
    stick_turn_rad_s: float = 0.6
    stick_acceleration_m_s2: float = 1.0
    stick_turn_acceleration_rad_s2: float = 4.0
    dead_zone: float = 0.05
    top_speed_m_s: float = 0.40
    top_turn_rad_s: float = 1.5
    """Bounds on what a tracked hand or a leader arm can ask for; robotd's limits bind besides."""
    hand_scale: float = 1.0
    """Metres of the tool per metre of a tracked hand."""
    align_speed_rad_s: float = 0.4
    """A leader arm that does not match the arm is approached at this speed."""
    aligned_rad: float = 0.08
    misaligned_rad: float = 0.8
    """A leader arm with a joint further away than this does not engage."""
    lead: Lead = field(default_factory=Lead)
    leash_m: float = 0.03
    leash_rad: float = 0.2
    """How far a stick's target runs ahead of a command that a limit holds back."""

    def __post_init__(self) -> None:
        if not 0.0 < self.speed_scale <= 1.0:
            raise ValueError(f"speed_scale: expected more than 0 and at most 1, got {self.speed_scale}")
        if self.frame is MappingFrame.VIEW and self.view is None:
            raise ValueError("the view frame needs to know where the operator looks from: give the view's yaw")


@dataclass(frozen=True, eq=False)
class Command:
    """What the arm is asked for in this tick: the posture (6,), where it is heading one tick later (6,), the gripper.
    While not ``engaged`` the posture is the last one and the arm shall hold."""

    joints_rad: Array
    heading_rad: Array
    gripper: float
    engaged: bool
    event: ClutchEvent
    clutch: ClutchState
    limitations: frozenset[Limitation]


class TeleopMapper:
    """One operator's mapping on one rig."""

    def __init__(self, config: MappingConfig, *, limits: GuardLimits) -> None:
        self._config = config
        self._limits = limits
        self._clutch = Clutch()
        self._speed_scale = config.speed_scale
        self._command = np.zeros(6)
        self._target = np.eye(4)
        self._twist = np.zeros(6)
        self._hand_reference = np.eye(4)
        self._robot_reference = np.eye(4)
        self._turn = np.zeros(3)
        self._aligned = False
        self._gripper = 0.0
        self._gripper_taken = False
        self._heard_ns: int | None = None
        self._stick_filter = OneEuro(min_cutoff_hz=3.0, beta=2.0)
        self._hand_filter = OneEuro()
        self._joint_filter = OneEuro(min_cutoff_hz=2.0, beta=4.0)
        self._hand_gate = SpikeGate(floor=_POSE_SPIKE)
        self._joint_gate = SpikeGate(floor=_JOINT_SPIKE_RAD)

    @property
    def speed_scale(self) -> float:
        """Share of the top speed that the operator has chosen."""
        return self._speed_scale

    @property
    def gripper(self) -> float:
        """Gripper target, 0 open to 1 closed."""
        return self._gripper

    def drop(self) -> None:
        """Disengage; engaging again needs a release and a press."""
        self._clutch.drop()

    def step(
        self,
        sample: DeviceSample | None,
        *,
        now_ns: int,
        dt_s: float,
        setpoint_rad: Array,
        measured_rad: Array,
        gripper_target: float,
    ) -> Command:
        """One tick of ``dt_s``. ``setpoint_rad`` (6,) is what robotd commands, ``measured_rad`` (6,) where the arm is,
        ``gripper_target`` what the gripper was told last: they count when the clutch engages, and as bounds."""
        heard_ns = None if sample is None else sample.time_ns
        event = self._clutch.update(sample is not None and sample.clutch, heard_ns=heard_ns, now_ns=now_ns)
        limitations: frozenset[Limitation] = frozenset()
        if sample is not None:
            self._take_speed(sample)
        if event is ClutchEvent.ENGAGED:
            assert sample is not None
            self._latch(sample, setpoint_rad=setpoint_rad, gripper_target=gripper_target)
            if self._is_misaligned(sample):
                self._clutch.drop()
                event, limitations = ClutchEvent.NONE, frozenset({Limitation.MISALIGNED})
        if not self._clutch.engaged:
            return self._result(self._command, event, limitations)
        assert sample is not None
        before = self._command
        limitations = self._follow(sample, measured_rad=measured_rad, dt_s=dt_s)
        self._take_gripper(sample)
        return self._result(before, event, limitations)

    def _result(self, before: Array, event: ClutchEvent, limitations: frozenset[Limitation]) -> Command:
        margin = self._limits.joint_margin_rad
        lower, upper = self._limits.joint_lower_rad + margin, self._limits.joint_upper_rad - margin
        ahead = 2 * self._command - before
        heading = np.clip(ahead, np.minimum(lower, self._command), np.maximum(upper, self._command))
        return Command(
            joints_rad=self._command.copy(),
            heading_rad=heading,
            gripper=self._gripper,
            engaged=self._clutch.engaged,
            event=event,
            clutch=self._clutch.state,
            limitations=limitations,
        )

    def _latch(self, sample: DeviceSample, *, setpoint_rad: Array, gripper_target: float) -> None:
        self._command = np.array(setpoint_rad, dtype=np.float64)
        self._robot_reference = self._target = tool_pose(self._command, tool=TOOL)
        self._twist = np.zeros(6)
        self._turn = np.zeros(3)
        self._aligned = False
        self._gripper = gripper_target
        self._gripper_taken = False
        self._heard_ns = None
        for one in (self._stick_filter, self._hand_filter, self._joint_filter, self._hand_gate, self._joint_gate):
            one.reset()
        if isinstance(sample.motion, PoseMotion):
            self._hand_reference = sample.motion.pose

    def _is_misaligned(self, sample: DeviceSample) -> bool:
        if not isinstance(sample.motion, JointMotion):
            return False
        return float(np.max(np.abs(sample.motion.joints_rad - self._command))) > self._config.misaligned_rad

    def _follow(self, sample: DeviceSample, *, measured_rad: Array, dt_s: float) -> frozenset[Limitation]:
        match sample.motion:
            case RateMotion(twist):
                return self._follow_stick(twist, t_ns=sample.time_ns, measured_rad=measured_rad, dt_s=dt_s)
            case PoseMotion(pose):
                return self._follow_hand(pose, t_ns=sample.time_ns, measured_rad=measured_rad, dt_s=dt_s)
            case JointMotion(joints):
                return self._follow_joints(joints, t_ns=sample.time_ns, measured_rad=measured_rad, dt_s=dt_s)

    def _follow_stick(self, twist: Array, *, t_ns: int, measured_rad: Array, dt_s: float) -> frozenset[Limitation]:
        config = self._config
        deflection = self._stick_filter.step(dead_zone(twist, width=config.dead_zone), t_ns=t_ns)
        wanted = shortened(deflection, max_m=1.0, max_rad=1.0) * self._speed_scale
        wanted = wanted * np.array([config.stick_speed_m_s] * 3 + [config.stick_turn_rad_s] * 3)
        change = np.array([config.stick_acceleration_m_s2] * 3 + [config.stick_turn_acceleration_rad_s2] * 3) * dt_s
        self._twist = self._twist + np.clip(wanted - self._twist, -change, change)
        pose = displaced(self._target, displacement=self._in_base(self._twist, tool=self._target) * dt_s)
        limitations = self._step_towards(pose, measured_rad=measured_rad, dt_s=dt_s)
        # A target that ran on while a limit held the arm would have to be taken back by the operator first.
        reached = tool_pose(self._command, tool=TOOL)
        ahead = shortened(pose_displacement(self._target, pose=reached), max_m=config.leash_m, max_rad=config.leash_rad)
        self._target = displaced(reached, displacement=ahead)
        return limitations

    def _follow_hand(self, pose: Array, *, t_ns: int, measured_rad: Array, dt_s: float) -> frozenset[Limitation]:
        found: set[Limitation] = set()
        turn = _nearest_turn(vector_from_rotation(pose[:3, :3] @ self._hand_reference[:3, :3].T), near=self._turn)
        raw = np.concatenate([pose[:3, 3] - self._hand_reference[:3, 3], turn])
        if t_ns != self._heard_ns:  # the same reading twice is no evidence
            self._heard_ns = t_ns
            before = self._hand_gate.rejected
            raw = self._hand_gate.step(raw)
            if self._hand_gate.rejected > before:
                found.add(Limitation.SPIKE)
            self._turn = raw[3:]
        moved = self._hand_filter.step(raw, t_ns=t_ns)
        scale = self._config.hand_scale * self._speed_scale
        scaled = np.concatenate([moved[:3] * scale, moved[3:]])
        goal = displaced(self._robot_reference, displacement=self._in_base(scaled, tool=self._robot_reference))
        way = pose_displacement(goal, pose=self._target)
        reach = shortened(way, max_m=self._config.top_speed_m_s * dt_s, max_rad=self._config.top_turn_rad_s * dt_s)
        if np.any(reach != way):
            found.add(Limitation.SPEED)
        limitations = self._step_towards(
            displaced(self._target, displacement=reach), measured_rad=measured_rad, dt_s=dt_s
        )
        self._target = tool_pose(self._command, tool=TOOL)
        return limitations | found

    def _follow_joints(self, joints: Array, *, t_ns: int, measured_rad: Array, dt_s: float) -> frozenset[Limitation]:
        found: set[Limitation] = set()
        wanted = joints
        if t_ns != self._heard_ns:
            self._heard_ns = t_ns
            before = self._joint_gate.rejected
            wanted = self._joint_gate.step(joints)
            if self._joint_gate.rejected > before:
                found.add(Limitation.SPIKE)
        wanted = self._joint_filter.step(wanted, t_ns=t_ns)
        if not self._aligned:
            self._aligned = float(np.max(np.abs(wanted - self._command))) < self._config.aligned_rad
        step = step_to_joints(
            self._command,
            target_rad=wanted,
            measured_rad=measured_rad,
            dt_s=dt_s,
            limits=self._limits,
            lead=self._config.lead,
            max_speed_rad_s=np.inf if self._aligned else self._config.align_speed_rad_s,
            max_tool_speed_m_s=self._config.top_speed_m_s * self._speed_scale,
        )
        self._command = step.joints_rad
        return step.limitations | found

    def _step_towards(self, pose: Array, *, measured_rad: Array, dt_s: float) -> frozenset[Limitation]:
        """Set ``_target`` to ``pose``, inside the box, and ``_command`` to the posture one tick nearer to it."""
        self._target = inside_workspace(pose, limits=self._limits)
        outside = float(np.max(np.abs(self._target[:3, 3] - pose[:3, 3]))) > 1e-6
        step = step_to_pose(
            self._command,
            target=self._target,
            measured_rad=measured_rad,
            dt_s=dt_s,
            limits=self._limits,
            lead=self._config.lead,
        )
        self._command = step.joints_rad
        return step.limitations | ({Limitation.WORKSPACE} if outside else set())

    def _in_base(self, motion: Array, *, tool: Array) -> Array:
        """A motion (6,) in operator's axes as one in the base frame; ``tool`` (4, 4) is the tool's pose."""
        rotation = frame_rotation(self._config.frame, tool_rotation=tool[:3, :3], view=self._config.view)
        return np.concatenate([rotation @ motion[:3], rotation @ motion[3:]])

    def _take_gripper(self, sample: DeviceSample) -> None:
        for button in sample.pressed:
            if button is Button.GRIPPER:
                self._gripper = 0.0 if self._gripper > 0.5 else 1.0
        if sample.gripper is None:
            return
        if abs(sample.gripper - self._gripper) <= _TAKEOVER:
            self._gripper_taken = True
        if self._gripper_taken:
            self._gripper = sample.gripper

    def _take_speed(self, sample: DeviceSample) -> None:
        for button in sample.pressed:
            if button is Button.FASTER:
                self._speed_scale = min((s for s in SPEED_SCALES if s > self._speed_scale), default=1.0)
            elif button is Button.SLOWER:
                slower = [s for s in SPEED_SCALES if s < self._speed_scale]
                self._speed_scale = max(slower, default=self._speed_scale)


def _nearest_turn(turn: Array, *, near: Array) -> Array:
    """The rotation vector of the same rotation nearest to ``near``: a hand may turn by more than half a turn."""
    angle = float(np.linalg.norm(turn))
    if angle < 1e-9:
        return turn
    axis = turn / angle
    options = [turn + axis * 2.0 * np.pi * whole for whole in (-1.0, 0.0, 1.0)]
    return min(options, key=lambda option: float(np.linalg.norm(option - near)))
