"""Scripted demonstrations: made by real workers, into a data set that training reads."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from configs.schema import ConfigError, load_rig
from policy_server.replies import Reply
from policy_server.training.data.arrays import ArrayManifest, ArrayStore
from policy_server.training.data.lerobot import DatasetError, LeRobotTables
from policy_server.training.precompute_command import PrecomputeOptions, run_precompute
from robot.evaluation.virtual import VirtualPolicy, VirtualSettings
from robot.recording.dataset.dataset import Dataset
from robot.recording.dataset.layout import PictureSize
from robot.rollout.chunks import ExecutionMode
from robot.rollout.session import RolloutPlan, scheduler_config
from robot.twin.env import TwinEnv
from robot.twin.layout import draw_layout
from robot.twin.props import Prop
from robot.twin.sights import SCENES_PATH, TwinSights
from robot.twin.sim import TwinSim
from teleop.demonstration_episode import demonstrate
from teleop.demonstration_plan import MAX_YAW_RAD, DemonstrationPlan, StartKind, draw_plan
from teleop.demonstration_worker import save
from teleop.demonstrations import MANIFEST_NAME, Arguments, Made, commit, dataset_spec, main, read_manifest, run

PLAN = RolloutPlan(rig="twin", tasks=(), episodes=1, server="", mode=ExecutionMode.ASYNC, output=Path())


def make(folder: Path, *, episodes: int, rig: str = "twin") -> list[Made]:
    options = Arguments(output=folder, episodes=episodes, workers=1, height=36, tasks=("can", "tape"), rig=rig)
    return run(options, stop=threading.Event(), console=Console(quiet=True))


def test_a_plan_is_a_function_of_its_seed() -> None:
    layout = draw_layout(np.random.default_rng(1))
    one, same, other = (draw_plan(seed, prop=Prop.CUP, layout=layout) for seed in (4, 4, 5))
    assert repr(one) == repr(same)
    assert repr(one) != repr(other)


def test_plans_begin_at_home_above_and_low_and_many_are_disturbed() -> None:
    layout = draw_layout(np.random.default_rng(1))
    plans = [draw_plan(seed, prop=Prop.CUP, layout=layout) for seed in range(120)]
    kinds = [plan.start_kind for plan in plans]
    assert {kind: kinds.count(kind) for kind in StartKind}.keys() == set(StartKind)
    assert min(kinds.count(kind) for kind in StartKind) > 15
    assert 30 < sum(bool(plan.kicks) for plan in plans) < 80
    assert all(plan.teacher.max_yaw_rad == MAX_YAW_RAD for plan in plans)


def test_no_start_touches_an_object() -> None:
    sim = TwinSim()
    for seed in range(25):
        layout = sim.reset(seed)
        plan = draw_plan(seed, prop=Prop.CAN, layout=layout)
        sim.reset(seed, start=plan.start)
        sim.step(5)
        assert not sim.contacts.touched, f"seed {seed} starts in contact: {plan.start_kind}"


def test_nothing_is_recorded_while_the_arm_is_disturbed() -> None:
    with TwinEnv(None) as env:
        seed = next(s for s in range(50) if _kicks(env, s) == 1)
        plan = draw_plan(seed, prop=Prop.TAPE, layout=env.sim.reset(seed))
        found = demonstrate(env, seed, prop=Prop.TAPE, height=18, width=32)
    kick = plan.kicks[0]
    recorded = {tick for part in found.parts for tick in part.ticks}
    assert not recorded & set(range(kick.first, kick.first + kick.ticks))
    assert len(found.parts) == 2
    assert all(np.all(np.diff(part.ticks) == 1) for part in found.parts)


class Wanderer:
    """A policy that slowly turns the arm's base and shuts the jaws: nothing that anybody should learn."""

    def infer(self, observation: dict[str, Any], *, observation_time_ns: int, **leftover: Any) -> Reply:
        del leftover
        joints = observation["observation/joint_position"]
        turned = joints + np.outer(np.arange(1, 16) * 0.01, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
        return Reply(np.column_stack([turned, np.ones(15)]), 0, observation_time_ns, 0, 0, 1.0, 1.0, None)


def test_a_correction_has_one_of_the_latencies_asked_for_and_an_own_demonstration_none() -> None:
    layout = draw_layout(np.random.default_rng(1))
    leads = [draw_plan(seed, prop=Prop.CUP, layout=layout, lead_latencies_s=(0.2, 0.3)).lead for seed in range(40)]
    assert {lead.latency_s for lead in leads if lead is not None} == {0.2, 0.3}
    assert None not in leads
    assert draw_plan(3, prop=Prop.CUP, layout=layout).lead is None


@pytest.mark.parametrize("latencies", [["-0.1"], ["0.2", "1.5"], ["nan"]])
def test_an_impossible_latency_is_refused(
    latencies: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--output", str(tmp_path / "d"), "--lead", "nano", "--lead-latency", *latencies]) == 1
    assert not (tmp_path / "d").exists()
    assert "--lead-latency: expected" in capsys.readouterr().err


def test_a_policy_that_leads_is_corrected_but_never_recorded() -> None:
    scheduling = scheduler_config(load_rig("twin"), PLAN)
    settings = VirtualSettings(scheduling, latency_s=0.1, time_limit_s=15.0, picture=(18, 32), sent=(18, 32))
    began: list[np.ndarray] = []

    def leader(env: TwinEnv, plan: DemonstrationPlan) -> VirtualPolicy:
        began.append(env.sim.joints_rad)
        return VirtualPolicy(env, Wanderer(), settings)

    with TwinEnv(None) as env:
        found = demonstrate(env, 7, prop=Prop.TAPE, height=18, width=32, leader=leader)
    assert found.success
    assert found.plan.lead is not None
    assert found.plan.lead.ticks > 20
    assert not found.plan.kicks
    assert len(found.parts) == 1
    states, actions = np.array(found.parts[0].states), np.array(found.parts[0].actions)
    # It begins where the policy got to, jaws shut, and the first thing the teacher does is to open them.
    assert states[0, 0] - began[0][0] > 0.15
    assert states[0, 6] > 0.9
    assert actions[0, 6] == 0.0


def test_a_crash_between_two_cameras_loses_nothing(tmp_path: Path) -> None:
    folder, spool = tmp_path / "twin", tmp_path / "spool"
    spool.mkdir()
    with TwinEnv(None) as env:
        save(demonstrate(env, 3, prop=Prop.TAPE, height=36, width=64), spool)
    made = Made.from_json(json.loads((spool / "3.json").read_text()))
    rig = load_rig("twin")
    with Dataset(folder, dataset_spec(rig, PictureSize(height=36, width=64))) as dataset:
        exterior = dataset.video_files()["exterior"]
        exterior.parent.mkdir(parents=True)
        (spool / "3-0-exterior.mp4").replace(exterior)
        commit(made, spool, dataset, prompt="Put the tape on the plate")
    tables = LeRobotTables(folder)
    assert tables.frame_count == sum(made.parts)
    assert {episode.group for episode in tables.episodes} == {"demonstration-3"}
    assert exterior.stat().st_size > 0


def _kicks(env: TwinEnv, seed: int) -> int:
    kicks = draw_plan(seed, prop=Prop.TAPE, layout=env.sim.reset(seed)).kicks
    return len(kicks) if all(15 < kick.first < 40 for kick in kicks) else 0


def test_the_data_set_is_read_by_training_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "twin"
    first = make(folder, episodes=1)
    again = make(folder, episodes=2)
    assert [made.seed for made in again[: len(first)]] == [made.seed for made in first]
    assert len({made.seed for made in again}) == len(again)
    assert read_manifest(folder / MANIFEST_NAME) == again
    tables = LeRobotTables(folder)
    assert tables.fps == 15
    assert tables.frame_count == sum(sum(made.parts) for made in again)
    assert {task for episode in tables.episodes for task in episode.tasks} <= {
        "Put the coke can on the plate",
        "Put the tape on the plate",
    }
    state, action = tables.numbers(["observation.state"]), tables.numbers(["action"])
    assert state.shape == action.shape == (tables.frame_count, 7)
    # An action is where the arm is one row later, up to the servos' lag.
    end = tables.episodes[0].length
    assert np.abs(action[: end - 1, :6] - state[1:end, :6]).max() < 0.06
    cameras = json.loads((folder / "meta" / "nova.json").read_text())["cameras"]
    assert {camera["backend"] for camera in cameras.values()} == {"twin"}
    assert not (folder / ".spool").exists()


def test_exact_flow_is_made_of_the_scenes_that_demonstrations_leave(tmp_path: Path) -> None:
    folder, spool, flow = tmp_path / "twin", tmp_path / "spool", tmp_path / "flow"
    spool.mkdir()
    with TwinEnv(None) as env:
        save(demonstrate(env, 3, prop=Prop.TAPE, height=72, width=128), spool)
    made = Made.from_json(json.loads((spool / "3.json").read_text()))
    with Dataset(folder, dataset_spec(load_rig("twin"), PictureSize(height=72, width=128))) as dataset:
        commit(made, spool, dataset, prompt="Put the tape on the plate")
    settings = (f"data.sources.0.path={folder}", f"data.sources.0.flow={flow}", "motion.estimator=sim")
    options = PrecomputeOptions("nano-vae", set=settings, device="cpu")
    with TwinSights() as sights:
        result = run_precompute(options, console=Console(quiet=True), sights=lambda: sights)
    assert result["method"] == "simulated"
    place = flow / "observation.images.exterior"
    found = ArrayStore(place, expected=ArrayManifest.load(place))
    middle, last = (found.frame(episode=0, frame=row) for row in (made.parts[0] // 2, made.parts[0] - 1))
    assert middle.shape == (2, 96, 96)
    moving = np.linalg.norm(middle, axis=0)
    # The arm fills a part of the view; the table, which is most of it, stands perfectly still.
    assert moving.max() > 3.0
    assert np.median(moving) == 0.0
    assert np.abs(last).max() == 0.0, "the last frame is matched with itself"
    (folder / SCENES_PATH.format(episode=0)).unlink()
    again = PrecomputeOptions("nano-vae", set=(*settings[:1], f"data.sources.0.flow={tmp_path / 'other'}", settings[2]))
    with TwinSights() as sights, pytest.raises(DatasetError, match="no scenes of this episode"):
        run_precompute(again, console=Console(quiet=True), sights=lambda: sights)


def test_a_line_cut_short_by_a_crash_does_not_count(tmp_path: Path) -> None:
    whole = Made(3, "can", True, 90, (), "home", 0, (90,))
    path = tmp_path / MANIFEST_NAME
    path.write_text(json.dumps(vars(whole)) + "\n" + json.dumps(vars(whole))[:30])
    assert read_manifest(path) == [whole]


def test_a_real_rig_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a simulated rig"):
        make(tmp_path, episodes=1, rig="lab")
