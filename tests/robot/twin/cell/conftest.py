"""One simulation and one renderer for all tests of the cell, as building a scene takes a moment."""

from collections.abc import Iterator

import pytest

from robot.twin.render import SceneRenderer
from robot.twin.scene import SceneOptions
from robot.twin.sim import TwinSim


@pytest.fixture(scope="session")
def shared_sim() -> TwinSim:
    return TwinSim()


@pytest.fixture
def sim(shared_sim: TwinSim) -> TwinSim:
    """A cell at time 0 with the layout of seed 0."""
    shared_sim.reset(0)
    return shared_sim


@pytest.fixture(scope="session")
def renderer() -> Iterator[SceneRenderer]:
    with SceneRenderer(SceneOptions(max_height=360, max_width=640)) as renderer:
        yield renderer
