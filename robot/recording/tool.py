"""What ``launch/episodes`` does."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.progress import track
from rich.table import Table

from configs.report import job_console, write_json
from robot.clock import seconds_to_ns
from robot.recording.check import Report, check_directory
from robot.recording.dataset.errors import DatasetError
from robot.recording.dataset.import_episode import import_episode
from robot.recording.episode import Episode, EpisodeError, Listing, list_episodes
from robot.recording.episode_writer import RecordingError
from robot.recording.layout import LayoutError
from robot.recording.meta import EpisodeMeta, EpisodeState, MetaError, Outcome, Trim, read_meta, sync_folder
from robot.recording.protobuf import ProtobufError
from robot.recording.salvage import EpisodeBusyError, salvage_directory, salvage_episode
from robot.recording.sheet import write_sheet
from robot.recording.view import save_view, show_view

TRASH_NAME = ".trash"

Directory = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="folder of episodes", metavar="DIR")]
EpisodeIds = Annotated[
    tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(help="ids, or parts of ids that fit one", metavar="ID")
]
EpisodeId = Annotated[str, tyro.conf.Positional, tyro.conf.arg(help="id, or a part that fits one", metavar="ID")]
JsonFile = Annotated[Path | None, tyro.conf.arg(name="json", help="also write the result to this file")]


def show_list(
    directory: Directory,
    *,
    task: str | None = None,
    label: str | None = None,
    operator: str | None = None,
    rig: str | None = None,
    json_file: JsonFile = None,
) -> None:
    """List episodes, oldest first; filters must all match."""
    listing = list_episodes(directory)
    shown = [
        meta
        for meta in listing.episodes
        if (task is None or meta.description.request.task == task)
        and (label is None or str(meta.outcome).startswith(label))
        and (operator is None or meta.description.request.operator == operator)
        and (rig is None or meta.description.rig_name == rig)
    ]
    table = Table(title=f"{len(shown)} of {len(listing.episodes)} episodes in {directory}")
    for column in ("id", "started", "rig", "task", "operator", "label", "seconds", "steps", "notes"):
        table.add_column(column, justify="right" if column in ("seconds", "steps") else "left")
    for meta in shown:
        request, summary = meta.description.request, meta.summary
        table.add_row(
            meta.id,
            meta.description.started_text(),
            meta.description.rig_name,
            request.task,
            request.operator,
            "recording" if meta.state is EpisodeState.RECORDING else str(meta.outcome),
            f"{summary.duration_s:.1f}",
            str(summary.messages.get("/steps", 0)),
            meta.notes,
        )
    console = job_console()
    console.print(table)
    _report_problems(listing)
    if json_file is not None:
        write_json(json_file, {"episodes": [meta.to_json() for meta in shown], "problems": list(listing.problems)})


def show(directory: Directory, ids: EpisodeIds = (), *, output: Path | None = None) -> None:
    """Write a contact sheet (PNG) of each episode: pictures, joints, gripper, timing. Into OUTPUT, else into its
    folder."""
    for meta in track(_choose(list_episodes(directory), ids), description="contact sheets", transient=True):
        path = (directory / meta.id if output is None else output) / f"{meta.id}.png"
        write_sheet(Episode(directory / meta.id), path)
        print(path)


def view(directory: Directory, id: EpisodeId, *, save: Path | None = None) -> None:
    """Look at an episode in Rerun: arm, pictures, expected motion, actions, events. --save FILE.rrd only writes it."""
    meta = _choose_one(directory, id)
    path = directory / meta.id / f"{meta.id}.rrd" if save is None else save
    save_view(Episode(directory / meta.id), path)
    print(path)
    if save is None:
        show_view(path)


def check(directory: Directory, ids: EpisodeIds = (), *, json_file: JsonFile = None) -> None:
    """Check episodes: gaps, skew, late steps, frozen or dark pictures, idle stretches, jerk, jumps, gripper,
    duration."""
    listing = list_episodes(directory)
    chosen = [meta for meta in _choose(listing, ids) if meta.state is EpisodeState.CLOSED]
    reports = []
    for meta in track(chosen, description="checking", transient=True):
        reports += check_directory(directory, listing=listing, chosen=[meta])
    job_console().print(report_table(reports))
    _report_problems(listing)
    if json_file is not None:
        write_json(json_file, {"episodes": [report.to_json() for report in reports]})


def report_table(reports: Sequence[Report]) -> Table:
    """What was found, a row an episode."""
    table = Table(title=f"{len(reports)} episodes checked")
    for column in ("id", "score", "steps", "pictures", "problems"):
        table.add_column(column, justify="right" if column in ("score", "steps") else "left")
    for report in reports:
        frames = ", ".join(f"{camera} {count}" for camera, count in report.frames.items())
        problems = "\n".join(f"{problem.kind.text}: {problem.text}" for problem in report.problems)
        table.add_row(report.id, str(report.score), str(report.rows), frames, problems or "none")
    return table


def label(
    directory: Directory, id: EpisodeId, label: Annotated[str, tyro.conf.Positional], *, notes: str | None = None
) -> None:
    """Give an episode a label: success, failure, discarded, unconfirmed or aborted:REASON; and notes, if given."""
    meta = _choose_one(directory, id)
    changed = meta.with_outcome(Outcome.parse(label))
    replace(changed, notes=meta.notes if notes is None else notes).write(directory / meta.id)
    print(f"{meta.id}: {meta.outcome} -> {changed.outcome}")


def trim(
    directory: Directory, id: EpisodeId, *, start: float = 0.0, end: float | None = None, clear: bool = False
) -> None:
    """Let only the seconds from START to END of an episode count. Nothing is deleted; --clear undoes it."""
    meta = _choose_one(directory, id)
    if clear:
        replace(meta, trim=None).write(directory / meta.id)
        print(f"{meta.id}: counts from beginning to end")
        return
    first_ns, last_ns = Episode(directory / meta.id, whole=True).span_ns()
    length_s = (last_ns - first_ns) / 1e9
    end = length_s if end is None else end
    if not 0.0 <= start < end <= length_s + 1e-9:
        raise EpisodeError(f"expected 0 <= start < end <= {length_s:.3f} s, got start {start:g} and end {end:g}")
    cut = Trim(first_ns + seconds_to_ns(start), min(last_ns, first_ns + seconds_to_ns(end)))
    replace(meta, trim=cut).write(directory / meta.id)
    print(f"{meta.id}: {start:.3f} s to {end:.3f} s of {length_s:.3f} s count")


def salvage(directory: Directory, ids: EpisodeIds = ()) -> None:
    """Repair episodes whose recorder died; with ids, rebuild those from their intact chunks whatever their state."""
    if not directory.is_dir():
        raise EpisodeError(f"{directory}: no such folder")
    if ids:
        names = [folder.name for folder in sorted(directory.iterdir()) if (folder / "episode.mcap").is_file()]
        salvaged = [salvage_episode(directory / _match(names, part)) for part in ids]
    else:
        salvaged = salvage_directory(directory)
    for meta in salvaged:
        print(f"{meta.id}: {meta.outcome}, {meta.summary.duration_s:.1f} s recovered", *meta.summary.damage, sep="\n  ")
    print(f"{len(salvaged)} episode(s) salvaged")


def delete(directory: Directory, ids: EpisodeIds, *, undo: bool = False) -> None:
    """Move episodes to the trash folder DIR/.trash; --undo brings them back. Emptying the trash is left to you."""
    if not ids:
        raise EpisodeError("expected at least one episode id")
    trash = directory / TRASH_NAME
    source, target = (trash, directory) if undo else (directory, trash)
    for meta in _choose(list_episodes(source), ids):
        if meta.state is not EpisodeState.CLOSED:
            raise EpisodeError(f"{meta.id} is still being recorded, or its recorder died: salvage it first")
        target.mkdir(exist_ok=True)
        if (target / meta.id).exists():
            raise EpisodeError(f"{target / meta.id} exists already")
        (source / meta.id).rename(target / meta.id)
        sync_folder(source)
        sync_folder(target)
        print(f"{meta.id} -> {target}")


def import_from_dataset(directory: Directory, *, dataset: Path, episode: int) -> None:
    """Make a raw episode out of one episode of a LeRobot v3.0 dataset, to replay or look at it."""
    meta = import_episode(dataset, episode=episode, directory=directory)
    print(f"{meta.id}: {meta.summary.duration_s:.1f} s from episode {episode} of {dataset}")


_COMMANDS: dict[str, Callable[..., Any]] = {
    "list": show_list,
    "show": show,
    "view": view,
    "check": check,
    "label": label,
    "trim": trim,
    "salvage": salvage,
    "delete": delete,
    "import": import_from_dataset,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; exit code 1 with one line on stderr if it can't be done."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            _COMMANDS, prog="launch/episodes", description="Look after recorded episodes.", args=arguments
        )
    except (
        EpisodeError,
        MetaError,
        EpisodeBusyError,
        RecordingError,
        DatasetError,
        LayoutError,
        ProtobufError,
        OSError,
    ) as error:
        print(f"episodes: {error}", file=sys.stderr)
        return 1
    return 0


def _choose(listing: Listing, parts: Sequence[str]) -> list[EpisodeMeta]:
    """The episodes meant by ``parts`` of ids, all if there are none."""
    if not parts:
        return list(listing.episodes)
    by_id = {meta.id: meta for meta in listing.episodes}
    return [by_id[_match(list(by_id), part)] for part in parts]


def _choose_one(directory: Path, part: str) -> EpisodeMeta:
    (meta,) = _choose(list_episodes(directory), [part])
    if meta.state is not EpisodeState.CLOSED:
        raise EpisodeError(f"{meta.id} is still being recorded, or its recorder died: salvage it first")
    return read_meta(directory / meta.id)


def _match(names: Sequence[str], part: str) -> str:
    found = [name for name in names if name == part] or [name for name in names if part in name]
    if len(found) != 1:
        shown = f": {', '.join(found[:5])}" if found else ""
        raise EpisodeError(f"expected part of exactly one episode id, {part!r} fits {len(found)}{shown}")
    return found[0]


def _report_problems(listing: Listing) -> None:
    for problem in listing.problems:
        print(f"warning: {problem}", file=sys.stderr)
