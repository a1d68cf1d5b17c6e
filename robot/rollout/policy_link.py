"""The thread between the 15 Hz loop and the policy server. The loop never waits for it.

`submit` hands over an observation and returns; `poll` gives what has come of it. A request that fails or runs out of
time is reported, its connection thrown away, and the thread connects again with growing pauses. Nothing is sent again:
the next request carries a fresh observation.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Self

from policy_server.client import (
    SIX_JOINTS_AND_GRIPPER,
    Backoff,
    Continuity,
    Contract,
    ContractMismatch,
    MotionPicture,
    PolicyClient,
    PolicyClientError,
    PolicyProtocolError,
    Reply,
)
from robot.priority import CLIENT_PRIORITY, prefer_all_threads
from robot.rollout.chunks import Leftover
from robot.rollout.observation import Observation
from robot.rollout.telemetry import PredictedMotion

REQUEST_TIMEOUT_S = 1.0
"""A chunk is one second long: a later reply holds nothing that could still be carried out."""
PICTURE_TIMEOUT_S = 0.6
"""How long after a reply its picture of predicted motion is looked for at once; later it comes with the next reply."""
PICTURE_INTERVAL_S = 1.0
"""A picture shows the motion of the second to come: asked for more often they would say the same, and where policy and
rig share a processor, take it from the arm."""
PICTURE_POLL_S = 0.004
"""By so much may looking for a picture delay the next request."""
CONNECT_TIMEOUT_S = 3.0
RECONNECT = Backoff(first_s=0.2, longest_s=2.0)
STOCK_IMAGE_SIZE = (224, 224)
"""What a stock openpi server sees: it promises nothing, and this is what its policies are trained on."""
_LOG = logging.getLogger("policy")


class UnknownContractError(RuntimeError):
    """The server does not say what its policy expects, as a stock openpi server does not."""


class MotionUnavailableError(RuntimeError):
    """Predicted motion was asked for, and the server has no motion head loaded."""


class MotionTap:
    """Where a client's pictures of predicted motion go, on the link's thread, once somebody looks; until then they are
    dropped."""

    def __init__(self) -> None:
        self.sink: Callable[[PredictedMotion], None] | None = None
        self.sent_size = (1, 1)
        """Height and width of the pictures that the policy is sent."""
        self._sent_ns: deque[tuple[int, int]] = deque(maxlen=8)

    def asked(self, *, observation_ns: int, sent_ns: int) -> None:
        """A request with this observation was sent then."""
        self._sent_ns.append((observation_ns, sent_ns))

    def __call__(self, picture: MotionPicture) -> None:
        observation_ns = picture.observation_time_ns
        sent_ns = dict(self._sent_ns).get(observation_ns)
        if self.sink is not None and sent_ns is not None:
            height, width = self.sent_size
            region = picture.region or (0.0, 0.0, float(height), float(width))
            scale_width = picture.scale_px / region[3]
            self.sink(PredictedMotion(picture.image, observation_ns, sent_ns, scale_width, region, self.sent_size))


class LinkState(Enum):
    """What the thread is doing."""

    IDLE = "connected"
    WAITING = "waiting for a chunk"
    RECONNECTING = "reconnecting"
    REFUSED = "refused"
    """The server now serves another policy than at the start; only an operator can resolve that."""


@dataclass(frozen=True)
class Chunk:
    """A reply with the observation it is about."""

    reply: Reply
    observation: Observation


@dataclass(frozen=True)
class Failure:
    """Why a request brought no chunk. ``unusable``: the server did answer, but with no chunk for this arm."""

    text: str
    unusable: bool = False


@dataclass(frozen=True)
class PolicyIdentity:
    """Who answers: for logs, tables and results. ``trained`` False: the weights are random."""

    name: str
    trained: bool
    digest: str
    image_size: tuple[int, int]

    @property
    def label(self) -> str:
        """The name, with a warning that can't be overlooked when the weights are random."""
        return self.name if self.trained else f"{self.name} (RANDOM WEIGHTS)"


def connect(
    uri: str,
    *,
    api_key: str | None = None,
    allow_unknown_contract: bool = False,
    motion: MotionTap | None = None,
) -> PolicyClient:
    """A client whose server is there and serves a policy for this robot: six joints and a gripper, two cameras, 15 Hz.

    Raises `PolicyClientError` (absent, refused, mismatch naming both sides) or `UnknownContractError`.
    """
    client = PolicyClient(
        uri,
        expected=SIX_JOINTS_AND_GRIPPER,
        api_key=api_key,
        connect_timeout_s=CONNECT_TIMEOUT_S,
        request_timeout_s=REQUEST_TIMEOUT_S,
        on_motion_picture=motion,
    )
    client.connect()
    if client.contract is None and not allow_unknown_contract:
        client.close()
        raise UnknownContractError(
            f"{uri} does not say which state, actions, units and rate its policy has (a stock openpi server does not); "
            "if you know that they are this robot's, say --allow-unknown-contract."
        )
    return client


def identity(client: PolicyClient) -> PolicyIdentity:
    """Who answers on this connection; a server without a contract is taken at its word as trained."""
    contract = client.contract
    if contract is None:
        return PolicyIdentity(
            name=f"stock server at {client.uri}", trained=True, digest="", image_size=STOCK_IMAGE_SIZE
        )
    return PolicyIdentity(contract.policy, contract.trained, contract.checkpoint_digest, contract.image_size)


class PolicyLink:
    """Owns a connected `PolicyClient` and the thread that uses it. `submit` and `poll` never block.

    ``motion`` is the tap that the client was connected with; pictures are asked for while it has a sink. ``continuity``
    is how chunks are to follow each other; None as the policy was trained.
    """

    def __init__(
        self,
        client: PolicyClient,
        *,
        prompt: str,
        motion: MotionTap | None = None,
        continuity: Continuity | None = None,
    ) -> None:
        self._continuity = continuity
        self._motion = motion or MotionTap()
        self._motion.sent_size = identity(client).image_size
        self.prompt = prompt
        self.identity = identity(client)
        self._contract: Contract | None = client.contract
        self._client = client
        self._condition = threading.Condition()
        self._pending: tuple[Observation, Leftover, str] | None = None
        self._outcomes: deque[Chunk | Failure] = deque(maxlen=4)
        self._state = LinkState.IDLE
        self._picture_until_s = 0.0
        self._next_picture_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="policy link", daemon=True)

    @property
    def state(self) -> LinkState:
        return self._state

    @property
    def shows_motion(self) -> bool:
        """Whether the server has a motion head loaded."""
        return self._contract is not None and self._contract.motion_image

    def watch_motion(self, sink: Callable[[PredictedMotion], None] | None) -> None:
        """From now on ask for a picture of the predicted motion every second, or no longer with None."""
        self._motion.sink = sink

    def submit(self, observation: Observation, *, leftover: Leftover) -> bool:
        """Ask for a chunk that goes on from the present path; False when the server is not there or still busy with
        the last request."""
        with self._condition:
            if self._state is not LinkState.IDLE or self._stop.is_set():
                return False
            self._pending = (observation, leftover, self.prompt)
            self._state = LinkState.WAITING
            self._condition.notify()
            return True

    def poll(self) -> Chunk | Failure | None:
        """What has come of a request since the last call, if anything."""
        with self._condition:
            return self._outcomes.popleft() if self._outcomes else None

    def wait(self, *, timeout_s: float) -> bool:
        """Wait until `poll` has something to give; False if it has not in time."""
        with self._condition:
            return self._condition.wait_for(lambda: bool(self._outcomes), timeout=max(0.0, timeout_s))

    def close(self) -> None:
        """End the thread, also out of a request that hangs."""
        self._stop.set()
        with self._condition:
            self._condition.notify()
        self._client.close()
        if self._thread.ident is not None:
            self._thread.join(timeout=2 * CONNECT_TIMEOUT_S)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        prefer_all_threads(CLIENT_PRIORITY)
        while not self._stop.is_set():
            request = self._next_request()
            if request is None:
                return
            try:
                outcome: Chunk | Failure = self._ask(*request)
                state = LinkState.IDLE
            except PolicyClientError as error:
                unusable = isinstance(error, PolicyProtocolError)
                outcome, state = Failure(str(error), unusable), LinkState.RECONNECTING
            self._report(outcome, state)
            if state is LinkState.RECONNECTING or not self._took_picture():
                self._reconnect()

    def _took_picture(self) -> bool:
        """Wait for the picture that follows a reply, until the next request is due; False if the connection broke."""
        try:
            while self._pending is None and time.monotonic() < self._picture_until_s and not self._stop.is_set():
                if self._client.receive_pictures(wait_s=PICTURE_POLL_S):
                    break
        except PolicyClientError as error:
            self._report(Failure(str(error)), LinkState.RECONNECTING)
            return False
        return True

    def _next_request(self) -> tuple[Observation, Leftover, str] | None:
        with self._condition:
            while self._pending is None and not self._stop.is_set():
                self._condition.wait()
            request, self._pending = self._pending, None
            return None if self._stop.is_set() else request

    def _ask(self, observation: Observation, leftover: Leftover, prompt: str) -> Chunk:
        height, width = self.identity.image_size
        wants_motion = self._motion.sink is not None and time.monotonic() >= self._next_picture_s
        reply = self._client.infer(
            observation.request(prompt=prompt, height=height, width=width),
            observation_time_ns=observation.time_ns,
            motion_image=wants_motion,
            **leftover.arguments(self._continuity),
        )
        if wants_motion:
            self._motion.asked(observation_ns=observation.time_ns, sent_ns=reply.sent_ns)
            self._picture_until_s = time.monotonic() + PICTURE_TIMEOUT_S
            self._next_picture_s = time.monotonic() + PICTURE_INTERVAL_S
        return Chunk(reply, observation)

    def _report(self, outcome: Chunk | Failure, state: LinkState) -> None:
        with self._condition:
            self._outcomes.append(outcome)
            self._state = state
            self._condition.notify_all()
        if isinstance(outcome, Failure) and not self._stop.is_set():
            _LOG.warning("no chunk: %s", outcome.text)

    def _reconnect(self) -> None:
        try:
            if not self._client.reconnect(stop=self._stop, backoff=RECONNECT):
                return
            prefer_all_threads(CLIENT_PRIORITY)  # the new connection has a new reader
            self._refuse_another_policy()
        except ContractMismatch as error:
            self._client.close()
            self._report(Failure(str(error)), LinkState.REFUSED)
            return
        with self._condition:
            self._state = LinkState.IDLE
        _LOG.info("policy server is back: %s", self.identity.label)

    def _refuse_another_policy(self) -> None:
        """Half an episode with one policy and half with another would be a result about neither."""
        found = self._client.contract
        if found != self._contract:
            raise ContractMismatch(
                f"{self._client.uri}: the server came back with another policy: the episode began with "
                f"{_described(self._contract)}, now there is {_described(found)}"
            )


def _described(contract: Contract | None) -> str:
    if contract is None:
        return "one without a contract"
    return f"{contract.policy!r} (checkpoint {contract.checkpoint_digest[:12]})"
