"""One query, from a vector to a ranked answer: where → allowed rows → k-NN → matches."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from .errors import DimensionMismatch, NotFiniteError, UsageError
from .items import STANDARD
from .knn import Block, Neighbours, nearest
from .metric import Metric
from .oracle import best_first, score
from .result import Match, Result
from .where import compile_where


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What is searched: one generation of a gallery, as `answer` needs it.

    blocks: all vectors, N rows. items: the N items. roots: per block, the folder that `source` is
    relative to.
    """

    blocks: Sequence[Block]
    items: pa.Table
    roots: Sequence[str]
    metric: Metric
    dim: int
    generation: int


@dataclass(frozen=True, kw_only=True)
class RerankedRows:
    """One query's rows by re-ranked distance, nearest first, equal ones by item id; those
    distances; how they were found, and whether exactly."""

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
        ones, the rest of which may take part in a graph. None: all rows."""


def answer(
    searched: Searched,
    query: ArrayLike,
    *,
    k: int,
    where: str | None,
    not_camera: Sequence[int],
    threshold: float | None,
    combine: str,
    reranker: Callable[[], Reranker] | None = None,
) -> Result:
    """Answer one query; see `Gallery.search` for the arguments and what is raised. reranker: makes
    the one to rank with, if anything is allowed."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise UsageError(f"k must be a whole number from 1 up, got {k!r}")
    if threshold is not None and not math.isfinite(threshold):
        raise UsageError(f"the threshold must be a finite number, got {threshold!r}")
    vectors = query_vectors(query, dim=searched.dim, metric=searched.metric, combine=combine)
    times: dict[str, float] = {}
    start = time.perf_counter()
    allowed = allowed_rows(searched.items, where=where, not_camera=not_camera)
    times["where"] = time.perf_counter() - start

    start = time.perf_counter()
    distances: list[float | None]
    if reranker is None or (allowed is not None and not allowed.any()):
        found = _search(searched, vectors, k, allowed=allowed)
        kept = len(found.rows)
        if threshold is not None:
            kept = int(np.count_nonzero(_reaches(found.scores, threshold, searched.metric)))
        rows, scores, path, exact = found.rows[:kept], found.scores[:kept], found.path, True
        distances = [None] * kept
    else:
        if len(vectors) > 1:
            raise UsageError("re-ranking takes one vector: combine several with 'mean'")
        passing = _passing(searched, vectors[0], threshold, allowed)
        ranked = reranker()(vectors[0], k, allowed=allowed, passing=passing)
        rows, path, exact = ranked.rows, ranked.path, ranked.exact
        scores = _scores(searched, vectors[0], rows)
        distances = ranked.distances.tolist()
    times["search"] = time.perf_counter() - start

    start = time.perf_counter()
    matches = _matches(searched, rows, scores, distances)
    times["items"] = time.perf_counter() - start
    total = searched.items.num_rows
    return Result(
        matches=matches,
        k=k,
        allowed=total if allowed is None else int(np.count_nonzero(allowed)),
        rows=total,
        threshold=threshold,
        metric=searched.metric,
        generation=searched.generation,
        plan=path,
        exact=exact,
        seconds=times,
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
        for block in searched.blocks:
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
    for block in searched.blocks:
        here = np.flatnonzero((rows >= offset) & (rows < offset + len(block.vectors)))
        for at in range(0, len(here), 8192):
            some = here[at : at + 8192]
            part = block.vectors[rows[some] - offset]
            scores[some] = score(query, part, metric=searched.metric)
        offset += len(block.vectors)
    return scores


def query_vectors(
    query: ArrayLike, *, dim: int, metric: Metric, combine: str
) -> NDArray[np.float32]:
    """The vectors to search with: (1, dim), or (n, dim) when combine is "best" of n.

    Normalised for cosine; "mean" averages the vectors (normalised ones for cosine). Raises
    DimensionMismatch, NotFiniteError, UsageError.
    """
    if combine not in ("mean", "best"):
        raise UsageError(f"combine must be 'mean' or 'best', got {combine!r}")
    try:
        vectors = np.atleast_2d(np.asarray(query, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise UsageError(f"a query is numbers, (D,) or (n, D): {error}") from None
    if vectors.ndim != 2 or len(vectors) == 0:
        raise DimensionMismatch(f"a query is (D,) or (n, D) with n ≥ 1, got {vectors.shape}")
    if vectors.shape[1] != dim:
        raise DimensionMismatch(
            f"the query has {vectors.shape[1]} dimensions, the gallery {dim}: use the extractor "
            "that the gallery was built with"
        )
    if not np.isfinite(vectors).all():
        raise NotFiniteError("the query holds NaN or Inf")
    if np.abs(vectors).max() > np.finfo(np.float32).max:
        raise NotFiniteError("the query holds numbers too large for float32")
    if metric is Metric.COSINE:
        vectors = _unit(vectors)
    if combine == "mean":
        vectors = vectors.mean(axis=0, keepdims=True)
        if metric is Metric.COSINE:
            vectors = _unit(vectors)
    return vectors.astype(np.float32)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not norms.all():
        raise NotFiniteError("the query has length 0, so cosine has no direction to compare")
    unit: NDArray[np.float64] = vectors / norms
    return unit


def allowed_rows(
    items: pa.Table, *, where: str | None, not_camera: Sequence[int]
) -> NDArray[np.bool_] | None:
    """Mask (N,) of the items that a query may return; None when it may return all.

    not_camera drops the items known to be of those cameras; items of unknown camera stay.
    """
    mask: NDArray[np.bool_] | None = None
    if where is not None:
        mask = compile_where(where).mask(items)
    if not_camera:
        numbers = list(not_camera)
        if not all(isinstance(n, int | np.integer) and abs(n) < 2**31 for n in numbers):
            raise UsageError(f"not_camera must hold whole numbers of 32 bits, got {numbers}")
        cameras = pa.array(numbers, items["camera"].type)
        other = ~pc.is_in(items["camera"], value_set=cameras).to_numpy()
        mask = other if mask is None else mask & other
    return mask


def _search(
    searched: Searched,
    vectors: NDArray[np.float32],
    k: int,
    *,
    allowed: NDArray[np.bool_] | None,
) -> Neighbours:
    """The k best rows for one vector, or for the best of several.

    A row among the k best by its best vector is among the k best for that vector, so the union of
    the single answers holds the whole answer.
    """
    if searched.items.num_rows == 0:
        return Neighbours(np.empty(0, np.int64), np.empty(0, np.float32), "the gallery is empty")
    ids = searched.items["item"].to_numpy()
    metric = searched.metric
    found = [
        nearest(searched.blocks, ids, vector, k, metric=metric, allowed=allowed)
        for vector in vectors
    ]
    if len(found) == 1:
        return found[0]
    rows = np.concatenate([one.rows for one in found])
    scores = np.concatenate([one.scores for one in found])
    order = best_first(scores, ids[rows], metric=metric)
    _, first = np.unique(rows[order], return_index=True)
    order = order[np.sort(first)][:k]
    return Neighbours(rows[order], scores[order], f"best of {len(found)}: {found[0].path}")


def _matches(
    searched: Searched,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    reranked: Sequence[float | None],
) -> tuple[Match, ...]:
    ends = np.cumsum([len(block.vectors) for block in searched.blocks])
    blocks = np.searchsorted(ends, rows, side="right")
    records = searched.items.take(pa.array(rows)).to_pylist()
    similar = searched.metric.higher_is_better
    return tuple(
        _match(
            record,
            rank=rank,
            root=searched.roots[block],
            similarity=value if similar else None,
            distance=None if similar else value,
            reranked_distance=after,
        )
        for rank, (record, block, value, after) in enumerate(
            zip(records, blocks.tolist(), scores.tolist(), reranked, strict=True), start=1
        )
    )


def _match(
    record: Mapping[str, Any],
    *,
    rank: int,
    root: str,
    similarity: float | None,
    distance: float | None,
    reranked_distance: float | None,
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
        extra={
            name: value
            for name, value in record.items()
            if value is not None and (name not in STANDARD or name.startswith("frame_"))
        },
    )
