"""Parts compared where both items show them: the visibility-weighted distance of a model of
semantic regions.

"Fine-grained local semantics and attributes for person re-identification" (source 002), eq. 13 and
14, after ISP (Zhu et al., "Identity-guided human semantic parsing", ECCV 2020). Of a query q and a
gallery item g with P parts, l_k being 1 where part k is to be seen and 0 elsewhere:

    d = (Σ_k l_k^q · l_k^g · d_k + d_global) / (Σ_k l_k^q · l_k^g + 1)

d_k is the distance of both parts k, d_global that of the vectors: 1 − cosine, or ‖a − b‖ of
what has length 1. A part of zeros stays so, and its cosine with any other is 0. Lower is more
alike; d lies between 0 and 2, and where no part is to be seen in both it is d_global. Equation 13
has three distances that always count, and "+ 3": the other two are parts that are always visible.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..threads import over_ranges

_PIECE = 64
"""Pairs that a thread takes at a time: some 0.1 ms at 6 parts of 256."""

# Sums may be taken in any order, but the same code takes them in the same one for every pair.
_FAST = {"reassoc", "contract", "nsz"}


def visible_distances(
    parts: NDArray[np.generic],
    visible: NDArray[np.generic],
    candidates: NDArray[np.generic],
    shown: NDArray[np.generic],
    similarities: NDArray[np.float32],
    *,
    distance: str,
) -> NDArray[np.float32]:
    """d of one item to each candidate: float32 (n,).

    parts: (P, Dp) of the item, candidates: (n, P, Dp), float32 or float16, finite, in any memory
    order; visible: (P,) and shown: (n, P), which of them are to be seen, 0 and 1; similarities:
    cosines of the vectors (n,). distance: "cosine" or "euclidean".

    Taken in double precision, Euclidean distances from differences, not from products, so that
    equal parts are nothing apart; and rounded once. It depends on nothing but the pair.
    """
    pairs = np.arange(len(candidates))
    return visible_of_pairs(
        parts[None],
        visible[None],
        np.zeros_like(pairs),
        candidates,
        shown,
        pairs,
        similarities,
        distance=distance,
    )


def visible_of_pairs(
    queries: NDArray[np.generic],
    visible: NDArray[np.generic],
    of: NDArray[np.int64],
    candidates: NDArray[np.generic],
    shown: NDArray[np.generic],
    rows: NDArray[np.int64],
    similarities: NDArray[np.float32],
    *,
    distance: str,
) -> NDArray[np.float32]:
    """`visible_distances` of the pairs (queries[of[i]], candidates[rows[i]]), whose vectors have
    the cosines similarities[i]: float32 (n,).

    queries: (Q, P, Dp), visible: (Q, P). Faster where equal `of` follow each other. Candidates and
    shown, mapped blocks of a gallery say, are read in place, and only what is visible in both.
    """
    asked = np.ascontiguousarray(queries, np.float32)
    own, its = _flags(visible), _flags(shown)
    found = np.empty(len(rows), np.float32)
    is_cosine = distance == "cosine"
    # Numba knows no float16; and compiled for other strides it may take sums in another order.
    is_plain = candidates.dtype == np.float32 and candidates.flags.c_contiguous
    whole = global_distances(similarities, distance=distance)

    def some(start: int, stop: int) -> None:
        there, place = candidates, rows[start:stop]
        if not is_plain:
            there, place = there[place].astype(np.float32, order="C"), np.arange(stop - start)
        of_pairs = (own, its, of[start:stop], rows[start:stop])
        _of_pairs(asked, there, place, *of_pairs, whole[start:stop], is_cosine, found[start:stop])

    over_ranges(some, len(rows), piece=_PIECE)
    return found


def global_distances(similarities: NDArray[np.float32], *, distance: str) -> NDArray[np.float64]:
    """d_global by cosines: 1 − cosine, or √(2 − 2·cosine)."""
    cosines = similarities.astype(np.float64)
    if distance == "cosine":
        return 1 - cosines
    lengths: NDArray[np.float64] = np.sqrt(np.maximum(2 - 2 * cosines, 0))
    return lengths


def _flags(visible: NDArray[np.generic]) -> NDArray[np.generic]:
    """As the loop below wants them: those that a shard has are used in place."""
    if visible.dtype == np.uint8 and visible.flags.c_contiguous:
        return visible
    return np.ascontiguousarray(visible != 0).view(np.uint8)


@compiled(fastmath=_FAST)
def _of_pairs(x, y, place, own, its, a, b, whole, is_cosine, out):  # type: ignore[no-untyped-def]
    """d of x[a[i]], of which own[a[i]] is visible, and y[place[i]], of which its[b[i]] is, into
    out; whole: d_global."""
    _, parts, dim = x.shape
    one, other = np.empty((parts, dim)), np.empty(dim)
    for at in range(len(out)):
        if at == 0 or a[at] != a[at - 1]:
            for part in range(parts):
                _unit(x[a[at], part], one[part])
        total, terms = whole[at], 1.0
        for part in range(parts):
            if own[a[at], part] != 0 and its[b[at], part] != 0:
                if is_cosine:
                    total += 1 - _cosine(one[part], y[place[at], part])
                else:
                    _unit(y[place[at], part], other)
                    total += _apart(one[part], other)
                terms += 1
        out[at] = total / terms


@compiled(fastmath=_FAST)
def _unit(part, out):  # type: ignore[no-untyped-def]
    """A part (Dp,) at length 1, in double precision, where the squares of no float32 are lost; one
    of zeros as it is."""
    total = 0.0
    for d in range(len(part)):
        total += np.float64(part[d]) * np.float64(part[d])
    factor = 1 / math.sqrt(total) if total > 0 else 0.0
    for d in range(len(part)):
        out[d] = factor * part[d]


@compiled(fastmath=_FAST)
def _cosine(unit, part):  # type: ignore[no-untyped-def]
    """Of one of length 1 in double precision, and one as it is stored; 0 with one of zeros."""
    product, squared = 0.0, 0.0
    for d in range(len(unit)):
        value = np.float64(part[d])
        product += unit[d] * value
        squared += value * value
    return min(1.0, product / math.sqrt(squared)) if squared > 0 else 0.0


@compiled(fastmath=_FAST)
def _apart(one, other):  # type: ignore[no-untyped-def]
    total = 0.0
    for d in range(len(one)):
        difference = one[d] - other[d]
        total += difference * difference
    return math.sqrt(total)
