"""The server around a policy that computes nothing, or multiplies matrices for a while: ``python -m
policy_server.bench.null_server BUSY_MS``. It prints its port and ends when its input does."""

import json
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import uvicorn

from configs.allocator import keep_freed_memory
from policy_server.app import ServerSettings, create_app
from policy_server.ask import Ask
from policy_server.contract import SIX_JOINTS_AND_GRIPPER, Contract
from policy_server.metrics import Metrics
from policy_server.worker import InferenceWorker

ACTIONS = np.zeros((15, 7))
CONTRACT = Contract(
    policy="null",
    trained=False,
    interface=replace(SIX_JOINTS_AND_GRIPPER),
    image_size=(224, 224),
    relative_joints=False,
    prefix_conditioning=False,
    motion_image=False,
    normalization_digest="",
    checkpoint_digest="",
)


@dataclass(frozen=True)
class NullAnswer:
    """A chunk of zeros."""

    prefix: None = None

    def reply(self) -> dict[str, Any]:
        return {"actions": ACTIONS, "policy_timing": {"infer_ms": 0.0}}


class NullPolicy:
    """Answers at once, or after `busy_ms` of matrix products on one core."""

    def __init__(self, *, busy_ms: float) -> None:
        self.contract = CONTRACT
        self.metadata: dict[str, Any] = {"contract": CONTRACT.to_metadata()}
        self._busy_s = busy_ms / 1e3
        self._matrix = torch.ones(256, 256)

    def example(self) -> dict[str, Any]:
        """Nothing is needed."""
        return {}

    def infer_batch(self, asks: Sequence[Ask], *, generator: torch.Generator) -> list[NullAnswer]:
        """Zeros for all."""
        until_s = time.perf_counter() + self._busy_s
        while time.perf_counter() < until_s:
            self._matrix @ self._matrix
        return [NullAnswer() for _ in asks]


def main() -> None:
    """Serve until the input ends."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as launch/serve does
    worker = InferenceWorker(NullPolicy(busy_ms=float(sys.argv[1])))
    app = create_app(worker, ServerSettings(), metrics=Metrics(), on_failure=lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, ws_max_size=64 << 20, ws_per_message_deflate=False)
        )

        def end_with_input() -> None:
            sys.stdin.read()
            server.should_exit = True

        threading.Thread(target=end_with_input, daemon=True).start()
        print(json.dumps(listener.getsockname()[1]), flush=True)
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
