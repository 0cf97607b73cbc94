"""k-reciprocal sets and encodings, from neighbour lists alone (Zhong et al., CVPR 2017).

Nodes are numbered; `index[i]` is node i's list, nearest first, itself an ordinary member. A list
may be replaced without copying the others: node i's list is `patch[at[i]]` where `at[i]` ≥ 0.
That is how a query is put into a gallery's graph. `at` is empty where nothing is replaced.

    R(i, k)  = { j in the first k + 1 of i's list : i in the first k + 1 of j's }       eq. 4
    R*(i)    = R(i, k1) ∪ R(c, k1/2) for each c in R(i, k1) where more than two thirds
               of R(c, k1/2) are in R(i, k1)                                            eq. 5
    V(i, j)  = exp(-d(i, j)) for j in R*(i), scaled to the sum 1                         eq. 7
    V*(i)    = mean of V over the first k2 of i's list                                   eq. 11
    J(i, j)  = 1 - m / (2 - m),  m = Σ min(V*(i), V*(j))                                 eq. 10

d is the squared Euclidean distance divided by the largest of its row (0 where that is 0); k1/2 is
rounded to even at a half. R* grows from the members of R(i, k1) alone, not from what was added.
The order of a set's members, and so of every sum, is that in which the formulas name them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..threads import over_ranges
from .neighbours import squared_distance

NO_PATCH = (np.empty(0, np.int32), np.empty((0, 0), np.int32))
"""`at` and `patch` where no list is replaced."""

_PIECE = 1024
"""Nodes that a thread does at a time."""


@dataclass(frozen=True)
class Sparse:
    """A row of numbered values for each node, most of them absent.

    offsets: int64 (N + 1,), where rows begin. index: int32 (n,). values: float (n,).
    """

    offsets: NDArray[np.int64]
    index: NDArray[np.int32]
    values: NDArray[np.floating]


def half(k1: int) -> int:
    """k1 / 2, a half rounded to even, as the published code has it (np.around)."""
    return round(k1 / 2)


@compiled()
def list_of(i, index, at, patch):  # type: ignore[no-untyped-def]
    """Node i's list."""
    if len(at) and at[i] >= 0:
        return patch[at[i]]
    return index[i]


@compiled()
def _holds(members, count, node):  # type: ignore[no-untyped-def]
    for p in range(count):  # noqa: SIM110 (numba has no any() of generators)
        if members[p] == node:
            return True
    return False


@compiled()
def reciprocal(i, size, index, at, patch, out):  # type: ignore[no-untyped-def]
    """R(i, size - 1) into out, in the order of i's list; how many they are."""
    count = 0
    own = list_of(i, index, at, patch)
    for p in range(size):
        if _holds(list_of(own[p], index, at, patch), size, i):
            out[count] = own[p]
            count += 1
    return count


@compiled()
def robust(i, k1, half_k1, index, at, patch, out):  # type: ignore[no-untyped-def]
    """R*(i) into out, which has `room` for it; how many they are."""
    first = reciprocal(i, k1 + 1, index, at, patch, out)
    count = first
    near = np.empty(half_k1 + 1, np.int32)
    for p in range(first):
        found = reciprocal(out[p], half_k1 + 1, index, at, patch, near)
        common = 0
        for n in range(found):
            common += _holds(out, first, near[n])
        if 3 * common > 2 * found:
            for n in range(found):
                if not _holds(out, count, near[n]):
                    out[count] = near[n]
                    count += 1
    return count


def room(k1: int) -> int:
    """The largest number of members that R* can have."""
    return (k1 + 1) * (half(k1) + 2)


def robust_sets(index: NDArray[np.int32], squared: NDArray[np.float32], *, k1: int) -> Sparse:
    """R* of every node, with the squared distances that the lists (N, K > k1) know, NaN where
    they do not: float32."""

    def some(start: int, stop: int) -> tuple[NDArray[Any], ...]:
        members = np.empty((stop - start, room(k1)), np.int32)
        values = np.empty((stop - start, room(k1)), np.float32)
        counts = np.empty(stop - start, np.int64)
        _robust_range(start, stop, k1, half(k1), index, squared, members, values, counts)
        used = np.arange(room(k1)) < counts[:, None]
        return counts, members[used], values[used]

    counts, members, values = zip(*over_ranges(some, len(index), piece=_PIECE), strict=True)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
    return Sparse(offsets, np.concatenate(members), np.concatenate(values))


@compiled()
def _robust_range(  # type: ignore[no-untyped-def]
    start, stop, k1, half_k1, index, squared, members, values, counts
):
    at, patch = np.empty(0, np.int32), np.empty((0, 0), np.int32)
    for i in range(start, stop):
        row = i - start
        counts[row] = robust(i, k1, half_k1, index, at, patch, members[row])
        for p in range(counts[row]):
            values[row, p] = known(members[row, p], index[i], squared[i])


@compiled()
def known(node, numbers, squared):  # type: ignore[no-untyped-def]
    """The distance of a node by a list, NaN where it is not in it."""
    for p in range(len(numbers)):
        if numbers[p] == node:
            return squared[p]
    return np.float32(np.nan)


def fill_distances(sets: Sparse, vectors: NDArray[np.float32]) -> Sparse:
    """The sets with every distance known, computed from the nodes' vectors (N, D)."""
    rows = len(sets.offsets) - 1
    over_ranges(
        lambda i, j: _fill_range(i, j, sets.offsets, sets.index, sets.values, vectors),
        rows,
        piece=_PIECE,
    )
    return sets


@compiled()
def _fill_range(start, stop, offsets, index, values, vectors):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        for p in range(offsets[i], offsets[i + 1]):
            if np.isnan(values[p]):
                values[p] = squared_distance(vectors[i], vectors[index[p]])


@compiled()
def weigh(squared, farthest, out):  # type: ignore[no-untyped-def]
    """V of one node into out: squared, its distances to the members of R*, (n,)."""
    total = 0.0
    for p in range(len(squared)):
        scaled = np.float64(squared[p]) / np.float64(farthest) if farthest > 0 else 0.0
        out[p] = np.exp(-scaled)
        total += out[p]
    for p in range(len(squared)):
        out[p] /= total


def encode(sets: Sparse, farthest: NDArray[np.float32]) -> Sparse:
    """V of every node, float64. farthest: (N,), the largest squared distance of each."""
    values = np.empty(len(sets.values), np.float64)
    over_ranges(
        lambda i, j: _weigh_range(i, j, sets.offsets, sets.values, farthest, values),
        len(farthest),
        piece=4 * _PIECE,
    )
    return Sparse(sets.offsets, sets.index, values)


@compiled()
def _weigh_range(start, stop, offsets, squared, farthest, values):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        a, b = offsets[i], offsets[i + 1]
        weigh(squared[a:b], farthest[i], values[a:b])


def expand(codes: Sparse, index: NDArray[np.int32], *, k2: int) -> Sparse:
    """V* of every node: the mean of V over the first k2 of its list (N, K ≥ k2)."""
    if k2 == 1:
        return codes

    def some(start: int, stop: int) -> tuple[NDArray[Any], ...]:
        lengths = np.diff(codes.offsets)
        total = int(lengths[index[start:stop, :k2]].sum())
        counts = np.empty(stop - start, np.int64)
        members, values = np.empty(total, np.int32), np.empty(total, np.float64)
        used = _expand_range(
            start,
            stop,
            codes.offsets,
            codes.index,
            codes.values,
            index,
            k2,
            counts,
            members,
            values,
        )
        return counts, members[:used].copy(), values[:used].copy()

    pieces = over_ranges(some, len(index), piece=_PIECE)
    counts, members, values = zip(*pieces, strict=True)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
    return Sparse(offsets, np.concatenate(members), np.concatenate(values))


@compiled()
def _expand_range(  # type: ignore[no-untyped-def]
    start, stop, offsets, members, values, index, k2, counts, out_members, out_values
):
    place = np.full(len(offsets) - 1, -1, np.int32)
    used = 0
    for i in range(start, stop):
        begin = used
        for p in range(k2):
            c = index[i, p]
            for n in range(offsets[c], offsets[c + 1]):
                node = members[n]
                if place[node] < 0:
                    place[node] = used
                    out_members[used] = node
                    out_values[used] = 0.0
                    used += 1
                out_values[place[node]] += values[n] / k2
        for n in range(begin, used):
            place[out_members[n]] = -1
        counts[i - start] = used - begin
    return used


def inverted(
    offsets: NDArray[np.int64], index: NDArray[np.int32], values: NDArray[np.floating], size: int
) -> Sparse:
    """For each of `size` numbers, the rows that hold it, ascending, and their values there."""
    counts = np.bincount(index, minlength=size)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    rows = np.empty(len(index), np.int32)
    turned = np.empty(len(index), values.dtype)
    _invert(offsets, index, values, starts[:-1].copy(), rows, turned)
    return Sparse(starts, rows, turned)


@compiled()
def _invert(offsets, index, values, free, rows, turned):  # type: ignore[no-untyped-def]
    for i in range(len(offsets) - 1):
        for p in range(offsets[i], offsets[i + 1]):
            rows[free[index[p]]] = i
            turned[free[index[p]]] = values[p]
            free[index[p]] += 1
