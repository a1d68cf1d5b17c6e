"""Pictures that cover the scene, computed: wood for the table, a printed can, plaster for the wall.

Each function gives (height, width, 3) uint8 RGB and always the same one.
"""

import mujoco
import numpy as np


def wood(*, height: int = 512, width: int = 512, planks: int = 5) -> np.ndarray:
    """Oiled oak in ``planks`` boards that run along the picture's width."""
    random = np.random.default_rng(7)
    v, u = np.meshgrid(np.linspace(0.0, 1.0, height), np.linspace(0.0, 1.0, width), indexing="ij")
    board = np.minimum((v * planks).astype(int), planks - 1)
    offset = random.uniform(0.0, 50.0, planks)[board]
    tone = random.uniform(-0.05, 0.05, planks)[board]
    across = v * planks - board
    waviness = 0.06 * np.sin(5.0 * u + offset) + 0.03 * np.sin(13.0 * u + 1.7 * offset)
    rings = np.sin(26.0 * (across + waviness) + offset + 1.5 * np.sin(3.0 * u + offset))
    fibre = _smooth_noise(random, height=height, width=width, rows=256, columns=12)
    blotch = _smooth_noise(random, height=height, width=width, rows=6, columns=6)
    level = 0.86 + tone + 0.035 * rings + 0.07 * (fibre - 0.5) + 0.06 * (blotch - 0.5)
    gap = np.minimum(across, 1.0 - across) * height / planks
    level *= np.clip(0.62 + 0.25 * gap, 0.0, 1.0)
    colour = np.array([0.80, 0.62, 0.44])
    return _to_rgb(level[..., None] * colour)


def can_print(*, height: int = 256, width: int = 512) -> np.ndarray:
    """A red drink can's printed sheet: silver rims and a white ribbon wave around it; row 0 is the foot."""
    v, u = np.meshgrid(np.linspace(0.0, 1.0, height), np.linspace(0.0, 1.0, width), indexing="ij")
    red = np.array([0.80, 0.045, 0.06])
    image = np.broadcast_to(red, (height, width, 3)).copy()
    image *= (0.92 + 0.08 * np.cos(4.0 * np.pi * u))[..., None]
    middle = 0.50 + 0.10 * np.sin(4.0 * np.pi * u)
    thickness = 0.035 + 0.022 * np.cos(4.0 * np.pi * u)
    _paint(image, where=np.abs(v - middle) < thickness, colour=(0.97, 0.97, 0.96))
    _paint(image, where=np.abs(v - middle + 0.085) < 0.009, colour=(0.92, 0.88, 0.86))
    _paint(image, where=(v < 0.20) | (v > 0.81), colour=(0.74, 0.75, 0.77))
    return _to_rgb(image)


def plaster(*, height: int = 128, width: int = 128) -> np.ndarray:
    """A wall lit from above: light at the top, darker at the skirting."""
    random = np.random.default_rng(11)
    fall_off = np.linspace(1.0, 0.70, height)[:, None]
    level = fall_off * (0.99 + 0.02 * (_smooth_noise(random, height=height, width=width, rows=24, columns=24) - 0.5))
    return _to_rgb(level[..., None] * np.array([0.80, 0.83, 0.86]))


def add_texture(spec: mujoco.MjSpec, *, name: str, image: np.ndarray) -> str:
    """Puts ``image`` (H, W, 3) uint8 into ``spec`` as a 2-D texture and gives its name."""
    texture = spec.add_texture(name=name, type=mujoco.mjtTexture.mjTEXTURE_2D)
    texture.height, texture.width, _ = image.shape
    texture.nchannel = 3
    texture.data = np.ascontiguousarray(image).tobytes()
    return name


def add_material(
    spec: mujoco.MjSpec,
    *,
    name: str,
    rgba: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
    texture: str | None = None,
    emission: float = 0.0,
    specular: float = 0.25,
    shininess: float = 0.4,
    repeat: tuple[float, float] = (1.0, 1.0),
) -> str:
    """Puts a material into ``spec`` and gives its name. ``rgba`` tints the texture where there is one."""
    material = spec.add_material(name=name)
    material.rgba = rgba
    material.emission = emission
    material.specular = specular
    material.shininess = shininess
    if texture is not None:
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = texture
        material.texrepeat = repeat
    return name


def _smooth_noise(random: np.random.Generator, *, height: int, width: int, rows: int, columns: int) -> np.ndarray:
    grid = random.uniform(0.0, 1.0, (rows + 1, columns + 1))
    y = np.linspace(0.0, rows, height, endpoint=False)
    x = np.linspace(0.0, columns, width, endpoint=False)
    row, column = y.astype(int), x.astype(int)
    fy = _ease(y - row)[:, None]
    fx = _ease(x - column)[None, :]
    top = grid[row][:, column] * (1 - fx) + grid[row][:, column + 1] * fx
    bottom = grid[row + 1][:, column] * (1 - fx) + grid[row + 1][:, column + 1] * fx
    return top * (1 - fy) + bottom * fy


def _ease(fraction: np.ndarray) -> np.ndarray:
    return fraction * fraction * (3.0 - 2.0 * fraction)


def _paint(image: np.ndarray, *, where: np.ndarray, colour: tuple[float, float, float]) -> None:
    image[where] = colour


def _to_rgb(image: np.ndarray) -> np.ndarray:
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
