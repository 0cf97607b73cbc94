"""How much effort an index needs: held-out queries under filters, compared with exact answers.

Filters are independent of the vectors, or let whole neighbourhoods in and leave others out, those
of some queries among them: there graphs and cells find least.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metric import Metric
from .exact import Block, candidates
from .index import Effort, Tuned, search_faiss
from .oracle import score_pairs

SHARES = (1.0, 0.8, 0.5, 0.3, 0.1, 0.05, 0.01)
"""Of the rows, allowed by the filters that efforts are tuned for."""

MATCHES = (10, 20, 100)
"""The k that efforts are tuned for."""

RECALLS = (0.9, 0.95, 0.99)
"""Wanted recalls that efforts are tuned for, beside the one asked for."""

_MARGIN = 1 / 3
"""Of what may be missed, what the held-out vectors must not miss: real filters can be harder than
those that efforts are tuned for. Without it, some that go along with identity reached 0.935 where
0.95 was wanted."""

_QUERIES = 128
_BATCH = 32
_ALONE = 8
"""Queries that are timed one at a time."""

_WINDOW, _WINDOWS = 2**22, 4
"""Numbers that the exact scan is timed on, and how often: 64 MiB in all, more than the caches that
matter, in pieces of half a millisecond, some of which are compared undisturbed on a busy machine.
"""

_SCANS = 20
"""Times that it is timed: the shortest counts, since what else the machine does only lengthens
them."""

_SCORED = 128
"""Candidates whose exact scoring is timed together, as many as knn.py scores at a time."""

_PIECE = 16384
"""Rows compared at a time: 32 MiB at 512 dimensions."""

_CELLS = 512
"""Neighbourhoods that correlated filters let in or leave out, at most."""

_AGREEMENTS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_TRUSTED = 0.7
"""Of the answers under independent filters: where fewer are trusted, an effort is of no use."""

_JUDGED = 10
"""Trusted answers of a group of queries from which on their recall says something."""


@dataclass(frozen=True)
class Rows:
    """Vectors that lie in several blocks, (n, D) float32 or float16 each, counted through."""

    blocks: Sequence[NDArray[np.generic]]

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Copies of the vectors in those rows, which ascend: float32 (n, D)."""
        parts, first = [], 0
        for block in self.blocks:
            start, stop = np.searchsorted(rows, (first, first + len(block)))
            parts.append(block[rows[start:stop] - first].astype(np.float32))
            first += len(block)
        return np.concatenate(parts)

    def pieces(self, size: int) -> Iterator[NDArray[np.float32]]:
        """All vectors in order, float32, at most `size` at a time."""
        for block in self.blocks:
            for start in range(0, len(block), size):
                yield np.ascontiguousarray(block[start : start + size], np.float32)


@dataclass(frozen=True)
class _Trial:
    """Some queries under one filter.

    allowed: bool (N,), None for all rows. groups: which queries are judged together, bool (S,)
    each; the first is the one by which an effort's use is judged, if the filter is independent.
    """

    allowed: NDArray[np.bool_] | None
    independent: bool
    groups: tuple[NDArray[np.bool_], ...]


@dataclass(frozen=True)
class _Searched:
    """What the searches of one trial found.

    ranks: for each effort int64 (S, w): the place of each candidate among all that any effort or
    the exact comparison found, by exact key; _NOWHERE where none. The exact answer comes first.
    permitted: rows allowed. batch: for each effort seconds per query in a batch.
    """

    trial: _Trial
    ranks: list[NDArray[np.int64]]
    permitted: int
    batch: list[float]


_NOWHERE = 2**40


def tune(
    opened: Any,
    rows: Rows,
    *,
    metric: Metric,
    efforts: Sequence[int],
    queues: bool,
    fetch: int,
    recalls: Sequence[float],
    progress: Callable[[int], object],
) -> tuple[tuple[Tuned, ...], float]:
    """The table of efforts of a Faiss index over these rows, and `IndexFacts.batch_scan`.

    efforts: to be tried, ascending. queues: whether an effort is a queue, which cannot return more
    candidates than it is long. fetch: see Effort. progress is told of as many rows in
    all as there are.
    """
    rng = np.random.default_rng(0)
    queries = _held_out(rows, rng, metric=metric)
    near = _cells(rows, queries, rng)
    shortest = _shortest(rows) if metric is Metric.INNER_PRODUCT else None
    stopwatch = _Stopwatch(rows, queries, metric=metric)
    table: list[Tuned] = []
    for done, share in enumerate(SHARES):
        stopwatch.wind()
        searched = [
            _search(
                opened,
                rows,
                queries,
                trial,
                efforts=efforts,
                queues=queues,
                fetch=fetch,
                metric=metric,
            )
            for trial in _trials(share, len(rows), len(queries), near, shortest, rng)
        ]
        for k in MATCHES:
            alone = stopwatch.alone(
                opened, queries, searched[0].trial.allowed, efforts=efforts, want=fetch * k
            )
            # A batch need not cost more than its queries one by one: what was slower was disturbed.
            batch = [
                min(single, stopwatch.in_rows(seconds))
                for single, seconds in zip(alone, searched[0].batch, strict=True)
            ]
            costs = alone, batch, stopwatch.scoring(fetch * k)
            judged = [
                effort
                for value, probe in _pairs(efforts, least=fetch * k if queues else 1)
                for effort in _judged(
                    searched, value, probe, efforts=efforts, k=k, fetch=fetch, costs=costs
                )
            ]
            exact = share * len(rows)
            for wanted in sorted({*RECALLS, *recalls}):
                surely = wanted + _MARGIN * (1 - wanted)
                good = [effort for effort in judged if effort.recall >= surely]
                best = min(
                    good, key=lambda e: e.rows_single + (1 - e.accepted) * exact, default=None
                )
                if best is not None:
                    table.append(Tuned(share=share, k=k, wanted=wanted, effort=best))
        progress(len(rows) * (done + 1) // len(SHARES) - len(rows) * done // len(SHARES))
    return tuple(table), stopwatch.batch_scan


def _held_out(rows: Rows, rng: np.random.Generator, *, metric: Metric) -> NDArray[np.float32]:
    """Queries that are no rows: each a sampled row, moved by the difference of another one and its
    nearest neighbour ÷ √2, which spreads as two pictures of one person do."""
    sample = np.sort(rng.choice(len(rows), min(_QUERIES, len(rows) // 4), replace=False))
    here = rows.take(sample)
    found = exact_best(rows, here, 2, metric=Metric.EUCLIDEAN, allowed=None)
    others = np.where(found[:, 0] == sample, found[:, 1], found[:, 0])
    order = np.argsort(others, kind="stable")
    there = np.empty_like(here)
    there[order] = rows.take(others[order])
    moved = here + np.roll(here - there, 1, axis=0) * np.float32(0.5**0.5)
    if metric is Metric.COSINE:
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    return np.asarray(moved, np.float32)


def exact_best(
    rows: Rows,
    queries: NDArray[np.float32],
    k: int,
    *,
    metric: Metric,
    allowed: NDArray[np.bool_] | None,
) -> NDArray[np.int64]:
    """The min(k, allowed) best rows of each query by its float32 key, best first: int64 (S, w)."""
    places = np.arange(len(rows)) if allowed is None else np.flatnonzero(allowed)
    best = np.empty((len(queries), 0), np.int64)
    keys = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(places), _PIECE):
        piece = places[start : start + _PIECE]
        vectors = rows.take(piece)
        keys = np.concatenate([keys, _keys(queries, vectors, metric=metric)], axis=1)
        best = np.concatenate([best, np.broadcast_to(piece, (len(queries), len(piece)))], axis=1)
        if keys.shape[1] > k:
            chosen = np.argpartition(-keys, k - 1, axis=1)[:, :k]
            keys = np.take_along_axis(keys, chosen, axis=1)
            best = np.take_along_axis(best, chosen, axis=1)
    return np.take_along_axis(best, np.argsort(-keys, axis=1, kind="stable"), axis=1)


def _keys(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], *, metric: Metric
) -> NDArray[np.float32]:
    """q·x, or q·x − ‖x‖² ÷ 2 for Euclidean: (Q, n), higher is better."""
    keys: NDArray[np.float32] = queries @ vectors.T
    if metric is Metric.EUCLIDEAN:
        keys -= np.einsum("nd,nd->n", vectors, vectors) / 2
    return keys


def _cells(
    rows: Rows, queries: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of some sampled rows is nearest to each row and to each query: (N,), (S,)."""
    count = max(16, min(_CELLS, len(rows) // 200))
    seeds = rows.take(np.sort(rng.choice(len(rows), count, replace=False)))
    parts = [
        _keys(piece, seeds, metric=Metric.EUCLIDEAN).argmax(axis=1) for piece in rows.pieces(_PIECE)
    ]
    return np.concatenate(parts), _keys(queries, seeds, metric=Metric.EUCLIDEAN).argmax(axis=1)


def _trials(
    share: float,
    rows: int,
    queries: int,
    near: tuple[NDArray[np.int64], NDArray[np.int64]],
    shortest: NDArray[np.int64] | None,
    rng: np.random.Generator,
) -> list[_Trial]:
    """Filters that let in so many rows. shortest: all rows, the shortest vectors first: by inner
    product they are the last to be found, and a filter may well go along with length."""
    everyone = np.ones(queries, np.bool_)
    if share == 1.0:
        return [_Trial(None, True, (everyone,))]
    wanted = max(1, round(share * rows))
    chance = np.zeros(rows, np.bool_)
    chance[rng.choice(rows, wanted, replace=False)] = True
    together, inside = _neighbourhoods(wanted, near, rng)
    trials = [
        _Trial(chance, True, (everyone,)),
        _Trial(together, False, (inside, ~inside)),
    ]
    if shortest is not None:
        short = np.zeros(rows, np.bool_)
        short[shortest[:wanted]] = True
        trials.append(_Trial(short, False, (everyone,)))
    return trials


def _shortest(rows: Rows) -> NDArray[np.int64]:
    lengths = [np.einsum("nd,nd->n", piece, piece) for piece in rows.pieces(_PIECE)]
    return np.argsort(np.concatenate(lengths), kind="stable")


def _neighbourhoods(
    wanted: int,
    near: tuple[NDArray[np.int64], NDArray[np.int64]],
    rng: np.random.Generator,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """A mask of so many rows, whole neighbourhoods but the last, and which queries are in one of
    them: half of the queries' if there is room, before any others."""
    of_rows, of_queries = near
    theirs = rng.permutation(np.unique(of_queries))
    half = (len(theirs) + 1) // 2
    others = rng.permutation(np.setdiff1d(of_rows, of_queries))
    order = np.concatenate([theirs[:half], others, theirs[half:]])
    turn = np.full(max(of_rows.max(), of_queries.max()) + 1, len(order))
    turn[order] = np.arange(len(order))
    turns = turn[of_rows]
    chosen = np.argsort(turns, kind="stable")[:wanted]
    mask = np.zeros(len(of_rows), np.bool_)
    mask[chosen] = True
    return mask, turn[of_queries] < turns[chosen[-1]]


def _search(
    opened: Any,
    rows: Rows,
    queries: NDArray[np.float32],
    trial: _Trial,
    *,
    efforts: Sequence[int],
    queues: bool,
    fetch: int,
    metric: Metric,
) -> _Searched:
    found, seconds = [], []
    for effort in efforts:
        want = min(fetch * max(MATCHES), len(rows), effort if queues else len(rows))
        parts, times = [], []
        for start in range(0, len(queries), _BATCH):
            batch = queries[start : start + _BATCH]
            begin = time.perf_counter()
            parts.append(search_faiss(opened, batch, want, effort=effort, allowed=trial.allowed))
            times.append((time.perf_counter() - begin) / len(batch))
        found.append(np.concatenate(parts))
        seconds.append(min(times))
    truth = exact_best(rows, queries, max(MATCHES), metric=metric, allowed=trial.allowed)
    ranks = [np.full(each.shape, _NOWHERE) for each in found]
    for row, query in enumerate(queries):
        known = np.unique(np.concatenate([truth[row], *(each[row] for each in found)]))
        known = known[known >= 0]
        keys = _keys(query[None], rows.take(known), metric=metric)[0]
        # What the exact comparison found comes first, whatever the rounding of another product.
        last = ~np.isin(known, truth[row], assume_unique=True)
        rank = np.empty(len(known), np.int64)
        rank[np.lexsort((-keys, last))] = np.arange(len(known))
        for each, places in zip(found, ranks, strict=True):
            there = each[row] >= 0
            places[row, there] = rank[np.searchsorted(known, each[row, there])]
    permitted = len(rows) if trial.allowed is None else int(np.count_nonzero(trial.allowed))
    return _Searched(trial, ranks, permitted, seconds)


def _pairs(efforts: Sequence[int], *, least: int) -> Iterator[tuple[int, int]]:
    """Places of efforts and of their probes: a quarter as large, but at least `least`."""
    for value, effort in enumerate(efforts):
        smaller = [probe for probe in range(value) if efforts[probe] >= max(least, effort // 4)]
        if smaller:
            yield value, smaller[0]


def _judged(
    searched: Sequence[_Searched],
    value: int,
    probe: int,
    *,
    efforts: Sequence[int],
    k: int,
    fetch: int,
    costs: tuple[list[float], list[float], float],
) -> Iterator[Effort]:
    """An effort with each agreement that could be asked for, where enough answers are trusted.

    costs: in rows: of one search alone and of one in a batch, for each effort, and of scoring the
    candidates. Its recall is the worst of any group of queries of which enough answers are trusted.
    """
    compared = [_compare(each, value, probe, k=k, fetch=fetch) for each in searched]
    for agreement in _AGREEMENTS:
        recalls, trusted, useful = [], [], True
        for each, (recall, agree) in zip(searched, compared, strict=True):
            accepted = agree >= agreement
            trusted.append(accepted.mean())
            useful &= not each.trial.independent or accepted.mean() >= _TRUSTED
            judged = [accepted & group for group in each.trial.groups]
            recalls += [recall[few].mean() for few in judged if few.sum() >= _JUDGED]
        if useful and recalls:
            alone, batch, scoring = costs
            yield Effort(
                value=efforts[value],
                probe=efforts[probe],
                fetch=fetch,
                agreement=agreement,
                rows_single=alone[value] + alone[probe] + scoring,
                rows_batch=batch[value] + batch[probe] + scoring,
                recall=float(min(recalls)),
                accepted=float(np.mean(trusted)),
            )


def _compare(
    searched: _Searched, value: int, probe: int, *, k: int, fetch: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each query the recall of its k best, and the share of them that the probe found, −1
    where the answer is short: (S,) each."""
    full, part = (np.sort(searched.ranks[place][:, : fetch * k])[:, :k] for place in (value, probe))
    possible = min(k, searched.permitted)
    recall = (full < possible).sum(axis=1) / possible
    both = np.sort(np.concatenate([full, part], axis=1), axis=1)
    same = (both[:, 1:] == both[:, :-1]) & (both[:, 1:] < _NOWHERE)
    agree = same.sum(axis=1) / possible
    agree[(full < _NOWHERE).sum(axis=1) < possible] = -1
    return recall, agree


class _Stopwatch:
    """Times searches, and beside them the exact scan that the planner would take instead, in whose
    rows their cost is told."""

    def __init__(self, rows: Rows, queries: NDArray[np.float32], *, metric: Metric) -> None:
        dim = queries.shape[1]
        count = max(1, _WINDOW // dim)
        # The first rows, again and again where there are fewer.
        first = rows.take(np.arange(min(_WINDOWS * count, len(rows))))
        longest = float(np.linalg.norm(first, axis=1).max())
        windows = np.resize(first, (_WINDOWS, count, dim))
        self._blocks = [Block(window, longest) for window in windows]
        self._query = queries[:1]
        self._metric = metric
        self._row = self._compare(self._query, scan=True, times=_SCANS)
        several = queries[:_BATCH]
        together = self._compare(several, scan=False, times=_SCANS // 2) / len(several)
        self.batch_scan = min(1.0, together / self._row)
        rng = np.random.default_rng(0)
        some = [np.sort(rng.integers(len(rows), size=_SCORED)) for _ in range(_SCANS)]
        self._pair = min(self._score(rows, places) for places in some)

    def wind(self) -> None:
        """Time the exact scan again: it may have been disturbed so far."""
        again = self._compare(self._query, scan=True, times=_SCANS // 4)
        self._row = min(self._row, again)

    def _compare(self, queries: NDArray[np.float32], *, scan: bool, times: int) -> float:
        """Seconds that comparing one row with all queries takes, as exact answers have it done."""
        taken = []
        want = min(MATCHES)
        for block in self._blocks * times:
            begin = time.perf_counter()
            candidates([block], queries, want, metric=self._metric, scan=scan)
            taken.append((time.perf_counter() - begin) / len(block.vectors))
        return min(taken)

    def _score(self, rows: Rows, places: NDArray[np.int64]) -> float:
        """Seconds that scoring one of these candidates exactly takes."""
        begin = time.perf_counter()
        score_pairs(self._query, rows.take(places), metric=self._metric)
        return (time.perf_counter() - begin) / len(places)

    def in_rows(self, seconds: float) -> float:
        """Rows that the exact scan compares in that time."""
        return seconds / self._row

    def scoring(self, count: int) -> float:
        """The cost of scoring so many candidates exactly, in rows."""
        return self.in_rows(count * self._pair)

    def alone(
        self,
        opened: Any,
        queries: NDArray[np.float32],
        allowed: NDArray[np.bool_] | None,
        *,
        efforts: Sequence[int],
        want: int,
    ) -> list[float]:
        """The cost of one query's search for each effort, in rows."""
        costs = []
        for effort in efforts:
            times = []
            for query in queries[:_ALONE]:
                begin = time.perf_counter()
                search_faiss(opened, query[None], want, effort=effort, allowed=allowed)
                times.append(time.perf_counter() - begin)
            costs.append(self.in_rows(float(np.quantile(times, 0.25))))
        return costs
