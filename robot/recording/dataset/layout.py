"""Names, paths and features of a LeRobot v3.0 dataset, one data, episode and video file per episode.

Source: the format as huggingface/lerobot 0.4 to 0.6 write and read it (codebase_version "v3.0").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

FPS = 15
CODEBASE_VERSION = "v3.0"
ROBOT_TYPE = "dobot_nova5_ag95"
CHUNK_SIZE = 1000
"""Files a folder; here also episodes a folder."""
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
INFO_PATH, STATS_PATH, TASKS_PATH = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
NOVA_PATH = "meta/nova.json"
"""Ours; LeRobot drops keys of info.json that it does not know."""
STATE_KEY, ACTION_KEY = "observation.state", "action"
IMAGE_PREFIX, CAPTURE_PREFIX = "observation.images.", "observation.capture_ns."
TIME_KEY = "observation.time_ns"
SOURCE_COLUMN = "nova/source_id"
HISTOGRAM_PREFIX = "nova/histogram/"
STATISTICS = ("min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99")

JOINT_NAMES = tuple(f"joint_{number}" for number in range(1, 7))
STATE_NAMES = (*JOINT_NAMES, "gripper")
_TCP_NAMES = ("x", "y", "z", "qw", "qx", "qy", "qz", "gripper")


class ActionChoice(Enum):
    """What the column ``action`` holds: of row k, the command to be reached one period after the row's time."""

    JOINTS = "joints"
    """Absolute joints and gripper as sent to robotd."""
    REQUESTED_JOINTS = "requested-joints"
    """Absolute joints and gripper as the operator or the policy asked for, before the guard."""
    MEASURED_JOINTS = "measured-joints"
    """Where the joints and the gripper really were one period later."""
    JOINT_DELTA = "joint-delta"
    """Sent joints minus the row's state; the gripper stays absolute."""
    TCP = "tcp"
    """Tool point (m) and orientation (quaternion wxyz) in the base frame as sent, and the gripper."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the action's elements."""
        match self:
            case ActionChoice.TCP:
                return _TCP_NAMES
            case ActionChoice.JOINT_DELTA:
                return (*(f"{name}_delta" for name in JOINT_NAMES), "gripper")
            case _:
                return STATE_NAMES


class VideoCodec(Enum):
    """How pictures are stored."""

    H264 = "h264"
    AV1 = "av1"


@dataclass(frozen=True)
class PictureSize:
    """Height and width in pixels."""

    height: int
    width: int


def chunk_and_file(episode: int) -> dict[str, int]:
    """Where the files of episode number ``episode`` are: ``chunk_index`` and ``file_index``."""
    chunk_index, file_index = divmod(episode, CHUNK_SIZE)
    return {"chunk_index": chunk_index, "file_index": file_index}


def data_file(root: Path, episode: int) -> Path:
    """The rows of an episode."""
    return root / DATA_PATH.format(**chunk_and_file(episode))


def episode_file(root: Path, episode: int) -> Path:
    """What is known of an episode."""
    return root / EPISODES_PATH.format(**chunk_and_file(episode))


def video_file(root: Path, key: str, episode: int) -> Path:
    """The pictures of one camera of an episode."""
    return root / VIDEO_PATH.format(video_key=key, **chunk_and_file(episode))


def vector_features(action: ActionChoice, *, cameras: Mapping[str, PictureSize]) -> dict[str, dict[str, Any]]:
    """Features that are columns of the data files, in order, without LeRobot's own five."""
    features: dict[str, dict[str, Any]] = {
        STATE_KEY: {"dtype": "float32", "shape": [len(STATE_NAMES)], "names": list(STATE_NAMES)},
        ACTION_KEY: {"dtype": "float32", "shape": [len(action.names)], "names": list(action.names)},
        TIME_KEY: {"dtype": "int64", "shape": [1], "names": None},
    }
    for camera in cameras:
        features[f"{CAPTURE_PREFIX}{camera}"] = {"dtype": "int64", "shape": [1], "names": None}
    return features


def default_features() -> dict[str, dict[str, Any]]:
    """The five columns that every LeRobot dataset has."""
    kinds = {
        "timestamp": "float32",
        "frame_index": "int64",
        "episode_index": "int64",
        "index": "int64",
        "task_index": "int64",
    }
    return {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in kinds.items()}


def video_feature(size: PictureSize, *, codec: VideoCodec) -> dict[str, Any]:
    """The feature of a camera."""
    return {
        "dtype": "video",
        "shape": [size.height, size.width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": size.height,
            "video.width": size.width,
            "video.codec": codec.value,
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": FPS,
            "video.channels": 3,
            "has_audio": False,
        },
    }


def all_features(
    action: ActionChoice, *, cameras: Mapping[str, PictureSize], codec: VideoCodec
) -> dict[str, dict[str, Any]]:
    """``features`` of info.json."""
    videos = {f"{IMAGE_PREFIX}{camera}": video_feature(size, codec=codec) for camera, size in cameras.items()}
    return {**vector_features(action, cameras=cameras), **videos, **default_features()}
