"""The one thread that runs the model. The event loop never computes, so pings, health checks and other clients go on.

It is always the same thread, because CUDA graphs are captured and replayed per thread. Requests wait in a short line:
one that finds it full is refused at once, and one that has waited too long is refused instead of computed, for its
observation is stale and the line behind it would only get staler.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

import torch

from policy_server.contract import Contract
from policy_server.errors import RequestError, RequestExpiredError, ServerBusyError

log = logging.getLogger(__name__)

WARM_UP_RUNS = 3
STOP_TIMEOUT_S = 5.0


class Servable(Protocol):
    """What can be served: `policy_server.pi0.policy.Policy` is one."""

    @property
    def contract(self) -> Contract: ...

    @property
    def metadata(self) -> dict[str, Any]: ...

    def infer(self, observation: Mapping[str, Any], *, generator: torch.Generator) -> dict[str, Any]: ...

    def example(self) -> dict[str, Any]: ...


class WorkerState(Enum):
    """Where the worker is in its life."""

    WARMING_UP = auto()
    READY = auto()
    FAILED = auto()
    STOPPED = auto()


@dataclass(frozen=True)
class _Job:
    observation: Mapping[str, Any]
    submitted_ns: int
    result: Future[dict[str, Any]]


class InferenceWorker:
    """Runs a policy in a thread of its own. `submit` may be called from any thread."""

    def __init__(self, policy: Servable, *, seed: int = 0, max_waiting: int = 8, max_wait_s: float = 2.0) -> None:
        """`seed` is for the chunks' noise; up to `max_waiting` requests wait, each up to `max_wait_s`."""
        self.policy = policy
        self.state = WorkerState.WARMING_UP
        self._max_wait_ns = int(max_wait_s * 1e9)
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._max_waiting = max_waiting
        self._generator = torch.Generator().manual_seed(seed)
        self._seed = seed
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._on_settled: Callable[[], None] = lambda: None

    def start(self, *, on_settled: Callable[[], None]) -> None:
        """Warm up in the worker's thread, then serve. It calls `on_settled` once the state is READY or FAILED."""
        self._on_settled = on_settled
        self._thread.start()

    def submit(self, observation: Mapping[str, Any]) -> Future[dict[str, Any]]:
        """The reply to come. Its exception may be a `RequestError`. Raises `ServerBusyError` when the line is full."""
        if self.state is not WorkerState.READY:
            raise ServerBusyError(f"the policy is not ready to serve: {self.state.name.lower()}")
        if self._jobs.qsize() >= self._max_waiting:
            raise ServerBusyError(f"{self._max_waiting} requests are waiting already; ask again later")
        job = _Job(observation, time.monotonic_ns(), Future())
        self._jobs.put(job)
        return job.result

    def stop(self) -> None:
        """End the thread after the request in hand; those still waiting are refused."""
        self.state = WorkerState.STOPPED
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        try:
            for _ in range(WARM_UP_RUNS):
                self.policy.infer(self.policy.example(), generator=self._generator)
        except Exception:
            log.exception("the policy can't run: its warm-up failed")
            self.state = WorkerState.FAILED
            self._on_settled()
            return
        self._generator.manual_seed(self._seed)  # the first request's noise does not depend on the warm-up
        if self.state is WorkerState.WARMING_UP:
            self.state = WorkerState.READY
        self._on_settled()
        while (job := self._jobs.get()) is not None:
            self._serve(job)
        while not self._jobs.empty():
            if (job := self._jobs.get()) is not None and job.result.set_running_or_notify_cancel():
                job.result.set_exception(ServerBusyError("the server is shutting down"))

    def _serve(self, job: _Job) -> None:
        if not job.result.set_running_or_notify_cancel():
            return  # its client is gone
        waited_ns = time.monotonic_ns() - job.submitted_ns
        if waited_ns > self._max_wait_ns:
            error = f"the request waited {waited_ns / 1e9:.1f} s, over {self._max_wait_ns / 1e9:g} s, and was dropped"
            job.result.set_exception(RequestExpiredError(error))
            return
        try:
            reply = self.policy.infer(job.observation, generator=self._generator)
        except RequestError as error:
            job.result.set_exception(error)
        except Exception as error:
            log.exception("inference failed")
            job.result.set_exception(error)
        else:
            job.result.set_result(reply)
