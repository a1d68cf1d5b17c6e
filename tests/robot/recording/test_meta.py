"""Ids, labels and descriptions, whatever people call their tasks."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.recording import EpisodeRequest, Label, Outcome
from robot.recording.meta import Description, EpisodeMeta, EpisodeState, MetaError, new_id, read_meta

writable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200)


def description(request: EpisodeRequest) -> Description:
    return Description(
        id="x",
        request=request,
        rig={"name": "r"},
        rig_digest="",
        cameras={},
        software="s",
        started_wall_ns=1,
        started_monotonic_ns=2,
    )


@settings(max_examples=100)
@given(writable)
def test_any_task_name_gives_a_plain_unique_folder_name(task: str) -> None:
    first, second = (new_id(task, wall_ns=1_700_000_000_000_000_000) for _ in range(2))
    assert first != second
    assert first.startswith("20231114T221320")
    assert set(first) <= set("abcdefghijklmnopqrstuvwxyz0123456789-T")
    assert len(first) < 80


@settings(max_examples=50)
@given(writable, writable)
def test_a_description_survives_being_stored(task: str, notes: str) -> None:
    original = description(EpisodeRequest(task=task, prompt="p", notes=notes, extra={"k": [1, None]}))
    assert Description.from_record(original.to_record()) == original


def test_a_description_that_was_changed_on_disk_is_refused() -> None:
    record = description(EpisodeRequest(task="cup", prompt="p")).to_record()
    record["json"] = record["json"].replace("cup", "can")
    with pytest.raises(MetaError, match="digest"):
        Description.from_record(record)


@pytest.mark.parametrize("bad", ["\ud800", "a\0b", "x" * 20_000, 7])
def test_text_that_no_file_can_hold_is_refused_at_once(bad: str) -> None:
    with pytest.raises(ValueError, match="task: expected"):
        EpisodeRequest(task=bad, prompt="p")
    with pytest.raises(ValueError, match="what JSON can hold"):
        EpisodeRequest(task="cup", prompt="p", extra={"x": float("nan")})


def test_outcomes_are_written_with_their_reason_and_unknown_labels_name_the_known() -> None:
    aborted = Outcome(Label.ABORTED, "camera")
    assert str(aborted) == "aborted:camera"
    assert Outcome.parse("aborted:camera") == aborted
    assert Outcome.parse("success") == Outcome(Label.SUCCESS)
    with pytest.raises(MetaError, match=r"unconfirmed, success.*got 'great'"):
        Outcome.parse("great")


def test_meta_data_come_back_and_damage_is_named(tmp_path: Path) -> None:
    meta = EpisodeMeta(description(EpisodeRequest(task="☕\n", prompt="p")), EpisodeState.CLOSED)
    meta.write(tmp_path)
    assert read_meta(tmp_path) == meta
    (tmp_path / "meta.json").write_text('{"format": "other"}')
    with pytest.raises(MetaError, match="expected 'nova-pi-episode'"):
        read_meta(tmp_path)
    (tmp_path / "meta.json").write_text('{"form')
    with pytest.raises(MetaError, match="salvage"):
        read_meta(tmp_path)
