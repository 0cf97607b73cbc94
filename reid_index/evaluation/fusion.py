"""Rank fusion: several extractors' rankings of one gallery joined into one ranking."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import NotFiniteError, UsageError
from .scores import Scores

METHODS = ("rrf", "min_max", "z_score")


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """How rankings are joined: each extractor gives every gallery item a number, higher is better,
    and the fused score is their weighted sum.

    method: "rrf" gives 1 / (k + rank), rank from 1 (Cormack, Clarke, Büttcher: Reciprocal Rank
    Fusion outperforms Condorcet and individual Rank Learning Methods, SIGIR 2009, p. 758);
    "min_max" maps an extractor's scores of one query linearly to [0, 1] over the whole gallery,
    best 1 (summed: CombSUM; Fox, Shaw: Combination of Multiple Searches, TREC-2, 1993);
    "z_score" maps them to mean 0 and (population) standard deviation 1, better above 0.
    weights: one per extractor, finite, 0 or more, not all 0; None for 1 each. An extractor of
    weight 0 is left out.
    k: of "rrf" only, 0 or more; the paper's 60.

    Raises UsageError for values that make no sense.
    """

    method: Literal["rrf", "min_max", "z_score"]
    weights: tuple[float, ...] | None = None
    k: int = 60

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"fusion is by one of {', '.join(METHODS)}, got {self.method!r}")
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 0:
            raise UsageError(f"fusion needs a whole k from 0 up, got {self.k!r}")
        weights = self.weights
        if weights is None:
            return
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
            raise UsageError(
                f"fusion needs finite weights of 0 or more, one of them above 0, got {weights}"
            )


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """The keys (n, G) of the queries from start that were handed out last: `exact` is asked next
    for those that decide ties."""

    start: int
    keys: NDArray[np.float64]


class FusedScores:
    """The fused ranking of several extractors, as keys: minus the fused score, lower is better.

    It is a `scores.Scores` like those that it is made of. Rank, least, greatest, mean and deviation
    are taken over a query's whole list, by the exact keys of every pair, with equal keys ranked by
    item id; so a fused score depends neither on chunks nor on the order of rows or extractors.
    """

    def __init__(
        self, sources: Sequence[Scores], *, items: NDArray[np.int64], fusion: Fusion
    ) -> None:
        """sources: one per extractor; row i of each is the same item. items: (G,) their ids.

        Raises UsageError where sources, items and weights do not fit together.
        """
        weights = fusion.weights or (1.0,) * len(sources)
        _check(sources, items=items, weights=weights)
        self.queries = sources[0].queries
        self.gallery = sources[0].gallery
        self._sources = [
            (number, source, weight)
            for number, (source, weight) in enumerate(zip(sources, weights, strict=True), start=1)
            if weight > 0
        ]
        self._items = items
        self._fusion = fusion
        self._last = _Chunk(start=0, keys=np.empty((0, self.gallery)))

    def chunk(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Keys of queries start … stop - 1 with every gallery row, float32 (n, G), and a bound (n,)
        on how far each is from `exact`: its rounding. Raises NotFiniteError."""
        self._last = _Chunk(start=0, keys=np.empty((0, self.gallery)))  # frees the one before
        keys = np.empty((stop - start, self.gallery))
        rounded, bounds = np.empty(keys.shape, np.float32), np.empty(len(keys))
        for row in range(len(keys)):
            keys[row] = self._keys(start + row)
            rounded[row] = keys[row]
            bounds[row] = np.abs(rounded[row] - keys[row]).max(initial=0)
        self._last = _Chunk(start=start, keys=keys)
        return rounded, bounds

    def exact(self, queries: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Keys of query queries[i] with gallery row rows[i], (n,): equal ones are ties.

        Quick for queries of the chunk asked for last; for each other one, its whole list is
        computed again. Raises NotFiniteError.
        """
        start, known = self._last.start, self._last.keys
        at_hand = (queries >= start) & (queries < start + len(known))
        keys = np.empty(len(queries))
        keys[at_hand] = known[queries[at_hand] - start, rows[at_hand]]
        for query in np.unique(queries[~at_hand]):
            pairs = queries == query
            keys[pairs] = self._keys(query)[rows[pairs]]
        return keys

    def _keys(self, query: int) -> NDArray[np.float64]:
        numbers = np.empty((len(self._sources), self.gallery))
        for row, (number, source, weight) in zip(numbers, self._sources, strict=True):
            keys = source.exact(np.full(self.gallery, query), np.arange(self.gallery))
            if not np.isfinite(keys).all():
                raise NotFiniteError(
                    f"extractor {number} of the fusion has scores of NaN or Inf for query {query}: "
                    "leave that extractor out or make its vectors anew"
                )
            row[:] = weight * self._number(keys)
        # Added in ascending order, the same terms give the same sum whichever extractor they are of
        numbers.sort(axis=0)
        total: NDArray[np.float64] = -numbers.sum(axis=0)
        return total

    def _number(self, keys: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._fusion.method == "rrf":
            return 1 / (self._fusion.k + _ranked(keys, self._items))
        shares = _shares(keys)
        return shares if self._fusion.method == "min_max" else _standardised(shares)


def _check(
    sources: Sequence[Scores], *, items: NDArray[np.int64], weights: tuple[float, ...]
) -> None:
    if not sources:
        raise UsageError("fusion needs the scores of one extractor or more, got none")
    if len(weights) != len(sources):
        raise UsageError(
            f"fusion has {len(weights)} weights for {len(sources)} extractors: give one for each"
        )
    first = sources[0]
    for number, source in enumerate(sources, start=1):
        if (source.queries, source.gallery) != (first.queries, first.gallery):
            raise UsageError(
                f"extractor 1 ranks {first.gallery} items for {first.queries} queries, extractor "
                f"{number} {source.gallery} for {source.queries}: fusion needs the same of all"
            )
    if items.shape != (first.gallery,):
        raise UsageError(f"fusion has {len(items)} item ids for {first.gallery} gallery rows")


def _ranked(keys: NDArray[np.float64], items: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rank of each row, from 1; equal keys by item id."""
    ranks = np.empty(len(keys), np.int64)
    ranks[np.lexsort((items, keys))] = np.arange(1, len(keys) + 1)
    return ranks


def _shares(keys: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys mapped linearly to [0, 1], the lowest to 1; all 0 where all are equal."""
    if len(keys) == 0 or keys.max() == keys.min():
        return np.zeros(len(keys))
    if np.abs(keys).max() > 1e307:
        keys = (
            keys / 4
        )  # or the range may be too large for a number; exact, so nothing else changes
    greatest = keys.max()
    shares: NDArray[np.float64] = (greatest - keys) / (greatest - keys.min())
    return shares


def _standardised(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mapped linearly to mean 0 and deviation 1; all 0 where all are 0.

    Shares instead of keys: those of keys that are all equal are 0 without rounding.
    """
    if not shares.any():
        return shares
    # Summed in ascending order, the result does not depend on the order of the gallery.
    ordered = np.sort(shares)
    standardised: NDArray[np.float64] = (shares - ordered.mean()) / ordered.std()
    return standardised
