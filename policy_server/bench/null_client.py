"""Our client as a contestant: ``python -m policy_server.bench.null_client PORT TRANSPORT``.

A line ``HEIGHT WIDTH COUNT`` is answered with so many round-trip times in ms.
"""

import json
import sys

import numpy as np

from configs.allocator import keep_freed_memory
from policy_server.client import PolicyClient, Transport, make_observation


def main() -> None:
    """Ask for zeros until the input ends."""
    keep_freed_memory()  # as launch/rollout does
    port, transport = int(sys.argv[1]), Transport(sys.argv[2])
    with PolicyClient(f"ws://127.0.0.1:{port}", pictures_by=transport, request_timeout_s=30.0) as client:
        print(json.dumps(client.transport.value), flush=True)
        for line in sys.stdin:
            height, width, count = map(int, line.split())
            picture = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
            observation = make_observation(
                exterior_image=picture,
                wrist_image=picture.copy(),
                joint_position_rad=np.zeros(6),
                gripper_position=0.0,
                prompt="put the cup on the plate",
            )
            times = [client.infer(observation, observation_time_ns=1).round_trip_ms for _ in range(count)]
            print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
