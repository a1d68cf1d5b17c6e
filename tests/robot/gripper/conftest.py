"""The fake gripper as a fixture."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


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
def make_gripper() -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(**options: Any) -> Any:
        made.append(_load(Path(__file__).with_name("fake_gripper.py")).FakeGripper(**options))
        return made[-1]

    yield make
    for gripper in made:
        gripper.close()


@pytest.fixture
def make_controller() -> Iterator[Callable[[], Any]]:
    made: list[Any] = []

    def make() -> Any:
        made.append(_load(Path(__file__).parent.parent / "arm" / "fake_controller.py").FakeController())
        return made[-1]

    yield make
    for controller in made:
        controller.close()
