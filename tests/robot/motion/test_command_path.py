"""Guard, interpolator and follower together, as robotd runs them: whatever a client sends, the arm keeps its bounds."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.motion.follower import FollowerState, step, stop_step
from robot.motion.guard import SETPOINT_TOLERANCE_M, check_setpoint, check_waypoints
from robot.motion.inverse_kinematics import nearest_inverse
from robot.motion.kinematics import flange_pose
from robot.motion.limits import GuardLimits
from robot.motion.violations import depths
from robot.motion.waypoints import Setpoint, Trajectory, Waypoints

TICK_NS = 66_666_667
SERVO_NS = 8_000_000
DT_S = SERVO_NS * 1e-9
BULGE_M = 0.002
"""What a stop between two postures inside may swing outside on its way."""


class Arm:
    """A servo loop on a clock of its own."""

    def __init__(self, start_rad: np.ndarray, *, limits: GuardLimits) -> None:
        self.limits = limits
        self.now_ns = 1_000_000_000
        self.state = FollowerState.at_rest(start_rad)
        self.path = Trajectory.hold(start_rad, gripper=0.0, t_ns=self.now_ns)
        self.states = [self.state]
        self.grippers = [0.0]

    def receive(self, joints: np.ndarray, *, gripper: np.ndarray, delay_ns: int, expiry_s: float) -> None:
        t_ns = self.now_ns + delay_ns + TICK_NS * np.arange(1, len(joints) + 1)
        waypoints = Waypoints(
            t_ns=t_ns, joints_rad=joints, gripper=gripper, expiry_ns=self.now_ns + int(expiry_s * 1e9)
        )
        result = check_waypoints(
            waypoints, present_rad=self.state.joints_rad, gripper=0.0, now_ns=self.now_ns, limits=self.limits
        )
        if result.waypoints is not None:
            self.path = self.path.schedule(result.waypoints, now_ns=self.now_ns)

    def tick(self) -> None:
        self.now_ns += SERVO_NS
        target = self.path.sample(self.now_ns)
        braked = stop_step(self.state, dt_s=DT_S, limits=self.limits)
        new = braked
        if not target.expired:
            new = step(
                self.state,
                desired_rad=target.joints_rad,
                desired_speed_rad_s=target.speed_rad_s,
                dt_s=DT_S,
                limits=self.limits,
            )
        previous = Setpoint(self.state.joints_rad, self.state.speed_rad_s, self.grippers[-1])
        command = Setpoint(new.joints_rad, new.speed_rad_s, target.gripper, target.expired)
        allowed, _ = check_setpoint(command, previous=previous, gripper=0.0, dt_s=DT_S, limits=self.limits)
        self.state = new if allowed is not None else braked
        self.states.append(self.state)
        self.grippers.append(allowed.gripper if allowed is not None else self.grippers[-1])

    def run(self, *, ticks: int) -> None:
        for _ in range(ticks):
            self.tick()

    def assert_bounds_kept(self) -> None:
        joints = np.array([state.joints_rad for state in self.states])
        speeds = np.diff(joints, axis=0) / DT_S
        accelerations = np.diff(np.concatenate([np.zeros((1, 6)), speeds]), axis=0) / DT_S
        assert np.all(np.isfinite(joints))
        assert np.all(np.abs(speeds) <= self.limits.max_joint_speed_rad_s * (1 + 1e-6))
        assert np.all(np.abs(accelerations) <= self.limits.max_joint_acceleration_rad_s2 * (1 + 1e-6))
        outside = depths(joints, gripper=0.0, limits=self.limits)
        assert np.max(outside.joint_rad) <= 1e-6
        assert np.max(np.abs(outside.box_m)) <= SETPOINT_TOLERANCE_M + BULGE_M
        assert np.max(outside.table_m) <= SETPOINT_TOLERANCE_M + BULGE_M
        tool_speeds = np.linalg.norm(np.diff(outside.tool_point_m, axis=0), axis=1) / DT_S
        assert np.max(tool_speeds) <= self.limits.max_tcp_speed_m_s * 1.05
        assert np.all((np.array(self.grippers) >= 0) & (np.array(self.grippers) <= 1))


value = st.one_of(st.floats(-1.0, 1.0), st.sampled_from([0.0, np.nan, np.inf, 1e308, 40.0]))
gentle_walk = st.lists(st.tuples(*[st.floats(-0.12, 0.12)] * 6), min_size=1, max_size=15).map(
    lambda rows: np.cumsum(np.array(rows), axis=0)
)
wild = st.lists(st.tuples(*[value] * 6), min_size=1, max_size=5).map(np.array)
requests = st.tuples(
    st.one_of(gentle_walk, gentle_walk, gentle_walk, wild),
    st.floats(-0.5, 1.5),
    st.integers(-3 * TICK_NS, 3 * TICK_NS),
    st.floats(0.0, 1.2),
    st.integers(1, 40),
)


@given(st.lists(requests, min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_for_any_sequence_of_chunks_the_setpoints_are_continuous_and_inside_all_bounds(
    limits: GuardLimits, start_rad: np.ndarray, sequence: list[tuple]
) -> None:
    arm = Arm(start_rad, limits=limits)
    for offsets, gripper, delay_ns, expiry_s, ticks in sequence:
        joints = arm.state.joints_rad + offsets
        arm.receive(joints, gripper=np.full(len(joints), gripper), delay_ns=delay_ns, expiry_s=expiry_s)
        arm.run(ticks=ticks)
    arm.run(ticks=40)
    arm.assert_bounds_kept()


def test_a_policy_that_pushes_into_the_table_ends_up_resting_just_above_it(
    limits: GuardLimits, start_rad: np.ndarray
) -> None:
    arm = Arm(start_rad, limits=limits)
    for _ in range(25):
        joints = []
        for _ in range(8):
            pose = flange_pose(joints[-1] if joints else arm.state.joints_rad)
            pose[2, 3] -= 0.02
            solution = nearest_inverse(pose, reference_rad=joints[-1] if joints else arm.state.joints_rad)
            assert solution is not None
            joints.append(solution)
        arm.receive(np.array(joints), gripper=np.zeros(8), delay_ns=0, expiry_s=1.0)
        arm.run(ticks=16)
    arm.assert_bounds_kept()
    tip_height_m = flange_pose(arm.state.joints_rad)[2, 3] - limits.tool_point_m[2]
    assert -SETPOINT_TOLERANCE_M <= tip_height_m - limits.table_clearance_m <= SETPOINT_TOLERANCE_M


def test_when_the_stream_ends_the_arm_stops_after_the_expiry_and_takes_new_waypoints_later(
    limits: GuardLimits, start_rad: np.ndarray
) -> None:
    arm = Arm(start_rad, limits=limits)
    swing = np.array([0.04, 0, 0, 0, 0, 0.0]) * np.arange(1, 16)[:, None]
    arm.receive(start_rad + swing, gripper=np.zeros(15), delay_ns=0, expiry_s=0.4)
    arm.run(ticks=50)
    assert arm.path.sample(arm.now_ns).expired
    arm.run(ticks=30)
    assert arm.state.is_at_rest
    rest = arm.state.joints_rad
    arm.run(ticks=50)
    np.testing.assert_array_equal(arm.state.joints_rad, rest)
    arm.path = Trajectory.hold(rest, gripper=0.0, t_ns=arm.now_ns)
    arm.receive(rest - 0.5 * swing[:3], gripper=np.zeros(3), delay_ns=0, expiry_s=1.0)
    arm.run(ticks=60)
    np.testing.assert_allclose(arm.state.joints_rad, rest - 0.5 * swing[2], atol=1e-6)
    arm.assert_bounds_kept()


def test_what_robotd_sends_tracks_a_smooth_chunk_closely(limits: GuardLimits, start_rad: np.ndarray) -> None:
    arm = Arm(start_rad, limits=limits)
    s = np.linspace(0, 1, 16)[1:]
    joints = start_rad + 0.3 * (3 * s**2 - 2 * s**3)[:, None] * np.array([1, 0, 0, 0, 0, 1.0])
    arm.receive(joints, gripper=np.zeros(15), delay_ns=0, expiry_s=2.0)
    errors = []
    for _ in range(135):
        arm.tick()
        errors.append(np.max(np.abs(arm.state.joints_rad - arm.path.sample(arm.now_ns).joints_rad)))
    assert max(errors) < 1e-3
    np.testing.assert_allclose(arm.state.joints_rad, joints[-1], atol=1e-9)
