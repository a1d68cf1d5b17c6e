"""LeRobot's π0 as a contestant, under an interpreter that has lerobot: ``lerobot_peer.py FOLDER DTYPE THREADS``.

The folder is one that `policy_server.bench.samples` wrote; LeRobot's model is built in its sizes, gets the same
weights, and obeys as `policy_server.bench.sampler` does. It imports nothing of this project.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

TIED = "paligemma_with_expert.paligemma.lm_head.weight"
EMBEDDING = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"


def build(sizes: dict[str, Any], dtype: str) -> Any:
    """LeRobot's PI0Pytorch in other sizes than its two variants."""
    from lerobot.policies.pi0 import modeling_pi0 as pi0

    vision = sizes["vision"]
    variants = {"gemma_2b": sizes["trunk"], "gemma_300m": sizes["expert"]}

    def variant(name: str) -> SimpleNamespace:
        own = variants[name]
        return SimpleNamespace(
            width=own["width"],
            depth=own["depth"],
            mlp_dim=own["mlp_width"],
            num_heads=own["heads"],
            num_kv_heads=own["kv_heads"],
            head_dim=own["head_width"],
        )

    pi0.get_gemma_config = variant
    mapping = pi0.CONFIG_MAPPING

    class Mapping:
        def __getitem__(self, name: str) -> Any:
            made = mapping[name]
            return made if name != "paligemma" else (lambda: with_vision(made()))

    def with_vision(config: Any) -> Any:
        fixed = {
            "hidden_size": vision["width"],
            "intermediate_size": vision["mlp_width"],
            "num_hidden_layers": vision["depth"],
            "num_attention_heads": vision["heads"],
            "patch_size": vision["patch_size"],
            "projection_dim": sizes["trunk"]["width"],
        }
        config.projection_dim = sizes["trunk"]["width"]
        for key, value in fixed.items():
            setattr(config.vision_config, key, value)
        kind: Any = type(config.vision_config)
        plain = kind.__setattr__
        # LeRobot sets its own vision sizes right after this; they are the ones that must not be taken.
        kind.__setattr__ = lambda self, key, value: plain(self, key, fixed.get(key, value))
        return config

    pi0.CONFIG_MAPPING = Mapping()
    config = pi0.PI0Config(
        dtype=dtype,
        chunk_size=sizes["action_horizon"],
        n_action_steps=sizes["action_horizon"],
        max_state_dim=sizes["action_dim"],
        max_action_dim=sizes["action_dim"],
        image_resolution=(vision["image_size"], vision["image_size"]),
        num_inference_steps=10,
        device="cpu",
    )
    return pi0.PI0Pytorch(config).eval()


def main() -> None:
    """Load, then obey."""
    folder, dtype = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(int(sys.argv[3]))
    started = time.perf_counter()
    model = build(json.loads((folder / "sizes.json").read_text()), dtype)
    tensors = load_file(folder / "model.safetensors")
    tensors[EMBEDDING] = tensors[TIED]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if missing or unexpected:
        raise SystemExit(f"the weights do not fit LeRobot's model: missing {missing[:5]}, unexpected {unexpected[:5]}")
    del tensors
    with np.load(folder / "inputs.npz") as inputs:
        values = {key: torch.from_numpy(inputs[key]) for key in inputs.files}
    words = values["tokens"].shape[1]
    tokens = torch.zeros(1, 48, dtype=torch.long)
    mask = torch.zeros(1, 48, dtype=torch.bool)
    tokens[:, :words], mask[:, :words] = values["tokens"], True
    images = list(values["images"][0][:, None])
    seen = [torch.ones(1, dtype=torch.bool) for _ in images]

    def sample() -> torch.Tensor:
        with torch.inference_mode():
            return model.sample_actions(
                images, seen, tokens, mask, values["state"], noise=values["noise"].clone(), num_steps=10
            )

    sample()
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
    size = (folder / "model.safetensors").stat().st_size
    told = {"seconds": time.perf_counter() - started, "peak_bytes": peak, "file_bytes": size}
    print(json.dumps({**told, "version": version("lerobot")}), flush=True)
    for line in sys.stdin:
        order, _, argument = line.strip().partition(" ")
        if order == "actions":
            np.save(argument, sample().float().numpy())
            print("null", flush=True)
            continue
        times = []
        for _ in range(int(argument)):
            started = time.perf_counter()
            sample()
            times.append((time.perf_counter() - started) * 1e3)
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
