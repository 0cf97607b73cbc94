"""`reid track`: the people in videos as boxes of tracks, by a detector and a tracker."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from reid_index.errors import UsageError

from .paths import PATH
from .progress import progress_bar


@click.command(name="track", short_help="Find people in VIDEOS and write their tracks.")
@click.argument("videos", nargs=-1, required=True, type=PATH)
@click.option("--detector", required=True, type=PATH, help="An .xml (OpenVINO) or .onnx file.")
@click.option("--out", required=True, type=PATH, help="The tracks: a .csv file.")
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="How sure the detector has to be for a track to begin.",
)
@click.option(
    "--every",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Look at every so manieth frame.",
)
@click.option(
    "--least",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Frames in which somebody has to be found.",
)
@click.option("--videos", "listed", type=PATH, help="Cameras: a CSV with video, camera.")
@click.option("--strict", is_flag=True, help="Fail at the first video that is damaged.")
def command(
    videos: tuple[Path, ...],
    detector: Path,
    out: Path,
    confidence: float,
    every: int,
    least: int,
    listed: Path | None,
    strict: bool,
) -> None:
    """Find the people in VIDEOS, files or folders of them, and write their boxes to a CSV.

    `reid build VIDEOS --tracks FILE` takes it from there.
    """
    if out.suffix.lower() != ".csv":
        raise UsageError(f"--out {out}: a .csv file, please")
    if not out.absolute().parent.is_dir() or out.is_dir():
        raise UsageError(f"--out {out}: name a file in a folder that is there")
    track_videos(
        videos,
        detector=detector,
        out=out,
        confidence=confidence,
        every=every,
        least=least,
        videos=listed,
        strict=strict,
    )


def track_videos(paths: Sequence[Path], *, out: Path, **options: Any) -> None:
    """`write_tracks`, with a progress bar, and lines on standard error for what is amiss and what
    was found."""
    from extractors.video.sources import claimed_frames
    from extractors.video.track import write_tracks

    from .formats import counted, printable

    with progress_bar(claimed_frames(paths), unit="frame") as bar:

        def tell(fault: Exception) -> None:
            bar.clear()
            click.echo(printable(str(fault)), err=True)

        done = write_tracks(paths, out=out, tell=tell, progress=bar.update, **options)
    click.echo(
        f"{out}: {counted(done.tracks, 'track')} in {counted(done.videos, 'video')}, "
        f"{done.boxes:,} boxes",
        err=True,
    )
