"""The initial-scene overlay: the present picture over a reference episode's first, to set up scenes alike."""

import os
from pathlib import Path

import cv2
import numpy as np

from robot.recording import Episode, EpisodeError, Label
from robot.recording.meta import EpisodeMeta

CAMERA = "exterior"
_USABLE = (Label.SUCCESS, Label.UNCONFIRMED)


def reference_image(directory: Path, episodes: list[EpisodeMeta]) -> np.ndarray | None:
    """First exterior picture (H, W, 3) uint8 RGB of the first episode that went well, None if none has one."""
    for meta in sorted(episodes, key=lambda meta: meta.outcome.label is not Label.SUCCESS):
        if meta.outcome.label not in _USABLE:
            continue
        try:
            return Episode(directory / meta.id).image(CAMERA, 0)
        except EpisodeError:
            continue  # no picture in it; the next one may have some
    return None


def overlay(present: np.ndarray, *, reference: np.ndarray) -> np.ndarray:
    """Both pictures at half strength, (H, W, 3) uint8 RGB: what has moved shows twice."""
    height, width = present.shape[:2]
    scaled = cv2.resize(reference, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.addWeighted(present, 0.5, scaled, 0.5, 0.0)


def write_picture(picture: np.ndarray, path: Path) -> None:
    """Write (H, W, 3) uint8 RGB as PNG, as a whole or not at all: a viewer may be watching the file."""
    ok, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not ok:
        raise OSError(f"{path}: the picture of shape {picture.shape} could not be encoded")
    draft = path.with_suffix(".tmp")
    draft.write_bytes(data.tobytes())
    os.replace(draft, path)
