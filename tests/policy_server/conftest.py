"""A policy and servers on real sockets, for the tests of this room."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import uvicorn

from policy_server.app import ServerSettings, create_app
from policy_server.metrics import Metrics
from policy_server.pi0.checkpoint import random_policy
from policy_server.pi0.policy import Policy
from policy_server.worker import InferenceWorker

PATIENCE_S = 30.0


@dataclass(frozen=True)
class RunningServer:
    """A policy server in a thread of this process."""

    port: int
    metrics: Metrics
    worker: InferenceWorker

    @property
    def uri(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"


ServerFactory = Callable[..., AbstractContextManager[RunningServer]]


def wait_until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds; fail after a generous time."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@contextmanager
def _run_server(
    policy: Any,
    *,
    settings: ServerSettings | None = None,
    max_message_bytes: int = 16 << 20,
    await_ready: bool = True,
    **worker_options: Any,
) -> Iterator[RunningServer]:
    worker, metrics = InferenceWorker(policy, **worker_options), Metrics()
    app = create_app(worker, settings or ServerSettings(), metrics=metrics, on_failure=lambda: None)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        log_config=None,
        ws_max_size=max_message_bytes,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    running = RunningServer(listener.getsockname()[1], metrics, worker)
    try:
        wait_until(lambda: server.started)
        if await_ready:
            wait_until(lambda: worker.state.name == "READY")
        yield running
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        listener.close()


@pytest.fixture(scope="session")
def nano() -> Policy:
    """Random weights; one Euler step, so that tests are quick."""
    torch.set_num_threads(1)
    return random_policy("nano", seed=0, steps=1)


@pytest.fixture(scope="session")
def wait_for() -> Callable[[Callable[[], bool]], None]:
    """Wait until a condition holds."""
    return wait_until


@pytest.fixture
def run_server() -> ServerFactory:
    """Start a server around a policy: ``with run_server(policy) as server``."""
    return _run_server


@pytest.fixture(scope="module")
def server(nano: Policy) -> Iterator[RunningServer]:
    """One server for all tests of a file: what a test does to it must not disturb the next."""
    with _run_server(nano) as running:
        yield running
