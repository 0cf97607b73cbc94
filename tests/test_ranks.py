"""Ranks of relevant items against sorting every list, on data made to make rounding matter."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reid_index.errors import DimensionMismatch, NotFiniteError, UsageError
from reid_index.evaluation.protocol import NOBODY, UNKNOWN, Labels
from reid_index.evaluation.ranks import _FEW, MISSED, Ranks, ranks_of_relevant, single_shot_ranks
from reid_index.evaluation.scores import MatrixScores, VectorScores
from reid_index.metric import Metric
from reid_index.search.oracle import score

RULES = {"same_camera": True, "same_item": False}


def labels(person: Any, camera: Any = None, item: Any = None) -> Labels:
    count = len(person)
    camera = np.full(count, UNKNOWN) if camera is None else camera
    item = np.arange(count) if item is None else item
    return Labels(*(np.asarray(values, np.int64) for values in (person, camera, item)))


def per_query(ranks: Ranks) -> list[list[int]]:
    return [part.tolist() for part in np.split(ranks.ranks, ranks.offsets[1:-1])]


def by_sorting(
    keys: NDArray[Any], query: Labels, gallery: Labels, *, same_camera: bool, same_item: bool
) -> tuple[list[list[int]], list[int]]:
    """Every list sorted whole, straight from the definitions."""
    lists, lengths = [], []
    for q, row in enumerate(keys):
        same = (gallery.person == query.person[q]) & (query.person[q] != NOBODY)
        keep = np.ones(len(gallery), bool)
        if same_camera and query.camera[q] != UNKNOWN:
            keep &= ~(same & (gallery.camera == query.camera[q]))
        if same_item:
            keep &= ~(same & (gallery.item == query.item[q]))
        order = [g for g in np.lexsort((gallery.item, row)) if keep[g]]
        lists.append([rank for rank, g in enumerate(order, start=1) if same[g]])
        lengths.append(len(order))
    return lists, lengths


def some_labels(rng: np.random.Generator, queries: int, gallery: int) -> tuple[Labels, Labels]:
    """Five persons, distractors, three cameras and an unknown one, ids in no order."""
    ids = rng.permutation(3 * gallery + queries)
    return (
        labels(rng.integers(0, 6, queries), rng.integers(-1, 3, queries), ids[:queries]),
        labels(rng.integers(-1, 5, gallery), rng.integers(-1, 3, gallery), ids[-gallery:]),
    )


def test_by_hand() -> None:
    gallery = labels([0, 1, 0, NOBODY, 0, 1], camera=[1, 1, 2, 3, UNKNOWN, 2])
    query = labels([0, 1, 7, NOBODY], camera=[1, UNKNOWN, 1, 3], item=[0, 5, 8, 9])
    distance = np.array(
        [
            [0.0, 0.1, 0.4, 0.2, 0.2, 0.3],  # item 0 is removed; item 4 loses the tie to item 3
            [0.5, 0.2, 0.5, 0.1, 0.5, 0.0],  # an unknown camera equals none
            [0.5, 0.2, 0.5, 0.1, 0.5, 0.0],
            [0.5, 0.2, 0.5, 0.1, 0.5, 0.0],
        ]
    )
    ranks = ranks_of_relevant(MatrixScores(distance), query, gallery, **RULES)
    assert per_query(ranks) == [[3, 5], [1, 3], [], []]
    assert ranks.considered.tolist() == [5, 6, 6, 6]
    assert ranks.relevant.tolist() == [2, 2, 0, 0]
    every = ranks_of_relevant(
        MatrixScores(distance), query, gallery, same_camera=False, same_item=False
    )
    assert per_query(every) == [[1, 4, 6], [1, 3], [], []]
    others = ranks_of_relevant(
        MatrixScores(distance), query, gallery, same_camera=False, same_item=True
    )
    assert per_query(others) == [[3, 5], [2], [], []]
    assert others.considered.tolist() == [5, 5, 6, 6]


def random(rng: np.random.Generator, rows: int) -> NDArray[np.float32]:
    return rng.standard_normal((rows, 24)).astype(np.float32)


def duplicated(rng: np.random.Generator, rows: int) -> NDArray[np.float32]:
    return random(rng, 7)[rng.integers(0, 7, rows)]


def nearly_equal(rng: np.random.Generator, rows: int) -> NDArray[np.float32]:
    """Scores differ by about the rounding of single precision."""
    same = np.random.default_rng(1).standard_normal(24)
    return (same + rng.integers(-1, 2, (rows, 24)) * 2e-7).astype(np.float32)


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("make", [random, duplicated, nearly_equal])
def test_vectors_are_ranked_as_the_oracle_ranks_them(
    rng: np.random.Generator, make: Any, dtype: type, metric: Metric
) -> None:
    vectors, queries = make(rng, 700), make(rng, 23)
    queries[::2] = random(rng, 12)
    if metric is Metric.COSINE:
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    rows = vectors.astype(dtype)
    query, gallery = some_labels(rng, 23, 700)
    sign = -1 if metric.higher_is_better else 1
    keys = np.stack([sign * score(one, rows, metric=metric) for one in queries])
    lists, lengths = by_sorting(keys, query, gallery, **RULES)
    scores = VectorScores(queries, [rows[:0], rows[:300], rows[300:]], metric=metric)
    for chunk in (23, 5):
        ranks = ranks_of_relevant(scores, query, gallery, **RULES, chunk=chunk)
        assert per_query(ranks) == lists
        assert ranks.considered.tolist() == lengths


@pytest.mark.parametrize("metric", list(Metric))
def test_keys_stay_within_their_bounds(rng: np.random.Generator, metric: Metric) -> None:
    rows, queries = 2 * random(rng, 300), nearly_equal(rng, 9)
    if metric is Metric.COSINE:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        rows *= np.float32(1.004)  # as float16 may do it; cosines are cut at 1
        queries = rows[:9]
    scores = VectorScores(queries, [rows], metric=metric)
    keys, bounds = scores.chunk(2, 9)
    pairs = np.indices((7, 300)).reshape(2, -1)
    exact = scores.exact(pairs[0] + 2, pairs[1]).reshape(7, 300)
    errors = np.abs(keys - exact).max(axis=1)
    assert (errors > 0).all()
    assert (errors <= bounds).all()
    assert (bounds < 0.02).all()


def test_keys_are_the_scores_themselves() -> None:
    queries = np.array([[3, 4]], np.float32)
    rows = np.array([[0, 0], [3, 3]], np.float32)
    at = (np.zeros(2, np.int64), np.arange(2))
    assert VectorScores(queries, [rows], metric=Metric.EUCLIDEAN).exact(*at).tolist() == [25, 1]
    assert VectorScores(queries, [rows], metric=Metric.INNER_PRODUCT).exact(*at).tolist() == [
        0,
        -21,
    ]


def test_many_relevant_items_are_counted_as_few_are(rng: np.random.Generator) -> None:
    """Person 0 has more of them than are compared one by one; all windows overlap."""
    rows, queries = nearly_equal(rng, 900), nearly_equal(rng, 4)
    persons = np.arange(900) % 20 == 0
    assert np.count_nonzero(persons) <= _FEW < np.count_nonzero(~persons)
    query, gallery = labels([0, 1, 0, 1]), labels(persons, item=rng.permutation(900))
    keys = np.stack([score(one, rows, metric=Metric.EUCLIDEAN) for one in queries])
    lists, _ = by_sorting(keys, query, gallery, **RULES)
    scores = VectorScores(queries, [rows], metric=Metric.EUCLIDEAN)
    assert per_query(ranks_of_relevant(scores, query, gallery, **RULES)) == lists


@pytest.mark.parametrize(
    "matrix",
    [
        np.array([[1 + 2e-12, 1 + 1e-12, 1, 1 + 3e-12]]),
        np.array([[1e300, 1e299, -1e308, 1.5e308]]),
        np.array([[3e-320, 2e-320, 1e-320, 4e-320]]),
        np.array([[2**53 - 1, 2**53 - 2, 0, 2**53]]),
        np.array([[3, 2, 1, 4]], np.float16),
        np.array([[3, 2, 1, 4]], np.uint8),
    ],
    ids=["close", "huge", "tiny", "integers", "float16", "uint8"],
)
def test_a_matrix_decides_in_its_own_precision(matrix: NDArray[Any]) -> None:
    before = matrix.copy()
    scores = MatrixScores(matrix)
    ranks = ranks_of_relevant(scores, labels([0]), labels([0, 1, 1, 0]), **RULES)
    assert ranks.ranks.tolist() == [3, 4]
    np.testing.assert_array_equal(matrix, before)


@given(
    seed=st.integers(0, 2**32 - 1),
    levels=st.sampled_from([1, 2, 5, 1000]),
    chunk=st.integers(1, 12),
    queries=st.integers(1, 12),
    gallery=st.integers(1, 40),
)
@settings(max_examples=100, deadline=None)
def test_laws(seed: int, levels: int, chunk: int, queries: int, gallery: int) -> None:
    """Sorting agrees; neither chunks, nor strictly monotone maps, nor the order of rows matter."""
    rng = np.random.default_rng(seed)
    distance = rng.integers(0, levels, (queries, gallery)).astype(np.float32)
    asked, searched = some_labels(rng, queries, gallery)
    rules = {"same_camera": bool(seed % 2), "same_item": bool(seed % 3)}
    searched.item[0] = asked.item[0]
    lists, lengths = by_sorting(distance, asked, searched, **rules)
    for matrix in (distance, np.sqrt(distance + 1.0), np.expm1(distance / levels) - 7):
        ranks = ranks_of_relevant(MatrixScores(matrix), asked, searched, **rules, chunk=chunk)
        assert per_query(ranks) == lists
        assert ranks.considered.tolist() == lengths
    rows, columns = rng.permutation(queries), rng.permutation(gallery)
    moved = ranks_of_relevant(
        MatrixScores(distance[np.ix_(rows, columns)]),
        Labels(asked.person[rows], asked.camera[rows], asked.item[rows]),
        Labels(searched.person[columns], searched.camera[columns], searched.item[columns]),
        **rules,
    )
    assert per_query(moved) == [lists[row] for row in rows]


def test_what_cannot_be_ranked_is_refused() -> None:
    ones = np.ones((2, 3), np.float32)
    with pytest.raises(DimensionMismatch, match="queries have 3 dimensions, the gallery 2"):
        VectorScores(ones, [ones[:, :2]], metric=Metric.EUCLIDEAN)
    for bad in (np.nan, np.inf, 1e30):
        with pytest.raises(NotFiniteError, match="gallery vectors hold NaN, Inf or numbers"):
            VectorScores(ones, [ones, ones * np.float32(bad)], metric=Metric.INNER_PRODUCT)
    with pytest.raises(NotFiniteError, match="query vectors are not of length 1"):
        VectorScores(ones, [ones], metric=Metric.COSINE)
    with pytest.raises(NotFiniteError, match="NaN or Inf"):
        MatrixScores(np.array([[0, np.nan]]))
    for shape in (np.ones(3), np.array([["a"]])):
        with pytest.raises(UsageError, match="a matrix of real numbers"):
            MatrixScores(shape)
    with pytest.raises(UsageError, match=r"scores for 2 queries × 3 .* labels for 2 × 2"):
        ranks_of_relevant(MatrixScores(ones), labels([0, 1]), labels([0, 1]), **RULES)


def test_single_shot_with_one_item_a_person_is_the_plain_rank(rng: np.random.Generator) -> None:
    distance = rng.random((3, 5))
    query, gallery = labels([2, 0, 9]), labels([0, 1, 2, NOBODY, NOBODY])
    scores = MatrixScores(distance)
    plain = per_query(ranks_of_relevant(scores, query, gallery, **RULES))
    single = single_shot_ranks(scores, query, gallery, **RULES, repeats=2, rng=rng)
    assert single.tolist() == 2 * [[*plain[0], *plain[1], 0]]


def test_single_shot_draws_every_item_of_a_person_alike(rng: np.random.Generator) -> None:
    """By hand: of person 0 the item at place 1 or 4, of person 1 at 0, 2 or 3; place 2 of the
    whole list is in the query's own camera. So 0 comes first with probability (1 + 0)/4."""
    distance = np.array([[2, 1, 5, 4, 3]])
    query = labels([0], camera=[1])
    gallery = labels([0, 1, 0, 1, 0], camera=[2, 2, 2, 2, 1])
    ranks = single_shot_ranks(
        MatrixScores(distance), query, gallery, **RULES, repeats=4000, rng=rng
    )
    assert set(ranks.ravel().tolist()) == {1, 2}
    assert np.mean(ranks == 1) == pytest.approx(1 / 4, abs=0.03)
    again = single_shot_ranks(
        MatrixScores(distance), query, gallery, **RULES, repeats=50, rng=np.random.default_rng(5)
    )
    same = single_shot_ranks(
        MatrixScores(distance), query, gallery, **RULES, repeats=50, rng=np.random.default_rng(5)
    )
    assert again.tolist() == same.tolist()


def test_what_is_dropped_is_in_no_list_and_a_match_among_it_is_missed() -> None:
    gallery = labels([0, 1, 0, NOBODY, 0, 1], camera=[1, 1, 2, 3, 3, 2])
    query = labels([0, 1], camera=[1, 3], item=[7, 8])
    distance = np.array([[0.0, 0.1, 0.4, 0.2, 0.2, 0.3], [0.5, 0.2, 0.5, 0.1, 0.5, 0.0]])
    dropped = np.zeros((2, 6), bool)
    dropped[0, [0, 2, 3]] = True  # of its camera, a match, a distractor
    ranks = ranks_of_relevant(
        MatrixScores(distance), query, gallery, drops=lambda a, b: dropped[a:b].copy(), **RULES
    )

    assert per_query(ranks) == [[2, MISSED], [1, 3]]
    assert ranks.considered.tolist() == [3, 6]
    assert ranks.relevant.tolist() == [2, 2]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95, 1.0])
def test_lists_without_what_is_dropped_are_those_of_sorting_the_rest(
    rng: np.random.Generator, share: float
) -> None:
    query, gallery = some_labels(rng, 30, 200)
    keys = rng.integers(0, 40, (30, 200)) / 7
    dropped = rng.random((30, 200)) < share
    found = ranks_of_relevant(
        MatrixScores(keys), query, gallery, drops=lambda a, b: dropped[a:b].copy(), chunk=7, **RULES
    )

    for q, ranks in enumerate(per_query(found)):
        left = np.flatnonzero(~dropped[q])
        alone = Labels(query.person[[q]], query.camera[[q]], query.item[[q]])
        rest = Labels(gallery.person[left], gallery.camera[left], gallery.item[left])
        (hits,), (length,) = by_sorting(keys[[q]][:, left], alone, rest, **RULES)
        whole, _ = by_sorting(keys[[q]], alone, gallery, **RULES)
        assert ranks == hits + [MISSED] * (len(whole[0]) - len(hits))
        assert found.considered[q] == length
