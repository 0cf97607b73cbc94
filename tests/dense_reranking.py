"""k-reciprocal re-ranking over a dense matrix: the plain oracle of the tests.

Zhong, Zheng, Cao, Li: Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017,
written row by row and set by set without any trick; O(N²) memory and worse time. Nothing here may
be shared with what it judges.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def dense_reranking(
    squared: NDArray[np.float32],
    *,
    queries: int,
    order: NDArray[np.int64],
    k1: int = 20,
    k2: int = 6,
    lambda_: float = 0.3,
    dtype: type[np.floating[Any]] = np.float64,
) -> NDArray[np.float64]:
    """Re-ranked distances (Q, G) of the first `queries` of N nodes to the others.

    squared: (N, N), squared Euclidean distances, finite. order: (N,), all different; of two nodes
    equally far the one with the smaller order is the nearer neighbour, and a node is an ordinary
    member of its own list. dtype: what it computes in.
    """
    squared = squared.astype(dtype)
    nodes = len(squared)
    original = np.zeros_like(squared)
    rank = np.empty((nodes, nodes), np.int64)
    for i in range(nodes):
        rank[i] = np.lexsort((order, squared[i]))
        if squared[i].max() > 0:
            original[i] = squared[i] / squared[i].max()
    encoding = np.zeros_like(squared)
    for i in range(nodes):
        members = sorted(_expanded(rank, i, k1))
        weights = np.exp(-original[i, members])
        encoding[i, members] = weights / weights.sum()
    if k2 != 1:
        encoding = np.stack([encoding[rank[i, :k2]].mean(axis=0) for i in range(nodes)])
    jaccard = np.empty((queries, nodes - queries), dtype)
    for q in range(queries):
        shared = np.minimum(encoding[q], encoding[queries:]).sum(axis=1)
        jaccard[q] = 1 - shared / (2 - shared)
    mixed = (1 - lambda_) * jaccard + lambda_ * original[:queries, queries:]
    return mixed.astype(np.float64)


def ranked(
    distances: NDArray[np.floating[Any]], items: NDArray[np.int64] | Sequence[int]
) -> NDArray[np.intp]:
    """Columns of each row (Q, G) by (distance, item id)."""
    return np.stack([np.lexsort((items, row)) for row in distances])


def _reciprocal(rank: NDArray[np.int64], i: int, k: int) -> set[int]:
    """R(i, k): those of the k + 1 nearest of i that have i among their k + 1 nearest."""
    return {int(j) for j in rank[i, : k + 1] if i in rank[j, : k + 1]}


def _expanded(rank: NDArray[np.int64], i: int, k1: int) -> set[int]:
    """R*(i, k1): R(i, k1) and each half-sized set of a member that overlaps it by over 2/3."""
    half = int(np.around(k1 / 2))
    own = _reciprocal(rank, i, k1)
    expanded = set(own)
    for member in own:
        theirs = _reciprocal(rank, member, half)
        if 3 * len(theirs & own) > 2 * len(theirs):
            expanded |= theirs
    return expanded
