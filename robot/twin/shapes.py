"""Surfaces of revolution as triangle meshes, for parts that must look turned or moulded.

Meshes here are only looked at: what collides is made of boxes, cylinders and capsules.
"""

from dataclasses import dataclass

import mujoco
import numpy as np

SEGMENTS = 28


@dataclass(frozen=True)
class Surface:
    """``vertices`` (n, 3) m, ``texture`` (n, 2) in 0..1 (around, along), ``faces`` (m, 3) wound outwards."""

    vertices: np.ndarray
    texture: np.ndarray
    faces: np.ndarray


def lathe(profile: np.ndarray, *, segments: int = SEGMENTS) -> Surface:
    """Turns ``profile`` (n, 2), pairs (radius, z) in metres, about the z axis.

    The profile runs with the material on its left seen with r to the right and z up, so an outer wall goes upwards; it
    starts and ends on the axis or at the point where it began. The seam at angle 0 has double vertices for the texture.
    """
    points = np.asarray(profile, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or np.any(points[:, 0] < 0.0):
        raise ValueError(f"profile: expected (n >= 3, 2) of (radius >= 0, z), got shape {points.shape}")
    angles = np.linspace(0.0, 2.0 * np.pi, segments + 1)
    radius, height = points[:, 0], points[:, 1]
    x = radius[:, None] * np.cos(angles)
    y = radius[:, None] * np.sin(angles)
    z = np.broadcast_to(height[:, None], x.shape)
    vertices = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    lengths = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    around = np.broadcast_to(np.linspace(0.0, 1.0, segments + 1), x.shape)
    along = np.broadcast_to((lengths / lengths[-1])[:, None], x.shape)
    texture = np.stack([around, along], axis=-1).reshape(-1, 2)
    faces = []
    stride = segments + 1
    for row in range(len(points) - 1):
        for column in range(segments):
            a = row * stride + column
            b, c, d = a + 1, a + stride, a + stride + 1
            if radius[row] > 0.0:
                faces.append((a, b, d))
            if radius[row + 1] > 0.0:
                faces.append((a, d, c))
    return Surface(vertices=vertices, texture=texture, faces=np.array(faces, dtype=np.int32))


def rounded_cylinder_profile(*, radius: float, half_length: float, fillet: float, steps: int = 4) -> np.ndarray:
    """Profile (n, 2) of a cylinder about the origin whose two edges are rounded with ``fillet`` metres."""
    if not 0.0 < fillet <= min(radius, half_length):
        raise ValueError(
            f"fillet {fillet} m must be above 0 and at most radius {radius} m and half length {half_length} m"
        )
    turn = np.linspace(0.0, np.pi / 2, steps)
    bottom = np.stack([radius - fillet + fillet * np.sin(turn), -half_length + fillet - fillet * np.cos(turn)], axis=1)
    top = np.stack([radius - fillet + fillet * np.cos(turn), half_length - fillet + fillet * np.sin(turn)], axis=1)
    return np.concatenate([[[0.0, -half_length]], bottom, top, [[0.0, half_length]]])


def add_surface(spec: mujoco.MjSpec, *, name: str, surface: Surface) -> str:
    """Puts the surface into ``spec`` as a mesh and gives its name. A name that is there already is reused."""
    if spec.mesh(name) is None:
        mesh = spec.add_mesh(name=name)
        mesh.uservert = surface.vertices.ravel().tolist()
        mesh.userface = surface.faces.ravel().tolist()
        mesh.usertexcoord = surface.texture.ravel().tolist()
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
    return name


def rounded_cylinder(spec: mujoco.MjSpec, *, radius: float, half_length: float, fillet: float) -> str:
    """Name of a mesh in ``spec`` of a rounded cylinder about the origin along z; lengths in metres."""
    name = f"rounded_{radius * 1e4:.0f}_{half_length * 1e4:.0f}_{fillet * 1e4:.0f}"
    profile = rounded_cylinder_profile(radius=radius, half_length=half_length, fillet=fillet)
    return add_surface(spec, name=name, surface=lathe(profile))


def quaternion_z_to(direction: np.ndarray | tuple[float, float, float]) -> np.ndarray:
    """Unit quaternion (w, x, y, z) that turns +z into ``direction`` (3,)."""
    quaternion = np.zeros(4)
    mujoco.mju_quatZ2Vec(quaternion, np.asarray(direction, dtype=np.float64))
    return quaternion


def quaternion_from_rpy(rpy: tuple[float, float, float]) -> np.ndarray:
    """Unit quaternion (w, x, y, z) of fixed-axis XYZ angles in radians, R = Rz(yaw) Ry(pitch) Rx(roll)."""
    quaternion = np.zeros(4)
    mujoco.mju_euler2Quat(quaternion, np.asarray(rpy, dtype=np.float64), "XYZ")
    return quaternion
