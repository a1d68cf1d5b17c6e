"""After a crash: everything intact comes back, nothing else does."""

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from configs.schema import RigConfig
from robot.processes import Child
from robot.recording import Episode, EpisodeMeta, EpisodeRequest, Label, Outcome, RecorderClient, RecordingError
from robot.recording.meta import DATA_NAME, EpisodeState, read_meta
from robot.recording.salvage import EpisodeBusyError, salvage_directory, salvage_episode
from robot.recording.synthetic import picture_number, step_at
from robot.ring import RingReader
from robot.runtime import ring_name

REQUEST = EpisodeRequest(task="cup", prompt="Put the cup on the plate")
KILLS = 20
FORKER = """
import os, sys
from robot.recording.__main__ import main
for _ in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os._exit(main(sys.argv[1:]))
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("dead", flush=True)
"""
"""Recorders without the interpreter's start, which is not what is tested, from a process without threads."""


def test_a_recorder_killed_at_any_moment_loses_at_most_a_second(runtime: Path, rig_file: Path, raw: Path) -> None:
    moments = random.Random(5)
    rings = Child("rings", module="robot.recording.synthetic", args=["--rig", str(rig_file), "--fps", "30"])
    arguments = ["--rig", str(rig_file), "--directory", str(raw), "--reserve-gib", "0"]
    forker = subprocess.Popen(
        [sys.executable, "-c", FORKER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert forker.stdin is not None
    assert forker.stdout is not None
    pid = None
    try:
        RingReader.wait(ring_name("small", "state"), timeout_s=30.0, with_sample=True).detach()
        for kill in range(KILLS):
            print("next", file=forker.stdin, flush=True)
            pid = int(forker.stdout.readline())
            client = RecorderClient("small", timeout_s=20.0)
            episode_id = client.start_episode(REQUEST)
            started_ns = time.monotonic_ns()
            # Mostly while things begin; now and then later than anything may be lost.
            end_ns = started_ns + round((1.6 if kill % 7 == 3 else moments.uniform(0.0, 0.5)) * 1e9)
            tick = 0
            while time.monotonic_ns() < end_ns:
                client.step(step_at(tick / 15, tick=tick, time_ns=time.monotonic_ns()))
                tick += 1
                time.sleep(0.02)
            os.kill(pid, signal.SIGKILL)
            killed_ns = time.monotonic_ns()
            assert forker.stdout.readline() == "dead\n"
            pid = None
            client.close()
            (meta,) = salvage_directory(raw)
            assert (meta.id, str(meta.outcome)) == (episode_id, "aborted:recorder"), kill
            episode = Episode(raw / episode_id)
            assert episode.damage == []
            for times in (episode.state["capture_ns"], episode.steps["capture_ns"]):
                newest_ns = int(times[-1]) if len(times) else started_ns
                assert killed_ns - max(newest_ns, started_ns) < 1_000_000_000, kill
            assert episode.steps["tick"].tolist() == list(range(len(episode.steps)))
            for index in range(len(episode.frame_times("wrist"))):
                number = int(episode.frame_times("wrist").device_seq[index])
                assert picture_number(episode.image("wrist", index)) == number % 30
    finally:
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        forker.stdin.close()
        forker.wait()
        forker.stdout.close()
        rings.stop()


def cut(path: Path, *, share: float) -> None:
    with path.open("rb+") as file:
        file.truncate(int(path.stat().st_size * share))


def as_if_crashed(folder: Path) -> None:
    content = json.loads((folder / "meta.json").read_text())
    content["state"] = "recording"
    (folder / "meta.json").write_text(json.dumps(content))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_a_cut_off_episode_is_closed_with_what_is_whole(
    episode_of: Callable[..., EpisodeMeta], raw: Path, share: float
) -> None:
    meta = episode_of(1.0)
    whole = Episode(raw / meta.id)
    state, frames = whole.state, len(whole.frame_times("wrist"))
    as_if_crashed(raw / meta.id)
    cut(raw / meta.id / DATA_NAME, share=share)
    (salvaged,) = salvage_directory(raw)
    assert (salvaged.state, str(salvaged.outcome)) == (EpisodeState.CLOSED, "aborted:recorder")
    assert salvaged.summary.salvaged
    assert salvaged.description == meta.description
    episode = Episode(raw / meta.id)
    assert episode.damage == []
    np.testing.assert_array_equal(episode.state, state[: len(episode.state)])
    assert len(episode.frame_times("wrist")) <= frames
    assert salvage_directory(raw) == []
    assert not list((raw / meta.id).glob("*damaged*"))


def test_damage_in_the_middle_costs_that_part_and_keeps_the_damaged_file(
    episode_of: Callable[..., EpisodeMeta], raw: Path, rewrite: Callable[..., Episode]
) -> None:
    meta = episode_of(1.0)
    rewrite(meta)  # one chunk a topic
    path = raw / meta.id / DATA_NAME
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    salvaged = salvage_episode(raw / meta.id)
    assert salvaged.outcome == Outcome(Label.SUCCESS), "an operator's label is kept"
    assert "checksum" in salvaged.summary.damage[0]
    assert (raw / meta.id / "episode.damaged.mcap").read_bytes() == content
    episode = Episode(raw / meta.id)
    assert len(episode.cameras) == 1
    assert len(episode.state) == 125


@pytest.mark.parametrize("content", [None, "", "{", '{"format": "nova-pi-episode", "version": 1}'])
def test_lost_meta_data_are_rebuilt_from_the_recording(
    episode_of: Callable[..., EpisodeMeta], raw: Path, content: str | None
) -> None:
    meta = episode_of(0.5)
    path = raw / meta.id / "meta.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    (salvaged,) = salvage_directory(raw)
    assert salvaged.description == meta.description
    assert str(salvaged.outcome) == "aborted:recorder"
    assert read_meta(raw / meta.id) == salvaged


def test_an_episode_that_is_being_written_is_left_alone(episode_of: Callable[..., EpisodeMeta], raw: Path) -> None:
    meta = episode_of(0.5)
    as_if_crashed(raw / meta.id)
    with (raw / meta.id / DATA_NAME).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert salvage_directory(raw) == []
        with pytest.raises(EpisodeBusyError, match="being recorded"):
            salvage_episode(raw / meta.id)
    assert len(salvage_directory(raw)) == 1


def test_what_is_no_episode_is_left_alone(raw: Path) -> None:
    raw.mkdir()
    (raw / "notes.txt").write_text("hello")
    (raw / "folder").mkdir()
    assert salvage_directory(raw) == []
    assert salvage_directory(raw / "absent") == []


def test_a_folder_that_cannot_be_written_is_one_clear_error(rig: RigConfig, tmp_path: Path) -> None:
    from robot.recording.synthetic import write_synthetic_episode

    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="can't record into"):
        write_synthetic_episode(tmp_path / "file" / "raw", rig=rig, seconds=0.1)
