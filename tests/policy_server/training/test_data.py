import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from policy_server.contract import GRIPPER_POSITION_KEY, JOINT_POSITION_KEY, PROMPT_KEY
from policy_server.pi0.checkpoint import describe, parse_spec
from policy_server.training.data.idle import active_frames
from policy_server.training.data.lerobot import DatasetError, LeRobotTables
from policy_server.training.data.samples import (
    MotionInput,
    SampleKey,
    Schedule,
    SourceReader,
    TrainingSamples,
    assemble,
    batches,
)
from policy_server.training.data.subsets import choose_subset, load_subset, split_validation
from policy_server.training.data.video import VideoPool
from policy_server.training.recipe import Recipe
from policy_server.training.setup import prepare

from .conftest import HORIZON, SIZE, TASKS, picture, write_dataset

EXTERIOR = "observation/exterior_image_1_left"


def reader_of(recipe: Recipe) -> SourceReader:
    return SourceReader(recipe, recipe.data.sources[0], image_size=SIZE)


def without_holdout(recipe: Recipe) -> Recipe:
    return recipe.override(["data.validation_fraction=0"])


def test_a_sample_is_what_was_recorded(recipe: Recipe) -> None:
    reader = reader_of(recipe)
    episode = reader.tables.episodes[2]
    sample = reader.sample(episode.first_row + 4, draw=0)
    table = pq.read_table(Path(recipe.data.sources[0].path) / "data/chunk-000/file-000.parquet")
    state = np.array(table["observation.state"].to_pylist())[episode.first_row + 4]
    actions = np.array(table["action"].to_pylist())[episode.first_row + 4 : episode.first_row + 4 + HORIZON]
    assert np.allclose(np.append(sample[JOINT_POSITION_KEY], sample[GRIPPER_POSITION_KEY]), state)
    assert np.allclose(sample["actions"], actions)
    assert sample["action_valid"].all()
    assert sample[PROMPT_KEY] == TASKS[0]
    assert np.abs(sample[EXTERIOR].astype(int) - picture(2, 4)).mean() < 6
    first, second = sample["motion"]
    assert np.array_equal(first, sample[EXTERIOR])
    assert np.abs(second.astype(int) - picture(2, 4 + HORIZON)).mean() < 6


def test_at_the_end_actions_are_repeated_and_masked_and_the_pair_is_clamped_to_the_last_frame(recipe: Recipe) -> None:
    reader = reader_of(recipe)
    episode = reader.tables.episodes[1]
    last = episode.length - 1
    sample = reader.sample(episode.first_row + last - 1, draw=0)
    assert sample["action_valid"].tolist() == [True, True, False, False, False]
    assert np.array_equal(sample["actions"][1], sample["actions"][4])
    assert np.abs(sample["motion"][1].astype(int) - picture(1, last)).mean() < 6


def test_every_frame_comes_back_in_any_order(dataset: Path) -> None:
    """Each frame differs from its neighbours, so a frame that is off by one would be seen."""
    tables = LeRobotTables(dataset)
    pool = VideoPool(capacity=1)
    order = np.random.default_rng(0).permutation(tables.frame_count)
    for row in order:
        episode = max((e for e in tables.episodes if e.first_row <= row), key=lambda e: e.first_row)
        span = episode.videos["observation.images.exterior"]
        frame = int(row) - episode.first_row
        (found,) = pool.frames(span.path, [span.start_s + frame / tables.fps])
        errors = [np.abs(found.astype(int) - picture(episode.index, f)).mean() for f in range(episode.length)]
        assert int(np.argmin(errors)) == frame


def test_pictures_stored_upside_down_are_turned_before_anything_else(recipe: Recipe) -> None:
    upright, turned = reader_of(recipe), reader_of(recipe.override(["data.sources.0.half_turn=true"]))
    first, second = upright.sample(3, draw=0), turned.sample(3, draw=0)
    assert np.array_equal(first[EXTERIOR][::-1, ::-1], second[EXTERIOR])
    assert np.array_equal(first["motion"][:, ::-1, ::-1], second["motion"])


def test_the_frame_cache_holds_the_same_pictures_and_is_used_again(recipe: Recipe, tmp_path: Path) -> None:
    plain, cached = reader_of(recipe), reader_of(recipe)
    cached.fill_cache(tmp_path)
    assert all(
        np.array_equal(plain.sample(r, draw=0)["motion"], cached.sample(r, draw=0)["motion"]) for r in (0, 17, 30)
    )
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    reader_of(recipe).fill_cache(tmp_path)
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_a_step_has_the_same_samples_however_it_is_reached(recipe: Recipe) -> None:
    readers = [reader_of(recipe)]
    schedule = Schedule(readers, seed=1, batch=8)
    assert schedule.keys(5) == Schedule(readers, seed=1, batch=8).keys(5)
    assert schedule.keys(5) != schedule.keys(6)
    halves = [replace(schedule, rank=rank, world=2).keys(5) for rank in (0, 1)]
    assert halves[0] + halves[1] == schedule.keys(5)
    assert all(key.row in set(readers[0].training_rows) for key in schedule.keys(5))


def test_worker_processes_make_the_same_batches(recipe: Recipe) -> None:
    setup = prepare_quietly(recipe)
    samples = TrainingSamples(setup.readers, setup.spec.transforms(setup.tokenizer))
    schedule = Schedule(setup.readers, seed=0, batch=4)
    inline, worked = (
        list(batches(samples, schedule, first_step=3, last_step=5, workers=workers)) for workers in (0, 1)
    )
    for first, second in zip(inline, worked, strict=True):
        assert torch.equal(first.observation.images, second.observation.images)
        assert torch.equal(first.actions, second.actions)
        assert first.motion is not None
        assert second.motion is not None
        assert torch.equal(first.motion, second.motion)


def prepare_quietly(recipe: Recipe):  # type: ignore[no-untyped-def]
    from rich.console import Console

    return prepare(recipe, device=torch.device("cpu"), console=Console(quiet=True))


def test_sources_are_drawn_by_weight(recipe: Recipe, dataset: Path) -> None:
    mixed = recipe.model_copy(
        update={
            "data": recipe.data.model_copy(
                update={"sources": tuple(recipe.data.sources[0].model_copy(update={"weight": w}) for w in (3.0, 1.0))}
            )
        }
    )
    readers = [SourceReader(mixed, source, image_size=SIZE) for source in mixed.data.sources]
    keys = Schedule(readers, seed=0, batch=4000).keys(0)
    assert np.mean([key.source == 0 for key in keys]) == pytest.approx(0.75, abs=0.03)


def test_held_out_episodes_are_never_trained_on(recipe: Recipe) -> None:
    reader = reader_of(recipe)
    assert {e.index for e in reader.training} | {e.index for e in reader.validation} == {0, 1, 2, 3}
    assert not {e.index for e in reader.training} & {e.index for e in reader.validation}
    assert not set(reader.training_rows) & set(reader.validation_rows)


def test_subsets_are_nested_stratified_and_written_down(dataset: Path, tmp_path: Path) -> None:
    big = LeRobotTables(write_dataset(tmp_path / "big", lengths=(3,) * 16, cameras=("observation.images.exterior",)))
    subsets = [choose_subset(big.episodes, fraction=f, seed=3) for f in (0.25, 0.5, 0.75, 1.0)]
    for small, large in pairwise(subsets):
        assert set(small.episodes) < set(large.episodes)
    for subset, each in zip(subsets, (2, 4, 6, 8), strict=True):
        tasks = [big.episodes[index].tasks[0] for index in subset.episodes]
        assert [tasks.count(task) for task in TASKS] == [each, each]
    assert choose_subset(big.episodes, fraction=0.5, seed=3) == subsets[1]
    assert choose_subset(big.episodes, fraction=0.5, seed=4) != subsets[1]
    subsets[0].save(tmp_path / "quarter.json")
    assert [e.index for e in load_subset(tmp_path / "quarter.json", big.episodes)] == list(subsets[0].episodes)
    with pytest.raises(DatasetError, match="made for a data set of 16 episodes"):
        load_subset(tmp_path / "quarter.json", LeRobotTables(dataset).episodes)


def test_without_a_validation_fraction_nothing_is_held_out(dataset: Path) -> None:
    training, held = split_validation(LeRobotTables(dataset).episodes, fraction=0.0, seed=0)
    assert (len(training), held) == (4, [])


def test_episodes_of_one_scene_are_held_out_together_or_not_at_all(dataset: Path) -> None:
    episodes = [
        replace(LeRobotTables(dataset).episodes[0], index=index, tasks=("cup",), group=f"scene {index // 3}")
        for index in range(30)
    ]
    training, held = split_validation(episodes, fraction=0.1, seed=0)
    assert len(held) >= 3
    assert not {episode.group for episode in training} & {episode.group for episode in held}
    assert len(training) + len(held) == 30


def test_idle_stretches_are_left_out_and_so_are_chunks_that_would_run_into_them() -> None:
    moving = np.cumsum(np.full(40, 0.01))
    actions = np.concatenate([moving, np.full(20, moving[-1]), moving[-1] + moving, [9, 9, 9]])[:, None]
    keep = active_frames(actions)
    assert keep[:29].all()
    assert not keep[31:60].any()
    assert keep[62:85].all()
    assert not active_frames(np.zeros((30, 2))).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.fps=10"], "recorded at 15 Hz, the recipe's contract is 10 Hz"),
        (
            [f"data.sources.0.cameras={{{EXTERIOR}: [observation.images.top]}}"],
            r"no feature 'observation.images.top'.*it has: observation.images.exterior, observation.images.wrist",
        ),
        (["data.sources.0.state=[observation.pose]"], "no feature 'observation.pose'"),
        (["data.sources.0.path=/nowhere"], "no such file; give the folder of a LeRobot v3 data set"),
        (["motion.estimator=sim"], "no 'flow' folder"),
    ],
)
def test_a_data_set_without_what_is_asked_for_is_refused_with_what_to_change(
    recipe: Recipe, changes: list[str], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        reader_of(recipe.override(changes))


def test_nan_is_refused_with_its_row(recipe: Recipe, tmp_path: Path) -> None:
    def spoil(action: np.ndarray) -> None:
        action[20, 2] = np.nan

    path = write_dataset(tmp_path / "nan", corrupt=spoil)
    with pytest.raises(DatasetError, match="1 rows hold NaN or infinity, the first is row 20"):
        reader_of(recipe.override([f"data.sources.0.path={path}"]))


def test_a_missing_video_and_a_video_cut_short_are_refused_by_name(
    recipe: Recipe, dataset: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    changed = without_holdout(recipe.override([f"data.sources.0.path={copy}"]))
    video = copy / "videos" / "observation.images.exterior" / "chunk-000" / "file-000.mp4"
    video.rename(video.with_suffix(".away"))
    with pytest.raises(DatasetError, match=r"file-000\.mp4: the video is missing"):
        reader_of(changed).sample(0, draw=0)
    video.write_bytes(b"not a video")
    with pytest.raises(DatasetError, match=r"file-000\.mp4: no video that can be read"):
        reader_of(changed).sample(0, draw=0)
    shutil.copy(copy / "videos" / "observation.images.exterior" / "chunk-000" / "file-001.mp4", video)
    info = json.loads((copy / "meta" / "info.json").read_text())
    assert info["fps"] == 15
    long = write_dataset(tmp_path / "long", lengths=(60, 5, 5, 5))
    shutil.copy(video, long / "videos" / "observation.images.exterior" / "chunk-000" / "file-000.mp4")
    with pytest.raises(DatasetError, match=r"expected a picture at 3\.\d+ s, but the video has"):
        reader_of(without_holdout(recipe.override([f"data.sources.0.path={long}"]))).sample(50, draw=0)


def test_an_episode_without_a_task_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "silent", tasks=("put the cup on the plate", " "))
    with pytest.raises(DatasetError, match="2 episodes have no task in words, the first is 1"):
        reader_of(recipe.override([f"data.sources.0.path={path}"]))


def test_another_version_of_the_format_is_refused(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "old")
    info = tmp_path / "old" / "meta" / "info.json"
    info.write_text(info.read_text().replace("v3.0", "v2.1"))
    with pytest.raises(DatasetError, match=r"codebase_version is v2\.1, expected v3\.0"):
        LeRobotTables(tmp_path / "old")


def test_a_shuffled_target_comes_from_another_episode_at_the_same_phase(recipe: Recipe) -> None:
    plain, shuffled = reader_of(recipe), reader_of(recipe.override(["motion.target=shuffled"]))
    row = int(plain.training_rows[3])
    mine, other = plain.sample(row, draw=0), shuffled.sample(row, draw=0)
    assert np.array_equal(mine[EXTERIOR], other[EXTERIOR])
    assert not np.array_equal(mine["motion"], other["motion"])


def test_a_source_without_motion_is_mixed_with_one_that_has_it(recipe: Recipe) -> None:
    twice = recipe.model_dump(mode="json")
    (source,) = twice["data"]["sources"]
    twice["data"]["sources"] = [source, source | {"motion": False}]
    setup = prepare_quietly(Recipe.model_validate(twice))
    samples = TrainingSamples(setup.readers, setup.spec.transforms(setup.tokenizer))
    keys = [SampleKey(source=source, row=int(setup.readers[0].training_rows[3]), draw=0) for source in (1, 0)]
    batch = assemble([samples[key] for key in keys])
    assert batch.motion is not None
    assert batch.motion_input is MotionInput.PAIR
    assert batch.motion_valid.tolist() == [False, True]
    assert not batch.motion[0].any()
    assert batch.motion[1].any()
    assert torch.equal(batch.actions[0], batch.actions[1])
    assert assemble([samples[keys[0]]]).motion_input is MotionInput.NONE


def test_a_policy_says_what_it_was_trained_on(recipe: Recipe) -> None:
    spec = prepare_quietly(recipe).spec
    assert spec.prompts == tuple(sorted(TASKS))
    again = parse_spec(describe(spec))
    assert (again.prompts, again.state_low, again.state_high) == (spec.prompts, spec.state_low, spec.state_high)
    states = reader_of(recipe).windows().state
    assert np.all(np.array(spec.state_low) >= states.min(axis=0))
    assert np.all(np.array(spec.state_high) <= states.max(axis=0))
    assert np.all(np.array(spec.state_low) < np.array(spec.state_high))


def test_frames_before_the_gripper_closes_are_drawn_more_often(recipe: Recipe) -> None:
    plain = reader_of(recipe)
    assert plain.drawn_rows is plain.training_rows
    focused = reader_of(recipe.override(["data.focus={frames: 4, times: 3}"]))
    assert np.array_equal(focused.training_rows, plain.training_rows)
    drawn = dict(zip(*np.unique(focused.drawn_rows, return_counts=True), strict=True))
    assert drawn.keys() == set(plain.training_rows)
    actions = np.concatenate([focused.tables.numbers(["action"])])[:, -1]
    for episode in focused.training:
        closed = actions[episode.first_row : episode.first_row + episode.length] > 0.5
        for frame in range(episode.length):
            ahead = closed[frame + 1 : frame + 5]
            soon = not closed[frame] and ahead.any()
            assert drawn[episode.first_row + frame] == (3 if soon else 1)
    assert 3 in drawn.values()


def test_a_batch_knows_what_kind_of_motion_it_brings(recipe: Recipe) -> None:
    for target, kind in (
        ("flow", MotionInput.PAIR),
        ("future_image", MotionInput.FUTURE),
        ("static", MotionInput.NONE),
    ):
        setup = prepare_quietly(recipe.override([f"motion.target={target}"]))
        samples = TrainingSamples(setup.readers, setup.spec.transforms(setup.tokenizer))
        batch = assemble([samples[key] for key in Schedule(setup.readers, seed=0, batch=2).keys(0)])
        assert batch.motion_input is kind
