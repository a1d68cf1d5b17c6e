"""A dataset holds what was recorded, at the right rows, with exact statistics, whatever interrupts its making."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from configs.schema import RigConfig
from robot.recording import Episode, EpisodeMeta, EpisodeRequest, Label, Outcome
from robot.recording.dataset.errors import DatasetError
from robot.recording.dataset.export import ExportOptions, export
from robot.recording.dataset.import_episode import import_episode
from robot.recording.dataset.layout import ActionChoice, VideoCodec, video_file
from robot.recording.dataset.resample import resample
from robot.recording.dataset.statistics import PictureHistogram, column_statistics
from robot.recording.dataset.tables import column, read_table
from robot.recording.dataset.video import picture_times, read_video
from robot.recording.synthetic import gripper_at, joints_at, picture_number, write_synthetic_episode

Make = Callable[..., EpisodeMeta]
Rewrite = Callable[..., Episode]
DEFAULT = ExportOptions()
WRIST = "observation.images.wrist"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tmp_path / "set"


def rows_of(dataset: Path, episode: int = 0) -> dict[str, np.ndarray]:
    table = read_table(dataset / f"data/chunk-000/file-{episode:03d}.parquet")
    return {name: column(table, name) for name in table.column_names}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_row_has_the_picture_state_and_action_of_its_time(episode_of: Make, raw: Path, dataset: Path) -> None:
    meta = episode_of(2.0)
    export(raw, dataset, options=DEFAULT)
    rows, episode = rows_of(dataset), Episode(raw / meta.id)
    start_ns = meta.description.started_monotonic_ns
    seconds = (rows["observation.time_ns"] - start_ns) / 1e9
    np.testing.assert_allclose(np.diff(seconds), 1 / 15, atol=2e-9)
    np.testing.assert_allclose(rows["observation.state"][:, :6], [joints_at(t) for t in seconds], atol=2e-4)
    np.testing.assert_allclose(rows["action"][:, :6], [joints_at(t + 1 / 15) for t in seconds], atol=2e-4)
    np.testing.assert_allclose(rows["action"][:, 6], [gripper_at(t + 1 / 15) for t in seconds], atol=1e-6)
    for camera in ("exterior", "wrist"):
        path = video_file(dataset, f"observation.images.{camera}", 0)
        assert picture_times(path) == [Fraction(index, 15) for index in range(len(seconds))]
        times = episode.frame_times(camera)
        for index, image in enumerate(read_video(path)):
            recorded = episode.image(
                camera, int(np.argmin(np.abs(times.capture_ns - rows["observation.time_ns"][index])))
            )
            assert picture_number(image) == picture_number(recorded)
            assert np.abs(image.astype(int) - recorded).mean() < 8
            assert rows[f"observation.capture_ns.{camera}"][index] in times.capture_ns
        assert index + 1 == len(seconds) == 30


def test_indices_and_times_count_up_over_episodes(episode_of: Make, raw: Path, dataset: Path) -> None:
    episode_of(1.0, number=0)
    episode_of(2.0, number=1, request=EpisodeRequest(task="can", prompt="Put the coke can on the plate"))
    report = export(raw, dataset, options=DEFAULT)
    assert [(one.episode, one.rows) for one in report.exported] == [(0, 15), (1, 30)]
    second = rows_of(dataset, 1)
    assert second["index"].tolist() == list(range(15, 45))
    assert second["frame_index"].tolist() == list(range(30))
    assert set(second["episode_index"]) == {1}
    assert set(second["task_index"]) == {1}
    np.testing.assert_array_equal(second["timestamp"], (np.arange(30) / 15).astype(np.float32))
    info = json.loads((dataset / "meta/info.json").read_text())
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (2, 45, 2)
    assert (info["codebase_version"], info["fps"], info["splits"]) == ("v3.0", 15, {"train": "0:2"})


def test_statistics_are_exactly_those_of_all_rows_and_all_pixels(episode_of: Make, raw: Path, dataset: Path) -> None:
    metas = [episode_of(1.0, number=number) for number in range(2)]
    export(raw, dataset, options=DEFAULT)
    stats = json.loads((dataset / "meta/stats.json").read_text())
    together = [
        np.concatenate(parts)
        for parts in zip(
            *((rows_of(dataset, n)["action"], rows_of(dataset, n)["observation.state"]) for n in range(2)), strict=True
        )
    ]
    for name, values in zip(("action", "observation.state"), together, strict=True):
        values = values.astype(np.float64)
        np.testing.assert_array_equal(stats[name]["mean"], values.mean(axis=0))
        np.testing.assert_array_equal(stats[name]["std"], values.std(axis=0))
        np.testing.assert_array_equal(stats[name]["q01"], np.quantile(values, 0.01, axis=0))
        np.testing.assert_array_equal(stats[name]["max"], values.max(axis=0))
        assert stats[name]["count"] == [30]
    pixels = []
    for meta in metas:
        episode = Episode(raw / meta.id)
        chosen = resample(episode, action=ActionChoice.JOINTS).pictures["wrist"]
        pixels += [episode.image("wrist", int(index)) for index in chosen]
    values = np.stack(pixels).reshape(-1, 3) / 255.0
    for statistic, expected in {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        **{f"q{share:02d}": np.quantile(values, share / 100, axis=0) for share in (1, 10, 50, 90, 99)},
    }.items():
        found = np.array(stats[WRIST][statistic])
        assert found.shape == (3, 1, 1)
        np.testing.assert_allclose(found[:, 0, 0], expected, rtol=0, atol=1e-9)
    one = pq.read_table(dataset / "meta/episodes/chunk-000/file-001.parquet").to_pylist()[0]
    np.testing.assert_allclose(one["stats/action/mean"], rows_of(dataset, 1)["action"].astype(float).mean(axis=0))


@settings(deadline=None, max_examples=40)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_histogram_quantiles_are_those_of_numpy(image: np.ndarray) -> None:
    histogram = PictureHistogram()
    histogram.add(image)
    exact = column_statistics(image.reshape(-1, 3) / 255.0)
    for name, values in histogram.statistics().items():
        if name != "count":
            np.testing.assert_allclose(np.ravel(values), exact[name], rtol=0, atol=1e-12, err_msg=name)


def test_exporting_again_changes_no_byte_and_new_episodes_are_added(episode_of: Make, raw: Path, dataset: Path) -> None:
    first = episode_of(1.0, number=0)
    export(raw, dataset, options=DEFAULT)
    before = snapshot(dataset)
    report = export(raw, dataset, options=DEFAULT)
    assert (report.exported, report.already) == ((), (first.id,))
    assert snapshot(dataset) == before
    second = episode_of(1.0, number=1)
    report = export(raw, dataset, options=DEFAULT)
    assert [one.source_id for one in report.exported] == [second.id]
    after = snapshot(dataset)
    assert {name for name in before if before[name] != after[name]} <= {
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "README.md",
    }


def test_adding_in_two_goes_gives_the_same_dataset_as_in_one(episode_of: Make, raw: Path, tmp_path: Path) -> None:
    episode_of(1.0, number=0)
    export(raw, tmp_path / "two", options=DEFAULT)
    episode_of(1.5, number=1)
    export(raw, tmp_path / "two", options=DEFAULT)
    export(raw, tmp_path / "one", options=DEFAULT)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_an_export_that_died_halfway_goes_on(episode_of: Make, raw: Path, tmp_path: Path) -> None:
    first = episode_of(1.0, number=0)
    one = tmp_path / "one"
    export(raw, one, options=DEFAULT)
    assert [first.id] == [path.name for path in raw.iterdir()]
    episode_of(1.0, number=1)
    whole = tmp_path / "whole"
    shutil.copytree(one, whole)
    export(raw, whole, options=DEFAULT)
    expected = snapshot(whole)
    for name in (
        f"videos/{WRIST}/chunk-000/file-001.mp4",
        "data/chunk-000/file-001.parquet",
        "meta/episodes/chunk-000/file-001.parquet",
        "meta/stats.json",
    ):
        broken = tmp_path / name.replace("/", "-")
        shutil.copytree(one, broken)
        (broken / name).write_bytes(expected[name] if name == "meta/stats.json" else b"half written")
        export(raw, broken, options=DEFAULT)
        assert snapshot(broken) == expected, name


def test_a_dataset_of_another_rig_action_or_rate_is_refused(
    episode_of: Make, raw: Path, dataset: Path, rig: RigConfig, tmp_path: Path
) -> None:
    episode_of(0.5)
    export(raw, dataset, options=DEFAULT)
    other = tmp_path / "other"
    write_synthetic_episode(other, rig=rig.model_copy(update={"name": "lab2"}), seconds=0.5)
    before = snapshot(dataset)
    with pytest.raises(DatasetError, match="another rig: it has 'small', these episodes have 'lab2'"):
        export(other, dataset, options=DEFAULT)
    with pytest.raises(DatasetError, match="another action"):
        export(raw, dataset, options=ExportOptions(action=ActionChoice.TCP))
    assert snapshot(dataset) == before
    info = json.loads((dataset / "meta/info.json").read_text())
    (dataset / "meta/info.json").write_text(json.dumps(info | {"fps": 30}))
    with pytest.raises(DatasetError, match="another rate: it has 30, these episodes have 15"):
        export(raw, dataset, options=DEFAULT)


def test_a_folder_with_something_else_in_it_is_refused(episode_of: Make, raw: Path, tmp_path: Path) -> None:
    episode_of(0.5)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"")
    with pytest.raises(DatasetError, match="neither empty nor a LeRobot dataset"):
        export(raw, tmp_path / "photos", options=DEFAULT)


def test_episodes_of_different_rigs_do_not_mix(episode_of: Make, raw: Path, dataset: Path, rig: RigConfig) -> None:
    episode_of(0.5)
    write_synthetic_episode(raw, rig=rig.model_copy(update={"name": "lab2"}), seconds=0.5, number=1)
    with pytest.raises(DatasetError, match="a dataset holds one rig"):
        export(raw, dataset, options=DEFAULT)


def test_an_episode_with_a_hole_is_left_out_with_its_reason(
    episode_of: Make, raw: Path, dataset: Path, rewrite: Rewrite
) -> None:
    good = episode_of(1.0, number=0)
    holed = episode_of(2.0, number=1)
    rewrite(holed, pictures=lambda camera, index, data: None if 20 <= index < 40 else data)
    stopped = episode_of(2.0, number=2)
    rewrite(stopped, records={"/steps": lambda steps: np.concatenate([steps[:10], steps[18:]])})
    report = export(raw, dataset, options=DEFAULT)
    assert [one.source_id for one in report.exported] == [good.id]
    assert "the nearest picture is" in report.unfit[holed.id]
    assert "nothing was commanded" in report.unfit[stopped.id]


def test_only_chosen_labels_go_in_and_trims_are_kept(episode_of: Make, raw: Path, dataset: Path) -> None:
    from robot.recording.tool import main

    meta = episode_of(2.0, number=0)
    failed = episode_of(1.0, number=1, outcome=Outcome(Label.FAILURE))
    assert main(["trim", str(raw), meta.id, "--start", "0.5", "--end", "1.5"]) == 0
    report = export(raw, dataset, options=DEFAULT)
    assert report.skipped == (failed.id,)
    assert 14 <= report.total_frames <= 15
    start_ns = meta.description.started_monotonic_ns
    assert rows_of(dataset)["observation.time_ns"][0] >= start_ns + 500_000_000


def jitter(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """States lost and late at random, as on a busy machine."""

    def apply(records: np.ndarray) -> np.ndarray:
        return records[np.sort(rng.permutation(len(records))[: int(0.8 * len(records))])]

    return apply


def test_rows_stay_exact_when_states_come_irregularly(episode_of: Make, rewrite: Rewrite) -> None:
    meta = episode_of(2.0)
    episode = rewrite(meta, records={"/state": jitter(np.random.default_rng(1))})
    rows = resample(episode, action=ActionChoice.JOINTS)
    seconds = (rows.time_ns - meta.description.started_monotonic_ns) / 1e9
    np.testing.assert_allclose(rows.state[:, :6], [joints_at(t) for t in seconds], atol=2e-3)
    assert np.all(np.abs(np.diff(rows.time_ns) - 1e9 / 15) <= 1)


@pytest.mark.parametrize("choice", list(ActionChoice))
def test_each_choice_of_action_is_what_it_says(episode_of: Make, raw: Path, choice: ActionChoice) -> None:
    from robot.motion.envelope import TOOL_POINT_M
    from robot.motion.kinematics import flange_pose

    meta = episode_of(1.0)
    rows = resample(Episode(raw / meta.id), action=choice)
    seconds = (rows.time_ns - meta.description.started_monotonic_ns) / 1e9
    later = np.array([joints_at(t + 1 / 15) for t in seconds])
    match choice:
        case ActionChoice.JOINT_DELTA:
            expected = later - np.array([joints_at(t) for t in seconds])
        case ActionChoice.TCP:
            poses = flange_pose(later)
            expected = poses[:, :3, :3] @ np.array(TOOL_POINT_M) + poses[:, :3, 3]
            np.testing.assert_allclose(np.linalg.norm(rows.action[:, 3:7], axis=1), 1.0, atol=1e-6)
        case _:
            expected = later
    # The last rows of the measured action are held: nothing was measured after the end.
    known = slice(0, -1)
    np.testing.assert_allclose(rows.action[known, : expected.shape[1]], expected[known], atol=1e-3)


def test_an_episode_goes_out_and_comes_back(episode_of: Make, raw: Path, dataset: Path, tmp_path: Path) -> None:
    episode_of(1.0, number=0)
    second = episode_of(1.5, number=1)
    export(raw, dataset, options=DEFAULT)
    meta = import_episode(dataset, episode=1, directory=tmp_path / "back")
    back, rows = Episode(tmp_path / "back" / meta.id), rows_of(dataset, 1)
    assert back.damage == []
    assert str(meta.outcome) == "unconfirmed"
    assert meta.description.request.prompt == second.description.request.prompt
    assert meta.description.rig == second.description.rig
    np.testing.assert_allclose(back.state["joints_rad"], rows["observation.state"][:, :6])
    np.testing.assert_allclose(back.steps["sent_joints_rad"], rows["action"][:, :6])
    np.testing.assert_array_equal(back.frame_times("wrist").capture_ns, rows["observation.capture_ns.wrist"])
    assert picture_number(back.image("wrist", 5)) == picture_number(list(read_video(video_file(dataset, WRIST, 1)))[5])
    # And out again: the same rows.
    assert resample(back, action=ActionChoice.JOINTS).action.shape == rows["action"].shape
    with pytest.raises(DatasetError, match="has no episode 7"):
        import_episode(dataset, episode=7, directory=tmp_path / "back")


def test_av1_is_written_and_read(episode_of: Make, raw: Path, dataset: Path) -> None:
    episode_of(0.5)
    export(raw, dataset, options=ExportOptions(codec=VideoCodec.AV1))
    assert [picture_number(image) for image in read_video(video_file(dataset, WRIST, 0))] == list(range(0, 15, 2))


def test_the_card_tells_rig_tasks_and_counts(episode_of: Make, raw: Path, dataset: Path) -> None:
    episode_of(1.0, request=EpisodeRequest(task="a|b", prompt="Put the a|b down"))
    export(raw, dataset, options=replace(DEFAULT, license="cc-by-4.0"))
    card = (dataset / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\n")
    assert "rig `small`" in card
    assert "| Put the a b down | 1 |" in card
    assert "15 frames" in card


def test_two_exports_at_once_do_not_mix(episode_of: Make, raw: Path, dataset: Path) -> None:
    import fcntl

    episode_of(0.5)
    dataset.mkdir()
    with (dataset / ".export.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DatasetError, match="being written by another export"):
            export(raw, dataset, options=DEFAULT)
