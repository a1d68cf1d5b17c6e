"""An episode's film as one picture: ``python -m robot.rollout.strip FILM.mp4 STRIP.jpg``, frames at even distances in
reading order."""

import argparse
import sys
from pathlib import Path

import av
import cv2
import numpy as np

COLUMNS = 2
JPEG_QUALITY = 88


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 1 with a clear line when the film can't be read."""
    parser = argparse.ArgumentParser(prog="python -m robot.rollout.strip")
    parser.add_argument("film", type=Path, help="an episode's video.mp4")
    parser.add_argument("picture", type=Path, help="JPEG or PNG to write")
    parser.add_argument("--frames", type=int, default=6, help=f"how many, in {COLUMNS} columns")
    options = parser.parse_args(arguments)
    try:
        picture = strip(options.film, frames=options.frames)
    except (OSError, ValueError, av.error.FFmpegError) as error:
        print(f"robot.rollout.strip: {options.film}: {error}", file=sys.stderr)
        return 1
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    cv2.imwrite(str(options.picture), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)
    return 0


def strip(film: Path, *, frames: int) -> np.ndarray:
    """(rows * H, `COLUMNS` * W, 3) uint8 RGB: the first frame, the last, and those between at even distances; what is
    left of the last row is white. Raises ValueError when the film has no frames."""
    if frames < 1:
        raise ValueError(f"--frames: expected 1 or more, got {frames}")
    with av.open(str(film)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    if not pictures:
        raise ValueError("the film has no frames")
    chosen = [pictures[round(place)] for place in np.linspace(0, len(pictures) - 1, frames)]
    blank = np.full_like(chosen[0], 255)
    chosen += [blank] * (-len(chosen) % COLUMNS)
    rows = [np.hstack(chosen[start : start + COLUMNS]) for start in range(0, len(chosen), COLUMNS)]
    return np.vstack(rows)


if __name__ == "__main__":
    sys.exit(main())
