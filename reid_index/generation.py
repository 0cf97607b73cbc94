"""One generation of a gallery, opened: nothing in it changes, what is made of it is kept."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .errors import CorruptGallery, UsageError
from .items import STANDARD, stack
from .knn import Block
from .manifest import Manifest
from .metric import Metric
from .query import Reranker, Searched
from .shard import Shard, open_shard

if TYPE_CHECKING:
    from .graph import Graph
    from .rerank import Reranking
    from .rerank_gallery import WholeGallery

_PREPARED = 4
"""Parameters of re-ranking that a gallery stays prepared for."""


@dataclass(frozen=True)
class Generation:
    """The folder of a gallery at one manifest."""

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
        folder = self.path / kept[0].folder
        if not folder.is_dir():
            return None, "a neighbour graph that a later generation has replaced"
        graph = read_graph(folder, rows=self.manifest.rows)
        return graph, f"a neighbour graph for k1 = {graph.k1}"

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

        return AllowedRows(self.matrix, self.searched.items["item"].to_numpy(), rerank)

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
                self.searched.items["item"].to_numpy(),
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
