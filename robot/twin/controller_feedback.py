"""The 1440-byte packets of ports 30004 and 30005, filled from the simulated state in the controller's units."""

import time
from dataclasses import dataclass

import numpy as np

from robot.arm.protocol import FEEDBACK_BYTES, FEEDBACK_DTYPE, FEEDBACK_MAGIC, RobotMode
from robot.motion.kinematics import jacobian_of_frames, link_frames
from robot.motion.rotations import invert_pose, quaternion_from_rotation, rpy_from_rotation
from robot.twin.controller_core import ControllerCore, Power
from robot.twin.controller_motion import MotionKind

_SUPPLY_V = 48.0
_TORQUE_PER_AMPERE_NM = 12.0
"""Joint torque per motor current: only makes the current fields plausible."""
_MOTOR_TEMPERATURE_C = 32.0
_POSITION_MODE = 8.0
_TORQUE_MODE = 10.0
_BRAKES_RELEASED = 0b111111
# safety_state is active-low: a set bit means that nothing is wrong.
_ESTOP_BITS = 0b0110_0001
_PROTECTIVE_STOP_BIT = 0b0000_0010
_QUIET_BITS = 0b1000_1100
_MOVING_BIT = 0b0001_0000


@dataclass(frozen=True)
class Measurement:
    """What the arm's sensors say: (6,) each, rad, rad/s, N·m; the force of contacts on the arm in N."""

    joints_rad: np.ndarray
    joint_speed_rad_s: np.ndarray
    joint_torque_nm: np.ndarray
    contact_force_n: float = 0.0


class PacketBuilder:
    """Fills one packet over and over; fields without a meaning here stay zero."""

    def __init__(self) -> None:
        self._packet = np.zeros(1, FEEDBACK_DTYPE)
        packet = self._packet[0]
        packet["len"] = FEEDBACK_BYTES
        packet["test_value"] = FEEDBACK_MAGIC
        packet["v_robot"] = _SUPPLY_V
        packet["v_actual"] = _SUPPLY_V
        self._frames: tuple[np.ndarray, np.ndarray] | None = None
        self._to_user = np.eye(4)
        packet["motor_temperatures"] = _MOTOR_TEMPERATURE_C

    def build(self, core: ControllerCore, measurement: Measurement) -> bytes:
        """The packet for the present state."""
        packet = self._packet[0]
        self._fill_status(packet, core)
        self._fill_joints(packet, core, measurement)
        self._fill_tool(packet, core, measurement)
        return self._packet.tobytes()

    def _fill_status(self, packet: np.void, core: ControllerCore) -> None:
        mode, settings = core.mode, core.settings
        moving = core.motion.busy
        faulty = bool(core.alarms) or core.estop_pressed
        packet["robot_mode"] = int(mode)
        packet["time_stamp"] = time.time_ns() // 1_000_000
        packet["run_time"] = round(core.uptime_s * 1e3)
        packet["digital_outputs"] = settings.digital_outputs
        packet["speed_scaling"] = settings.speed_factor_percent
        packet["user"], packet["tool"] = settings.user, settings.tool
        packet["run_queued_cmd"] = 0 if core.motion.paused else 1
        packet["pause_cmd_flag"] = core.motion.paused
        packet["velocity_ratio"] = settings.velocity_percent
        packet["acceleration_ratio"] = settings.acceleration_percent
        packet["xyz_velocity_ratio"] = packet["r_velocity_ratio"] = settings.linear_velocity_percent
        packet["xyz_acceleration_ratio"] = packet["r_acceleration_ratio"] = settings.linear_acceleration_percent
        packet["brake_status"] = _BRAKES_RELEASED if core.enabled else 0
        packet["enable_status"] = core.enabled
        packet["drag_status"] = core.motion.kind is MotionKind.DRAGGING
        packet["running_status"] = mode is RobotMode.RUNNING
        packet["error_status"] = faulty or core.collided
        packet["collision_state"] = core.collided
        packet["robot_type"] = core.options.robot_type
        packet["current_command_id"] = core.current_command_id
        packet["load"] = settings.payload_kg
        packet["center_xyz"] = np.array(settings.payload_center_m) * 1e3
        packet["joint_modes"] = _TORQUE_MODE if core.motion.kind is MotionKind.DRAGGING else _POSITION_MODE
        safety = _QUIET_BITS | (0 if moving else _MOVING_BIT)
        safety |= 0 if core.estop_pressed else _ESTOP_BITS
        safety |= 0 if core.collided else _PROTECTIVE_STOP_BIT
        packet["safety_state"] = safety
        packet["auto_manual_mode"] = 0
        packet["program_state"] = 0

    def _fill_joints(self, packet: np.void, core: ControllerCore, measurement: Measurement) -> None:
        current_a = measurement.joint_torque_nm / _TORQUE_PER_AMPERE_NM
        powered = core.power not in (Power.INIT, Power.OFF)
        packet["q_target"] = np.degrees(core.motion.position)
        packet["qd_target"] = np.degrees(core.motion.speed)
        packet["qdd_target"] = np.degrees(core.motion.acceleration)
        packet["m_target"] = packet["m_actual"] = measurement.joint_torque_nm
        packet["i_target"] = packet["i_actual"] = current_a if powered else 0.0
        packet["i_robot"] = float(np.abs(current_a).sum()) if powered else 0.0
        packet["q_actual"] = np.degrees(measurement.joints_rad)
        packet["qd_actual"] = np.degrees(measurement.joint_speed_rad_s)

    def _fill_tool(self, packet: np.void, core: ControllerCore, measurement: Measurement) -> None:
        frames = link_frames(np.stack([measurement.joints_rad, core.motion.position]))
        speeds = np.stack([measurement.joint_speed_rad_s, core.motion.speed])
        user, tool = core.user_frame(), core.tool_frame()
        if self._frames is None or user is not self._frames[0] or tool is not self._frames[1]:
            self._frames = user, tool
            self._to_user = invert_pose(user)
            self._fill_frame(packet, "user_value", user)
            self._fill_frame(packet, "tool_value", tool)
        to_user = self._to_user
        twists = (jacobian_of_frames(frames, point_m=tool[:3, 3]) @ speeds[..., None])[..., 0]
        for index, suffix in enumerate(("actual", "target")):
            pose = to_user @ frames[index, -1] @ tool
            packet[f"tool_vector_{suffix}"][:3] = pose[:3, 3] * 1e3
            packet[f"tool_vector_{suffix}"][3:] = np.degrees(rpy_from_rotation(pose[:3, :3]))
            packet[f"tcp_speed_{suffix}"][:3] = to_user[:3, :3] @ twists[index, :3] * 1e3
            packet[f"tcp_speed_{suffix}"][3:] = np.degrees(to_user[:3, :3] @ twists[index, 3:])
            packet[f"{suffix}_quaternion"] = quaternion_from_rotation(pose[:3, :3])

    def _fill_frame(self, packet: np.void, name: str, frame: np.ndarray) -> None:
        packet[name][:3] = frame[:3, 3] * 1e3
        packet[name][3:] = np.degrees(rpy_from_rotation(frame[:3, :3]))
