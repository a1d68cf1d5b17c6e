"""Recording: crash-safe raw episodes (MCAP), salvage, checks, and export to LeRobot v3.

`RecorderClient` is what a control loop needs, `Episode` what everybody who reads needs. Importing this stays light:
names are looked up on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robot.recording.client import RecorderClient, RecorderStatus, RecorderUnavailableError, start_recorder
    from robot.recording.episode import Episode, EpisodeError, list_episodes
    from robot.recording.episode_writer import RecordingError
    from robot.recording.meta import EpisodeMeta, EpisodeRequest, Label, Outcome
    from robot.recording.records import STEP_DTYPE, ActionStage, make_step

_HOMES = {
    "RecorderClient": "client",
    "RecorderStatus": "client",
    "RecorderUnavailableError": "client",
    "start_recorder": "client",
    "Episode": "episode",
    "EpisodeError": "episode",
    "list_episodes": "episode",
    "RecordingError": "episode_writer",
    "EpisodeMeta": "meta",
    "EpisodeRequest": "meta",
    "Label": "meta",
    "Outcome": "meta",
    "STEP_DTYPE": "records",
    "ActionStage": "records",
    "make_step": "records",
}

__all__ = [
    "STEP_DTYPE",
    "ActionStage",
    "Episode",
    "EpisodeError",
    "EpisodeMeta",
    "EpisodeRequest",
    "Label",
    "Outcome",
    "RecorderClient",
    "RecorderStatus",
    "RecorderUnavailableError",
    "RecordingError",
    "list_episodes",
    "make_step",
    "start_recorder",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
