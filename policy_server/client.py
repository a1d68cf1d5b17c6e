"""The robot's end of the wire: one connection to a policy server, ours or a stock openpi one. Needs no torch.

Exactly one request is in flight at a time. A request that runs out of time throws the connection away, because its
reply may still arrive and would be taken for the answer to the next one. Connecting again is up to the caller:
`reconnect` does it with growing pauses.

::

    client = PolicyClient("ws://127.0.0.1:8000", expected=SIX_JOINTS_AND_GRIPPER)
    client.connect()
    reply = client.infer(observation, observation_time_ns=frame.capture_ns)
"""

import logging
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import websockets.exceptions
import websockets.sync.client
from websockets.sync.client import ClientConnection

from policy_server import wire
from policy_server.contract import (
    EXTERIOR_IMAGE_KEY,
    GRIPPER_POSITION_KEY,
    JOINT_POSITION_KEY,
    PROMPT_KEY,
    SIX_JOINTS_AND_GRIPPER,
    WRIST_IMAGE_KEY,
    Contract,
    ContractError,
    Interface,
)

__all__ = [
    "SIX_JOINTS_AND_GRIPPER",
    "Backoff",
    "Contract",
    "ContractError",
    "ContractMismatch",
    "Interface",
    "PolicyClient",
    "PolicyClientError",
    "PolicyProtocolError",
    "PolicyServerError",
    "PolicyTimeout",
    "PolicyUnavailable",
    "Reply",
    "make_observation",
]

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 16 << 20
CLOSE_TIMEOUT_S = 0.5


class PolicyClientError(RuntimeError):
    """Anything that keeps the robot from getting a chunk. The connection is gone; connect again."""


class PolicyUnavailable(PolicyClientError):
    """No server answers there, it refused the connection, or the connection broke."""


class PolicyTimeout(PolicyClientError):
    """The server did not answer in time."""


class PolicyServerError(PolicyClientError):
    """The server could not serve the request and said why (openpi's text frame)."""


class PolicyProtocolError(PolicyClientError):
    """What came back is no reply to what was asked."""


class ContractMismatch(PolicyClientError):
    """The policy's interface is not the robot's. Trying again does not help; another policy or rig does."""


@dataclass(frozen=True)
class Reply:
    """One action chunk. Times are ``time.monotonic_ns()`` of this machine.

    `actions` is (horizon, action dimension) float64, read-only. `policy_ms` is the model's time, `server_ms` the
    server's whole time for the request (NaN where a server reports none). `motion_image` is (H, W, 3) uint8 or None.
    """

    actions: np.ndarray
    request_id: int
    observation_time_ns: int
    sent_ns: int
    received_ns: int
    policy_ms: float
    server_ms: float
    motion_image: np.ndarray | None

    @property
    def round_trip_ms(self) -> float:
        """From before packing the request until after unpacking the reply."""
        return (self.received_ns - self.sent_ns) / 1e6


@dataclass(frozen=True)
class Backoff:
    """Pauses between attempts, in seconds: doubling from `first_s` to `longest_s`, each shortened by up to a quarter at
    random so that several robots do not come back at the same instant."""

    first_s: float = 0.2
    longest_s: float = 5.0

    def pauses(self) -> Iterator[float]:
        """An endless series of pauses."""
        pause = self.first_s
        while True:
            yield pause * random.uniform(0.75, 1.0)
            pause = min(2.0 * pause, self.longest_s)


def make_observation(
    *,
    exterior_image: np.ndarray,
    wrist_image: np.ndarray,
    joint_position_rad: np.ndarray,
    gripper_position: float,
    prompt: str,
) -> dict[str, Any]:
    """An observation under DROID's keys: images (H, W, 3) uint8 RGB, joints (6,) rad, gripper 0 open, 1 closed."""
    return {
        EXTERIOR_IMAGE_KEY: exterior_image,
        WRIST_IMAGE_KEY: wrist_image,
        JOINT_POSITION_KEY: np.asarray(joint_position_rad, dtype=np.float64),
        GRIPPER_POSITION_KEY: np.asarray([gripper_position], dtype=np.float64),
        PROMPT_KEY: prompt,
    }


class PolicyClient:
    """A connection to one policy server. `infer` and `connect` belong to one thread; `close` may come from any.

    With `expected`, `connect` refuses a server whose contract differs from it. A stock openpi server has no contract;
    then only the shape and finiteness of its actions can be checked.
    """

    def __init__(
        self,
        uri: str,
        *,
        expected: Interface | None = None,
        api_key: str | None = None,
        connect_timeout_s: float = 5.0,
        request_timeout_s: float = 2.0,
    ) -> None:
        if not uri.startswith(("ws://", "wss://")):
            raise ValueError(f"expected a policy server address such as ws://127.0.0.1:8000, found {uri!r}")
        self.uri = uri
        self.metadata: dict[str, Any] = {}
        self.contract: Contract | None = None
        self._expected = expected
        self._headers = {"Authorization": f"Api-Key {api_key}"} if api_key else None
        self._connect_timeout_s = connect_timeout_s
        self._request_timeout_s = request_timeout_s
        self._connection: ClientConnection | None = None
        self._last_request_id = 0

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """Whether a request can be tried. A peer that died silently shows only at the next request."""
        return self._connection is not None

    def connect(self) -> dict[str, Any]:
        """Open a connection and take the server's metadata, within the connect deadline. An older one is closed.

        Raises `PolicyUnavailable`, `PolicyTimeout`, `PolicyServerError`, `PolicyProtocolError` or `ContractMismatch`.
        """
        self.close()
        deadline_ns = time.monotonic_ns() + int(self._connect_timeout_s * 1e9)
        self._connection = self._open()
        try:
            metadata = self._receive(deadline_ns, waiting_for="metadata")
            if not isinstance(metadata, dict):
                raise PolicyProtocolError(f"{self.uri}: expected a map as metadata, found {type(metadata).__name__}")
            try:
                contract = Contract.from_metadata(metadata)
            except ContractError as error:
                raise PolicyProtocolError(f"{self.uri}: {error}") from None
            if contract is not None and self._expected is not None:
                differences = contract.mismatches(self._expected)
                if differences:
                    listed = "\n  ".join(differences)
                    raise ContractMismatch(f"{self.uri} serves a policy that is not made for this robot:\n  {listed}")
        except PolicyClientError:
            self._throw_away()
            raise
        self.metadata, self.contract = metadata, contract
        return metadata

    def reconnect(self, *, stop: threading.Event, backoff: Backoff | None = None) -> bool:
        """Connect, and keep trying with growing pauses until it works (True) or `stop` is set (False).

        Raises `ContractMismatch` at once: another policy now runs there, and waiting does not change it.
        """
        for pause_s in (backoff or Backoff()).pauses():
            if stop.is_set():
                return False
            try:
                self.connect()
                return True
            except ContractMismatch:
                raise
            except PolicyClientError as error:
                log.warning("policy server not available, trying again in %.1f s: %s", pause_s, error)
            stop.wait(pause_s)
        raise AssertionError("the pauses never end")

    def infer(
        self,
        observation: Mapping[str, Any],
        *,
        observation_time_ns: int,
        action_prefix: np.ndarray | None = None,
        motion_image: bool = False,
        timeout_s: float | None = None,
    ) -> Reply:
        """The action chunk for an observation taken at `observation_time_ns`.

        `action_prefix`, (n, action dimension), are actions already committed to; it is sent only to a policy whose
        contract can use it. `timeout_s` overrides the client's request deadline.

        Raises `PolicyUnavailable`, `PolicyTimeout`, `PolicyServerError` or `PolicyProtocolError`; after any of them the
        connection is closed. Raises `wire.WireError` (and keeps the connection) if the observation can't be packed.
        """
        if self._connection is None:
            raise PolicyUnavailable(f"{self.uri}: not connected; call connect() or reconnect() first")
        sent_ns = time.monotonic_ns()
        timeout_s = self._request_timeout_s if timeout_s is None else timeout_s
        deadline_ns = sent_ns + int(timeout_s * 1e9)
        request_id = self._last_request_id = self._last_request_id + 1
        request = dict(observation) | {"request_id": request_id, "observation_time_ns": observation_time_ns}
        if action_prefix is not None and self.contract is not None and self.contract.prefix_conditioning:
            request["action_prefix"] = np.asarray(action_prefix, dtype=np.float64)
        if motion_image:
            request["motion_image"] = True
        packed = wire.pack(request)
        try:
            self._send(packed, timeout_s=timeout_s)
            answer = self._receive(deadline_ns, waiting_for=f"the reply to request {request_id}")
            received_ns = time.monotonic_ns()
            return self._parse(
                answer,
                request_id=request_id,
                observation_time_ns=observation_time_ns,
                sent_ns=sent_ns,
                received_ns=received_ns,
            )
        except PolicyClientError:
            self._throw_away()
            raise

    def close(self) -> None:
        """Close the connection; a request in flight in another thread ends with `PolicyUnavailable`. Safe to repeat."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError, websockets.exceptions.WebSocketException):
                connection.close()

    def _open(self) -> ClientConnection:
        try:
            # Entered at once and closed by hand: a connection outlives any block of code that could hold it.
            connection: ClientConnection = websockets.sync.client.connect(
                self.uri,
                additional_headers=self._headers,
                compression=None,
                open_timeout=self._connect_timeout_s,
                close_timeout=CLOSE_TIMEOUT_S,
                max_size=MAX_MESSAGE_BYTES,
                proxy=None,
            ).__enter__()
        except TimeoutError:
            raise PolicyTimeout(
                f"{self.uri}: no answer to the connection within {self._connect_timeout_s:g} s"
            ) from None
        except websockets.exceptions.InvalidStatus as error:
            status = error.response.status_code
            hint = "; give the server's API key" if status in (401, 403) else ""
            raise PolicyUnavailable(f"{self.uri}: the server refused the connection with HTTP {status}{hint}") from None
        except (OSError, websockets.exceptions.WebSocketException) as error:
            raise PolicyUnavailable(f"{self.uri}: can't connect: {error}; is the policy server running?") from None
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _send(self, packed: bytes, *, timeout_s: float) -> None:
        connection = self._live()
        try:
            # websockets' synchronous send has no deadline; a peer that stops reading would block it for ever.
            seconds, fraction = divmod(max(timeout_s, 1e-3), 1.0)
            timeval = struct.pack("ll", int(seconds), int(fraction * 1e6))
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
            connection.send(packed)
        except websockets.exceptions.ConnectionClosed as error:
            if isinstance(error.__cause__, BlockingIOError):
                raise PolicyTimeout(f"{self.uri}: the server took no request within {timeout_s:g} s") from None
            self._raise_last_words(connection)
            raise PolicyUnavailable(f"{self.uri}: the connection is gone: {error}") from None
        except OSError as error:
            raise PolicyUnavailable(f"{self.uri}: the connection is gone: {error}") from None

    def _raise_last_words(self, connection: ClientConnection) -> None:
        """The server may have sent its reason before it closed on us."""
        with suppress(websockets.exceptions.ConnectionClosed, TimeoutError):
            frame = connection.recv(timeout=0.0)
            if isinstance(frame, str):
                raise PolicyServerError(f"{self.uri}: {frame}")

    def _receive(self, deadline_ns: int, *, waiting_for: str) -> Any:
        remaining_s = max(0.0, (deadline_ns - time.monotonic_ns()) / 1e9)
        try:
            frame = self._live().recv(timeout=remaining_s)
        except TimeoutError:
            raise PolicyTimeout(f"{self.uri}: {waiting_for} did not come in time") from None
        except websockets.exceptions.ConnectionClosed as error:
            raise PolicyUnavailable(
                f"{self.uri}: the connection closed while waiting for {waiting_for}: {error}"
            ) from None
        if isinstance(frame, str):
            raise PolicyServerError(f"{self.uri}: {frame}")
        try:
            return wire.unpack(frame)
        except wire.WireError as error:
            raise PolicyProtocolError(f"{self.uri}: {waiting_for} can't be read: {error}") from None

    def _live(self) -> ClientConnection:
        connection = self._connection
        if connection is None:
            raise PolicyUnavailable(f"{self.uri}: the connection was closed")
        return connection

    def _throw_away(self) -> None:
        """Drop the connection without a closing handshake: the peer may be frozen, and nobody wants its late reply."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
            with suppress(OSError, websockets.exceptions.WebSocketException):
                connection.close()

    def _parse(
        self, answer: Any, *, request_id: int, observation_time_ns: int, sent_ns: int, received_ns: int
    ) -> Reply:
        if not isinstance(answer, dict):
            raise PolicyProtocolError(f"{self.uri}: expected a map as reply, found {type(answer).__name__}")
        for key, asked in (("request_id", request_id), ("observation_time_ns", observation_time_ns)):
            if answer.get(key, asked) != asked:  # absent from a stock server
                raise PolicyProtocolError(f"{self.uri}: asked with {key} {asked}, the reply is for {answer[key]!r}")
        image = answer.get("motion_image")
        if image is not None and not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3):
            raise PolicyProtocolError(f"{self.uri}: motion_image: expected (H, W, 3) uint8, found {_described(image)}")
        return Reply(
            actions=self._checked_actions(answer.get("actions")),
            request_id=request_id,
            observation_time_ns=observation_time_ns,
            sent_ns=sent_ns,
            received_ns=received_ns,
            policy_ms=_milliseconds(answer, "policy_timing"),
            server_ms=_milliseconds(answer, "server_timing"),
            motion_image=image,
        )

    def _checked_actions(self, actions: Any) -> np.ndarray:
        if not isinstance(actions, np.ndarray) or actions.ndim != 2 or actions.dtype.kind != "f":
            raise PolicyProtocolError(f"{self.uri}: actions: expected a chunk of floats, found {_described(actions)}")
        interface = self.contract.interface if self.contract is not None else None
        if interface is not None and actions.shape != (interface.horizon, len(interface.action_names)):
            expected = (interface.horizon, len(interface.action_names))
            raise PolicyProtocolError(f"{self.uri}: actions: expected shape {expected}, found {actions.shape}")
        if not np.isfinite(actions).all():
            raise PolicyProtocolError(f"{self.uri}: actions: expected finite numbers, found NaN or infinity")
        chunk = actions.astype(np.float64)
        chunk.flags.writeable = False
        return chunk


def _milliseconds(answer: Mapping[str, Any], key: str) -> float:
    timing = answer.get(key)
    value = timing.get("infer_ms") if isinstance(timing, Mapping) else None
    return float(value) if isinstance(value, int | float | np.floating) else float("nan")


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}, dtype {value.dtype}"
    return "nothing" if value is None else type(value).__name__
