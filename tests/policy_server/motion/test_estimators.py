import math
from pathlib import Path

import pytest
import torch
from torchvision.models.optical_flow import raft_large, raft_small

from policy_server.motion.estimators import DisEstimator, EstimatorKind, load_estimator
from policy_server.motion.flow_image import FlowEncoding
from policy_server.motion.geometry import shift_affine, warp
from policy_server.motion.raft import RaftEstimator


@pytest.mark.parametrize("shift", [(5.0, 0.0), (-3.0, 4.0), (0.0, -6.0)])
def test_shifted_pictures_give_back_their_shift_through_dis_and_colours(
    textured: torch.Tensor, shift: tuple[float, float]
) -> None:
    moved = warp(textured[None], shift_affine(torch.tensor([shift])))[0]
    frames = torch.stack([textured, moved]).round().clamp(0, 255).to(torch.uint8)
    flow = DisEstimator(threads=1).flows(frames, torch.tensor([[0, 1]]))
    encoding = FlowEncoding()
    decoded = encoding.decode(encoding.encode(flow))[0, :, 20:-20, 20:-20]
    error = decoded - torch.tensor(shift).view(2, 1, 1)
    angle = torch.atan2(decoded[1], decoded[0]) - math.atan2(shift[1], shift[0])
    assert error.norm(dim=0).mean() < 0.5
    assert torch.atan2(angle.sin(), angle.cos()).abs().mean() < math.radians(2.0)


def test_dis_finds_the_same_for_many_pairs_as_for_one(textured: torch.Tensor) -> None:
    shifts = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 1.0]])
    frames = warp(textured.expand(3, -1, -1, -1), shift_affine(shifts)).round().to(torch.uint8)
    pairs = torch.tensor([[0, 1], [0, 2], [1, 2]])
    together = DisEstimator(threads=2).flows(frames, pairs)
    alone = [DisEstimator(threads=1).flows(frames, pair[None])[0] for pair in pairs]
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize("build", [raft_large, raft_small])
def test_raft_with_shared_features_equals_torchvisions_forward_pass(build: object, textured: torch.Tensor) -> None:
    torch.manual_seed(0)
    network = build(weights=None).eval()  # type: ignore[operator]
    frames = torch.stack([textured, textured.flip(-1), textured.flip(-2)]).to(torch.uint8)[:, :, :64, :64]
    pairs = torch.tensor([[0, 1], [1, 2]])
    found = RaftEstimator(network, identity="random", updates=2, batch=1).flows(frames, pairs)

    def enlarged(frame: torch.Tensor) -> torch.Tensor:
        scaled = frame[None].float() / 127.5 - 1.0
        return torch.nn.functional.interpolate(scaled, scale_factor=2.0, mode="bilinear", align_corners=False)

    for pair, flow in zip(pairs.tolist(), found, strict=True):
        with torch.no_grad():
            full = network(enlarged(frames[pair[0]]), enlarged(frames[pair[1]]), num_flow_updates=2)[-1]
        assert torch.allclose(flow, torch.nn.functional.avg_pool2d(full, 2)[0] / 2, atol=1e-4)


def test_a_frame_too_small_for_raft_is_refused_with_the_size_it_needs() -> None:
    estimator = RaftEstimator(raft_small(weights=None), identity="random")
    with pytest.raises(ValueError, match=r"at least 64 px, found 48x48"):
        estimator.flows(torch.zeros(2, 3, 48, 48, dtype=torch.uint8), torch.tensor([[0, 1]]))


def test_missing_weights_are_named_with_the_file_and_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"raft_large_C_T_SKHT_V2.*\.pth.*absent.*https://"):
        load_estimator(EstimatorKind.RAFT_LARGE, weights=tmp_path / "absent.pth")


def test_simulated_flow_is_no_estimator() -> None:
    with pytest.raises(ValueError, match="simulator"):
        load_estimator(EstimatorKind.SIM)
