"""A gallery: people's vectors and what is known of them, in one folder, ready to be searched."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from .attached import attach, check_kind, detach, sweep
from .errors import (
    BadShard,
    DimensionMismatch,
    ExtractorMismatch,
    UsageError,
)
from .fingerprint import Fingerprint
from .generation import Generation
from .items import item_table
from .knn import Neighbours
from .manifest import (
    AttachedEntry,
    Manifest,
    commit,
    describe_shard,
    read_current,
    refuse_taken,
    writer_lock,
)
from .metric import Metric, parse_metric
from .query import answer, answers, check_k, neighbours
from .query_vectors import query_batch
from .result import Result
from .shard import Shard, check_alike, merge_shards, numbered, open_shard, write_shard
from .vectors import ArrayStream

if TYPE_CHECKING:
    from .graph import Graph
    from .index import Index
    from .rerank import Reranking
    from .rerank_gallery import WholeGallery


class Gallery:
    """A gallery folder at one generation.

    Open one with `Gallery.open`, make one with `Gallery.create`. An opened gallery keeps seeing
    the generation it was opened at, whatever others write, until it writes itself.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._generation = Generation(path, manifest)

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
        refuse_taken(path)
        path.mkdir(parents=True, exist_ok=True)
        with writer_lock(path):
            refuse_taken(path)
            manifest = commit(path, manifest)
        return cls(path, manifest)

    @classmethod
    def open(cls, path: Path | str) -> "Gallery":
        """Open the present generation; its manifest and the sizes of the shards' files are checked.

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

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Its shards, whose rows in order are the gallery's."""
        return self._generation.shards

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
        ends = np.cumsum([shard.header.rows for shard in self.shards])
        place = int(np.searchsorted(ends, row, side="right"))
        shard = self.shards[place]
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
        table = item_table(items, rows=len(array))

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
            sweep(self.path, manifest)
            name = f"shards/{manifest.generation + 1:06d}"
            try:
                write(self.path / name, manifest)
                shard = open_shard(self.path / name)
                present = [open_shard(self.path / entry.folder) for entry in manifest.shards]
                check_alike(shard, present, of=self.path)
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
        self._generation = Generation(self.path, manifest)

    def attach(
        self,
        kind: str,
        write: Callable[[Path], None],
        *,
        generation: int,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep files that were made from the gallery with it, in one commit, in place of the
        former ones of that kind; this object then sees them.

        kind: "graph", "calibration" or "index". write: fills the empty folder that it gets with
        files; letters, digits, dots and dashes in their names, no folders.
        generation: the one that they were made from. Where others have added since, `is_stale`
        says so at once. about: JSON to be kept in the manifest.

        Raises UsageError (kind, generation, names), GalleryLocked, and what `write` raises; the
        gallery is then as it was.
        """
        manifest = attach(self.path, kind, write, generation=generation, about=about or {})
        self._generation = Generation(self.path, manifest)

    def attached(self, kind: str) -> Path | None:
        """The folder of the attachment of that kind, None where there is none."""
        entry = self._attachment(kind)
        return None if entry is None else self.path / entry.folder

    def is_stale(self, kind: str) -> bool:
        """Whether the attachment was made from other rows than are there now.

        Raises UsageError where nothing of that kind is attached.
        """
        entry = self._attachment(kind)
        if entry is None:
            raise UsageError(f"{self.path}: no {kind} is attached to it")
        return entry.covers != self.manifest.folders

    def _attachment(self, kind: str) -> AttachedEntry | None:
        check_kind(kind)
        return next((entry for entry in self.manifest.attached if entry.kind == kind), None)

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
        rerank: "Reranking | None" = None,
        rerank_graph: str = "whole",
        recall: float | None = None,
        device: str = "cpu",
        fingerprint: Fingerprint | None = None,
    ) -> Result:
        """The k items most like the query among those allowed, exactly unless `recall` is given.

        query: (D,), or (n, D): n vectors of one person. combine: "mean" searches with their mean
        (of normalised vectors for cosine), "best" ranks an item by its best score with any.
        where: an expression over item columns (see where.py). not_camera: cameras whose items may
        not be returned; items of unknown camera may. Both apply before the search, so they never
        eat into the k.
        threshold: the smallest similarity, or the largest distance in a Euclidean gallery.
        rerank: rank by k-reciprocal re-ranked distance instead (see rerank.py), the query alone
        with the gallery; similarity and threshold stay the original ones.
        rerank_graph: "whole", the neighbour graph of all rows, whatever is allowed, as published
        results have it; or "allowed", that of the allowed rows, made for this query.
        recall: in (0, 1], the share of the right items that suffices, so that an approximate index
        (see `build_index`) answers where that is faster; `Result.exact` says whether it did.
        device: "cpu", or "cuda", "cuda:1", "cuda:0,cuda:1" for the rows copied to GPUs, kept there
        for the next query, and compared exactly; where that fails, the processor answers and
        `Result.fallback` says why.
        fingerprint: of the query's extractor; checked when given.

        Equal scores are ordered by item id. Raises UsageError (k, threshold, combine, rerank,
        recall, device), WhereError, DimensionMismatch, NotFiniteError, ExtractorMismatch; NoGraph
        where re-ranking needs a stored graph and there is none for the present rows.
        """
        if fingerprint is not None:
            self.check_fingerprint(fingerprint, of="the query")
        present = self._generation  # another thread may add meanwhile
        return answer(
            present.searched,
            query,
            k=k,
            where=where,
            not_camera=not_camera,
            threshold=threshold,
            combine=combine,
            how=present.how(recall=recall, device=device),
            reranker=None
            if rerank is None or present.manifest.rows == 0
            else partial(present.reranker, rerank, rerank_graph),
        )

    def search_many(
        self,
        queries: ArrayLike,
        *,
        k: int = 20,
        where: str | Sequence[str | None] | None = None,
        not_camera: Sequence[int] = (),
        threshold: float | None = None,
        recall: float | None = None,
        device: str = "cpu",
        fingerprint: Fingerprint | None = None,
    ) -> list[Result]:
        """The answers to several queries, each as `search` gives it.

        queries: (Q, D), each another person. where: one expression for all, or one (or None) for
        each. Queries with equal filters share the work, and `Result.seconds` is then theirs
        together.
        """
        if fingerprint is not None:
            self.check_fingerprint(fingerprint, of="the queries")
        present = self._generation
        return answers(
            present.searched,
            queries,
            k=k,
            where=where,
            not_camera=not_camera,
            threshold=threshold,
            how=present.how(recall=recall, device=device),
        )

    def nearest(
        self,
        queries: ArrayLike,
        *,
        k: int = 20,
        where: str | Sequence[str | None] | None = None,
        not_camera: Sequence[int] = (),
        recall: float | None = None,
        device: str = "cpu",
    ) -> list[Neighbours]:
        """As `search_many`, but rows and scores only, without what is known of the items."""
        present = self._generation
        check_k(k)
        vectors = query_batch(queries, dim=self.dim, metric=self.metric)
        how = present.how(recall=recall, device=device)
        found, _ = neighbours(
            present.searched, vectors, k=k, where=where, not_camera=not_camera, how=how
        )
        return found

    @property
    def graph(self) -> "Graph | None":
        """The neighbour graph of the present rows, if one is kept and not stale. Raises
        CorruptGallery."""
        return self._generation.graph[0]

    def reranking(self, rerank: "Reranking") -> "WholeGallery":
        """Re-ranking of single queries with the graph of all rows, kept for the next query.

        Raises NoGraph where there are too many rows to make the graph now; see `search`.
        """
        return self._generation.reranking(rerank)

    def build_graph(self, rerank: "Reranking", *, exact: bool | None = None) -> bool:
        """Make the neighbour graph of the present rows and keep it with them, in one commit;
        whether it is exact.

        exact: compare all pairs; None does so up to some 300,000 rows, and beyond asks an
        approximate index, which answers then say. Adding makes the graph stale. Raises UsageError
        for an inner product gallery or too few rows, GalleryLocked, NotFiniteError.
        """
        if self.metric is Metric.INNER_PRODUCT:
            raise UsageError("a graph needs distances: an inner product gallery has none")
        from .graph import make_graph, write_graph

        present = self._generation  # another thread may add meanwhile
        items = present.searched.rows.items
        graph = make_graph(present.matrix, items=items, reranking=rerank, exact=exact)
        self.attach(
            "graph",
            lambda folder: write_graph(folder, graph),
            generation=present.manifest.generation,
        )
        return graph.exact

    @property
    def index(self) -> "Index | None":
        """The approximate index of the first rows, if one is kept. Raises CorruptGallery."""
        return self._generation.index

    def build_index(
        self,
        kind: str = "auto",
        *,
        recall: float = 0.95,
        memory: int | None = None,
        progress: Callable[[int], object] = lambda _rows: None,
    ) -> "Index | None":
        """Make an approximate index of the present rows and keep it with them, in one commit; None
        where none is to be had, and a former one is removed. See `Generation.make_index`.

        Rows that are added later are compared exactly. Raises UsageError, GalleryLocked.
        """
        present = self._generation  # another thread may add meanwhile
        built = present.make_index(kind, recall=recall, memory=memory, progress=progress)
        if built is None:
            if self.attached("index") is not None:
                self._generation = Generation(self.path, detach(self.path, "index"))
            return None
        generation = present.manifest.generation
        self.attach("index", built.write, generation=generation, about=built.about(recall))
        return self.index
