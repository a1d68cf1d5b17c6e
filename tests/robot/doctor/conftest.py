"""A twin with cameras as a process, and a fake controller, for the doctor."""

import importlib.util
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from configs.schema import CONFIGS, RigConfig, load_rig
from robot.processes import Child
from robot.twin.control import TwinControl

_TESTS = Path(__file__).parent.parent
REPOSITORY = _TESTS.parent.parent


def _load(path: Path) -> ModuleType:
    name = f"nova_pi_tests_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def free_ports(count: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    numbers = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return numbers


@dataclass
class RunningTwin:
    """A twin process and the rig file that leads to it."""

    rig: RigConfig
    path: Path
    control: TwinControl
    folder: Path


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTwin]:
    folder = tmp_path_factory.mktemp("twin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOVA_PI_RUNTIME_DIR", str(folder))
        content = yaml.safe_load((CONFIGS / "rigs" / "twin.yaml").read_text())
        content["name"] = "doctored"
        names = ("dashboard_port", "feedback_port", "slow_feedback_port")
        *ports, control_port = free_ports(4)
        content["arm"].update(dict(zip(names, ports, strict=True)))
        content["twin"]["control_port"] = control_port
        path = folder / "doctored.yaml"
        path.write_text(yaml.safe_dump(content))
        rig = load_rig(path)
        child = Child(
            "twin",
            module="robot.twin.server",
            args=["--rig", str(path), "--headless"],
            log_path=folder / "log",
            environment={"PYTHONPATH": str(REPOSITORY)},
        )
        try:
            with TwinControl.wait(rig, timeout_s=60.0) as control:
                yield RunningTwin(rig, path, control, folder)
        finally:
            child.stop()


@pytest.fixture
def controller() -> Iterator[Any]:
    controller = _load(_TESTS / "arm" / "fake_controller.py").FakeController()
    yield controller
    controller.close()


@pytest.fixture
def rig_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RigConfig]:
    """A rig on a fake controller."""
    monkeypatch.setenv("NOVA_PI_RUNTIME_DIR", str(tmp_path))

    def make(controller: Any) -> RigConfig:
        content = yaml.safe_load((CONFIGS / "rigs" / "twin.yaml").read_text())
        content["name"] = "fakes"
        content["arm"].update(dashboard_port=controller.dashboard_port, feedback_port=controller.feedback_port)
        path = tmp_path / "fakes.yaml"
        path.write_text(yaml.safe_dump(content))
        return load_rig(path)

    return make
