"""A gallery: people's vectors and what is known of them, in one folder, ready to be searched."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from .errors import (
    BadItems,
    BadShard,
    CorruptGallery,
    DimensionMismatch,
    ExtractorMismatch,
    GalleryExists,
    UsageError,
)
from .files import remove_all_but
from .fingerprint import Fingerprint
from .items import STANDARD, stack
from .knn import Block
from .manifest import Manifest, commit, describe_shard, read_current, writer_lock
from .metric import Metric
from .query import Searched, answer
from .result import Result
from .shard import Shard, merge_shards, numbered, open_shard, write_shard
from .vectors import ArrayStream


@dataclass(frozen=True)
class _Generation:
    """One generation, opened: nothing in it ever changes."""

    path: Path
    manifest: Manifest

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        shards = tuple(open_shard(self.path / entry.folder) for entry in self.manifest.shards)
        for shard, entry in zip(shards, self.manifest.shards, strict=True):
            if shard.header.rows != entry.rows:
                raise CorruptGallery(
                    f"{shard.folder}: shard.json says {shard.header.rows} rows, the manifest "
                    f"{entry.rows}: restore it from a copy"
                )
        return shards

    @cached_property
    def searched(self) -> Searched:
        return Searched(
            blocks=[Block(shard.vectors, shard.header.max_norm) for shard in self.shards],
            items=stack([shard.items for shard in self.shards] or [_no_items()]),
            roots=[shard.header.root for shard in self.shards],
            metric=self.manifest.metric,
            dim=self.manifest.dim,
            generation=self.manifest.generation,
        )


class Gallery:
    """A gallery folder at one generation.

    Open one with `Gallery.open`, make one with `Gallery.create`. An opened gallery keeps seeing
    the generation it was opened at, whatever others write, until it writes itself.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._generation = _Generation(path, manifest)

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        dim: int,
        fingerprint: Fingerprint,
        metric: Metric | str = Metric.COSINE,
        dtype: str = "float32",
        recipe: Mapping[str, Any] | None = None,
    ) -> "Gallery":
        """Make an empty gallery in a new or empty folder and open it.

        dim: D ≥ 1 of its vectors. fingerprint: of the extractor that makes them; for vectors of
        your own, `Fingerprint(name="external:NAME", version="1")`. metric: "cosine",
        "inner_product" or "euclidean". dtype: "float32", or "float16" for half the size and
        similarities good to about 1e-3. recipe: JSON that whoever queries can make the extractor
        from; kept, never interpreted.

        Raises GalleryExists where path holds anything else, UsageError, GalleryLocked.
        """
        path = Path(path)
        if dim < 1:
            raise UsageError(f"a gallery's dim must be at least 1, got {dim}")
        if dtype not in ("float32", "float16"):
            raise UsageError(f"dtype {dtype!r}: vectors are stored as float32 or float16")
        manifest = Manifest(
            generation=0,
            created=datetime.now(UTC),
            metric=parse_metric(metric),
            dim=dim,
            dtype=dtype,
            fingerprint=fingerprint,
            recipe=dict(recipe or {}),
            next_item=0,
            shards=(),
        )
        _refuse_taken(path)
        path.mkdir(parents=True, exist_ok=True)
        with writer_lock(path):
            _refuse_taken(path)
            manifest = commit(path, manifest)
        return cls(path, manifest)

    @classmethod
    def open(cls, path: Path | str) -> "Gallery":
        """Open the present generation; its manifest and the size of every file are checked.

        Raises GalleryNotFound, CorruptGallery (with the file), FormatTooNew.
        """
        path = Path(path)
        return cls(path, read_current(path))

    @property
    def path(self) -> Path:
        """The gallery's folder."""
        return self._generation.path

    @property
    def manifest(self) -> Manifest:
        """Everything that the present generation consists of."""
        return self._generation.manifest

    @property
    def metric(self) -> Metric:
        """How its vectors are compared."""
        return self.manifest.metric

    @property
    def dim(self) -> int:
        """D of its vectors."""
        return self.manifest.dim

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the extractor that made its vectors."""
        return self.manifest.fingerprint

    @property
    def items(self) -> pa.Table:
        """All items, every standard column present, in the order of the rows."""
        return self._generation.searched.items

    def __len__(self) -> int:
        return self.manifest.rows

    def vectors(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Copies of the vectors in those rows, counted from 0 over all items: float32 (n, D)."""
        found = np.empty((len(rows), self.dim), np.float32)
        for place, row in enumerate(rows):
            shard, local = self._shard_of(row)
            found[place] = shard.vectors[local]
        return found

    def root_of(self, row: int) -> str:
        """The folder that the row's `source` is relative to, "" where no pictures exist."""
        return self._shard_of(row)[0].header.root

    def _shard_of(self, row: int) -> tuple[Shard, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"there is no row {row}; there are {len(self)}, counted from 0")
        ends = np.cumsum([shard.header.rows for shard in self._generation.shards])
        place = int(np.searchsorted(ends, row, side="right"))
        shard = self._generation.shards[place]
        return shard, row - int(ends[place]) + shard.header.rows

    def row_of(self, item: int) -> int:
        """The row of an item id. Raises UsageError where there is no such item."""
        rows = np.flatnonzero(self.items["item"].to_numpy() == item)
        if len(rows) == 0:
            raise UsageError(f"{self.path}: there is no item {item}; it holds {len(self)} items")
        return int(rows[0])

    def add(
        self,
        vectors: ArrayLike,
        items: pa.Table | Sequence[Mapping[str, Any]] | None = None,
        *,
        root: str = "",
    ) -> None:
        """Add rows in one commit; this object then sees them, and so does everyone who opens it.

        vectors: (n, D) floats of the gallery's extractor, any memory order; never changed.
        items: n rows of item columns (see items.STANDARD; further columns are kept), as a table
        or as mappings. Item ids are given here unless they come along.
        root: the folder that `source` is relative to.

        Raises DimensionMismatch, NotFiniteError, BadItems, GalleryLocked; the gallery is then as
        it was.
        """
        try:
            array = np.asarray(vectors)
        except ValueError as error:
            raise UsageError(f"vectors are a table of numbers, (n, {self.dim}): {error}") from None
        if array.ndim != 2 or array.shape[1] != self.dim:
            raise DimensionMismatch(
                f"vectors of the shape {array.shape} do not fit this gallery of {self.dim} "
                f"dimensions: (n, {self.dim}) is needed"
            )
        if array.dtype.kind not in "fiub":
            raise UsageError(f"vectors must be real numbers, got {array.dtype}")
        table = _table(items, rows=len(array))

        def write(folder: Path, manifest: Manifest) -> None:
            write_shard(
                folder,
                arrays={"global": ArrayStream.of(array)},
                items=numbered([table], manifest.next_item),
                fingerprint=manifest.fingerprint,
                metric=manifest.metric,
                dtype=manifest.dtype,
                root=root,
            )

        if len(array):
            self._append(write)

    def add_shards(self, folders: Sequence[Path | str]) -> None:
        """Add shards in one commit, their rows in order as one new shard; see `add`.

        Raises ExtractorMismatch for shards of another extractor (with the fields that differ),
        BadShard, and what `add` raises.
        """
        shards = [open_shard(Path(folder)) for folder in folders]
        for shard in shards:
            self._check_shard(shard)

        def write(folder: Path, manifest: Manifest) -> None:
            merge_shards(
                folder,
                shards=shards,
                first_item=manifest.next_item,
                metric=manifest.metric,
                dtype=manifest.dtype,
            )

        if any(shard.header.rows for shard in shards):
            self._append(write)

    def _append(self, write: Callable[[Path, Manifest], None]) -> None:
        """Commit a generation with one more shard, which `write` writes to the folder it gets."""
        with writer_lock(self.path):
            manifest = read_current(self.path, writing=True)
            _sweep(self.path, manifest)
            name = f"shards/{manifest.generation + 1:06d}"
            try:
                write(self.path / name, manifest)
                shard = open_shard(self.path / name)
                _refuse_unlike(self.path, manifest, shard)
                entry = describe_shard(self.path, name, rows=shard.header.rows)
            except BaseException:
                shutil.rmtree(self.path / name, ignore_errors=True)
                raise
            manifest = replace(
                manifest,
                generation=manifest.generation + 1,
                created=datetime.now(UTC),
                next_item=int(pc.max(shard.items["item"]).as_py()) + 1,
                shards=(*manifest.shards, entry),
            )
            manifest = commit(self.path, manifest)
        self._generation = _Generation(self.path, manifest)

    def _check_shard(self, shard: Shard) -> None:
        if shard.header.dim != self.dim:
            raise DimensionMismatch(
                f"{shard.folder} has {shard.header.dim} dimensions, the gallery {self.dim}"
            )
        if shard.header.metric is not self.metric:
            raise BadShard(
                f"{shard.folder} was written for {shard.header.metric}, the gallery compares by "
                f"{self.metric}: write it again for that"
            )
        self.check_fingerprint(shard.header.fingerprint, of=str(shard.folder))

    def check_fingerprint(self, fingerprint: Fingerprint, *, of: str) -> None:
        """Raise ExtractorMismatch, naming the fields, unless it is this gallery's."""
        differences = fingerprint.differences(self.fingerprint)
        if differences:
            raise ExtractorMismatch(
                f"{of} comes from another extractor than {self.path} "
                f"({'; '.join(differences)}): its vectors cannot be compared; use the gallery's"
            )

    def search(
        self,
        query: ArrayLike,
        *,
        k: int = 20,
        where: str | None = None,
        not_camera: Sequence[int] = (),
        threshold: float | None = None,
        combine: str = "mean",
        fingerprint: Fingerprint | None = None,
    ) -> Result:
        """The k items most like the query among those allowed, exactly.

        query: (D,), or (n, D): n vectors of one person. combine: "mean" searches with their mean
        (of normalised vectors for cosine), "best" ranks an item by its best score with any.
        where: an expression over item columns (see where.py). not_camera: cameras whose items may
        not be returned; items of unknown camera may. Both apply before the search, so they never
        eat into the k.
        threshold: the smallest similarity, or the largest distance in a Euclidean gallery.
        fingerprint: of the query's extractor; checked when given.

        Equal scores are ordered by item id. Raises UsageError (k, threshold, combine), WhereError,
        DimensionMismatch, NotFiniteError, ExtractorMismatch.
        """
        if fingerprint is not None:
            self.check_fingerprint(fingerprint, of="the query")
        return answer(
            self._generation.searched,
            query,
            k=k,
            where=where,
            not_camera=not_camera,
            threshold=threshold,
            combine=combine,
        )


def parse_metric(metric: Metric | str) -> Metric:
    """A metric by its name. Raises UsageError with the names there are."""
    try:
        return Metric(metric)
    except ValueError:
        names = ", ".join(Metric)
        raise UsageError(f"there is no metric {metric!r}; there are {names}") from None


def _refuse_taken(path: Path) -> None:
    """Raise GalleryExists unless path is free, or holds what a crashed `create` left."""
    if path.exists() and not path.is_dir():
        raise GalleryExists(f"{path} is a file; choose another folder")
    taken = {entry.name for entry in path.iterdir()} if path.exists() else set()
    taken -= {"lock", "manifest-000000.json", ".CURRENT.tmp"}
    if taken:
        what = "a gallery" if "CURRENT" in taken else f"other files ({min(taken)}, …)"
        raise GalleryExists(f"{path} holds {what} already; choose another folder")


def _sweep(path: Path, manifest: Manifest) -> None:
    """Remove what a crashed writer left in the folder of shards."""
    shards = path / "shards"
    if shards.exists():
        remove_all_but(shards, {Path(entry.folder).name for entry in manifest.shards})


def _refuse_unlike(path: Path, manifest: Manifest, new: Shard) -> None:
    """Raise BadItems unless the new shard's columns can stand below those of each present one,
    BadShard unless it has the same arrays."""
    present = [open_shard(path / entry.folder) for entry in manifest.shards]
    stack(shard.columns.empty_table() for shard in (*present, new))
    for shard in present[:1]:
        mine, its = _widths(shard), _widths(new)
        if mine != its:
            raise BadShard(f"the rows hold {its}, those of {path} {mine}: all must have the same")


def _widths(shard: Shard) -> dict[str, tuple[int, ...]]:
    return {name: array.shape[1:] for name, array in shard.arrays.items()}


def _no_items() -> pa.Table:
    return pa.table({name: pa.nulls(0, kind) for name, kind in STANDARD.items()})


def _table(items: pa.Table | Sequence[Mapping[str, Any]] | None, *, rows: int) -> pa.Table:
    if items is None:
        table = pa.table({"source": pa.nulls(rows, pa.string())})
    elif isinstance(items, pa.Table):
        table = items
    else:
        names = dict.fromkeys(name for item in items for name in item)
        try:
            table = pa.table({name: [item.get(name) for item in items] for name in names})
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise BadItems(f"items: one column holds several types: {error}") from None
        except UnicodeEncodeError as error:
            raise BadItems(f"items: a text is not UTF-8: {error.object!r}") from None
    if table.num_rows != rows:
        raise BadItems(f"{rows} vectors but {table.num_rows} items: one for each vector, please")
    return table
