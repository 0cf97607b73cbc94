"""What a score is, and the plain NumPy search that every faster path must equal."""

import numpy as np
from numpy.typing import NDArray

from ..metric import Metric

_CHUNK = 8192


def score(
    query: NDArray[np.float32], rows: NDArray[np.generic], *, metric: Metric
) -> NDArray[np.float32]:
    """The score of one query (D,) with each of rows (n, D): float32 (n,).

    Sums are taken in float64 and rounded once, so that the score of a pair depends on nothing but
    the pair: not on the batch, the order of the rows, or the path that found it. For cosine both
    sides have length 1 already and the inner product is cut to [-1, 1]; Euclidean is ‖x − y‖₂.
    An inner product too large for float32 is infinite.
    """
    scores = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _CHUNK):
        piece = rows[start : start + _CHUNK]
        scores[start : start + _CHUNK] = score_pairs(query[None], piece, metric=metric)
    return scores


def score_pairs(
    queries: NDArray[np.float32], rows: NDArray[np.generic], *, metric: Metric
) -> NDArray[np.float32]:
    """The score of each query with the row in the same place; (…, D) each, broadcast: float32
    (…,). As `score` says."""
    # NumPy's order of summation, so the last bit, depends on the memory order.
    piece = rows.astype(np.float64, order="C")
    wide = queries.astype(np.float64)
    if metric is Metric.EUCLIDEAN:
        piece -= wide
        piece *= piece
        sums = np.sqrt(piece.sum(axis=-1))
    else:
        piece *= wide
        sums = piece.sum(axis=-1)
    with np.errstate(over="ignore"):
        scores: NDArray[np.float32] = sums.astype(np.float32)
    if metric is Metric.COSINE:
        np.clip(scores, -1, 1, out=scores)
    return scores


def best_first(
    scores: NDArray[np.float32], items: NDArray[np.int64], *, metric: Metric
) -> NDArray[np.intp]:
    """The order of a ranked list: best score first, equal scores by item id."""
    return np.lexsort((items, -scores if metric.higher_is_better else scores))


def nearest_by_numpy(
    vectors: NDArray[np.generic],
    items: NDArray[np.int64],
    queries: NDArray[np.float32],
    k: int,
    *,
    metric: Metric,
    allowed: NDArray[np.bool_] | None = None,
) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """For each query (Q, D): the rows and scores of its k best allowed vectors (N, D), best
    first; fewer than k when fewer are allowed. Compares with everything; the oracle of the tests.
    """
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    answers = []
    for query in queries:
        scores = score(query, vectors[rows], metric=metric)
        order = best_first(scores, items[rows], metric=metric)[:k]
        answers.append((rows[order].astype(np.int64), scores[order]))
    return answers
