"""The arm for the guided jobs alone: a dashboard connection, the feedback, and waiting for modes."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from configs.schema import RigConfig
from robot.arm.alarm_text import describe_active_alarms
from robot.arm.dashboard import DashboardClient
from robot.arm.errors import ArmError
from robot.arm.feedback import ArmFeedback, FeedbackReader
from robot.arm.protocol import RobotMode
from robot.clock import seconds_to_ns
from robot.daemon.checks import open_dashboard
from robot.daemon.lock import holder_pid
from robot.daemon.machine import mode_name

FRESH_S = 5.0
STUCK_S = 1.0
READY_S = 3.0


class SessionError(RuntimeError):
    """The guided job cannot go on: what was expected, what was found, what to do."""


class ArmSession:
    """A context that owns the arm while no robotd does. Raises `SessionError` or `ArmError` when it cannot."""

    def __init__(self, rig: RigConfig) -> None:
        pid = holder_pid(rig.name)
        if pid is not None:
            raise SessionError(
                f"expected nobody to own rig {rig.name!r}, robotd does (process {pid}): acknowledge faults there, or "
                "stop it first"
            )
        self.rig = rig
        self.dashboard: DashboardClient = open_dashboard(rig)
        try:
            self.feedback = FeedbackReader(rig.arm.host, port=rig.arm.feedback_port)
        except ArmError:
            self.dashboard.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.feedback.close()
        self.dashboard.close()

    def reconnect(self) -> None:
        """Drop the dashboard connection, if it is not gone already, and make a new one."""
        self.dashboard.close()
        self.dashboard = open_dashboard(self.rig)

    def newest(self) -> ArmFeedback:
        """The next packet; `SessionError` when the controller's time stands still."""
        newest = self.feedback.wait(timeout_s=FRESH_S)
        if self.feedback.age_ns() > seconds_to_ns(STUCK_S):
            raise SessionError("the arm's feedback stands still: its time stamp does not advance")
        return newest

    def mode(self) -> int:
        """The controller's mode now."""
        return self.newest().robot_mode

    def wait_for(self, condition: Callable[[ArmFeedback], bool], *, timeout_s: float, what: str) -> ArmFeedback:
        """The first packet that fulfils ``condition``; `SessionError` that says ``what`` was expected."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            newest = self.newest()
            if condition(newest):
                return newest
            if time.monotonic() > deadline_s:
                raise SessionError(
                    f"expected {what} within {timeout_s:g} s, the arm is in mode {mode_name(newest.robot_mode)}"
                )

    def wait_for_mode(self, *modes: RobotMode, timeout_s: float) -> ArmFeedback:
        """The first packet in one of ``modes``."""
        what = f"mode {' or '.join(mode_name(mode) for mode in modes)}"
        return self.wait_for(lambda packet: packet.robot_mode in modes, timeout_s=timeout_s, what=what)

    def alarms(self) -> str:
        """The active alarms in words."""
        ids = self.dashboard.get_error_id()
        return describe_active_alarms(self.rig.arm.host, ids, port=self.rig.arm.alarm_port)

    def require_ready(self) -> None:
        """`SessionError` unless the arm is enabled, at rest and without alarms, or is so in a moment (a queue command,
        such as a setting, counts as running until it is done)."""
        deadline_s = time.monotonic() + READY_S
        newest = self.newest()
        while newest.robot_mode == RobotMode.RUNNING and time.monotonic() < deadline_s:
            newest = self.newest()
        if newest.robot_mode != RobotMode.ENABLE or newest.error or newest.collision:
            raise SessionError(
                f"expected the arm enabled and at rest, it is in mode {mode_name(newest.robot_mode)}: {self.alarms()}"
            )
