"""Competitive aggregation: of all pairs of a target's segments and a candidate's, those that look
most alike decide.

Chen et al., "Video Person Re-identification with Competitive Snippet-similarity Aggregation and
Co-attentive Snippet Embedding", CVPR 2018; US 2020/0134321 A1. Of a target of n segments and a
candidate of k, the score is the sum of the best max(1, ⌈top · n · k − 10⁻⁹⌉) of the n · k
similarities; or their mean, or the sum of all that reach a threshold. So a few frames in which
somebody is hidden or the picture is blurred do not count.

Similarities are held for some candidates at a time. Those of a candidate are parted around the last
one that counts (quickselect; Hoare, "Algorithm 65: Find", 1961), what counts is put in order and
summed in double precision from the least to the largest: the score is the same in whatever order
the segments come.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..errors import UsageError
from ..threads import over_ranges
from .pairs import Pairs

SUM, MEAN, ABOVE = "sum", "mean", "above"
WAYS = (SUM, MEAN, ABOVE)

_HELD = 2**24
"""Similarities that are held at once, unless one candidate has more: 64 MiB."""

_SCORED = 2**20
"""Products of numbers that a thread takes at a time: some 0.2 ms."""

_PIECES = 64
"""Ranges of candidates at least, so that a large one holds nobody up."""


@dataclass(frozen=True, kw_only=True)
class Aggregation:
    """How the similarities of all pairs become one score.

    how: "sum" or "mean" of the best; "above": the sum of all that reach `above`. top: which share
    of the pairs are the best, more than 0, at most 1; above: the least similarity that counts,
    given where how is "above" and only there. Raises UsageError.
    """

    how: str = SUM
    top: float = 0.2
    above: float | None = None

    def __post_init__(self) -> None:
        if self.how not in WAYS:
            raise UsageError(f"a score is by {', '.join(WAYS)}; there is no {self.how!r}")
        if not _is_number(self.top) or not 0 < self.top <= 1:
            raise UsageError(f"top is a share of the pairs, above 0, at most 1; got {self.top!r}")
        if (self.how == ABOVE) is not (self.above is not None):
            raise UsageError(
                "a score by the similarities above a threshold needs how='above' and the threshold "
                f"(above); got how={self.how!r}, above={self.above!r}"
            )
        if self.above is not None and not (_is_number(self.above) and math.isfinite(self.above)):
            raise UsageError(f"above must be a finite number, got {self.above!r}")

    def counted(self, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of so many pairs, how many are the best; how="above" asks otherwise."""
        best = np.ceil(self.top * pairs - 1e-9).astype(np.int64)
        most: NDArray[np.int64] = np.minimum(np.maximum(best, 1), pairs)
        return most


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.floating | np.integer) and not isinstance(value, bool)


@dataclass(frozen=True)
class Groups:
    """Candidates: the rows of each, one after the other.

    rows: int64 (m,). offsets: int64 (G + 1,); candidate g has rows[offsets[g] : offsets[g + 1]], at
    least one.
    """

    rows: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def of(cls, codes: NDArray[np.int64]) -> "Groups":
        """Of each row's candidate, by number; candidates ascend by it, their rows too."""
        ascends = len(codes) < 2 or bool((codes[1:] >= codes[:-1]).all())
        rows = np.arange(len(codes)) if ascends else np.argsort(codes, kind="stable")
        return cls(rows, _starts(codes[rows]))

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many rows each candidate has: int64 (G,)."""
        return np.diff(self.offsets)

    def rows_of(self, group: int) -> NDArray[np.int64]:
        """Those of one candidate."""
        return self.rows[self.offsets[group] : self.offsets[group + 1]]

    def among(self, allowed: NDArray[np.bool_], codes: NDArray[np.int64]) -> "Groups":
        """What is left of them where only some rows are allowed, bool (N,); candidates without any
        are not. codes: each row's candidate, by number."""
        rows = self.rows[allowed[self.rows]]
        return Groups(rows, _starts(codes[rows]))

    def take(self, some: NDArray[np.int64]) -> "Groups":
        """Some of the candidates, in that order."""
        sizes = self.sizes[some]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[some] - offsets[:-1], sizes)
        return Groups(self.rows[places], offsets)


def _starts(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where another number begins, and the end."""
    changes = np.flatnonzero(codes[1:] != codes[:-1]) + 1
    first = np.zeros(1 if len(codes) else 0, np.int64)
    return np.concatenate([first, changes, [len(codes)]]).astype(np.int64)


@dataclass(frozen=True)
class Aggregated:
    """Of G candidates: float64 (G,) scores, higher is more alike; and int64 (G,) how many pairs
    each is of, which may be 0 where how is "above" (the score is then 0)."""

    scores: NDArray[np.float64]
    counted: NDArray[np.int64]


def score_groups(
    pairs: Pairs, groups: Groups, *, targets: int, dim: int, aggregation: Aggregation
) -> Aggregated:
    """The score of each candidate.

    targets: segments of the target, n ≥ 1. dim: numbers that a pair is of, which only says how much
    work it is.
    """
    scores, counted = np.empty(len(groups), np.float64), np.empty(len(groups), np.int64)
    room = np.empty(0, np.float32)
    for first, last in _stretches(groups, targets):
        rows = groups.rows[groups.offsets[first] : groups.offsets[last]]
        if room.size < len(rows) * targets:
            room = np.empty(len(rows) * targets, np.float32)
        some = room[: len(rows) * targets].reshape(len(rows), targets)
        fill_pairs(pairs, rows, some, dim=dim)
        found = aggregate(
            some, groups.offsets[first : last + 1] - groups.offsets[first], aggregation
        )
        scores[first:last], counted[first:last] = found.scores, found.counted
    return Aggregated(scores, counted)


def fill_pairs(
    pairs: Pairs, rows: NDArray[np.int64], out: NDArray[np.float32], *, dim: int
) -> None:
    """Fill out (m, n) with the similarities of m rows, on all cores."""

    def some(start: int, stop: int) -> None:
        pairs(rows[start:stop], out[start:stop])

    over_ranges(some, len(rows), piece=max(1, _SCORED // max(1, dim * out.shape[1])))


def _stretches(groups: Groups, targets: int) -> Iterator[tuple[int, int]]:
    """Candidates whose similarities are held together, from the first up to the last."""
    first, most = 0, max(1, _HELD // targets)
    while first < len(groups):
        fits = np.searchsorted(groups.offsets, groups.offsets[first] + most, side="right") - 1
        last = max(first + 1, int(fits))
        yield first, last
        first = last


def aggregate(
    similarities: NDArray[np.float32], offsets: NDArray[np.int64], aggregation: Aggregation
) -> Aggregated:
    """The scores of candidates from the similarities of all pairs, which are left in another order.

    similarities: float32 (m, n), in C order, finite: of m segments of all candidates, one candidate
    after the other, with the n of the target. offsets: int64 (G + 1,), ascending from 0 to m:
    candidate g has the segments from offsets[g] up to offsets[g + 1].
    """
    count = len(offsets) - 1
    values = similarities.reshape(-1)
    ends = offsets * similarities.shape[1]
    counted = aggregation.counted(np.diff(ends))
    scores = np.empty(count, np.float64)
    above = aggregation.above

    def some(start: int, stop: int) -> None:
        if above is None:
            _sum_best(values, ends, counted, start, stop, scores)
        else:
            _sum_above(values, ends, np.float64(above), start, stop, scores, counted)

    over_ranges(some, count, piece=max(1, count // _PIECES))
    if aggregation.how == MEAN:
        scores /= counted
    return Aggregated(scores, counted)


def winning_pairs(
    similarities: NDArray[np.float32], items: NDArray[np.int64], aggregation: Aggregation
) -> NDArray[np.int64]:
    """The pairs of one candidate that count, best first: int64 (c, 2), the place of its segment and
    that of the target's.

    similarities: float32 (k, n). items: the ids of its segments (k,), by which equal pairs are
    ordered, then by the target's segment.
    """
    segments, targets = np.indices(similarities.shape).reshape(2, -1)
    values = similarities.reshape(-1)
    order = np.lexsort((targets, items[segments], -values.astype(np.float64)))
    if aggregation.above is None:
        count = int(aggregation.counted(np.array([len(values)]))[0])
    else:
        count = int(np.count_nonzero(values >= np.float64(aggregation.above)))
    best = order[:count]
    return np.stack([segments[best], targets[best]], axis=1).astype(np.int64)


@compiled()
def _sum_best(values, ends, counted, start, stop, scores):  # type: ignore[no-untyped-def]
    for group in range(start, stop):
        first, count = ends[group], counted[group]
        if count < ends[group + 1] - first:
            _part(values, first, ends[group + 1], count)
        scores[group] = _ordered_sum(values[first : first + count])


@compiled()
def _sum_above(values, ends, above, start, stop, scores, counted):  # type: ignore[no-untyped-def]
    for group in range(start, stop):
        first = place = ends[group]
        for at in range(first, ends[group + 1]):
            if values[at] >= above:
                values[at], values[place] = values[place], values[at]
                place += 1
        counted[group] = place - first
        scores[group] = _ordered_sum(values[first:place])


@compiled()
def _ordered_sum(values):  # type: ignore[no-untyped-def]
    """Of numbers, put in order, from the least."""
    if len(values) > 24:
        values.sort()
    else:
        for i in range(1, len(values)):
            one = values[i]
            j = i
            while j > 0 and values[j - 1] > one:
                values[j] = values[j - 1]
                j -= 1
            values[j] = one
    total = 0.0
    for i in range(len(values)):
        total += np.float64(values[i])
    return total


@compiled()
def _part(values, first, end, count):  # type: ignore[no-untyped-def]
    """Bring the `count` largest of values[first:end] to its beginning."""
    low, high, wanted = first, end - 1, first + count - 1
    draw = np.uint64(88172645463325252)
    while low < high:
        # A pivot by chance: no order of the values is a bad one.
        draw ^= draw << np.uint64(13)
        draw ^= draw >> np.uint64(7)
        draw ^= draw << np.uint64(17)
        pivot = values[low + np.int64(draw % np.uint64(high - low + 1))]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if wanted <= j:
            high = j
        elif wanted >= i:
            low = i
        else:
            return
