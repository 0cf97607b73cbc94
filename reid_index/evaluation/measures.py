"""mAP, mINP and CMC from the ranks of the relevant items, by conventions that have names."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UsageError
from .protocol import AP_RULES, UNANSWERABLE
from .ranks import MISSED, Ranks


@dataclass(frozen=True)
class Measures:
    """What `measure` computes; fractions in [0, 1].

    mAP, mINP: means over the queries. cmc: float64 (K,), cmc[k − 1] is the share of queries with a
    match among their first k. answerable: queries that have a match at all.
    ap, inp: float64 (Q,), 0 for the others.
    """

    mAP: float
    mINP: float
    cmc: NDArray[np.float64]
    answerable: int
    ap: NDArray[np.float64]
    inp: NDArray[np.float64]


def average_precision(ranks: ArrayLike, *, rule: str = "standard") -> float:
    """The average precision of one query in [0, 1], from the ranks (H,) of its relevant items,
    counted from 1, ascending; 0 for none.

    "standard": the mean of the precision at each hit. "trapezoid": the area below the
    precision–recall polygon, as compute_ap of the Oxford Buildings benchmark (Philbin et al.,
    CVPR 2007) and the evaluation code of Market-1501 (Zheng et al., ICCV 2015) have it: the mean,
    over hits, of the precision at the hit and just before it, where it is 1 at the head of the
    list. Raises UsageError for another rule.
    """
    hits = np.asarray(ranks, dtype=np.int64)
    if len(hits) == 0:
        return 0.0
    return float(_precisions(hits, np.arange(len(hits)), rule=rule).mean())


def inverse_negative_penalty(ranks: ArrayLike) -> float:
    """The share of relevant items in the list as far as the last of them, in [0, 1]; 0 for none.

    ranks: (H,) from 1, ascending. Ye et al., Deep Learning for Person Re-identification: A Survey
    and Outlook (TPAMI 2022), section 4.1: INP = H / rank of the hardest.
    """
    hits = np.asarray(ranks, dtype=np.int64)
    return len(hits) / int(hits[-1]) if len(hits) else 0.0


def measure(
    ranks: Ranks,
    *,
    ap_rule: str,
    unanswerable: str,
    at: int | None = None,
    first_ranks: int = 50,
) -> Measures:
    """The measures of Q queries.

    ap_rule: see `average_precision`. unanswerable: "skip" divides by the queries that have a
    match, "zero" by all. at: hits beyond that rank do not count, though the average precision is
    still divided by all relevant items: what is then called mAP@k, and at most mAP.
    first_ranks: the length K of the CMC, less when no list is that long or `at` is smaller.
    Raises UsageError when no query has a match, and for an unknown rule or an `at` below 1.
    """
    if at is not None and at < 1:
        raise UsageError(f"a list can be cut at 1 or more, got {at}")
    relevant = ranks.relevant
    answerable = int(np.count_nonzero(relevant))
    if answerable == 0:
        raise UsageError(_no_match(len(relevant)))
    divisor = _divisor(len(relevant), answerable, unanswerable)
    ap = np.zeros(len(relevant))
    inp = np.zeros(len(relevant))
    has = relevant > 0
    query = np.repeat(np.arange(len(relevant)), relevant)
    index = np.arange(len(query)) - ranks.offsets[query]
    precisions = _precisions(ranks.ranks, index, rule=ap_rule)
    last = MISSED - 1 if at is None else at
    precisions[ranks.ranks > last] = 0
    sums = np.bincount(query, weights=precisions, minlength=len(relevant))
    ap[has] = sums[has] / relevant[has]
    hardest = ranks.ranks[ranks.offsets[1:][has] - 1]
    inp[has] = np.where(hardest < MISSED, relevant[has] / hardest, 0)
    longest = max(1, int(ranks.considered.max()))  # a filter may have emptied every list
    length = min(first_ranks, longest, first_ranks if at is None else at)
    first = ranks.ranks[ranks.offsets[:-1][has]]
    return Measures(
        mAP=float(ap.sum() / divisor),
        mINP=float(inp.sum() / divisor),
        cmc=_hits_within(first, length) / divisor,
        answerable=answerable,
        ap=ap,
        inp=inp,
    )


def single_shot_cmc(
    ranks: NDArray[np.int64], *, unanswerable: str, length: int
) -> NDArray[np.float64]:
    """The CMC (length,) averaged over repeats, from `single_shot_ranks` (repeats, Q).

    Raises UsageError when no query has a match.
    """
    repeats, queries = ranks.shape
    answerable = int(np.count_nonzero(ranks[0]))
    if answerable == 0:
        raise UsageError(_no_match(queries))
    divisor = _divisor(queries, answerable, unanswerable)
    mean: NDArray[np.float64] = _hits_within(ranks[ranks > 0], length) / (repeats * divisor)
    return mean


def _no_match(queries: int) -> str:
    return (
        f"no query has a match: none of the {queries} queries' persons is in the gallery in "
        "another camera; check the labels, the cameras and that the sides belong together"
    )


def _divisor(queries: int, answerable: int, unanswerable: str) -> int:
    if unanswerable not in UNANSWERABLE:
        raise UsageError(f"unanswerable must be {' or '.join(UNANSWERABLE)}, got {unanswerable!r}")
    return queries if unanswerable == "zero" else answerable


def _precisions(
    ranks: NDArray[np.int64], index: NDArray[np.int64], *, rule: str
) -> NDArray[np.float64]:
    """What each hit adds to the sum of its query: ranks from 1, index from 0 within the query."""
    precision: NDArray[np.float64] = (index + 1) / ranks
    if rule == "standard":
        return precision
    if rule == "trapezoid":
        before = np.where(ranks > 1, index / np.maximum(ranks - 1, 1), 1.0)
        mean: NDArray[np.float64] = (before + precision) / 2
        return mean
    raise UsageError(f"there is no AP rule {rule!r}; there are {', '.join(AP_RULES)}")


def _hits_within(first: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """How many of the first ranks are ≤ 1 … length."""
    return np.cumsum(np.bincount(first[first <= length], minlength=length + 1)[1:])
