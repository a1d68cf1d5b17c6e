from dataclasses import replace

import pytest

from policy_server import wire
from policy_server.contract import SIX_JOINTS_AND_GRIPPER, Contract, ContractError, Interface

CONTRACT = Contract(
    policy="nano-random",
    trained=False,
    interface=SIX_JOINTS_AND_GRIPPER,
    image_size=(96, 96),
    relative_joints=True,
    prefix_conditioning=False,
    motion_image=False,
    normalization_digest="ab",
    checkpoint_digest="cd",
)


def test_a_contract_survives_the_wire() -> None:
    metadata = wire.unpack(wire.pack({"contract": CONTRACT.to_metadata()}))
    assert Contract.from_metadata(metadata) == CONTRACT


def test_the_backends_of_the_training_pictures_survive_the_wire_and_may_be_absent() -> None:
    trained = replace(CONTRACT, camera_backends={"wrist": ["zed", "replay"]})
    metadata = wire.unpack(wire.pack({"contract": trained.to_metadata()}))
    assert Contract.from_metadata(metadata) == trained
    older = {key: value for key, value in CONTRACT.to_metadata().items() if key != "camera_backends"}
    assert Contract.from_metadata({"contract": older}) == CONTRACT
    with pytest.raises(ContractError, match="camera_backends"):
        Contract.from_metadata({"contract": older | {"camera_backends": {"wrist": "zed"}}})


def test_what_the_policy_has_seen_survives_the_wire_and_may_be_absent() -> None:
    seen = replace(CONTRACT, prompts=("Put the cup on the plate",), state_low=(-1.0,) * 7, state_high=(1.0,) * 7)
    assert Contract.from_metadata(wire.unpack(wire.pack({"contract": seen.to_metadata()}))) == seen
    older = {key: value for key, value in CONTRACT.to_metadata().items() if key not in ("prompts", "state_low")}
    assert Contract.from_metadata({"contract": older}) == CONTRACT
    with pytest.raises(ContractError, match="state_low"):
        Contract.from_metadata({"contract": older | {"state_low": ["a"]}})


def test_states_outside_of_what_was_seen_are_named() -> None:
    seen = replace(CONTRACT, state_low=(-1.0,) * 6 + (0.0,), state_high=(1.0,) * 6 + (1.0,))
    assert seen.strange_states([0.0, 1.1, -1.15, 0.0, 0.0, 0.0, 0.5]) == []
    (line,) = seen.strange_states([0.0, 1.1, -1.25, 0.0, 0.0, 0.0, 0.5])
    assert line == "joint_3 is -1.250, the policy has seen -1.000 to 1.000"
    assert CONTRACT.strange_states([9.0] * 7) == []


def test_a_stock_server_has_no_contract() -> None:
    assert Contract.from_metadata({}) is None


def test_a_newer_peers_unknown_keys_are_left_alone() -> None:
    assert Contract.from_metadata({"contract": CONTRACT.to_metadata() | {"colour": "red"}}) == CONTRACT


def test_equal_interfaces_have_no_mismatches() -> None:
    assert CONTRACT.mismatches(SIX_JOINTS_AND_GRIPPER) == []


@pytest.mark.parametrize(
    ("changes", "robot_side", "policy_side"),
    [
        ({"fps": 10.0}, "10.0", "15.0"),
        ({"horizon": 50}, "50", "15"),
        ({"action_units": ("deg",) * 6 + ("closed_fraction",)}, "deg, deg", "rad, rad"),
        ({"image_keys": ("observation/image",)}, "[observation/image]", "observation/wrist_image_left"),
        ({"state_names": ("a", "b", "c", "d", "e", "f", "g")}, "[a, b", "[joint_1, joint_2"),
    ],
)
def test_each_mismatch_names_the_field_and_both_sides(
    changes: dict[str, object], robot_side: str, policy_side: str
) -> None:
    (line,) = CONTRACT.mismatches(replace(SIX_JOINTS_AND_GRIPPER, **changes))  # type: ignore[arg-type]
    robot, _, policy = line.partition(", the policy ")
    assert line.startswith(next(iter(changes)))
    assert robot_side in robot
    assert policy_side in policy


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 2}, "version 1, the server has 2"),
        ({"fps": "fast"}, "fps = 'fast' is no float"),
        ({"horizon": True}, "horizon = True is no int"),
        ({"horizon": 0}, "horizon >= 1"),
        ({"trained": 0}, "trained = 0 is no bool"),
        ({"state_names": "joint"}, "state_names = 'joint'"),
        ({"state_units": ["rad"]}, "7 state_names but 1 state_units"),
        ({"image_size": [96]}, "image_size"),
    ],
)
def test_a_malformed_contract_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ContractError, match=reason):
        Contract.from_metadata({"contract": CONTRACT.to_metadata() | changes})


def test_a_missing_field_is_named() -> None:
    flat = CONTRACT.to_metadata()
    del flat["checkpoint_digest"]
    with pytest.raises(ContractError, match="checkpoint_digest is missing"):
        Contract.from_metadata({"contract": flat})


def test_an_interface_survives_json() -> None:
    assert Interface.from_json(SIX_JOINTS_AND_GRIPPER.to_json()) == SIX_JOINTS_AND_GRIPPER
