"""Our model as a contestant: ``python -m policy_server.bench.sampler FOLDER WAY THREADS``, the way being lean or plain.

It prints the time and the peak memory that loading and the first sample took. ``sample N`` is answered with N times in
ms, ``actions PATH`` writes the actions there and is answered with null.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from configs.allocator import keep_freed_memory
from policy_server.bench.samples import STEPS, WEIGHTS, read_model, read_samples
from policy_server.metrics import peak_resident_bytes, resident_bytes
from policy_server.pi0.lean import LeanSampler
from policy_server.pi0.loading import Precision


def main() -> None:
    """Load, then obey."""
    folder, way = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(int(sys.argv[3]))
    before = resident_bytes()
    started_s = time.perf_counter()
    sample = _lean(folder) if way == "lean" else _plain(folder)
    if way == "lean":
        keep_freed_memory()  # as the server does
    sample()
    told = {
        "seconds": time.perf_counter() - started_s,
        "peak_bytes": peak_resident_bytes() - before,
        "file_bytes": (folder / WEIGHTS).stat().st_size,
    }
    print(json.dumps(told), flush=True)
    for line in sys.stdin:
        order, _, argument = line.strip().partition(" ")
        if order == "actions":
            np.save(argument, sample().numpy())
            print("null", flush=True)
            continue
        times = []
        for _ in range(int(argument)):
            started_s = time.perf_counter()
            sample()
            times.append((time.perf_counter() - started_s) * 1e3)
        print(json.dumps(times), flush=True)


def _lean(folder: Path) -> Callable[[], torch.Tensor]:
    observation, noise = read_samples(folder)
    sampler = LeanSampler(read_model(folder, precision=Precision.STORED), steps=STEPS)

    def sample() -> torch.Tensor:
        with torch.inference_mode():
            return sampler.sample(observation, noise=noise).actions

    return sample


def _plain(folder: Path) -> Callable[[], torch.Tensor]:
    observation, noise = read_samples(folder)
    model = read_model(folder, precision=Precision.FLOAT32)

    def sample() -> torch.Tensor:
        with torch.inference_mode():
            return model.sample_actions(observation, noise=noise, steps=STEPS).actions

    return sample


if __name__ == "__main__":
    main()
