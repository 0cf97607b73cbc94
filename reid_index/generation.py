"""One generation of a gallery, opened: nothing in it changes, what is made of it is kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .errors import CorruptGallery, UsageError
from .filters.allowed import Filters
from .filters.columns import Columns
from .matcher import Matcher, told
from .metric import Metric
from .search.coattention import Coattending
from .search.device_kept import Devices, KeptRows, named_devices
from .search.exact import Block
from .search.knn import Rows
from .search.matching import Matching
from .search.query import How, Reranker, Searched
from .search.video import Tracks
from .store.append import shard_at
from .store.attached import attached_folder
from .store.commit import Opened
from .store.deletions import Live, read_live
from .store.frames import SegmentFrames
from .store.items import STANDARD, stack
from .store.lease import Lease
from .store.manifest import Manifest, ShardEntry
from .store.overlays import lay_over, read_overlays
from .store.shard import Shard
from .store.tracks import roots_by_row

if TYPE_CHECKING:
    from .reranking.graph import Graph
    from .reranking.rerank import Reranking
    from .reranking.rerank_gallery import WholeGallery
    from .search.device_rows import DeviceRows
    from .search.index import Index
    from .search.index_build import BuiltIndex

_PREPARED = 4
"""Parameters of re-ranking that a gallery stays prepared for."""


@dataclass(frozen=True)
class Generation:
    """The folder of a gallery at one manifest.

    lease: keeps its files there. known: shards that a former generation has opened, by folder.
    """

    path: Path
    manifest: Manifest
    lease: Lease = field(compare=False)
    known: Mapping[str, Shard] = field(default_factory=dict, repr=False, compare=False)
    _kept_rows: KeptRows = field(default_factory=KeptRows, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, path: Path, opened: Opened, *, former: "Generation | None" = None) -> "Generation":
        """An opened generation; what a former one has read of the same shards is used again."""
        known = {} if former is None else former.opened_shards
        # By their bytes: a gallery that is put in this one's place may use the same names.
        listed = {entry.folder: entry.sha256 for entry in opened.manifest.shards}
        there = {
            folder: shard for folder, shard in known.items() if listed.get(folder) == shard.sha256
        }
        return cls(path, opened.manifest, opened.lease, there)

    @property
    def opened_shards(self) -> Mapping[str, Shard]:
        """The shards that are opened already, by folder."""
        if "shards" not in self.__dict__:
            return self.known
        return dict(zip(self.manifest.folders, self.shards, strict=True))

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """Its shards, deleted rows included."""
        return tuple(map(self._opened, self.manifest.shards))

    def _opened(self, entry: ShardEntry) -> Shard:
        shard = self.known.get(entry.folder) or shard_at(self.path, entry)
        if shard.header.rows != entry.rows:
            raise CorruptGallery(
                f"{shard.folder}: shard.json says {shard.header.rows} rows, the manifest "
                f"{entry.rows}: restore it from a copy"
            )
        return shard

    @cached_property
    def live(self) -> Live:
        """Which of the stored rows are not deleted."""
        return read_live(self.path, self.manifest)

    @cached_property
    def items(self) -> pa.Table:
        """The items, in the order of the rows."""
        stored, mask = self.searched.items, self.live.mask
        return stored if mask is None else stored.filter(pa.array(mask))

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """The item ids of the rows."""
        ids: NDArray[np.int64] = self.searched.rows.items
        return ids if self.live.mask is None else ids[self.live.mask]

    @cached_property
    def blocks(self) -> tuple[NDArray[np.generic], ...]:
        """The vectors of the rows in order, (n, D) each: mapped where nothing of a shard is
        deleted, else a copy."""
        return tuple(
            shard.vectors if deleted is None else shard.vectors[~deleted]
            for shard, deleted in zip(self.shards, self.live.deleted, strict=True)
        )

    @cached_property
    def part_blocks(self) -> tuple[NDArray[np.generic], ...] | None:
        """The parts of the rows as `blocks` has their vectors, (n, P, Dp) each; None without a
        matcher of parts."""
        if self.matching is None:
            return None
        return tuple(
            parts if deleted is None else parts[~deleted]
            for parts, deleted in zip(self.matching.blocks, self.live.deleted, strict=True)
        )

    @cached_property
    def visible_blocks(self) -> tuple[NDArray[np.generic], ...] | None:
        """Which parts of the rows are visible, as `part_blocks` has them, uint8 (n, P) each; None
        without a matcher that asks."""
        if self.matching is None or not self.matching.matcher.has_visible:
            return None
        return tuple(
            visible if deleted is None else visible[~deleted]
            for visible, deleted in zip(self.matching.visible, self.live.deleted, strict=True)
        )

    @cached_property
    def frame_blocks(self) -> tuple[SegmentFrames, ...] | None:
        """The frames of the rows as `blocks` has their vectors; None without a matcher of them."""
        if self.coattending is None:
            return None
        return tuple(
            frames if deleted is None else frames.take(np.flatnonzero(~deleted))
            for frames, deleted in zip(self.coattending.blocks, self.live.deleted, strict=True)
        )

    def vectors(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Copies of the vectors in those rows: float32 (n, D). Raises IndexError."""
        found = np.empty((len(rows), self.manifest.dim), np.float32)
        for place, row in enumerate(rows):
            shard, local = self._stored(row)
            found[place] = shard.vectors[local]
        return found

    def parts(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Copies of the parts of those rows: float32 (n, P, Dp). Raises IndexError, UsageError
        without a matcher of parts."""
        if self.matching is None:
            matcher = self.manifest.matcher
            by = "their vectors alone" if matcher is None else told(matcher)
            raise UsageError(f"{self.path} compares items by {by}: it has no parts")
        for row in rows:
            self._stored(row)
        return self.matching.take(self.live.stored_of(np.asarray(rows, np.int64)))

    def visible(self, rows: Sequence[int]) -> NDArray[np.uint8]:
        """Which parts of those rows are visible: uint8 (n, P) of 0 and 1, copied. Raises
        IndexError, UsageError without a matcher that asks."""
        if self.matching is None or not self.matching.matcher.has_visible:
            raise UsageError(
                f"{self.path} compares items by {told(self.manifest.matcher)}: it says of no part "
                "whether it is visible"
            )
        for row in rows:
            self._stored(row)
        return self.matching.take_visible(self.live.stored_of(np.asarray(rows, np.int64)))

    def frames(self, rows: Sequence[int]) -> SegmentFrames:
        """Copies of the frames of those rows, as float32. Raises IndexError, UsageError without a
        matcher of frames."""
        if self.coattending is None:
            by = told(self.manifest.matcher)
            raise UsageError(f"{self.path} compares items by {by}: it has no frames")
        for row in rows:
            self._stored(row)
        return self.coattending.take(self.live.stored_of(np.asarray(rows, np.int64)))

    def root_of(self, row: int) -> str:
        """The folder that the row's `source` is relative to. Raises IndexError."""
        return self._stored(row)[0].header.root

    def _stored(self, row: int) -> tuple[Shard, int]:
        """The shard that holds a row, and where in it."""
        if not 0 <= row < self.manifest.rows:
            raise IndexError(
                f"there is no row {row}; there are {self.manifest.rows}, counted from 0"
            )
        stored = int(self.live.stored_of(np.array([row]))[0])
        ends = np.cumsum([shard.header.rows for shard in self.shards])
        place = int(np.searchsorted(ends, stored, side="right"))
        shard = self.shards[place]
        return shard, stored - int(ends[place]) + shard.header.rows

    @cached_property
    def searched(self) -> Searched:
        """What a query searches: the stored rows, of which none that is deleted is allowed."""
        stored = stack([shard.items for shard in self.shards] or [_no_items()])
        items = lay_over(stored, read_overlays(self.path, self.manifest), of=self.path)
        return Searched(
            rows=Rows(
                blocks=[
                    Block(np.asarray(shard.vectors), shard.header.max_norm) for shard in self.shards
                ],
                items=items["item"].to_numpy(),
                metric=self.manifest.metric,
            ),
            items=items,
            live=self.live,
            filters=Filters(Columns(items), self.live),
            roots=[shard.header.root for shard in self.shards],
            dim=self.manifest.dim,
            generation=self.manifest.generation,
            matching=self.matching,
            coattending=self.coattending,
        )

    @cached_property
    def tracks(self) -> Tracks:
        """The candidates that a video is compared with."""
        headers = [shard.header for shard in self.shards]
        roots = roots_by_row([one.root for one in headers], [one.rows for one in headers])
        return Tracks(self.searched.items, roots)

    @cached_property
    def matching(self) -> Matching | None:
        """The parts of the stored rows, mapped, which of them are visible where that counts, and
        how they are compared; None without a matcher of parts. Raises CorruptGallery."""
        matcher = self.manifest.matcher
        if matcher is None or matcher.of_frames:
            return None
        self._check_matcher(matcher)
        parts = [np.asarray(shard.arrays["parts"]) for shard in self.shards]
        if not matcher.has_visible:
            return Matching(matcher, parts)
        return Matching(
            matcher, parts, [np.asarray(shard.arrays["visible"]) for shard in self.shards]
        )

    @cached_property
    def coattending(self) -> Coattending | None:
        """The frames of the stored rows, mapped, and how they are compared; None without a matcher
        of frames. Raises CorruptGallery."""
        matcher = self.manifest.matcher
        if matcher is None or not matcher.of_frames:
            return None
        self._check_matcher(matcher)
        return Coattending(matcher, [SegmentFrames.of(shard.arrays) for shard in self.shards])

    def _check_matcher(self, matcher: Matcher) -> None:
        for shard in self.shards:
            if shard.header.matcher != matcher:
                raise CorruptGallery(
                    f"{shard.folder}: its items are compared by {told(shard.header.matcher)}, the "
                    f"manifest says by {told(matcher)}: restore it from a copy"
                )

    def how(self, *, recall: float | None, device: str, shortlist: int | None = None) -> How:
        """How to search these rows: see `Gallery.search` for the arguments and what is raised."""
        if recall is not None and not 0 < recall <= 1:
            raise UsageError(f"a recall is more than 0 and at most 1, got {recall!r}")
        if recall == 1:
            recall = None
        devices = named_devices(device)
        return How(
            recall=recall,
            index=None if recall is None else self.index,
            device=partial(self.on_device, devices) if devices else None,
            shortlist=shortlist,
        )

    def on_device(self, devices: Devices) -> "DeviceRows":
        """The rows on those GPUs, copied there once and kept for the next query, in place of those
        on others.

        Raises DeviceFailed, DeviceTooSmall: at once, where these GPUs failed before.
        """
        return self._kept_rows.get(devices, self._load)

    def _load(self, devices: Devices) -> "DeviceRows":
        from .search.device_rows import DeviceRows

        rows = self.searched.rows
        return DeviceRows.load(rows.blocks, devices=devices, metric=rows.metric)

    @cached_property
    def matrix(self) -> NDArray[np.float32]:
        """The vectors of all rows in one array, (N, D) float32: mapped where they lie so, else a
        copy."""
        if len(self.blocks) == 1 and self.blocks[0].dtype == np.float32:
            return cast("NDArray[np.float32]", self.blocks[0])
        if not self.blocks:
            return np.empty((0, self.manifest.dim), np.float32)
        return np.concatenate([block.astype(np.float32) for block in self.blocks])

    @cached_property
    def graph(self) -> "tuple[Graph | None, str]":
        """The neighbour graph of just these rows, mapped, if one is kept; and what is kept, in
        words."""
        from .reranking.graph import read_graph

        kept = self.manifest.attachment("graph")
        if kept is None:
            return None, "no neighbour graph"
        if not self.manifest.is_fresh(kept):
            return None, "a stale neighbour graph, items having been added or deleted,"
        graph = read_graph(attached_folder(self.path, kept), rows=self.manifest.rows)
        return graph, f"a neighbour graph for k1 = {graph.k1}"

    @property
    def index(self) -> "Index | None":
        """The approximate index of the first rows, mapped, if one is kept. Raises CorruptGallery,
        MissingExtra."""
        return self.kept_index[0]

    @cached_property
    def kept_index(self) -> "tuple[Index | None, str]":
        """The index, and what is kept, in words."""
        from .search.index import open_index
        from .search.index_tuning import Rows as Vectors

        kept = self.manifest.attachment("index")
        if kept is None:
            return None, "no index"
        covers = kept.covers
        if covers != self.manifest.folders[: len(covers)] or not covers:
            return None, "an index of other rows"
        folder = attached_folder(self.path, kept)
        rows = sum(shard.rows for shard in self.manifest.shards[: len(covers)])
        index = open_index(
            folder,
            rows=rows,
            dim=self.manifest.dim,
            metric=self.manifest.metric,
            take=Vectors([shard.vectors for shard in self.shards]).take,
        )
        return index, f"{index.kind} index of {rows:,} of {self.manifest.stored:,} rows"

    def make_graph(self, rerank: "Reranking", *, exact: bool | None) -> "tuple[Graph, int]":
        """A neighbour graph of these rows, not yet written, and the number of this generation; see
        `Gallery.build_graph`."""
        from .reranking.graph import make_graph

        if self.manifest.metric is Metric.INNER_PRODUCT:
            raise UsageError("a graph needs distances: an inner product gallery has none")
        graph = make_graph(self.matrix, items=self.ids, reranking=rerank, exact=exact)
        return graph, self.manifest.generation

    def make_index(
        self,
        kind: str,
        *,
        recall: float,
        memory: int | None,
        progress: Callable[[int], object],
    ) -> "tuple[BuiltIndex | None, int]":
        """An approximate index of these rows, not yet written; None where `kind` is "flat", or
        "auto" and comparing every row is the right choice. And the number of this generation.

        kind: one of index_build.KINDS; "auto" is decided by rows, dimensions, recall and memory:
        the bytes that it may take, half of what is free unless given (see
        index_build.choose_kind). recall, progress: see index_build.build_index. Raises UsageError.
        """
        from .search.index_build import available_memory, build_index, check_request, choose_kind

        check_request(kind, recall)
        if kind == "auto":
            memory = available_memory() if memory is None else memory
            rows, dim = self.manifest.stored, self.manifest.dim
            kind = choose_kind(rows, dim, recall=recall, memory=memory)
        if kind == "flat":
            return None, self.manifest.generation
        built = build_index(
            [shard.vectors for shard in self.shards],
            kind,
            metric=self.manifest.metric,
            recall=recall,
            progress=progress,
        )
        return built, self.manifest.generation

    def reranker(self, rerank: "Reranking", graph: str) -> Reranker:
        """What re-ranks one query, with the graph of all rows ("whole") or of the "allowed".

        Raises UsageError, NoGraph (see `reranking`).
        """
        if self.manifest.metric is Metric.INNER_PRODUCT:
            raise UsageError("re-ranking needs distances: an inner product gallery has none")
        if graph not in ("whole", "allowed"):
            raise UsageError(f"there is no graph {graph!r} to re-rank with: 'whole' or 'allowed'")
        if graph == "whole":
            return self.reranking(rerank)
        from .reranking.rerank_gallery import AllowedRows

        return AllowedRows(self.matrix, self.ids, rerank)

    def reranking(self, rerank: "Reranking") -> "WholeGallery":
        """Re-ranking with the graph of all rows, kept for the next query.

        Raises NoGraph where none is kept for these parameters and there are too many rows to make
        one now.
        """
        from .reranking.rerank_gallery import gallery_reranking

        prepared = self._prepared.get(rerank)
        if prepared is None:
            graph, has = self.graph
            fits = graph is not None and graph.fits(rerank)
            prepared = gallery_reranking(
                self.matrix,
                self.ids,
                rerank,
                graph=graph if fits else None,
                missing=f"{self.path} has {has} and too many items to make one for a query: run "
                f"`reid graph {self.path} --k1 {rerank.k1} --k2 {rerank.k2}`",
            )
            while len(self._prepared) >= _PREPARED:
                self._prepared.pop(next(iter(self._prepared)), None)
            self._prepared[rerank] = prepared
        return prepared

    @cached_property
    def _prepared(self) -> "dict[Reranking, WholeGallery]":
        return {}


def _no_items() -> pa.Table:
    return pa.table({name: pa.nulls(0, kind) for name, kind in STANDARD.items()})
