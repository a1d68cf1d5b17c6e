"""A rig of its own for each test, and a stand-in for the twin's renderer."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from configs.schema import CONFIGS, RigConfig, load_rig
from robot.cameras import CameraInfo, Intrinsics, frame_dtype
from robot.ring import Ring
from robot.runtime import ring_name

HEIGHT, WIDTH = 72, 128


@pytest.fixture
def rig_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The twin's rig under another name, with small pictures, in a runtime folder of its own."""
    monkeypatch.setenv("NOVA_PI_RUNTIME_DIR", str(tmp_path))
    content = yaml.safe_load((CONFIGS / "rigs" / "twin.yaml").read_text())
    content["name"] = "cameratest"
    for camera in content["cameras"].values():
        camera.update(width=WIDTH, height=HEIGHT)
    path = tmp_path / "cameratest.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


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
