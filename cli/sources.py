"""What commands that make vectors share: kinds of SOURCES, their options, extraction into a folder
beside the gallery that can be gone on with, and refusals."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from .paths import PATH
from .progress import progress_bar

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from extractors.extractor import Extractor
    from extractors.harvest import Harvest
    from extractors.pictures import Source
    from extractors.segmenting import Cut
    from extractors.video.sources import Known
    from reid_index import Gallery, Metric

Function = TypeVar("Function", bound=Callable[..., Any])

_PARTS = "parts"
SEGMENTS = "segments"
NOTE = "run.json"
"""In a staging folder: what a run notes of itself. A folder that has one is kept."""

_SKIPS_TOLD = 20
"""Pictures that cannot be read and are named one by one; thousands would hide the rest."""


def source_options(function: Function) -> Function:
    """Adds the options that say what SOURCES are."""
    for option in reversed(
        [
            click.option(
                "--layout",
                type=click.Choice(["auto", "folder", "market", "mars", "tracklets"]),
                default="auto",
                show_default=True,
                help="What names tell: market 0002_c1s1_000451_03.jpg, mars 0001C1T0001F001.jpg; "
                "tracklets: each folder is a track.",
            ),
            click.option(
                "--keep-junk", is_flag=True, help="Keep crops of person -1 (market, mars)."
            ),
            click.option(
                "--boxes",
                type=PATH,
                help="People in full pictures: COCO JSON, MOTChallenge text, or CSV "
                "(file, x, y, w, h).",
            ),
            click.option(
                "--tracks",
                type=PATH,
                help="People in videos: a file of boxes, or a folder of such files.",
            ),
            click.option("--whole", is_flag=True, help="Take each whole video as one candidate."),
            click.option(
                "--videos", type=PATH, help="Cameras and starts: a CSV with video, camera, start."
            ),
            click.option(
                "--items",
                type=PATH,
                help="Item columns of a vector file (CSV, Parquet).",
            ),
        ]
    ):
        function = option(function)
    return function


def extraction_options(function: Function) -> Function:
    """Adds the options that say how pictures become vectors."""
    for option in reversed(
        [
            click.option(
                "--device", default="cpu", show_default=True, help="cpu, or cuda for osnet."
            ),
            click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True),
            click.option(
                "--workers",
                type=click.IntRange(1),
                default=None,
                help="Decoding threads [default: one a core]",
            ),
            click.option(
                "--strict", is_flag=True, help="Fail at the first picture that cannot be read."
            ),
        ]
    ):
        function = option(function)
    return function


# What SOURCES are


Kind = Literal["shards", "vectors", "videos", "pictures"]


def kind_of(sources: Sequence[Path], *, command: str, of_videos: bool) -> Kind:
    """What the sources are: shard folders, one file of vectors, videos, or pictures.

    of_videos: whether folders are of videos. Raises UsageError where kinds are mixed, vectors come
    in several files, or one is a gallery.
    """
    from extractors.embeddings import holds_vectors
    from extractors.video.sources import is_video
    from reid_index.errors import UsageError

    for path in sources:
        if (path / "CURRENT").is_file() and (path / "shards").is_dir():
            raise UsageError(f"{path} is a gallery: name pictures, vectors or shards")
    shards = [path for path in sources if (path / "shard.json").exists()]
    vectors = [path for path in sources if path.is_file() and holds_vectors(path)]
    videos = [path for path in sources if not path.is_dir() and is_video(path)]
    if of_videos:
        videos += [path for path in sources if path.is_dir()]
    kinds = ((shards, "shards"), (vectors, "vector files"), (videos, "videos"))
    for some, what in kinds:
        if some and len(some) != len(sources):
            raise UsageError(f"{what} and other sources do not mix in one {command}")
    if len(vectors) > 1:
        raise UsageError(f"{command} takes one file of vectors; join them into one")
    return "shards" if shards else "vectors" if vectors else "videos" if videos else "pictures"


def refuse_needless(doing: str, **options: object) -> None:
    """Raise UsageError where an option is given that means nothing when doing that."""
    from reid_index.errors import UsageError

    for name, value in options.items():
        if value is not None and value is not False:
            raise UsageError(f"--{name.replace('_', '-')} means nothing when {doing}")


def refuse_unstorable(*paths: Path) -> None:
    """Raise UsageError for a path that no gallery can hold."""
    from reid_index.errors import UsageError

    for path in paths:
        try:
            str(path.absolute()).encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{path.absolute()}: the path is not UTF-8, so no gallery can hold it; rename it"
            ) from None


# Vectors


@dataclass(frozen=True)
class Vectors:
    """A file of vectors, (N, D), N ≥ 1, with its items and the folder that `source` is relative
    to."""

    array: "NDArray[np.floating]"
    items: "pa.Table"
    root: str


def read_vector_file(path: Path, items: Path | None) -> Vectors:
    """The vectors of a file, with the items of another file or its own, or else with its name and
    their rows as sources. Raises NothingToIndex, BadSource, BadItems, UsageError."""
    import numpy as np
    import pyarrow as pa

    from extractors.embeddings import read_vectors
    from extractors.pictures import read_items
    from reid_index.errors import BadItems, NothingToIndex

    refuse_unstorable(path)
    vectors, table = read_vectors(path)
    if len(vectors) == 0:
        raise NothingToIndex(f"{path}: it holds no vectors")
    if items is not None:
        table = read_items(items)
    if table is not None and table.num_rows != len(vectors):
        raise BadItems(
            f"{items or path}: {len(vectors):,} vectors but {table.num_rows:,} items for them: one "
            "for each is needed"
        )
    if table is not None:
        return Vectors(vectors, table, str(path.absolute().parent))
    sources = [f"{path.name}#{row}" for row in np.arange(len(vectors))]
    return Vectors(vectors, pa.table({"source": sources}), "")


# Pictures


def find_source(
    paths: Sequence[Path], *, layout: str, boxes: Path | None, keep_junk: bool
) -> "Source":
    """The pictures that the paths name. Raises what `find_pictures` does, and UsageError."""
    from extractors.pictures import find_pictures

    source = find_pictures(paths, layout=layout, boxes=boxes, keep_junk=keep_junk)
    refuse_unstorable(source.root)
    return source


def find_people(
    paths: Sequence[Path],
    *,
    tracks: Path | None,
    whole: bool,
    videos: Path | None,
    known: "Known | None" = None,
) -> "Source":
    """The people in the videos that the paths name. Raises what `find_videos` does, UsageError."""
    from extractors.video.sources import find_videos
    from reid_index.errors import UsageError

    if tracks is None and not whole:
        raise UsageError(
            "videos need --tracks FILE with the boxes of the people in them (`reid track` makes "
            "one), or --whole, which takes each as one candidate"
        )
    source = find_videos(
        paths, tracks=tracks, whole=whole, videos=videos, known=known or (lambda *_crop: False)
    )
    refuse_unstorable(source.root)
    return source


def tell_left_out(source: "Source") -> None:
    """Say what the source leaves out, and why, and what it has noted."""
    from .formats import printable

    for reason, count in source.left_out.items():
        click.echo(printable(f"{source.root}: left out {count:,}: {reason}"), err=True)
    for note in source.notes:
        click.echo(printable(note), err=True)


def gallery_extractor(
    gallery: "Gallery",
    *,
    weights: Path | None,
    device: str,
    of: str = "what is made now",
    attributes: Path | None = None,
    predict: bool = True,
) -> "Extractor":
    """The extractor that the gallery was built with, made again and compared by its fingerprint,
    with what predicts the gallery's attributes beside it.

    weights, attributes: where their model files are now. predict: False where nobody asks for
    attributes. of: what it is for, as an error says it. Raises BadWeights, ExtractorMismatch,
    UsageError.
    """
    from extractors import DEFAULT, open_recipe
    from reid_index.errors import BadWeights, ExtractorMismatch

    recipe = gallery.manifest.recipe
    built_with = recipe.get("weights")
    if weights is None and isinstance(built_with, str) and not Path(built_with).is_file():
        raise BadWeights(
            f"{built_with}: the model file that the gallery was built with is not there; "
            "--weights FILE says where it is now"
        )
    extractor = open_recipe(
        recipe, weights=weights, device=device, attributes=attributes, predict=predict
    )
    try:
        gallery.check_fingerprint(extractor.fingerprint, of=of)
    except ExtractorMismatch as error:
        if weights is None and recipe.get("weights") is None and recipe["extractor"] == DEFAULT:
            raise ExtractorMismatch(
                f"{error}; the model that comes along is another one now: name the former one by "
                f"--weights, or embed anew: `reid rebuild {gallery.path} --extractor {DEFAULT}`"
            ) from None
        raise
    return extractor


def gallery_cut(gallery: "Gallery") -> "Cut | None":
    """How a gallery's tracks are cut; None where it is of crops. Raises UsageError for a recipe
    that does not say it properly."""
    from extractors.segmenting import Cut
    from reid_index.errors import UsageError

    said = gallery.manifest.recipe.get("segments")
    try:
        return None if said is None else Cut(int(said["length"]), int(said["stride"]))
    except (TypeError, KeyError, ValueError):
        raise UsageError(f"{gallery.path}: its recipe does not say how it was cut") from None


def extract(
    source: "Source",
    extractor: "Extractor",
    staging: Path,
    *,
    metric: "Metric",
    dtype: str,
    batch_size: int,
    workers: int | None,
    strict: bool,
    of_frames: bool = False,
) -> "Harvest":
    """Extract the source into parts in a staging folder, going on with those that are there, with
    a progress bar and a line on standard error for what is skipped. of_frames: see `harvest`."""
    from extractors.harvest import Pace, harvest
    from extractors.images import silence_pillow_warnings
    from reid_index.threads import cores

    from .formats import counted, printable

    silence_pillow_warnings()
    with progress_bar(source.count, unit="crop") as bar:
        told = 0

        def on_skip(error: Exception) -> None:
            nonlocal told
            told += 1
            if told <= _SKIPS_TOLD:
                bar.clear()
                click.echo(f"skipped: {printable(str(error))}", err=True)
            if told == _SKIPS_TOLD:
                click.echo("skipped: more are counted, not listed", err=True)

        try:
            taken = harvest(
                source,
                extractor,
                staging / _PARTS,
                metric=metric,
                dtype=dtype,
                pace=Pace(batch_size=batch_size, workers=workers or cores()),
                strict=strict,
                of_frames=of_frames,
                on_skip=on_skip,
                progress=bar.update,
            )
        except KeyboardInterrupt:
            bar.clear()
            raise
    if taken.resumed:
        were = "was" if taken.resumed == 1 else "were"
        crops = counted(taken.resumed, "crop")
        click.echo(f"{crops} {were} there from an earlier run", err=True)
    if taken.skipped:
        were = "was" if source.count == 1 else "were"
        click.echo(f"{taken.skipped:,} of {source.count:,} {were} skipped", err=True)
    return taken


def cut_frames(
    taken: "Harvest",
    extractor: "Extractor",
    staging: Path,
    *,
    cut: "Cut",
    metric: "Metric",
    dtype: str,
) -> "tuple[Path, ...]":
    """Segments of the frames that were extracted, as shards in the staging folder, and a line on
    standard error on what they are of."""
    from extractors.segmenting import write_segments

    from .formats import counted

    with progress_bar(taken.rows, unit="frame") as bar:
        done = write_segments(
            taken.parts,
            staging / SEGMENTS,
            encoder=extractor.segments,
            fingerprint=extractor.fingerprint,
            metric=metric,
            dtype=dtype,
            cut=cut,
            progress=bar.update,
        )
    notes = []
    if done.untracked:
        notes.append(f"{counted(done.untracked, 'frame')} without a track, each by itself")
    if done.single:
        notes.append(f"{counted(done.single, 'track')} of one frame only")
    if done.sorted:
        notes.append(f"frames of {counted(done.sorted, 'track')} came out of order and were sorted")
    line = f"{counted(done.rows, 'segment')} of {counted(done.frames, 'frame')} in "
    line += counted(done.tracks - done.untracked, "track")
    click.echo("; ".join([line, *notes]), err=True)
    return done.parts


def refuse_nothing(source: "Source", taken: "Harvest", *, kind: Kind = "pictures") -> None:
    """Raise NothingToIndex where not one picture could be read."""
    from extractors.video.sources import video_files
    from reid_index.errors import BadSource, NothingToIndex

    from .formats import counted

    if not taken.parts and not source.count and kind == "pictures":
        with suppress(BadSource):  # as there is none
            video_files([source.root])
            raise NothingToIndex(
                f"{source.root}: there are no pictures in it, but videos: say who is in them, by "
                "--tracks FILE or --whole"
            )
    if not taken.parts and kind == "videos":
        raise NothingToIndex(
            f"{source.root}: not one of {counted(source.count, 'crop')} can be cut from its videos"
            if source.count
            else f"{source.root}: there is nobody in its videos, as the tracks have it"
        )
    if not taken.parts:
        raise NothingToIndex(
            f"{source.root}: not one of {counted(source.count, 'picture')} can be read; a list's "
            "paths are relative to its own folder"
            if source.count
            else f"{source.root}: there are no pictures in it"
        )


# The folder beside the gallery


@contextmanager
def told_unchanged(gallery: Path) -> Iterator[None]:
    """Have errors of the system say so where the gallery is as it was all the same."""
    from reid_index.errors import ReidIndexError
    from reid_index.store.commit import read_current

    before = read_current(gallery).generation
    try:
        yield
    except OSError as error:
        with suppress(ReidIndexError, OSError):
            if read_current(gallery).generation == before:
                error.add_note("the gallery is as it was")
        raise


STAGINGS = ("building", "adding", "rebuilding", "predicting")
"""What is done in a folder beside a gallery, and by which it is named."""


def interrupted_runs(gallery: Path) -> list[Path]:
    """The folders beside a gallery that interrupted runs have left, or that runs write to now."""
    gallery = Path(os.path.abspath(gallery))
    folders = [gallery.with_name(f"{gallery.name}.{doing}") for doing in STAGINGS]
    return [
        folder
        for folder in folders
        if folder.is_dir() and ((folder / NOTE).exists() or (folder / _PARTS).exists())
    ]


@contextmanager
def staging(gallery: Path, doing: str) -> Iterator[Path]:
    """A folder beside the gallery's, NAME.DOING, that only this process writes to. It is kept when
    a run is interrupted with something to go on from, and removed otherwise.

    doing: one of STAGINGS. Raises GalleryExists where a folder of that name is
    somebody else's, GalleryLocked where another process does the same.
    """
    from reid_index import files
    from reid_index.errors import GalleryExists
    from reid_index.store.commit import writer_lock

    gallery = Path(os.path.abspath(gallery))
    folder = gallery.with_name(f"{gallery.name}.{doing}")
    if folder.exists() and (not folder.is_dir() or not all(map(_is_ours, folder.iterdir()))):
        raise GalleryExists(
            f"{folder} is needed for {doing} and holds something else; move it away"
        )
    files.make_folder(folder)
    with writer_lock(folder):
        try:
            yield folder
        except BaseException as error:
            _clear_up(folder)
            kept = f"{folder} has what is done; the same command goes on there"
            if isinstance(error, KeyboardInterrupt) and _has_parts(folder):
                click.echo(kept, err=True)
            elif isinstance(error, OSError) and _has_parts(folder):
                error.add_note(kept)
            raise
        _clear_up(folder)


def _clear_up(folder: Path) -> None:
    """Remove what nobody goes on with. Nobody has asked for it, so a failure is only told."""
    from reid_index import files

    try:
        files.remove(folder / "gallery")
        files.remove(folder / SEGMENTS)
        if not (folder / NOTE).exists() and not _has_parts(folder):
            files.remove(folder)
    except OSError as error:
        click.echo(f"{folder}: remove it by hand: {error.strerror}", err=True)


def _has_parts(folder: Path) -> bool:
    return any(folder.glob(f"{_PARTS}/**/part-*/shard.json"))


def _is_ours(path: Path) -> bool:
    name = path.name.removeprefix(".").removesuffix(".tmp")
    return name in ("lock", "gallery", NOTE, _PARTS, SEGMENTS)


def drop_parts(staging: Path) -> None:
    """Remove the parts of a run that is finished, or that is not to be gone on with."""
    from reid_index import files

    # The journal first: one that lists parts which are gone could not be gone on with.
    journal = staging / _PARTS / "journal.json"
    if journal.exists():
        files.remove(journal)
        files.sync_folder(journal.parent)
    files.remove(staging / _PARTS)
    files.remove(staging / SEGMENTS)
