"""Getting to the start pose slowly, and refusing to begin anywhere else."""

import logging
import threading

import numpy as np

from configs.schema import RigConfig
from robot.daemon import RobotClient
from robot.daemon.errors import MoveRefusedError, RobotdError
from robot.ring import RingReader
from robot.rollout.episode import hold_when
from robot.rollout.trials import TwinTrials
from robot.state import GripperStatus
from teleop.episode_loop import wait_until_still

_LOG = logging.getLogger("teleop")


class StartPose:
    """Drives the arm to the rig's start pose at the rig's approach speed."""

    def __init__(self, rig: RigConfig, *, robot: RobotClient, states: RingReader, trials: TwinTrials | None) -> None:
        self._rig = rig
        self._robot = robot
        self._states = states
        self._trials = trials

    def approach(self, stop: threading.Event) -> None:
        """Move there with the jaws as they are, so that nothing is dropped on the way.

        Raises `RobotdError` if the arm does not get there, or if ``stop`` ended the motion.
        """
        wait_until_still(self._states)
        start = self._rig.start
        with hold_when(stop, self._robot):
            try:
                self._robot.move_to(start.joints_rad)
            except MoveRefusedError as error:
                # The way to the start can lead through the table. A twin's arm may be lifted over; a real one may not.
                if self._trials is None or not self._trials.place_arm():
                    raise
                _LOG.warning("the arm was put to its start pose: %s", error)
                self._robot.move_to(start.joints_rad)
        wait_until_still(self._states)
        self.check()

    @property
    def holds_something(self) -> bool:
        """Whether the jaws have caught an object."""
        return self._robot.state().gripper_status is GripperStatus.CAUGHT

    def open_jaws(self) -> None:
        """Bring the jaws to where an episode begins."""
        self._robot.set_gripper(self._rig.start.gripper)

    def check(self) -> None:
        """Raises `RobotdError` when a joint is further from the start pose than the rig allows."""
        start = self._rig.start
        away_rad = np.abs(self._robot.state().joints_rad - np.array(start.joints_rad))
        if float(away_rad.max()) > start.tolerance_rad:
            raise RobotdError(
                f"the arm is not at its start pose: expected within {start.tolerance_rad:g} rad, joint "
                f"{int(away_rad.argmax()) + 1} is {away_rad.max():.3f} rad away; start again to drive there"
            )
