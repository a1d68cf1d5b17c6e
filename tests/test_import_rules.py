"""Who may import whom: the walls of the house."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("configs", "robot", "policy_server", "teleop", "calibration")
TORCH_FREE = ("configs", "robot", "teleop", "calibration")
HEAVY = ("torch", "torchvision", "safetensors", "sentencepiece", "peft", "diffusers", "accelerate", "lerobot", "openpi")
ALLOWED = {
    "configs": ("configs",),
    "robot": ("robot", "configs", "policy_server.wire", "policy_server.client", "policy_server.contract"),
    "policy_server": ("policy_server", "configs"),
    "teleop": ("teleop", "robot", "configs", "policy_server.client"),
    "calibration": ("calibration", "robot", "configs"),
}


OTHER_DISTRIBUTIONS = ROOT / "teleop" / "lerobot_plugin"
"""Plug-ins for LeRobot, installed beside it: packages of their own, which import it and our robot side."""


def files_of(room: str) -> list[Path]:
    """The room's Python files, other distributions left out."""
    return [path for path in sorted((ROOT / room).rglob("*.py")) if not path.is_relative_to(OTHER_DISTRIBUTIONS)]


def imported_modules(path: Path) -> set[str]:
    """Every absolute module name that the file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute in this repository"
            names.add(node.module or "")
    return names


def is_inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_the_rooms_that_it_may(room: str) -> None:
    for path in files_of(room):
        for module in imported_modules(path):
            ours = any(is_inside(module, other) for other in ROOMS)
            if ours:
                assert any(is_inside(module, allowed) for allowed in ALLOWED[room]), f"{path} imports {module}"
            assert not is_inside(module, "launch"), f"{path}: nothing imports launch/, it is no package"


@pytest.mark.parametrize("room", TORCH_FREE)
def test_the_robot_side_never_imports_torch(room: str) -> None:
    for path in files_of(room):
        for module in imported_modules(path):
            assert not any(is_inside(module, heavy) for heavy in HEAVY), f"{path} imports {module}"


def test_every_robot_side_module_imports_where_torch_is_absent() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for room in TORCH_FREE
        for path in files_of(room)
        if path.name != "__main__.py"
    ]
    modules += ["policy_server.wire", "policy_server.client", "policy_server.contract"]
    program = f"""
import importlib, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed on the robot side")
sys.meta_path.insert(0, Absent())
for name in {modules!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_launch_is_a_menu_of_executables_and_no_package() -> None:
    launch = ROOT / "launch"
    assert not (launch / "__init__.py").exists()
    for path in launch.iterdir():
        if path.name.startswith(("_", ".")):
            continue
        assert path.stat().st_mode & 0o111, f"{path.name} is not executable"
        assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env python3\n"), path.name


@pytest.mark.parametrize("folder", [*ROOMS, "launch", "tests"])
def test_the_code_names_no_path_of_a_machine(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        if path == Path(__file__).resolve():
            continue
        for place in ("/home/", "/root/", "/work/", "/Users/"):
            assert place not in path.read_text(encoding="utf-8"), f"{path} names {place}"
