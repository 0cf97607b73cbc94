"""`reid build`: pictures, vectors or shards to a gallery."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .extractor_options import (
    attributes_option,
    make_preprocess,
    make_weighting,
    preprocess_options,
    weighting_option,
)
from .index import KINDS
from .paths import PATH
from .sources import (
    cut_frames,
    drop_parts,
    extract,
    extraction_options,
    find_people,
    find_source,
    kind_of,
    read_vector_file,
    refuse_needless,
    refuse_nothing,
    refuse_unstorable,
    source_options,
    staging,
    tell_left_out,
)

if TYPE_CHECKING:
    from extractors.pictures import Source
    from extractors.segmenting import Cut
    from reid_index import Gallery

    from .sources import Kind


@click.command(name="build")
@click.argument("sources", nargs=-1, required=True, type=PATH)
@click.option("--out", required=True, type=PATH, help="The new gallery.")
@click.option(
    "--extractor",
    default=None,
    metavar="NAME",
    help="See `reid extractors`; external:NAME for vectors made elsewhere [default: trained]",
)
@click.option("--weights", type=PATH, help="The extractor's model file.")
@preprocess_options
@weighting_option
@attributes_option("Predict attributes, too, by this model: …-0230.xml, or one of reid train.")
@source_options
@click.option(
    "--detector", type=PATH, help="Find the people in videos first: an .xml or .onnx file."
)
@click.option(
    "--segment",
    type=click.IntRange(1),
    help="Cut tracks into segments of so many frames [default of videos: 8]",
)
@click.option(
    "--stride", type=click.IntRange(1), help="Frames from one segment to the next [default: half]"
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
@extraction_options
@click.option("--graph", is_flag=True, help="Make the neighbour graph that re-ranking uses, too.")
@click.option(
    "--index", type=click.Choice(KINDS), help="Make an approximate index, too: see reid index."
)
def command(
    sources: tuple[Path, ...],
    out: Path,
    extractor: str | None,
    weights: Path | None,
    weighting: str | None,
    attributes: Path | None,
    layout: str,
    keep_junk: bool,
    boxes: Path | None,
    tracks: Path | None,
    whole: bool,
    videos: Path | None,
    items: Path | None,
    detector: Path | None,
    segment: int | None,
    stride: int | None,
    metric: str | None,
    dtype: str,
    graph: bool,
    index: str | None,
    device: str,
    **options: Any,
) -> None:
    """Build a gallery from SOURCES.

    SOURCES are folders of crops (searched recursively), picture files, one list of files (.csv or
    .parquet with a column `file` and item columns), videos, one file of vectors (.npy, .h5,
    .parquet), or shard folders. A build that was interrupted goes on where it stopped when it is
    run again.
    """
    from reid_index.errors import UsageError

    from .formats import counted

    if graph and metric == "inner_product":
        raise UsageError("--graph needs distances: an inner product gallery has none")
    _refuse_taken(out)
    refuse_unstorable(out, *(path for path in (weights, attributes) if path is not None))
    of_videos: dict[str, Any] = {"tracks": tracks, "whole": whole, "videos": videos}
    kind = kind_of(sources, command="build", of_videos=bool(tracks or whole or videos or detector))
    given: dict[str, object] = {
        "weights": weights,
        "weighting": weighting,
        "attributes": attributes,
        "layout": layout if layout != "auto" else None,
        "keep_junk": keep_junk,
        "boxes": boxes,
        "segment": segment,
        "stride": stride,
        **of_videos,
        "detector": detector,
        "strict": options["strict"],
    }
    if kind == "shards":
        given |= {"extractor": extractor, "items": items, "metric": metric}
        refuse_needless("building from shards", **given)
        rows = _from_shards(sources, out, dtype=dtype)
    elif kind == "vectors":
        refuse_needless("building from vectors", **given)
        rows = _from_vectors(
            sources[0], out, extractor=extractor, items=items, metric=metric, dtype=dtype
        )
    else:
        refuse_needless(f"building from {kind}", items=items)
        if kind == "videos":
            needless = {name: given[name] for name in ("layout", "keep_junk", "boxes")}
            refuse_needless("building from videos", **needless)
            find = _finder(sources, out, detector=detector, strict=options["strict"], **of_videos)
        else:
            refuse_needless("building from pictures", **of_videos, detector=detector)
            find = partial(find_source, sources, layout=layout, boxes=boxes, keep_junk=keep_junk)
        from extractors import DEFAULT

        rows = _from_pictures(
            find,
            out,
            kind=kind,
            cut=_cut(segment, stride, kind=kind),
            extractor=extractor or DEFAULT,
            weights=weights,
            weighting=weighting,
            attributes=attributes,
            device=device,
            metric=metric or "cosine",
            dtype=dtype,
            **options,
        )
    click.echo(f"{out}: {counted(rows, 'item')}", err=True)
    if graph:
        _add_graph(out)
    if index is not None:
        _add_index(out, index)


def _add_index(out: Path, kind: str) -> None:
    from reid_index import Gallery
    from reid_index.search.index_build import LEAST_ROWS

    from .index import build_index

    with Gallery.open(out) as gallery:
        if len(gallery) < LEAST_ROWS and kind not in ("auto", "flat"):
            click.echo(f"{out}: no index: fewer than {LEAST_ROWS:,} items need none", err=True)
        else:
            build_index(gallery, kind, recall=0.95, memory=None)


def _add_graph(out: Path) -> None:
    from reid_index import Gallery, Reranking

    from .graph import build_graph

    with Gallery.open(out) as gallery:
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


def _assemble(
    out: Path, folder: Path, add: "Callable[[Gallery], object]", **properties: Any
) -> int:
    """Make the gallery in a staging folder and give it its name when it is whole; its rows."""
    from reid_index import Gallery, files

    _refuse_taken(out)  # another build may have finished in between
    files.remove(folder / "gallery")
    with Gallery.create(folder / "gallery", **properties) as gallery:
        add(gallery)
        files.rename(gallery.path, out)
        rows = len(gallery)
    drop_parts(folder)
    return rows


def _from_shards(shards: Sequence[Path], out: Path, *, dtype: str) -> int:
    from reid_index import open_shard

    header = open_shard(shards[0]).header
    with staging(out, "building") as folder:
        return _assemble(
            out,
            folder,
            lambda gallery: gallery.add_shards(shards),
            dim=header.dim,
            fingerprint=header.fingerprint,
            metric=header.metric,
            matcher=header.matcher,
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
    from reid_index import Fingerprint
    from reid_index.errors import UsageError

    name = extractor or ""
    if not name.startswith("external:") or name == "external:":
        raise UsageError(
            "vectors need the name of what made them, --extractor external:NAME, so that other "
            "vectors are not compared with them by mistake"
        )
    vectors = read_vector_file(path, items)
    with staging(out, "building") as folder:
        return _assemble(
            out,
            folder,
            lambda gallery: gallery.add(vectors.array, vectors.items, root=vectors.root),
            dim=vectors.array.shape[1],
            fingerprint=Fingerprint(name=name, version="1"),
            metric=metric or "cosine",
            dtype=dtype,
            recipe={"extractor": name, "weights": None, "preprocess": None},
        )


def _cut(segment: int | None, stride: int | None, *, kind: "Kind") -> "Cut | None":
    """How tracks are to be cut; None where nobody said that they are."""
    from extractors.segmenting import Cut
    from extractors.segments import LENGTH
    from reid_index.errors import UsageError

    if segment is None and stride is None and kind != "videos":
        return None
    length = segment or LENGTH
    try:
        return Cut.of(length, stride)
    except UsageError as error:
        raise UsageError(f"--stride {stride}: {error}") from None


def _finder(
    paths: Sequence[Path],
    out: Path,
    *,
    detector: Path | None,
    tracks: Path | None,
    whole: bool,
    videos: Path | None,
    strict: bool,
) -> "Callable[[], Source]":
    """What finds the people in videos, once the boxes are there."""
    from reid_index.errors import UsageError

    if sum(map(bool, (detector, tracks, whole))) > 1:
        raise UsageError("--detector, --tracks and --whole clash: give one of them")

    def find() -> "Source":
        boxes = tracks
        if detector is not None:
            boxes = _detected(paths, out, detector=detector, videos=videos, strict=strict)
        return find_people(paths, tracks=boxes, whole=whole, videos=videos)

    return find


def _detected(
    paths: Sequence[Path], out: Path, *, detector: Path, videos: Path | None, strict: bool
) -> Path:
    """Find the people in videos and write their boxes beside the gallery; an interrupted build goes
    on with those that it has. Raises GalleryExists where that file is somebody's."""
    from reid_index.errors import GalleryExists

    from .track import track_videos

    boxes = out.with_name(f"{out.name}.tracks.csv")
    if boxes.exists():
        if not out.with_name(f"{out.name}.building").exists():
            raise GalleryExists(
                f"{boxes} is there already: use it by --tracks instead of --detector, or remove it"
            )
        click.echo(f"{boxes}: goes on with the boxes of an earlier run", err=True)
        return boxes
    track_videos(paths, detector=detector, out=boxes, videos=videos, strict=strict)
    click.echo(f"{boxes} has the boxes: --tracks takes it instead of --detector", err=True)
    return boxes


def _from_pictures(
    find: "Callable[[], Source]",
    out: Path,
    *,
    kind: "Kind",
    cut: "Cut | None",
    extractor: str,
    weights: Path | None,
    weighting: str | None,
    attributes: Path | None,
    device: str,
    metric: str,
    dtype: str,
    batch_size: int,
    workers: int | None,
    strict: bool,
    **preprocess: Any,
) -> int:
    """cut: how tracks become segments; None where crops stay crops, unless the extractor makes
    segments of all."""
    from extractors import open_extractor, recipe
    from extractors.attributes import WithAttributes
    from extractors.predictors import predictor_of, recipe_of
    from extractors.segmenting import Cut
    from reid_index import Metric
    from reid_index.store.shard import check_matcher

    fed = make_preprocess(**preprocess)
    weighed = make_weighting(weighting)
    opened = open_extractor(
        extractor, weights=weights, preprocess=fed, device=device, weighting=weighed
    )
    predicting = None
    if attributes is not None:
        predictor = predictor_of(attributes, device=device)
        opened = WithAttributes(opened, predictor)
        predicting = recipe_of(attributes, predictor)
    if cut is None and opened.segments.matcher is not None:
        cut = Cut()
    made = opened if cut is None else opened.segments
    check_matcher(made.matcher, Metric(metric))
    source = find()
    tell_left_out(source)
    said = recipe(
        extractor, weights=weights, preprocess=fed, weighting=weighed, attributes=predicting
    )
    with staging(out, "building") as folder:
        _refuse_taken(out)
        taken = extract(
            source,
            opened,
            folder,
            metric=Metric(metric),
            dtype=dtype,
            batch_size=batch_size,
            workers=workers,
            strict=strict,
            of_frames=cut is not None,
        )
        refuse_nothing(source, taken, kind=kind)
        parts = taken.parts
        if cut is not None:
            parts = cut_frames(taken, opened, folder, cut=cut, metric=Metric(metric), dtype=dtype)
            said["segments"] = cut.to_json()
        return _assemble(
            out,
            folder,
            lambda gallery: gallery.add_shards(parts),
            dim=made.dim,
            fingerprint=opened.fingerprint,
            metric=metric,
            matcher=made.matcher,
            dtype=dtype,
            recipe=said,
        )
