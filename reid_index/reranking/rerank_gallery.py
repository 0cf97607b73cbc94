"""Which neighbour graph a re-ranked query of a gallery is answered with.

The whole gallery's graph is the stored one; where there is none for the present rows, it is made
for the query if that is cheap, and the query refused otherwise. The graph of the allowed rows alone
is another graph, with other answers; it is made for each query.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import NoGraph, UsageError
from ..search.query import RerankedRows
from .graph import Graph, make_graph
from .rerank import Reranking
from .rerank_query import QueryReranking

AT_ONCE = 10_000
"""A graph of so many rows is made within about a second, so a query need not wait for a stored
one."""


@dataclass(frozen=True)
class WholeGallery:
    """Re-ranks with the graph of all rows; see `query.Reranker`."""

    reranking: QueryReranking
    items: NDArray[np.int64]
    graph: Graph

    def __call__(
        self,
        query: NDArray[np.float32],
        k: int,
        *,
        allowed: NDArray[np.bool_] | None,
        passing: NDArray[np.bool_] | None,
    ) -> RerankedRows:
        rows, distances = self.reranking.rerank(query).best(k, self.items, passing)
        kind = "the graph" if self.graph.exact else "an approximate graph"
        return RerankedRows(
            rows=rows,
            distances=distances,
            path=f"every row compared, re-ranked with {kind} of the whole gallery",
            exact=self.graph.exact,
        )


@dataclass(frozen=True)
class AllowedRows:
    """Re-ranks with the graph of the allowed rows; see `query.Reranker`."""

    vectors: NDArray[np.float32]
    items: NDArray[np.int64]
    reranking: Reranking

    def __call__(
        self,
        query: NDArray[np.float32],
        k: int,
        *,
        allowed: NDArray[np.bool_] | None,
        passing: NDArray[np.bool_] | None,
    ) -> RerankedRows:
        rows = np.arange(len(self.items)) if allowed is None else np.flatnonzero(allowed)
        path = f"re-ranked with the graph of the {len(rows):,} allowed rows"
        if len(rows) == 0:
            return RerankedRows(rows=rows, distances=np.empty(0), path=path, exact=True)
        if len(rows) > AT_ONCE:
            raise UsageError(
                f"a graph of {len(rows):,} allowed rows takes too long for one query (up to "
                f"{AT_ONCE:,}): narrow the filter, or re-rank with the whole gallery's graph"
            )
        vectors, items = np.ascontiguousarray(self.vectors[rows]), self.items[rows]
        inside = None if passing is None else passing[rows]
        whole = gallery_reranking(vectors, items, self.reranking)
        found = whole(query, k, allowed=None, passing=inside)
        return RerankedRows(rows=rows[found.rows], distances=found.distances, path=path, exact=True)


def gallery_reranking(
    vectors: NDArray[np.float32],
    items: NDArray[np.int64],
    reranking: Reranking,
    *,
    graph: Graph | None = None,
    missing: str = "",
) -> WholeGallery:
    """Re-ranking with the graph of all rows, made now where none is given.

    missing: what to say, in NoGraph, where there is no graph and too many rows to make one now.
    """
    if graph is None:
        if len(vectors) > AT_ONCE:
            raise NoGraph(missing)
        graph = make_graph(vectors, items=items, reranking=reranking, exact=True)
    single = QueryReranking(vectors=vectors, items=items, graph=graph, reranking=reranking)
    return WholeGallery(single, items, graph)
