"""An OpenGL context without a window, chosen when it is needed rather than when mujoco is imported."""

import importlib
import os
import sys
from typing import Any

import mujoco


class OffscreenError(RuntimeError):
    """This machine cannot draw off screen."""


def open_context(*, width: int, height: int) -> Any:
    """A current OpenGL context with ``make_current`` and ``free``.

    ``MUJOCO_GL`` (egl, osmesa, glfw) decides; where it is not set and there is no display, EGL is taken. Raises
    `OffscreenError` that says what to install.
    """
    wanted = os.environ.get("MUJOCO_GL", "").strip().lower()
    if not wanted and sys.platform == "linux" and not os.environ.get("DISPLAY"):
        wanted = "egl"
    try:
        if wanted in ("egl", "osmesa"):
            context = importlib.import_module(f"mujoco.{wanted}").GLContext(width, height)
        else:
            context = mujoco.GLContext(width, height)
        context.make_current()
    except Exception as error:  # each backend fails with types of its own
        setting = os.environ.get("MUJOCO_GL", "")
        raise OffscreenError(
            f"no off-screen OpenGL: MUJOCO_GL={setting!r}, tried {wanted or 'the default'}: {error}. "
            "On Debian or Ubuntu: apt-get install libegl1 libgl1-mesa-dri (EGL) or libosmesa6 (MUJOCO_GL=osmesa)."
        ) from error
    return context
