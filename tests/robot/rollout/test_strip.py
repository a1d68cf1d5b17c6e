from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from robot.rollout.strip import main, strip


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Ten frames that grow lighter."""
    path = tmp_path / "video.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=15)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for level in range(10):
            picture = np.full((32, 64, 3), 25 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_frames_are_in_reading_order_from_the_first_to_the_last(film: Path) -> None:
    picture = strip(film, frames=4)
    assert picture.shape == (64, 128, 3)
    levels = [picture[row, column].mean() for row in (16, 48) for column in (32, 96)]
    assert levels == pytest.approx([0.0, 75.0, 150.0, 225.0], abs=8.0)


def test_what_is_left_of_the_last_row_is_white(film: Path) -> None:
    assert strip(film, frames=3)[48, 96].tolist() == [255, 255, 255]


def test_the_command_writes_a_picture_and_refuses_what_is_no_film(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "docs" / "strip.jpg"
    assert main([str(film), str(target)]) == 0
    assert cv2.imread(str(target)).shape == (96, 128, 3)
    assert main([str(tmp_path / "none.mp4"), str(target)]) == 1
    assert "none.mp4" in capsys.readouterr().err
