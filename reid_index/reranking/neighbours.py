"""The nearest neighbours of every row among all rows, and how far its farthest lies: exact.

What a neighbour is does not depend on tiles, threads or the matrix product: the product in single
precision only finds candidates. They are scored again as `squared_distance` defines, in double
precision and rounded once, and more are looked at until its rounding cannot have hidden a nearer
one. Equal distances are ordered by `order`.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock, local
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..errors import NotFiniteError
from ..threads import cores, over_ranges, single_threaded_blas

_SLACK = 16
"""Candidates kept beyond the k wanted."""

_FAR = 8
"""Rows kept as candidates for the farthest."""

_TILE = 2048
"""Rows on a side of a tile of the product: 16 MiB."""

_CHUNK = 64
"""Distances of a tile that are looked at together: most chunks hold nothing near."""


@dataclass(frozen=True)
class Neighbourhood:
    """The neighbour lists of N rows.

    index: int32 (N, K), the K nearest rows, itself among them, nearest first, equal distances by
    order. squared: float32 (N, K), their squared Euclidean distances. farthest: float32 (N,), the
    largest squared distance of the row to any.
    """

    index: NDArray[np.int32]
    squared: NDArray[np.float32]
    farthest: NDArray[np.float32]


@compiled(fastmath=True)
def squared_distance(x, y):  # type: ignore[no-untyped-def]
    """‖x − y‖² of float32 vectors, summed in float64 and rounded once to float32."""
    total = 0.0
    for d in range(len(x)):
        difference = np.float64(x[d]) - np.float64(y[d])
        total += difference * difference
    return np.float32(total)


def neighbourhood(
    vectors: NDArray[np.float32], *, order: NDArray[np.int64], k: int
) -> Neighbourhood:
    """The k nearest rows of every row of vectors (N, D), 1 ≤ k ≤ N, by (distance, order).

    order: (N,), all different. Memory beside the vectors: some 8 · 4 · (k + 16) bytes a row and a
    few tiles. Each pair of rows is multiplied once, for both. Raises NotFiniteError for vectors
    whose squared distances float32 cannot hold.
    """
    rows = len(vectors)
    centred = _centred(vectors)
    norms = squared_norms(centred)
    largest = float(np.sqrt(norms.max()))
    near, far = _Best.of(rows, min(k + _SLACK, rows)), _Best.of(rows, _FAR)
    _look_at_tiles(centred, norms, near=near, far=far)
    candidates, worst = near.cut()
    index, squared = _nearest_of(vectors, candidates, order, k)
    farthest, beyond = _farthest_of(vectors, far)
    error = rounding(vectors, norms, largest)
    near_settled = squared[:, -1] + error < worst
    far_settled = farthest - error > beyond
    lists = Neighbourhood(index, squared, farthest)
    unsettled = np.flatnonzero(~(near_settled & far_settled))
    _settle(vectors, centred, norms, unsettled, lists, order=order)
    return lists


def _look_at_tiles(
    vectors: NDArray[np.float32], norms: NDArray[np.float64], *, near: "_Best", far: "_Best"
) -> None:
    """Multiply each pair of rows once. Every thread makes its own tiles and looks at them while the
    cache has them; the library's threads would have to meet after each tile, and spin meanwhile."""
    tops = range(0, len(vectors), _TILE)
    tiles = [(top, left) for top in tops for left in tops if left >= top]
    locks = {top: Lock() for top in tops}
    mine = local()
    blocks = np.zeros(near.limit.shape, np.float32)
    blocks.reshape(-1)[: len(norms)] = norms

    def look(top: int, left: int) -> None:
        if not hasattr(mine, "buffer"):
            mine.buffer = np.empty((_TILE, _TILE), np.float32)
        a, b = vectors[top : top + _TILE], vectors[left : left + _TILE]
        np.matmul(a, b.T, out=mine.buffer[: len(a), : len(b)])
        tile = mine.buffer[: len(a)].reshape(len(a), -1, _CHUNK)
        with locks[top]:
            _look_along_rows(tile, blocks, top, left, len(b), near, far)
        if left != top:
            with locks[left]:
                _look_along_columns(tile, blocks, top, left, len(b), near, far)

    with single_threaded_blas() as ours, ThreadPoolExecutor(cores() if ours else 1) as pool:
        list(pool.map(lambda tile: look(*tile), tiles))


def exact_neighbours(
    vectors: NDArray[np.float32],
    candidates: NDArray[np.int32],
    farthest: NDArray[np.int32],
    *,
    order: NDArray[np.int64],
    k: int,
) -> Neighbourhood:
    """The lists that an approximate search has found: of each row's candidates (N, n ≥ k), all
    different, the k nearest, by exact distances; farthest: a row far from each."""
    squared_norms(vectors)
    index, squared = _nearest_of(vectors, candidates, order, k)
    rows = np.arange(len(vectors))
    return Neighbourhood(index, squared, pair_distances(vectors, rows, farthest.astype(np.int64)))


def _centred(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors less their mean, a copy, where they lie farther from 0 than from each other: the
    distances are the same, and what the product in single precision loses is less."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    pieces = [slice(at, at + 4096) for at in range(0, len(vectors), 4096)]
    spread = sum(np.square(vectors[piece] - mean).sum() for piece in pieces) / len(vectors)
    if mean @ mean <= spread:
        return vectors
    centred = np.empty(vectors.shape, np.float32)
    for piece in pieces:
        centred[piece] = vectors[piece] - mean
    return centred


def squared_norms(vectors: NDArray[np.float32], *, least: float = 1e-30) -> NDArray[np.float64]:
    """‖x‖² of rows, (N,). Raises NotFiniteError where squared distances overflow float32, or all of
    them vanish in it: none of the rows has `least`."""
    norms = np.concatenate(
        [
            np.einsum("nd,nd->n", piece, piece, dtype=np.float64)
            for piece in (vectors[at : at + 4096] for at in range(0, len(vectors), 4096))
        ]
    )
    if not 4 * norms.max() < 1e38:
        raise NotFiniteError(
            "the vectors are too long for re-ranking: squared distances do not fit float32; "
            "scale them down"
        )
    if 0 < norms.max() < least:
        raise NotFiniteError(
            "the vectors are too short for re-ranking: squared distances vanish in float32; "
            "scale them up"
        )
    return norms


def rounding(
    vectors: NDArray[np.float32], norms: NDArray[np.float64], largest: float
) -> NDArray[np.float64]:
    """How far ‖x‖² + ‖y‖² − 2·x·y in float32 may be from ‖x − y‖², for each x and any y (N,).

    A float32 sum of D products is off by at most D·2⁻²⁴·‖x‖·‖y‖ (Higham, Accuracy and Stability
    of Numerical Algorithms, 2nd ed., eq. 3.5), twice that here, and the rest is a few roundings
    of terms that (‖x‖ + ‖y‖)² bounds, among them those of a mean taken off; products too small for
    float32 may be lost, 2⁻¹²⁶ each.
    """
    dim = vectors.shape[1]
    unit = (dim + 16) * 2.0**-24
    bound: NDArray[np.float64] = (np.sqrt(norms) + largest) ** 2 * unit + dim * 2.0**-125
    return bound


def pair_distances(
    vectors: NDArray[np.float32], a: NDArray[np.int64], b: NDArray[np.int64]
) -> NDArray[np.float32]:
    """`squared_distance` of rows a[i] and b[i], (n,)."""
    out = np.empty(len(a), np.float32)
    over_ranges(lambda i, j: _pairs(vectors, a[i:j], vectors, b[i:j], out[i:j]), len(a), piece=8192)
    return out


@compiled()
def _pairs(x, a, y, b, out):  # type: ignore[no-untyped-def]
    for i in range(len(a)):
        out[i] = squared_distance(x[a[i]], y[b[i]])


class _Best(NamedTuple):
    """For every row the rows with the smallest values so far; compiled loops fill it.

    values, numbers: (N, room), the first `used` (N,) of a row in use. limit: what a value must be
    below to be kept, and everything left out was not; blocks of _CHUNK rows,
    (⌈N / _CHUNK⌉, _CHUNK): with plain indices the compiler vectorises the loops over a block.
    """

    values: NDArray[np.float32]
    numbers: NDArray[np.int32]
    used: NDArray[np.int32]
    limit: NDArray[np.float32]

    @classmethod
    def of(cls, rows: int, want: int) -> "_Best":
        return cls(
            values=np.empty((rows, 3 * want), np.float32),
            numbers=np.empty((rows, 3 * want), np.int32),
            used=np.zeros(rows, np.int32),
            limit=np.full((-(-rows // _CHUNK), _CHUNK), np.inf, np.float32),
        )

    def cut(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The `want` best numbers of every row, (N, want) in no order, and what those that were
        left out are not below (N,), infinite where none was. Where there are fewer than want, what
        follows the first `used` means nothing."""
        limit = self.limit.reshape(-1)[: len(self.used)]
        want = self.values.shape[1] // 3
        _shrink(self, want, limit)
        return self.numbers[:, :want], limit


@compiled()
def _keep(best, i, value, number, limit):  # type: ignore[no-untyped-def]
    """Add a candidate to row i; the limit from now on."""
    best.values[i, best.used[i]] = value
    best.numbers[i, best.used[i]] = number
    best.used[i] += 1
    room = best.values.shape[1]
    if best.used[i] < room:
        return limit
    best.used[i] = room // 3
    return select(best.values[i], best.numbers[i], room, room // 3)


@compiled()
def _shrink(best, want, limit):  # type: ignore[no-untyped-def]
    for i in range(len(best.used)):
        if best.used[i] > want:
            limit[i] = select(best.values[i], best.numbers[i], best.used[i], want)
            best.used[i] = want


@compiled()
def select(values, numbers, count, want):  # type: ignore[no-untyped-def]
    """Bring the `want` smallest of the first count values, 0 < want < count, to the front, their
    numbers with them; the largest of them. Hoare's quickselect, in place."""
    low, high, at = 0, count - 1, want - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                numbers[i], numbers[j] = numbers[j], numbers[i]
                i += 1
                j -= 1
        if at <= j:
            high = j
        elif at >= i:
            low = i
        else:
            break
    return values[at]


@compiled()
def _look_along_rows(tile, norms, top, left, width, near, far):  # type: ignore[no-untyped-def]
    """Take products into account for the rows from top on: tile (n, ⌈width / _CHUNK⌉, _CHUNK) of
    them with the `width` rows from left on, both multiples of _CHUNK. norms: in blocks, as limits
    are. far: holds minus the distances."""
    values = np.empty(_CHUNK, np.float32)
    for r in range(tile.shape[0]):
        i = top + r
        own = norms[i // _CHUNK, i % _CHUNK]
        bound = near.limit[i // _CHUNK, i % _CHUNK]
        beyond = -far.limit[i // _CHUNK, i % _CHUNK]
        for b in range((width + _CHUNK - 1) // _CHUNK):
            block = left // _CHUNK + b
            hits = 0
            for p in range(_CHUNK):
                value = own + norms[block, p] - np.float32(2) * tile[r, b, p]
                values[p] = value
                hits += (value < bound) | (value > beyond)
            if hits == 0:
                continue
            for p in range(min(_CHUNK, width - b * _CHUNK)):
                j = left + b * _CHUNK + p
                if values[p] < bound:
                    bound = _keep(near, i, values[p], j, bound)
                if values[p] > beyond:
                    beyond = -_keep(far, i, -values[p], j, -beyond)
        near.limit[i // _CHUNK, i % _CHUNK] = bound
        far.limit[i // _CHUNK, i % _CHUNK] = -beyond


@compiled()
def _look_along_columns(tile, norms, top, left, width, near, far):  # type: ignore[no-untyped-def]
    """The same for the rows from left on."""
    values = np.empty(_CHUNK, np.float32)
    limit, far_limit = near.limit, far.limit
    for b in range((width + _CHUNK - 1) // _CHUNK):
        block = left // _CHUNK + b
        for r in range(tile.shape[0]):
            i = top + r
            own = norms[i // _CHUNK, i % _CHUNK]
            hits = 0
            for p in range(_CHUNK):
                value = own + norms[block, p] - np.float32(2) * tile[r, b, p]
                values[p] = value
                hits += (value < limit[block, p]) | (-value < far_limit[block, p])
            if hits == 0:
                continue
            for p in range(min(_CHUNK, width - b * _CHUNK)):
                j = left + b * _CHUNK + p
                if values[p] < limit[block, p]:
                    limit[block, p] = _keep(near, j, values[p], i, limit[block, p])
                if -values[p] < far_limit[block, p]:
                    far_limit[block, p] = _keep(far, j, -values[p], i, far_limit[block, p])


def _farthest_of(
    vectors: NDArray[np.float32], far: _Best
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The exact squared distance of the farthest candidate of every row, and what those that were
    left out are not above, -infinite where none was."""
    numbers, limit = far.cut()
    farthest = np.zeros(len(vectors), np.float32)
    over_ranges(
        lambda i, j: _far_range(i, j, vectors, numbers, far.used, farthest),
        len(vectors),
        piece=2048,
    )
    return farthest, -limit


@compiled()
def _far_range(start, stop, vectors, index, count, farthest):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        for c in range(count[i]):
            farthest[i] = max(farthest[i], squared_distance(vectors[i], vectors[index[i, c]]))


def _nearest_of(
    vectors: NDArray[np.float32], near: NDArray[np.int32], order: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Of the candidates (N, n) of each row the k nearest, by exact distance and order."""
    index = np.empty((len(near), k), np.int32)
    squared = np.empty((len(near), k), np.float32)

    def sort(start: int, stop: int) -> None:
        rows = np.arange(start, stop)
        _sort_lists(vectors, rows, near[start:stop], order, index[start:stop], squared[start:stop])

    over_ranges(sort, len(near), piece=1024)
    return index, squared


@compiled()
def _sort_lists(vectors, rows, near, order, index, squared):  # type: ignore[no-untyped-def]
    count, k = near.shape[1], index.shape[1]
    values = np.empty(count, np.float32)
    for r in range(len(rows)):
        for c in range(count):
            values[c] = squared_distance(vectors[rows[r]], vectors[near[r, c]])
        insert_best(values, near[r], order, count, index[r], squared[r], k)


@compiled()
def insert_best(values, numbers, order, count, index, squared, k):  # type: ignore[no-untyped-def]
    """Sort the first count of values with their numbers by (value, order) into index and squared,
    both (k,), and leave out those that have no room."""
    filled = 0
    for c in range(count):
        value, number = values[c], numbers[c]
        at = filled
        while at > 0 and (
            squared[at - 1] > value
            or (squared[at - 1] == value and order[index[at - 1]] > order[number])
        ):
            at -= 1
        if at < k:
            for p in range(min(filled, k - 1), at, -1):
                squared[p] = squared[p - 1]
                index[p] = index[p - 1]
            squared[at] = value
            index[at] = number
            filled = min(filled + 1, k)
    return filled


def _settle(
    vectors: NDArray[np.float32],
    centred: NDArray[np.float32],
    norms: NDArray[np.float64],
    rows: NDArray[np.intp],
    lists: Neighbourhood,
    *,
    order: NDArray[np.int64],
) -> None:
    """Do the lists of those rows again from every row that can belong to them: many lie as near as
    the last, as duplicates do, or as far as the farthest."""
    wide, lengths, k = norms.astype(np.float32), np.sqrt(norms), lists.index.shape[1]
    for start in range(0, len(rows), 256):
        some = rows[start : start + 256]
        values = wide[some, None] + wide - 2 * (centred[some] @ centred.T)
        for row, approximate in zip(some, values, strict=True):
            # Of each pair, or one long vector would make all others doubtful.
            off = rounding(centred, norms, lengths[row])
            lowest, highest = approximate - off, approximate + off
            near = np.flatnonzero(lowest <= np.partition(highest, k - 1)[k - 1])
            exact = pair_distances(vectors, np.full(len(near), row), near)
            best = np.lexsort((order[near], exact))[:k]
            lists.index[row], lists.squared[row] = near[best], exact[best]
            far = np.flatnonzero(highest >= lowest.max())
            lists.farthest[row] = pair_distances(vectors, np.full(len(far), row), far).max()
