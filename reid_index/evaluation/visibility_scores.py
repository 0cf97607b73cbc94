"""Visibility-weighted distances of all queries × all rows, for an evaluation: a chunk at a time, in
single precision with a bound on the error, and in double precision where that cannot tell."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..errors import DimensionMismatch
from ..search.visibility import visible_of_pairs
from ..threads import over_ranges, single_threaded_blas
from .part_rows import (
    NEAR,
    PartRows,
    between,
    check_parts,
    squared_bound,
    squared_distance,
    unit,
)
from .scores import VectorScores

_ROWS = 256
"""Rows whose parts are multiplied together: 1.5 MiB at 6 parts of 256."""

_QUERIES = 512
"""Queries that they are multiplied with: products of half a megabyte, which stay in the cache."""

_FAST = {"reassoc", "contract", "nsz"}


class VisibilityScores:
    """Scores by vectors and the parts that both show: see `Scores`. The key of a pair is d, as
    `visible_distances` gives it.

    vectors: of the same queries and rows, of cosine. queries: their parts, float32 (Q, P, Dp).
    blocks: the rows' parts, float32 or float16 (n, P, Dp) each, mapped or in memory. visible: of
    the queries' parts, (Q, P) of 0 and 1; shown: of the rows', as blocks has them. distance:
    "cosine" or "euclidean". A chunk takes its keys and some megabytes for each core.

    By cosine, Σ l·l·(1 − cosine) is the product of the visibilities (whole numbers, so exact) less
    that of all parts, joined, at length 1, and 0 where hidden: two matrix products. The second is
    off by (P·Dp + 8)·2⁻²⁴ of the number of parts that both show, so d by less than that: 9.2e-5
    at 6 parts of 256 at most, some 1e-7 as a rule. Where the bound cannot order two pairs, both are
    taken exactly. By Euclidean distance each part has a product of its own.

    Raises DimensionMismatch.
    """

    def __init__(
        self,
        vectors: VectorScores,
        queries: NDArray[np.float32],
        visible: NDArray[np.generic],
        blocks: Sequence[NDArray[np.generic]],
        shown: Sequence[NDArray[np.generic]],
        *,
        distance: str,
    ) -> None:
        check_parts(vectors, queries, blocks)
        shapes = [one.shape for one in (visible, *shown)]
        wanted = [one.shape[:2] for one in (queries, *blocks)]
        if shapes != wanted:
            raise DimensionMismatch(
                f"visible has the shapes {shapes} for parts of {wanted}: they must be the same"
            )
        self._vectors = vectors
        self._queries = np.ascontiguousarray(queries, np.float32)
        self._visible = np.asarray(visible) != 0
        self._parts = PartRows(blocks)
        self._shown = [np.asarray(one) for one in shown]
        self._distance = distance

    @property
    def queries(self) -> int:
        """Q."""
        return self._vectors.queries

    @property
    def gallery(self) -> int:
        """G."""
        return self._vectors.gallery

    def chunk(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """See `Scores`."""
        keys, bounds = self._vectors.chunk(start, stop)  # −cosine
        parts, dim = self._queries.shape[1:]
        if self._distance == "cosine":
            keys += 1
            self._add_parts(keys, start, stop)
            unit_off = (parts * dim + 8) * 2.0**-24
            off = bounds + unit_off / (1 - unit_off)
        else:
            keys *= 2
            keys += 2
            queries, rows = np.nonzero(keys < NEAR)
            np.sqrt(np.maximum(keys, 0, out=keys), out=keys)
            self._add_parts(keys, start, stop)
            keys[queries, rows] = self.exact(queries + start, rows)
            # |√a − √b| ≤ |a − b| / √b
            off = (2 * bounds + squared_bound(dim)) / np.sqrt(NEAR)
        # Sums of up to P + 1 numbers below 2, each rounded, and a quotient.
        return keys, off + 4 * (parts + 4) * 2.0**-24

    def exact(self, queries: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `Scores`."""
        similarities = -self._vectors.exact(queries, rows).astype(np.float32)
        found = np.empty(len(rows), np.float64)
        for number, here, places in self._parts.places(rows):
            found[here] = visible_of_pairs(
                self._queries,
                self._visible,
                queries[here],
                self._parts.blocks[number],
                self._shown[number],
                places,
                similarities[here],
                distance=self._distance,
            )
        return found

    def _add_parts(self, keys: NDArray[np.float32], start: int, stop: int) -> None:
        """Make d of keys, which are d_global."""
        add = _add_cosines if self._distance == "cosine" else _add_lengths
        asked = _Side.of(self._queries[start:stop], self._visible[start:stop])
        pieces = [
            (slice(at, at + _QUERIES), asked.take(slice(at, at + _QUERIES)))
            for at in range(0, len(asked.seen), _QUERIES)
        ]

        def some(first: int, last: int) -> None:
            for at in range(first, last, _ROWS):
                end = min(at + _ROWS, last)
                rows = _Side.of(self._parts.between(at, end), between(self._shown, at, end))
                for queries, few in pieces:
                    room = keys[queries, at:end]
                    add(few, rows, room)
                    room /= few.seen @ rows.seen.T + 1

        with single_threaded_blas() as ours:
            over_ranges(some, self.gallery, piece=_ROWS if ours else max(1, self.gallery))


@dataclass(frozen=True)
class _Side:
    """Parts at length 1, float32 (n, P, Dp), their squared lengths, 1 or 0 for zeros, and which of
    them are visible, float32 (n, P)."""

    ones: NDArray[np.float32]
    lengths: NDArray[np.float32]
    seen: NDArray[np.float32]

    @classmethod
    def of(cls, parts: NDArray[np.float32], visible: NDArray[np.generic]) -> "_Side":
        return cls(*unit(parts), (visible != 0).astype(np.float32))

    def take(self, some: slice) -> "_Side":
        return _Side(self.ones[some], self.lengths[some], self.seen[some])

    @cached_property
    def joined(self) -> NDArray[np.float32]:
        """The parts side by side, 0 where they are hidden: (n, P·Dp)."""
        return (self.ones * self.seen[:, :, None]).reshape(len(self.ones), -1)


def _add_cosines(asked: _Side, rows: _Side, keys: NDArray[np.float32]) -> None:
    """Add Σ l·l·(1 − cosine) to keys (q, m)."""
    keys += asked.seen @ rows.seen.T
    keys -= asked.joined @ rows.joined.T


def _add_lengths(asked: _Side, rows: _Side, keys: NDArray[np.float32]) -> None:
    """Add Σ l·l·‖a − b‖ to keys (q, m)."""
    for part in range(asked.ones.shape[1]):
        one, other = (np.ascontiguousarray(side.ones[:, part]) for side in (asked, rows))
        of = (side.lengths[:, part].copy() for side in (asked, rows))
        seen = (side.seen[:, part].copy() for side in (asked, rows))
        _add_roots(one @ other.T, one, other, *of, *seen, keys)


@compiled(fastmath=_FAST)
def _add_roots(products, one, other, own, its, seen, shown, keys):  # type: ignore[no-untyped-def]
    """Add the distances of one (q, Dp) and other (m, Dp) to keys (q, m), where both are to be seen.
    own (q,) and its (m,): squared lengths."""
    near = np.float32(NEAR)
    steps = np.empty(len(other), np.float32)
    for q in range(len(one)):
        if seen[q] == 0:
            continue
        small = 0
        for r in range(len(other)):
            squared = own[q] + its[r] - np.float32(2) * products[q, r]
            small += squared < near
            steps[r] = squared
        if small:
            for r in range(len(other)):
                if steps[r] < near:
                    steps[r] = squared_distance(one[q], other[r])
        for r in range(len(other)):
            keys[q, r] += shown[r] * np.sqrt(steps[r])
