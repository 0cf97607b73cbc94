"""The best pairs of each candidate: what sorting all of them gives, in whatever order they come."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reid_index.errors import UsageError
from reid_index.search import aggregate as module
from reid_index.search.aggregate import (
    Aggregation,
    Groups,
    aggregate,
    score_groups,
    winning_pairs,
)


def brute_force(
    similarities: NDArray[np.float32], codes: NDArray[np.int64], aggregation: Aggregation
) -> dict[int, tuple[float, int]]:
    """Candidate → score and how many pairs it is of; all pairs sorted."""
    found = {}
    for code in sorted(set(codes.tolist())):
        pairs = sorted(similarities[codes == code].reshape(-1).astype(float).tolist())[::-1]
        if aggregation.above is None:
            best = pairs[: max(1, math.ceil(aggregation.top * len(pairs) - 1e-9))]
        else:
            best = [one for one in pairs if one >= aggregation.above]
        score = math.fsum(best)
        found[code] = (score / len(best) if aggregation.how == "mean" else score, len(best))
    return found


def grouped(
    similarities: NDArray[np.float32], codes: NDArray[np.int64], aggregation: Aggregation
) -> list[tuple[float, int]]:
    def pairs(rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        out[:] = similarities[rows]

    found = score_groups(
        pairs,
        Groups.of(codes),
        targets=similarities.shape[1],
        dim=8,
        aggregation=aggregation,
    )
    return list(zip(found.scores.tolist(), found.counted.tolist(), strict=True))


WAYS = [
    Aggregation(),
    Aggregation(how="mean", top=0.35),
    Aggregation(top=1.0),
    Aggregation(top=1e-9),
    Aggregation(how="above", above=0.25),
]


@st.composite
def drawn(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
    """Similarities (m, n), of candidates of very unequal sizes, many of them equal; and a seed."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    sizes = draw(st.lists(st.sampled_from([1, 1, 2, 3, 7, 40, 400]), min_size=1, max_size=12))
    targets = draw(st.integers(1, 9))
    numbers = rng.choice(10 * len(sizes), len(sizes), replace=False)
    codes = rng.permutation(np.repeat(numbers, sizes))
    values = rng.uniform(-1, 1, (len(codes), targets))
    if draw(st.booleans()):
        values = np.round(values * draw(st.sampled_from([1, 3, 50]))) / 50
    return values.astype(np.float32), codes, seed


@settings(max_examples=150, deadline=None)
@given(drawn(), st.sampled_from(WAYS), st.sampled_from([2**24, 64]))
def test_it_is_what_sorting_all_pairs_gives(
    case: tuple[NDArray[np.float32], NDArray[np.int64], int], aggregation: Aggregation, held: int
) -> None:
    similarities, codes, seed = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_HELD", held)  # a few candidates at a time
        found = grouped(similarities, codes, aggregation)
        expected = list(brute_force(similarities, codes, aggregation).values())
        assert [count for _, count in found] == [count for _, count in expected]
        np.testing.assert_allclose(
            [score for score, _ in found], [score for score, _ in expected], rtol=0, atol=1e-6
        )
        order = np.random.default_rng(seed).permutation(len(codes))
        targets = np.random.default_rng(seed).permutation(similarities.shape[1])
        again = grouped(
            np.ascontiguousarray(similarities[order][:, targets]), codes[order], aggregation
        )
    assert again == found  # to the last bit


@settings(max_examples=100, deadline=None)
@given(drawn(), st.sampled_from(WAYS))
def test_the_winning_pairs_are_those_that_count(
    case: tuple[NDArray[np.float32], NDArray[np.int64], int], aggregation: Aggregation
) -> None:
    similarities, codes, seed = case
    items = np.random.default_rng(seed).permutation(len(codes))
    for code, (score, count) in brute_force(similarities, codes, aggregation).items():
        own, ids = similarities[codes == code], items[codes == code]
        best = winning_pairs(own, ids, aggregation)
        assert len(best) == count
        assert len({tuple(pair) for pair in best.tolist()}) == count
        values = own[best[:, 0], best[:, 1]].astype(float)
        assert math.fsum(values) / (count if aggregation.how == "mean" else 1) == pytest.approx(
            score, abs=1e-9
        )
        keys = [(-v, ids[s], t) for v, (s, t) in zip(values.tolist(), best.tolist(), strict=True)]
        assert keys == sorted(keys)


def test_a_large_candidate_among_small_ones() -> None:
    """Far more than the sort of few takes, and in no good order for parting: ascending, descending,
    an organ pipe, all equal."""
    count = 200_000
    rising = np.linspace(-1, 1, count, dtype=np.float32)
    for values in (
        rising,
        rising[::-1],
        np.concatenate([rising[::2], rising[::-2]]),
        np.ones(count, np.float32),
    ):
        offsets = np.array([0, 1, 1 + len(values), 2 + len(values)])
        similarities = np.concatenate([[0.5], values, [-0.5]]).astype(np.float32)[:, None]
        found = aggregate(similarities.copy(), offsets, Aggregation())
        best = np.sort(values)[-math.ceil(0.2 * len(values)) :]
        np.testing.assert_allclose(
            found.scores, [0.5, math.fsum(best.tolist()), -0.5], rtol=0, atol=1e-6
        )


def test_how_many_pairs_count() -> None:
    """0.2 · 5 · k is not a hair above k; at least one counts; never more than there are."""
    pairs = np.array([1, 2, 5, 10, 15, 160, 161, 35_000])
    assert Aggregation().counted(pairs).tolist() == [1, 1, 1, 2, 3, 32, 33, 7000]
    assert Aggregation(top=1).counted(pairs).tolist() == pairs.tolist()
    assert Aggregation(top=1e-12).counted(pairs).tolist() == [1] * len(pairs)


def test_candidates_by_number() -> None:
    groups = Groups.of(np.array([4, 2, 4, 9, 2]))
    assert [groups.rows_of(at).tolist() for at in range(3)] == [[1, 4], [0, 2], [3]]
    allowed = np.array([False, True, True, False, True])
    some = groups.among(allowed, np.array([4, 2, 4, 9, 2]))
    assert [some.rows_of(at).tolist() for at in range(len(some))] == [[1, 4], [2]]
    again = groups.take(np.array([2, 0]))
    assert [again.rows_of(at).tolist() for at in range(2)] == [[3], [1, 4]]
    assert len(Groups.of(np.empty(0, np.int64))) == 0
    assert len(groups.take(np.empty(0, np.int64))) == 0


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"how": "max"}, "by sum, mean, above; there is no 'max'"),
        ({"top": 0}, "above 0, at most 1; got 0"),
        ({"top": 1.5}, "got 1.5"),
        ({"top": float("nan")}, "got nan"),
        ({"top": True}, "got True"),
        ({"top": "0.2"}, "got '0.2'"),
        ({"how": "above"}, "needs how='above' and the threshold"),
        ({"above": 0.5}, "needs how='above' and the threshold"),
        ({"how": "above", "above": float("inf")}, "must be a finite number, got inf"),
        ({"how": "above", "above": "1"}, "must be a finite number, got '1'"),
    ],
)
def test_what_says_nothing_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Aggregation(**fields)
