"""Search without a target: the items that an expression describes, the surest first."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import UsageError
from .query import Searched, check_k, matches_of
from .result import Result


def select(
    searched: Searched,
    where: str,
    *,
    k: int,
    not_camera: Sequence[int],
    threshold: float | None,
) -> Result:
    """The items for which an expression holds; see `Gallery.select`."""
    check_k(k)
    if not isinstance(where, str):
        raise UsageError(
            f"a description is text such as attr.hat = 'yes', got {where!r}: say what to look for"
        )
    if threshold is not None and not (math.isfinite(threshold) and 0 <= threshold <= 1):
        raise UsageError(f"the threshold of a confidence is from 0 to 1, got {threshold!r}")
    times: dict[str, float] = {}
    start = time.perf_counter()
    allowed = searched.filters.allowed(where=where, not_camera=not_camera)
    times["where"] = time.perf_counter() - start

    start = time.perf_counter()
    rows = allowed.listed
    sure = searched.filters.confidences(where, searched.items, rows)
    if threshold is not None:
        passing = sure >= np.float32(threshold)
        rows, sure = rows[passing], sure[passing]
    if len(rows) > k:
        # Only what can be among the k is sorted: a million items may be as described.
        reaching = sure >= np.partition(sure, len(sure) - k)[len(sure) - k]
        rows, sure = rows[reaching], sure[reaching]
    order = np.lexsort((searched.rows.items[rows], -sure))[:k]
    rows, sure = rows[order], sure[order]
    times["select"] = time.perf_counter() - start

    start = time.perf_counter()
    matches = tuple(
        replace(match, similarity=None, distance=None, confidence=confidence)
        for match, confidence in zip(matches_of(searched, rows, sure), sure.tolist(), strict=True)
    )
    times["items"] = time.perf_counter() - start
    return Result(
        matches=matches,
        k=k,
        allowed=allowed.count,
        rows=searched.live.count,
        threshold=threshold,
        metric=searched.metric,
        generation=searched.generation,
        plan="by confidence",
        exact=True,
        seconds=times,
    )
