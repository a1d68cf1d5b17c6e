"""The thread between the 15 Hz loop and the policy server. The loop never waits for it.

`submit` hands over an observation and returns; `poll` gives what has come of it. A request that fails or runs out of
time is reported, its connection thrown away, and the thread connects again with growing pauses. Nothing is sent again:
the next request carries a fresh observation.
"""

import logging
import threading
from collections import deque
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Self

import numpy as np

from policy_server.client import (
    SIX_JOINTS_AND_GRIPPER,
    Backoff,
    Contract,
    ContractMismatch,
    PolicyClient,
    PolicyClientError,
    PolicyProtocolError,
    Reply,
)
from robot.priority import prefer_this_thread
from robot.rollout.observation import Observation

REQUEST_TIMEOUT_S = 1.0
"""A chunk is one second long: a later reply holds nothing that could still be carried out."""
CONNECT_TIMEOUT_S = 3.0
RECONNECT = Backoff(first_s=0.2, longest_s=2.0)
STOCK_IMAGE_SIZE = (224, 224)
"""What a stock openpi server sees: it promises nothing, and this is what its policies are trained on."""
_LOG = logging.getLogger("policy")


class UnknownContractError(RuntimeError):
    """The server does not say what its policy expects, as a stock openpi server does not."""


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


def connect(uri: str, *, api_key: str | None = None, allow_unknown_contract: bool = False) -> PolicyClient:
    """A client whose server is there and serves a policy for this robot: six joints and a gripper, two cameras, 15 Hz.

    Raises `PolicyClientError` (absent, refused, mismatch naming both sides) or `UnknownContractError`.
    """
    client = PolicyClient(
        uri,
        expected=SIX_JOINTS_AND_GRIPPER,
        api_key=api_key,
        connect_timeout_s=CONNECT_TIMEOUT_S,
        request_timeout_s=REQUEST_TIMEOUT_S,
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
    """Owns a connected `PolicyClient` and the thread that uses it. `submit` and `poll` never block."""

    def __init__(self, client: PolicyClient, *, prompt: str) -> None:
        self.prompt = prompt
        self.identity = identity(client)
        self._contract: Contract | None = client.contract
        self._client = client
        self._condition = threading.Condition()
        self._pending: tuple[Observation, np.ndarray, str] | None = None
        self._outcomes: deque[Chunk | Failure] = deque(maxlen=4)
        self._state = LinkState.IDLE
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="policy link", daemon=True)

    @property
    def state(self) -> LinkState:
        return self._state

    def submit(self, observation: Observation, *, prefix: np.ndarray) -> bool:
        """Ask for a chunk; False when the server is not there or still busy with the last request.

        ``prefix`` (n, 7): actions that are committed already; used by policies that are conditioned on them.
        """
        with self._condition:
            if self._state is not LinkState.IDLE or self._stop.is_set():
                return False
            self._pending = (observation, prefix, self.prompt)
            self._state = LinkState.WAITING
            self._condition.notify()
            return True

    def poll(self) -> Chunk | Failure | None:
        """What has come of a request since the last call, if anything."""
        with self._condition:
            return self._outcomes.popleft() if self._outcomes else None

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
        # Like the loop: an ordinary thread that loses its core while it holds the interpreter would stop the loop too.
        prefer_this_thread()
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
            if state is LinkState.RECONNECTING:
                self._reconnect()

    def _next_request(self) -> tuple[Observation, np.ndarray, str] | None:
        with self._condition:
            while self._pending is None and not self._stop.is_set():
                self._condition.wait()
            request, self._pending = self._pending, None
            return None if self._stop.is_set() else request

    def _ask(self, observation: Observation, prefix: np.ndarray, prompt: str) -> Chunk:
        height, width = self.identity.image_size
        reply = self._client.infer(
            observation.request(prompt=prompt, height=height, width=width),
            observation_time_ns=observation.time_ns,
            action_prefix=prefix if len(prefix) else None,
        )
        return Chunk(reply, observation)

    def _report(self, outcome: Chunk | Failure, state: LinkState) -> None:
        with self._condition:
            self._outcomes.append(outcome)
            self._state = state
        if isinstance(outcome, Failure) and not self._stop.is_set():
            _LOG.warning("no chunk: %s", outcome.text)

    def _reconnect(self) -> None:
        try:
            if not self._client.reconnect(stop=self._stop, backoff=RECONNECT):
                return
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
