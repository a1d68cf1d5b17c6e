"""A policy and the cameras that it was not trained on."""

import pytest

from robot.cameras.compatibility import BackendMismatchError, backend_matches, require_matching_backends

ZED = {"exterior": "zed", "wrist": "zed"}


def test_the_same_backends_match_and_others_do_not() -> None:
    assert backend_matches(ZED, now=ZED)
    assert not backend_matches(ZED, now={"exterior": "zed", "wrist": "uvc"})
    assert not backend_matches(ZED, now={"exterior": "zed"})


def test_a_policy_trained_on_several_backends_runs_on_each_of_them() -> None:
    trained_on = {"exterior": ["zed", "twin"], "wrist": ["twin", "zed"]}
    assert backend_matches(trained_on, now=ZED)
    assert not backend_matches(trained_on, now={"exterior": "uvc", "wrist": "zed"})


def test_a_policy_that_does_not_say_is_not_held_back() -> None:
    assert backend_matches({}, now=ZED)
    assert backend_matches({"wrist": []}, now=ZED)


def test_a_mismatch_is_refused_naming_both_sides_unless_an_operator_allows_it() -> None:
    now = {"exterior": "zed", "wrist": "uvc"}
    with pytest.raises(BackendMismatchError, match="camera wrist trained on zed, now uvc") as refusal:
        require_matching_backends(ZED, now=now)
    assert "exterior trained" not in str(refusal.value)
    require_matching_backends(ZED, now=now, allow_other=True)
    require_matching_backends(ZED, now=ZED)
