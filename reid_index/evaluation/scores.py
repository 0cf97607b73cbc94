"""What an evaluation ranks by: keys of queries × gallery, a chunk of queries at a time."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..errors import DimensionMismatch, NotFiniteError, UsageError
from ..metric import Metric
from ..threads import over_ranges

_WIDENED = 4096
"""Rows of a float16 block that are widened at a time: 8 MiB at 512 dimensions."""

_LARGEST = np.finfo(np.float32).max


class Scores(Protocol):
    """Keys of queries × gallery, where lower is better, a chunk of queries at a time."""

    @property
    def queries(self) -> int:
        """Q."""

    @property
    def gallery(self) -> int:
        """G."""

    def chunk(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Finite keys (stop − start, G) of the queries start … stop, and how far each query's may
        be from the exact ones (stop − start,). The keys are the caller's to write to, and only
        until the next call."""

    def exact(self, queries: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The exact keys of the pairs (queries[i], rows[i]), (m,), rounded to what decides ties."""


class VectorScores:
    """Scores of vectors, as `oracle.score` defines them.

    queries: float32 (Q, D). blocks: the gallery, (n, D) float32 or float16 each, mapped or in
    memory. For cosine all have length 1. The key of a pair is −similarity, or the square of the
    distance in a Euclidean gallery.

    Raises DimensionMismatch; NotFiniteError for NaN, Inf, vectors whose products float32 cannot
    hold, and for cosine vectors that are not of length 1.
    """

    def __init__(
        self,
        queries: NDArray[np.float32],
        blocks: Sequence[NDArray[np.generic]],
        *,
        metric: Metric,
    ) -> None:
        self._queries = np.ascontiguousarray(queries, np.float32)
        self._blocks = [np.asarray(block) for block in blocks]
        self._metric = metric
        dim = self._queries.shape[1]
        for block in self._blocks:
            if block.shape[1] != dim:
                raise DimensionMismatch(
                    f"the queries have {dim} dimensions, the gallery {block.shape[1]}: use the "
                    "extractor that the gallery was built with"
                )
        self._starts = np.cumsum([0, *(len(block) for block in self._blocks)])
        own = _squared_norms(self._queries)
        norms = [_squared_norms(piece) for piece in self._pieces()]
        self._own = own.astype(np.float32)
        self._norms = np.concatenate([np.empty(0, np.float32), *norms])
        _check_lengths(own, "query", metric=metric)
        _check_lengths(self._norms, "gallery", metric=metric)
        self._bounds = _bounds(own, self._norms, dim=dim, metric=metric)
        self._room = np.empty((0, self.gallery), np.float32)

    @property
    def queries(self) -> int:
        """Q."""
        return len(self._queries)

    @property
    def gallery(self) -> int:
        """G."""
        return int(self._starts[-1])

    def chunk(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """See `Scores`; one matrix product in single precision."""
        if len(self._room) < stop - start:
            self._room = np.empty((stop - start, self.gallery), np.float32)
        keys = self._room[: stop - start]
        euclidean = self._metric is Metric.EUCLIDEAN
        # Signs and powers of two are exact, and cheaper to apply here than to the product.
        factor = np.float32(-2 if euclidean else -1)
        some = self._queries[start:stop] * factor
        at = 0
        for piece in self._pieces():
            np.matmul(some, piece.T, out=keys[:, at : at + len(piece)])
            at += len(piece)
        if euclidean:
            keys += self._norms
            keys += self._own[start:stop, None]
        return keys, self._bounds[start:stop]

    def exact(self, queries: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `Scores`; `oracle.score` of the pairs."""
        sums = np.empty(len(rows), np.float64)
        for block, start in zip(self._blocks, self._starts, strict=False):
            inside = np.flatnonzero((rows >= start) & (rows < start + len(block)))
            sums[inside] = self._sums(block, queries[inside], rows[inside] - start)
        if self._metric is Metric.EUCLIDEAN:
            distances = np.sqrt(sums).astype(np.float32).astype(np.float64)
            return distances * distances
        similarities = sums.astype(np.float32)
        if self._metric is Metric.COSINE:
            np.clip(similarities, -1, 1, out=similarities)
        return -similarities.astype(np.float64)

    def _sums(
        self, block: NDArray[np.generic], queries: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        sums = np.empty(len(rows), np.float64)
        squares = self._metric is Metric.EUCLIDEAN

        def some(start: int, stop: int) -> None:
            of, local, out = queries[start:stop], rows[start:stop], sums[start:stop]
            if block.dtype == np.float32:
                _pair_sums(self._queries, of, block, local, squares, out)
            else:
                wide = block[local].astype(np.float32)
                _pair_sums(self._queries, of, wide, np.arange(len(wide)), squares, out)

        over_ranges(some, len(rows), piece=_WIDENED)
        return sums

    def _pieces(self) -> Iterator[NDArray[np.float32]]:
        """The gallery's rows in order, as float32."""
        for block in self._blocks:
            if block.dtype == np.float32:
                yield block.astype(np.float32, copy=False)
            else:
                for at in range(0, len(block), _WIDENED):
                    yield block[at : at + _WIDENED].astype(np.float32)


def _squared_norms(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        norms: NDArray[np.float32] = np.einsum("nd,nd->n", vectors, vectors)
    return norms


def _check_lengths(norms: NDArray[np.float32], side: str, *, metric: Metric) -> None:
    if not (norms < 2e37).all():
        raise NotFiniteError(
            f"the {side} vectors hold NaN, Inf or numbers whose products do not fit float32"
        )
    if metric is Metric.COSINE and not (np.abs(norms - 1) < 0.02).all():
        raise NotFiniteError(f"the {side} vectors are not of length 1, as cosine wants them")


def _bounds(
    own: NDArray[np.float32], norms: NDArray[np.float32], *, dim: int, metric: Metric
) -> NDArray[np.float64]:
    """How far a key in single precision may be from the exact one, for each query (Q,).

    A float32 sum of D products, in whatever order, is off by at most γ·‖x‖·‖y‖ with
    γ = D·u/(1 − D·u), u = 2⁻²⁴ (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed.,
    eq. 3.5). Eight more u cover the roundings of the norms, of their sums and of the exact key;
    for squared distances every term is bounded by (‖x‖ + ‖y‖)². Products too small for float32
    may be lost, 2⁻¹²⁶ each. Cutting a similarity to [−1, 1] moves it by at most ‖x‖·‖y‖ − 1.
    """
    unit = (dim + 8) * 2.0**-24
    gamma = unit / (1 - unit)
    tiny = dim * 2.0**-125
    # The norms are sums in single precision themselves.
    lengths = np.sqrt(own.astype(np.float64) * (1 + gamma))
    largest = np.sqrt(norms.max(initial=0).astype(np.float64) * (1 + gamma))
    if metric is Metric.EUCLIDEAN:
        squares: NDArray[np.float64] = gamma * (lengths + largest) ** 2 + tiny
        return squares
    products = lengths * largest
    bounds: NDArray[np.float64] = gamma * products + tiny
    if metric is Metric.COSINE:
        bounds += np.maximum(products - 1, 0)
    return bounds


class MatrixScores:
    """Scores from a matrix of distances (Q, G), lower is better, which it keeps but never changes.

    Its own values decide, ties included, in whatever precision they come. Raises UsageError for
    anything but a matrix of real numbers, NotFiniteError for NaN or Inf.
    """

    def __init__(self, distance: NDArray[np.generic]) -> None:
        matrix = np.asarray(distance)
        if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
            raise UsageError(
                "distances are a matrix of real numbers, (queries, gallery); got "
                f"{matrix.dtype} of the shape {matrix.shape}"
            )
        for at in range(0, len(matrix), 256):
            if not np.isfinite(matrix[at : at + 256]).all():
                raise NotFiniteError("the distances hold NaN or Inf")
        self._matrix = matrix

    @property
    def queries(self) -> int:
        """Q."""
        return len(self._matrix)

    @property
    def gallery(self) -> int:
        """G."""
        return int(self._matrix.shape[1])

    def chunk(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """See `Scores`; a copy."""
        some = self._matrix[start:stop]
        if some.dtype in (np.float16, np.float32):
            return some.astype(np.float32), np.zeros(len(some))
        low = some.min(axis=1, initial=0).astype(np.float64)
        largest = np.maximum(some.max(axis=1, initial=0), -low).astype(np.float64)
        # Rounding to float32 moves a value by at most 2⁻²⁴ of it; cutting it, by less than itself.
        bounds = np.where(largest < _LARGEST, largest * 2.0**-24 + 2.0**-149, largest)
        if (largest >= _LARGEST).any():
            some = some.clip(-_LARGEST, _LARGEST)
        return some.astype(np.float32), bounds

    def exact(self, queries: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `Scores`; the values themselves."""
        values: NDArray[np.float64] = self._matrix[queries, rows].astype(np.float64)
        return values


@compiled(fastmath=True)
def _pair_sums(x, a, y, b, squares, out):  # type: ignore[no-untyped-def]
    """Σ x·y or Σ (x − y)² of the rows x[a[i]], y[b[i]], in float64."""
    for i in range(len(out)):
        u, v = x[a[i]], y[b[i]]
        total = 0.0
        if squares:
            for d in range(len(u)):
                difference = np.float64(u[d]) - np.float64(v[d])
                total += difference * difference
        else:
            for d in range(len(u)):
                total += np.float64(u[d]) * np.float64(v[d])
        out[i] = total
