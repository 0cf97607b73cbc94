"""Stripes compared along a path, top to bottom: the local distance of AlignedReID and
AlignedReID++.

Zhang et al., "AlignedReID", arXiv 1711.08184, eq. 1 and 2; Luo et al., "AlignedReID++: Dynamically
matching local information for person re-identification", Pattern Recognition 94, 2019 (DMLI). Of
two items with stripes a_1 … a_P and b_1 … b_P, each brought to length 1 (one of zeros stays), with
x = ‖a_i − b_j‖₂:

    d_ij = (eˣ − 1) / (eˣ + 1) = tanh(x / 2)
    S_11 = d_11,   S_ij = min(S_i−1,j, S_i,j−1) + d_ij   (those that there are),   D_local = S_PP

Lower is more alike; it lies between 0 and (2P − 1) · tanh(1).
"""

import math

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..threads import over_ranges

_PIECE = 128
"""Pairs that a thread takes at a time: some 0.3 ms at 8 stripes of 128."""

# Sums may be taken in any order, but the same code takes them in the same one for every pair.
_FAST = {"reassoc", "contract", "nsz"}


def local_distances(
    parts: NDArray[np.generic], candidates: NDArray[np.generic]
) -> NDArray[np.float32]:
    """D_local of one item's parts (P, Dp) to those of each candidate (n, P, Dp), float32 or
    float16, finite: float32 (n,).

    Taken in double precision, from differences, not from products, so that it is 0 for equal
    stripes; and rounded once. It depends on nothing but the pair.
    """
    pairs = np.arange(len(candidates))
    return local_of_pairs(parts[None], np.zeros_like(pairs), candidates, pairs)


def local_of_pairs(
    queries: NDArray[np.generic],
    of: NDArray[np.int64],
    candidates: NDArray[np.generic],
    rows: NDArray[np.int64],
) -> NDArray[np.float32]:
    """`local_distances` of the pairs (queries[of[i]], candidates[rows[i]]): float32 (n,).

    queries: (Q, P, Dp). Faster where equal `of` follow each other.
    """
    asked, found = np.ascontiguousarray(queries, np.float32), np.empty(len(rows), np.float32)

    def some(start: int, stop: int) -> None:
        local, place = candidates, rows[start:stop]
        if local.dtype != np.float32:  # Numba knows no float16
            local, place = local[place].astype(np.float32), np.arange(stop - start)
        _local_of_pairs(asked, of[start:stop], local, place, found[start:stop])

    over_ranges(some, len(rows), piece=_PIECE)
    return found


def matched_distances(
    similarities: NDArray[np.float32], local: NDArray[np.float32], *, weight: float
) -> NDArray[np.float32]:
    """D_global + weight · D_local of pairs (n,), by their cosine and D_local: float32 (n,)."""
    cosines = similarities.astype(np.float64)
    whole = np.sqrt(np.maximum(2 - 2 * cosines, 0)) + weight * local.astype(np.float64)
    matched: NDArray[np.float32] = whole.astype(np.float32)
    return matched


@compiled(fastmath=_FAST)
def _local_of_pairs(x, a, y, b, out):  # type: ignore[no-untyped-def]
    """D_local of x[a[i]] and y[b[i]], float32 (…, P, Dp), into out."""
    _, stripes, _ = x.shape
    one, other = np.empty(x.shape[1:]), np.empty(x.shape[1:])
    path = np.empty(stripes)
    for at in range(len(out)):
        if at == 0 or a[at] != a[at - 1]:
            _unit(x[a[at]], one)
        _unit(y[b[at]], other)
        for i in range(stripes):
            for j in range(stripes):
                step = math.tanh(0.5 * math.sqrt(_squared(one[i], other[j])))
                if i == 0:
                    path[j] = step if j == 0 else path[j - 1] + step
                elif j == 0:
                    path[j] += step
                else:
                    path[j] = min(path[j], path[j - 1]) + step
        out[at] = path[stripes - 1]


@compiled(fastmath=_FAST)
def _unit(stripes, out):  # type: ignore[no-untyped-def]
    """Stripes (P, Dp) at length 1, in double precision, where the squares of no float32 are
    lost; those of zeros as they are."""
    for stripe in range(len(stripes)):
        total = 0.0
        for d in range(stripes.shape[1]):
            total += np.float64(stripes[stripe, d]) * np.float64(stripes[stripe, d])
        factor = 1 / math.sqrt(total) if total > 0 else 0.0
        for d in range(stripes.shape[1]):
            out[stripe, d] = factor * stripes[stripe, d]


@compiled(fastmath=_FAST)
def _squared(one, other):  # type: ignore[no-untyped-def]
    total = 0.0
    for d in range(len(one)):
        difference = one[d] - other[d]
        total += difference * difference
    return total
