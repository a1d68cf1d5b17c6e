"""Exact optical flow of a scene of rigid bodies: from depth, which body each pixel shows, and how each body moved.

This is what a simulator knows and an estimator can only guess, so it is both a training target and the yardstick of the
estimators.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rigid_flow(
    *,
    depth_m: Array,
    body: NDArray[np.integer],
    intrinsics: Array,
    camera_before: Array,
    camera_after: Array,
    bodies_before: Array,
    bodies_after: Array,
) -> Array:
    """The flow (2, H, W), in pixels, of each pixel of the first picture.

    `depth_m` (H, W) is the distance along the optical axis, infinite for the sky; `body` (H, W) indexes the poses, and
    anything negative stands still. `intrinsics` is (3, 3); poses are (4, 4) and (N, 4, 4), world from camera (x
    right, y down, z forwards) and world from body. A point that ends up behind the camera gets no flow.
    """
    height, width = depth_m.shape
    pixel = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=0).astype(np.float64)
    homogeneous = np.concatenate([pixel, np.ones((1, height, width))]).reshape(3, -1)
    seen = np.isfinite(depth_m).ravel()
    in_camera = np.linalg.solve(intrinsics, homogeneous) * np.where(seen, depth_m.ravel(), 1.0)
    in_world = camera_before[:3, :3] @ in_camera + camera_before[:3, 3:]

    # What is no body stands still: the last step, which an index of -1 picks.
    steps = np.concatenate([bodies_after @ np.linalg.inv(bodies_before), np.eye(4)[None]])
    step = steps[np.maximum(body.ravel(), -1)]
    moved = np.einsum("nij,jn->in", step[:, :3, :3], in_world) + step[:, :3, 3].T

    looked_at = camera_after[:3, :3].T @ (moved - camera_after[:3, 3:])
    ahead = looked_at[2] > 1e-6
    projected = intrinsics @ (looked_at / np.where(ahead, looked_at[2], 1.0))
    flow = np.where(seen & ahead, projected[:2] - homogeneous[:2], 0.0)
    return flow.reshape(2, height, width)
