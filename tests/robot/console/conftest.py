"""The operator's page on a twin with real processes. Only the policy is scripted: it sways, and paints motion."""

import json
import math
import os
import shutil
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from configs.schema import RigConfig, load_rig
from policy_server import wire
from policy_server.contract import SIX_JOINTS_AND_GRIPPER, Contract
from robot.console.access import Session
from robot.console.screenshots import BROWSERS
from robot.job_status import Job, read_job
from robot.priority import ENVIRONMENT
from robot.processes import Child
from robot.rollout.flow_view import colours
from robot.twin.control import TwinControl

TOKEN = "a-token-for-tests"


class SwayingPolicy:
    """A policy server whose arm sways about where it is, and which paints motion that turns from request to request."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests = 0
        self._server: Server = serve(self._serve, "127.0.0.1", port, compression=None)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()

    def _serve(self, connection: ServerConnection) -> None:
        contract = Contract(
            policy="swaying",
            trained=False,
            interface=SIX_JOINTS_AND_GRIPPER,
            image_size=(32, 32),
            relative_joints=False,
            prefix_conditioning=False,
            motion_image=True,
            normalization_digest="n",
            checkpoint_digest="c" * 64,
        )
        try:
            connection.send(wire.pack({"contract": contract.to_metadata()}))
            for frame in connection:
                assert isinstance(frame, bytes)
                self._answer(connection, wire.unpack(frame))
        except (ConnectionClosed, OSError):
            return

    def _answer(self, connection: ServerConnection, request: dict[str, Any]) -> None:
        self.requests += 1
        echo = {key: request[key] for key in ("request_id", "observation_time_ns")}
        start = np.array(request["observation/joint_position"])
        turns = np.arange(1, 16) / 15
        goal = 0.12 * math.sin(self.requests / 2)
        joints = np.tile(start, (15, 1))
        joints[:, 0] += turns * (goal - start[0])
        actions = np.column_stack([joints, np.full(15, 0.3)])
        connection.send(wire.pack({"actions": actions, "policy_timing": {"infer_ms": 5.0}, **echo}))
        if request.get("motion_image"):
            flow = np.zeros((224, 224, 2), np.float32)
            flow[60:160, 60:160] = 12 * np.array([math.cos(self.requests), math.sin(self.requests)])
            picture = {
                "motion_image": colours(flow, scale_px=12.0),
                "motion_ms": 20.0,
                "motion_scale_px": 32 * 12 / 224,
            }
            connection.send(wire.pack(picture | echo))


@dataclass
class Stack:
    """A twin, a policy server and a console."""

    rig: RigConfig
    rig_path: Path
    folder: Path
    policy: SwayingPolicy
    console_port: int
    wait_for: Callable[..., Any]
    children: dict[str, Child] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.console_port}"

    @property
    def page(self) -> str:
        return f"{self.url}/?token={TOKEN}"

    @property
    def cookie(self) -> str:
        return f"nova_pi_console_{self.console_port}={Session(TOKEN).cookie}"

    token = TOKEN

    def moving(self) -> str | None:
        """The job that publishes itself as running on this rig."""
        return next((job.value for job in (Job.ROLLOUT, Job.COLLECT) if read_job(self.rig.name, job)), None)

    def end_jobs(self) -> None:
        """What a test that failed half way left running does not disturb the next one."""
        for report in (read_job(self.rig.name, job) for job in (Job.ROLLOUT, Job.COLLECT)):
            if report is not None:
                os.kill(report.pid, signal.SIGINT)
        self.wait_for(lambda: self.moving() is None, what="the job that a test left running ends")

    def get(self, path: str) -> Any:
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=5.0) as answer:
            return json.loads(answer.read())

    def start_console(self, name: str, *arguments: str, port: int) -> None:
        """Start one more console of the rig and wait until it answers."""
        self.children[name] = Child(
            name,
            module="robot.console.main",
            args=(
                *("--rig", str(self.rig_path), "--port", str(port), "--token", TOKEN, "--no-browser"),
                *("--server", f"ws://127.0.0.1:{self.policy.port}"),
                *("--outputs", str(self.folder / "outputs"), "--episodes", str(self.folder / "episodes")),
                *arguments,
            ),
            log_path=self.folder / f"{name}.log",
        )
        self.wait_for(lambda: self._console_answers(name, port), what="the console")

    def _console_answers(self, name: str, port: int) -> bool:
        self.children[name].check()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1.0):
                return True
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    write_rig: Callable[..., Path],
    free_ports: Callable[[int], list[int]],
    wait_for: Callable[..., Any],
) -> Iterator[Stack]:
    """Everything up, with cameras and robotd, for all tests of a file; other files want the machine for themselves."""
    folder = tmp_path_factory.mktemp("console")
    patch = pytest.MonkeyPatch()
    patch.setenv("NOVA_PI_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
    # The browser shares the processor with the twin's drawing, which would otherwise be preferred.
    patch.setenv(ENVIRONMENT, "1")
    patch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", "egl"))
    rig_path = write_rig(folder, "console", observation={"max_age_s": 1.0, "max_skew_s": 0.5})
    policy_port, console_port = free_ports(2)
    policy = SwayingPolicy(policy_port)
    made = Stack(load_rig(rig_path), rig_path, folder, policy, console_port, wait_for)
    try:
        made.children["twin"] = Child(
            "twin",
            module="robot.twin.server",
            args=("--rig", str(rig_path), "--headless"),
            log_path=folder / "twin.log",
        )
        TwinControl.wait(made.rig, timeout_s=60.0).close()
        # On a busy machine a browser may be silent for more than a second; what that leads to has a test of its own.
        made.start_console("console", "--on-loss", "continue", port=made.console_port)
        yield made
    finally:
        for child in reversed(made.children.values()):
            child.stop(timeout_s=30.0)
        policy.close()
        patch.undo()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's program; its absence is told with the command that helps."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium here: sudo apt-get install chromium-headless-shell")
    return found
