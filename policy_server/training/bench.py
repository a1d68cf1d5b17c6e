"""Benchmarks of training: what the motion head costs, what shared RAFT features save, and that serving pays nothing.

Timings are taken in turns, one of each after the other, so that a machine that slows down slows both.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.optical_flow import raft_large

from configs.report import BenchRow, at_least, at_most
from policy_server.motion.estimators import DisEstimator
from policy_server.motion.head import MotionHead, MotionHeadConfig
from policy_server.motion.raft import RaftEstimator
from policy_server.pi0.config import Pi0Config, preset
from policy_server.pi0.pi0 import Observation, Pi0
from policy_server.training.draws import Draws, draw
from policy_server.training.joint_model import JointModel, Targets, valid_action_count
from policy_server.training.recipe import PrefixConditioning, load_recipe

LATENT = (4, 12, 12)


def run_train_bench(*, rounds: int = 8) -> list[BenchRow]:
    """`launch/bench train`: step time of the nano policy with and without its motion head, and flow throughput."""
    batch = load_recipe("nano-joint").batch
    joint, alone = (_stepper(with_head=flag, batch=batch) for flag in (True, False))
    with_head_s, without_s = _in_turns([joint, alone], rounds)
    ratio = with_head_s / without_s
    rows = [
        BenchRow("nano joint step", with_head_s * 1e3, "ms", note=f"batch {batch}, 2 noise draws"),
        BenchRow("nano action-only step", without_s * 1e3, "ms"),
        at_most("nano joint step / action-only step", ratio, limit=1.35, unit="x"),
    ]
    return rows + _flow_rows(rounds=max(2, rounds // 3))


def run_zero_bench(*, rounds: int = 20) -> list[BenchRow]:
    """`launch/bench zero`: a jointly trained policy is served by the same operations on the same weights as one
    trained on actions alone."""
    joint, alone = _model(with_head=True).policy.eval(), _model(with_head=False).policy.eval()
    observation = _observation(preset("nano"), 1)
    noise = torch.randn(1, preset("nano").action_horizon, preset("nano").action_dim)
    lists = [_operations(policy, observation, noise) for policy in (joint, alone)]
    counts = [sum(p.numel() for p in policy.parameters()) for policy in (joint, alone)]
    sizes = [sum(p.numel() * p.element_size() for p in policy.parameters()) for policy in (joint, alone)]
    calls: list[Callable[[], object]] = [_sampler(policy, observation, noise) for policy in (joint, alone, alone)]
    joint_s, alone_s, again_s = _in_turns(calls, rounds)
    names = [name for name, _ in joint.named_parameters()]
    return [
        _exact("different operations", float(lists[0] != lists[1]), note=f"{len(lists[0])} operations a chunk"),
        _exact("more weights", float(counts[0] - counts[1]), note=f"{counts[1]} weights"),
        _exact("more bytes", float(sizes[0] - sizes[1]), note=f"{sizes[1]} bytes"),
        _exact("motion head weights in the served policy", float(sum("motion" in name for name in names))),
        BenchRow("time of the joint policy / of the action-only policy", joint_s / alone_s, "x"),
        BenchRow("control: time of one policy / of itself", again_s / alone_s, "x"),
    ]


def _flow_rows(*, rounds: int) -> list[BenchRow]:
    """Consecutive frames, each matched with the one 8 later, against calling the estimator pair by pair."""
    frames = torch.randint(0, 255, (24, 3, 112, 112), dtype=torch.uint8)
    first = torch.arange(24 - 8)
    pairs = torch.stack([first, first + 8], dim=1)
    network = raft_large(weights=None, progress=False).eval()
    ours = RaftEstimator(network, identity="random weights", updates=12)
    dis, lone = DisEstimator(), DisEstimator(threads=1)

    @torch.no_grad()
    def plain_raft() -> None:
        for a, b in pairs.tolist():
            both = [
                torch.nn.functional.interpolate(
                    frames[i : i + 1].float() / 127.5 - 1.0, scale_factor=2.0, mode="bilinear"
                )
                for i in (a, b)
            ]
            network(*both, num_flow_updates=12)

    def plain_dis() -> None:
        for pair in pairs:
            lone.flows(frames, pair[None])

    raft_s, raft_plain_s = _in_turns([lambda: ours.flows(frames, pairs), plain_raft], rounds)
    dis_s, dis_plain_s = _in_turns([lambda: dis.flows(frames, pairs), plain_dis], rounds)
    return [
        _faster("RAFT-large pairs", len(pairs) / raft_s, "torchvision, pair by pair", len(pairs) / raft_plain_s),
        _faster("DIS pairs", len(pairs) / dis_s, "OpenCV, pair by pair", len(pairs) / dis_plain_s),
    ]


def _faster(metric: str, value: float, peer: str, peer_value: float) -> BenchRow:
    ratio = value / peer_value
    row = at_least(metric, ratio, limit=1.3, unit="pairs/s")
    return BenchRow(metric, value, "pairs/s", "≥ 1.3 times the peer", row.holds, peer, peer_value, ratio)


def _exact(metric: str, value: float, *, note: str | None = None) -> BenchRow:
    return at_most(metric, value, limit=0.0, unit="", note=note)


def _in_turns(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """The median time of each call in seconds, after one call of each that does not count."""
    times: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for call, found in zip(calls, times, strict=True):
            started_s = time.perf_counter()
            call()
            if number > 0:
                found.append(time.perf_counter() - started_s)
    return [statistics.median(found) for found in times]


def _model(*, with_head: bool) -> JointModel:
    config = preset("nano")
    recipe = load_recipe("nano-joint")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = Pi0(config)
        head_config: MotionHeadConfig = recipe.motion.head_config(
            context_width=config.trunk.width, latent_channels=LATENT[0], latent_size=LATENT[1]
        )
        return JointModel(policy, MotionHead(head_config) if with_head else None)


def _observation(config: Pi0Config, batch: int) -> Observation:
    side = config.vision.image_size
    return Observation(
        images=torch.rand(batch, 2, 3, side, side) * 2.0 - 1.0,
        image_mask=torch.ones(batch, 2, dtype=torch.bool),
        tokens=torch.randint(0, 500, (batch, 12)),
        token_mask=torch.ones(batch, 12, dtype=torch.bool),
        state=torch.randn(batch, config.action_dim),
    )


def _stepper(*, with_head: bool, batch: int) -> Callable[[], None]:
    """One optimizer step on random data."""
    config = preset("nano")
    model = _model(with_head=with_head)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    draws: Draws = draw(
        seed=0,
        step=0,
        batch=batch,
        action_shape=(2, config.action_horizon, config.action_dim),
        latent_shape=LATENT,
        prefix=PrefixConditioning(),
    )
    valid = torch.ones(batch, config.action_horizon, dtype=torch.bool)
    targets = Targets(
        actions=torch.randn(batch, config.action_horizon, config.action_dim),
        action_valid=valid,
        latents=torch.randn(batch, *LATENT) if with_head else None,
        language=None,
        motion_valid=torch.ones(batch, dtype=torch.bool),
        action_count=valid_action_count(valid, draws.committed),
        motion_count=float(batch),
    )
    observation = _observation(config, batch)

    def step() -> None:
        optimizer.zero_grad()
        model(observation, targets, draws, motion_weight=1.0)["loss"].backward()
        optimizer.step()

    return step


def _sampler(policy: Pi0, observation: Observation, noise: torch.Tensor) -> Callable[[], object]:
    @torch.no_grad()
    def sample() -> object:
        return policy.sample_actions(observation, noise=noise, steps=10)

    return sample


class _Recorder(TorchDispatchMode):
    """Notes each operation with the shapes that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        shapes = [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]
        self.operations.append(f"{func} {shapes}")
        return func(*args, **(kwargs or {}))


def _operations(policy: Pi0, observation: Observation, noise: torch.Tensor) -> list[str]:
    with _Recorder() as recorder, torch.no_grad():
        policy.sample_actions(observation, noise=noise, steps=10)
    return recorder.operations
