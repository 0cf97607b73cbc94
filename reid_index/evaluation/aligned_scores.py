"""Matched distances of all queries × all rows, for an evaluation: a chunk at a time, in single
precision with a bound on the error, and in double precision where that cannot tell."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..search.aligned import local_of_pairs, matched_distances
from ..threads import over_ranges, single_threaded_blas
from .part_rows import NEAR, PartRows, check_parts, squared_bound, squared_distance, unit
from .scores import VectorScores

_ROWS = 128
"""Rows whose stripes are multiplied together: half a megabyte at 8 stripes of 128."""

_QUERIES = 64
"""Queries that they are multiplied with: products of 2 MiB, which stay in the cache."""

# tanh(y) / y for y² in [0, 1.02], by powers of y²: interpolated at Chebyshev's points; with single
# precision's rounding within 2e-7.
_TANH = (
    *(0.9999999403953552, -0.3333280682563782, 0.13324761390686035, -0.053434956818819046),
    *(0.020241403952240944, -0.006155000068247318, 0.0010232051135972142),
)
_T0, _T1, _T2, _T3, _T4, _T5, _T6 = (np.float32(one) for one in _TANH)

_TANH_OFF = 3e-7

_FAST = {"reassoc", "contract", "nsz"}


class AlignedScores:
    """Scores by vectors and parts: see `Scores`. The key of a pair is its matched distance, as
    `matched_distances` gives it.

    vectors: of the same queries and rows, of cosine. queries: their parts, float32 (Q, P, Dp).
    blocks: the rows' parts, float32 or float16 (n, P, Dp) each, mapped or in memory. A chunk takes
    its keys and some megabytes for each core. Raises DimensionMismatch.
    """

    def __init__(
        self,
        vectors: VectorScores,
        queries: NDArray[np.float32],
        blocks: Sequence[NDArray[np.generic]],
        *,
        weight: float,
    ) -> None:
        check_parts(vectors, queries, blocks)
        self._vectors = vectors
        self._queries = np.ascontiguousarray(queries, np.float32)
        self._parts = PartRows(blocks)
        self._weight = weight

    @property
    def queries(self) -> int:
        """Q."""
        return self._vectors.queries

    @property
    def gallery(self) -> int:
        """G."""
        return self._vectors.gallery

    def chunk(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """See `Scores`."""
        keys, bounds = self._vectors.chunk(start, stop)  # −cosine
        keys *= 2
        keys += 2
        queries, rows = np.nonzero(keys < NEAR)
        np.sqrt(np.maximum(keys, 0, out=keys), out=keys)
        self._add_local(keys, start, stop)
        keys[queries, rows] = self.exact(queries + start, rows)
        # |√a − √b| ≤ |a − b| / √b; sums of a few numbers below 2P are rounded, too.
        stripes, dim = self._queries.shape[1:]
        off = 2 * bounds / np.sqrt(NEAR) + self._weight * _local_bound(stripes, dim)
        largest = 2 + self._weight * 2 * stripes
        return keys, off + 8 * largest * 2.0**-24

    def exact(self, queries: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `Scores`."""
        similarities = -self._vectors.exact(queries, rows).astype(np.float32)
        local = np.empty(len(rows), np.float32)
        for number, here, places in self._parts.places(rows):
            block = self._parts.blocks[number]
            local[here] = local_of_pairs(self._queries, queries[here], block, places)
        return matched_distances(similarities, local, weight=self._weight).astype(np.float64)

    def _add_local(self, keys: NDArray[np.float32], start: int, stop: int) -> None:
        asked, own = unit(self._queries[start:stop])
        weight = np.float32(self._weight)

        def some(first: int, last: int) -> None:
            for at in range(first, last, _ROWS):
                end = min(at + _ROWS, last)
                ones, its = unit(self._parts.between(at, end))
                # Stripe by stripe, so that the rows' paths are walked side by side.
                rows = np.ascontiguousarray(ones.transpose(1, 0, 2))
                lengths = np.ascontiguousarray(its.T)
                flat = rows.reshape(-1, rows.shape[2])
                for query in range(0, len(asked), _QUERIES):
                    few = asked[query : query + _QUERIES]
                    products = few.reshape(-1, few.shape[2]) @ flat.T
                    room = keys[query : query + _QUERIES, at:end]
                    of = own[query : query + _QUERIES]
                    _add_paths(products, few, of, rows, lengths, weight, room)

        with single_threaded_blas() as ours:
            over_ranges(some, self.gallery, piece=_ROWS if ours else max(1, self.gallery))


def _local_bound(stripes: int, dim: int) -> float:
    """How far D_local in single precision may be from the exact one.

    A squared distance is off by `squared_bound`; its root, from NEAR on, by that divided by √NEAR;
    tanh(x / 2) by half of it. A path has 2P − 1 such steps and as many sums below 2P.
    """
    squared = squared_bound(dim)
    step = squared / np.sqrt(NEAR) / 2 + _TANH_OFF
    return float((2 * stripes - 1) * (step + 2 * stripes * 2.0**-24))


@compiled(fastmath=_FAST)
def _add_paths(products, queries, own, rows, its, weight, keys):  # type: ignore[no-untyped-def]
    """Add weight · D_local to keys (q, m).

    products: float32 (q·P, P·m) of unit stripes, queries (q, P, Dp) and rows (P, m, Dp); own (q, P)
    and its (P, m): their squared lengths, 0 or 1.
    """
    stripes, count, _ = rows.shape
    path = np.empty((stripes, count), np.float32)
    steps = np.empty(count, np.float32)
    near = np.float32(NEAR)
    for query in range(len(queries)):
        for i in range(stripes):
            for j in range(stripes):
                of = products[query * stripes + i, j * count : (j + 1) * count]
                small = 0
                for r in range(count):
                    squared = own[query, i] + its[j, r] - np.float32(2) * of[r]
                    small += squared < near
                    steps[r] = squared
                if small:
                    for r in range(count):
                        if steps[r] < near:
                            steps[r] = squared_distance(queries[query, i], rows[j, r])
                for r in range(count):
                    t = np.float32(0.25) * steps[r]
                    value = ((((((_T6 * t + _T5) * t + _T4) * t + _T3) * t + _T2) * t) + _T1) * t
                    steps[r] = (value + _T0) * np.sqrt(t)
                if i == 0:
                    for r in range(count):
                        path[j, r] = steps[r] if j == 0 else path[j - 1, r] + steps[r]
                elif j == 0:
                    for r in range(count):
                        path[j, r] += steps[r]
                else:
                    for r in range(count):
                        up, left = path[j, r], path[j - 1, r]
                        path[j, r] = (up if up < left else left) + steps[r]
        for r in range(count):
            keys[query, r] += weight * path[stripes - 1, r]
