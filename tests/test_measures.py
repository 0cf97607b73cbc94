"""Measures by value: the published check vectors, and lists worked out by hand."""

from typing import Any

import numpy as np
import pytest

from reid_index.errors import UsageError
from reid_index.evaluation.measures import (
    average_precision,
    inverse_negative_penalty,
    measure,
    single_shot_cmc,
)
from reid_index.evaluation.ranks import MISSED, Ranks

RULES: dict[str, Any] = {"ap_rule": "standard", "unanswerable": "skip"}


def ranks_of(*lists: list[int], considered: int = 10) -> Ranks:
    return Ranks(
        offsets=np.cumsum([0, *(len(hits) for hits in lists)]),
        ranks=np.array([hit for hits in lists for hit in hits], np.int64),
        considered=np.full(len(lists), considered),
    )


THREE = ranks_of([1, 3], [], [2], [4, 5, 10])
"""Standard AP 5/6, none, 1/2, (1/4 + 2/5 + 3/10)/3; INP 2/3, none, 1/2, 3/10."""


@pytest.mark.parametrize(
    ("hits", "standard", "trapezoid"),
    [
        ([1, 0, 1], 0.8333, 0.7917),
        ([0, 1], 0.5, 0.25),
        ([1, 1, 0, 1, 0, 0, 1], 0.8304, 0.8110),
        ([1, 1], 1, 1),
        ([0, 0], 0, 0),
    ],
)
def test_average_precision(hits: list[int], standard: float, trapezoid: float) -> None:
    ranks = np.flatnonzero(hits) + 1
    assert average_precision(ranks) == pytest.approx(standard, abs=5e-5)
    assert average_precision(ranks, rule="trapezoid") == pytest.approx(trapezoid, abs=5e-5)


def test_inverse_negative_penalty() -> None:
    assert inverse_negative_penalty([1, 2, 8]) == 3 / 8
    assert inverse_negative_penalty([]) == 0


def test_means_over_the_queries_that_have_a_match() -> None:
    found = measure(THREE, **RULES)
    ap = [5 / 6, 0, 1 / 2, 19 / 60]
    inp = [2 / 3, 0, 1 / 2, 3 / 10]
    assert found.ap == pytest.approx(ap)
    assert found.inp == pytest.approx(inp)
    assert found.answerable == 3
    assert found.mAP == pytest.approx(sum(ap) / 3)
    assert found.mINP == pytest.approx(sum(inp) / 3)
    assert found.cmc == pytest.approx(np.array([1, 2, 2, 3, 3, 3, 3, 3, 3, 3]) / 3)


def test_means_over_all_queries() -> None:
    found = measure(THREE, ap_rule="trapezoid", unanswerable="zero")
    ap = [(1 + 1 + 1 / 2 + 2 / 3) / 4, 0, 1 / 4, (0 + 1 / 4 + 1 / 4 + 2 / 5 + 2 / 9 + 3 / 10) / 6]
    assert found.ap == pytest.approx(ap)
    assert found.mAP == pytest.approx(sum(ap) / 4)
    assert found.mINP == pytest.approx((2 / 3 + 1 / 2 + 3 / 10) / 4)
    assert found.cmc[:4] == pytest.approx([1 / 4, 2 / 4, 2 / 4, 3 / 4])


def test_a_cut_list_keeps_the_divisor() -> None:
    cut = measure(THREE, **RULES, at=4)
    assert cut.ap == pytest.approx([5 / 6, 0, 1 / 2, 1 / 12])
    assert cut.mAP == pytest.approx((5 / 6 + 1 / 2 + 1 / 12) / 3)
    assert cut.cmc == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1])
    assert measure(THREE, **RULES, at=10).mAP == measure(THREE, **RULES).mAP


@pytest.mark.parametrize("rule", ["standard", "trapezoid"])
def test_many_queries_are_measured_as_one_is(rng: np.random.Generator, rule: str) -> None:
    lists = [np.sort(rng.permutation(60)[: rng.integers(0, 9)] + 1).tolist() for _ in range(40)]
    found = measure(ranks_of(*lists, considered=60), ap_rule=rule, unanswerable="skip")
    assert found.ap == pytest.approx([average_precision(hits, rule=rule) for hits in lists])
    assert found.inp == pytest.approx([inverse_negative_penalty(hits) for hits in lists])
    assert len(found.cmc) == 50
    answered = [hits for hits in lists if hits]
    assert found.cmc[49] == np.mean([hits[0] <= 50 for hits in answered])


def test_single_shots_are_averaged() -> None:
    ranks = np.array([[1, 2, 0, 9], [2, 2, 0, 1]])
    half = single_shot_cmc(ranks, unanswerable="skip", length=3)
    assert half == pytest.approx([2 / 6, 5 / 6, 5 / 6])
    assert single_shot_cmc(ranks, unanswerable="zero", length=1) == pytest.approx([2 / 8])


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UsageError, match="no query has a match: none of the 2 queries'"):
        measure(ranks_of([], []), **RULES)
    with pytest.raises(UsageError, match="no query has a match"):
        single_shot_cmc(np.zeros((2, 3), np.int64), unanswerable="zero", length=3)
    with pytest.raises(UsageError, match="no AP rule 'oxford'; there are standard, trapezoid"):
        measure(THREE, ap_rule="oxford", unanswerable="skip")
    with pytest.raises(UsageError, match="skip or zero, got 'none'"):
        measure(THREE, ap_rule="standard", unanswerable="none")
    with pytest.raises(UsageError, match="1 or more, got 0"):
        measure(THREE, **RULES, at=0)


@pytest.mark.parametrize(("rule", "ap"), [("standard", (1 + 2 / 3) / 3), ("trapezoid", 19 / 36)])
def test_a_match_that_a_filter_dropped_is_found_at_no_rank(rule: str, ap: float) -> None:
    found = measure(ranks_of([1, 3, MISSED], [MISSED]), ap_rule=rule, unanswerable="skip")

    assert found.ap.tolist() == pytest.approx([ap, 0])
    assert found.inp.tolist() == [0, 0]
    assert found.cmc.tolist() == [0.5] * 10
    assert found.answerable == 2


def test_lists_that_a_filter_emptied_are_as_long_as_one() -> None:
    found = measure(ranks_of([MISSED], considered=0), ap_rule="standard", unanswerable="skip")

    assert found.cmc.tolist() == [0]
    assert found.mAP == 0
