"""Arcs, circles, splines, and outputs that are switched on the way, as the simulated controller carries them out."""

from math import pi

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from robot.arm.protocol import RobotMode
from robot.motion.kinematics import flange_pose
from robot.motion.rotations import make_pose, rotation_angle, rotation_from_vector
from robot.twin.controller_curves import NoCurveError, Spline, arc_through, circles_through

START = np.array([450.0, -135.0, 551.67])


def mode(bench) -> int:
    return int(bench.ask("RobotMode()").split("{")[1].split("}")[0])


def target(offset_mm, *, rz_deg: float = -90.0) -> str:
    """The start, so far aside (3,) mm, as a parameter."""
    position = ",".join(f"{part:.3f}" for part in START + np.array(offset_mm))
    return f"pose={{{position},180,0,{rz_deg}}}"


def follow(bench, seconds: float) -> np.ndarray:
    """The tool's positions (n, 3) mm while time passes, until the arm is at rest."""
    places = []
    for _ in range(round(seconds / 0.016)):
        bench.run(0.016)
        places.append(1e3 * flange_pose(bench.plant.joints_rad)[:3, 3])
    assert mode(bench) == RobotMode.ENABLE, bench.ask("GetErrorID()")
    return np.array(places)


def distances_from_circle(places: np.ndarray, *, center_mm, radius_mm: float) -> np.ndarray:
    offsets = places - (START + np.array(center_mm))
    return np.hypot(np.linalg.norm(offsets[:, :2], axis=1) - radius_mm, offsets[:, 2])


def test_an_arc_goes_round_over_its_middle_point_and_ends_at_its_goal(enabled) -> None:
    reply = enabled.ask(f"Arc({target([50, 50, 0])},{target([100, 0, 0], rz_deg=-60)},v=30)")
    assert reply.startswith("0,{1},Arc(")
    places = follow(enabled, 3.0)
    assert distances_from_circle(places, center_mm=[50, 0, 0], radius_mm=50).max() < 0.02
    assert places[:, 1].max() > START[1] + 49
    np.testing.assert_allclose(places[-1] - START, [100, 0, 0], atol=0.02)
    assert enabled.packet()["tool_vector_actual"][5] == pytest.approx(-60.0, abs=0.01)


def test_a_circle_comes_back_as_often_as_it_is_told_without_turning(enabled) -> None:
    before = flange_pose(enabled.plant.joints_rad)
    enabled.ask(f"Circle({target([40, 40, 0])},{target([80, 0, 0])},2,speed=400)")
    places = follow(enabled, 4.0)
    assert distances_from_circle(places, center_mm=[40, 0, 0], radius_mm=40).max() < 0.05
    crossings = np.flatnonzero(np.diff(np.sign(places[:, 1] - START[1])))
    assert len(crossings) >= 3, "twice round"
    after = flange_pose(enabled.plant.joints_rad)
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_a_spline_passes_its_points_and_bends_between_them(enabled) -> None:
    offsets = [[30, 20, 0], [60, 0, 10], [90, -20, 0], [120, 0, -10]]
    points = ",".join(target(offset) for offset in offsets)
    enabled.ask(f"MovS({points},v=10,freq=0.5)")
    places = follow(enabled, 4.0)
    for offset in offsets:
        assert np.linalg.norm(places - (START + offset), axis=1).min() < 3.0
    np.testing.assert_allclose(places[-1], START + offsets[-1], atol=0.05)
    steps = np.diff(places, axis=0)
    moving = steps[np.linalg.norm(steps, axis=1) > 0.2]
    directions = moving / np.linalg.norm(moving, axis=1, keepdims=True)
    assert np.einsum("ij,ij->i", directions[1:], directions[:-1]).min() > 0.95, "no corner"


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (f"MovS({target([10, 0, 0])},{target([20, 0, 0])},{target([30, 9, 0])})", "-20000,"),
        ('MovS("demo.csv")', "-1,"),
        ('StartPath("demo.csv",isConst=1)', "-1,"),
        ('GetStartPose("demo.csv")', "-1,"),
        (f"Arc({target([10, 0, 0])})", "-20000,"),
        (f"Arc({target([10, 0, 0])},450)", "-30002,"),
        (f"Circle({target([10, 0, 0])},{target([0, 9, 0])},0)", "-40003,"),
        (f"MovLIO({target([10, 0, 0])})", "-20000,"),
        (f"MovLIO({target([10, 0, 0])},{{0,50,99,1}})", "-40002,"),
        (f"MovLIO({target([10, 0, 0])},{{0,150,1,1}})", "-40002,"),
        (f"RunTo({target([10, 0, 0])})", "-20000,"),
        ("DOGroup(1,1,2)", "-20000,"),
        ("DOGroup(1,1,2,5)", "-40004,"),
        ("BrakeControl(1,1)", "-1,"),
    ],
)
def test_what_does_not_fit_is_refused(enabled, request_, reply) -> None:
    assert enabled.ask(request_).startswith(reply)


def test_points_on_a_line_make_no_arc(enabled) -> None:
    assert enabled.ask(f"Arc({target([10, 0, 0])},{target([20, 0, 0])})").startswith("0,")
    enabled.run(0.1)
    assert enabled.ask("GetErrorID()") == "0,{[17]},GetErrorID();"


def test_outputs_are_switched_on_the_way_where_they_are_told(enabled) -> None:
    enabled.ask(f"MovLIO({target([100, 0, 0])},{{0,50,3,1}},{{1,-20,3,0}},{{1,30,4,1}},v=10)")
    seen = []
    for _ in range(200):
        enabled.run(0.016)
        way_mm = 1e3 * flange_pose(enabled.plant.joints_rad)[0, 3] - START[0]
        seen.append((way_mm, int(enabled.packet()["digital_outputs"])))
    third_on = [way for way, outputs in seen if outputs & 0b100]
    fourth_on = [way for way, outputs in seen if outputs & 0b1000]
    assert (min(third_on), max(third_on)) == (pytest.approx(50, abs=6), pytest.approx(80, abs=6))
    assert min(fourth_on) == pytest.approx(30, abs=6)


def test_a_stopped_move_switches_nothing_any_more(enabled) -> None:
    enabled.ask("MovJIO(joint={40,0,-90,0,90,0},{0,90,1,1},v=20)")
    enabled.run(0.3)
    enabled.ask("Stop()MovJ(joint={0,0,-90,0,90,0})")
    enabled.run(3.0)
    assert mode(enabled) == RobotMode.ENABLE
    assert enabled.packet()["digital_outputs"] == 0


@pytest.mark.parametrize("request_", ["RunTo(joint={9,0,-90,0,90,0},moveType=0)", "RunTo(joint={9,0,-90,0,90,0},1)"])
def test_running_to_a_point_is_a_single_move_and_only_from_rest(enabled, request_) -> None:
    assert enabled.ask(request_) == f"0,{{}},{request_};"
    enabled.run(0.1)
    assert mode(enabled) == RobotMode.SINGLE_MOVE
    assert enabled.ask(request_).startswith("-1,")
    enabled.run(2.0)
    assert mode(enabled) == RobotMode.ENABLE
    np.testing.assert_allclose(np.degrees(enabled.plant.joints_rad), [9, 0, -90, 0, 90, 0], atol=1e-3)


def test_groups_of_outputs_are_switched_and_read_together(enabled) -> None:
    assert enabled.ask("DOGroup(1,1,4,1,2,0)").startswith("0,{1}")
    enabled.run(0.05)
    assert enabled.ask("GetDOGroup(4,2,1)") == "0,{1,0,1},GetDOGroup(4,2,1);"
    enabled.controller.core.terminals.digital_inputs = 0b101
    assert enabled.ask("DIGroup(1,2,3)") == "0,{1,0,1},DIGroup(1,2,3);"


def test_an_open_brake_gives_its_joint_to_the_hand_and_closes_with_enabling(enabled) -> None:
    enabled.ask("DisableRobot()")
    assert enabled.ask("BrakeControl(2,1)").startswith("0,")
    assert mode(enabled) == RobotMode.BRAKE_OPEN
    enabled.run(0.05)
    assert enabled.packet()["brake_status"] == 0b010000
    assert enabled.ask("MovJ(joint={0,0,-90,0,90,0})").startswith("-1,")
    enabled.plant.joints_rad = enabled.plant.joints_rad + 0.05
    led = enabled.plant.joints_rad.copy()
    enabled.run(0.05)
    assert enabled.plant.joints_rad[1] == pytest.approx(led[1])
    assert enabled.plant.joints_rad[0] == pytest.approx(led[0] - 0.05)
    enabled.controller.core.leave_tcp_mode()
    assert enabled.ask("RequestControl()").startswith("-1,"), "not while a brake is open"
    enabled.controller.core.tcp_mode = True
    enabled.ask("EnableRobot()")
    enabled.run(0.3)
    assert mode(enabled) == RobotMode.ENABLE
    assert enabled.packet()["brake_status"] == 0b111111


def test_frames_are_calculated_and_not_stored(enabled) -> None:
    enabled.ask("SetUser(1,{100,0,0,0,0,90})")
    own = enabled.ask("CalcUser(1,0,{10,0,0,0,0,0})").split("{")[1].split("}")[0]
    base = enabled.ask("CalcUser(1,1,{10,0,0,0,0,0})").split("{")[1].split("}")[0]
    np.testing.assert_allclose([float(part) for part in own.split(",")], [100, 10, 0, 0, 0, 90], atol=1e-6)
    np.testing.assert_allclose([float(part) for part in base.split(",")], [110, 0, 0, 0, 0, 90], atol=1e-6)
    assert enabled.ask("CalcUser(1,0,{0,0,0,0,0,0})").split("{")[1].startswith("100.")
    assert enabled.ask("CalcTool(0,1,{0,0,50,0,0,0})").split("{")[1].startswith("0.000000,0.000000,50.")


def test_settings_without_an_effect_here_are_taken_in_their_ranges(enabled) -> None:
    assert enabled.ask("DragSensivity(0,45)EnableSafeSkin(1)SetSafeSkin(3,2)").count("0,{") == 3
    assert enabled.ask("DragSensivity(7,45)").startswith("-40001,")
    assert enabled.ask("SetSafeSkin(2,2)").startswith("-40001,")


# The curves themselves

places = st.lists(st.floats(-0.5, 0.5), min_size=3, max_size=3).map(np.array)
turns = st.lists(st.floats(-1.0, 1.0), min_size=3, max_size=3).map(lambda turn: rotation_from_vector(np.array(turn)))
poses = st.builds(lambda place, turn: make_pose(place, rotation=turn), places, turns)


@given(start=poses, via=poses, goal=poses)
def test_arcs_begin_and_end_where_they_should_and_pass_the_middle_point(start, via, goal) -> None:
    try:
        arc = arc_through(start, via=via, goal=goal)
    except NoCurveError:
        return
    if np.linalg.norm(start[:3, 3] - arc.center) > 5.0:
        return  # nearly straight: the centre's rounding errors are longer than the arc
    np.testing.assert_allclose(arc.pose(0.0), start, atol=1e-6)
    np.testing.assert_allclose(arc.pose(1.0)[:3, 3], goal[:3, 3], atol=1e-5)
    assert rotation_angle(arc.pose(1.0)[:3, :3].T @ goal[:3, :3]) < 1e-6
    spokes = np.array([arc.pose(share)[:3, 3] for share in np.linspace(0, 1, 400)])
    assert np.linalg.norm(spokes - via[:3, 3], axis=1).min() <= arc.length_m / 399
    circle = circles_through(start, first=via, second=goal, count=3)
    np.testing.assert_allclose(circle.pose(1.0), start, atol=1e-6)
    assert circle.length_m == pytest.approx(6 * pi * np.linalg.norm(start[:3, 3] - arc.center))


SHARP_TURNS = ((0.0, 0.0, 0.0), (-0.5, 0.0, 0.25), (0.5, 0.0, 0.0), (0.0, 0.25, 0.5))


@given(knots=st.lists(poses, min_size=2, max_size=6))
@example(knots=[make_pose(np.array(at), rotation=np.eye(3)) for at in SHARP_TURNS])
def test_splines_pass_all_their_points_at_an_even_pace(knots) -> None:
    try:
        spline = Spline(knots)
    except NoCurveError:
        return
    np.testing.assert_allclose(spline.pose(0.0)[:3, 3], knots[0][:3, 3], atol=1e-9)
    np.testing.assert_allclose(spline.pose(1.0)[:3, 3], knots[-1][:3, 3], atol=1e-9)
    shares = np.linspace(0, 1, 1000)
    passed = np.array([spline.pose(share)[:3, 3] for share in shares])
    steps = np.linalg.norm(np.diff(passed, axis=0), axis=1)
    assert steps.max() <= 1.3 * spline.length_m / 999 + 1e-9
    for knot in knots:
        assert np.linalg.norm(passed - knot[:3, 3], axis=1).min() <= spline.length_m / 100
