"""A rig of its own for each test, a stand-in for the twin's renderer, and two ZEDs that fail on command."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from configs.schema import CONFIGS, RigConfig, load_rig
from robot.cameras import CameraInfo, Intrinsics, frame_dtype
from robot.ring import Ring
from robot.runtime import ring_name

HEIGHT, WIDTH = 72, 128


@pytest.fixture
def rig_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The twin's rig under another name, with small pictures, in a runtime folder of its own."""
    monkeypatch.setenv("NOVA_PI_RUNTIME_DIR", str(tmp_path))
    content = yaml.safe_load((CONFIGS / "rigs" / "twin.yaml").read_text())
    content["name"] = "cameratest"
    for camera in content["cameras"].values():
        camera.update(width=WIDTH, height=HEIGHT)
    path = tmp_path / "cameratest.yaml"
    path.write_text(yaml.safe_dump(content))
    prefix = ring_name("cameratest", "")
    yield path
    # A process that was killed leaves its rings behind, for the next one of that name to replace.
    for left_over in Path("/dev/shm").glob(f"{prefix}*"):
        left_over.unlink()


@pytest.fixture
def rig(rig_path: Path) -> RigConfig:
    return load_rig(rig_path)


class FakeRenderer:
    """Writes the twin's ring of one camera, as the twin's renderer does."""

    def __init__(self, rig: RigConfig, name: str = "exterior", *, serial: int | None = None, fps: float = 15.0) -> None:
        config = rig.cameras[name]  # type: ignore[index]
        info = CameraInfo(
            name=name,
            backend="twin",
            serial=config.serial if serial is None else serial,
            fps=fps,
            intrinsics=Intrinsics(100.0, 100.0, 64.0, 36.0, WIDTH, HEIGHT),
        )
        self.ring = Ring.create(
            ring_name(rig.name, f"twin.camera.{name}"), dtype=frame_dtype(HEIGHT, WIDTH), slots=4, meta=info.to_meta()
        )
        self.count = 0

    def show(self, image: np.ndarray | None = None, *, capture_ns: int) -> np.ndarray:
        """Publish a picture (a noisy one by default) and give it back."""
        if image is None:
            image = np.random.default_rng(self.count).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        slot = self.ring.begin(capture_ns=capture_ns)
        slot["image"], slot["device_seq"], slot["exposure_s"] = image, self.count, 0.01
        self.ring.commit()
        self.count += 1
        return image


@pytest.fixture
def make_renderer(rig: RigConfig) -> Iterator[Callable[..., FakeRenderer]]:
    """Starts stand-ins: ``make_renderer(name, serial=..., fps=...)``."""
    made: list[FakeRenderer] = []

    def make(name: str = "exterior", **differences: float) -> FakeRenderer:
        made.append(FakeRenderer(rig, name, **differences))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for fake in made:
        fake.ring.unlink()


FAKE_PYZED = Path(__file__).parent / "fake_pyzed"


class FakeZeds:
    """A ZED 2i and a ZED Mini on the bus, seen through the fake ``pyzed.sl``, which lists the faults there are."""

    ZED_2I, ZED_MINI = 30000001, 10000001

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.environment = {
            "FAKE_ZED_DIR": str(folder),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(FAKE_PYZED), os.environ.get("PYTHONPATH")))),
        }
        self._write({"cameras": {str(self.ZED_2I): {"model": "ZED2i"}, str(self.ZED_MINI): {"model": "ZED_M"}}})

    def set(self, serial: int, **faults: Any) -> None:
        """Set faults of one camera; None takes one back."""
        world = json.loads((self._folder / "world.json").read_text())
        camera = {**world["cameras"][str(serial)], **faults}
        world["cameras"][str(serial)] = {key: value for key, value in camera.items() if value is not None}
        self._write(world)

    def journal(self) -> list[str]:
        """What the SDK was asked to do, in order."""
        path = self._folder / "journal.txt"
        return path.read_text().splitlines() if path.exists() else []

    def _write(self, world: dict[str, Any]) -> None:
        draft = self._folder / "world.new"
        draft.write_text(json.dumps(world))
        draft.replace(self._folder / "world.json")


@pytest.fixture
def pyzed_is_forgotten() -> Iterator[None]:
    """Whatever is imported as ``pyzed`` in a test is not there in the next one."""
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyzed"]:
        del sys.modules[name]


@pytest.fixture
def zeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pyzed_is_forgotten: None) -> FakeZeds:
    """The fake SDK, importable in this process and, with ``zeds.environment``, in others."""
    folder = tmp_path / "zeds"
    folder.mkdir()
    fake = FakeZeds(folder)
    monkeypatch.setenv("FAKE_ZED_DIR", str(folder))
    monkeypatch.syspath_prepend(str(FAKE_PYZED))
    return fake


@pytest.fixture
def zed_rig_path(rig_path: Path) -> Path:
    """The lab's cameras: a ZED 2i outside and a ZED Mini at the wrist, in their smallest mode, settings locked."""
    content = yaml.safe_load(rig_path.read_text())
    for name, serial in (("exterior", FakeZeds.ZED_2I), ("wrist", FakeZeds.ZED_MINI)):
        content["cameras"][name].update(
            backend="zed",
            serial=serial,
            width=672,
            height=376,
            fps=30,
            exposure_percent=50,
            gain_percent=20,
            white_balance_k=4200,
        )
    rig_path.write_text(yaml.safe_dump(content))
    return rig_path
