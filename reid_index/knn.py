"""Exact nearest neighbours under a mask, through Faiss. The only file that imports it.

Faiss finds candidates in float32; they are scored again as `oracle.score` defines, and more are
fetched until its rounding cannot have hidden a better one. The answer is therefore the oracle's,
ties included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import MissingExtra
from .metric import Metric
from .oracle import best_first, score

_SLACK = 16
"""Candidates fetched beyond k at first: enough that a second look is rare, cheap to score."""

_CHUNK = 65536
"""Rows of a float16 block that are widened for Faiss at a time: 128 MiB at 512 dimensions."""


@dataclass(frozen=True)
class Block:
    """Rows of a gallery that lie together: one shard.

    vectors: (n, D) float32 or float16, C order, mapped or in memory. max_norm: ≥ every row's norm.
    """

    vectors: NDArray[np.generic]
    max_norm: float


@dataclass(frozen=True)
class Neighbours:
    """One query's answer: rows counted over all blocks, their scores, best first, and the path."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    path: str


def nearest(
    blocks: Sequence[Block],
    items: NDArray[np.int64],
    query: NDArray[np.float32],
    k: int,
    *,
    metric: Metric,
    allowed: NDArray[np.bool_] | None = None,
) -> Neighbours:
    """The k best allowed rows for one query.

    blocks: N rows in all. items: int64 (N,), the ids that break ties, smaller first.
    query: float32 (D,), finite; of length 1 for cosine. k ≥ 1.
    allowed: bool (N,), or None for all rows. Fewer than k come back when fewer are allowed.
    """
    total = sum(len(block.vectors) for block in blocks)
    permitted = total if allowed is None else int(np.count_nonzero(allowed))
    want = k + _SLACK
    while want < permitted and _fits_float32(blocks, query):
        rows, worst = _candidates(blocks, query, want, metric=metric, allowed=allowed)
        answer = _rank(blocks, items, query, rows, k, metric=metric)
        if _is_settled(answer[1][-1], worst, blocks, query, metric=metric):
            return _checked(answer, allowed, _path(permitted, total))
        want *= 4
    rows = np.arange(total) if allowed is None else np.flatnonzero(allowed)
    answer = _rank(blocks, items, query, rows, k, metric=metric)
    return _checked(answer, allowed, f"every one of {permitted:,} allowed rows compared")


def _path(permitted: int, total: int) -> str:
    if permitted == total:
        return f"Faiss scan of all {total:,} rows"
    return f"Faiss scan of {permitted:,} selected rows of {total:,}"


def _rank(
    blocks: Sequence[Block],
    items: NDArray[np.int64],
    query: NDArray[np.float32],
    rows: NDArray[np.int64],
    k: int,
    *,
    metric: Metric,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k best of the candidate rows by the exact score."""
    rows = np.sort(rows)
    scores = np.empty(len(rows), np.float32)
    start = offset = 0
    for block in blocks:
        stop = int(np.searchsorted(rows, offset + len(block.vectors)))
        local = rows[start:stop] - offset
        for at in range(0, len(local), _CHUNK):
            part = block.vectors[local[at : at + _CHUNK]]
            scores[start + at : start + at + len(part)] = score(query, part, metric=metric)
        start, offset = stop, offset + len(block.vectors)
    order = best_first(scores, items[rows], metric=metric)[:k]
    return rows[order].astype(np.int64), scores[order]


def _checked(
    answer: tuple[NDArray[np.int64], NDArray[np.float32]],
    allowed: NDArray[np.bool_] | None,
    path: str,
) -> Neighbours:
    rows, scores = answer
    if allowed is not None and not allowed[rows].all():
        raise AssertionError("a row outside the mask was about to be returned; please report this")
    return Neighbours(rows, scores, path)


def _fits_float32(blocks: Sequence[Block], query: NDArray[np.float32]) -> bool:
    """Whether no sum that Faiss forms can overflow: it drops rows whose score is not finite."""
    norm = float(np.linalg.norm(query.astype(np.float64)))
    largest = max(block.max_norm for block in blocks)
    return (norm + largest) ** 2 < 1e38


def _is_settled(
    kth: np.float32,
    worst: float,
    blocks: Sequence[Block],
    query: NDArray[np.float32],
    *,
    metric: Metric,
) -> bool:
    """Whether no row that Faiss left out can reach the k-th score.

    worst: the last candidate's score as Faiss has it, squared for Euclidean. A float32 sum of D
    products is off by at most D·2⁻²⁴·‖x‖·‖y‖ and a few roundings (Higham, Accuracy and Stability
    of Numerical Algorithms, 2nd ed., eq. 3.5); squared distances by at most four times that.
    Products too small for a normal float32 may be lost altogether, 2⁻¹²⁶ each.
    """
    largest = max(block.max_norm for block in blocks)
    unit = (len(query) + 8) * 2.0**-24
    tiny = len(query) * 2.0**-126
    norm = float(np.linalg.norm(query.astype(np.float64)))
    if metric is Metric.EUCLIDEAN:
        return float(kth) ** 2 < worst - 4 * unit * (norm + largest) ** 2 - tiny
    return float(kth) > worst + unit * norm * largest + tiny


def _candidates(
    blocks: Sequence[Block],
    query: NDArray[np.float32],
    want: int,
    *,
    metric: Metric,
    allowed: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.int64], float]:
    """Faiss's best `want` rows over all blocks, and the worst of their scores."""
    rows: list[NDArray[np.int64]] = []
    scores: list[NDArray[np.float32]] = []
    offset = 0
    for block in blocks:
        mask = None if allowed is None else allowed[offset : offset + len(block.vectors)]
        for found, values in _block_candidates(block, query, want, metric=metric, mask=mask):
            rows.append(found + offset)
            scores.append(values)
        offset += len(block.vectors)
    row, value = np.concatenate(rows), np.concatenate(scores)
    order = np.argsort(-value if metric.higher_is_better else value, kind="stable")[:want]
    return row[order], float(value[order[-1]])


def _block_candidates(
    block: Block,
    query: NDArray[np.float32],
    want: int,
    *,
    metric: Metric,
    mask: NDArray[np.bool_] | None,
) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    local = None if mask is None else np.flatnonzero(mask)
    if block.vectors.dtype == np.float32:
        return [_faiss_search(block.vectors, query, want, metric=metric, local=local)]
    if local is None:
        local = np.arange(len(block.vectors))
    found = []
    for start in range(0, len(local), _CHUNK):
        ids = local[start : start + _CHUNK]
        wide = block.vectors[ids].astype(np.float32)
        rows, scores = _faiss_search(wide, query, want, metric=metric, local=None)
        found.append((ids[rows], scores))
    return found


def _faiss_search(
    vectors: NDArray[Any],
    query: NDArray[np.float32],
    want: int,
    *,
    metric: Metric,
    local: NDArray[np.int64] | None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Faiss's brute force over float32 rows in place: nothing is copied into an index."""
    faiss = import_faiss()
    k = min(want, len(vectors) if local is None else len(local))
    if k == 0:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    # A selector also keeps single queries off a slower multi-threaded path of Faiss 1.15; the one
    # over an id array visits only those rows.
    selector = faiss.IDSelectorAll() if local is None else faiss.IDSelectorArray(local)
    scores = np.empty((1, k), np.float32)
    rows = np.empty((1, k), np.int64)
    x, y = faiss.swig_ptr(np.ascontiguousarray(query)), faiss.swig_ptr(vectors)
    out = (faiss.swig_ptr(scores), faiss.swig_ptr(rows))
    sizes = (vectors.shape[1], 1, len(vectors), k)
    if metric is Metric.EUCLIDEAN:
        faiss.knn_L2sqr(x, y, *sizes, *out, None, selector)
    else:
        faiss.knn_inner_product(x, y, *sizes, *out, selector)
    return rows[0], scores[0]


def approximate_neighbours(
    vectors: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """For every row of vectors (N, D) k + 16 rows that are near it by Euclidean distance, itself
    among them, as an inverted file finds them, and one that is far: int32 (N, k + 16), (N,).

    Of 4·√N cells, fewer in small sets, the 32 nearest are looked into; a row that finds too few
    there gets its list from rows next to it in number, whose exact distances will tell. The far
    one is the farthest of some 4,096 rows at even steps.
    """
    faiss = import_faiss()
    rows, dim = vectors.shape
    cells = max(1, min(int(4 * rows**0.5), rows // 40))  # fewer rows a cell train it badly
    index = faiss.index_factory(dim, f"IVF{cells},Flat")
    step = max(1, rows // (64 * cells))
    index.train(np.ascontiguousarray(vectors[::step]))
    index.nprobe = min(32, cells)
    want = min(k + _SLACK, rows)
    near = np.empty((rows, want), np.int32)
    far = np.empty(rows, np.int32)
    sample = np.arange(0, rows, max(1, rows // 4096))
    some = np.ascontiguousarray(vectors[sample])
    norms = np.einsum("nd,nd->n", some, some)
    for start in range(0, rows, _CHUNK):
        index.add(np.ascontiguousarray(vectors[start : start + _CHUNK]))
    for start in range(0, rows, 4096):
        piece = np.ascontiguousarray(vectors[start : start + 4096])
        _, found = index.search(piece, want)
        near[start : start + len(piece)] = found
        far[start : start + len(piece)] = sample[(norms - 2 * (piece @ some.T)).argmax(axis=1)]
    for row in np.flatnonzero((near < 0).any(axis=1)):
        known = near[row][near[row] >= 0]
        others = np.setdiff1d((row + np.arange(2 * want)) % rows, known)
        near[row] = np.concatenate([known, others])[:want]
    return near, far


def import_faiss() -> Any:
    """The faiss module. Raises MissingExtra with the pip command where there is none."""
    try:
        import faiss
    except ImportError:
        raise MissingExtra(
            "Faiss is not installed: pip install 'reid-index[cpu]', or [gpu] on a CUDA machine"
        ) from None
    return faiss
