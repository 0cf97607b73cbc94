"""Nearest neighbours under a mask: plan, candidates, exact scores, checks.

Candidates are found in single precision or by an approximate index and then scored again as
`oracle.score` defines. An exact answer fetches more of them until rounding cannot have hidden a
better row: it is the oracle's, ties included, whatever path it took. An approximate answer is
checked by a probe and given again, exactly, where the probe distrusts it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceFailed
from ..filters.allowed import Allowed
from ..metric import Metric
from ..threads import over_ranges
from .costs import Costs, present_costs
from .exact import Block, Candidates, candidates, key_bound, norms_of
from .oracle import best_first, score_pairs
from .plan import Experience, Plan, Task, choose

if TYPE_CHECKING:
    from .device_rows import DeviceRows
    from .index import Index

_SLACK = 8
"""Candidates fetched beyond k at first: enough that a second look is rare, cheap to score."""

_FEW = 96
"""Pairs of a query and a row that are scored exactly faster than candidates are found."""

_CANDIDATES = 2**22
"""Candidates of all queries together that are held at once: 48 MiB."""

_TOGETHER = 2**16
"""Pairs of a query and a row whose exact scores are held at once."""

_SCORED = 128
"""Pairs that are scored exactly at a time: half a megabyte at 512 dimensions."""


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """One query's answer.

    rows: int64, counted over all blocks, best first; scores: float32; fewer than k where fewer are
    allowed. allowed: how many were. path: how they were found, in words; exact: whether it is
    surely what comparing with every allowed row gives. expected: path → the seconds it would take.
    fallback: why the processor answered though a GPU was asked, in words; None where it was not.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    allowed: int
    path: str
    exact: bool
    expected: Mapping[str, float] = field(default_factory=dict)
    fallback: str | None = None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a search compares with.

    blocks: N rows in all, D numbers each. items: int64 (N,), the ids that break ties, smaller
    first. experience: with the approximate index of these rows.
    """

    blocks: Sequence[Block]
    items: NDArray[np.int64]
    metric: Metric
    experience: Experience = field(default_factory=Experience)

    @cached_property
    def count(self) -> int:
        """N."""
        return sum(len(block.vectors) for block in self.blocks)

    @cached_property
    def largest(self) -> float:
        """≥ the norm of every row."""
        return max((block.max_norm for block in self.blocks), default=0.0)

    @cached_property
    def half(self) -> bool:
        """Whether some are float16."""
        return any(block.vectors.dtype == np.float16 for block in self.blocks)


@dataclass(frozen=True)
class _Search:
    """Queries, float32 (Q, D), that share what they may be answered with; k rows for each."""

    rows: Rows
    allowed: Allowed
    queries: NDArray[np.float32]
    k: int

    def of(self, some: Sequence[int]) -> "_Search":
        """Some of the queries."""
        if len(some) == len(self.queries):
            return self
        return replace(self, queries=self.queries[list(some)])


def nearest(
    rows: Rows,
    queries: NDArray[np.float32],
    k: int,
    *,
    allowed: Allowed | None = None,
    recall: float | None = None,
    index: "Index | None" = None,
    only: str | None = None,
    device: "Callable[[], DeviceRows] | None" = None,
    costs: Costs | None = None,
) -> list[Neighbours]:
    """The k best allowed rows for each query.

    queries: float32 (Q, D), finite; of length 1 for cosine. k ≥ 1. allowed: the rows that may be
    returned, None for all. recall: the share of the right rows that suffices, so that the index
    (of the first rows, or of all) may answer; None for an exact answer. only: a path (see
    plan.PATHS) instead of the fastest; raises UsageError where it cannot answer. device: gives the
    rows on a GPU, which then answers, exactly; where it fails, the processor does as if it had not
    been asked, and `fallback` says so. costs: of this machine, if not the present ones.
    """
    allowed = allowed or Allowed(rows.count)
    search = _Search(rows, allowed, queries, k)
    if allowed.count == 0 or len(queries) == 0:
        return [_nothing(rows) for _ in queries]
    if only is None and (allowed.count <= k or allowed.count * len(queries) <= _FEW):
        return _all_compared(search)
    if device is not None:
        try:
            return _on_device(search, device())
        except DeviceFailed as error:
            fallback = f"the GPU did not answer, the processor did: {error}"
        found = nearest(
            rows,
            queries,
            k,
            allowed=allowed,
            recall=recall,
            index=index,
            only=only,
            costs=costs,
        )
        return [replace(one, fallback=fallback) for one in found]
    task = Task(
        allowed=allowed.count,
        rows=rows.count,
        dim=queries.shape[1],
        queries=len(queries),
        k=k,
        half=rows.half,
        indexed=0 if index is None else allowed.before(index.rows),
    )
    costs = costs or present_costs(task.allowed * task.dim)
    refused = None
    if index is not None and recall is not None:
        refused = rows.experience.refused(_kind_of(search, recall))
    plan = choose(task, costs, recall=recall, index=index, refused=refused, only=only)
    if index is None or plan.effort is None:
        return _exactly(search, plan)
    return _approximately(search, index, plan, task, costs, kind=_kind_of(search, recall))


def _kind_of(search: _Search, recall: float | None) -> int:
    """Equal for searches that an index may find equally hard."""
    return hash((search.allowed.key, search.k, recall))


def _nothing(rows: Rows) -> Neighbours:
    return Neighbours(
        rows=np.empty(0, np.int64),
        scores=np.empty(0, np.float32),
        allowed=0,
        path="nothing is allowed" if rows.count else "the gallery is empty",
        exact=True,
    )


def _exactly(search: _Search, plan: Plan, *, note: str = "") -> list[Neighbours]:
    """The exact answers by the plan's path."""
    rows, allowed = search.rows, search.allowed
    dense = plan.path == "dense"

    def find(queries: NDArray[np.float32], want: int) -> Candidates:
        return candidates(
            rows.blocks,
            queries,
            want,
            metric=rows.metric,
            rows=None if dense else allowed.listed,
            mask=allowed.mask if dense else None,
            scan=plan.scan,
        )

    by = "scan" if plan.scan else "products"
    if allowed.count == rows.count:
        path = f"{by} of all {rows.count:,} rows"
    elif dense:
        path = f"{by} of all {rows.count:,} rows, {allowed.count:,} of them allowed"
    else:
        path = f"{by} of {allowed.count:,} allowed rows of {rows.count:,}"
    return _settled(search, find, path=path + note, expected=plan.expected, tight=True)


def _on_device(search: _Search, device: "DeviceRows") -> list[Neighbours]:
    def find(queries: NDArray[np.float32], want: int) -> Candidates:
        return Candidates(*device.candidates(queries, want, rows=search.allowed))

    path = f"{search.allowed.count:,} allowed rows compared on {device.name}"
    return _settled(search, find, path=path, expected={}, tight=False)


def _settled(
    search: _Search,
    find: Callable[[NDArray[np.float32], int], Candidates],
    *,
    path: str,
    expected: Mapping[str, float],
    tight: bool,
) -> list[Neighbours]:
    """The exact answers from candidates, more and more of them while a better row may be hidden.

    find: the best so many allowed rows for each of some queries. tight: their keys are off by no
    more than `key_bound` says.
    """
    rows, allowed, queries = search.rows, search.allowed, search.queries
    answers: dict[int, Neighbours] = {}
    norms = norms_of(queries)
    # No sum that is formed may overflow.
    pending = np.flatnonzero((norms + rows.largest) ** 2 < 1e38).tolist()
    want = search.k + _SLACK
    while pending and want < allowed.count:
        together = max(1, _CANDIDATES // want)
        for first in range(0, len(pending), together):
            some = pending[first : first + together]
            part = search.of(some)
            found = find(part.queries, want)
            best, scores = _rank(part, found.rows)
            bound = found.bound
            if tight and rows.metric is Metric.EUCLIDEAN:
                bound = _bound_of_near(part.queries, norms[some] + scores[:, -1], rows.largest)
            reach = found.keys.min(axis=1) + bound
            settled = _is_settled(scores[:, -1], reach, norms[some], rows.metric)
            for at in np.flatnonzero(settled).tolist():
                answers[some[at]] = _checked(
                    allowed, best[at], scores[at], path=path, expected=expected
                )
        pending = [query for query in pending if query not in answers]
        want *= 4
    rest = [query for query in range(len(queries)) if query not in answers]
    if rest:
        compared = _all_compared(search.of(rest))
        answers |= zip(rest, (replace(one, expected=expected) for one in compared), strict=True)
    return [answers[query] for query in range(len(queries))]


def _bound_of_near(
    queries: NDArray[np.float32], reach: NDArray[np.float64], largest: float
) -> NDArray[np.float64]:
    """The bound of keys in a Euclidean gallery, of all rows that may be among the k nearest: no row
    longer than the query and the k-th distance together is. One far row would spoil it otherwise.
    """
    limits = np.minimum(largest, reach * (1 + 2.0**-20))
    return key_bound(queries, largest=limits, metric=Metric.EUCLIDEAN)


def _is_settled(
    kth: NDArray[np.float32], reach: NDArray[np.float64], norms: NDArray[np.float64], metric: Metric
) -> NDArray[np.bool_]:
    """Whether no row that was left out can reach the k-th score, for queries of those norms.
    reach: the largest key that one may have. The k-th score was rounded, and so would be that of
    the row."""
    score = kth.astype(np.float64)
    settled: NDArray[np.bool_]
    if metric is Metric.EUCLIDEAN:
        settled = (norms**2 - (score * (1 + 2.0**-23)) ** 2) / 2 > reach
    else:
        settled = score - np.abs(score) * 2.0**-23 > reach
    return settled


def _all_compared(search: _Search) -> list[Neighbours]:
    """The answers from the exact scores of all allowed rows."""
    listed = search.allowed.listed
    path = f"every one of {len(listed):,} allowed rows compared"
    together = max(1, _TOGETHER // len(listed))
    answers: list[Neighbours] = []
    for first in range(0, len(search.queries), together):
        part = search.of(range(first, min(first + together, len(search.queries))))
        some = np.broadcast_to(listed, (len(part.queries), len(listed)))
        best, scores = _rank(part, some)
        answers += [
            _checked(search.allowed, best[at], scores[at], path=path, expected={})
            for at in range(len(best))
        ]
    return answers


def _rank(
    search: _Search, some: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k best of some rows (Q, w) for each query by the exact score, and the scores: (Q, k).

    −1 is no row: it comes last, as −1.
    """
    rows, (count, width) = search.rows, some.shape
    queries = search.queries[:, None]
    scores = np.empty(some.shape, np.float32)
    ends = np.cumsum([len(block.vectors) for block in rows.blocks])
    # Tiles of a few queries, or of a part of one's rows.
    tall, wide = max(1, _SCORED // max(width, 1)), min(width, _SCORED)
    tiles = [(top, left) for top in range(0, count, tall) for left in range(0, width, wide or 1)]

    def score(start: int, stop: int) -> None:
        for top, left in tiles[start:stop]:
            here = slice(top, top + tall), slice(left, left + wide)
            vectors = _vectors(rows.blocks, ends, some[here])
            scores[here] = score_pairs(queries[here[0]], vectors, metric=rows.metric)

    over_ranges(score, len(tiles), piece=32)
    if some.size and some.min() < 0:
        scores[some < 0] = -np.inf if rows.metric.higher_is_better else np.inf
    order = best_first(scores, rows.items[some], metric=rows.metric)[:, : search.k]
    places = np.arange(count)[:, None]
    return some[places, order], scores[places, order]


def _vectors(
    blocks: Sequence[Block], ends: NDArray[np.int64], some: NDArray[np.int64]
) -> NDArray[np.generic]:
    """Copies of the vectors in those rows: (…, D)."""
    if len(blocks) == 1:
        return blocks[0].vectors[some]
    places = np.searchsorted(ends, some, side="right")
    vectors = np.empty((*some.shape, blocks[0].vectors.shape[1]), blocks[0].vectors.dtype)
    for place in np.unique(places):
        here = places == place
        block = blocks[place].vectors
        vectors[here] = block[some[here] - (ends[place] - len(block))]
    return vectors


def _checked(
    allowed: Allowed,
    found: NDArray[np.int64],
    scores: NDArray[np.float32],
    *,
    path: str,
    exact: bool = True,
    expected: Mapping[str, float],
) -> Neighbours:
    if allowed.mask is not None and not allowed.mask[found].all():
        raise AssertionError("a row outside the mask was about to be returned; please report this")
    return Neighbours(
        rows=found,
        scores=scores,
        allowed=allowed.count,
        path=path,
        exact=exact,
        expected=expected,
    )


def _approximately(
    search: _Search, index: "Index", plan: Plan, task: Task, costs: Costs, *, kind: int
) -> list[Neighbours]:
    """The answers of the index, and exact ones in place of those that it cannot be trusted with."""
    answers = _from_index(search, index, plan)
    refused = [at for at, answer in enumerate(answers) if answer is None]
    search.rows.experience.note(kind, answered=len(answers), refused=len(refused))
    again: list[Neighbours] = []
    if refused:
        exact = choose(replace(task, queries=len(refused)), costs, recall=None)
        exact = replace(exact, expected=plan.expected)
        again = _exactly(search.of(refused), exact, note=f", the {index.kind} index being in doubt")
    rest = iter(again)
    return [next(rest) if answer is None else answer for answer in answers]


def _from_index(search: _Search, index: "Index", plan: Plan) -> list[Neighbours | None]:
    """What the index answers; None where it came back short or where its probe finds other rows.
    Rows that are not in the index yet are compared exactly."""
    rows, allowed, queries, effort = search.rows, search.allowed, search.queries, plan.effort
    assert effort is not None
    mask = None if allowed.mask is None else allowed.mask[: index.rows]
    there = allowed.before(index.rows)
    want = min(search.k * effort.fetch, there)
    full = index.search(queries, want, effort=effort.value, allowed=mask)
    probe = full
    if effort.probe:
        probe = index.search(queries, want, effort=effort.probe, allowed=mask)
    rest: list[Neighbours] = []
    if there < allowed.count:
        late = replace(search, allowed=allowed.since(index.rows))
        rest = _exactly(late, replace(plan, path="gather", scan=False))
    of = f"{allowed.count:,} allowed of {rows.count:,}"
    path = f"{index.kind} index of {index.rows:,} rows, {of}"
    best, scores = _rank(search, full)
    found = best >= 0
    right = np.count_nonzero(found, axis=1)
    agreed = [
        np.count_nonzero(np.isin(one[one >= 0], tried))
        for one, tried in zip(best, probe, strict=True)
    ]
    trusted = (right >= min(search.k, there)) & (agreed >= effort.agreement * right)
    if rest:
        beside = np.full((len(queries), search.k), -1)
        for at, one in enumerate(rest):
            beside[at, : len(one.rows)] = one.rows
        best, scores = _rank(search, np.concatenate([best, beside], axis=1))
        found = best >= 0
    return [
        _checked(
            allowed,
            best[at, found[at]],
            scores[at, found[at]],
            path=path,
            exact=False,
            expected=plan.expected,
        )
        if trusted[at]
        else None
        for at in range(len(queries))
    ]
