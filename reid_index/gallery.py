"""A gallery: people's vectors and what is known of them, in one folder, ready to be searched."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from .errors import UsageError
from .filters.agreement import Agreement
from .fingerprint import Fingerprint
from .generation import Generation
from .matcher import Matcher
from .metric import Metric, parse_metric
from .search.aggregate import Aggregation
from .search.knn import Neighbours
from .search.matching import SHORTLIST
from .search.query import answer, answers, check_k, neighbours
from .search.query_vectors import query_batch
from .search.result import Result
from .search.select import select
from .search.video import search_videos
from .search.video_result import VideoResult
from .store import commit
from .store.append import (
    NewShard,
    append,
    check_fingerprint,
    check_same_extractor,
    check_shard,
    checked_frames,
    checked_parts,
    checked_vectors,
    checked_visible,
    has_added,
    of_rows,
    of_shards,
)
from .store.attached import attach, check_kind, detach
from .store.frames import SegmentFrames
from .store.items import item_table
from .store.manifest import AttachedEntry, Manifest, Past
from .store.overlays import said_of
from .store.retire import retire
from .store.shard import open_shard
from .store.writer import Writer, create, writing
from .upkeep.attributes import clear_attributes, set_attributes
from .upkeep.delete import delete_rows, rows_of

if TYPE_CHECKING:
    from .reranking.graph import Graph
    from .reranking.rerank import Reranking
    from .reranking.rerank_gallery import WholeGallery
    from .search.index import Index
    from .upkeep.compact import Compacted
    from .upkeep.rebuild import Rebuilt


class Gallery:
    """A gallery folder at one generation.

    Open one with `Gallery.open`, make one with `Gallery.create`. An opened gallery keeps seeing
    the generation it was opened at, whatever others write, until it writes itself or is told to
    `refresh`. While it lives, what it sees stays on the disk: `close` it, or use it in a `with`
    statement, so that compaction can remove what was deleted. A forked child holds it, too.

    Rows are counted from 0 over the items that are not deleted.
    """

    def __init__(self, generation: Generation) -> None:
        self._path = generation.path
        self._opened: Generation | None = generation
        self._turn = Lock()

    @property
    def _generation(self) -> Generation:
        if self._opened is None:
            raise UsageError(f"{self._path} was closed: open it again")
        return self._opened

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
        matcher: Matcher | None = None,
    ) -> "Gallery":
        """Make an empty gallery in a new or empty folder and open it.

        dim: D ≥ 1 of its vectors. fingerprint: of the extractor that makes them; for vectors of
        your own, `Fingerprint(name="external:NAME", version="1")`. metric: "cosine",
        "inner_product" or "euclidean". dtype: "float32", or "float16" for half the size and
        similarities good to about 1e-3. recipe: JSON that whoever queries can make the extractor
        from; kept, never interpreted. matcher: how items' parts or frames are compared beside
        their vectors (see matcher.py); all that is added then has them.

        Raises GalleryExists where path holds anything else, UsageError, GalleryLocked.
        """
        create(
            Path(path),
            dim=dim,
            fingerprint=fingerprint,
            metric=parse_metric(metric),
            dtype=dtype,
            recipe=recipe or {},
            matcher=matcher,
        )
        return cls.open(path)

    @classmethod
    def open(cls, path: Path | str) -> "Gallery":
        """Open the present generation; its manifest and the sizes of the shards' files are checked.

        Raises GalleryNotFound, CorruptGallery (with the file), FormatTooNew.
        """
        path = Path(path)
        return cls(Generation.of(path, commit.open_present(path)))

    def refresh(self) -> bool:
        """See the present generation from now on; whether it is another one. Searches that are
        under way in other threads end with the generation they began with. Raises as `open`."""
        with self._turn:  # of two threads the later one sees the later generation
            former = self._generation
            opened = commit.open_present(self.path)
            is_other = opened.manifest != former.manifest
            if is_other:
                self._opened = Generation.of(self.path, opened, former=former)
            else:
                former.lease.renew()  # the folder may be a copy in the place of the former
        return is_other

    def snapshot(self) -> "Gallery":
        """Another object that sees this generation, whatever becomes of this one."""
        with self._turn:
            generation = self._generation
            generation.lease.share()
        return Gallery(generation)

    def close(self) -> None:
        """Let the generation go; nothing can be asked of this object any more (UsageError)."""
        with self._turn:
            if self._opened is not None:
                self._opened.lease.end()
            self._opened = None

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """The gallery's folder."""
        return self._path

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
    def matcher(self) -> Matcher | None:
        """How its items' parts or frames are compared; None where items are by their vectors
        alone."""
        return self.manifest.matcher

    @property
    def items(self) -> pa.Table:
        """All items, every standard column present, in the order of the rows."""
        return self._generation.items

    @property
    def blocks(self) -> tuple[NDArray[np.generic], ...]:
        """All vectors in the order of the rows, (n, D) float32 or float16 each: mapped, but for
        those of shards from which something is deleted, which are copies."""
        return self._generation.blocks

    @property
    def part_blocks(self) -> tuple[NDArray[np.generic], ...] | None:
        """The parts of all rows as `blocks` has their vectors, (n, P, Dp) each; None without a
        matcher of parts."""
        return self._generation.part_blocks

    @property
    def visible_blocks(self) -> tuple[NDArray[np.generic], ...] | None:
        """Which parts of all rows are visible, as `part_blocks` has them, uint8 (n, P) of 0 and 1
        each; None without the matcher visibility."""
        return self._generation.visible_blocks

    @property
    def frame_blocks(self) -> tuple[SegmentFrames, ...] | None:
        """The frames of all rows as `blocks` has their vectors; None without a matcher of them."""
        return self._generation.frame_blocks

    @property
    def roots(self) -> tuple[str, ...]:
        """For each of `blocks` the folder that `source` is relative to, "" where no pictures
        exist."""
        return tuple(shard.header.root for shard in self._generation.shards)

    def __len__(self) -> int:
        return self.manifest.rows

    def vectors(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Copies of the vectors in those rows: float32 (n, D). Raises IndexError."""
        return self._generation.vectors(rows)

    def parts(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Copies of the parts of those rows: float32 (n, P, Dp). Raises IndexError, UsageError in a
        gallery without a matcher of parts."""
        return self._generation.parts(rows)

    def visible(self, rows: Sequence[int]) -> NDArray[np.uint8]:
        """Which parts of those rows are visible: uint8 (n, P) of 0 and 1, copied. Raises
        IndexError, UsageError in a gallery without the matcher visibility."""
        return self._generation.visible(rows)

    def frames(self, rows: Sequence[int]) -> SegmentFrames:
        """Copies of the frames of those rows, as float32. Raises IndexError, UsageError in a
        gallery without a matcher of frames."""
        return self._generation.frames(rows)

    def root_of(self, row: int) -> str:
        """The folder that the row's `source` is relative to, "" where no pictures exist."""
        return self._generation.root_of(row)

    def row_of(self, item: int) -> int:
        """The row of an item id. Raises UsageError where there is no such item."""
        rows = np.flatnonzero(self._generation.ids == item)
        if len(rows) == 0:
            raise UsageError(f"{self.path}: there is no item {item}; it holds {len(self)} items")
        return int(rows[0])

    def history(self) -> tuple[Past, ...]:
        """What made each generation up to this one, oldest first."""
        return commit.history(self.path, self.manifest)

    def add(
        self,
        vectors: ArrayLike,
        items: pa.Table | Sequence[Mapping[str, Any]] | None = None,
        *,
        parts: ArrayLike | None = None,
        visible: ArrayLike | None = None,
        frames: SegmentFrames | None = None,
        root: str = "",
        key: str | None = None,
    ) -> bool:
        """Add rows in one commit; this object then sees them, and so does everyone who opens it.

        vectors: (n, D) floats of the gallery's extractor, any memory order; never changed.
        items: n rows of item columns (see items.STANDARD; further columns are kept), as a table
        or as mappings. Item ids are given here unless they come along.
        parts: (n, P, Dp) floats of the same extractor, where the gallery has a matcher of parts;
        visible: (n, P) of 0 and 1, which of them are to be seen, where that matcher is visibility;
        None: all are. frames: of the n segments, where it has one of frames.
        root: the folder that `source` is relative to. key: see `add_shards`; whether the rows were
        added is returned.

        Raises DimensionMismatch, NotFiniteError, BadItems, BadShard (parts of another shape than
        the gallery's, offsets that are none, something else than 0 and 1), UsageError,
        GalleryLocked; the gallery is then as it was.
        """
        array = checked_vectors(vectors, dim=self.dim)
        its_parts = checked_parts(parts, self.manifest, rows=len(array))
        its_visible = checked_visible(visible, self.manifest, parts=its_parts)
        table = item_table(items, rows=len(array))
        its_frames = checked_frames(frames, self.manifest, rows=len(array))
        new = of_rows(
            array, table, parts=its_parts, visible=its_visible, frames=its_frames, root=root
        )
        return len(array) > 0 and self._append(new, key=key)

    def add_shards(self, folders: Sequence[Path | str], *, key: str | None = None) -> bool:
        """Add shards in one commit, their rows in order as one new shard; see `add`. Whether they
        were added.

        key: a name for this addition. Where the gallery was added to by that key before, nothing is
        added, so that an interrupted caller can simply begin again.

        Raises ExtractorMismatch for shards of another extractor (with the fields that differ),
        BadShard, and what `add` raises.
        """
        shards = [open_shard(Path(folder)) for folder in folders]
        for shard in shards:
            check_shard(shard, self.manifest, of=self.path)
        return any(shard.header.rows for shard in shards) and self._append(
            of_shards(shards), key=key
        )

    def _append(self, write: NewShard, *, key: str | None) -> bool:
        with self.writing() as writer:
            check_same_extractor(writer.present, self.manifest, of=self.path)
            is_new = key is None or not has_added(writer.present, key)
            if is_new:
                append(writer, write, key=key)
            self.refresh()
        return is_new

    def writing(self) -> AbstractContextManager[Writer]:
        """Be its one writer, as all that changes it here is. Raises UsageError where it was closed,
        GalleryLocked, and what `writing` raises."""
        return writing(self._generation.path)

    def has_added(self, key: str) -> bool:
        """Whether the gallery, as it is now, was added to by that key."""
        return has_added(commit.open_present(self.path).manifest, key)

    def set_attributes(
        self, table: pa.Table | Sequence[Mapping[str, Any]], *, origin: str | None = None
    ) -> int:
        """Say attributes of items, in one commit, beside the shards, which stay as they are; how
        many cells were said. This object then sees them, and so does everyone who opens the
        gallery, in `items` and in every filter.

        table: `item`, ids of items, each once, and for any attributes (see attributes.py) the
        columns `attr.NAME`, words or sets of words, and, if there are any, `attr.NAME.confidence`
        and `attr.NAME.origin`; a cell without a value says nothing. Attributes that no item had
        are new columns.
        origin: "label", "person" or "model NAME VERSION SHA256", of cells without one of their own;
        "label" unless given. What a person said is not replaced by a label, nor a label by a model;
        of equal origins the later counts. Such cells are kept all the same, until `compact`.

        Raises BadItems (another column, an item that is not there or has two rows, a word where
        the gallery has sets or the other way round, a confidence that is not from 0 to 1, an
        origin that there is none of), UsageError (what an attribute cannot be called),
        GalleryLocked; the gallery is then as it was.
        """
        overlay = said_of(table, origin=origin)
        with self.writing() as writer:
            cells = set_attributes(writer, overlay)
            self.refresh()
        return cells

    def clear_attributes(
        self, names: Collection[str] | None = None, *, origin: str | None = None
    ) -> int:
        """Take back what `set_attributes` has said, in one commit; how many cells are gone. What
        the items were added with stays, and is seen again.

        names: of these attributes, of all unless given. origin: only what that has said, as
        "model NAME VERSION SHA256".

        Raises UsageError for a name of which nothing was said, GalleryLocked.
        """
        if isinstance(names, str):
            raise UsageError(f"names are a list, as in [{names!r}]")
        with self.writing() as writer:
            cells = clear_attributes(writer, names, origin=origin)
            self.refresh()
            if cells:
                retire(self.path, writer.present)
        return cells

    def delete(
        self,
        *,
        where: str | None = None,
        items: Sequence[int] | None = None,
        receipt: Path | str | None = None,
    ) -> int:
        """Delete items in one commit; how many. This object no longer sees them, nor does anyone
        who opens the gallery, but their bytes stay until `compact`.

        where: an expression over item columns. items: ids. Both: what either names.
        receipt: a new file, outside the gallery, that says what must be gone once it is compacted,
        without saying what it was (see receipt.py).

        Raises UsageError (neither given, no such item, receipt), WhereError, GalleryLocked; the
        gallery is then as it was.
        """
        with self.writing() as writer:
            gone = rows_of(self.path, writer.present, where=where, items=items)
            if gone:
                delete_rows(writer, gone, receipt=None if receipt is None else Path(receipt))
            self.refresh()
        return sum(map(len, gone.values()))

    def compact(
        self,
        *,
        remake: bool = True,
        progress: Callable[[int], object] = lambda _rows: None,
    ) -> "Compacted":
        """Write what is deleted or small again, without the deleted rows, and remove what only
        former generations needed: after that no byte of a deleted item is in the folder.

        What live readers of former generations hold stays; see `Compacted.pending`. Then graph,
        index and calibration are made again where they are not of the present rows, unless `remake`
        is False. progress is told of rows as they are written.

        Raises GalleryLocked, CorruptGallery, BadShard; the gallery is then as it was.
        """
        from .upkeep.compact import compact

        return compact(self, remake=remake, progress=progress)

    def rebuild(
        self,
        shards: Sequence[Path | str],
        *,
        recipe: Mapping[str, Any],
        remake: bool = True,
        drop_missing: bool | Collection[int] = False,
        roots: Mapping[str, str] | None = None,
        progress: Callable[[int], object] = lambda _rows: None,
    ) -> "Rebuilt":
        """Give the items vectors of another extractor, in one commit: fingerprint, dimensions,
        metric, matcher and type become those of the shards, what is known of the items stays.
        Deleted items are left behind, as `compact` does; so are readers, and what is attached is
        made again.

        shards: vectors whose column `item` names the items they are of; further columns, and items
        that the gallery has not (any longer), are not used. recipe: as in `create`.
        drop_missing: leave out items of which the shards hold no vector: all such, or these ids.
        roots: root → the folder that its pictures have moved to; other roots stay as they are.

        Raises UsageError for items without a vector that may not be left out (how many), and for
        items with two; NothingToIndex where no item would be left, BadShard, GalleryLocked,
        CorruptGallery; the gallery is then as it was.
        """
        from .upkeep.rebuild import rebuild

        return rebuild(
            self,
            list(map(Path, shards)),
            recipe=recipe,
            remake=remake,
            drop_missing=drop_missing,
            roots=roots or {},
            progress=progress,
        )

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
        with self.writing() as writer:
            attach(writer, kind, write, generation=generation, about=about or {})
            self.refresh()
            retire(self.path, writer.present)

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
        return not self.manifest.is_fresh(entry)

    def _attachment(self, kind: str) -> AttachedEntry | None:
        check_kind(kind)
        return self.manifest.attachment(kind)

    def check_fingerprint(self, fingerprint: Fingerprint, *, of: str) -> None:
        """Raise ExtractorMismatch, naming the fields, unless it is this gallery's."""
        check_fingerprint(fingerprint, self.manifest, of=of, gallery=self.path)

    def search(
        self,
        query: ArrayLike,
        *,
        k: int = 20,
        where: str | None = None,
        not_camera: Sequence[int] = (),
        agreement: Agreement | None = None,
        threshold: float | None = None,
        combine: str = "mean",
        parts: ArrayLike | None = None,
        visible: ArrayLike | None = None,
        shortlist: int | None = SHORTLIST,
        rerank: "Reranking | None" = None,
        rerank_graph: str = "whole",
        recall: float | None = None,
        device: str = "cpu",
        fingerprint: Fingerprint | None = None,
    ) -> Result:
        """The k items most like the query among those allowed; exactly, unless `recall` is given
        or there is a matcher and a shortlist.

        query: (D,), or (n, D): n vectors of one person. combine: "mean" searches with their mean
        (of normalised vectors for cosine), "best" ranks an item by its best score with any.
        where: an expression over item columns (see where.py). not_camera: cameras whose items may
        not be returned; items of unknown camera may. agreement: what is known of the target's
        attributes; items that confidently disagree are not returned (see agreement.py), and
        `Result.agreed` says which attribute dropped how many. All apply before the search, so they
        never eat into the k.
        threshold: the smallest similarity, or the largest distance in a Euclidean gallery.
        parts: of the query, in a gallery with a matcher, and needed there: (P, Dp), or (n, P, Dp)
        of n pictures. The answer is then ordered by matched distance (see matcher.py), lower first;
        similarity and threshold stay those of the vectors. Of several pictures, "mean" takes the
        mean of their matched distances, each with the mean vector and its own parts, "best" the
        smallest to any.
        visible: which of the query's parts are to be seen, (P,) or (n, P) of 0 and 1, with the
        matcher visibility alone; None: all are.
        shortlist: how many of the allowed rows that are nearest by their vectors have their parts
        compared, at least k; None: all. `Result.exact` says whether these were all that could be in
        the answer.
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

        Equal scores are ordered by item id. Raises UsageError (k, threshold, combine, parts,
        visible, shortlist, recall, device, rerank, also in a gallery with a matcher), WhereError,
        DimensionMismatch, NotFiniteError, ExtractorMismatch; NoGraph where re-ranking needs a
        stored graph and there is none for the present rows.
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
            agreement=agreement,
            threshold=threshold,
            combine=combine,
            parts=parts,
            visible=visible,
            how=present.how(recall=recall, device=device, shortlist=shortlist),
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
        agreement: Agreement | Sequence[Agreement | None] | None = None,
        threshold: float | None = None,
        parts: ArrayLike | None = None,
        visible: ArrayLike | None = None,
        shortlist: int = SHORTLIST,
        recall: float | None = None,
        device: str = "cpu",
        fingerprint: Fingerprint | None = None,
    ) -> list[Result]:
        """The answers to several queries, each as `search` gives it.

        queries: (Q, D), each another person. where: one expression for all, or one (or None) for
        each; agreement: likewise. Queries with equal filters share the work, and `Result.seconds`
        is then theirs together. parts: (Q, P, Dp), in a gallery with a matcher; visible: (Q, P),
        with visibility.
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
            agreement=agreement,
            threshold=threshold,
            parts=parts,
            visible=visible,
            how=present.how(recall=recall, device=device, shortlist=shortlist),
        )

    def select(
        self,
        where: str,
        *,
        k: int = 20,
        not_camera: Sequence[int] = (),
        threshold: float | None = None,
    ) -> Result:
        """The k items that an expression describes, without a target: those for which it holds, the
        surest first, equally sure ones by item id.

        where: as in `search`. `Match.confidence` is how sure it is that it holds: of a comparison
        with an attribute, the attribute's confidence (1 where a value stands without one), of all
        others 1; of AND the smallest, of OR the largest of those that hold, of NOT its operand's
        (see confidence.py). threshold: the smallest confidence, in [0, 1]. not_camera: as in
        `search`. Matches have neither similarity nor distance.

        Raises UsageError (k, threshold, not_camera), WhereError.
        """
        return select(
            self._generation.searched, where, k=k, not_camera=not_camera, threshold=threshold
        )

    def search_videos(
        self,
        query: ArrayLike,
        *,
        index: ArrayLike | None = None,
        k: int = 20,
        where: str | None = None,
        not_camera: Sequence[int] = (),
        agreement: Agreement | None = None,
        top: float = 0.2,
        how: str = "sum",
        above: float | None = None,
        shortlist: int | None = None,
        exact: bool = False,
        winners: int = 3,
        fingerprint: Fingerprint | None = None,
    ) -> VideoResult:
        """The k tracks most like a video, of those with allowed items; see aggregate.py.

        query: (n, D), or (D,) of a target of one segment: the vectors of its segments; in a gallery
        with a matcher of frames, their self-attended codes as the encoder makes them, not brought
        to length 1. index: (n, Dk), their index vectors, in such a gallery, and needed there.
        Candidates are tracks (see tracks.py) of segments or of single items, and items without a
        track by themselves. where, not_camera, agreement: as in `search`; a candidate has only its
        allowed items, and is not there without any.
        Each pair of a target's segment and a candidate's item has a similarity: cosine, inner
        product or −distance; with a matcher of frames, the probability that both show one person.
        how: "sum" or "mean" of the best pairs, which are the share `top`, in (0, 1], of the
        candidate's n · k, rounded up; or "above", the sum of all similarities ≥ `above`, of
        candidates that have one. In a Euclidean gallery sums grow more negative the longer a
        candidate is: "mean" is of use.
        shortlist: with a matcher of frames, how many segments are attended to: candidates are
        ordered by the same score of the cosines of vectors, and the first of them, at least k, are
        compared with all of their segments, until these are so many; 1,000 unless given. exact: all
        candidates are. winners: how many of the pairs that count are told of each candidate.
        fingerprint: of the query's extractor; checked when given.

        Equal scores are ordered by the smallest item id of the candidates. Raises UsageError (k,
        top, how, above, shortlist, winners, index), WhereError, DimensionMismatch,
        NotFiniteError, ExtractorMismatch.
        """
        if fingerprint is not None:
            self.check_fingerprint(fingerprint, of="the query")
        present = self._generation
        return search_videos(
            present.searched,
            present.tracks,
            query,
            index=index,
            k=k,
            where=where,
            not_camera=not_camera,
            agreement=agreement,
            aggregation=Aggregation(how=how, top=top, above=above),
            shortlist=shortlist,
            exact=exact,
            winners=winners,
        )

    def nearest(
        self,
        queries: ArrayLike,
        *,
        k: int = 20,
        where: str | Sequence[str | None] | None = None,
        not_camera: Sequence[int] = (),
        agreement: Agreement | Sequence[Agreement | None] | None = None,
        recall: float | None = None,
        device: str = "cpu",
    ) -> list[Neighbours]:
        """As `search_many`, but rows and scores only, without what is known of the items, and by
        vectors alone, whether there is a matcher or not."""
        present = self._generation
        check_k(k)
        vectors = query_batch(queries, dim=self.dim, metric=self.metric)
        how = present.how(recall=recall, device=device)
        found = neighbours(
            present.searched,
            vectors,
            k=k,
            where=where,
            not_camera=not_camera,
            agreement=agreement,
            how=how,
        )
        nearest = [one.neighbours for one in found]
        return [replace(one, rows=present.live.rows_of(one.rows)) for one in nearest]

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
        approximate index, which answers then say. Adding and deleting make the graph stale.
        Raises UsageError for an inner product gallery or too few rows, GalleryLocked,
        NotFiniteError.
        """
        from .reranking.graph import write_graph
        from .upkeep.remake import graph_about

        graph, generation = self._generation.make_graph(rerank, exact=exact)
        self.attach(
            "graph",
            lambda folder: write_graph(folder, graph),
            generation=generation,
            about=graph_about(rerank, exact=exact),
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
        built, generation = self._generation.make_index(
            kind, recall=recall, memory=memory, progress=progress
        )
        if built is None:
            with self.writing() as writer:
                if writer.present.attachment("index") is not None:
                    detach(writer, "index")
                self.refresh()
                retire(self.path, writer.present)
            return None
        self.attach("index", built.write, generation=generation, about=built.about(recall))
        return self.index
