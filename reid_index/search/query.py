"""One query, from a vector to a ranked answer: where → allowed rows → k-NN → matches."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from ..errors import UsageError
from ..filters.agreement import Agreed, Agreement
from ..filters.allowed import Allowed, Filters
from ..matcher import told
from ..metric import Metric
from ..store.deletions import Live
from ..store.items import STANDARD
from .coattention import Coattending
from .knn import Neighbours, Rows, nearest
from .matching import AskedParts, Matching, check_shortlist, refuse_parts
from .oracle import best_first, score
from .query_vectors import query_batch, query_vectors
from .result import Match, Result

if TYPE_CHECKING:
    from .device_rows import DeviceRows
    from .index import Index


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What is searched: one generation of a gallery, as `answer` needs it.

    rows: all vectors that are stored, N rows. items: the N items. live: which of them are not
    deleted. filters: on them. roots: per block, the folder that `source` is relative to. matching:
    their parts, where they are compared, too; coattending: their frames, likewise.
    """

    rows: Rows
    items: pa.Table
    live: Live
    filters: Filters
    roots: Sequence[str]
    dim: int
    generation: int
    matching: Matching | None = None
    coattending: Coattending | None = None

    @property
    def metric(self) -> Metric:
        """How the vectors are compared."""
        return self.rows.metric


@dataclass(frozen=True, kw_only=True)
class RerankedRows:
    """One query's rows by re-ranked distance, nearest first, equal ones by item id; those
    distances; how they were found, and whether exactly. Rows that are not deleted, counted so."""

    rows: NDArray[np.int64]
    distances: NDArray[np.float64]
    path: str
    exact: bool


class Reranker(Protocol):
    """Re-ranks the allowed rows for one query vector."""

    def __call__(
        self,
        query: NDArray[np.float32],
        k: int,
        *,
        allowed: NDArray[np.bool_] | None,
        passing: NDArray[np.bool_] | None,
    ) -> RerankedRows:
        """The k best of the passing rows, or fewer where fewer pass. Those are among the allowed
        ones, the rest of which may take part in a graph. None: all rows. Masks over the rows that
        are not deleted."""


@dataclass(frozen=True, kw_only=True)
class How:
    """How to search: for which share of the right rows (None: exactly, all of them), with which
    index, and with what puts the rows on a GPU, if anything; shortlist: how many of the nearest
    have their parts compared, where there are parts (None: all that are allowed)."""

    recall: float | None = None
    index: "Index | None" = None
    device: "Callable[[], DeviceRows] | None" = None
    shortlist: int | None = None

    @property
    def is_plain(self) -> bool:
        """Whether every row is to be compared, and on the processor."""
        return self.recall is None and self.device is None


def answer(
    searched: Searched,
    query: ArrayLike,
    *,
    k: int,
    where: str | None,
    not_camera: Sequence[int],
    threshold: float | None,
    combine: str,
    parts: ArrayLike | None,
    visible: ArrayLike | None,
    how: How,
    agreement: Agreement | None = None,
    reranker: Callable[[], Reranker] | None = None,
) -> Result:
    """Answer one query; see `Gallery.search` for the arguments and what is raised. reranker: makes
    the one to rank with, if anything is allowed."""
    _check(k, threshold)
    check_shortlist(how.shortlist)
    if reranker is not None and not how.is_plain:
        raise UsageError("re-ranking is exact and on the processor: leave recall and device out")
    vectors = query_vectors(query, dim=searched.dim, metric=searched.metric, combine=combine)
    pictures = np.atleast_2d(np.asarray(query)).shape[0]
    asked = _asked(searched, parts, visible, queries=pictures)
    if asked is not None and reranker is not None:
        raise UsageError(
            "re-ranking goes by vectors alone, and this gallery compares parts, too: leave it out"
        )
    times: dict[str, float] = {}
    start = time.perf_counter()
    allowed = searched.filters.allowed(where=where, not_camera=not_camera, agreement=agreement)
    times["where"] = time.perf_counter() - start

    start = time.perf_counter()
    if asked is not None:
        found = _shortlisted(searched, vectors, k, allowed=allowed, how=how)
        times["search"] = time.perf_counter() - start
        return _matched(
            searched,
            found,
            vectors,
            asked,
            k=k,
            threshold=threshold,
            times=times,
            agreed=allowed.agreed,
        )
    if reranker is None or allowed.count == 0:
        found = _best(searched, vectors, k, allowed=allowed, how=how)
        times["search"] = time.perf_counter() - start
        return _result(
            searched, found, k=k, threshold=threshold, times=times, agreed=allowed.agreed
        )
    if len(vectors) > 1:
        raise UsageError("re-ranking takes one vector: combine several with 'mean'")
    passing = _passing(searched, vectors[0], threshold, allowed.mask)
    live = searched.live
    ranked = reranker()(
        vectors[0], k, allowed=live.among(allowed.mask), passing=live.among(passing)
    )
    rows = live.stored_of(ranked.rows)
    found = Neighbours(
        rows=rows,
        scores=_scores(searched, vectors[0], rows),
        allowed=allowed.count,
        path=ranked.path,
        exact=ranked.exact,
    )
    times["search"] = time.perf_counter() - start
    return _result(
        searched,
        found,
        k=k,
        threshold=threshold,
        times=times,
        agreed=allowed.agreed,
        reranked=ranked.distances.tolist(),
    )


def answers(
    searched: Searched,
    queries: ArrayLike,
    *,
    k: int,
    where: str | Sequence[str | None] | None,
    not_camera: Sequence[int],
    threshold: float | None,
    parts: ArrayLike | None,
    visible: ArrayLike | None,
    how: How,
    agreement: Agreement | Sequence[Agreement | None] | None = None,
) -> list[Result]:
    """Answer several queries; see `Gallery.search_many`."""
    _check(k, threshold)
    check_shortlist(how.shortlist)
    vectors = query_batch(queries, dim=searched.dim, metric=searched.metric)
    asked = _asked(searched, parts, visible, queries=len(vectors))
    if asked is not None and how.shortlist is None:
        raise UsageError("to compare all that is allowed is for single queries: see search")
    want = k if asked is None else max(k, how.shortlist or 0)
    found = neighbours(
        searched,
        vectors,
        k=want,
        where=where,
        not_camera=not_camera,
        agreement=agreement,
        how=how,
    )
    if asked is None:
        return [
            _result(
                searched,
                one.neighbours,
                k=k,
                threshold=threshold,
                times=dict(one.seconds),
                agreed=one.agreed,
            )
            for one in found
        ]
    return [
        _matched(
            searched,
            one.neighbours,
            vector[None],
            asked.of(place),
            k=k,
            threshold=threshold,
            times=dict(one.seconds),
            agreed=one.agreed,
        )
        for place, (one, vector) in enumerate(zip(found, vectors, strict=True))
    ]


def _asked(
    searched: Searched, parts: ArrayLike | None, visible: ArrayLike | None, *, queries: int
) -> AskedParts | None:
    """The parts of so many pictures, None where none are compared. Raises UsageError where there
    are none and should be, or the other way round, and what `Matching.asked` raises."""
    if searched.coattending is not None:
        raise UsageError(
            f"this gallery compares segments of videos by {told(searched.coattending.matcher)}: "
            "ask by Gallery.search_videos, or for the nearest by vectors alone (Gallery.nearest)"
        )
    if searched.matching is None:
        refuse_parts(parts, visible)
        return None
    return searched.matching.asked(parts, visible, queries=queries)


def _shortlisted(
    searched: Searched, vectors: NDArray[np.float32], k: int, *, allowed: Allowed, how: How
) -> Neighbours:
    """The allowed rows whose parts are to be compared."""
    if how.shortlist is not None:
        return _best(searched, vectors, max(k, how.shortlist), allowed=allowed, how=how)
    if not how.is_plain:
        raise UsageError(
            "to compare the parts of all that is allowed, no index or GPU is asked: leave recall "
            "and device out, or give a shortlist"
        )
    rows = allowed.listed
    scores = np.stack([_scores(searched, vector, rows) for vector in vectors]).max(axis=0)
    order = best_first(scores, searched.rows.items[rows], metric=searched.metric)
    return Neighbours(
        rows=rows[order],
        scores=scores[order],
        allowed=allowed.count,
        path="all",
        exact=True,
    )


def _matched(
    searched: Searched,
    found: Neighbours,
    vectors: NDArray[np.float32],
    asked: AskedParts,
    *,
    k: int,
    threshold: float | None,
    times: dict[str, float],
    agreed: Agreed | None,
) -> Result:
    """The k best of the rows found, by matched distance; the threshold applies to their scores."""
    start = time.perf_counter()
    matching = searched.matching
    assert matching is not None
    rows, scores = found.rows, found.scores
    if threshold is not None:
        passing = _reaches(scores, threshold, searched.metric)
        rows, scores = rows[passing], scores[passing]
    each = scores[None]
    if len(vectors) > 1:
        each = np.stack([_scores(searched, vector, rows) for vector in vectors])
    distances = matching.distances(asked, each, rows)
    order = np.lexsort((searched.rows.items[rows], distances))[:k]
    # What lies beyond the shortlist is no more alike by its vector than the last row in it, so a
    # threshold that leaves that one out leaves out all of it.
    is_whole = len(found.rows) == found.allowed or len(rows) < len(found.rows)
    path = f"{found.path}, {matching.matcher.name} over {len(rows):,} of {found.allowed:,} allowed"
    best = replace(
        found,
        rows=rows[order],
        scores=scores[order],
        path=path,
        exact=found.exact and is_whole,
    )
    times["match"] = time.perf_counter() - start
    return _result(
        searched,
        best,
        k=k,
        threshold=threshold,
        times=times,
        agreed=agreed,
        matched=distances[order].tolist(),
    )


@dataclass(frozen=True, kw_only=True)
class Found:
    """The stored neighbours of a query, the seconds of each stage for all that share its filter,
    and what the attributes of its target dropped, where they were asked."""

    neighbours: Neighbours
    seconds: Mapping[str, float]
    agreed: Agreed | None


def neighbours(
    searched: Searched,
    vectors: NDArray[np.float32],
    *,
    k: int,
    where: str | Sequence[str | None] | None,
    not_camera: Sequence[int],
    how: How,
    agreement: Agreement | Sequence[Agreement | None] | None = None,
) -> list[Found]:
    """What is found for each vector (Q, D).

    Equal filters are evaluated and searched together, whether equal in words or in what they allow.
    """
    wheres = _for_each(where, len(vectors), "where is one filter", "filters", str)
    agreements = _for_each(
        agreement, len(vectors), "agreement is one Agreement", "agreements", Agreement
    )
    found: dict[int, Found] = {}
    for group in _groups(searched, list(zip(wheres, agreements, strict=True)), not_camera):
        start = time.perf_counter()
        places = list(group.queries)
        some = _nearest(searched, vectors[places], k, allowed=group.allowed, how=how)
        taken = {"where": group.seconds, "search": time.perf_counter() - start}
        for place, one in zip(places, some, strict=True):
            found[place] = Found(neighbours=one, seconds=taken, agreed=group.queries[place])
    return [found[place] for place in range(len(vectors))]


def _for_each(given: Any, queries: int, one: str, several: str, kind: type) -> list[Any]:
    """One for each query, of what is given for each or for all."""
    if given is None or isinstance(given, kind):
        return [given] * queries
    if not isinstance(given, Sequence):
        raise UsageError(f"{one}, or one for each query, got {given!r}")
    if len(given) != queries:
        raise UsageError(f"{queries} queries but {len(given)} {several}: one for each, please")
    return list(given)


_FILTERS_AT_ONCE = 64

_Filter = tuple[str | None, Agreement | None]


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Queries that share what they are allowed, each with what its target's attributes dropped; and
    the seconds it took to find that out."""

    queries: dict[int, Agreed | None]
    allowed: Allowed
    seconds: float


def _groups(
    searched: Searched, filters: Sequence[_Filter], not_camera: Sequence[int]
) -> Iterator[_Group]:
    """The queries by what they are allowed; some filters at a time, whose rows fit into memory."""
    by_filter: dict[_Filter, list[int]] = {}
    for place, (text, agreement) in enumerate(filters):
        if text is not None and not isinstance(text, str):
            raise UsageError(f"a filter is text such as 'camera = 3', got {text!r}")
        by_filter.setdefault((text, agreement), []).append(place)
    asked = list(by_filter)
    for first in range(0, len(asked), _FILTERS_AT_ONCE):
        groups: dict[tuple[int, int, _Filter | None], _Group] = {}
        for one in asked[first : first + _FILTERS_AT_ONCE]:
            start = time.perf_counter()
            allowed = searched.filters.allowed(
                where=one[0], not_camera=not_camera, agreement=one[1]
            )
            same: tuple[int, int, _Filter | None] = (allowed.count, allowed.key, None)
            if same in groups and not groups[same].allowed.equals(allowed):
                same = (allowed.count, allowed.key, one)  # two masks of one key
            group = groups.setdefault(same, _Group(queries={}, allowed=allowed, seconds=0.0))
            groups[same] = replace(
                group,
                queries=group.queries | dict.fromkeys(by_filter[one], allowed.agreed),
                seconds=group.seconds + time.perf_counter() - start,
            )
        yield from groups.values()


def check_k(k: int) -> None:
    """Raise UsageError unless k is a whole number from 1 up."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise UsageError(f"k must be a whole number from 1 up, got {k!r}")


def _check(k: int, threshold: float | None) -> None:
    check_k(k)
    if threshold is not None and not math.isfinite(threshold):
        raise UsageError(f"the threshold must be a finite number, got {threshold!r}")


def _result(
    searched: Searched,
    found: Neighbours,
    *,
    k: int,
    threshold: float | None,
    times: dict[str, float],
    agreed: Agreed | None,
    reranked: Sequence[float] | None = None,
    matched: Sequence[float] | None = None,
) -> Result:
    """The matches of the rows found, cut at the threshold unless re-ranked or matched: then it was
    applied before."""
    start = time.perf_counter()
    kept = len(found.rows)
    if threshold is not None and reranked is None and matched is None:
        kept = int(np.count_nonzero(_reaches(found.scores, threshold, searched.metric)))
    matches = matches_of(searched, found.rows[:kept], found.scores[:kept], reranked, matched)
    times["items"] = time.perf_counter() - start
    return Result(
        matches=matches,
        k=k,
        allowed=found.allowed,
        rows=searched.live.count,
        threshold=threshold,
        metric=searched.metric,
        generation=searched.generation,
        plan=found.path,
        exact=found.exact,
        seconds=times,
        expected=found.expected,
        fallback=found.fallback,
        agreed=agreed,
    )


def _reaches(scores: NDArray[np.float32], threshold: float, metric: Metric) -> NDArray[np.bool_]:
    limit = np.float64(threshold)
    return scores >= limit if metric.higher_is_better else scores <= limit


def _passing(
    searched: Searched,
    query: NDArray[np.float32],
    threshold: float | None,
    allowed: NDArray[np.bool_] | None,
) -> NDArray[np.bool_] | None:
    """The allowed rows whose original score reaches the threshold: a re-ranked distance is not
    comparable between queries, so no threshold applies to it."""
    if threshold is None:
        return allowed
    passing = np.ones(searched.items.num_rows, np.bool_) if allowed is None else allowed.copy()
    doubtful = passing.copy()
    if searched.metric is not Metric.EUCLIDEAN:
        offset = 0
        for block in searched.rows.blocks:
            here = slice(offset, offset + len(block.vectors))
            if block.vectors.dtype == np.float32:
                near = cast("NDArray[np.float32]", block.vectors) @ query
                # What a float32 sum may be off by; see knn.py.
                error = (len(query) + 8) * 2.0**-24 * block.max_norm * np.linalg.norm(query) + 1e-30
                passing[here] &= near >= threshold
                doubtful[here] &= np.abs(near - threshold) <= error + 2.0**-23 * abs(threshold)
            offset = here.stop
    rows = np.flatnonzero(doubtful)
    passing[rows] = _reaches(_scores(searched, query, rows), threshold, searched.metric)
    return passing


def _scores(
    searched: Searched, query: NDArray[np.float32], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The scores of those rows, in that order."""
    scores = np.empty(len(rows), np.float32)
    offset = 0
    for block in searched.rows.blocks:
        here = np.flatnonzero((rows >= offset) & (rows < offset + len(block.vectors)))
        for at in range(0, len(here), 8192):
            some = here[at : at + 8192]
            part = block.vectors[rows[some] - offset]
            scores[some] = score(query, part, metric=searched.metric)
        offset += len(block.vectors)
    return scores


def _nearest(
    searched: Searched, vectors: NDArray[np.float32], k: int, *, allowed: Allowed, how: How
) -> list[Neighbours]:
    return nearest(
        searched.rows,
        vectors,
        k,
        allowed=allowed,
        recall=how.recall,
        index=how.index,
        device=how.device,
    )


def _best(
    searched: Searched,
    vectors: NDArray[np.float32],
    k: int,
    *,
    allowed: Allowed,
    how: How,
) -> Neighbours:
    """The k best rows for one vector, or for the best of several.

    A row among the k best by its best vector is among the k best for that vector, so the union of
    the single answers holds the whole answer.
    """
    found = _nearest(searched, vectors, k, allowed=allowed, how=how)
    if len(found) == 1:
        return found[0]
    ids = searched.rows.items
    rows = np.concatenate([one.rows for one in found])
    scores = np.concatenate([one.scores for one in found])
    order = best_first(scores, ids[rows], metric=searched.metric)
    _, first = np.unique(rows[order], return_index=True)
    order = order[np.sort(first)][:k]
    return replace(
        found[0],
        rows=rows[order],
        scores=scores[order],
        path=f"best of {len(found)}: {found[0].path}",
        exact=all(one.exact for one in found),
    )


def matches_of(
    searched: Searched,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    reranked: Sequence[float | None] | None = None,
    matched: Sequence[float | None] | None = None,
) -> tuple[Match, ...]:
    """What is known of some stored rows, ranked from 1 in that order. scores: similarities, or
    distances in a Euclidean gallery."""
    nothing: list[float | None] = [None] * len(rows)
    ends = np.cumsum([len(block.vectors) for block in searched.rows.blocks])
    blocks = np.searchsorted(ends, rows, side="right")
    records = _taken(searched.items, rows).to_pylist()
    similar = searched.metric.higher_is_better
    return tuple(
        _match(
            record,
            rank=rank,
            root=searched.roots[block],
            similarity=value if similar else None,
            distance=None if similar else value,
            reranked_distance=after,
            matched_distance=by_parts,
        )
        for rank, (record, block, value, after, by_parts) in enumerate(
            zip(
                records,
                blocks.tolist(),
                scores.tolist(),
                reranked or nothing,
                matched or nothing,
                strict=True,
            ),
            start=1,
        )
    )


_FEW, _MANY = 100, 100_000
"""Rows, of so many, that are faster to slice one by one: Arrow's take joins the chunks of a table,
of which a million items have some twenty, and needs 13 ms for 20 rows where slices need 1."""


def _taken(items: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    if not (0 < len(rows) <= _FEW and items.num_rows > _MANY):
        return items.take(pa.array(rows))
    return pa.concat_tables([items.slice(row, 1) for row in rows.tolist()])


def _match(
    record: Mapping[str, Any],
    *,
    rank: int,
    root: str,
    similarity: float | None,
    distance: float | None,
    reranked_distance: float | None,
    matched_distance: float | None,
) -> Match:
    box = record["box"]
    return Match(
        rank=rank,
        item=record["item"],
        source=record["source"] or "",
        root=root,
        camera=record["camera"],
        person=record["person"],
        track=record["track"],
        video=record["video"],
        start=record["start"],
        end=record["end"],
        start_s=record["start_s"],
        end_s=record["end_s"],
        box=None if box is None else (box[0], box[1], box[2], box[3]),
        similarity=similarity,
        distance=distance,
        reranked_distance=reranked_distance,
        matched_distance=matched_distance,
        extra={
            name: value
            for name, value in record.items()
            if value is not None and (name not in STANDARD or name.startswith("frame_"))
        },
    )
