"""Flow between frames: one interface for RAFT and for OpenCV's DIS, which needs no weights.

An estimator gets a stack of frames and the pairs of them to compare, so that what it computes of a frame alone (RAFT's
features) is computed once however many pairs the frame is in. Pairs are matched directly, never chained.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from policy_server.motion.raft import RaftEstimator, load_raft


class EstimatorKind(StrEnum):
    """Where flow comes from. `SIM` is no estimator: the data set brings its exact flow."""

    RAFT_LARGE = "raft_large"
    RAFT_SMALL = "raft_small"
    DIS = "dis"
    SIM = "sim"


class FlowEstimator(Protocol):
    """Flow between frames of one size."""

    @property
    def identity(self) -> str:
        """Names the method, its settings and its weights, for checkpoints and caches."""
        ...

    def flows(self, frames: Tensor, pairs: Tensor) -> Tensor:
        """Frames (N, 3, H, W) uint8 RGB and pairs (M, 2) of indices into them: flow (M, 2, H, W) float32 in pixels."""
        ...


class DisEstimator:
    """Dense inverse search (Kroeger et al., ECCV 2016) on frames enlarged twice, one pair per thread."""

    def __init__(self, *, threads: int | None = None) -> None:
        self._threads = threads or min(8, os.cpu_count() or 1)
        self._local = threading.local()

    @property
    def identity(self) -> str:
        """Method and OpenCV version."""
        return f"dis-medium-x2 opencv-{cv2.__version__}"

    def flows(self, frames: Tensor, pairs: Tensor) -> Tensor:
        """See `FlowEstimator.flows`."""
        grey = [self._enlarged(frame) for frame in frames.permute(0, 2, 3, 1).cpu().numpy()]
        with ThreadPoolExecutor(self._threads) as pool:
            found = list(pool.map(lambda pair: self._flow(grey[pair[0]], grey[pair[1]]), pairs.tolist()))
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()

    @staticmethod
    def _enlarged(frame: np.ndarray) -> np.ndarray:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        return cv2.resize(grey, None, fx=2.0, fy=2.0, interpolation=cv2.INTER_LINEAR)

    def _flow(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        if not hasattr(self._local, "dis"):  # an instance keeps scratch buffers: one for each thread
            self._local.dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
            self._local.dis.setFinestScale(0)
        flow = self._local.dis.calc(first, second, None)
        height, width = first.shape
        return cv2.resize(flow, (width // 2, height // 2), interpolation=cv2.INTER_AREA) / 2.0


def load_estimator(
    kind: EstimatorKind, *, weights: Path | None = None, updates: int = 12, device: torch.device | None = None
) -> FlowEstimator:
    """The estimator of that kind; `weights` is RAFT's file, by default the one in torch's hub cache.

    Raises FileNotFoundError naming the file that is missing, and ValueError for `SIM`.
    """
    match kind:
        case EstimatorKind.DIS:
            return DisEstimator()
        case EstimatorKind.RAFT_LARGE | EstimatorKind.RAFT_SMALL:
            network, identity = load_raft(large=kind is EstimatorKind.RAFT_LARGE, weights=weights)
            return RaftEstimator(network.to(device or torch.device("cpu")), identity=identity, updates=updates)
        case EstimatorKind.SIM:
            raise ValueError("'sim' flow is not estimated: it is written beside the data set by the simulator")
