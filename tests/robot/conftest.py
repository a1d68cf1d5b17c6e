"""What the tests of several folders share: a controller and a gripper that fail on command."""

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent


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


@pytest.fixture
def make_controller() -> Iterator[Callable[[], Any]]:
    """Makes fake controllers (`arm/fake_controller.py`)."""
    made: list[Any] = []

    def make() -> Any:
        made.append(_load(HERE / "arm" / "fake_controller.py").FakeController())
        return made[-1]

    yield make
    for controller in made:
        controller.close()


@pytest.fixture
def controller(make_controller: Callable[[], Any]) -> Any:
    return make_controller()


@pytest.fixture
def make_gripper() -> Iterator[Callable[..., Any]]:
    """Makes fake grippers on pseudo-terminals (`gripper/fake_gripper.py`)."""
    made: list[Any] = []

    def make(**options: Any) -> Any:
        made.append(_load(HERE / "gripper" / "fake_gripper.py").FakeGripper(**options))
        return made[-1]

    yield make
    for gripper in made:
        gripper.close()


@pytest.fixture(scope="session")
def eventually() -> Callable[..., bool]:
    """``eventually(condition)``: whether it becomes true in time."""

    def wait(condition: Callable[[], Any], timeout_s: float = 20.0) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if condition():
                return True
            time.sleep(0.005)
        return False

    return wait
