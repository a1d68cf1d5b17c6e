"""How requests are cut out of the byte stream and read."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.twin.controller_commands import COMMANDS
from robot.twin.controller_grammar import MAX_REQUEST_BYTES, RequestBuffer, parse_request

REQUESTS = ("RobotMode()", "ServoJ(0,0,-90,0,90,0,t=0.008)", "MovJ(joint={1,2,3,4,5,6},v=20)", "GetPose(user=1,tool=0)")


@settings(deadline=None)
@given(
    chosen=st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=6),
    separator=st.sampled_from(["", "\n", " ", "\r\n", ";"]),
    cuts=st.lists(st.integers(1, 30), max_size=40),
)
def test_requests_are_the_same_however_the_stream_is_cut(chosen: list[str], separator: str, cuts: list[int]) -> None:
    data = separator.join(chosen).encode()
    buffer, found = RequestBuffer(), []
    for cut in cuts:
        found += buffer.feed(data[:cut])
        data = data[cut:]
    found += buffer.feed(data)
    assert [request.echo.decode() for request in found] == chosen


@settings(deadline=None)
@given(pieces=st.lists(st.binary(max_size=3000), max_size=10))
def test_any_bytes_are_survived_and_little_of_them_is_kept(pieces: list[bytes]) -> None:
    buffer = RequestBuffer()
    for piece in pieces:
        for request in buffer.feed(piece):
            command = COMMANDS.get(request.name)
            if command is not None:
                command.signature.read(request.items)
    assert len(buffer._pending) <= MAX_REQUEST_BYTES


@settings(deadline=None)
@given(name=st.sampled_from([command.name for command in COMMANDS.values()]), inside=st.text(max_size=60))
def test_no_parameters_whatever_break_a_command(name: str, inside: str) -> None:
    for request in RequestBuffer().feed(f"{name}({inside})".encode()):
        command = COMMANDS.get(request.name)
        if command is not None:
            assert isinstance(command.signature.read(request.items), dict | int)


def test_an_endless_request_is_answered_as_unknown_and_forgotten() -> None:
    buffer = RequestBuffer()
    (request,) = buffer.feed(b"ServoJ(" + b"1," * MAX_REQUEST_BYTES)
    assert request.name == ""
    (following,) = buffer.feed(b"RobotMode()")
    assert following.name == "robotmode"


def test_names_are_case_insensitive_and_the_echo_is_as_sent() -> None:
    request = parse_request(b"gEtAnGlE( )")
    assert (request.name, request.items, request.echo) == ("getangle", (), b"gEtAnGlE( )")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("ServoJ(1,2,3,4,5)", -20000),
        ("ServoJ(1,2,x,4,5,6)", -30003),
        ("ServoJ(1,2,nan,4,5,6)", -30003),
        ("ServoJ(1,2,3,4,5,6,7)", -20000),
        ("ServoJ(1,2,3,4,5,6,t=x)", -50001),
        ("ServoJ(1,2,3,4,5,6,t=0.001)", -60001),
        ("ServoJ(1,2,3,4,5,6,gain=1001)", -60001),
        ("ServoJ(1,2,3,4,5,6,speed=1)", -50001),
        ("MovJ(1,2,3,4,5,6)", -30001),
        ("MovJ(joint={1,2,3,4,5})", -30001),
        ("MovJ(joint={1,2,3,4,5,6},v=101)", -60001),
        ("SpeedFactor(0)", -40001),
        ("SpeedFactor(50.5)", -30001),
        ("SpeedFactor()", -20000),
        ("EnableRobot(1.0,2)", -20000),
        ("EnableRobot(6)", -60001),
        ("SetCollisionLevel(6)", -40001),
        ('SetTool485(115200,"X",1)', -60001),
        ("EmergencyStop(2)", -40001),
    ],
)
def test_wrong_parameters_get_the_documented_code(text: str, code: int) -> None:
    request = parse_request(text.encode())
    assert COMMANDS[request.name].signature.read(request.items) == code


def test_vectors_and_options_arrive_in_any_order() -> None:
    request = parse_request(b"MovJ(joint={1,-2.5,3,4e1,5,6}, cp=3, v=20)")
    arguments = COMMANDS["movj"].signature.read(request.items)
    assert arguments == {"target": ("joint", (1.0, -2.5, 3.0, 40.0, 5.0, 6.0)), "cp": 3, "v": 20}
