"""The README's pictures of the twin: ``python -m robot.twin.pictures docs``."""

import sys
from pathlib import Path

import cv2
import numpy as np

from robot.twin.env import TwinEnv
from robot.twin.expert import Expert
from robot.twin.optics import CameraName
from robot.twin.props import Prop
from robot.twin.scene import SceneOptions

HEIGHT, WIDTH = 360, 640
TICKS_BEFORE = (0, 45)
"""The scene as drawn, and the teacher with the cup in its jaws."""


def write_pictures(folder: Path, *, seed: int = 3) -> list[Path]:
    """Write ``twin-start.jpg`` and ``twin-grasp.jpg``: exterior and wrist camera side by side, multisampled."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with TwinEnv(None, scene=SceneOptions(samples=8)) as env:
        env.reset(seed, Prop.CUP)
        teacher = Expert(env.sim, Prop.CUP, seed=seed)
        for tick in range(max(TICKS_BEFORE) + 1):
            if tick in TICKS_BEFORE:
                both = [env.render(camera, height=HEIGHT, width=WIDTH) for camera in CameraName]
                path = folder / ("twin-start.jpg" if tick == 0 else "twin-grasp.jpg")
                bgr = cv2.cvtColor(np.concatenate(both, axis=1), cv2.COLOR_RGB2BGR)
                cv2.imwrite(str(path), bgr, [cv2.IMWRITE_JPEG_QUALITY, 88])
                written.append(path)
            env.step(teacher.act())
    return written


if __name__ == "__main__":
    print(*write_pictures(Path(sys.argv[1] if len(sys.argv) > 1 else "docs")))
