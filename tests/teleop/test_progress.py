"""Counting what a folder of episodes holds: how a session resumes, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest

from robot.recording import Label, Outcome
from robot.recording.meta import Description, EpisodeMeta, EpisodeRequest, EpisodeState
from teleop.progress import CollectionError, check_disk, task_progress


def episode(folder: Path, number: int, *, label: Label, task: str = "cup", rig: str = "twin") -> EpisodeMeta:
    description = Description(
        id=f"episode-{number}",
        request=EpisodeRequest(task=task, prompt="Put it there"),
        rig={"name": rig},
        rig_digest="",
        cameras={},
        software="",
        started_wall_ns=number,
        started_monotonic_ns=number,
    )
    meta = EpisodeMeta(description, EpisodeState.CLOSED, Outcome(label))
    (folder / meta.id).mkdir()
    meta.write(folder / meta.id)
    return meta


def test_confirmed_and_unconfirmed_episodes_of_the_task_count_and_all_attempts_use_up_a_scene(tmp_path: Path) -> None:
    for number, label in enumerate([*Label, Label.SUCCESS]):
        episode(tmp_path, number, label=label)
    episode(tmp_path, 20, label=Label.SUCCESS, task="can")
    open_one = episode(tmp_path, 21, label=Label.UNCONFIRMED)
    replace(open_one, state=EpisodeState.RECORDING).write(tmp_path / open_one.id)
    progress = task_progress(tmp_path, task="cup", rig_name="twin", target=4)
    assert (progress.done, progress.attempts, progress.is_complete) == (3, 6, False)
    assert progress.text() == "3 of 4 (1 to confirm, 1 failed, 1 discarded, 1 aborted)"


def test_a_folder_of_another_rig_a_file_and_a_full_disk_are_refused(tmp_path: Path) -> None:
    episode(tmp_path, 1, label=Label.SUCCESS, rig="lab")
    with pytest.raises(CollectionError, match="expected episodes of rig 'twin', found some of lab"):
        task_progress(tmp_path, task="cup", rig_name="twin", target=1)
    (tmp_path / "file").touch()
    with pytest.raises(CollectionError, match="expected a folder"):
        task_progress(tmp_path / "file", task="cup", rig_name="twin", target=1)
    with pytest.raises(CollectionError, match="GiB free"):
        check_disk(tmp_path / "new", needed_bytes=1 << 60)
    assert task_progress(tmp_path / "new", task="cup", rig_name="twin", target=1).attempts == 0
