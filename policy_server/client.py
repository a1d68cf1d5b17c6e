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
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from policy_server import transport, wire
from policy_server.ask import Continuity
from policy_server.client_errors import (
    ContractMismatch,
    PolicyClientError,
    PolicyProtocolError,
    PolicyServerError,
    PolicyTimeout,
    PolicyUnavailable,
)
from policy_server.connection import Connection
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
from policy_server.replies import (
    MotionPicture,
    Question,
    Reply,
    is_motion_picture,
    parse_motion_picture,
    parse_reply,
)
from policy_server.transport import Transport

__all__ = [
    "SIX_JOINTS_AND_GRIPPER",
    "Backoff",
    "Continuity",
    "Contract",
    "ContractError",
    "ContractMismatch",
    "Interface",
    "MotionPicture",
    "PolicyClient",
    "PolicyClientError",
    "PolicyProtocolError",
    "PolicyServerError",
    "PolicyTimeout",
    "PolicyUnavailable",
    "Reply",
    "Transport",
    "make_observation",
]

log = logging.getLogger(__name__)


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
        pictures_by: Transport = Transport.AUTO,
        certificate: Path | None = None,
        on_motion_picture: Callable[[MotionPicture], None] | None = None,
    ) -> None:
        """`pictures_by` is how images travel to a server that takes them so. `on_motion_picture` is called, in the
        thread of `infer`, with each motion image that was asked for; they come after their replies, see
        `receive_pictures`."""
        if not uri.startswith(("ws://", "wss://")):
            raise ValueError(f"expected a policy server address such as ws://127.0.0.1:8000, found {uri!r}")
        self.uri = uri
        self.metadata: dict[str, Any] = {}
        self.contract: Contract | None = None
        self.transport = Transport.RAW
        self._expected = expected
        self._headers = {"Authorization": f"Api-Key {api_key}"} if api_key else None
        self._connect_timeout_s = connect_timeout_s
        self._request_timeout_s = request_timeout_s
        self._pictures_by = pictures_by
        self._certificate = certificate
        self.on_motion_picture = on_motion_picture
        self._connection: Connection | None = None
        self._shared: transport.SharedImages | None = None
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
        connection = self._connection = Connection(
            self.uri, headers=self._headers, timeout_s=self._connect_timeout_s, certificate=self._certificate
        )
        try:
            metadata = connection.receive(deadline_ns, waiting_for="metadata")
            if not isinstance(metadata, dict):
                raise PolicyProtocolError(f"{self.uri}: expected a map as metadata, found {type(metadata).__name__}")
            contract = self._agreed(metadata)
            try:
                self.transport = transport.choose(self._pictures_by, metadata.get("transport"))
            except transport.TransportError as error:
                raise PolicyProtocolError(f"{self.uri}: {error}") from None
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
        committed: int | None = None,
        continuity: Continuity | None = None,
        seed: int | None = None,
        motion_image: bool = False,
        timeout_s: float | None = None,
    ) -> Reply:
        """The action chunk for an observation taken at `observation_time_ns`.

        `action_prefix`, (n, action dimension), are the actions that are left of the previous chunk, of which the first
        `committed` (by default all) will be carried out whatever comes; it is sent only to a policy whose contract can
        use it. `continuity` chooses how; by default as the policy was trained. `seed` fixes the noise. `timeout_s`
        overrides the client's request deadline.

        Raises `PolicyUnavailable`, `PolicyTimeout`, `PolicyServerError` or `PolicyProtocolError`; after any of them the
        connection is closed. Raises `wire.WireError` (and keeps the connection) if the observation can't be packed.
        """
        connection = self._connection
        if connection is None:
            raise PolicyUnavailable(f"{self.uri}: not connected; call connect() or reconnect() first")
        sent_ns = time.monotonic_ns()
        timeout_s = self._request_timeout_s if timeout_s is None else timeout_s
        deadline_ns = sent_ns + int(timeout_s * 1e9)
        request_id = self._last_request_id = self._last_request_id + 1
        contract = self.contract
        request = self._with_pictures(observation)
        request |= {"request_id": request_id, "observation_time_ns": observation_time_ns}
        if contract is not None:
            request["deadline_ms"] = timeout_s * 1e3
            if action_prefix is not None and self.can_continue(continuity):
                request["action_prefix"] = np.asarray(action_prefix, dtype=np.float64)
                request |= {} if committed is None else {"committed": committed}
                request |= {} if continuity is None else {"continuity": continuity.value}
        if seed is not None:
            request["seed"] = seed
        if motion_image:
            request["motion_image"] = True
        packed = wire.pack(request)
        try:
            connection.send(packed, timeout_s=timeout_s)
            answer = self._next_reply(connection, deadline_ns, waiting_for=f"the reply to request {request_id}")
            received_ns = time.monotonic_ns()
            if self._shared is not None:
                self._shared.was_read()
            interface = None if contract is None else contract.interface
            question = Question(self.uri, request_id, observation_time_ns, sent_ns, interface)
            return parse_reply(answer, question, received_ns=received_ns)
        except PolicyClientError:
            self._throw_away()
            raise

    def receive_pictures(self, *, wait_s: float = 0.0) -> int:
        """Hand over the motion images that have come since the last reply, waiting up to `wait_s` for the first; how
        many there were. `infer` does the same on its way; this is for showing them sooner.

        Raises as `infer` does when the connection is gone.
        """
        count = 0
        while self._connection is not None:
            deadline_ns = time.monotonic_ns() + int((0.0 if count else wait_s) * 1e9)
            try:
                message = self._connection.receive(deadline_ns, waiting_for="a motion image")
                if not is_motion_picture(message):
                    raise PolicyProtocolError(f"{self.uri}: a reply came that nobody asked for")
                self._hand_over(message)
                count += 1
            except PolicyTimeout:
                break
            except PolicyClientError:
                self._throw_away()
                raise
        return count

    def close(self) -> None:
        """Close the connection; a request in flight in another thread ends with `PolicyUnavailable`. Safe to repeat."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._release_shared()

    def _agreed(self, metadata: Mapping[str, Any]) -> Contract | None:
        try:
            contract = Contract.from_metadata(metadata)
        except ContractError as error:
            raise PolicyProtocolError(f"{self.uri}: {error}") from None
        if contract is not None and self._expected is not None:
            differences = contract.mismatches(self._expected)
            if differences:
                listed = "\n  ".join(differences)
                raise ContractMismatch(f"{self.uri} serves a policy that is not made for this robot:\n  {listed}")
        return contract

    def can_continue(self, continuity: Continuity | None) -> bool:
        """Whether the policy can make something, in that way, of what is left of the chunk before."""
        if self.contract is None:
            return False
        match continuity:
            case Continuity.NONE:
                return False
            case Continuity.GUIDED:
                return self.contract.guidance
            case Continuity.COMMITTED | None:
                return self.contract.prefix_conditioning

    def _with_pictures(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """The observation with its pictures as the transport wants them."""
        if self.transport is Transport.RAW:
            return dict(observation)
        pictures = {key: value for key, value in observation.items() if _is_picture(value)}
        if self.transport is Transport.JPEG:
            encoded = {key: transport.encode_jpeg(picture) for key, picture in pictures.items()}
        else:
            self._shared = self._shared or transport.SharedImages()
            encoded = self._shared.put(pictures) if pictures else {}
        return dict(observation) | encoded

    def _next_reply(self, connection: Connection, deadline_ns: int, *, waiting_for: str) -> Any:
        while is_motion_picture(answer := connection.receive(deadline_ns, waiting_for=waiting_for)):
            self._hand_over(answer)
        return answer

    def _hand_over(self, message: Mapping[str, Any]) -> None:
        picture = parse_motion_picture(message, uri=self.uri)
        if self.on_motion_picture is not None:
            self.on_motion_picture(picture)

    def _throw_away(self) -> None:
        """Drop the connection without a closing handshake: the peer may be frozen, and nobody wants its late reply."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.throw_away()
        self._release_shared()

    def _release_shared(self) -> None:
        """The server may still be reading a late request's pictures, so the next connection gets memory of its own."""
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()


def _is_picture(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3
