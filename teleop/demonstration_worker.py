"""A process that makes demonstrations: ``python -m teleop.demonstration_worker``; started by `teleop.demonstrations`.

Each seed leaves ``SEED.json`` in the spool folder, and for each part of a successful demonstration ``SEED-PART.npz``
with its rows and histograms and one ``SEED-PART-CAMERA.mp4`` a camera. The JSON is written last.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from configs.schema import RigConfig, load_rig
from policy_server.client import SIX_JOINTS_AND_GRIPPER, PolicyClient
from robot.evaluation.virtual import SeededClient, VirtualPolicy, virtual_settings
from robot.processes import stop_event_on_signals
from robot.recording.dataset.layout import VideoCodec
from robot.recording.dataset.statistics import PictureHistogram
from robot.recording.dataset.video import write_video
from robot.twin.env import TwinEnv
from robot.twin.props import Prop
from robot.twin.variation import VariationRange
from teleop.demonstration_episode import TIME_LIMIT_S, Demonstration, Leader, demonstrate
from teleop.demonstration_plan import LEAD_LATENCIES_S, DemonstrationPlan

CONNECT_TIMEOUT_S = 30.0
REQUEST_TIMEOUT_S = 120.0


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 after the last seed or a signal."""
    parser = argparse.ArgumentParser(prog="python -m teleop.demonstration_worker")
    parser.add_argument("--spool", type=Path, required=True, help="folder for finished demonstrations")
    parser.add_argument("--first", type=int, required=True, help="first seed")
    parser.add_argument("--stride", type=int, required=True, help="from one seed to the next")
    parser.add_argument("--tasks", nargs="+", required=True, help="objects in turn, by seed")
    parser.add_argument("--height", type=int, required=True, help="of the pictures, px")
    parser.add_argument("--width", type=int, required=True, help="of the pictures, px")
    parser.add_argument("--rig", default="twin", help="whose timing a policy that leads is run with")
    parser.add_argument("--lead", metavar="ADDRESS", help="policy server whose policy moves the arm first")
    parser.add_argument("--lead-latency", nargs="+", type=float, default=LEAD_LATENCIES_S, help="of its chunks, s")
    options = parser.parse_args(arguments)
    props = [Prop.from_label(label) for label in options.tasks]
    with ExitStack() as stack:
        stop = stack.enter_context(stop_event_on_signals())
        env = stack.enter_context(TwinEnv(None, variation=VariationRange()))
        leader = None if options.lead is None else stack.enter_context(following(options.lead, load_rig(options.rig)))
        seed = options.first
        while not stop.is_set():
            if not (options.spool / f"{seed}.json").exists():
                prop = props[seed % len(props)]
                found = demonstrate(
                    env,
                    seed,
                    prop=prop,
                    height=options.height,
                    width=options.width,
                    leader=leader,
                    lead_latencies_s=options.lead_latency,
                )
                save(found, options.spool)
            seed += options.stride
    return 0


@contextmanager
def following(address: str, rig: RigConfig) -> Iterator[Leader]:
    """A leader that asks the policy server at that address. Raises `PolicyClientError` when it can't be reached."""
    client = PolicyClient(
        address,
        expected=SIX_JOINTS_AND_GRIPPER,
        connect_timeout_s=CONNECT_TIMEOUT_S,
        request_timeout_s=REQUEST_TIMEOUT_S,
    )
    client.connect()

    def leader(env: TwinEnv, plan: DemonstrationPlan) -> VirtualPolicy:
        latency_s = 0.0 if plan.lead is None else plan.lead.latency_s
        settings = virtual_settings(rig, client, latency_s=latency_s, time_limit_s=TIME_LIMIT_S)
        return VirtualPolicy(env, SeededClient(client, start=plan.seed), settings)

    try:
        yield leader
    finally:
        client.close()


def save(found: Demonstration, spool: Path) -> None:
    """Write a demonstration to the spool folder; one that failed leaves only its JSON."""
    seed = found.plan.seed
    lengths = []
    for number, part in enumerate(found.parts if found.success else ()):
        stem = f"{seed}-{number}"
        rows: dict[str, np.ndarray] = {
            "state": np.array(part.states, dtype=np.float32),
            "action": np.array(part.actions, dtype=np.float32),
            "tick": np.array(part.ticks, dtype=np.int64),
            "scene": np.array([scene.pack() for scene in part.scenes]),
        }
        for camera, pictures in part.pictures.items():
            write_video(spool / f"{stem}-{camera.label}.mp4", pictures, codec=VideoCodec.H264)
            histogram = PictureHistogram()
            for picture in pictures:
                histogram.add(picture)
            rows[f"histogram_{camera.label}"] = histogram.counts
        np.savez(spool / f"{stem}.npz", **rows)  # type: ignore[arg-type]
        lengths.append(len(part))
    about = {
        "seed": seed,
        "task": found.plan.prop.label,
        "success": found.success,
        "ticks": found.ticks,
        "flaws": [flaw.value for flaw in found.flaws],
        "start": found.plan.start_kind.value,
        "kicks": len(found.plan.kicks),
        "lead": 0 if found.plan.lead is None else found.plan.lead.ticks,
        "parts": lengths,
    }
    draft = spool / f".{seed}.json.new"
    draft.write_text(json.dumps(about) + "\n", encoding="utf-8")
    draft.replace(spool / f"{seed}.json")


if __name__ == "__main__":
    sys.exit(main())
