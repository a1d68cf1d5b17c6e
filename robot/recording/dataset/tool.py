"""What ``launch/export`` does."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from configs.report import job_console, write_json
from robot.recording.dataset.errors import DatasetError
from robot.recording.dataset.export import ExportOptions, ExportReport, export
from robot.recording.dataset.layout import ActionChoice, VideoCodec
from robot.recording.episode import EpisodeError
from robot.recording.meta import Label


def run(
    raw: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="folder of raw episodes", metavar="RAW_DIR")],
    dataset: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="new or exported folder", metavar="DATASET_DIR")],
    *,
    labels: Annotated[tuple[Label, ...], tyro.conf.EnumChoicesFromValues] = (Label.SUCCESS,),
    action: Annotated[ActionChoice, tyro.conf.EnumChoicesFromValues] = ActionChoice.JOINTS,
    codec: Annotated[VideoCodec, tyro.conf.EnumChoicesFromValues] = VideoCodec.H264,
    license: str = "other",
    json_file: Annotated[Path | None, tyro.conf.arg(name="json", help="also write the result to this file")] = None,
) -> ExportReport:
    """Add raw episodes to a LeRobot v3.0 dataset. Doing it again adds only what is new.

    Args:
        labels: episodes with one of these labels go in.
        action: what the column action holds.
        codec: how pictures are stored.
        license: licence of the data, for the dataset card.
    """
    options = ExportOptions(labels=labels, action=action, codec=codec, license=license)
    report = export(raw, dataset, options=options, show_progress=True)
    console = job_console()
    table = Table(title=f"{dataset}: {report.total_episodes} episodes, {report.total_frames} rows")
    for name in ("raw episode", "became"):
        table.add_column(name)
    for one in report.exported:
        table.add_row(one.source_id, f"episode {one.episode}, {one.rows} rows")
    for source_id, reason in report.unfit.items():
        table.add_row(source_id, f"[red]left out:[/] {reason}")
    if table.row_count:
        console.print(table)
    console.print(
        f"{len(report.exported)} added, {len(report.already)} were there, {len(report.skipped)} have another label"
    )
    if json_file is not None:
        write_json(json_file, asdict(report))
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 with one line on stderr if nothing could be exported or an episode had to be left out."""
    try:
        report = tyro.cli(run, prog="launch/export", args=arguments)
    except (DatasetError, EpisodeError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    return 1 if report.unfit else 0
