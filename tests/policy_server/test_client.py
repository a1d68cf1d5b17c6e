"""The client against a server of a few lines that speaks openpi's protocol and misbehaves on command."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import websockets.exceptions
from websockets.sync.server import ServerConnection, serve

from policy_server import wire
from policy_server.client import (
    SIX_JOINTS_AND_GRIPPER,
    Backoff,
    Contract,
    ContractMismatch,
    PolicyClient,
    PolicyProtocolError,
    PolicyServerError,
    PolicyTimeout,
    PolicyUnavailable,
    make_observation,
)

CONTRACT = Contract(
    policy="peer",
    trained=True,
    interface=SIX_JOINTS_AND_GRIPPER,
    image_size=(224, 224),
    relative_joints=False,
    prefix_conditioning=True,
    motion_image=False,
    normalization_digest="a",
    checkpoint_digest="b",
)
METADATA = {"contract": CONTRACT.to_metadata()}
CHUNK = np.tile(np.linspace(0, 1, 15)[:, None], 7)
OBSERVATION = make_observation(
    exterior_image=np.zeros((8, 8, 3), dtype=np.uint8),
    wrist_image=np.zeros((8, 8, 3), dtype=np.uint8),
    joint_position_rad=np.zeros(6),
    gripper_position=0.0,
    prompt="put the cup on the plate",
)

Answer = Callable[[dict[str, Any]], Any]


@contextmanager
def peer(answer: Answer, metadata: Any = METADATA, *, port: int = 0) -> Iterator[str]:
    """A server that greets with `metadata` and sends what `answer` returns: bytes, text, or a value to pack."""

    def converse(connection: ServerConnection) -> None:
        try:
            connection.send(wire.pack(metadata) if not isinstance(metadata, bytes | str) else metadata)
            for frame in connection:
                reply = answer(wire.unpack(frame))
                connection.send(reply if isinstance(reply, bytes | str) else wire.pack(reply))
        except websockets.exceptions.ConnectionClosed:
            return

    with serve(converse, "127.0.0.1", port, compression=None, close_timeout=0.1) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


def stock(request: dict[str, Any]) -> dict[str, Any]:
    """What a stock openpi server sends: it knows none of our keys."""
    return {"actions": CHUNK, "policy_timing": {"infer_ms": 3.0}, "server_timing": {"infer_ms": 4.0}}


def echoing(request: dict[str, Any]) -> dict[str, Any]:
    return stock(request) | {key: request[key] for key in ("request_id", "observation_time_ns")}


def test_a_reply_carries_the_chunk_and_its_times() -> None:
    with peer(echoing) as uri, PolicyClient(uri, expected=SIX_JOINTS_AND_GRIPPER) as client:
        reply = client.infer(OBSERVATION, observation_time_ns=123)
    assert np.array_equal(reply.actions, CHUNK)
    assert not reply.actions.flags.writeable
    assert (reply.observation_time_ns, reply.policy_ms, reply.server_ms) == (123, 3.0, 4.0)
    assert reply.sent_ns < reply.received_ns
    assert client.contract == CONTRACT


def test_a_stock_openpi_server_is_served_by() -> None:
    with peer(stock, metadata={}) as uri, PolicyClient(uri, expected=SIX_JOINTS_AND_GRIPPER) as client:
        assert client.contract is None
        assert np.array_equal(client.infer(OBSERVATION, observation_time_ns=1).actions, CHUNK)


def test_a_stock_server_gets_exactly_the_observation_and_extra_keys() -> None:
    seen: list[dict[str, Any]] = []
    with peer(lambda request: seen.append(request) or stock(request), metadata={}) as uri, PolicyClient(uri) as client:  # type: ignore[func-returns-value]
        client.infer(OBSERVATION, observation_time_ns=5, action_prefix=CHUNK[:2])
    assert set(seen[0]) == set(OBSERVATION) | {"request_id", "observation_time_ns"}


def test_the_action_prefix_goes_to_a_policy_that_can_use_it() -> None:
    seen: list[dict[str, Any]] = []
    with peer(lambda request: seen.append(request) or echoing(request)) as uri, PolicyClient(uri) as client:  # type: ignore[func-returns-value]
        client.infer(OBSERVATION, observation_time_ns=5, action_prefix=CHUNK[:2])
    assert np.array_equal(seen[0]["action_prefix"], CHUNK[:2])


def test_a_contract_that_differs_is_refused_with_both_sides() -> None:
    expected = replace(SIX_JOINTS_AND_GRIPPER, fps=30.0)
    with peer(echoing) as uri:
        client = PolicyClient(uri, expected=expected)
        with pytest.raises(ContractMismatch, match=r"fps: the robot has 30\.0, the policy 'peer' has 15\.0"):
            client.connect()
        assert not client.connected
        with pytest.raises(ContractMismatch):
            client.reconnect(stop=threading.Event())


def test_a_late_reply_is_never_taken_for_the_next_one() -> None:
    late = threading.Event()

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request["observation_time_ns"] == 1:
            late.wait(5.0)
            return stock(request) | {"actions": CHUNK + 100.0}
        return stock(request)

    with peer(answer, metadata={}) as uri:
        client = PolicyClient(uri)
        client.connect()
        with pytest.raises(PolicyTimeout, match="did not come in time"):
            client.infer(OBSERVATION, observation_time_ns=1, timeout_s=0.05)
        assert not client.connected
        with pytest.raises(PolicyUnavailable, match="not connected"):
            client.infer(OBSERVATION, observation_time_ns=2)
        late.set()
        client.connect()
        assert client.infer(OBSERVATION, observation_time_ns=2).actions.max() == 1.0
        client.close()


def test_a_text_frame_is_the_servers_error() -> None:
    with peer(lambda request: "state: expected 7 numbers") as uri:
        client = PolicyClient(uri)
        client.connect()
        with pytest.raises(PolicyServerError, match="expected 7 numbers"):
            client.infer(OBSERVATION, observation_time_ns=1)
        assert not client.connected


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"request_id": 999}, "the reply is for 999"),
        ({"observation_time_ns": 7}, "the reply is for 7"),
        ({"actions": CHUNK[:10]}, r"expected shape \(15, 7\), found \(10, 7\)"),
        ({"actions": CHUNK[:, :6]}, r"found \(15, 6\)"),
        ({"actions": CHUNK * np.nan}, "NaN or infinity"),
        ({"actions": CHUNK.astype(np.int64)}, "expected a chunk of floats"),
        ({"actions": None}, "expected a chunk of floats, found nothing"),
        ({"actions": "all"}, "found str"),
        ({"motion_image": np.zeros(3)}, "motion_image: expected"),
    ],
)
def test_a_reply_that_is_none_is_refused(changes: dict[str, Any], reason: str) -> None:
    with peer(lambda request: echoing(request) | changes) as uri:
        client = PolicyClient(uri)
        client.connect()
        with pytest.raises(PolicyProtocolError, match=reason):
            client.infer(OBSERVATION, observation_time_ns=1)
        assert not client.connected


@pytest.mark.parametrize("garbage", [b"\xc1", b"\x01\x02", b"\x93\x01\x02\x03"])
def test_garbage_is_refused(garbage: bytes) -> None:
    with peer(lambda request: garbage) as uri:
        client = PolicyClient(uri)
        client.connect()
        with pytest.raises(PolicyProtocolError):
            client.infer(OBSERVATION, observation_time_ns=1)
    with peer(echoing, metadata=garbage) as uri, pytest.raises(PolicyProtocolError):
        PolicyClient(uri).connect()


def test_a_server_that_is_absent_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(PolicyUnavailable, match="is the policy server running"):
        PolicyClient(f"ws://127.0.0.1:{port}").connect()


def test_a_server_that_accepts_and_says_nothing_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        client = PolicyClient(f"ws://127.0.0.1:{mute.getsockname()[1]}", connect_timeout_s=0.1)
        with pytest.raises(PolicyTimeout):
            client.connect()


def test_a_server_that_stops_reading_does_not_block_the_client() -> None:
    freeze = threading.Event()

    def converse(connection: ServerConnection) -> None:
        connection.send(wire.pack({}))
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        freeze.wait(20.0)

    with serve(converse, "127.0.0.1", 0, compression=None, close_timeout=0.1, max_queue=1) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        client = PolicyClient(f"ws://127.0.0.1:{server.socket.getsockname()[1]}")
        client.connect()
        huge = dict(OBSERVATION) | {"padding": np.zeros(14 << 20, dtype=np.uint8)}
        with pytest.raises(PolicyTimeout):
            client.infer(huge, observation_time_ns=1, timeout_s=0.2)
        assert not client.connected
        freeze.set()
        server.shutdown()
        thread.join()


def test_closing_from_another_thread_ends_a_request() -> None:
    release = threading.Event()
    with peer(lambda request: release.wait(10.0) or stock(request), metadata={}) as uri:
        client = PolicyClient(uri, request_timeout_s=10.0)
        client.connect()
        failure: list[Exception] = []

        def ask() -> None:
            try:
                client.infer(OBSERVATION, observation_time_ns=1)
            except PolicyUnavailable as error:
                failure.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.1)
        client.close()
        thread.join(5.0)
        assert failure
        release.set()


def test_reconnecting_waits_for_the_server_to_come_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = PolicyClient(f"ws://127.0.0.1:{port}")
    done: list[bool] = []
    thread = threading.Thread(
        target=lambda: done.append(
            client.reconnect(stop=threading.Event(), backoff=Backoff(first_s=0.02, longest_s=0.1))
        )
    )
    thread.start()
    time.sleep(0.1)
    assert thread.is_alive()
    with peer(echoing, port=port):
        thread.join(10.0)
        assert done == [True]
        assert client.infer(OBSERVATION, observation_time_ns=1).actions.shape == (15, 7)
        client.close()


def test_reconnecting_ends_when_it_is_told_to() -> None:
    stop = threading.Event()
    stop.set()
    assert PolicyClient("ws://127.0.0.1:9").reconnect(stop=stop) is False


def test_pauses_grow_to_the_longest_and_stay_there() -> None:
    pauses = Backoff(first_s=1.0, longest_s=4.0).pauses()
    series = [next(pauses) for _ in range(6)]
    for pause, full in zip(series, (1, 2, 4, 4, 4, 4), strict=True):
        assert 0.75 * full <= pause <= full


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="ws://127"):
        PolicyClient("127.0.0.1:8000")
