"""Raw episodes to a LeRobot v3.0 dataset; what is in it already is left alone."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from robot.recording.dataset import layout as form
from robot.recording.dataset.dataset import Dataset, DatasetSpec
from robot.recording.dataset.errors import DatasetError, UnfitEpisodeError
from robot.recording.dataset.layout import ActionChoice, PictureSize, VideoCodec
from robot.recording.dataset.resample import Rows, resample
from robot.recording.dataset.statistics import PictureHistogram
from robot.recording.dataset.video import write_video
from robot.recording.episode import Episode, EpisodeError, list_episodes
from robot.recording.layout import LayoutError
from robot.recording.meta import EpisodeMeta, EpisodeState, Label, MetaError
from robot.recording.protobuf import ProtobufError


@dataclass(frozen=True)
class ExportOptions:
    """Which episodes go in, and how."""

    labels: tuple[Label, ...] = (Label.SUCCESS,)
    action: ActionChoice = ActionChoice.JOINTS
    codec: VideoCodec = VideoCodec.H264
    license: str = "other"


@dataclass(frozen=True)
class Exported:
    """One episode that was added: its number in the dataset and its rows."""

    source_id: str
    episode: int
    rows: int


@dataclass(frozen=True)
class ExportReport:
    """What an export did. ``skipped`` episodes have another label, ``unfit`` ones a reason why they can't be rows."""

    exported: tuple[Exported, ...]
    already: tuple[str, ...]
    skipped: tuple[str, ...]
    unfit: dict[str, str]
    total_episodes: int
    total_frames: int


def export(raw: Path, dataset: Path, *, options: ExportOptions, show_progress: bool = False) -> ExportReport:
    """Add every episode of ``raw`` with one of the labels that ``dataset`` does not hold yet, oldest first.

    Exporting again adds nothing; an interrupted export goes on where it stopped. Raises `DatasetError` and
    `EpisodeError`.
    """
    listing = list_episodes(raw)
    closed = [meta for meta in listing.episodes if meta.state is EpisodeState.CLOSED]
    wanted = [meta for meta in closed if meta.outcome.label in options.labels]
    skipped = tuple(meta.id for meta in closed if meta.outcome.label not in options.labels)
    if not wanted:
        names = ", ".join(label.value for label in options.labels)
        raise DatasetError(
            f"{raw}: none of {len(closed)} closed episodes is labelled {names}. Label them with "
            "'launch/episodes label', or choose other labels with --labels."
        )
    with Dataset(dataset, _spec(wanted, options)) as target:
        already = tuple(meta.id for meta in wanted if meta.id in target.sources)
        new = [meta for meta in wanted if meta.id not in target.sources]
        exported, unfit = [], {}
        steps: Sequence[EpisodeMeta] | Iterator[EpisodeMeta] = new
        for meta in track(steps, description="exporting", total=len(new), disable=not show_progress, transient=True):
            try:
                exported.append(_add(raw / meta.id, target, options))
            except (UnfitEpisodeError, EpisodeError, MetaError, LayoutError, ProtobufError) as error:
                unfit[meta.id] = str(error)
        return ExportReport(tuple(exported), already, skipped, unfit, target.episodes, target.frames)


def _spec(metas: Sequence[EpisodeMeta], options: ExportOptions) -> DatasetSpec:
    """What the episodes have in common. Raises `DatasetError` if they are of different rigs or picture sizes."""
    newest = metas[-1].description
    sizes = _sizes(metas[-1])
    for meta in metas:
        if meta.description.rig_name != newest.rig_name:
            raise DatasetError(
                f"{meta.id} is of rig {meta.description.rig_name!r}, {newest.id} of {newest.rig_name!r}: "
                "a dataset holds one rig; keep raw episodes of different rigs in different folders"
            )
        if _sizes(meta) != sizes:
            raise DatasetError(f"{meta.id} and {newest.id} have pictures of different sizes or other cameras")
    return DatasetSpec(
        rig_name=newest.rig_name,
        action=options.action,
        codec=options.codec,
        sizes=sizes,
        rig=newest.rig,
        cameras=newest.cameras,
        license=options.license,
        software=newest.software,
    )


def _sizes(meta: EpisodeMeta) -> dict[str, PictureSize]:
    return {
        name: PictureSize(height=int(camera["intrinsics"]["height"]), width=int(camera["intrinsics"]["width"]))
        for name, camera in sorted(meta.description.cameras.items())
    }


def _add(folder: Path, target: Dataset, options: ExportOptions) -> Exported:
    episode = Episode(folder)
    rows = resample(episode, action=options.action)
    files = target.video_files()
    if set(files) != set(rows.pictures):
        raise UnfitEpisodeError(f"expected cameras {', '.join(files)}, found {', '.join(rows.pictures)}")
    # Decoding, counting and encoding release the interpreter lock: the cameras run side by side.
    with ThreadPoolExecutor(len(files)) as pool:
        jobs = {
            camera: pool.submit(_encode, episode, camera, rows, target.spec.sizes[camera], path, options.codec)
            for camera, path in files.items()
        }
        histograms = {camera: job.result() for camera, job in jobs.items()}
    columns = {form.STATE_KEY: rows.state, form.ACTION_KEY: rows.action, form.TIME_KEY: rows.time_ns}
    columns |= {f"{form.CAPTURE_PREFIX}{camera}": rows.capture_ns[camera] for camera in files}
    meta = episode.meta
    source = {
        "source_id": meta.id,
        "label": str(meta.outcome),
        "operator": meta.description.request.operator,
        "rig": meta.description.rig_name,
        "software": meta.description.software,
    }
    number = target.episodes
    target.commit(columns, task=meta.description.request.prompt, histograms=histograms, source=source)
    return Exported(meta.id, number, len(rows))


def _encode(
    episode: Episode, camera: str, rows: Rows, size: PictureSize, path: Path, codec: VideoCodec
) -> PictureHistogram:
    """Write one camera's video; returns the histogram of the pictures that went in."""
    histogram = PictureHistogram()

    def pictures() -> Iterator[np.ndarray]:
        shown, image = -1, None
        for index in rows.pictures[camera]:
            if image is None or index != shown:
                shown, image = int(index), episode.image(camera, int(index))
                if image.shape != (size.height, size.width, 3):
                    raise UnfitEpisodeError(f"{camera}: expected pictures of {size}, found {image.shape}")
            histogram.add(image)
            yield image

    written = write_video(path, pictures(), codec=codec)
    if written != len(rows):
        raise DatasetError(f"{path}: {written} pictures for {len(rows)} rows")
    return histogram
