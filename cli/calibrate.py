"""`reid calibrate`: what a gallery's scores mean, and the threshold for a wanted error rate."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from reid_index.errors import NoCalibration, UsageError

from .paths import PATH
from .progress import progress_bar

if TYPE_CHECKING:
    from reid_index import Gallery
    from reid_index.evaluation.calibration import Calibration


@click.command(name="calibrate", short_help="Find GALLERY's threshold for a wanted error rate.")
@click.argument("gallery", type=PATH)
@click.option(
    "--pairs",
    type=PATH,
    help="A list of pairs (CSV, Parquet): item ids or sources a, b; same is 1 or 0.",
)
@click.option("--weak", is_flag=True, help="Tell people apart by tracks instead of labels.")
@click.option("--same-camera", is_flag=True, help="Count pairs of one person in one camera, too.")
@click.option(
    "--false-match-rate",
    type=float,
    default=1e-3,
    show_default=True,
    help="The share of pairs of different people that may pass `reid query --threshold auto`.",
)
@click.option(
    "--picture",
    type=PATH,
    help="A .svg or .png file: histograms of the scores, with the threshold.",
)
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def command(
    gallery: Path,
    pairs: Path | None,
    weak: bool,
    same_camera: bool,
    false_match_rate: float,
    picture: Path | None,
    form: str,
) -> None:
    """Measure how alike one person's and different people's items of GALLERY are; keep it there.

    Who is who is told by the items' person labels, or by a list of pairs, or by tracks.
    """
    if pairs is not None and weak:
        raise UsageError("--pairs and --weak are two ways to tell who is who: choose one")
    if same_camera and (pairs is not None or weak):
        raise UsageError("--same-camera is about labels: it says nothing with --pairs or --weak")
    if picture is not None and picture.suffix.lower() not in (".svg", ".png"):
        raise UsageError(f"--picture {picture}: a .svg or .png file, please")
    from reid_index import Gallery
    from reid_index.evaluation.calibration import MAX_ROWS, calibrate, write_calibration

    opened = Gallery.open(gallery)
    with progress_bar(min(len(opened), MAX_ROWS), unit="item") as bar:
        made = calibrate(
            opened,
            weak=weak,
            listed=pairs,
            same_camera=same_camera,
            false_match_rate=false_match_rate,
            progress=bar.update,
        )
    write_calibration(opened, made)
    if form == "json":
        import json

        click.echo(json.dumps(made.summary(), indent=1))
    else:
        click.echo(_table(made), nl=False)
    if picture is not None:
        _draw(made, picture)


def _draw(made: "Calibration", path: Path) -> None:
    from .plots import histogram_figure, save

    edges, positives, negatives = made.histograms.coarse()
    rate = made.false_match_rate
    save(
        histogram_figure(
            positives=positives,
            negatives=negatives,
            edges=edges,
            thresholds={f"false-match rate {rate:g}": made.threshold(rate)},
            score_name="similarity" if made.histograms.metric.higher_is_better else "distance",
        ),
        path,
    )


def _table(made: "Calibration") -> str:
    from .formats import aligned

    told = {"labels": "person labels", "tracks": "tracks", "pairs": "a list of pairs"}[made.origin]
    compared = f"{made.rows:,}"
    if made.sampled:
        compared += f" of {made.usable:,}, drawn at random"
    facts = [
        ["made from", f"{told}, generation {made.generation}, {made.items:,} items"],
        ["items compared", compared],
        ["pairs of one person", f"{made.positives:,}"],
        ["pairs of two people", f"{made.negatives:,}"],
        ["equal error rate", f"{made.eer:.4f}"],
    ]
    score = "similarity from" if made.histograms.metric.higher_is_better else "distance up to"
    rows = [["false-match rate", "true-match rate", score, ""]]
    for rate, true, threshold in made.reported():
        rows.append(
            [
                f"{rate:g}",
                "-" if true is None else f"{true:.4f}",
                "-" if threshold is None else str(threshold),
                "reid query --threshold auto" if rate == made.false_match_rate else "",
            ]
        )
    if any(threshold is None for *_, threshold in made.reported()):
        rows.append(["-: too few pairs", "", "", ""])
    return aligned(facts) + aligned(rows)


def auto_threshold(gallery: "Gallery", rate: float | None) -> float:
    """The threshold that a gallery's calibration has for a false-match rate, or where that is
    None, for the one that the calibration was asked for.

    Raises NoCalibration where the gallery has none, UsageError where it cannot tell that rate.
    """
    from reid_index.evaluation.calibration import read_calibration

    made = read_calibration(gallery)
    if made is None:
        raise NoCalibration(
            f"{gallery.path} has no calibration: `reid calibrate {gallery.path}` makes it"
        )
    return made.threshold(made.false_match_rate if rate is None else rate)
