"""robotd's picture of the robot in the ring ``state``: one record per feedback packet, and a heartbeat without."""

import threading

import numpy as np

from robot.arm.feedback import ArmFeedback
from robot.daemon.machine import Machine
from robot.daemon.servo import ServoLoop
from robot.gripper.ag95 import GripperState
from robot.motion.envelope import TOOL_POINT_M
from robot.motion.kinematics import flange_pose
from robot.motion.rotations import quaternion_from_rotation
from robot.ring import Ring
from robot.state import STATE_DTYPE

RING_SLOTS = 256
"""Two seconds of feedback."""
QUIET_NS = 50_000_000
_TOOL_POINT = np.array(TOOL_POINT_M)


class StatePublisher:
    """Writes `STATE_DTYPE` records. Called from the feedback thread, and by the heartbeat while no feedback comes."""

    def __init__(self, machine: Machine, *, ring: Ring, servo: ServoLoop) -> None:
        self._machine = machine
        self._ring = ring
        self._servo = servo
        self._record = np.zeros((), STATE_DTYPE)
        self._capture_ns = 0
        self._lock = threading.Lock()

    def publish(self, feedback: ArmFeedback, *, gripper: GripperState) -> None:
        """One record from one packet."""
        record = self._record
        pose = flange_pose(feedback.joints_rad)
        with self._lock:
            record["joints_rad"] = feedback.joints_rad
            record["joint_speed_rad_s"] = feedback.joint_speed_rad_s
            record["joint_torque_nm"] = feedback.joint_torque_nm
            record["tcp_position_m"] = pose[:3, :3] @ _TOOL_POINT + pose[:3, 3]
            record["tcp_quaternion_wxyz"] = quaternion_from_rotation(pose[:3, :3])
            record["tcp_force_n"] = feedback.tcp_force_n
            record["robot_mode"] = min(feedback.robot_mode, 255)
            record["controller_time_ms"] = feedback.controller_time_ms
            self._capture_ns = feedback.receive_ns
            self._write(gripper, now_ns=feedback.receive_ns)

    def heartbeat(self, *, gripper: GripperState, now_ns: int, quiet_ns: int = QUIET_NS) -> None:
        """The last packet's values once more with the present machine state, if none has come for ``quiet_ns``:
        ``capture_ns`` stays that of the packet, so that readers see how old the arm's part is."""
        with self._lock:
            if now_ns - self._capture_ns > quiet_ns:
                self._write(gripper, now_ns=now_ns)

    def _write(self, gripper: GripperState, *, now_ns: int) -> None:
        record, machine = self._record, self._machine
        with machine.lock:
            setpoint, state, fault = machine.core.state, machine.state, machine.fault
            source_id, left = machine.core.source_id, machine.core.waypoints_left(now_ns)
        # Before anything was commanded the arm's own posture stands for the set-point.
        record["setpoint_rad"] = record["joints_rad"] if setpoint is None else setpoint.joints_rad
        record["setpoint_speed_rad_s"] = 0.0 if setpoint is None else setpoint.speed_rad_s
        record["gripper"], record["gripper_target"] = gripper.position, gripper.target
        record["gripper_capture_ns"], record["gripper_status"] = gripper.capture_ns, gripper.status
        record["machine_state"], record["fault"] = state, fault
        record["source_id"], record["waypoints_left"] = source_id, left
        record["servo_ticks"], record["servo_missed"] = self._servo.ticks, self._servo.missed
        self._ring.write(record, capture_ns=self._capture_ns, receive_ns=now_ns)
