"""The loop never waits for the policy server, whatever the server does."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policy_server.client import Continuity, Contract, ContractMismatch, PolicyUnavailable
from policy_server.contract import SIX_JOINTS_AND_GRIPPER
from robot.rollout import policy_link
from robot.rollout.chunks import Leftover
from robot.rollout.observation import Observation
from robot.rollout.policy_link import Chunk, Failure, LinkState, PolicyLink, UnknownContractError, connect

NOTHING_LEFT = Leftover(np.empty((0, 7)), committed=0)
FAULTS = ["HANG", "DROP", "NAN", "WRONG_SHAPE", "WRONG_ID", "ERROR_TEXT", "GARBAGE"]


@pytest.fixture(autouse=True)
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_link, "REQUEST_TIMEOUT_S", 0.3)
    monkeypatch.setattr(policy_link, "CONNECT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(policy_link, "RECONNECT", policy_link.Backoff(first_s=0.02, longest_s=0.1))


def observation(time_ns: int = 1) -> Observation:
    picture = np.random.default_rng(0).integers(0, 256, (36, 64, 3), dtype=np.uint8)
    return Observation(time_ns, picture, picture, 0, np.arange(6) * 0.1, 0.25)


def outcome(link: PolicyLink, *, timeout_s: float = 10.0) -> Chunk | Failure:
    return wait_for(link.poll, timeout_s=timeout_s)


def wait_for(look: Callable[[], Any], *, timeout_s: float = 10.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, "nothing came in time"
        time.sleep(0.005)
    return found


def test_a_chunk_comes_back_with_its_observation(make_server: Callable[..., Any]) -> None:
    server = make_server()
    with PolicyLink(connect(server.uri), prompt="put the cup down") as link:
        asked = observation(time_ns=123)
        assert link.submit(asked, leftover=Leftover(np.ones((5, 7)), committed=2))
        chunk = outcome(link)
        assert isinstance(chunk, Chunk)
        assert chunk.observation is asked
        np.testing.assert_allclose(chunk.reply.actions[:, :6], np.tile(np.arange(6) * 0.1, (15, 1)))
        request = server.requests[0]
        assert request["prompt"] == "put the cup down"
        assert request["observation_time_ns"] == 123
        assert request["action_prefix"].shape == (2, 7)
        assert request["observation/exterior_image_1_left"].shape == (32, 32, 3)
        assert request["observation/wrist_image_left"].dtype == np.uint8
        assert request["observation/gripper_position"].tolist() == [0.25]


@pytest.mark.parametrize(
    ("continuity", "sent"), [(Continuity.GUIDED, (5, 2, "guided")), (Continuity.COMMITTED, (2, None, "committed"))]
)
def test_a_guided_policy_is_told_all_that_is_left_and_any_other_what_is_committed(
    make_server: Callable[..., Any],
    contract_with: Callable[..., Contract],
    continuity: Continuity,
    sent: tuple[int, int | None, str],
) -> None:
    server = make_server(contract=contract_with(guidance=True))
    with PolicyLink(connect(server.uri), prompt="p", continuity=continuity) as link:
        assert link.submit(observation(1), leftover=Leftover(np.ones((5, 7)), committed=2))
        assert isinstance(outcome(link), Chunk)
    request = server.requests[0]
    assert (len(request["action_prefix"]), request.get("committed"), request["continuity"]) == sent


def test_only_one_request_is_under_way(make_server: Callable[..., Any]) -> None:
    server = make_server(delay_s=0.1)
    with PolicyLink(connect(server.uri), prompt="p") as link:
        assert link.submit(observation(1), leftover=NOTHING_LEFT)
        assert not link.submit(observation(2), leftover=NOTHING_LEFT)
        assert isinstance(outcome(link), Chunk)
        assert link.submit(observation(3), leftover=NOTHING_LEFT)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_request_that_goes_wrong_is_reported_and_the_next_one_works(
    make_server: Callable[..., Any], acts: Any, fault: str
) -> None:
    server = make_server(script=[acts[fault]])
    with PolicyLink(connect(server.uri), prompt="p") as link:
        assert link.submit(observation(1), leftover=NOTHING_LEFT)
        assert isinstance(outcome(link), Failure)
        wait_for(lambda: link.state is LinkState.IDLE)
        assert server.connections == 2, "the connection whose reply may still come must not be used again"
        assert link.submit(observation(2), leftover=NOTHING_LEFT)
        chunk = outcome(link)
        assert isinstance(chunk, Chunk)
        assert chunk.observation.time_ns == 2


def test_a_server_that_was_killed_is_found_again_when_it_is_back(make_server: Callable[..., Any]) -> None:
    server = make_server()
    with PolicyLink(connect(server.uri), prompt="p") as link:
        server.stop()
        assert link.submit(observation(1), leftover=NOTHING_LEFT)
        assert isinstance(outcome(link), Failure)
        assert link.state is LinkState.RECONNECTING
        assert not link.submit(observation(2), leftover=NOTHING_LEFT)
        server.start()
        wait_for(lambda: link.state is LinkState.IDLE)
        assert link.submit(observation(3), leftover=NOTHING_LEFT)
        assert isinstance(outcome(link), Chunk)


def test_a_server_that_comes_back_with_another_policy_is_refused(
    make_server: Callable[..., Any], contract_with: Callable[..., Any]
) -> None:
    server = make_server()
    with PolicyLink(connect(server.uri), prompt="p") as link:
        server.stop()
        server.contract = contract_with(checkpoint_digest="d" * 64)
        server.start()
        assert link.submit(observation(1), leftover=NOTHING_LEFT)
        assert isinstance(outcome(link), Failure)
        wait_for(lambda: link.state is LinkState.REFUSED)
        refusal = outcome(link)
        assert isinstance(refusal, Failure)
        assert "cccccccccccc" in refusal.text
        assert "dddddddddddd" in refusal.text


def test_closing_does_not_wait_for_a_server_that_hangs(make_server: Callable[..., Any], acts: Any) -> None:
    server = make_server(script=[acts.HANG])
    with PolicyLink(connect(server.uri), prompt="p") as link:
        link.submit(observation(1), leftover=NOTHING_LEFT)
        wait_for(lambda: server.requests)
    assert not any(thread.name == "policy link" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("interface", "named"),
    [
        (replace(SIX_JOINTS_AND_GRIPPER, fps=10.0), "fps: the robot has 15.0, the policy 'scripted' has 10.0"),
        (replace(SIX_JOINTS_AND_GRIPPER, horizon=50), "horizon: the robot has 15"),
        (replace(SIX_JOINTS_AND_GRIPPER, action_units=("deg",) * 7), "action_units"),
        (replace(SIX_JOINTS_AND_GRIPPER, state_names=SIX_JOINTS_AND_GRIPPER.state_names[::-1]), "state_names"),
        (replace(SIX_JOINTS_AND_GRIPPER, image_keys=("a", "b")), "image_keys"),
    ],
)
def test_a_policy_for_another_robot_is_refused_naming_both_sides(
    make_server: Callable[..., Any], contract_with: Callable[..., Any], interface: Any, named: str
) -> None:
    server = make_server(contract=contract_with(interface=interface))
    with pytest.raises(ContractMismatch, match=named.replace("(", r"\(")):
        connect(server.uri)


def test_a_stock_server_is_used_only_when_the_operator_says_so(make_server: Callable[..., Any]) -> None:
    server = make_server(contract=None)
    with pytest.raises(UnknownContractError, match="--allow-unknown-contract"):
        connect(server.uri)
    with PolicyLink(connect(server.uri, allow_unknown_contract=True), prompt="p") as link:
        assert link.identity.image_size == (224, 224)
        link.submit(observation(1), leftover=Leftover(np.ones((5, 7)), committed=2))
        assert isinstance(outcome(link), Chunk)
        assert "action_prefix" not in server.requests[0]


def test_an_absent_server_is_one_clear_error() -> None:
    with pytest.raises(PolicyUnavailable, match="is the policy server running"):
        connect("ws://127.0.0.1:1")


def test_random_weights_are_called_that(make_server: Callable[..., Any], contract_with: Callable[..., Any]) -> None:
    random = PolicyLink(connect(make_server().uri), prompt="p")
    assert random.identity.label == "scripted (RANDOM WEIGHTS)"
    trained = PolicyLink(connect(make_server(contract=contract_with(trained=True)).uri), prompt="p")
    assert trained.identity.label == "scripted"
    random.close()
    trained.close()
