"""A scripted teacher that puts an object on the plate: for demonstrations, and as proof that the scene can be solved.

It looks at the exact state each tick and decides anew (feedback form), so it recovers from pushes, odd starts and
failed grasps, and can take over from any moment of another policy's run. It remembers only its last command, its speed
and how long it has been squeezing. Actions are what a policy would send: six absolute joint angles and the gripper.
"""

from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from robot.motion.inverse_kinematics import nearest_inverse
from robot.motion.kinematics import flange_pose
from robot.motion.nova5 import GRIPPER_STROKE_M, MAX_JOINT_SPEED_RAD_S, fingertip_height_m
from robot.motion.rotations import make_pose, rotation_from_vector, vector_from_rotation
from robot.twin.layout import height_on_plate_m
from robot.twin.props import PLATE_GOAL_RADIUS_M, PROP_SHAPES, Prop
from robot.twin.sim import TwinSim

CONTROL_RATE_HZ = 15.0

SAFE_TIP_Z_M = 0.200
"""Tip height while travelling with open jaws: above the can."""
CARRY_TIP_Z_M = 0.245
RELEASE_GAP_M = 0.004
ACCELERATION_M_S2 = 1.6
TURN_RAD_S = 1.0
SQUEEZE_TICKS = 5
APPROACH_RADIUS_M = 0.050
DESCEND_RADIUS_M = 0.010
CLOSE_RADIUS_M = 0.006
AT_HEIGHT_M = 0.005
LOWER_RADIUS_M = 0.012
MISSED_M = 0.010
"""Jaws closed this far beyond the object's width hold nothing."""

TOP_DOWN = np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
"""Rotation of the flange with the gripper straight down and the jaws opening along the base's y axis."""


class Phase(Enum):
    """What the expert is about."""

    TRAVEL = auto()
    DESCEND = auto()
    CLOSE = auto()
    REOPEN = auto()
    LIFT = auto()
    CARRY = auto()
    LOWER = auto()
    RELEASE = auto()
    RETREAT = auto()


@dataclass(frozen=True)
class ExpertOptions:
    """How the expert moves the tool."""

    speed_m_s: float = 0.28
    speed_factor: float = 1.0
    speed_noise_m_s: float = 0.0
    """Standard deviation of the jitter added to the tool's velocity in each tick and axis."""
    max_yaw_rad: float = 0.0
    """The jaws' heading is turned by an angle drawn once per episode within plus or minus this."""


@dataclass(frozen=True)
class Goal:
    """Where the fingertips shall go, m, whether the jaws shall be closed, and why."""

    tip_m: np.ndarray
    closed: bool
    phase: Phase
    speed_share: float = 1.0


class Expert:
    """One episode's teacher. Make it after `TwinSim.reset`, call `act` once per control tick."""

    def __init__(self, sim: TwinSim, prop: Prop, *, seed: int = 0, options: ExpertOptions | None = None) -> None:
        self._sim = sim
        self._prop = prop
        self._options = options or ExpertOptions()
        self._random = np.random.default_rng([seed, 7])
        yaw = self._random.uniform(-1.0, 1.0) * self._options.max_yaw_rad
        self._rotation = _about_z(yaw) @ TOP_DOWN
        self._command_rad = sim.joint_target_rad
        self._velocity_m_s = np.zeros(3)
        self._squeezed_ticks = 0
        self._closing = False
        self._reopening = False
        self.phase = Phase.TRAVEL

    def act(self) -> np.ndarray:
        """Action (7,): joint set-points in rad for the end of this tick, and the gripper, 0 open to 1 closed."""
        self._command_rad = self._sim.joint_target_rad
        goal = self._decide()
        self.phase = goal.phase
        joints = self._towards(goal)
        return np.append(joints, 1.0 if goal.closed else 0.0)

    def _decide(self) -> Goal:
        sim, prop, shape = self._sim, self._prop, PROP_SHAPES[self._prop]
        item, plate = sim.object_pose(prop).position_m, sim.plate_position_m
        tip = self._tip_m()
        if sim.contacts.held == prop and not self._reopening:
            return self._while_held(item, plate, tip)
        on_plate = np.linalg.norm(item[:2] - plate[:2]) < PLATE_GOAL_RADIUS_M
        rests = abs(item[2] - plate[2] - height_on_plate_m(prop)) < 0.02
        self._squeezed_ticks = 0
        if on_plate and rests:
            self._closing = self._reopening = False
            return Goal(np.array([tip[0], tip[1], SAFE_TIP_Z_M]), closed=False, phase=Phase.RETREAT, speed_share=0.6)
        return self._while_free(item, tip, width_m=2.0 * shape.radius_m)

    def _while_free(self, item: np.ndarray, tip: np.ndarray, *, width_m: float) -> Goal:
        opening = self._sim.gripper_opening_m
        aside = float(np.linalg.norm(tip[:2] - item[:2]))
        grasp = np.array([item[0], item[1], _grasp_tip_z_m(self._prop, item)])
        at_grasp = aside < CLOSE_RADIUS_M and abs(tip[2] - grasp[2]) < AT_HEIGHT_M
        if opening < width_m - MISSED_M or self._reopening:
            # The jaws hold nothing, or something else: open before coming near.
            self._reopening = opening < 0.9 * GRIPPER_STROKE_M
            self._closing = False
            return Goal(np.array([tip[0], tip[1], SAFE_TIP_Z_M]), closed=False, phase=Phase.REOPEN)
        if at_grasp or (self._closing and aside < DESCEND_RADIUS_M):
            self._closing = True
            return Goal(grasp, closed=True, phase=Phase.CLOSE)
        self._closing = False
        low = tip[2] < SAFE_TIP_Z_M - 0.02
        if aside > APPROACH_RADIUS_M and low:
            # Up first, then across: straight lines at low height run into things.
            return Goal(np.array([tip[0], tip[1], SAFE_TIP_Z_M]), closed=False, phase=Phase.TRAVEL)
        if aside > DESCEND_RADIUS_M:
            height = max(min(tip[2], SAFE_TIP_Z_M), grasp[2]) if aside < APPROACH_RADIUS_M else SAFE_TIP_Z_M
            return Goal(np.array([item[0], item[1], height]), closed=False, phase=Phase.TRAVEL)
        return Goal(grasp, closed=False, phase=Phase.DESCEND, speed_share=0.8)

    def _while_held(self, item: np.ndarray, plate: np.ndarray, tip: np.ndarray) -> Goal:
        self._squeezed_ticks += 1
        self._closing = False
        rise = tip[2] - item[2]
        release_z = plate[2] + height_on_plate_m(self._prop) + RELEASE_GAP_M + rise
        offset = plate[:2] - item[:2]
        aside = float(np.linalg.norm(offset))
        across = tip[:2] + offset
        if aside < LOWER_RADIUS_M:
            if tip[2] < release_z + 0.003:
                return Goal(tip, closed=False, phase=Phase.RELEASE)
            return Goal(np.array([*across, release_z]), closed=True, phase=Phase.LOWER, speed_share=0.6)
        if self._squeezed_ticks <= SQUEEZE_TICKS:
            return Goal(tip, closed=True, phase=Phase.CLOSE)
        carry_z = max(CARRY_TIP_Z_M, rise + 0.16)
        if tip[2] < carry_z - 0.03:
            return Goal(np.array([tip[0], tip[1], carry_z]), closed=True, phase=Phase.LIFT, speed_share=0.8)
        return Goal(np.array([*across, carry_z]), closed=True, phase=Phase.CARRY)

    def _tip_m(self) -> np.ndarray:
        """Where the fingertips are commanded to be once the jaws are as wide as the object: (3,) m."""
        pose = flange_pose(self._command_rad)
        return pose[:3, 3] + pose[:3, 2] * fingertip_height_m(2.0 * PROP_SHAPES[self._prop].radius_m)

    def _towards(self, goal: Goal) -> np.ndarray:
        """Joint set-points (6,) one tick nearer to the goal, bounded in speed and acceleration."""
        options, dt = self._options, 1.0 / CONTROL_RATE_HZ
        top_speed = options.speed_m_s * options.speed_factor * goal.speed_share
        tip = self._tip_m()
        gap = goal.tip_m - tip
        distance = float(np.linalg.norm(gap))
        # Largest speed from which the next tick can still begin to brake to a stop at the goal.
        braking = (
            np.sqrt((ACCELERATION_M_S2 * dt / 2) ** 2 + 2.0 * ACCELERATION_M_S2 * distance) - ACCELERATION_M_S2 * dt / 2
        )
        speed = min(top_speed, float(braking), distance / dt)
        wanted = gap * (speed / distance) if distance > 1e-9 else np.zeros(3)
        change = wanted - self._velocity_m_s
        largest = ACCELERATION_M_S2 * dt
        length = float(np.linalg.norm(change))
        if length > largest:
            change *= largest / length
        velocity = self._velocity_m_s + change
        self._velocity_m_s = velocity
        noise = self._random.normal(0.0, 1.0, 3) * options.speed_noise_m_s
        rotation = self._turned_towards_goal(dt)
        height = fingertip_height_m(2.0 * PROP_SHAPES[self._prop].radius_m)
        flange = tip + (velocity + noise) * dt - rotation[:, 2] * height
        joints = nearest_inverse(make_pose(flange, rotation=rotation), reference_rad=self._command_rad)
        if joints is None:
            self._velocity_m_s = np.zeros(3)
            return self._command_rad
        step = joints - self._command_rad
        limit = MAX_JOINT_SPEED_RAD_S * dt
        largest_step = float(np.abs(step).max())
        return self._command_rad + step * min(1.0, limit / largest_step) if largest_step > 0.0 else joints

    def _turned_towards_goal(self, dt: float) -> np.ndarray:
        present = flange_pose(self._command_rad)[:3, :3]
        turn = vector_from_rotation(self._rotation @ present.T)
        angle = float(np.linalg.norm(turn))
        share = min(1.0, TURN_RAD_S * dt / angle) if angle > 0.0 else 1.0
        return rotation_from_vector(turn * share) @ present


def _grasp_tip_z_m(prop: Prop, item: np.ndarray) -> float:
    """Height of the fingertips for grasping: deep enough to hold, clear of the table."""
    below_top = {Prop.CUP: 0.042, Prop.CAN: 0.045, Prop.TAPE: 0.023}[prop]
    return float(item[2] + PROP_SHAPES[prop].height_m / 2 - below_top)


def _about_z(angle_rad: float) -> np.ndarray:
    return rotation_from_vector(np.array([0.0, 0.0, angle_rad]))
