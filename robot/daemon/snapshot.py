"""What a client sees of robotd, as frozen values with enums instead of numbers."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from robot.daemon.operations import Operation, Outcome
from robot.faults import Fault
from robot.ring import Sample
from robot.state import GripperStatus, MachineState


@dataclass(frozen=True, eq=False)
class RobotState:
    """One record of the ring ``state``; arrays as in `robot.state.STATE_DTYPE`, times monotonic ns."""

    capture_ns: int
    receive_ns: int
    joints_rad: np.ndarray
    joint_speed_rad_s: np.ndarray
    setpoint_rad: np.ndarray
    tcp_position_m: np.ndarray
    tcp_quaternion_wxyz: np.ndarray
    gripper: float
    gripper_target: float
    gripper_status: GripperStatus
    robot_mode: int
    machine_state: MachineState
    fault: Fault
    source_id: int
    waypoints_left: int

    @classmethod
    def from_sample(cls, sample: Sample) -> "RobotState":
        """The view of one sample of the ring."""
        value = sample.value
        return cls(
            capture_ns=sample.capture_ns,
            receive_ns=sample.receive_ns,
            joints_rad=value["joints_rad"].copy(),
            joint_speed_rad_s=value["joint_speed_rad_s"].copy(),
            setpoint_rad=value["setpoint_rad"].copy(),
            tcp_position_m=value["tcp_position_m"].copy(),
            tcp_quaternion_wxyz=value["tcp_quaternion_wxyz"].copy(),
            gripper=float(value["gripper"]),
            gripper_target=float(value["gripper_target"]),
            gripper_status=GripperStatus(int(value["gripper_status"])),
            robot_mode=int(value["robot_mode"]),
            machine_state=MachineState(int(value["machine_state"])),
            fault=Fault(int(value["fault"])),
            source_id=int(value["source_id"]),
            waypoints_left=int(value["waypoints_left"]),
        )


@dataclass(frozen=True)
class LeaseHolder:
    """Who controls the arm."""

    name: str
    pid: int


@dataclass(frozen=True)
class GripperReport:
    """The gripper as robotd knows it: position and target 0 (open) to 1 (closed), and why it is silent if it is."""

    status: GripperStatus
    position: float
    target: float
    problem: str


@dataclass(frozen=True)
class ServoReport:
    """The servo stream: periods sent and missed, and what the command connection counted."""

    ticks: int
    missed: int
    sent: int
    skipped: int
    outstanding: int
    late_replies: int
    stray_replies: int
    lost_replies: int


@dataclass(frozen=True)
class Status:
    """robotd's answer to ``status``."""

    rig: str
    machine_state: MachineState
    fault: Fault
    fault_text: str
    robot_mode: int
    feedback_age_ns: int
    at_rest: bool
    lease: LeaseHolder | None
    operation: Operation | None
    gripper: GripperReport
    servo: ServoReport

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "Status":
        """Parse the reply."""
        gripper, servo, operation = message["gripper"], message["servo"], message["operation"]
        return cls(
            rig=message["rig"],
            machine_state=MachineState(message["machine_state"]),
            fault=Fault(message["fault"]),
            fault_text=message["fault_text"],
            robot_mode=message["robot_mode"],
            feedback_age_ns=message["feedback_age_ns"],
            at_rest=message["at_rest"],
            lease=LeaseHolder(**message["lease"]) if message["lease"] else None,
            operation=Operation(**(operation | {"outcome": Outcome(operation["outcome"])})) if operation else None,
            gripper=GripperReport(**(gripper | {"status": GripperStatus(gripper["status"])})),
            servo=ServoReport(
                ticks=servo["ticks"],
                missed=servo["missed"],
                sent=servo["servo_sent"],
                skipped=servo["servo_skipped"],
                outstanding=servo["servo_outstanding"],
                late_replies=servo["late_replies"],
                stray_replies=servo["stray_replies"],
                lost_replies=servo["lost_replies"],
            ),
        )


@dataclass(frozen=True)
class WaypointReply:
    """What robotd took of a chunk: waypoints scheduled, waypoints too late, the guard's findings and their text."""

    accepted: int
    late: int
    events: dict[str, int]
    detail: str
