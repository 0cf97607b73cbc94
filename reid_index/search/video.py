"""One query of a video: where → allowed rows, by candidate → similarities of all pairs → scores."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from ..errors import UsageError
from ..filters.agreement import Agreement
from ..filters.allowed import Allowed
from ..metric import Metric
from ..store.tracks import COLUMNS, tracks_of
from .aggregate import ABOVE, Aggregation, Groups, fill_pairs, score_groups, winning_pairs
from .coattention import FramePairs
from .matching import check_shortlist
from .pairs import Pairs, VectorPairs
from .query import Searched, check_k, matches_of
from .query_vectors import query_vectors
from .video_result import Candidate, VideoResult, Winner

SHORTLIST = 1000
"""Segments whose frames are attended to, unless told otherwise."""


class Tracks:
    """The candidates of one generation: the stored rows of each track. roots: by row."""

    def __init__(self, items: pa.Table, roots: pa.DictionaryArray) -> None:
        self._items = items
        self._roots = roots

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """Each stored row's candidate, by number."""
        return tracks_of(self._items.select(COLUMNS), self._roots)

    @cached_property
    def all(self) -> Groups:
        """All of them, with all that is stored."""
        return Groups.of(self.codes)

    def among(self, allowed: Allowed) -> Groups:
        """Those with allowed rows, and these."""
        return self.all if allowed.mask is None else self.all.among(allowed.mask, self.codes)


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is looked for: vectors (n, D), of length 1 for cosine; codes (n, Dv), as the encoder
    makes them, and index (n, Dk), where frames are compared."""

    vectors: NDArray[np.float32]
    codes: NDArray[np.float32]
    index: NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.vectors)


def search_videos(
    searched: Searched,
    tracks: Tracks,
    query: ArrayLike,
    *,
    index: ArrayLike | None,
    k: int,
    where: str | None,
    not_camera: Sequence[int],
    aggregation: Aggregation,
    shortlist: int | None,
    exact: bool,
    winners: int,
    agreement: Agreement | None = None,
) -> VideoResult:
    """Answer one query; see `Gallery.search_videos` for the arguments and what is raised."""
    check_k(k)
    _check_options(searched, shortlist, winners, exact=exact)
    target = _target(searched, query, index)
    times: dict[str, float] = {}
    start = time.perf_counter()
    allowed = searched.filters.allowed(where=where, not_camera=not_camera, agreement=agreement)
    times["where"] = time.perf_counter() - start

    start = time.perf_counter()
    groups = tracks.among(allowed)
    ids = searched.rows.items
    first_items = np.minimum.reduceat(ids[groups.rows], groups.offsets[:-1]) if len(groups) else ids
    times["group"] = time.perf_counter() - start

    start = time.perf_counter()
    scored, plan = np.arange(len(groups)), f"all pairs of {len(target)} × {allowed.count:,} rows"
    pairs, dim = _vector_pairs(searched, target.vectors), searched.dim
    if target.index is not None:
        if not exact and allowed.count > (shortlist or SHORTLIST):
            scored = _shortlisted(
                pairs,
                groups,
                first_items,
                target=target,
                aggregation=aggregation,
                segments=shortlist or SHORTLIST,
                least=k,
            )
            times["shortlist"] = time.perf_counter() - start
            start = time.perf_counter()
        pairs = _frame_pairs(searched, target)
        dim = 16 * searched.dim  # some frames, each with key and value
        covered = int(groups.sizes[scored].sum())
        plan = (
            f"coattention over {covered:,} of {allowed.count:,} allowed segments, "
            f"{len(scored):,} of {len(groups):,} candidates"
        )
    found = score_groups(
        pairs, groups.take(scored), targets=len(target), dim=dim, aggregation=aggregation
    )
    order = np.lexsort((first_items[scored], -found.scores))
    order = order[found.counted[order] > 0][:k]
    times["score"] = time.perf_counter() - start

    start = time.perf_counter()
    best = [
        _Best(
            rank=rank,
            rows=groups.rows_of(int(scored[place])),
            score=float(found.scores[place]),
            counted=int(found.counted[place]),
        )
        for rank, place in enumerate(order, start=1)
    ]
    won = _winners(searched, target, pairs, best, aggregation=aggregation, count=winners)
    candidates = _candidates(searched, best, won, targets=len(target))
    times["items"] = time.perf_counter() - start
    return VideoResult(
        candidates=candidates,
        k=k,
        targets=len(target),
        allowed=allowed.count,
        rows=searched.live.count,
        of=len(groups),
        covered=len(scored),
        metric=searched.metric,
        generation=searched.generation,
        plan=plan,
        exact=len(scored) == len(groups),
        seconds=times,
        agreed=allowed.agreed,
    )


def _check_options(searched: Searched, shortlist: int | None, winners: int, *, exact: bool) -> None:
    check_shortlist(shortlist)
    if isinstance(winners, bool) or not isinstance(winners, int | np.integer) or winners < 0:
        raise UsageError(f"winners must be a whole number from 0 up, got {winners!r}")
    if shortlist is not None and searched.coattending is None:
        raise UsageError(
            "this gallery compares all pairs of vectors, so a shortlist says nothing: leave it out"
        )
    if shortlist is not None and exact:
        raise UsageError("exact compares all that is allowed, no shortlist of it: leave one out")


def _target(searched: Searched, query: ArrayLike, index: ArrayLike | None) -> Target:
    vectors = query_vectors(query, dim=searched.dim, metric=searched.metric, combine="best")
    codes = np.atleast_2d(np.asarray(query)).astype(np.float32)
    if searched.coattending is not None:
        asked = searched.coattending.asked(index, segments=len(vectors))
        return Target(vectors=vectors, codes=codes, index=asked)
    if index is not None:
        raise UsageError(
            "this gallery compares items by their vectors alone, so index vectors say nothing: "
            "leave them out"
        )
    return Target(vectors=vectors, codes=codes, index=None)


def _vector_pairs(searched: Searched, vectors: NDArray[np.float32]) -> Pairs:
    blocks = [block.vectors for block in searched.rows.blocks]
    return VectorPairs(vectors, blocks, metric=searched.metric)


def _frame_pairs(searched: Searched, target: Target) -> Pairs:
    assert searched.coattending is not None
    assert target.index is not None
    coattending = searched.coattending
    return FramePairs(target.codes, target.index, coattending.blocks, matcher=coattending.matcher)


def _shortlisted(
    pairs: Pairs,
    groups: Groups,
    first_items: NDArray[np.int64],
    *,
    target: Target,
    aggregation: Aggregation,
    segments: int,
    least: int,
) -> NDArray[np.int64]:
    """The candidates that are most alike by the cosines of their segments, until these are so many
    segments and at least so many candidates. A threshold of probabilities says nothing of cosines:
    instead of it, the best share of the pairs counts."""
    coarse = Aggregation(top=aggregation.top) if aggregation.how == ABOVE else aggregation
    dim = target.vectors.shape[1]
    found = score_groups(pairs, groups, targets=len(target), dim=dim, aggregation=coarse)
    order = np.lexsort((first_items, -found.scores))
    covered = np.cumsum(groups.sizes[order])
    enough = int(np.searchsorted(covered, segments)) + 1
    return order[: max(enough, least)]


@dataclass(frozen=True, kw_only=True)
class _Best:
    """A candidate that is answered with: its rank, allowed rows, score, and of how many pairs that
    is."""

    rank: int
    rows: NDArray[np.int64]
    score: float
    counted: int


_SPANS = ("start", "end", "start_s", "end_s")


def _candidates(
    searched: Searched,
    best: Sequence[_Best],
    won: Sequence[tuple[Winner, ...]],
    *,
    targets: int,
) -> tuple[Candidate, ...]:
    rows = np.concatenate([np.empty(0, np.int64), *(one.rows for one in best)])
    known = searched.items.select([*COLUMNS, *_SPANS]).take(pa.array(rows))
    candidates, at = [], 0
    for one, winners in zip(best, won, strict=True):
        its = known.slice(at, len(one.rows))
        at += len(one.rows)
        shared = its.slice(0, 1).to_pylist()[0]  # rows of one track, so all have the same
        spans = {
            name: (pc.min if name.startswith("start") else pc.max)(its[name]).as_py()
            for name in _SPANS
        }
        candidates.append(
            Candidate(
                rank=one.rank,
                score=one.score,
                segments=len(one.rows),
                pairs=len(one.rows) * targets,
                counted=one.counted,
                video=shared["video"],
                camera=shared["camera"],
                track=shared["track"],
                person=shared["person"],
                winners=winners,
                **spans,
            )
        )
    return tuple(candidates)


def _winners(
    searched: Searched,
    target: Target,
    pairs: Pairs,
    best: Sequence[_Best],
    *,
    aggregation: Aggregation,
    count: int,
) -> list[tuple[Winner, ...]]:
    """The best pairs of each candidate. Their matches have the scores of their vectors."""
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
    for one in best:
        values = np.empty((len(one.rows), len(target)), np.float32)
        fill_pairs(pairs, one.rows, values, dim=searched.dim)
        ids = searched.rows.items[one.rows]
        won = winning_pairs(values, ids, aggregation, most=count)
        found.append((one.rows[won[:, 0]], won[:, 1], values[won[:, 0], won[:, 1]]))
    if not found:
        return []
    rows, of, similarities = (np.concatenate(some) for some in zip(*found, strict=True))
    scores = similarities
    if target.index is not None:
        room = np.empty((len(rows), len(target)), np.float32)
        _vector_pairs(searched, target.vectors)(rows, room)
        scores = room[np.arange(len(rows)), of]
    if searched.metric is Metric.EUCLIDEAN:
        scores = -scores
    matches = matches_of(searched, rows, scores)
    winners = [
        Winner(target=target_segment, similarity=similarity, match=match)
        for target_segment, similarity, match in zip(
            of.tolist(), similarities.tolist(), matches, strict=True
        )
    ]
    ends = np.cumsum([0, *(len(some) for some, _, _ in found)])
    return [
        tuple(
            replace(winner, match=replace(winner.match, rank=rank))
            for rank, winner in enumerate(winners[start:stop], start=1)
        )
        for start, stop in pairwise(ends.tolist())
    ]
