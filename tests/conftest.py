"""What every test gets: hypothesis without deadlines, short garbage collections, a marker for those that want the
machine to themselves, and rigs on free ports."""

import gc
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml

from configs.schema import CONFIGS

# A busy machine is no failure.
hypothesis.settings.register_profile("nova-pi", deadline=None)
hypothesis.settings.load_profile("nova-pi")

TESTS = Path(__file__).parent
REALTIME = tuple(
    TESTS / folder
    for folder in (
        "robot/cameras",
        "robot/daemon",
        "robot/doctor",
        "robot/faults",
        "robot/rollout",
        "robot/twin",
        "teleop",
        "twin",
    )
)
"""Tests with control loops and devices in real time; side by side on two cores they would disturb each other."""
TIMELESS = tuple(
    TESTS / path
    for path in (
        "robot/cameras/test_compatibility.py",
        "robot/cameras/test_health.py",
        "robot/cameras/test_replay_camera.py",
        "robot/cameras/test_usb_reset.py",
        "robot/cameras/test_uvc_camera.py",
        "robot/cameras/test_zed_camera.py",
        "robot/doctor/test_checks.py",
        "robot/doctor/test_guided.py",
        "robot/faults/test_faults_table.py",
        "robot/rollout/test_chunks.py",
        "robot/rollout/test_observation.py",
        "robot/rollout/test_resize.py",
        "robot/rollout/test_results.py",
        "robot/rollout/test_session.py",
        "robot/rollout/test_strip.py",
        "robot/twin/cell",
        "robot/twin/test_command.py",
        "robot/twin/test_controller.py",
        "robot/twin/test_controller_alarm_page.py",
        "robot/twin/test_controller_commands.py",
        "robot/twin/test_controller_curves.py",
        "robot/twin/test_controller_driver.py",
        "robot/twin/test_controller_grammar.py",
        "robot/twin/test_controller_servo_filter.py",
        "robot/twin/test_gripper_slave.py",
        "teleop/test_demonstrations.py",
    )
)
"""What stands among them and does not mind how long anything takes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the real-time folders ``realtime``, but for the timeless ones."""
    for item in items:
        in_real_time = any(item.path.is_relative_to(folder) for folder in REALTIME)
        if in_real_time and not any(item.path.is_relative_to(path) for path in TIMELESS):
            item.add_marker("realtime")


def pytest_collection_finish() -> None:
    """What was imported stays: a garbage collection that looks through all of it again stops every thread for a tenth
    of a second, fake devices and control loops among them."""
    gc.collect()
    gc.freeze()


def _free_ports(count: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    """``free_ports(n)``: ports that nothing listens on now."""
    return _free_ports


@pytest.fixture
def unused_port() -> int:
    """A port on which nobody listens."""
    return _free_ports(1)[0]


@pytest.fixture(scope="session")
def write_rig() -> Callable[..., Path]:
    """``write_rig(folder, name, arm={...}, ...)``: a copy of the twin's rig on free ports, with these changes.

    Its pictures are small, so that they are quickly drawn.
    """

    def write(folder: Path, name: str, **changes: dict[str, Any]) -> Path:
        content = yaml.safe_load((CONFIGS / "rigs" / "twin.yaml").read_text())
        content["name"] = name
        keys = ("dashboard_port", "feedback_port", "slow_feedback_port", "extra_feedback_port", "alarm_port")
        *ports, control_port = _free_ports(len(keys) + 1)
        content["arm"] |= dict(zip(keys, ports, strict=True))
        content["twin"] |= {"control_port": control_port, "power_on_s": 0.1}
        for camera in content["cameras"].values():
            camera |= {"width": 320, "height": 180}
        for section, values in changes.items():
            for key, value in values.items():
                old = content[section].get(key)
                content[section][key] = old | value if isinstance(old, dict) else value
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def _wait_for(look: Callable[[], Any], *, what: str, timeout_s: float = 40.0) -> Any:
    deadline_s = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline_s, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., Any]:
    """``wait_for(look, what=...)``: the first true thing that ``look()`` gives."""
    return _wait_for
