"""One generation of a gallery, opened: nothing in it changes, what is made of it is kept."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .allowed import Filters
from .attached import attached_folder
from .columns import Columns
from .device_kept import Devices, KeptRows, named_devices
from .errors import CorruptGallery, UsageError
from .exact import Block
from .items import STANDARD, stack
from .knn import Rows
from .manifest import Manifest
from .metric import Metric
from .query import How, Reranker, Searched
from .shard import Shard, open_shard

if TYPE_CHECKING:
    from .device_rows import DeviceRows
    from .graph import Graph
    from .index import Index
    from .index_build import BuiltIndex
    from .rerank import Reranking
    from .rerank_gallery import WholeGallery

_PREPARED = 4
"""Parameters of re-ranking that a gallery stays prepared for."""


@dataclass(frozen=True)
class Generation:
    """The folder of a gallery at one manifest."""

    path: Path
    manifest: Manifest
    _kept_rows: KeptRows = field(default_factory=KeptRows, init=False, repr=False, compare=False)

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
        items = stack([shard.items for shard in self.shards] or [_no_items()])
        return Searched(
            rows=Rows(
                blocks=[
                    Block(np.asarray(shard.vectors), shard.header.max_norm) for shard in self.shards
                ],
                items=items["item"].to_numpy(),
                metric=self.manifest.metric,
            ),
            items=items,
            filters=Filters(Columns(items), items.num_rows),
            roots=[shard.header.root for shard in self.shards],
            dim=self.manifest.dim,
            generation=self.manifest.generation,
        )

    def how(self, *, recall: float | None, device: str) -> How:
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
        )

    def on_device(self, devices: Devices) -> "DeviceRows":
        """The rows on those GPUs, copied there once and kept for the next query, in place of those
        on others.

        Raises DeviceFailed, DeviceTooSmall: at once, where these GPUs failed before.
        """
        return self._kept_rows.get(devices, self._load)

    def _load(self, devices: Devices) -> "DeviceRows":
        from .device_rows import DeviceRows

        rows = self.searched.rows
        return DeviceRows.load(rows.blocks, devices=devices, metric=rows.metric)

    @cached_property
    def matrix(self) -> NDArray[np.float32]:
        """All vectors in one array, (N, D) float32: mapped where they lie so, else a copy."""
        blocks = [shard.vectors for shard in self.shards]
        if len(blocks) == 1 and blocks[0].dtype == np.float32:
            return cast("NDArray[np.float32]", blocks[0])
        if not blocks:
            return np.empty((0, self.manifest.dim), np.float32)
        return np.concatenate([block.astype(np.float32) for block in blocks])

    @cached_property
    def graph(self) -> "tuple[Graph | None, str]":
        """The neighbour graph of just these rows, mapped, if one is kept; and what is kept, in
        words."""
        from .graph import read_graph

        kept = [entry for entry in self.manifest.attached if entry.kind == "graph"]
        if not kept:
            return None, "no neighbour graph"
        if kept[0].covers != self.manifest.folders:
            return None, "a stale neighbour graph, items having been added,"
        folder = attached_folder(self.path, kept[0])
        if folder is None:
            return None, "a neighbour graph that a later generation has replaced"
        graph = read_graph(folder, rows=self.manifest.rows)
        return graph, f"a neighbour graph for k1 = {graph.k1}"

    @property
    def index(self) -> "Index | None":
        """The approximate index of the first rows, mapped, if one is kept. Raises CorruptGallery,
        MissingExtra."""
        return self.kept_index[0]

    @cached_property
    def kept_index(self) -> "tuple[Index | None, str]":
        """The index, and what is kept, in words."""
        from .index import open_index
        from .index_tuning import Rows as Vectors

        kept = [entry for entry in self.manifest.attached if entry.kind == "index"]
        if not kept:
            return None, "no index"
        covers = kept[0].covers
        if covers != self.manifest.folders[: len(covers)] or not covers:
            return None, "an index of other rows"
        folder = attached_folder(self.path, kept[0])
        if folder is None:
            return None, "an index that a later generation has replaced"
        rows = sum(shard.rows for shard in self.manifest.shards[: len(covers)])
        index = open_index(
            folder,
            rows=rows,
            dim=self.manifest.dim,
            metric=self.manifest.metric,
            take=Vectors([shard.vectors for shard in self.shards]).take,
        )
        return index, f"{index.kind} index of {rows:,} of {self.manifest.rows:,} rows"

    def make_index(
        self,
        kind: str,
        *,
        recall: float,
        memory: int | None,
        progress: Callable[[int], object],
    ) -> "BuiltIndex | None":
        """An approximate index of these rows, not yet written; None where `kind` is "flat", or
        "auto" and comparing every row is the right choice.

        kind: one of index_build.KINDS; "auto" is decided by rows, dimensions, recall and memory:
        the bytes that it may take, half of what is free unless given (see
        index_build.choose_kind). recall, progress: see index_build.build_index. Raises UsageError.
        """
        from .index_build import available_memory, build_index, check_request, choose_kind

        check_request(kind, recall)
        if kind == "auto":
            memory = available_memory() if memory is None else memory
            rows, dim = self.manifest.rows, self.manifest.dim
            kind = choose_kind(rows, dim, recall=recall, memory=memory)
        if kind == "flat":
            return None
        return build_index(
            [shard.vectors for shard in self.shards],
            kind,
            metric=self.manifest.metric,
            recall=recall,
            progress=progress,
        )

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
        from .rerank_gallery import AllowedRows

        return AllowedRows(self.matrix, self.searched.rows.items, rerank)

    def reranking(self, rerank: "Reranking") -> "WholeGallery":
        """Re-ranking with the graph of all rows, kept for the next query.

        Raises NoGraph where none is kept for these parameters and there are too many rows to make
        one now.
        """
        from .rerank_gallery import gallery_reranking

        prepared = self._prepared.get(rerank)
        if prepared is None:
            graph, has = self.graph
            fits = graph is not None and graph.fits(rerank)
            prepared = gallery_reranking(
                self.matrix,
                self.searched.rows.items,
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
