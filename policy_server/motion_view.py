"""The motion image that a client may ask to see: what the policy expects to move, painted after the actions are out."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from policy_server.ask import Picture
from policy_server.motion.files import MotionFileError
from policy_server.motion.flow_image import view, view_scale_px
from policy_server.motion.imager import MotionImager
from policy_server.pi0.lean import Prefix
from policy_server.pi0.policy import Policy

PICTURE_SIDE = 224


class MotionView:
    """Paints from the hidden states that the policy's last answer left behind."""

    def __init__(self, policy: Policy, imager: MotionImager) -> None:
        """Raises `MotionFileError` when the head reads hidden states that serving does not keep."""
        if imager.z_layer not in (-1, -2):
            raise MotionFileError(
                f"this motion head reads layer {imager.z_layer}; a served policy keeps the last two, -1 and -2"
            )
        self._policy = policy
        self._imager = imager
        self._region = _region(policy)

    def paint(self, prefix: Prefix) -> Iterator[Picture | None]:
        """None after each small step, at last the picture, 224 px a side."""
        hidden = self._policy.prefix_hidden(prefix, layer=self._imager.z_layer)
        yield None
        for flow in self._imager.flow_in_steps(hidden, prefix.valid):
            if flow is None:
                yield None
            else:
                scale_px = view_scale_px(flow) * self._region[3] / flow.shape[-1]
                yield Picture(_at_size(view(flow).numpy()), scale_px=scale_px, region=self._region)


def _region(policy: Policy) -> tuple[float, float, float, float]:
    """What of the exterior camera's picture, the first one, whose motion is predicted (arXiv 2512.18007), fills the
    policy's square: (top, left, height, width) in pixels."""
    height, width = policy.contract.image_size
    top = left = 0
    camera = policy.spec.interface.image_keys[0]
    cut = None if policy.spec.views is None else policy.spec.views.cuts.get(camera)
    if cut is not None:
        top, left, height, width = cut.top, cut.left, cut.height, cut.width
    side = max(height, width)
    return (top - (side - height) / 2, left - (side - width) / 2, float(side), float(side))


def _at_size(picture: np.ndarray) -> np.ndarray:
    if picture.shape[:2] == (PICTURE_SIDE, PICTURE_SIDE):
        return picture
    resized = Image.fromarray(picture).resize((PICTURE_SIDE, PICTURE_SIDE), resample=Image.Resampling.BILINEAR)
    return np.asarray(resized)
