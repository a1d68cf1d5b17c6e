"""A policy server that speaks the protocol and misbehaves on command."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from policy_server import wire
from policy_server.contract import SIX_JOINTS_AND_GRIPPER, Contract

HORIZON = 15


class Act(Enum):
    """What the scripted server does with a request."""

    REPLY = "reply"
    HANG = "hang"
    DROP = "drop"
    NAN = "nan"
    WRONG_SHAPE = "wrong shape"
    WRONG_ID = "wrong id"
    ERROR_TEXT = "error text"
    GARBAGE = "garbage"


def make_contract(**differences: Any) -> Contract:
    values: dict[str, Any] = {
        "policy": "scripted",
        "trained": False,
        "interface": SIX_JOINTS_AND_GRIPPER,
        "image_size": (32, 32),
        "relative_joints": False,
        "prefix_conditioning": True,
        "motion_image": False,
        "normalization_digest": "n",
        "checkpoint_digest": "c" * 64,
    }
    return Contract(**(values | differences))


def break_connection(connection: ServerConnection) -> None:
    """Without a closing handshake, and at once also for a thread that is reading from it."""
    with contextlib.suppress(OSError):
        connection.socket.shutdown(socket.SHUT_RDWR)


@dataclass
class ScriptedServer:
    """``script`` gives what to do with each request, in turn; then it replies for ever."""

    script: list[Act] = field(default_factory=list)
    contract: Contract | None = field(default_factory=make_contract)
    delay_s: float = 0.0
    requests: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    _server: Server | None = None
    _thread: threading.Thread | None = None
    _open: list[ServerConnection] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; after `stop`, on the same port again."""
        self._server = serve(self._serve, "127.0.0.1", self.port, compression=None)
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Go away as a killed process does: the port closes and open connections break."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        for connection in self._open:
            break_connection(connection)
        self._open.clear()
        self._server = None

    def _serve(self, connection: ServerConnection) -> None:
        self.connections += 1
        self._open.append(connection)
        metadata = {} if self.contract is None else {"contract": self.contract.to_metadata()}
        try:
            connection.send(wire.pack(metadata))
            for frame in connection:
                request = wire.unpack(frame)
                self.requests.append(request)
                act = self.script.pop(0) if self.script else Act.REPLY
                if not self._answer(connection, request, act):
                    return
        except (ConnectionClosed, OSError):
            return

    def _answer(self, connection: ServerConnection, request: dict[str, Any], act: Act) -> bool:
        if act is Act.HANG:
            while self._server is not None and connection.protocol.state.name == "OPEN":
                time.sleep(0.01)
            return False
        if act is Act.DROP:
            break_connection(connection)
            return False
        if act is Act.GARBAGE:
            connection.send(b"\xc1\xc1")
            return True
        if act is Act.ERROR_TEXT:
            connection.send("observation/joint_position: expected shape (6,)")
            connection.close(1011)
            return False
        time.sleep(self.delay_s)
        actions = np.tile(np.append(request["observation/joint_position"], 0.5), (HORIZON, 1))
        if act is Act.NAN:
            actions[3, 3] = np.nan
        if act is Act.WRONG_SHAPE:
            actions = actions[:, :6]
        echo = {key: request[key] for key in ("request_id", "observation_time_ns")}
        if act is Act.WRONG_ID:
            echo["request_id"] += 1
        connection.send(wire.pack({"actions": actions, "policy_timing": {"infer_ms": 1.0}, **echo}))
        return True


@pytest.fixture
def make_server() -> Iterator[Callable[..., ScriptedServer]]:
    """Starts scripted servers: ``make_server(script=[...], contract=..., delay_s=...)``."""
    servers: list[ScriptedServer] = []

    def make(**settings: Any) -> ScriptedServer:
        servers.append(ScriptedServer(**settings))
        servers[-1].start()
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def acts() -> type[Act]:
    return Act


@pytest.fixture
def contract_with() -> Callable[..., Contract]:
    return make_contract
