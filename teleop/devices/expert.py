"""The twin's scripted teacher as an operator: it presses the session's keys, holds the clutch, errs and recovers.

Human-like on purpose: a speed, a tremor and a heading of its own in each episode, time to react, pauses with the
clutch released, and slips of the hand while it is high above the table, from which the teacher finds its way back.
Only on a twin: it needs to know exactly where everything is.
"""

from enum import Enum, auto
from typing import cast

import numpy as np

from configs.schema import RigConfig
from robot.clock import seconds_to_ns
from robot.motion.envelope import TOOL_POINT_M
from robot.motion.inverse_kinematics import damped_step
from robot.motion.kinematics import tool_pose
from robot.motion.rotations import Array, make_pose
from robot.state import MachineState
from robot.twin.control import TwinControlError
from robot.twin.expert import Expert, ExpertOptions, Phase
from robot.twin.props import Prop
from robot.twin.sim import TwinSim
from teleop.devices.device import Button, DeviceError, DeviceSample, JointMotion
from teleop.devices.scene_view import SceneView

GIVE_UP_S = 45.0
REPRESS_S = 0.6
"""Holding the clutch so long without the arm following, it lets go and presses again."""
_SPEED_FACTORS = (0.7, 1.0)
_TREMOR_M_S = (0.005, 0.02)
_MAX_YAW_RAD = 0.3
_REACTION_S = (0.2, 0.6)
_PAUSE_S = (0.3, 0.8)
_PAUSES_PER_S = 0.05
_SLIPS_PER_S = 0.10
_SLIP_S = 0.4
_SLIP_SPEED_M_S = 0.08
_SLIP_ABOVE_M = 0.17
_SLIPPING_IN = (Phase.TRAVEL, Phase.CARRY)
_LOST_RAD = 0.2
_TICK_S = 1.0 / 15.0
_CONTENT_S = 0.5
_PRESS_AGAIN_S = 0.4


class _Mood(Enum):
    IDLE = auto()
    READY = auto()
    REACTING = auto()
    WORKING = auto()
    PAUSING = auto()
    FINISHED = auto()


class ScriptedOperator:
    """A `Device` and `EpisodeAware`. Raises `DeviceError` when the rig is no twin or the twin does not answer."""

    name = "expert"

    def __init__(self, rig: RigConfig) -> None:
        if rig.twin is None:
            raise DeviceError(f"the expert needs a twin that tells it where everything is; rig {rig.name!r} is real")
        try:
            self._view = SceneView(rig)
        except TwinControlError as error:
            raise DeviceError(str(error)) from None
        self._random = np.random.default_rng(0)
        self._teacher: Expert | None = None
        self._mood = _Mood.IDLE
        self._until_ns = 0
        self._since_ns = 0
        self._began_ns = 0
        self._slip_until_ns = 0
        self._slip = np.zeros(3)
        self._solved_ns: int | None = None
        self._pressed_ns = 0

    @property
    def problem(self) -> str:
        return self._view.problem

    def begin_episode(self, *, target_object: str, seed: int) -> None:
        """The scene has been set up: work on it as soon as the session lets it."""
        prop = Prop.from_label(target_object)
        self._random = np.random.default_rng([seed, 11])
        self._view.begin(prop)
        self._view.joint_target_rad = self._view.state.value["setpoint_rad"].copy()
        options = ExpertOptions(
            speed_factor=self._random.uniform(*_SPEED_FACTORS),
            speed_noise_m_s=self._random.uniform(*_TREMOR_M_S),
            max_yaw_rad=_MAX_YAW_RAD,
        )
        # The view has what the teacher reads of a simulation, and nothing else.
        self._teacher = Expert(cast(TwinSim, self._view), prop, seed=seed, options=options)
        self._mood, self._solved_ns = _Mood.READY, None
        self._slip_until_ns = 0

    def sample(self, now_ns: int) -> DeviceSample | None:
        if self._view.problem or self._teacher is None:
            return None
        pressed = self._change_mood(now_ns)
        working = self._mood is _Mood.WORKING
        joints, gripper = self._act(now_ns) if working else (self._view.joint_target_rad, 0.0)
        if working and self._wants_to_press(gripper, now_ns):
            pressed = (*pressed, Button.GRIPPER)
        raw = np.array([*joints, gripper, float(working)])
        return DeviceSample(time_ns=now_ns, clutch=working, motion=JointMotion(joints), pressed=pressed, raw=raw)

    def close(self) -> None:
        self._view.close()

    def _change_mood(self, now_ns: int) -> tuple[Button, ...]:
        match self._mood:
            case _Mood.READY:
                self._rest(_Mood.REACTING, now_ns, _REACTION_S)
                self._began_ns = now_ns
                return (Button.START,)
            case _Mood.REACTING | _Mood.PAUSING if now_ns >= self._until_ns:
                self._mood, self._since_ns = _Mood.WORKING, now_ns
            case _Mood.WORKING:
                return self._while_working(now_ns)
        return ()

    def _while_working(self, now_ns: int) -> tuple[Button, ...]:
        if self._view.solved and self._solved_ns is None:
            self._solved_ns = now_ns
        if self._solved_ns is not None and now_ns - self._solved_ns > seconds_to_ns(_CONTENT_S):
            self._mood = _Mood.FINISHED
            return (Button.SUCCESS,)
        if now_ns - self._began_ns > seconds_to_ns(GIVE_UP_S):
            self._mood = _Mood.FINISHED
            return (Button.FAILURE,)
        following = self._view.state.value["machine_state"] == MachineState.STREAMING
        if following:
            self._since_ns = max(self._since_ns, now_ns - seconds_to_ns(REPRESS_S) // 2)
        if now_ns - self._since_ns > seconds_to_ns(REPRESS_S):
            self._rest(_Mood.PAUSING, now_ns, _REACTION_S)
        elif following and self._random.random() < _PAUSES_PER_S * _TICK_S and self._teacher_is(_SLIPPING_IN):
            self._rest(_Mood.PAUSING, now_ns, _PAUSE_S)
        return ()

    def _rest(self, mood: _Mood, now_ns: int, duration_s: tuple[float, float]) -> None:
        self._mood = mood
        self._until_ns = now_ns + seconds_to_ns(self._random.uniform(*duration_s))

    def _act(self, now_ns: int) -> tuple[Array, float]:
        assert self._teacher is not None
        setpoint = self._view.state.value["setpoint_rad"]
        if float(np.max(np.abs(setpoint - self._view.joint_target_rad))) > _LOST_RAD:
            # The arm did not do what it was asked for: go on from where it is, as a person would.
            self._view.joint_target_rad = setpoint.copy()
        action = self._teacher.act()
        joints = action[:6] + self._slip_step(action[:6], now_ns)
        self._view.joint_target_rad = joints
        return joints, float(action[6])

    def _wants_to_press(self, gripper: float, now_ns: int) -> bool:
        """The gripper key toggles: pressed when the target is not what is wanted, and not again before that shows."""
        state = self._view.state.value
        following = state["machine_state"] == MachineState.STREAMING
        differs = (gripper > 0.5) != bool(state["gripper_target"] > 0.5)
        if not (following and differs) or now_ns - self._pressed_ns < seconds_to_ns(_PRESS_AGAIN_S):
            return False
        self._pressed_ns = now_ns
        return True

    def _slip_step(self, joints: Array, now_ns: int) -> Array:
        """What a slipping hand adds in this tick, (6,) rad."""
        if now_ns >= self._slip_until_ns and self._random.random() < _SLIPS_PER_S * _TICK_S:
            self._slip_until_ns = now_ns + seconds_to_ns(_SLIP_S)
            self._slip = self._random.uniform(-1.0, 1.0, 3) * np.array([1.0, 1.0, 0.3]) * _SLIP_SPEED_M_S
        high = tool_pose(joints, tool=make_pose(TOOL_POINT_M))[2, 3] > _SLIP_ABOVE_M
        if now_ns >= self._slip_until_ns or not high or not self._teacher_is(_SLIPPING_IN):
            return np.zeros(6)
        displacement = np.concatenate([self._slip * _TICK_S, np.zeros(3)])
        return damped_step(joints, displacement=displacement, point_m=TOOL_POINT_M)

    def _teacher_is(self, phases: tuple[Phase, ...]) -> bool:
        return self._teacher is not None and self._teacher.phase in phases
