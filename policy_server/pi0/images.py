"""Pictures to the model's size, exactly as openpi does it: Pillow's antialiased bilinear filter, centred on black."""

import numpy as np
from PIL import Image


def resize_with_pad(image: np.ndarray, *, side: int) -> np.ndarray:
    """(H, W, 3) uint8 to (side, side, 3) uint8, keeping the aspect ratio.

    An odd pixel of padding goes to the bottom or the right.
    """
    height, width = image.shape[:2]
    if (height, width) == (side, side):
        return image
    ratio = max(width / side, height / side)
    new_height, new_width = max(1, int(height / ratio)), max(1, int(width / ratio))
    resized = Image.fromarray(image).resize((new_width, new_height), resample=Image.Resampling.BILINEAR)
    canvas = np.zeros((side, side, 3), dtype=np.uint8)
    top, left = (side - new_height) // 2, (side - new_width) // 2
    canvas[top : top + new_height, left : left + new_width] = np.asarray(resized)
    return canvas
