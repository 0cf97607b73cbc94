"""k-reciprocal re-ranking: its parameters, and the scope in which all queries share one graph.

Z. Zhong, L. Zheng, D. Cao, S. Li: Re-ranking Person Re-identification with k-reciprocal Encoding,
CVPR 2017. The published algorithm exactly, without its N × N matrices: it needs only each node's
nearest k1 + 1, its farthest, and the distances from queries to the gallery, which are computed when
they are asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..errors import DimensionMismatch, NotFiniteError, UsageError
from ..threads import over_ranges
from .neighbours import (
    Neighbourhood,
    neighbourhood,
    pair_distances,
    rounding,
    squared_norms,
)
from .reciprocal import Sparse, encode, expand, fill_distances, inverted, robust_sets


@dataclass(frozen=True, kw_only=True)
class Reranking:
    """k1: neighbours considered, k2: neighbours averaged over, lambda_: share of the original
    distance in [0, 1]. The defaults are the paper's; some code uses 50, 15, 0.3.

    Raises UsageError for values that make no sense.
    """

    k1: int = 20
    k2: int = 6
    lambda_: float = 0.3

    def __post_init__(self) -> None:
        for k in (self.k1, self.k2):
            if isinstance(k, bool) or not isinstance(k, int) or k < 1:
                raise UsageError(
                    f"re-ranking needs whole k1 and k2 of 1 or more, got {self.k1}, {self.k2}"
                )
        if not 0 <= self.lambda_ <= 1:
            raise UsageError(f"re-ranking needs a lambda in [0, 1], got {self.lambda_}")

    @property
    def length(self) -> int:
        """The neighbours that each node's list must have, itself among them."""
        return max(self.k1 + 1, self.k2)

    def check(self, nodes: int) -> None:
        """Raise UsageError where a graph of so many nodes is too small."""
        if nodes < self.length:
            raise UsageError(
                f"re-ranking with k1 = {self.k1}, k2 = {self.k2} needs at least {self.length} "
                f"items and there are {nodes}: choose a smaller k1 or k2"
            )


class JointReranking:
    """Re-ranked distances of queries to a gallery, all of them nodes of one graph.

    The distance is (1 - λ)·J + λ·d, with the Jaccard distance J in [0, 1] and the squared
    Euclidean distance d divided by the query's largest to any node (eq. 12), rounded to float32.
    """

    def __init__(
        self,
        *,
        near: Neighbourhood,
        codes: Sparse,
        queries: int,
        reranking: Reranking,
        products: Callable[[int, int], tuple[NDArray[np.float32], NDArray[np.float64]]],
        pairs: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]],
    ) -> None:
        """products: squared distances of queries start … stop to all of the gallery in float32,
        and how far each query's may be off; pairs: the exact ones of some."""
        self.queries = queries
        self.gallery = len(near.index) - queries
        self._reranking = reranking
        self._farthest = near.farthest[:queries].astype(np.float64)
        self._codes = codes
        first = codes.offsets[queries]
        self._holders = inverted(
            codes.offsets[queries:] - first,
            codes.index[first:],
            codes.values[first:],
            len(near.index),
        )
        self._products = products
        self._pairs = pairs

    def chunk(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Re-ranked distances of queries start … stop - 1 to every gallery row, float32 (n, G),
        and a bound (n,) on their error, which is that of the matrix product."""
        squared, error = self._products(start, stop)
        lambda_ = self._reranking.lambda_
        scale = _inverse(self._farthest[start:stop])

        def some(begin: int, end: int) -> None:
            _blend(
                start + begin,
                start + end,
                self._codes.offsets,
                self._codes.index,
                self._codes.values,
                self._holders.offsets,
                self._holders.index,
                self._holders.values,
                lambda_,
                scale[begin:end],
                squared[begin:end],
            )

        over_ranges(some, stop - start, piece=32)
        return squared, lambda_ * scale * error + 2.0**-22

    def exact(self, queries: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The distances of query queries[i] to gallery row rows[i], (n,), rounded to float32."""
        order = np.argsort(queries, kind="stable")
        jaccard = np.empty(len(queries), np.float64)
        over_ranges(
            lambda i, j: _jaccard_pairs(
                queries,
                rows,
                order[i:j],
                self._codes.offsets,
                self._codes.index,
                self._codes.values,
                self._holders.offsets,
                self._holders.index,
                self._holders.values,
                self.gallery,
                jaccard,
            ),
            len(queries),
            piece=4096,
        )
        squared = self._pairs(queries, rows).astype(np.float64)
        scaled = squared * _inverse(self._farthest)[queries]
        return blended(jaccard, scaled, self._reranking.lambda_)

    def distances(self, *, chunk: int = 256) -> NDArray[np.float32]:
        """All of them at once, (Q, G) float32: for small sets."""
        if 0 in (self.queries, self.gallery):
            return np.empty((self.queries, self.gallery), np.float32)
        columns = np.arange(self.gallery)
        return np.concatenate(
            [
                self.exact(
                    np.repeat(np.arange(start, min(start + chunk, self.queries)), self.gallery),
                    np.tile(columns, min(chunk, self.queries - start)),
                )
                .astype(np.float32)
                .reshape(-1, self.gallery)
                for start in range(0, self.queries, chunk)
            ]
        )


def blended(
    jaccard: NDArray[np.float64], scaled: NDArray[np.float64], lambda_: float
) -> NDArray[np.float64]:
    """(1 - λ)·J + λ·d, rounded to float32: what equal distances are judged by. J is rounded to
    2⁻⁴⁰ first, as sums that are equal on paper may differ in the last bits."""
    jaccard = np.rint(jaccard * 2.0**40) / 2.0**40
    return ((1 - lambda_) * jaccard + lambda_ * scaled).astype(np.float32).astype(np.float64)


def _inverse(farthest: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / farthest, 0 where all distances are 0."""
    return np.divide(1, farthest, out=np.zeros_like(farthest), where=farthest > 0)


def rerank_joint(
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    *,
    items: NDArray[np.int64] | None = None,
    reranking: Reranking = Reranking(),
) -> JointReranking:
    """Re-rank with all queries (Q, D) and the gallery (G, D) in one graph, as papers report it.

    Distances are Euclidean; for cosine, hand over rows of length 1. items: int64 (G,), the ids by
    which equal distances are ordered, the rows' numbers by default; queries come before them.
    Memory beside one copy of the vectors: about 1.5 KiB a node at the default parameters.
    Raises DimensionMismatch, NotFiniteError, UsageError where k1 is too large for so few.
    """
    queries, gallery = _matrix(queries), _matrix(gallery)
    if queries.shape[1] != gallery.shape[1]:
        raise DimensionMismatch(
            f"queries have {queries.shape[1]} dimensions, the gallery {gallery.shape[1]}"
        )
    count, nodes = len(queries), len(queries) + len(gallery)
    reranking.check(nodes)
    ids = np.arange(len(gallery)) if items is None else items
    vectors = np.concatenate([queries, gallery])
    order = np.concatenate([np.arange(-count, 0), np.argsort(np.argsort(ids, kind="stable"))])
    near = neighbourhood(vectors, order=order, k=reranking.length)
    sets = robust_sets(near.index, near.squared, k1=reranking.k1)
    codes = encode(fill_distances(sets, vectors), near.farthest)
    norms = squared_norms(vectors)
    error = rounding(vectors[:count], norms[:count], float(np.sqrt(norms.max())))
    wide = norms.astype(np.float32)

    def products(start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        out = vectors[start:stop] @ vectors[count:].T
        out *= -2
        out += wide[start:stop, None]
        out += wide[count:]
        return out, error[start:stop]

    return JointReranking(
        near=near,
        codes=expand(codes, near.index, k2=reranking.k2),
        queries=count,
        reranking=reranking,
        products=products,
        pairs=lambda q, g: pair_distances(vectors, q, g + count),
    )


def rerank_distances(
    query_gallery: NDArray[np.floating],
    query_query: NDArray[np.floating],
    gallery_gallery: NDArray[np.floating],
    *,
    items: NDArray[np.int64] | None = None,
    reranking: Reranking = Reranking(),
) -> NDArray[np.float32]:
    """Re-rank from Euclidean distances, not squared: (Q, G), (Q, Q), (G, G) → (Q, G) float32.

    The published function's arguments. They are squared here, in float32; pass `rerank_joint`
    vectors where the distances are not already there. items: see `rerank_joint`. Raises UsageError
    for shapes that do not fit, NotFiniteError.
    """
    queries, rows = query_gallery.shape
    if query_query.shape != (queries, queries) or gallery_gallery.shape != (rows, rows):
        raise UsageError(
            f"distances of the shapes {query_gallery.shape}, {query_query.shape}, "
            f"{gallery_gallery.shape} do not fit: (Q, G), (Q, Q), (G, G) are needed"
        )
    reranking.check(queries + rows)
    squared = np.block([[query_query, query_gallery], [query_gallery.T, gallery_gallery]])
    with np.errstate(over="ignore"):
        squared = squared.astype(np.float32) ** 2
    if not np.isfinite(squared).all():
        raise NotFiniteError("the distances hold NaN or Inf, or are too large for float32")
    ids = np.arange(rows) if items is None else items
    order = np.concatenate([np.arange(-queries, 0), np.argsort(np.argsort(ids, kind="stable"))])
    index = np.empty((len(squared), reranking.length), np.int32)
    for i, row in enumerate(squared):
        index[i] = np.lexsort((order, row))[: reranking.length]
    near = Neighbourhood(index, np.take_along_axis(squared, index, axis=1), squared.max(axis=1))
    sets = robust_sets(index, near.squared, k1=reranking.k1)
    nodes = np.repeat(np.arange(len(squared)), np.diff(sets.offsets))
    codes = encode(Sparse(sets.offsets, sets.index, squared[nodes, sets.index]), near.farthest)
    zero = np.zeros(queries)
    return JointReranking(
        near=near,
        codes=expand(codes, index, k2=reranking.k2),
        queries=queries,
        reranking=reranking,
        products=lambda i, j: (squared[i:j, queries:].copy(), zero[i:j]),
        pairs=lambda q, g: squared[q, g + queries],
    ).distances()


def _matrix(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what is too large is infinite, and refused below
        matrix = np.ascontiguousarray(vectors, np.float32)
    if matrix.ndim != 2:
        raise DimensionMismatch(f"vectors are (n, D), got {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise NotFiniteError("a vector holds NaN or Inf")
    return matrix


@compiled()
def _overlap(  # type: ignore[no-untyped-def]
    q, offsets, index, values, holder_offsets, holders, held, shared, touched
):
    """m of query q with every gallery row into shared, which is 0 elsewhere; the rows touched,
    their number. Terms are added in the order of the query's code."""
    count = 0
    for p in range(offsets[q], offsets[q + 1]):
        node = index[p]
        for n in range(holder_offsets[node], holder_offsets[node + 1]):
            row = holders[n]
            if shared[row] == 0:
                touched[count] = row
                count += 1
            shared[row] += min(values[p], held[n])
    return count


@compiled()
def _blend(  # type: ignore[no-untyped-def]
    start, stop, offsets, index, values, holder_offsets, holders, held, lambda_, scale, squared
):
    rows = squared.shape[1]
    shared, touched = np.zeros(rows), np.empty(rows, np.int32)
    for q in range(start, stop):
        row = squared[q - start]
        count = _overlap(q, offsets, index, values, holder_offsets, holders, held, shared, touched)
        factor = np.float32(lambda_ * scale[q - start])
        rest = np.float32(1 - lambda_)
        for g in range(rows):
            row[g] = rest + factor * row[g]
        for p in range(count):
            m = shared[touched[p]]
            row[touched[p]] -= rest * np.float32(m / (2 - m))
            shared[touched[p]] = 0


@compiled()
def _jaccard_pairs(  # type: ignore[no-untyped-def]
    queries, rows, order, offsets, index, values, holder_offsets, holders, held, size, out
):
    """J of pairs whose numbers are in order, by query."""
    shared, touched = np.zeros(size), np.empty(size, np.int32)
    p = 0
    while p < len(order):
        q = queries[order[p]]
        count = _overlap(q, offsets, index, values, holder_offsets, holders, held, shared, touched)
        while p < len(order) and queries[order[p]] == q:
            m = shared[rows[order[p]]]
            out[order[p]] = max(0.0, 1 - m / (2 - m))  # m may be above 1 by rounding
            p += 1
        for n in range(count):
            shared[touched[n]] = 0
