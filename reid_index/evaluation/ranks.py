"""The rank of every relevant gallery item in the list of every query, exactly.

Ranks are all that the measures need. Nothing is sorted and no queries × gallery matrix is held: a
chunk of keys in single precision settles nearly everything, and what lies within its rounding of a
relevant item is scored again in double precision. The answer is that of sorting each query's whole
list by (key, item), whatever the chunk, the order of the rows or the matrix product.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..errors import UsageError
from ..threads import over_ranges
from .protocol import NOBODY, UNKNOWN, Labels
from .scores import Scores

_KEYS = 2**25
"""Keys held at a time, at most: 128 MiB."""

_BLOCK = 256
"""Keys of a query that are counted together: they stay in the fastest cache."""

_FEW = 128
"""Up to so many relevant items of a query, comparing with each of them is the fastest."""

_PAIRS = 2**20
"""Pairs that are scored again at a time."""

_LARGEST = np.finfo(np.float32).max

MISSED = 2**53
"""The rank of a relevant item that a filter dropped: it is in no list, and found at no rank."""

Drops = Callable[[int, int], NDArray[np.bool_]]
"""Which gallery items a filter drops for the queries start … stop: bool (stop − start, G), the
caller's to write to."""


@dataclass(frozen=True)
class Ranks:
    """Where the relevant items of Q queries stand in their lists.

    offsets: int64 (Q + 1,); the ranks of query q are ranks[offsets[q] : offsets[q + 1]].
    ranks: int64, from 1, in the list that is left after removals, ascending within a query; MISSED
    for an item that is dropped. considered: int64 (Q,), the length of that list.
    """

    offsets: NDArray[np.int64]
    ranks: NDArray[np.int64]
    considered: NDArray[np.int64]

    @property
    def relevant(self) -> NDArray[np.int64]:
        """How many relevant items each query has, int64 (Q,)."""
        return np.diff(self.offsets)


def ranks_of_relevant(
    scores: Scores,
    query: Labels,
    gallery: Labels,
    *,
    same_camera: bool,
    same_item: bool,
    drops: Drops | None = None,
    chunk: int = 2048,
) -> Ranks:
    """The rank of every gallery item of the query's person, among all that are considered.

    same_camera: items of the query's person and camera are not considered. same_item: nor is the
    item of the query's person and id, which is the query itself. drops: nor are those that a
    filter drops; but where they are of the query's person, they stay relevant, as MISSED. Every
    other item counts as closer when its (key, item) is smaller. chunk: the most queries at a time;
    fewer in a large gallery.

    Raises UsageError where the labels are not those of the scores, and what the scores raise.
    """
    _check_sizes(scores, query, gallery)
    step = _even_step(scores.queries, max(1, min(chunk, _KEYS // max(1, scores.gallery))))
    same = _SamePerson.of(query, gallery, same_camera=same_camera, same_item=same_item)
    parts = [
        _ranks_of(scores, same, start, min(start + step, scores.queries), drops)
        for start in range(0, scores.queries, step)
    ]
    counts = np.concatenate([part.relevant for part in parts])
    return Ranks(
        offsets=_offsets(counts),
        ranks=np.concatenate([part.ranks for part in parts]),
        considered=np.concatenate([part.considered for part in parts]),
    )


def _check_sizes(scores: Scores, query: Labels, gallery: Labels) -> None:
    if (scores.queries, scores.gallery) != (len(query), len(gallery)) or len(query) == 0:
        raise UsageError(
            f"there are scores for {scores.queries} queries × {scores.gallery} gallery items, but "
            f"labels for {len(query)} × {len(gallery)}: one label for each, and at least one query"
        )


def _even_step(count: int, most: int) -> int:
    """The size of the fewest pieces that are all about as long: a short last product is slow."""
    return -(-count // -(-count // most))


def _offsets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


@dataclass(frozen=True)
class _SamePerson:
    """Finds, for a query, the gallery rows of its person: by_person[first : last]."""

    query: Labels
    gallery: Labels
    by_person: NDArray[np.intp]
    first: NDArray[np.intp]
    last: NDArray[np.intp]
    same_camera: bool
    same_item: bool

    @classmethod
    def of(
        cls, query: Labels, gallery: Labels, *, same_camera: bool, same_item: bool
    ) -> "_SamePerson":
        by_person = np.argsort(gallery.person, kind="stable")
        people = gallery.person[by_person]
        first = np.searchsorted(people, query.person, side="left")
        last = np.searchsorted(people, query.person, side="right")
        last = np.where(query.person == NOBODY, first, last)
        return cls(query, gallery, by_person, first, last, same_camera, same_item)

    def pairs(
        self, start: int, stop: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Queries start … stop, ascending, with the gallery rows of their person, and whether the
        row is removed for that query; (n,) each."""
        counts = self.last[start:stop] - self.first[start:stop]
        queries = np.repeat(np.arange(start, stop), counts)
        place = np.arange(len(queries)) - np.repeat(_offsets(counts)[:-1], counts)
        rows = self.by_person[self.first[queries] + place]
        removed = np.zeros(len(rows), np.bool_)
        if self.same_camera:
            camera = self.query.camera[queries]
            removed |= (camera == self.gallery.camera[rows]) & (camera != UNKNOWN)
        if self.same_item:
            removed |= self.query.item[queries] == self.gallery.item[rows]
        return queries, rows, removed


def _ranks_of(
    scores: Scores, same: _SamePerson, start: int, stop: int, drops: Drops | None
) -> Ranks:
    """The ranks of the queries start … stop."""
    queries, rows, removed = same.pairs(start, stop)
    keys, bounds = scores.chunk(start, stop)
    keys[queries - start, rows] = np.inf  # neither removed nor relevant items are counted below
    removing, removed_rows = queries[removed], rows[removed]
    away = np.bincount(removing - start, minlength=stop - start)
    queries, rows = queries[~removed], rows[~removed]
    missed = np.empty(0, np.int64)
    if drops is not None:
        dropped = drops(start, stop)
        keys[dropped] = np.inf
        dropped[removing - start, removed_rows] = True
        away = np.count_nonzero(dropped, axis=1)
        gone = dropped[queries - start, rows]
        missed = queries[gone] - start
        queries, rows = queries[~gone], rows[~gone]
    key, item = scores.exact(queries, rows), same.gallery.item[rows]
    order = np.lexsort((item, key, queries))
    of, key, item = queries[order] - start, key[order], item[order]
    counts = np.bincount(of, minlength=stop - start)
    relevant = _Relevant.of(_offsets(counts), key, item, bounds[of])
    closer = np.zeros(len(key), np.int64)
    unsure, unsure_rows = relevant.count_surely_closer(keys, closer)
    for at in range(0, len(unsure), _PAIRS):
        some, some_rows = unsure[at : at + _PAIRS], unsure_rows[at : at + _PAIRS]
        if bounds.any():
            exact = scores.exact(some + start, some_rows)
        else:
            exact = keys[some, some_rows].astype(np.float64)
        items = same.gallery.item[some_rows]
        relevant.count_closer_of(keys[some, some_rows], some, exact, items, closer)
    before = np.arange(len(key)) - np.repeat(relevant.offsets[:-1], counts)
    ranks = np.concatenate([1 + before + closer, np.full(len(missed), MISSED)])
    if len(missed):
        of = np.concatenate([of, missed])
        ranks = ranks[np.lexsort((ranks, of))]
        counts = np.bincount(of, minlength=stop - start)
    return Ranks(_offsets(counts), ranks, scores.gallery - away)


@dataclass(frozen=True)
class _Relevant:
    """The relevant items of a chunk of queries, sorted by (key, item) within a query.

    Those of query q are offsets[q] … offsets[q + 1]. key, item: (H,). low, high: float32 (H,); an
    approximate key below low is surely of a closer item, one above high surely of a farther one.
    """

    offsets: NDArray[np.int64]
    key: NDArray[np.float64]
    item: NDArray[np.int64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        offsets: NDArray[np.int64],
        key: NDArray[np.float64],
        item: NDArray[np.int64],
        bound: NDArray[np.float64],
    ) -> "_Relevant":
        # One step outwards more than makes up for the rounding to single precision.
        with np.errstate(over="ignore"):
            low = np.nextafter(_single(key - bound), -_LARGEST)
            high = np.nextafter(_single(key + bound), _LARGEST)
        return cls(offsets, key, item, low, high)

    def count_surely_closer(
        self, keys: NDArray[np.float32], closer: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Add to closer (H,) the keys below each low; give the (queries, rows) of the keys
        between a low and its high, both (n,)."""

        def count(start: int, stop: int) -> NDArray[np.int64]:
            unsure: NDArray[np.int64] = _count(
                keys, start, stop, self.offsets, self.low, self.high, closer
            )
            return unsure

        found = np.concatenate(over_ranges(count, len(keys), piece=64))
        return np.divmod(found, keys.shape[1])

    def count_closer_of(
        self,
        approximate: NDArray[np.float32],
        queries: NDArray[np.int64],
        exact: NDArray[np.float64],
        items: NDArray[np.int64],
        closer: NDArray[np.int64],
    ) -> None:
        """Add to closer (H,) the given unsure pairs that are closer by their exact key and item."""
        _count_exactly(
            approximate, queries, exact, items,
            self.offsets, self.low, self.high, self.key, self.item, closer,
        )  # fmt: skip


def _single(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return values.clip(-_LARGEST, _LARGEST).astype(np.float32)


@compiled()
def _count(keys, start, stop, offsets, low, high, closer):  # type: ignore[no-untyped-def]
    """Count, for the queries start … stop, the keys below each low. Returns the places, counted
    through the whole of keys, of those that lie in a window from low to high."""
    columns = keys.shape[1]
    near = np.zeros(_BLOCK, np.uint8)
    places, used = np.empty(16 * _BLOCK, np.int64), 0
    for q in range(start, stop):
        first, last = offsets[q], offsets[q + 1]
        if first == last:
            continue
        lows, highs, counts = low[first:last], high[first:last], closer[first:last]
        before = np.zeros(last - first + 1, np.int64)
        for at in range(0, columns, _BLOCK):
            block = keys[q, at : at + _BLOCK]
            if last - first <= _FEW:
                found = _compare_with_each(block, lows, highs, counts, near)
            else:
                found = _find_place_of_each(block, lows, highs, before, near)
            if found:
                if used + _BLOCK > len(places):
                    longer = np.empty(2 * len(places), np.int64)
                    longer[:used] = places[:used]
                    places = longer
                used = _take_near(near[: len(block)], q * columns + at, places, used)
        total = 0
        for h in range(last - first):
            total += before[h]
            counts[h] += total
    return places[:used]


@compiled()
def _compare_with_each(block, lows, highs, counts, near):  # type: ignore[no-untyped-def]
    """Add to counts the keys below each low; mark those in a window; was there one?"""
    found = False
    for h in range(len(lows) - 1, -1, -1):
        below, inside = np.int32(0), np.int32(0)
        for j in range(len(block)):
            below = np.int32(below + np.int32(block[j] < lows[h]))
            inside = np.int32(inside + np.int32(block[j] <= highs[h]))
        if inside == 0:
            break  # nor is one below the lower windows
        counts[h] += below
        if inside > below:
            found = True
            for j in range(len(block)):
                near[j] |= np.uint8((block[j] >= lows[h]) & (block[j] <= highs[h]))
    return found


@compiled()
def _find_place_of_each(block, lows, highs, before, near):  # type: ignore[no-untyped-def]
    """Count in before[h] the keys not below lows[h − 1] but below lows[h]; mark those in a window;
    was there one?"""
    found = False
    for j in range(len(block)):
        if block[j] <= highs[-1]:
            h = np.searchsorted(lows, block[j], side="right")
            before[h] += 1
            if h > 0 and block[j] <= highs[h - 1]:
                near[j] = 1
                found = True
    return found


@compiled()
def _take_near(near, at, places, used):  # type: ignore[no-untyped-def]
    """Append at + j for every mark j, and clear the marks."""
    for j in range(len(near)):
        if near[j]:
            near[j] = 0
            places[used] = at + j
            used += 1
    return used


@compiled()
def _count_exactly(  # type: ignore[no-untyped-def]
    approximate, queries, exact, items, offsets, low, high, key, item, closer
):
    for i in range(len(queries)):
        first, last = offsets[queries[i]], offsets[queries[i] + 1]
        # Both ends of the windows ascend, so those around a key are consecutive.
        h = first + np.searchsorted(high[first:last], approximate[i])
        while h < last and low[h] <= approximate[i]:
            if exact[i] < key[h] or (exact[i] == key[h] and items[i] < item[h]):
                closer[h] += 1
            h += 1


def single_shot_ranks(
    scores: Scores,
    query: Labels,
    gallery: Labels,
    *,
    same_camera: bool,
    same_item: bool,
    repeats: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """The rank of the match when the gallery has one item of each person: int64 (repeats, Q),
    0 for a query without a match.

    After removals as in `ranks_of_relevant`, each repeat draws for each query one item of every
    person, all equally likely; every distractor stays. Made for small galleries: each query's list
    is sorted. Raises what `ranks_of_relevant` raises.
    """
    _check_sizes(scores, query, gallery)
    same = _SamePerson.of(query, gallery, same_camera=same_camera, same_item=same_item)
    single = np.where(gallery.person == NOBODY, -1 - np.arange(len(gallery)), gallery.person)
    ranks = np.zeros((repeats, len(query)), np.int64)
    for q in range(len(query)):
        _, rows, removed = same.pairs(q, q + 1)
        if removed.all():
            continue
        kept = np.setdiff1d(np.arange(len(gallery)), rows[removed])
        key = scores.exact(np.full(len(kept), q), kept)
        people = single[kept[np.lexsort((gallery.item[kept], key))]]
        for repeat in range(repeats):
            shuffled = rng.permutation(len(people))
            names, first = np.unique(people[shuffled], return_index=True)
            drawn = shuffled[first]
            match = drawn[names == query.person[q]]
            ranks[repeat, q] = 1 + np.count_nonzero(drawn < match)
    return ranks
