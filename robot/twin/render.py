"""Pictures of the scene: colour, depth and segmentation, off screen and deterministic.

A renderer has its own copy of the scene and is fed with `SceneState`s, so it can live in another process than the
physics. OpenGL binds it to the thread that made it.
"""

from types import TracebackType

import mujoco
import numpy as np

from robot.cameras.frame import Intrinsics
from robot.twin.boards import BoardPlacer
from robot.twin.collision import VISUAL_GROUP
from robot.twin.contact_shadows import add_contact_shadows
from robot.twin.offscreen import open_context
from robot.twin.optics import CameraName, intrinsics, vertical_field_deg
from robot.twin.scene import SceneOptions, build_scene
from robot.twin.scene_state import SceneState
from robot.twin.variation import VariationApplier

_MAX_GEOMS = 1000


class SceneRenderer:
    """Draws scene states. Close it, or use it as a context manager, to free the OpenGL context."""

    def __init__(self, options: SceneOptions | None = None) -> None:
        self.scene = build_scene(options)
        model = self.scene.model
        self._model = model
        self._data = mujoco.MjData(model)
        self._applier = VariationApplier(model)
        self._boards = BoardPlacer(model)
        self._camera_ids = {camera: model.camera(camera.label).id for camera in CameraName}
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 0
        self._option.geomgroup[VISUAL_GROUP] = 1
        self._picture = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        self._picture.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = self.scene.options.shadows
        self._picture.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._gl = open_context(width=self.scene.options.max_width, height=self.scene.options.max_height)
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._closed = False

    def render(self, state: SceneState, *, camera: CameraName, height: int, width: int) -> np.ndarray:
        """The picture (H, W, 3) uint8 RGB."""
        rectangle = self._draw(state, camera, height=height, width=width, decorated=True)
        image = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, rectangle, self._context)
        return np.ascontiguousarray(image[::-1])

    def geometry(
        self, state: SceneState, *, camera: CameraName, height: int, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Distance along the optical axis (H, W) float32 in metres, and body index in the model per pixel (H, W) int32;
        -1 is the background."""
        flags = self._picture.flags
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = True
        flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = True
        colours, raw = np.empty((height, width, 3), np.uint8), np.empty((height, width), np.float32)
        try:
            rectangle = self._draw(state, camera, height=height, width=width)
            mujoco.mjr_readPixels(colours, raw, rectangle, self._context)
        finally:
            flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = False
            flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = False
        extent = self._model.stat.extent
        near, far = self._model.vis.map.znear * extent, self._model.vis.map.zfar * extent
        # The buffer holds reversed depth that mjr_readPixels turns into 0 near .. 1 far.
        metres = near / (1.0 - raw.astype(np.float64) * (1.0 - near / far))
        drawn = colours.astype(np.int32) @ np.array([1, 1 << 8, 1 << 16], np.int32)
        bodies = np.full(self._picture.ngeom + 1, -1, np.int32)
        for geom in self._picture.geoms[: self._picture.ngeom]:
            if geom.segid >= 0 and geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                bodies[geom.segid + 1] = self._model.geom_bodyid[geom.objid]
        body = bodies[np.where(drawn < len(bodies), drawn, 0)]
        return np.ascontiguousarray(metres[::-1].astype(np.float32)), np.ascontiguousarray(body[::-1])

    def camera_pose(self, state: SceneState, camera: CameraName) -> np.ndarray:
        """Pose (4, 4) of a camera in the world, axes as MuJoCo's: x right, y up, z backwards."""
        self._load(state)
        pose = np.eye(4)
        pose[:3, :3] = self._data.cam_xmat[self._camera_ids[camera]].reshape(3, 3)
        pose[:3, 3] = self._data.cam_xpos[self._camera_ids[camera]]
        return pose

    def body_poses(self, state: SceneState) -> np.ndarray:
        """Pose (N, 4, 4) of every body of the model in the world."""
        self._load(state)
        poses = np.tile(np.eye(4), (self._model.nbody, 1, 1))
        poses[:, :3, :3] = self._data.xmat.reshape(-1, 3, 3)
        poses[:, :3, 3] = self._data.xpos
        return poses

    def intrinsics(self, camera: CameraName, *, height: int, width: int) -> Intrinsics:
        """Intrinsics of the pictures of that size."""
        return intrinsics(camera, height=height, width=width)

    def close(self) -> None:
        """Frees the OpenGL context; more than once does no harm."""
        if not self._closed:
            self._closed = True
            self._context.free()
            self._gl.free()

    def __enter__(self) -> "SceneRenderer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self, state: SceneState) -> None:
        if state.qpos.shape != (self._model.nq,):
            raise ValueError(f"scene state: expected qpos of shape ({self._model.nq},), got {state.qpos.shape}")
        self._applier.apply(state.variation)
        self._data.qpos[:] = state.qpos
        self._data.mocap_pos[self.scene.plate_mocap] = state.plate_position_m
        self._data.mocap_quat[self.scene.plate_mocap] = state.plate_quaternion
        mujoco.mj_kinematics(self._model, self._data)
        self._boards.place(self._data, state.board, flange_site=self.scene.flange_site)
        mujoco.mj_camlight(self._model, self._data)

    def _draw(
        self, state: SceneState, camera: CameraName, *, height: int, width: int, decorated: bool = False
    ) -> mujoco.MjrRect:
        options = self.scene.options
        if not (0 < height <= options.max_height and 0 < width <= options.max_width):
            raise ValueError(
                f"picture of {height} x {width} pixels: this renderer was made for at most "
                f"{options.max_height} x {options.max_width}; give SceneOptions a larger max_height and max_width"
            )
        if self._closed:
            raise RuntimeError("this renderer is closed; make a new one")
        self._load(state)
        camera_id = self._camera_ids[camera]
        self._model.cam_fovy[camera_id] = vertical_field_deg(camera, height=height, width=width)
        self._camera.fixedcamid = camera_id
        self._gl.make_current()
        rectangle = mujoco.MjrRect(0, 0, width, height)
        category = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, self._data, self._option, None, self._camera, category, self._picture)
        if decorated and not options.shadows:
            add_contact_shadows(self.scene, self._data, self._picture)
        mujoco.mjr_render(rectangle, self._picture, self._context)
        return rectangle
