"""`reid build`: pictures, vectors or shards to a gallery."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .extractor_options import make_preprocess, preprocess_options
from .index import KINDS
from .progress import progress_bar

if TYPE_CHECKING:
    from extractors.extractor import Extractor
    from extractors.harvest import Pace
    from extractors.pictures import Source
    from reid_index import Gallery

_SKIPS_TOLD = 20
"""Pictures that cannot be read and are named one by one; thousands would hide the rest."""


@click.command(name="build")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The new gallery.")
@click.option(
    "--extractor",
    default=None,
    metavar="NAME",
    help="See `reid extractors`; external:NAME for vectors made elsewhere [default: stripes]",
)
@click.option("--weights", type=click.Path(path_type=Path), help="The extractor's model file.")
@preprocess_options
@click.option("--device", default="cpu", show_default=True, help="cpu, or cuda for osnet.")
@click.option(
    "--layout",
    type=click.Choice(["auto", "folder", "market"]),
    default="auto",
    show_default=True,
    help="Whether names tell person and camera, as in 0002_c1s1_000451_03.jpg.",
)
@click.option("--keep-junk", is_flag=True, help="Keep Market-style crops of person -1.")
@click.option(
    "--boxes",
    type=click.Path(path_type=Path),
    help="People in full pictures: COCO JSON, MOTChallenge text, or CSV (file, x, y, w, h).",
)
@click.option(
    "--items", type=click.Path(path_type=Path), help="Item columns of a vector file (CSV, Parquet)."
)
@click.option(
    "--metric",
    type=click.Choice(["cosine", "inner_product", "euclidean"]),
    default=None,
    help="[default: cosine; shards have theirs]",
)
@click.option(
    "--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True
)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option(
    "--workers", type=click.IntRange(1), default=None, help="Decoding threads [default: one a core]"
)
@click.option("--graph", is_flag=True, help="Make the neighbour graph that re-ranking uses, too.")
@click.option(
    "--index", type=click.Choice(KINDS), help="Make an approximate index, too: see reid index."
)
@click.option("--strict", is_flag=True, help="Fail at the first picture that cannot be read.")
def command(
    sources: tuple[Path, ...],
    out: Path,
    extractor: str | None,
    weights: Path | None,
    device: str,
    layout: str,
    keep_junk: bool,
    boxes: Path | None,
    items: Path | None,
    metric: str | None,
    dtype: str,
    batch_size: int,
    workers: int | None,
    graph: bool,
    index: str | None,
    strict: bool,
    **preprocess: Any,
) -> None:
    """Build a gallery from SOURCES.

    SOURCES are folders of crops (searched recursively), picture files, one list of files (.csv or
    .parquet with a column `file` and item columns), one file of vectors (.npy, .h5, .parquet), or
    shard folders. A build that was interrupted goes on where it stopped when it is run again.
    """
    from extractors.embeddings import holds_vectors
    from reid_index.errors import UsageError

    if graph and metric == "inner_product":
        raise UsageError("--graph needs distances: an inner product gallery has none")
    _refuse_taken(out)
    _refuse_unstorable(out, *([] if weights is None else [weights]))
    shards = [path for path in sources if (path / "shard.json").exists()]
    vectors = [path for path in sources if path.is_file() and holds_vectors(path)]
    if shards:
        _refuse_mixed(shards, sources, "shards")
        _refuse_needless(
            "shards",
            extractor=extractor,
            weights=weights,
            boxes=boxes,
            items=items,
            metric=metric,
        )
        rows = _from_shards(shards, out, dtype=dtype)
    elif vectors:
        _refuse_mixed(vectors, sources, "vector files")
        if len(vectors) > 1:
            raise UsageError("build takes one file of vectors; join them into one")
        _refuse_needless("vectors", weights=weights, boxes=boxes)
        rows = _from_vectors(
            vectors[0], out, extractor=extractor, items=items, metric=metric, dtype=dtype
        )
    else:
        _refuse_needless("pictures", items=items)
        from extractors import open_extractor, recipe
        from extractors.harvest import Pace
        from extractors.pictures import find_pictures
        from reid_index.threads import cores

        source = find_pictures(sources, layout=layout, boxes=boxes, keep_junk=keep_junk)
        _refuse_unstorable(source.root)
        for reason, count in source.left_out.items():
            click.echo(f"{source.root}: left out {count:,}: {reason}", err=True)
        name = extractor or "stripes"
        fed = make_preprocess(**preprocess)
        rows = _from_pictures(
            source,
            out,
            extractor=open_extractor(name, weights=weights, preprocess=fed, device=device),
            recipe=recipe(name, weights=weights, preprocess=fed),
            metric=metric or "cosine",
            dtype=dtype,
            pace=Pace(batch_size=batch_size, workers=workers or cores()),
            strict=strict,
        )
    click.echo(f"{out}: {rows:,} items", err=True)
    if graph:
        _add_graph(out)
    if index is not None:
        _add_index(out, index)


def _add_index(out: Path, kind: str) -> None:
    from reid_index import Gallery
    from reid_index.index_build import LEAST_ROWS

    from .index import build_index

    gallery = Gallery.open(out)
    if len(gallery) < LEAST_ROWS and kind not in ("auto", "flat"):
        click.echo(f"{out}: no index: fewer than {LEAST_ROWS:,} items need none", err=True)
    else:
        build_index(gallery, kind, recall=0.95, memory=None)


def _add_graph(out: Path) -> None:
    from reid_index import Gallery, Reranking

    from .graph import build_graph

    gallery = Gallery.open(out)
    if len(gallery) < Reranking().length:
        click.echo(f"{out}: no neighbour graph: too few items for one", err=True)
    else:
        build_graph(gallery, Reranking(), mode="auto")


def _refuse_taken(out: Path) -> None:
    from reid_index.errors import GalleryExists

    if (out / "CURRENT").exists():
        raise GalleryExists(f"{out} is a gallery already; choose another --out")
    if out.is_symlink() or out.resolve() == Path.cwd() or out.is_mount():
        raise GalleryExists(
            f"{out} is a link, a mount point or the working folder; name a folder in it"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise GalleryExists(f"{out} exists and is not an empty folder; choose another --out")


def _refuse_unstorable(*paths: Path) -> None:
    from reid_index.errors import UsageError

    for path in paths:
        try:
            str(path.absolute()).encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{path.absolute()}: the path is not UTF-8, so no gallery can hold it; rename it"
            ) from None


def _refuse_mixed(some: list[Path], sources: tuple[Path, ...], what: str) -> None:
    from reid_index.errors import UsageError

    if len(some) != len(sources):
        raise UsageError(f"{what} and other sources do not mix in one build")


def _refuse_needless(what: str, **options: object) -> None:
    from reid_index.errors import UsageError

    for name, value in options.items():
        if value is not None:
            raise UsageError(f"--{name} means nothing when building from {what}")


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder beside out that only this process writes to. It is kept when a build is
    interrupted with something to go on from, and removed otherwise.

    Raises GalleryExists where a folder of that name is somebody else's.
    """
    from reid_index.errors import GalleryExists
    from reid_index.manifest import writer_lock

    folder = out.absolute().with_name(f"{out.absolute().name}.building")
    if folder.exists() and (not folder.is_dir() or not all(map(_is_ours, folder.iterdir()))):
        raise GalleryExists(
            f"{folder} is needed for the build and holds something else; move it away"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with writer_lock(folder):
        _refuse_taken(out)  # another build may have finished in between
        try:
            yield folder
        finally:
            shutil.rmtree(folder / "gallery", ignore_errors=True)
            if not any(folder.glob("part-*")):
                shutil.rmtree(folder)


def _is_ours(path: Path) -> bool:
    name = path.name.removeprefix(".").removesuffix(".tmp")
    return name in ("lock", "journal.json", "gallery") or name.startswith("part-")


def _assemble(out: Path, staging: Path, add: "Callable[[Gallery], None]", **properties: Any) -> int:
    """Make the gallery aside and give it its name when it is whole; the rows in it."""
    from reid_index import Gallery
    from reid_index.files import sync_folder

    shutil.rmtree(staging / "gallery", ignore_errors=True)
    gallery = Gallery.create(staging / "gallery", **properties)
    add(gallery)
    gallery.path.rename(out)
    sync_folder(out.absolute().parent)
    # The journal first: one that lists parts which are gone could not be gone on with.
    (staging / "journal.json").unlink(missing_ok=True)
    sync_folder(staging)
    for part in staging.glob("part-*"):
        shutil.rmtree(part)
    return len(gallery)


def _from_shards(shards: list[Path], out: Path, *, dtype: str) -> int:
    from reid_index import open_shard

    header = open_shard(shards[0]).header
    with _staging(out) as staging:
        return _assemble(
            out,
            staging,
            lambda gallery: gallery.add_shards(shards),
            dim=header.dim,
            fingerprint=header.fingerprint,
            metric=header.metric,
            dtype=dtype,
            recipe={"extractor": header.fingerprint.name, "weights": None, "preprocess": None},
        )


def _from_vectors(
    path: Path,
    out: Path,
    *,
    extractor: str | None,
    items: Path | None,
    metric: str | None,
    dtype: str,
) -> int:
    import numpy as np
    import pyarrow as pa

    from extractors.embeddings import read_vectors
    from extractors.pictures import read_items
    from reid_index import Fingerprint
    from reid_index.errors import NothingToIndex, UsageError

    name = extractor or ""
    if not name.startswith("external:") or name == "external:":
        raise UsageError(
            "vectors need the name of what made them, --extractor external:NAME, so that other "
            "vectors are not compared with them by mistake"
        )
    _refuse_unstorable(path)
    vectors, table = read_vectors(path)
    if len(vectors) == 0:
        raise NothingToIndex(f"{path}: it holds no vectors")
    if items is not None:
        table = read_items(items)
    root = str(path.absolute().parent)
    if table is None:
        sources = [f"{path.name}#{row}" for row in np.arange(len(vectors))]
        table, root = pa.table({"source": sources}), ""
    with _staging(out) as staging:
        return _assemble(
            out,
            staging,
            lambda gallery: gallery.add(vectors, table, root=root),
            dim=vectors.shape[1],
            fingerprint=Fingerprint(name=name, version="1"),
            metric=metric or "cosine",
            dtype=dtype,
            recipe={"extractor": name, "weights": None, "preprocess": None},
        )


def _from_pictures(
    source: "Source",
    out: Path,
    *,
    extractor: "Extractor",
    recipe: Mapping[str, Any],
    metric: str,
    dtype: str,
    pace: "Pace",
    strict: bool,
) -> int:
    from extractors.harvest import harvest
    from extractors.images import silence_pillow_warnings
    from reid_index import Metric
    from reid_index.errors import NothingToIndex

    from .formats import printable

    silence_pillow_warnings()
    with _staging(out) as staging:
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

            taken = harvest(
                source,
                extractor,
                staging,
                metric=Metric(metric),
                dtype=dtype,
                pace=pace,
                strict=strict,
                on_skip=on_skip,
                progress=bar.update,
            )
        if taken.resumed:
            click.echo(f"{taken.resumed:,} crops were there from an earlier run", err=True)
        if taken.skipped:
            click.echo(f"{taken.skipped:,} of {source.count:,} were skipped", err=True)
        if not taken.parts:
            raise NothingToIndex(
                f"{source.root}: not one of {source.count} pictures can be read; a list's paths "
                "are relative to its own folder"
                if source.count
                else f"{source.root}: there are no pictures in it"
            )
        return _assemble(
            out,
            staging,
            lambda gallery: gallery.add_shards(taken.parts),
            dim=extractor.dim,
            fingerprint=extractor.fingerprint,
            metric=metric,
            dtype=dtype,
            recipe=recipe,
        )
