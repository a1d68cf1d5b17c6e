"""A process that runs trials in the twin without its wires: ``python -m robot.evaluation.worker``.

Reads the trials from a JSON file, asks the policy server at ``--server``, appends each outcome to ``--output``.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from configs.schema import RigConfig, load_rig, load_task
from policy_server.client import SIX_JOINTS_AND_GRIPPER, Continuity, PolicyClient
from robot.evaluation.smoothness import log_dimensionless_jerk
from robot.evaluation.trial import Outcome, Trial, append
from robot.evaluation.virtual import SeededClient, VirtualEpisode, run_virtual, virtual_settings
from robot.motion.nova5 import GRIPPER_STROKE_M
from robot.processes import stop_event_on_signals
from robot.rollout.chunks import ExecutionMode
from robot.twin.env import TwinEnv
from robot.twin.props import Prop
from robot.twin.sim import ArmStart
from robot.twin.variation import VariationRange

REQUEST_TIMEOUT_S = 120.0
COLLISION = "collision"
"""Named first among what was wrong."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 after the last trial or a signal."""
    parser = argparse.ArgumentParser(prog="python -m robot.evaluation.worker")
    parser.add_argument("--trials", type=Path, required=True, help="JSON file with the trials")
    parser.add_argument("--output", type=Path, required=True, help="JSONL file that outcomes are added to")
    parser.add_argument("--server", required=True, help="address of the policy server")
    parser.add_argument("--rig", required=True)
    parser.add_argument("--plain", action="store_true", help="every scene looks the same")
    options = parser.parse_args(arguments)
    rig = load_rig(options.rig)
    listed = json.loads(options.trials.read_text(encoding="utf-8"))
    trials = [Trial(**plain) for plain in listed["trials"]]
    client = PolicyClient(
        options.server, expected=SIX_JOINTS_AND_GRIPPER, connect_timeout_s=30.0, request_timeout_s=REQUEST_TIMEOUT_S
    )
    client.connect()
    try:
        with (
            stop_event_on_signals() as stop,
            TwinEnv(
                None,
                variation=None if options.plain else VariationRange(),
                collision_level=rig.arm.collision_level,
            ) as env,
        ):
            for trial in trials:
                if stop.is_set():
                    break
                append(options.output, _outcome(trial, _run(trial, env, client, rig), client))
    finally:
        client.close()
    return 0


def _run(trial: Trial, env: TwinEnv, client: PolicyClient, rig: RigConfig) -> VirtualEpisode:
    task = load_task(trial.task)
    settings = virtual_settings(
        rig,
        client,
        latency_s=trial.latency_s,
        time_limit_s=task.time_limit_s,
        mode=ExecutionMode(trial.mode),
        replan_ticks=trial.replan_ticks,
        continuity=Continuity(trial.continuity) if trial.continuity else None,
    )
    start = ArmStart(rig.start.joints_rad, (1.0 - rig.start.gripper) * GRIPPER_STROKE_M)
    prop = Prop.from_label(task.target_object)
    return run_virtual(
        env, SeededClient(client, start=trial.seed), seed=trial.seed, prop=prop, start=start, settings=settings
    )


def _outcome(trial: Trial, episode: VirtualEpisode, client: PolicyClient) -> Outcome:
    return Outcome(
        trial=trial,
        digest="" if client.contract is None else client.contract.checkpoint_digest,
        success=episode.success,
        seconds=round(episode.seconds, 3),
        ticks=episode.ticks,
        stage=episode.stage.name.lower(),
        flaws=((COLLISION,) if episode.collided else ()) + tuple(flaw.value for flaw in episode.flaws),
        underruns=episode.underruns,
        chunks=episode.chunks,
        seam_jump_rad=round(float(np.median(episode.seam_jumps_rad)), 5) if episode.seam_jumps_rad else None,
        jerk=log_dimensionless_jerk(np.array(episode.path)[:, :6]),
        policy_ms=round(float(np.median(episode.policy_ms)), 2) if episode.policy_ms else None,
    )


if __name__ == "__main__":
    sys.exit(main())
