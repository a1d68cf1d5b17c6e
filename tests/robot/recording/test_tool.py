"""launch/episodes and launch/export, as their users call them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from robot.recording import Episode, EpisodeMeta, EpisodeRequest, Label, Outcome
from robot.recording.dataset.tool import main as export_main
from robot.recording.meta import DATA_NAME, read_meta
from robot.recording.tool import main

Make = Callable[..., EpisodeMeta]
ROOT = Path(__file__).resolve().parents[3]


def test_list_filters_and_writes_json(
    episode_of: Make, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cup = episode_of(0.3, number=0)
    episode_of(0.3, number=1, request=EpisodeRequest(task="can", prompt="p", operator="Ann"))
    failed = episode_of(0.3, number=2, outcome=Outcome(Label.FAILURE))
    result = tmp_path / "list.json"

    def listed(*filters: str) -> list[str]:
        assert main(["list", str(raw), *filters, "--json", str(result)]) == 0
        return [episode["id"] for episode in json.loads(result.read_text())["episodes"]]

    assert len(listed()) == 3
    assert listed("--task", "cup") == [cup.id, failed.id]
    assert listed("--label", "failure") == [failed.id]
    assert len(listed("--operator", "Ann", "--rig", "small")) == 1
    assert listed("--rig", "lab") == []
    assert "0 of 3 episodes" in capsys.readouterr().out


def test_check_writes_what_the_design_promises(episode_of: Make, raw: Path, tmp_path: Path) -> None:
    meta = episode_of(1.0)
    assert main(["check", str(raw), "--json", str(tmp_path / "check.json")]) == 0
    (episode,) = json.loads((tmp_path / "check.json").read_text())["episodes"]
    assert episode == {
        "id": meta.id,
        "rows": 15,
        "frames": {"exterior": 30, "wrist": 30},
        "score": 100,
        "problems": [],
    }


def test_labels_and_notes_are_kept(episode_of: Make, raw: Path) -> None:
    meta = episode_of(0.3)
    assert main(["label", str(raw), meta.id[-6:], "failure", "--notes", "dropped ☕"]) == 0
    changed = read_meta(raw / meta.id)
    assert (changed.outcome, changed.notes) == (Outcome(Label.FAILURE), "dropped ☕")


def test_trim_is_undone_by_clear(episode_of: Make, raw: Path) -> None:
    meta = episode_of(2.0)
    size = (raw / meta.id / DATA_NAME).stat().st_size
    assert main(["trim", str(raw), meta.id, "--start", "0.5", "--end", "1.5"]) == 0
    trimmed = Episode(raw / meta.id)
    assert (len(trimmed.steps), len(trimmed.frame_times("wrist"))) == (15, 31)
    assert (raw / meta.id / DATA_NAME).stat().st_size == size
    assert main(["trim", str(raw), meta.id, "--clear"]) == 0
    assert len(Episode(raw / meta.id).steps) == 30


def test_delete_moves_to_the_trash_and_back(episode_of: Make, raw: Path) -> None:
    meta = episode_of(0.3)
    assert main(["delete", str(raw), meta.id]) == 0
    assert not (raw / meta.id).exists()
    assert (raw / ".trash" / meta.id / DATA_NAME).exists()
    assert main(["delete", str(raw), meta.id, "--undo"]) == 0
    assert Episode(raw / meta.id).meta.outcome == Outcome(Label.SUCCESS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["label", "RAW", "ID", "great"], "expected one of unconfirmed, success"),
        (["label", "RAW", "nonsense", "success"], "'nonsense' fits 0"),
        (["label", "RAW", "2025", "success"], "'2025' fits 2"),
        (["trim", "RAW", "ID", "--start", "3"], "expected 0 <= start < end <="),
        (["list", "RAW/absent"], "no such folder"),
        (["delete", "RAW"], "at least one episode id"),
    ],
)
def test_mistakes_end_in_one_clear_line(
    episode_of: Make, raw: Path, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    meta = episode_of(0.3)
    episode_of(0.3, number=1)
    assert main([part.replace("RAW", str(raw)).replace("ID", meta.id) for part in arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_damaged_meta_file_is_reported_and_salvaged(
    episode_of: Make, raw: Path, capsys: pytest.CaptureFixture
) -> None:
    meta = episode_of(0.3)
    (raw / meta.id / "meta.json").write_text("{")
    assert main(["list", str(raw)]) == 0
    assert "salvage" in capsys.readouterr().err
    assert main(["salvage", str(raw)]) == 0
    assert "1 episode(s) salvaged" in capsys.readouterr().out
    assert read_meta(raw / meta.id).description == meta.description


def test_export_and_import_from_the_command_line(episode_of: Make, raw: Path, tmp_path: Path) -> None:
    episode_of(1.0)
    result = tmp_path / "export.json"
    assert export_main([str(raw), str(tmp_path / "set"), "--json", str(result)]) == 0
    assert json.loads(result.read_text())["total_frames"] == 15
    assert main(["import", str(tmp_path / "back"), "--dataset", str(tmp_path / "set"), "--episode", "0"]) == 0
    (folder,) = (tmp_path / "back").iterdir()
    assert len(Episode(folder).steps) == 15


def test_export_says_what_to_do_when_nothing_is_labelled(
    episode_of: Make, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    episode_of(0.5, outcome=Outcome(Label.UNCONFIRMED))
    assert export_main([str(raw), str(tmp_path / "set")]) == 1
    assert "none of 1 closed episodes is labelled success" in capsys.readouterr().err
    assert export_main([str(raw), str(tmp_path / "set"), "--labels", "success", "unconfirmed"]) == 0


@pytest.mark.parametrize("job", ["episodes", "export"])
def test_the_jobs_explain_themselves(job: str) -> None:
    module = "robot.recording.tool" if job == "episodes" else "robot.recording.dataset.tool"
    program = f"import sys; from {module} import main; sys.exit(main(['--help']))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"launch/{job}" in done.stdout
