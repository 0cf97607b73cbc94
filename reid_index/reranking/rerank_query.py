"""k-reciprocal re-ranking of one query alone with a gallery whose graph is known beforehand.

The answer is that of `rerank_joint` with this one query: the query is put into the gallery's graph,
and every list, set and encoding that it changes is made again, by the same functions; all others
are taken as they were stored.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..errors import UsageError
from .graft import Grafted, patched, shared_rows
from .graph import Graph
from .neighbours import rounding, select, squared_distance, squared_norms
from .reciprocal import half, room
from .rerank import Reranking, blended


@dataclass(frozen=True)
class Reranked:
    """Re-ranked distances of one query to every row of the gallery.

    approximate: float32 (N,), off by at most `error`. rows, jaccard: the rows, ascending, whose
    Jaccard distance is below 1, and that distance.
    """

    approximate: NDArray[np.float32]
    error: float
    rows: NDArray[np.int64]
    jaccard: NDArray[np.float64]
    query: NDArray[np.float32]
    vectors: NDArray[np.float32]
    farthest: float
    lambda_: float

    def exact(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The distances to those rows, rounded to float32."""
        place = np.minimum(np.searchsorted(self.rows, rows), max(len(self.rows) - 1, 0))
        jaccard = np.ones(len(rows))
        if len(self.rows):
            there = self.rows[place] == rows
            jaccard[there] = self.jaccard[place[there]]
        squared = distances_to(self.query, self.vectors, rows).astype(np.float64)
        inverse = 1 / self.farthest if self.farthest > 0 else 0.0
        return blended(jaccard, squared * inverse, self.lambda_)

    def best(
        self, k: int, items: NDArray[np.int64], allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The k nearest allowed rows by (distance, item id), and their distances."""
        candidates = (
            np.arange(len(self.approximate)) if allowed is None else np.flatnonzero(allowed)
        )
        if len(candidates) == 0:
            return np.empty(0, np.int64), np.empty(0)
        values = self.approximate if allowed is None else self.approximate[candidates]
        cut = _kth(values, min(k, len(values))) + 2 * self.error
        rows = candidates[values <= cut]
        distances = self.exact(rows)
        order = np.lexsort((items[rows], distances))[:k]
        return rows[order], distances[order]


class QueryReranking:
    """A gallery that single queries are re-ranked in.

    vectors: float32 (N, D), of length 1 for cosine. items: int64 (N,), the ids by which equal
    distances were ordered when the graph was made, and are now. Raises UsageError for a graph that
    was made for another k1, or for fewer neighbours than k2.
    """

    def __init__(
        self,
        *,
        vectors: NDArray[np.float32],
        items: NDArray[np.int64],
        graph: Graph,
        reranking: Reranking,
    ) -> None:
        if not graph.fits(reranking):
            raise UsageError(
                f"this graph is for k1 = {graph.k1} and k2 up to {graph.near.index.shape[1]}, not "
                f"for k1 = {reranking.k1}, k2 = {reranking.k2}"
            )
        self._vectors = vectors
        self.items = items
        self._graph = graph
        self._reranking = reranking
        self._norms = squared_norms(vectors)
        self._wide = self._norms.astype(np.float32)
        self._largest = float(np.sqrt(self._norms.max()))
        self._followers = graph.followers(reranking.k2)

    def rerank(self, query: NDArray[np.float32]) -> Reranked:
        """Distances of one query (D,) to all rows."""
        graph, k1, k2 = self._graph, self._reranking.k1, self._reranking.k2
        rows = len(self._vectors)
        norm = squared_norms(query[None], least=0)
        squared = self._vectors @ query
        squared *= -2
        squared += self._wide
        squared += np.float32(norm[0])
        error = float(rounding(query[None], norm, max(self._largest, float(np.sqrt(norm[0]))))[0])

        own, own_squared = self._own_list(query, squared, error)
        index = graph.near.index[:, : len(own)]
        taking = np.flatnonzero(squared <= graph.last + np.float32(error))
        to_taking = distances_to(query, self._vectors, taking)
        enters = to_taking <= graph.last[taking]
        at, patch, patch_squared = patched(
            taking[enters], to_taking[enters], index, graph.near.squared, own, own_squared
        )
        farthest = np.append(graph.near.farthest, np.float32(0))
        beyond = np.flatnonzero(squared >= graph.near.farthest - np.float32(error))
        farthest[beyond] = np.maximum(farthest[beyond], distances_to(query, self._vectors, beyond))
        far = np.flatnonzero(squared >= squared.max() - np.float32(2 * error))
        farthest[rows] = distances_to(query, self._vectors, far).max()

        near, jaccard = shared_rows(
            Grafted(
                query=query,
                vectors=self._vectors,
                lists=index,
                squared=graph.near.squared,
                at=at,
                patch=patch,
                patch_squared=patch_squared,
                farthest=farthest,
                set_offsets=graph.sets.offsets,
                set_index=graph.sets.index,
                set_squared=graph.sets.values,
                k1=k1,
                half_k1=half(k1),
                k2=k2,
                room=room(k1),
            ),
            taking[enters],
            graph.holders.offsets,
            graph.holders.index,
            self._followers.offsets,
            self._followers.index,
        )
        order = np.argsort(near)
        lambda_ = self._reranking.lambda_
        scale = lambda_ / float(farthest[rows]) if farthest[rows] > 0 else 0.0
        squared *= np.float32(scale)
        squared += np.float32(1 - lambda_)
        squared[near] -= ((1 - lambda_) * (1 - jaccard)).astype(np.float32)
        return Reranked(
            approximate=squared,
            error=scale * error + 2.0**-21,
            rows=near[order],
            jaccard=jaccard[order],
            query=query,
            vectors=self._vectors,
            farthest=float(farthest[rows]),
            lambda_=lambda_,
        )

    def _own_list(
        self, query: NDArray[np.float32], squared: NDArray[np.float32], error: float
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The query's neighbour list, itself (numbered N) first."""
        length = self._graph.near.index.shape[1]
        cut = _kth(squared, min(length - 1, len(squared))) + 2 * error
        near = np.flatnonzero(squared <= cut)
        exact = distances_to(query, self._vectors, near)
        order = np.lexsort((self.items[near], exact))[: length - 1]
        own = np.concatenate([[len(squared)], near[order]]).astype(np.int32)
        return own, np.concatenate([np.zeros(1, np.float32), exact[order]])


def _kth(values: NDArray[np.float32], k: int) -> float:
    """The k-th smallest of values (N,), 1 ≤ k ≤ N."""
    return float(_smallest(values, k))


@compiled()
def _smallest(values, k):  # type: ignore[no-untyped-def]
    kept, numbers = np.empty(3 * k + 64, np.float32), np.empty(3 * k + 64, np.int32)
    count, limit = 0, np.float32(np.inf)
    for i in range(len(values)):
        if values[i] < limit or count < k:
            kept[count] = values[i]
            count += 1
            if count == len(kept):
                limit = select(kept, numbers, count, k)
                count = k
    if count == k:
        return kept[:k].max()
    return select(kept, numbers, count, k)


def distances_to(
    query: NDArray[np.float32], vectors: NDArray[np.float32], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """`squared_distance` of one vector to some rows."""
    out = np.empty(len(rows), np.float32)
    _distances(query, vectors, rows, out)
    return out


@compiled()
def _distances(query, vectors, rows, out):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        out[i] = squared_distance(query, vectors[rows[i]])


class QueryScores:
    """Re-ranked distances of many queries, each alone with the gallery: what an evaluation in the
    scope "query" ranks by; see `scores.Scores`. queries: float32 (Q, D)."""

    def __init__(self, queries: NDArray[np.float32], reranking: QueryReranking) -> None:
        self.queries = len(queries)
        self.gallery = len(reranking.items)
        self._vectors = queries
        self._reranking = reranking
        self._done: dict[int, Reranked] = {}

    def chunk(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Distances (stop - start, G) and how far each query's may be off."""
        self._done = {
            query: self._reranking.rerank(self._vectors[query]) for query in range(start, stop)
        }
        some = list(self._done.values())
        return (
            np.stack([one.approximate for one in some]),
            np.array([one.error for one in some], np.float64),
        )

    def exact(self, queries: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The distances of the pairs (queries[i], rows[i]), rounded to float32."""
        out = np.empty(len(queries), np.float64)
        for query in np.unique(queries):
            here = queries == query
            out[here] = self._of(int(query)).exact(rows[here])
        return out

    def _of(self, query: int) -> Reranked:
        """Of the chunk that was handed out last, which is asked about next; else anew."""
        return self._done.get(query) or self._reranking.rerank(self._vectors[query])
