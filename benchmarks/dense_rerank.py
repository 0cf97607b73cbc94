"""k-reciprocal re-ranking with N × N matrices, as it is commonly run: what ours is held against.

Z. Zhong, L. Zheng, D. Cao, S. Li: Re-ranking Person Re-identification with k-reciprocal Encoding,
CVPR 2017. Distances in single precision, every list sorted whole, loops over rows in Python.
"""

import numpy as np
from numpy.typing import NDArray

from reid_index import Reranking


def dense_rerank(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], *, reranking: Reranking
) -> NDArray[np.float32]:
    """Re-ranked distances (Q, G) of queries (Q, D) to the gallery (G, D), in one graph.

    Equal distances are ordered by row, queries first. Takes some 20 · N² bytes, N = Q + G.
    """
    k1, k2, lambda_ = reranking.k1, reranking.k2, np.float32(reranking.lambda_)
    count = len(queries)
    distance = _relative_distances(np.concatenate([queries, gallery]))
    rank = np.argsort(distance, axis=1, kind="stable").astype(np.int32)
    encoding = np.zeros_like(distance)
    for node in range(len(distance)):
        members = _robust_set(rank, node, k1)
        weights = np.exp(-distance[node, members])
        encoding[node, members] = weights / weights.sum()
    distance = distance[:count, count:].copy()
    if k2 > 1:
        mean = np.empty_like(encoding)
        for node in range(len(encoding)):
            mean[node] = encoding[rank[node, :k2]].mean(axis=0)
        encoding = mean
    del rank
    distance *= lambda_
    distance += (1 - lambda_) * _jaccard(encoding, count)
    return distance


def _relative_distances(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared Euclidean distances (N, N), each row divided by its largest (eq. 12)."""
    norms = np.einsum("nd,nd->n", vectors, vectors)
    squared = vectors @ vectors.T
    squared *= -2
    squared += norms
    squared += norms[:, None]
    np.maximum(squared, 0, out=squared)
    largest = squared.max(axis=1, keepdims=True)
    squared /= np.where(largest > 0, largest, 1)
    return squared


def _reciprocal(rank: NDArray[np.int32], node: int, k: int) -> NDArray[np.int32]:
    """The k + 1 nearest of a node that have it among their k + 1 nearest (eq. 3)."""
    forward = rank[node, : k + 1]
    mutual: NDArray[np.int32] = forward[(rank[forward, : k + 1] == node).any(axis=1)]
    return mutual


def _robust_set(rank: NDArray[np.int32], node: int, k1: int) -> NDArray[np.int32]:
    """R* of a node (eq. 5): R, and the half-sized sets that share over 2/3 with it."""
    own = _reciprocal(rank, node, k1)
    parts = [own]
    for member in own:
        theirs = _reciprocal(rank, member, round(k1 / 2))
        if 3 * np.isin(theirs, own).sum() > 2 * len(theirs):
            parts.append(theirs)
    return np.unique(np.concatenate(parts))


def _jaccard(encoding: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Jaccard distances (eq. 10) of the first `count` rows to the others."""
    others = encoding[count:]
    holders = [np.flatnonzero(others[:, node]) for node in range(len(encoding))]
    out = np.empty((count, len(others)), np.float32)
    for query in range(count):
        shared = np.zeros(len(others), np.float32)
        for node in np.flatnonzero(encoding[query]):
            rows = holders[node]
            shared[rows] += np.minimum(encoding[query, node], others[rows, node])
        out[query] = 1 - shared / (2 - shared)
    return out
