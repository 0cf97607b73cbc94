"""What a caller asks with, checked and made ready to be compared."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DimensionMismatch, NotFiniteError, UsageError
from ..metric import Metric

_LARGEST = float(np.finfo(np.float32).max)


def query_vectors(
    query: ArrayLike, *, dim: int, metric: Metric, combine: str
) -> NDArray[np.float32]:
    """The vectors to search with: (1, dim), or (n, dim) when combine is "best" of n.

    Normalised for cosine; "mean" averages the vectors (normalised ones for cosine). Raises
    DimensionMismatch, NotFiniteError, UsageError.
    """
    if combine not in ("mean", "best"):
        raise UsageError(f"combine must be 'mean' or 'best', got {combine!r}")
    try:
        given = np.asarray(query)
        if given.dtype.kind == "c":
            raise UsageError("a query is real numbers, got complex ones")
        vectors = np.atleast_2d(given.astype(np.float64, copy=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"a query is numbers, (D,) or (n, D): {error}") from None
    if vectors.ndim != 2 or len(vectors) == 0:
        raise DimensionMismatch(f"a query is (D,) or (n, D) with n ≥ 1, got {vectors.shape}")
    if vectors.shape[1] != dim:
        raise DimensionMismatch(
            f"the query has {vectors.shape[1]} dimensions, the gallery {dim}: use the extractor "
            "that the gallery was built with"
        )
    if not np.abs(vectors).max() <= _LARGEST:  # nor is NaN
        if not np.isfinite(vectors).all():
            raise NotFiniteError("the query holds NaN or Inf")
        raise NotFiniteError("the query holds numbers too large for float32")
    if metric is Metric.COSINE:
        vectors = _unit(vectors)
    if combine == "mean" and len(vectors) > 1:
        vectors = vectors.mean(axis=0, keepdims=True)
        if metric is Metric.COSINE:
            vectors = _unit(vectors)
    return vectors.astype(np.float32)


def query_batch(queries: ArrayLike, *, dim: int, metric: Metric) -> NDArray[np.float32]:
    """Several queries' vectors (Q, dim), as `query_vectors` makes one's: float32 (Q, dim)."""
    try:
        is_empty = np.asarray(queries).shape == (0, dim)
    except ValueError:
        is_empty = False  # query_vectors says what is wrong
    if is_empty:
        return np.empty((0, dim), np.float32)
    return query_vectors(queries, dim=dim, metric=metric, combine="best")


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (norms > 1e-150).all() and np.abs(vectors).max(axis=1).all():
        # Squares of such small numbers are lost.
        vectors = vectors / np.abs(vectors).max(axis=1, keepdims=True)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not norms.all():
        raise NotFiniteError("the query has length 0, so cosine has no direction to compare")
    unit: NDArray[np.float64] = vectors / norms
    return unit
