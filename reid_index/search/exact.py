"""The best rows of each query by comparing it with every allowed row, in single precision.

Several ways lead to the same rows. A scan reads each row where it lies and multiplies it with all
queries at once: nothing is copied, the best for few queries. A product copies some hundred rows at
a time into memory that stays in the processor's cache and has BLAS multiply them: the best for many
queries, and the only way for float16, which is widened on the way. Either takes the rows of a list,
or all of them in order, and then looks at the mask only where a row would be among the best.

Rows are compared by their key, higher is better: q·x, or q·x − ‖x‖²/2 in a Euclidean gallery,
which orders as the distance does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..metric import Metric
from ..threads import over_ranges, single_threaded_blas

_GATHERED = 1024
"""Rows that a product takes: 2 MiB at 512 dimensions, which stays in a core's own cache."""

_TOGETHER = 512
"""Queries that a product takes, so that its result stays in the cache too."""

_ALONE = 2**19
"""Numbers of a matrix that one thread reads about as fast as several: some 0.1 ms."""

_PIECES = 8
"""Ranges of rows at least, so that a core that is busy elsewhere holds nobody up."""

_LOWEST = np.float32(np.finfo(np.float32).min)

# No assumption that numbers are finite: the keys begin at the lowest one.
_FAST = {"reassoc", "contract", "nsz"}


@dataclass(frozen=True)
class Block:
    """Rows of a gallery that lie together: one shard.

    vectors: (n, D) float32 or float16, C order, mapped or in memory. max_norm: ≥ every row's norm.
    """

    vectors: NDArray[np.generic]
    max_norm: float


class Candidates(NamedTuple):
    """The best rows of each query: int64 (Q, w), in no order; their keys, float32 (Q, w); and how
    far a key of any row may be from the exact one, float64 (Q,)."""

    rows: NDArray[np.int64]
    keys: NDArray[np.float32]
    bound: NDArray[np.float64]


def norms_of(queries: NDArray[np.float32]) -> NDArray[np.float64]:
    """The length of each query: float64 (Q,)."""
    wide = queries.astype(np.float64)
    norms: NDArray[np.float64] = np.sqrt(np.einsum("qd,qd->q", wide, wide))
    return norms


def key_bound(
    queries: NDArray[np.float32], *, largest: float | NDArray[np.float64], metric: Metric
) -> NDArray[np.float64]:
    """How far a key in single precision may be from the exact one, for each query: float64 (Q,).

    A sum of D products, in any order, is off by at most D·2⁻²⁴·‖q‖·‖x‖ and a few roundings
    (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., eq. 3.5). Products too small
    for a normal float32 may be lost altogether, 2⁻¹²⁶ each. largest: ≥ the norm of every row, or
    of every row that matters, for each query.
    """
    dim = queries.shape[1]
    unit = (dim + 8) * 2.0**-24
    size = norms_of(queries) * largest
    if metric is Metric.EUCLIDEAN:
        size = size + largest**2 / 2
    bound: NDArray[np.float64] = unit * size + dim * 2.0**-126
    return bound


def candidates(
    blocks: Sequence[Block],
    queries: NDArray[np.float32],
    want: int,
    *,
    metric: Metric,
    rows: NDArray[np.int64] | None = None,
    mask: NDArray[np.bool_] | None = None,
    scan: bool,
) -> Candidates:
    """The `want` best allowed rows for each query, or all where fewer are allowed.

    queries: float32 (Q, D). rows: the allowed ones, ascending, counted over all blocks; or mask:
    bool (N,); neither: all are allowed. scan: read in place, which needs float32 blocks; otherwise
    products. No product may overflow.
    """
    count = sum(len(block.vectors) for block in blocks) if rows is None else len(rows)
    width = min(want, count if mask is None else int(np.count_nonzero(mask)))
    piece = max(-(-count // _PIECES), _ALONE // queries.shape[1], 1)
    if width == 0:
        none = np.empty((len(queries), 0))
        return Candidates(none.astype(np.int64), none.astype(np.float32), np.zeros(len(queries)))
    work = _Work(
        blocks=blocks,
        queries=np.ascontiguousarray(queries),
        width=width,
        rows=rows,
        mask=_NO_MASK if mask is None else mask,
        euclidean=metric is Metric.EUCLIDEAN,
    )
    some = partial(_scan if scan else _multiply, work)
    if scan:
        parts = over_ranges(some, count, piece=piece)
    else:
        with single_threaded_blas() as ours:
            parts = over_ranges(some, count, piece=piece if ours else count)
    largest = max(block.max_norm for block in blocks)
    return Candidates(*_merged(parts, width), key_bound(queries, largest=largest, metric=metric))


class _Best(NamedTuple):
    """The best rows so far of each query (Q, w); each row of `keys` is a heap, its worst first."""

    keys: NDArray[np.float32]
    rows: NDArray[np.int64]

    @classmethod
    def none_yet(cls, queries: int, width: int) -> "_Best":
        keys = np.full((queries, width), _LOWEST, np.float32)
        return cls(keys, np.full((queries, width), -1, np.int64))


def _merged(parts: Sequence[_Best], width: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    if len(parts) == 1:
        return parts[0].rows, parts[0].keys
    keys = np.concatenate([part.keys for part in parts], axis=1)
    rows = np.concatenate([part.rows for part in parts], axis=1)
    best = np.argpartition(keys, keys.shape[1] - width, axis=1)[:, -width:]
    return np.take_along_axis(rows, best, axis=1), np.take_along_axis(keys, best, axis=1)


class _Stretch(NamedTuple):
    """Rows to compare that lie in one block: the block's vectors (uint16 for float16), its first
    row in the gallery, and the rows: those listed, or, where that is empty, `first` … `last`,
    counted over all blocks."""

    vectors: NDArray[Any]
    offset: int
    rows: NDArray[np.int64]
    first: int
    last: int


_NO_ROWS = np.empty(0, np.int64)
_NO_MASK = np.empty(0, np.bool_)
_NO_HALVES = np.empty(0, np.float32)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What all threads of a search share; see `candidates`."""

    blocks: Sequence[Block]
    queries: NDArray[np.float32]
    width: int
    rows: NDArray[np.int64] | None
    mask: NDArray[np.bool_]
    euclidean: bool

    def stretches(self, start: int, stop: int, at_most: int) -> Iterator[_Stretch]:
        """The rows in places start … stop of the list, no more than `at_most` at a time."""
        offset = 0
        for block in self.blocks:
            end = offset + len(block.vectors)
            if self.rows is None:
                low, high = max(start, offset), min(stop, end)
            else:
                low, high = start + np.searchsorted(self.rows[start:stop], (offset, end))
            vectors = np.asarray(block.vectors)
            if vectors.dtype == np.float16:
                vectors = vectors.view(np.uint16)
            for first in range(int(low), int(high), at_most):
                last = min(first + at_most, int(high))
                listed = _NO_ROWS if self.rows is None else self.rows[first:last]
                yield _Stretch(vectors, offset, listed, first, last)
            offset = end


def _scan(work: _Work, start: int, stop: int) -> _Best:
    best = _Best.none_yet(len(work.queries), min(work.width, stop - start))
    for stretch in work.stretches(start, stop, stop - start):
        _scan_rows(*stretch, work.mask, work.euclidean, work.queries, *best)
    return best


def _multiply(work: _Work, start: int, stop: int) -> _Best:
    queries = work.queries
    best = _Best.none_yet(len(queries), min(work.width, stop - start))
    room = np.empty((min(_GATHERED, stop - start), queries.shape[1]), np.float32)
    room_halves = np.empty(len(room), np.float32)
    products = np.empty(len(room) * min(_TOGETHER, len(queries)), np.float32)
    for stretch in work.stretches(start, stop, _GATHERED):
        there = _gathered(stretch, room)
        halves = _NO_HALVES
        if work.euclidean:
            halves = room_halves[: len(there)]
            _half_squares(there, halves)
        for at in range(0, len(queries), _TOGETHER):
            some = queries[at : at + _TOGETHER]
            keys = products[: len(there) * len(some)].reshape(len(there), len(some))
            np.matmul(there, some.T, out=keys)
            ours = (part[at : at + _TOGETHER] for part in best)
            _take_best(keys, halves, *stretch[1:], work.mask, *ours)
    return best


def _gathered(stretch: _Stretch, room: NDArray[np.float32]) -> NDArray[np.float32]:
    """The stretch's vectors as float32: where they lie if they lie together, else in `room`."""
    count = stretch.last - stretch.first
    if stretch.vectors.dtype == np.uint16:
        _widen(*stretch, room)
    elif len(stretch.rows):
        _copy(stretch.vectors, stretch.offset, stretch.rows, room)
    else:
        begin = stretch.first - stretch.offset
        together: NDArray[np.float32] = stretch.vectors[begin : begin + count]
        return together
    return room[:count]


def widened(block: NDArray[np.generic], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Copies of some rows of a float16 block: float32 (m, D)."""
    room = np.empty((len(rows), block.shape[1]), np.float32)
    if len(rows):
        _widen(block.view(np.uint16), 0, rows, 0, len(rows), room)
    return room


@compiled()
def _push(keys, rows, key, row):  # type: ignore[no-untyped-def]
    """Put a better row in the place of the heap's worst."""
    size = len(keys)
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and keys[child + 1] < keys[child]:
            child += 1
        if keys[child] >= key:
            break
        keys[at] = keys[child]
        rows[at] = rows[child]
        at = child
    keys[at] = key
    rows[at] = row


@compiled(fastmath=_FAST)
def _dot(vectors, row, queries, query):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for at in range(queries.shape[1]):
        total += vectors[row, at] * queries[query, at]
    return total


@compiled()
def _scan_rows(  # type: ignore[no-untyped-def]
    vectors, offset, listed, first, last, mask, euclidean, queries, best_keys, best_rows
):
    half = np.float32(0)
    for at in range(last - first):
        row = listed[at] if len(listed) else first + at
        local = row - offset
        if euclidean:
            half = np.float32(0.5) * _dot(vectors, local, vectors, local)
        for query in range(len(queries)):
            key = _dot(vectors, local, queries, query) - half
            if key > best_keys[query, 0] and (len(mask) == 0 or mask[row]):
                _push(best_keys[query], best_rows[query], key, row)


@compiled()
def _take_best(  # type: ignore[no-untyped-def]
    keys, halves, offset, listed, first, last, mask, best_keys, best_rows
):
    """Put the rows of a chunk, keys (n, Q), into the heaps of the best."""
    worst = best_keys[:, 0].copy()
    for at in range(last - first):
        row = listed[at] if len(listed) else first + at
        if len(halves):
            for query in range(keys.shape[1]):
                keys[at, query] -= halves[at]
        better = 0  # counting without branches uses the processor's vector instructions
        for query in range(keys.shape[1]):
            better += keys[at, query] > worst[query]
        if better and (len(mask) == 0 or mask[row]):
            for query in range(keys.shape[1]):
                if keys[at, query] > worst[query]:
                    _push(best_keys[query], best_rows[query], keys[at, query], row)
                    worst[query] = best_keys[query, 0]


@compiled()
def _half_squares(vectors, halves):  # type: ignore[no-untyped-def]
    """‖x‖²/2 of every row."""
    for row in range(len(vectors)):
        halves[row] = np.float32(0.5) * _dot(vectors, row, vectors, row)


@compiled()
def _copy(vectors, offset, listed, room):  # type: ignore[no-untyped-def]
    for at in range(len(listed)):
        row = listed[at] - offset
        for column in range(vectors.shape[1]):
            room[at, column] = vectors[row, column]


@compiled()
def _widen(vectors, offset, listed, first, last, room):  # type: ignore[no-untyped-def]
    """float16 to float32 by their bits, since neither NumPy nor Numba is fast at it: the exponent
    and the fraction move into place, and a product with 2¹¹² mends the exponent's offset, of
    subnormal numbers too. Finite numbers only."""
    for at in range(last - first):
        row = (listed[at] if len(listed) else first + at) - offset
        for column in range(vectors.shape[1]):
            half = np.uint32(vectors[row, column])
            size = np.uint32((half & np.uint32(0x7FFF)) << np.uint32(13))
            value = np.float32(size.view(np.float32) * np.float32(2.0**112))
            sign = np.uint32((half & np.uint32(0x8000)) << np.uint32(16))
            room[at, column] = np.uint32(value.view(np.uint32) | sign).view(np.float32)
