"""Configuration files: the shipped ones are valid, wrong ones are refused with file, path and what is allowed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.schema import CONFIGS, ConfigError, available, load_policy, load_rig, load_task

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[Change], str]:
    """Load the twin's rig after ``change`` and return the refusal."""

    def load(change: Change) -> str:
        content = yaml.safe_load((CONFIGS / "rigs" / "twin.yaml").read_text())
        change(content)
        path = tmp_path / "rig.yaml"
        path.write_text(yaml.dump(content))
        with pytest.raises(ConfigError) as caught:
            load_rig(path)
        assert str(path) in str(caught.value)
        return str(caught.value)

    return load


@pytest.mark.parametrize("name", available("rigs"))
def test_every_shipped_rig_is_valid_and_named_after_its_file(name: str) -> None:
    assert load_rig(name).name == name


@pytest.mark.parametrize("name", available("tasks"))
def test_every_shipped_task_is_valid(name: str) -> None:
    assert load_task(name).prompt.startswith("Put the")


@pytest.mark.parametrize("name", available("policies"))
def test_every_shipped_policy_is_valid(name: str) -> None:
    assert load_policy(name).name == name


def test_an_unknown_key_is_refused_with_its_path_and_the_allowed_keys(refused: Callable[[Change], str]) -> None:
    message = refused(lambda rig: rig["arm"]["servo"].update(rate=125))
    assert "arm.servo.rate: unknown key; allowed here: rate_hz, aheadtime, gain" in message


def test_degrees_where_radians_belong_are_refused(refused: Callable[[Change], str]) -> None:
    message = refused(lambda rig: rig["start"].update(joints_rad=[0, 0, -90, 0, 90, 0]))
    assert "start.joints_rad.2" in message
    assert "-6.28" in message


def test_millimetres_per_second_where_metres_belong_are_refused(refused: Callable[[Change], str]) -> None:
    message = refused(lambda rig: rig["limits"].update(max_tcp_speed_m_s=250))
    assert "limits.max_tcp_speed_m_s" in message
    assert "less than or equal to 2" in message
    assert "250" in message


def test_several_mistakes_are_all_told_at_once(refused: Callable[[Change], str]) -> None:
    def change(rig: dict[str, Any]) -> None:
        rig["gripper"]["slave_id"] = 0
        rig["arm"]["collision_level"] = 9

    message = refused(change)
    assert "gripper.slave_id" in message
    assert "arm.collision_level" in message


def test_a_missing_camera_is_named(refused: Callable[[Change], str]) -> None:
    assert "wrist is missing" in refused(lambda rig: rig["cameras"].pop("wrist"))


def test_an_inside_out_workspace_is_refused(refused: Callable[[Change], str]) -> None:
    message = refused(lambda rig: rig["limits"]["workspace"].update(lower_m=[0.9, 0, 0]))
    assert "must be below upper_m" in message


def test_a_start_posture_beyond_the_joint_limits_is_refused(refused: Callable[[Change], str]) -> None:
    assert "joint 3" in refused(lambda rig: rig["start"].update(joints_rad=[0, 0, -2.78, 0, 1.5, 0]))


def test_not_a_number_is_refused(refused: Callable[[Change], str]) -> None:
    assert "limits.max_jump_rad" in refused(lambda rig: rig["limits"].update(max_jump_rad=float("nan")))


def test_a_name_that_does_not_exist_lists_those_that_do() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file.*lab, twin"):
        load_rig("nowhere")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [", "not valid YAML"),
        ("- a\n- b\n", "expected a mapping"),
        ("", "expected a mapping"),
        ("name: cup\nname: can\n", "given twice"),
    ],
)
def test_what_is_no_yaml_mapping_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=expected):
        load_task(path)
