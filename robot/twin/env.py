"""The twin without its wires: a small Gym-style environment at exactly 15 Hz on average, as fast as the machine goes.

For generating data, evaluating policies and testing. Observations carry DROID's keys, actions are absolute joint angles
and the gripper, as everywhere above the drivers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from types import TracebackType
from typing import Any

import numpy as np

from configs.schema import load_task
from robot.motion.nova5 import GRIPPER_STROKE_M, JOINT_COUNT, MAX_JOINT_SPEED_RAD_S
from robot.twin.collision_watch import CollisionWatch
from robot.twin.optics import CameraName
from robot.twin.plant import SLICE_STEPS
from robot.twin.props import Prop
from robot.twin.render import SceneRenderer
from robot.twin.scene import SceneOptions
from robot.twin.sim import DEFAULT_FORCE_N, ArmStart, SimState, TwinSim
from robot.twin.success import TaskProgress, flaws, snapshot
from robot.twin.variation import VariationRange

CONTROL_RATE_HZ = 15
IMAGE_KEYS = {
    CameraName.EXTERIOR: "observation/exterior_image_1_left",
    CameraName.WRIST: "observation/wrist_image_left",
}

ImageSize = tuple[int, int]
Observation = dict[str, Any]


@dataclass(frozen=True)
class EnvState:
    """A whole environment at one moment, for `TwinEnv.set_state`."""

    sim: SimState
    prop: Prop
    ticks: int
    progress: TaskProgress
    felt: CollisionWatch
    collided: bool


@dataclass(frozen=True)
class StepResult:
    """What `TwinEnv.step` gives; unpacks like Gym's tuple of five."""

    observation: Observation
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]

    def __iter__(self) -> Any:
        return iter((self.observation, self.reward, self.terminated, self.truncated, self.info))


class TwinEnv:
    """Episodes of putting an object on the plate. Use it on the thread that made it; close it when done."""

    def __init__(
        self,
        image_size: ImageSize | Mapping[CameraName, ImageSize] | None = (224, 224),
        *,
        scene: SceneOptions | None = None,
        variation: VariationRange | None = None,
        gripper_force_n: float = DEFAULT_FORCE_N,
        collision_level: int = 0,
    ) -> None:
        """``image_size`` is (height, width), for all or for each camera; None makes observations without pictures.

        ``variation`` makes each episode look different, drawn from its seed. With a ``collision_level`` of 1 to 5,
        ``info["collided"]`` says whether the controller would have stopped the arm; the arm goes on here.
        """
        self.sim = TwinSim(scene)
        self._scene_options = scene or SceneOptions()
        self._sizes = _sizes(image_size)
        self._variation = variation
        self._gripper_force_n = gripper_force_n
        self._collision_level = collision_level
        self._collisions, self._collided = CollisionWatch(), False
        self._renderer: SceneRenderer | None = None
        self._tasks = {prop: load_task(prop.label) for prop in Prop}
        self._prop = Prop.CUP
        self._ticks = 0
        self._progress = TaskProgress()

    @property
    def prop(self) -> Prop:
        """The object of this episode's task."""
        return self._prop

    def reset(self, seed: int, task: Prop, *, start: ArmStart | None = None) -> Observation:
        """Begins an episode; the same seed gives the same poses and the same pictures."""
        self.sim.reset(seed, variation=self._variation, start=start)
        self._prop, self._ticks, self._progress = task, 0, TaskProgress()
        self._collisions, self._collided = CollisionWatch(), False
        return self.observe()

    def step(self, action: np.ndarray) -> StepResult:
        """One control tick.

        ``action`` (7,): joint set-points in rad and gripper (0 open to 1 closed) at the tick's end. A set-point
        that is further away than the joint can turn in a tick is cut to that, and ``info["speed_limited"]`` says so.
        The reward is 1 in the tick that ends the episode with the object placed, else 0.
        """
        command = np.asarray(action, dtype=np.float64)
        if command.shape != (JOINT_COUNT + 1,) or not np.all(np.isfinite(command)):
            raise ValueError(
                f"action: expected {JOINT_COUNT + 1} finite numbers (6 joints in rad, gripper 0..1), got {action}"
            )
        present = self.sim.joint_target_rad
        change = command[:JOINT_COUNT] - present
        reach = MAX_JOINT_SPEED_RAD_S / CONTROL_RATE_HZ
        limited = bool(np.any(np.abs(change) > reach * (1.0 + 1e-9)))
        self._move(present, np.clip(change, -reach, reach))
        # Like the joints, the gripper's target is due at the tick's end: that is when robotd hands it over.
        opening = (1.0 - float(np.clip(command[JOINT_COUNT], 0.0, 1.0))) * GRIPPER_STROKE_M
        self.sim.set_gripper_target(opening, force_n=self._gripper_force_n)
        self._ticks += 1
        moment = snapshot(self.sim, self._prop)
        self._progress = self._progress.after(moment)
        found = flaws(moment)
        placed = not found
        late = self._ticks >= round(self._tasks[self._prop].time_limit_s * CONTROL_RATE_HZ)
        info = {
            "success": placed,
            "flaws": found,
            "stage": self._progress.best,
            "objects": self.sim.object_poses(),
            "plate_position_m": self.sim.plate_position_m,
            "speed_limited": limited,
            "collided": self._collided,
            "ticks": self._ticks,
        }
        return StepResult(self.observe(), float(placed), placed, late and not placed, info)

    def observe(self) -> Observation:
        """The present observation with DROID's keys; images (H, W, 3) uint8, the rest float64."""
        observation: Observation = {
            "observation/joint_position": self.sim.joints_rad,
            "observation/gripper_position": np.array([self.sim.gripper_closed]),
            "prompt": self._tasks[self._prop].prompt,
        }
        for camera, (height, width) in self._sizes.items():
            observation[IMAGE_KEYS[camera]] = self.render(camera, height=height, width=width)
        return observation

    def render(self, camera: CameraName, *, height: int, width: int) -> np.ndarray:
        """A picture of the present moment, (H, W, 3) uint8 RGB."""
        if self._renderer is None:
            self._renderer = SceneRenderer(self._scene_options)
        return self._renderer.render(self.sim.scene_state(), camera=camera, height=height, width=width)

    def get_state(self) -> EnvState:
        """Everything that `set_state` needs to go on from here bit for bit."""
        felt = replace(self._collisions)
        return EnvState(self.sim.get_state(), self._prop, self._ticks, self._progress, felt, self._collided)

    def set_state(self, state: EnvState) -> None:
        """Goes to a state that `get_state` gave."""
        self.sim.set_state(state.sim)
        self._prop, self._ticks, self._progress = state.prop, state.ticks, state.progress
        self._collisions, self._collided = replace(state.felt), state.collided

    def close(self) -> None:
        """Frees the OpenGL context; more than once does no harm."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __enter__(self) -> "TwinEnv":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _move(self, present: np.ndarray, change: np.ndarray) -> None:
        """One tick's physics; with a collision level the contacts are felt as often as the controller feels them."""
        steps = self._steps_of_tick()
        slices = -(-steps // SLICE_STEPS) if self._collision_level else 1
        ends = [steps * (number + 1) // slices for number in range(slices)]
        for begin, end in pairwise([0, *ends]):
            self.sim.step_towards(present + change * (end / steps), steps=end - begin)
            if self._collision_level:
                dt_s = (end - begin) * self.sim.timestep_s
                felt = self._collisions.feels(self.sim.contact_force_n, dt_s=dt_s, level=self._collision_level)
                self._collided = self._collided or felt

    def _steps_of_tick(self) -> int:
        """33 or 34 physics steps, so that ticks never drift from 15 Hz."""
        rate = round(1.0 / self.sim.timestep_s)
        return (self._ticks + 1) * rate // CONTROL_RATE_HZ - self._ticks * rate // CONTROL_RATE_HZ


def _sizes(image_size: ImageSize | Mapping[CameraName, ImageSize] | None) -> dict[CameraName, ImageSize]:
    if image_size is None:
        return {}
    if isinstance(image_size, Mapping):
        return dict(image_size)
    return dict.fromkeys(CameraName, image_size)
