"""What a motion image costs: the small policy behind its server on one core, asked with and without, in turns."""

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from configs.report import BenchRow, at_most
from policy_server.client import MotionPicture, PolicyClient, PolicyClientError, make_observation

REQUESTS, TURNS = 20, 4
START_S, PICTURE_S = 60.0, 5.0


def motion_rows() -> list[BenchRow]:
    """Round trip with and without a motion image, and how long after its reply the image comes."""
    pictures: list[MotionPicture] = []
    with _served() as port, _connected(port, pictures) as client:
        height, width = client.contract.image_size if client.contract is not None else (224, 224)
        picture = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
        observation = make_observation(
            exterior_image=picture,
            wrist_image=picture,
            joint_position_rad=np.array([0.0, 0.0, -1.5, 0.0, 1.5, 0.0]),
            gripper_position=0.0,
            prompt="Put the cup on the plate",
        )
        round_trips: dict[bool, list[float]] = {False: [], True: []}
        waits: list[float] = []
        for turn in range(2 * TURNS):
            asked = turn % 2 == 1
            for number in range(REQUESTS):
                reply = client.infer(observation, observation_time_ns=turn * REQUESTS + number, motion_image=asked)
                replied_s = time.perf_counter()
                round_trips[asked].append(reply.round_trip_ms)
                if asked:
                    seen = len(pictures)
                    while len(pictures) == seen:
                        client.receive_pictures(wait_s=PICTURE_S)
                    waits.append((time.perf_counter() - replied_s) * 1e3)
    without, beside = (statistics.median(round_trips[asked]) for asked in (False, True))
    return [
        BenchRow("nano on one core: round trip", without, "ms"),
        BenchRow("nano on one core: round trip, asked for a motion image", beside, "ms"),
        at_most("nano on one core: motion image after its reply", statistics.median(waits), limit=150.0, unit="ms"),
    ]


@contextmanager
def _served() -> Iterator[int]:
    """The port of a server that may use one core only."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    core = max(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "policy_server.main", "--policy", "nano", "--motion"]
    server = subprocess.Popen(
        [*command, "--threads", "1", "--port", str(port)],
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    try:
        yield port
    finally:
        server.terminate()
        server.wait()


@contextmanager
def _connected(port: int, pictures: list[MotionPicture]) -> Iterator[PolicyClient]:
    client = PolicyClient(f"ws://127.0.0.1:{port}", on_motion_picture=pictures.append, request_timeout_s=10.0)
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            client.connect()
            break
        except PolicyClientError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)
    try:
        yield client
    finally:
        client.close()
