"""Scores of videos for an evaluation: each query is a track of segments, and so is each of the
gallery; see aggregate.py."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..search.aggregate import Aggregation, Groups, score_groups
from ..search.pairs import Pairs

PairsOf = Callable[[NDArray[np.int64]], Pairs]
"""Makes what compares some rows of the queries, one target's segments, with rows of the gallery."""


class VideoScores:
    """Scores of tracks by tracks: see `Scores`. The key of a pair is −score, rounded to single
    precision; `chunk` and `exact` take it by the same code.

    queries: the rows of each target's segments, in order. gallery: those of each candidate.
    pairs_of: see PairsOf; for vectors `VectorPairs` of those rows, for frames `FramePairs`. dim:
    numbers that a pair is of, which only says how much work it is.
    A candidate for which nothing counts (how="above") has the score 0.
    """

    def __init__(
        self,
        queries: Groups,
        gallery: Groups,
        pairs_of: PairsOf,
        *,
        dim: int,
        aggregation: Aggregation,
    ) -> None:
        self._queries = queries
        self._gallery = gallery
        self._pairs_of = pairs_of
        self._dim = dim
        self._aggregation = aggregation

    @property
    def queries(self) -> int:
        """Q."""
        return len(self._queries)

    @property
    def gallery(self) -> int:
        """G."""
        return len(self._gallery)

    def chunk(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """See `Scores`."""
        keys = np.empty((stop - start, self.gallery), np.float32)
        for query in range(start, stop):
            keys[query - start] = self._keys(query, self._gallery)
        return keys, np.zeros(stop - start)

    def exact(self, queries: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `Scores`."""
        found = np.empty(len(rows), np.float64)
        for query in np.unique(queries).tolist():
            here = np.flatnonzero(queries == query)
            some, places = np.unique(rows[here], return_inverse=True)
            found[here] = self._keys(query, self._gallery.take(some))[places]
        return found

    def _keys(self, query: int, groups: Groups) -> NDArray[np.float32]:
        rows = self._queries.rows_of(query)
        found = score_groups(
            self._pairs_of(rows),
            groups,
            targets=len(rows),
            dim=self._dim,
            aggregation=self._aggregation,
        )
        keys: NDArray[np.float32] = -found.scores.astype(np.float32)
        return keys
