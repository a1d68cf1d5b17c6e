"""The whole stack on this machine: a twin on free ports, a policy server with random weights, rollouts as processes."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from configs.schema import RigConfig, load_rig
from robot.processes import Child
from robot.twin.control import TwinControl


@dataclass
class Stack:
    """Where everything is. Rollouts are started with `rollout` and run as they do from the command line."""

    rig: RigConfig
    rig_path: Path
    server_port: int
    folder: Path
    wait_for: Callable[..., Any]
    server: Child | None = None

    def start_server(self) -> None:
        """Start the policy server and wait until it has warmed up."""
        self.server = Child(
            "policy server",
            module="policy_server.main",
            args=("--policy", "nano-random", "--port", str(self.server_port)),
            log_path=self.folder / "server.log",
        )
        self.wait_for(self._server_is_ready, what="the policy server", timeout_s=60.0)

    def _server_is_ready(self) -> bool:
        assert self.server is not None
        self.server.check()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.server_port}/readyz", timeout=1.0):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def rollout(self, name: str, *arguments: str) -> "Rollout":
        """Start ``launch/rollout`` on this stack."""
        output = self.folder / name
        command = [sys.executable, "-m", "robot.rollout.main", "--rig", str(self.rig_path), "--output", str(output)]
        if "--server" not in arguments:
            command += ["--server", f"ws://127.0.0.1:{self.server_port}"]
        process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        return Rollout(process, output)


@dataclass
class Rollout:
    """A running rollout and its folder."""

    process: subprocess.Popen[str]
    output: Path

    def wait(self, *, timeout_s: float = 60.0) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            out, err = self.process.communicate()
            pytest.fail(f"the rollout did not end within {timeout_s:g} s: {out} {err}")
        return self.process.returncode, out, err

    def steps(self) -> list[dict[str, Any]]:
        """All whole lines of the newest episode's step log."""
        files = sorted(self.output.glob("episode-*/steps.jsonl"))
        if not files:
            return []
        text = files[-1].read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


@pytest.fixture(scope="module")
def stack(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    write_rig: Callable[..., Path],
    free_ports: Callable[[int], list[int]],
    wait_for: Callable[..., Any],
) -> Iterator[Stack]:
    """A twin and a policy server for the tests of a file; other files want the machine for themselves."""
    folder = tmp_path_factory.mktemp("stack")
    patch = pytest.MonkeyPatch()
    patch.setenv("NOVA_PI_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
    patch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", "egl"))
    # These tests are about what happens, not how fast: pictures are small, and a busy machine may show them late.
    pictures = getattr(request.module, "PICTURES", {})
    cameras = {"exterior": pictures, "wrist": pictures}
    rig_path = write_rig(folder, "closedloop", cameras=cameras, observation={"max_age_s": 1.0})
    made = Stack(load_rig(rig_path), rig_path, free_ports(1)[0], folder, wait_for)
    twin = Child(
        "twin",
        module="robot.twin.server",
        args=("--rig", str(rig_path), "--headless"),
        log_path=folder / "twin.log",
    )
    try:
        made.start_server()
        TwinControl.wait(made.rig, timeout_s=60.0).close()
        yield made
    finally:
        if made.server is not None:
            made.server.stop()
        twin.stop()
        patch.undo()
