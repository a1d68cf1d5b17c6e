"""A policy's rollout in the recorder: what it asked for, what was left of it, who it was."""

import time
from pathlib import Path

import numpy as np

from configs.schema import load_task
from robot.processes import Child
from robot.recording import Episode, Label, RecorderClient
from robot.recording.channels import CHUNKS_TOPIC, MOTION_TOPIC
from robot.recording.synthetic import joints_at, state_at
from robot.rollout.chunks import ChunkScheduler, ExecutionMode, SchedulerConfig
from robot.rollout.observation import Rejection
from robot.rollout.policy_link import PolicyIdentity
from robot.rollout.recorded import RecordedEpisode
from robot.rollout.steps import StepRecord
from robot.rollout.telemetry import PredictedMotion, RolloutTelemetry

PERIOD_NS = round(1e9 / 15)
POLICY = PolicyIdentity("nano", True, "abc123", (112, 112))


def test_an_episode_of_a_policy_has_its_chunks_its_steps_and_its_name(recorder: Child, raw: Path) -> None:
    scheduler = ChunkScheduler(
        SchedulerConfig(
            mode=ExecutionMode.ASYNC,
            fps=15,
            horizon=15,
            replan_ticks=6,
            blend_ticks=2,
            max_seam_step_rad=0.2,
            lead_ns=0,
        )
    )
    with RolloutTelemetry("small") as telemetry, RecorderClient("small") as client:
        episode = RecordedEpisode(client, directory=raw, policy=POLICY, server="ws://gpu:8000")
        tap = episode.begin(load_task("cup"), seed=5, mode="async", period_ns=PERIOD_NS)
        begin_ns = time.monotonic_ns()
        actions = np.concatenate([np.stack([joints_at(0.0)] * 15), np.ones((15, 1))], axis=1)
        actions[:, 0] += 0.01 * np.arange(15)
        waypoints = scheduler.accept(
            actions, observation_time_ns=begin_ns, now_ns=begin_ns, setpoint_rad=joints_at(0.0)
        )
        assert waypoints is not None
        shown = {
            "observation_ns": begin_ns,
            "first_ns": begin_ns + PERIOD_NS,
            "period_ns": PERIOD_NS,
            "policy_ms": 12.0,
            "actions": actions,
        }
        telemetry.chunk(shown)
        image = np.full((64, 64, 3), 200, np.uint8)
        telemetry.motion(PredictedMotion(image, begin_ns, begin_ns, 0.1, (0.0, 0.0, 224.0, 224.0), (224, 224)))
        tap.chunk(shown, events={})
        for tick in range(5):
            deadline_ns = begin_ns + tick * PERIOD_NS
            state = state_at(0.0, capture_ns=deadline_ns)
            record = _record(tick, deadline_ns=deadline_ns, state=state, chunk_ns=begin_ns)
            tap.tick(record, scheduler, state=state, seen=Rejection.NO_WRIST_FRAME)
        time.sleep(0.3)
        episode.close()
        episode.label(success=True)
    (folder,) = [path for path in raw.iterdir() if not path.name.startswith(".")]
    kept = Episode(folder)
    request = kept.meta.description.request
    assert kept.meta.outcome.label is Label.SUCCESS
    assert request.policy["digest"] == "abc123"
    assert request.extra == {"seed": 5, "mode": "async"}
    steps = kept.steps
    assert steps["chunk_index"].tolist() == [0, 1, 2, 3, 4]
    assert np.all(steps["chunk_id"] == begin_ns)
    np.testing.assert_allclose(steps["requested_joints_rad"], actions[:5, :6])
    assert np.isfinite(steps["sent_joints_rad"]).all()
    assert np.isfinite(steps["guarded_joints_rad"]).all()
    (chunk,) = kept.records(CHUNKS_TOPIC, default=None)
    np.testing.assert_allclose(chunk["actions"].reshape(15, 7), actions)
    assert len(list(kept.raw_messages(MOTION_TOPIC))) == 1


def _record(tick: int, *, deadline_ns: int, state: np.ndarray, chunk_ns: int) -> StepRecord:
    return StepRecord(
        tick=tick,
        deadline_ns=deadline_ns,
        wake_ns=deadline_ns + 1000,
        work_ms=1.0,
        observation_time_ns=None,
        rejection="no wrist frame",
        frame_age_ms=None,
        link="idle",
        failure=None,
        chunk=None,
        action=None,
        joints_rad=state["joints_rad"],
        setpoint_rad=state["setpoint_rad"],
        gripper=0.0,
        machine_state="STREAMING",
        followed_observation_ns=chunk_ns,
    )
