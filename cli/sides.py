"""The two sides of an evaluation: galleries, shards or dataset folders, as vectors and items."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from extractors import DESCRIPTIONS, open_recipe
from extractors.datasets import Dataset, differences, open_dataset
from extractors.harvest import Pace, harvest
from extractors.images import silence_pillow_warnings
from extractors.pictures import Picture, Source, find_pictures, read_items
from extractors.tracklets import pool_tracklets
from reid_index import Fingerprint, Gallery, Metric, open_shard
from reid_index.errors import BadItems, BadSource, ExtractorMismatch, NothingToIndex, UsageError
from reid_index.matcher import Matcher, told
from reid_index.search.aggregate import Groups
from reid_index.search.coattention import Coattending
from reid_index.store.frames import SegmentFrames, joined
from reid_index.store.items import stack
from reid_index.store.shard import Shard
from reid_index.store.tracks import COLUMNS, tracks_of
from reid_index.threads import cores

from .formats import aligned, printable
from .progress import progress_bar
from .sources import cut_frames

if TYPE_CHECKING:
    from extractors.extractor import Extractor
    from extractors.segmenting import Cut

VIDEO = ("mars-official", "mars-torchreid", "ilids-vid", "prid2011")
"""Protocols whose items are tracklets: the frames of each are averaged, or their segments compared.
"""


@dataclass(frozen=True, kw_only=True)
class Side:
    """Vectors and items of one side.

    blocks: (n, D) float32 or float16 each, together the rows of items; of length 1 for cosine.
    roots: per row, the folder that `source` is relative to. gallery: where it is one, whole.
    matcher, parts, visible, frames: how parts or frames are compared, and they themselves as blocks
    has the vectors, parts (n, P, Dp) each, which of these are visible (n, P), where the matcher
    asks; None and empty without.
    tracks: where items and roots have a row for each tracklet, which rows of blocks, parts and
    frames are whose; None where each of these is a row by itself.
    """

    path: Path
    blocks: list[NDArray[np.generic]]
    items: pa.Table
    roots: NDArray[np.object_]
    metric: Metric
    fingerprint: Fingerprint
    gallery: Gallery | None = None
    matcher: Matcher | None = None
    parts: Sequence[NDArray[np.generic]] = ()
    visible: Sequence[NDArray[np.generic]] = ()
    frames: Sequence[SegmentFrames] = ()
    tracks: Groups | None = None

    @property
    def of_segments(self) -> bool:
        """Whether its rows are segments of tracks."""
        recipe = {} if self.gallery is None else self.gallery.manifest.recipe
        names = self.items.schema
        listed = "frames" in names.names and pa.types.is_list(names.field("frames").type)
        return "segments" in recipe or listed or bool(self.frames)

    def matrix(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of some rows, float32 (n, D), copied."""
        return _gathered(self.blocks, rows, shape=(0,))

    def parts_of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The parts of some rows, float32 (n, P, Dp), copied."""
        return _gathered(self.parts, rows, shape=(0, 0))

    def visible_of(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Which of the parts of some rows are visible, uint8 (n, P), copied."""
        return _gathered(self.visible, rows, shape=(0,)).astype(np.uint8)

    def frames_of(self, rows: NDArray[np.int64]) -> SegmentFrames:
        """The frames of some rows, float32, copied; only where the matcher is of frames."""
        assert self.matcher is not None
        return Coattending(self.matcher, self.frames).take(rows)

    @property
    def by_vectors(self) -> "Side":
        """The same without parts and frames."""
        return replace(self, matcher=None, parts=(), visible=(), frames=())

    @property
    def folders(self) -> pa.DictionaryArray:
        """`roots`, as `tracks_of` wants them."""
        return pa.array(self.roots, pa.string()).dictionary_encode()

    @property
    def by_track(self) -> "Side":
        """The same with a row for each tracklet: that of its item with the smallest id."""
        ids = self.items["item"]
        order = np.arange(len(ids)) if ids.null_count else np.argsort(ids.to_numpy())
        codes = tracks_of(self.items.select(COLUMNS), self.folders)
        firsts = order[np.unique(codes[order], return_index=True)[1]]
        return replace(
            self,
            items=self.items.take(pa.array(firsts)),
            roots=self.roots[firsts],
            tracks=Groups.of(codes),
            gallery=None,
        )

    def take(self, rows: NDArray[np.int64]) -> "Side":
        """Those rows alone, in that order."""
        some = replace(
            self, items=self.items.take(pa.array(rows)), roots=self.roots[rows], gallery=None
        )
        if self.tracks is not None:
            return replace(some, tracks=self.tracks.take(rows))
        return replace(
            some,
            blocks=[self.matrix(rows)],
            parts=[self.parts_of(rows)] if self.parts else [],
            visible=[self.visible_of(rows)] if self.visible else [],
            frames=[self.frames_of(rows)] if self.frames else [],
        )


def _gathered(
    blocks: Sequence[NDArray[np.generic]], rows: NDArray[np.int64], *, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Some rows of all blocks, copied. shape: of one, where there are no blocks."""
    found = np.empty((len(rows), *(blocks[0].shape[1:] if blocks else shape)), np.float32)
    offset = 0
    for block in blocks:
        here = (rows >= offset) & (rows < offset + len(block))
        found[here] = block[rows[here] - offset]
        offset += len(block)
    return found


def kind_of(path: Path) -> str:
    """What a side is: "gallery", "shard" or "dataset"."""
    if (path / "CURRENT").exists():
        return "gallery"
    return "shard" if (path / "shard.json").exists() else "dataset"


def stored_side(path: Path) -> Side:
    """All rows of a gallery or shard."""
    return gallery_side(path) if kind_of(path) == "gallery" else shard_side(path)


def gallery_side(path: Path) -> Side:
    """All rows of a gallery."""
    gallery = Gallery.open(path)
    blocks = gallery.blocks
    roots = [np.full(len(b), root, object) for b, root in zip(blocks, gallery.roots, strict=True)]
    return Side(
        path=path,
        blocks=list(blocks),
        items=gallery.items,
        roots=np.concatenate([np.empty(0, object), *roots]),
        metric=gallery.metric,
        fingerprint=gallery.fingerprint,
        gallery=gallery,
        matcher=gallery.matcher,
        parts=gallery.part_blocks or (),
        visible=gallery.visible_blocks or (),
        frames=gallery.frame_blocks or (),
    )


def shard_side(path: Path) -> Side:
    """All rows of a shard; where they have no ids, their numbers are."""
    shard = open_shard(path)
    items = shard.items
    if items["item"].null_count:
        numbers = pa.array(np.arange(items.num_rows))
        items = items.set_column(items.column_names.index("item"), "item", numbers)
    return Side(
        path=path,
        blocks=[shard.vectors],
        items=items,
        roots=np.full(shard.header.rows, shard.header.root, object),
        metric=shard.header.metric,
        fingerprint=shard.header.fingerprint,
        matcher=shard.header.matcher,
        **_compared([shard]),
    )


def _compared(shards: Sequence[Shard]) -> dict[str, Any]:
    """What is compared beyond vectors: `Side`'s parts, visible and frames."""
    matcher = shards[0].header.matcher
    if matcher is None:
        return {}
    if matcher.of_frames:
        return {"frames": [SegmentFrames.of(shard.arrays) for shard in shards]}
    names = ("parts", "visible") if matcher.has_visible else ("parts",)
    return {name: [shard.arrays[name] for shard in shards] for name in names}


def dataset_side(
    path: Path,
    source: Source,
    extractor: "Extractor",
    *,
    metric: Metric,
    cut: "Cut | None" = None,
) -> Side:
    """The people of one part of a dataset, through an extractor. cut: how tracklets become
    segments, which are then the rows; None: crops are. Raises NothingToIndex."""
    if source.count == 0:
        raise NothingToIndex(f"{path}: one side has no pictures; both are needed")
    silence_pillow_warnings()
    skipped: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        with progress_bar(source.count, unit="crop") as bar:
            taken = harvest(
                source,
                extractor,
                Path(scratch) / "parts",
                metric=metric,
                pace=Pace(workers=cores()),
                of_frames=cut is not None,
                on_skip=lambda error: skipped.append(str(error)),
                progress=bar.update,
            )
        if not taken.parts:
            raise NothingToIndex(f"{path}: not one of {source.count} pictures can be read")
        folders = taken.parts
        if cut is not None:
            folders = cut_frames(
                taken, extractor, Path(scratch), cut=cut, metric=metric, dtype="float32"
            )
        side = _copied([open_shard(folder) for folder in folders], path)
    for line in skipped[:20]:
        click.echo(f"skipped: {printable(line)}", err=True)
    if skipped:
        click.echo(f"{path}: {len(skipped):,} of {source.count:,} were skipped", err=True)
    return side


def _copied(shards: Sequence[Shard], path: Path) -> Side:
    """The rows of shards of one extraction, in memory."""
    header, compared = shards[0].header, _compared(shards)
    vectors = np.concatenate([np.array(shard.vectors) for shard in shards])
    for name in {"parts", "visible"} & compared.keys():
        compared[name] = [np.concatenate(compared[name])]
    if "frames" in compared:
        compared["frames"] = [joined(compared["frames"])]
    return Side(
        path=path,
        blocks=[vectors],
        items=stack([shard.items for shard in shards]),
        roots=np.full(len(vectors), header.root, object),
        metric=header.metric,
        fingerprint=header.fingerprint,
        matcher=header.matcher,
        **compared,
    )


def read_dataset(path: Path, protocol: str, *, split: int) -> Dataset:
    """A dataset folder; its counts beside the published ones go to standard error."""
    if not path.exists():
        raise BadSource(f"{path}: there is no such gallery, shard or dataset folder")
    dataset = open_dataset(path, protocol, split=split)
    rows = [[protocol, "found", "published"]]
    rows += [
        [name, f"{dataset.found[name]:,}", f"{number:,}"]
        for name, number in dataset.published.items()
    ]
    if len(rows) > 1:
        click.echo(aligned(rows), nl=False, err=True)
    for line in differences(dataset):
        click.echo(f"differs: {printable(line)}", err=True)
    return dataset


def recipe_of(
    gallery: Gallery,
    *,
    weights: Path | None,
    device: str,
    attributes: Path | None = None,
    predict: bool = True,
) -> "Extractor":
    """The extractor that a gallery was built with; the others as `open_recipe` has them, which says
    what it raises."""
    if gallery.manifest.recipe.get("extractor") not in DESCRIPTIONS:
        raise UsageError(
            f"{gallery.path}: its vectors were made elsewhere, so no pictures can be embedded like "
            "them; give a gallery or shard of the same extractor for the other side, too"
        )
    return open_recipe(
        gallery.manifest.recipe,
        weights=weights,
        device=device,
        attributes=attributes,
        predict=predict,
    )


def pooled(side: Side) -> Side:
    """One row for each tracklet, without parts; see `pool_tracklets`."""
    rows = np.arange(side.items.num_rows)
    vectors, items = pool_tracklets(side.matrix(rows), side.items, roots=side.folders)
    if side.metric is Metric.COSINE:
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        vectors = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
    roots = side.roots[np.unique(tracks_of(side.items, side.folders), return_index=True)[1]]
    return replace(side.by_vectors, blocks=[vectors], items=items, roots=roots, gallery=None)


def check_comparable(gallery: Side, queries: Side) -> None:
    """Raise ExtractorMismatch or UsageError unless the sides' vectors can be compared."""
    check_extractor(queries.path, queries.fingerprint, gallery)
    if queries.metric is not gallery.metric:
        raise UsageError(
            f"{queries.path} is compared by {queries.metric}, {gallery.path} by {gallery.metric}: "
            "build both for the same"
        )
    if queries.matcher != gallery.matcher:
        raise UsageError(
            f"{queries.path} is compared by {told(queries.matcher)}, {gallery.path} by "
            f"{told(gallery.matcher)}: build both by the same model, or evaluate --global-only"
        )


def check_extractor(path: Path, fingerprint: Fingerprint, other: Side) -> None:
    """Raise ExtractorMismatch unless vectors of that fingerprint compare with those of `other`."""
    differs = fingerprint.differences(other.fingerprint)
    if differs:
        raise ExtractorMismatch(
            f"{path} comes from another extractor than {other.path} ({'; '.join(differs)}): their "
            "vectors cannot be compared; use the same for both"
        )


def apply_split(side: Side, path: Path, part: str) -> Side:
    """The rows of a side that a list puts into `part`, with the persons and cameras that it tells.

    The list, CSV or Parquet, has the columns file and split (query, gallery, train), and perhaps
    person and camera. Its files are `source`s, or paths that end as they do, or else the names of
    them. Raises BadSource, BadItems.
    """
    table = _part_of(path, part)
    sources = [source or "" for source in side.items["source"].to_pylist()]
    chosen = side.take(_rows_of(side, sources, table["file"].to_pylist(), path))
    items = chosen.items
    for name in ("person", "camera"):
        told = pc.coalesce(table[name], items[name])
        items = items.set_column(items.column_names.index(name), name, told)
    return replace(chosen, items=items)


def split_pictures(folder: Path, path: Path, part: str) -> Source:
    """The pictures of a folder that a list puts into `part`, junk too: those whose path ends as one
    of its files does; where there is none such, those of its name."""
    whole = find_pictures([folder], keep_junk=True)
    by_name: dict[str, list[Picture]] = {}
    for picture in whole.pictures():
        by_name.setdefault(picture.path.name, []).append(picture)
    wanted = set()
    for file in _part_of(path, part)["file"].to_pylist():
        named = by_name.get(os.path.basename(file), [])
        tail = f"/{os.path.normpath(file).lstrip('/')}"
        ending = [picture for picture in named if str(picture.path).endswith(tail)]
        wanted |= {picture.path for picture in ending or named}
    chosen = [picture for picture in whole.pictures() if picture.path in wanted]
    if not chosen:
        raise BadItems(f"{path}: none of its files for the split {part!r} is in {folder}")
    return replace(whole, count=len(chosen), pictures=lambda: iter(chosen))


def _part_of(path: Path, part: str) -> pa.Table:
    table = read_items(path)
    if not {"file", "split"} <= set(table.column_names):
        raise BadSource(f"{path}: a split is a list with the columns file and split")
    table = table.filter(pc.equal(table["split"].cast(pa.string()), part))
    if table.num_rows == 0:
        raise BadSource(f"{path}: no row has the split {part!r}")
    files = table["file"].cast(pa.string())
    if files.null_count:
        raise BadSource(f"{path}: {files.null_count} rows of the split {part!r} name no file")
    return table.set_column(table.column_names.index("file"), "file", files)


def _rows_of(
    side: Side, places: Sequence[str], files: Sequence[str], path: Path
) -> NDArray[np.int64]:
    """The row of each file that `path` names; places: of the rows of a side, "" if not known."""
    by_place: dict[str, list[int]] = {}
    by_name: dict[str, list[int]] = {}
    for row, place in enumerate(places):
        if place:
            by_place.setdefault(place, []).append(row)
            by_name.setdefault(os.path.basename(place), []).append(row)
    rows: dict[int, str] = {}
    missing = []
    for file in files:
        named = by_name.get(os.path.basename(file), [])
        alike = [row for row in named if _ends_alike(places[row], file)]
        found = by_place.get(file) or alike or named
        if len(found) > 1:
            raise BadItems(
                f"{path}: {file!r} may be {len(found)} items of {side.path}; give longer paths"
            )
        if not found:
            missing.append(file)
        elif found[0] in rows:
            raise BadItems(
                f"{path}: {rows[found[0]]!r} and {file!r} are one item of {side.path}; name it once"
            )
        else:
            rows[found[0]] = file
    if missing:
        raise BadItems(
            f"{path}: {len(missing)} of its {len(files)} files are not in {side.path} "
            f"({missing[0]!r}, …): it is another data set's, or the gallery is not whole"
        )
    return np.array(list(rows), np.int64)


def _ends_alike(one: str, other: str) -> bool:
    return one.endswith(f"/{other}") or other.endswith(f"/{one}")


def same_rows(first: Side, other: Side) -> Side:
    """The rows of `other` for the items of `first`, in its order; matched by source and box.

    Raises BadItems.
    """
    wanted = _places(first)
    if not all(wanted):
        raise BadItems(f"{first.path}: items without a source cannot be found in {other.path}")
    return other.take(_rows_of(other, _places(other), wanted, first.path))


def _places(side: Side) -> list[str]:
    rows = zip(side.items["source"].to_pylist(), side.items["box"].to_pylist(), strict=True)
    return [
        source if box is None or not source else f"{source} @{box}"
        for source, box in ((source or "", box) for source, box in rows)
    ]
