"""Similarities of every segment of a target and rows of a gallery, in double precision, rounded
once.

Sums are taken by the same code for every pair, so that a pair's similarity depends on nothing but
the pair: not on what else is asked or allowed, nor on how rows are stored. Rows are read where they
lie, eight vectors of the target at a time, which takes no longer than a product in single precision
(`python -m benchmarks.videos`).
"""

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..metric import Metric
from .exact import widened

_AT_ONCE = 8
"""Vectors of a target that a row is compared with at once: their sums stay in registers."""

_GATHERED = 1024
"""Rows of a float16 block that are widened at a time: 2 MiB at 512 dimensions."""

# Sums may be taken in any order, but the same code takes them in the same one for every pair.
_FAST = {"reassoc", "contract", "nsz"}


class Pairs(Protocol):
    """Similarities of n segments of a target with rows."""

    def __call__(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Fill out (m, n), in C order, for m rows, in any order; higher is more alike. Several
        threads may call it at once."""


class VectorPairs:
    """By vectors: cosine, inner product, or −distance.

    queries: float32 (n, D), for cosine of length 1. blocks: the rows, (…, D) float32 or float16
    each, mapped or in memory, counted over all of them.
    """

    def __init__(
        self,
        queries: NDArray[np.float32],
        blocks: Sequence[NDArray[np.generic]],
        *,
        metric: Metric,
    ) -> None:
        count, dim = queries.shape
        self._count = count
        self._queries = np.zeros((-(-count // _AT_ONCE) * _AT_ONCE, dim), np.float64)
        self._queries[:count] = queries
        self._blocks = [np.asarray(block) for block in blocks]
        self._ends = ends_of([len(block) for block in blocks])
        self._metric = metric

    def __call__(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """See `Pairs`."""
        for number, places, local in by_block(rows, self._ends):
            block, room = self._blocks[number], out if places is None else out[places]
            if block.dtype == np.float32:
                self._fill(block, local, room)
            else:
                for at in range(0, len(local), _GATHERED):
                    some = widened(block, local[at : at + _GATHERED])
                    self._fill(some, np.arange(len(some)), room[at : at + _GATHERED])
            if places is not None:
                out[places] = room

    def _fill(
        self, vectors: NDArray[np.generic], rows: NDArray[np.int64], out: NDArray[np.float32]
    ) -> None:
        euclidean = self._metric is Metric.EUCLIDEAN
        (_distances if euclidean else _products)(vectors, rows, self._queries, self._count, out)
        if self._metric is Metric.COSINE:
            np.clip(out, -1, 1, out=out)


def ends_of(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Where blocks of so many rows end, counted over all of them."""
    return np.cumsum(np.asarray(lengths, np.int64))


def by_block(
    rows: NDArray[np.int64], ends: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.intp] | None, NDArray[np.int64]]]:
    """Each block that has some of the rows: its number, the places in `rows` of those that it has
    (None for all), and which of its own they are."""
    if len(rows) == 0:
        return
    numbers = np.searchsorted(ends, (rows.min(), rows.max()), side="right")
    if numbers[0] == numbers[1]:
        number = int(numbers[0])
        yield number, None, rows - (ends[number - 1] if number else 0)
        return
    of = np.searchsorted(ends, rows, side="right")
    for number in np.unique(of).tolist():
        places = np.flatnonzero(of == number)
        yield number, places, rows[places] - (ends[number - 1] if number else 0)


@compiled(fastmath=_FAST)
def _products(x, rows, q, count, out):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        row = x[rows[i]]
        for p in range(0, len(q), 8):
            a, b, c, d, e, f, g, h = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for k in range(q.shape[1]):
                one = np.float64(row[k])
                a += one * q[p, k]
                b += one * q[p + 1, k]
                c += one * q[p + 2, k]
                d += one * q[p + 3, k]
                e += one * q[p + 4, k]
                f += one * q[p + 5, k]
                g += one * q[p + 6, k]
                h += one * q[p + 7, k]
            _keep(a, b, c, d, e, f, g, h, out[i], p, count)


@compiled(fastmath=_FAST)
def _distances(x, rows, q, count, out):  # type: ignore[no-untyped-def]
    """−‖x − q‖."""
    for i in range(len(rows)):
        row = x[rows[i]]
        for p in range(0, len(q), 8):
            a, b, c, d, e, f, g, h = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for k in range(q.shape[1]):
                one = np.float64(row[k])
                a += (one - q[p, k]) ** 2
                b += (one - q[p + 1, k]) ** 2
                c += (one - q[p + 2, k]) ** 2
                d += (one - q[p + 3, k]) ** 2
                e += (one - q[p + 4, k]) ** 2
                f += (one - q[p + 5, k]) ** 2
                g += (one - q[p + 6, k]) ** 2
                h += (one - q[p + 7, k]) ** 2
            a, b, c, d = -math.sqrt(a), -math.sqrt(b), -math.sqrt(c), -math.sqrt(d)
            e, f, g, h = -math.sqrt(e), -math.sqrt(f), -math.sqrt(g), -math.sqrt(h)
            _keep(a, b, c, d, e, f, g, h, out[i], p, count)


@compiled()
def _keep(a, b, c, d, e, f, g, h, out, p, count):  # type: ignore[no-untyped-def]
    """Those of eight sums from p on that there is a vector for."""
    sums = (a, b, c, d, e, f, g, h)
    for j in range(min(8, count - p)):
        out[p + j] = sums[j]
