"""Re-ranking with all queries in one graph equals the dense oracle, values, ties and all."""

from collections.abc import Callable

import numpy as np
import pytest
from dense_reranking import dense_reranking, ranked
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_neighbours import KINDS, all_squared, unit

from reid_index import Reranking, rerank_distances, rerank_joint
from reid_index.errors import DimensionMismatch, NotFiniteError, ReidIndexError, UsageError
from reid_index.reranking import neighbours
from reid_index.reranking.neighbours import pair_distances

Rng = np.random.Generator
Floats = NDArray[np.floating]
Ids = NDArray[np.int64]
DATA = ("random", "clustered", "duplicated", "tied", "hubs")
PARAMETERS = [(20, 6, 0.3), (50, 15, 0.3), (7, 1, 0.3), (23, 3, 0.3), (20, 6, 0.0), (20, 6, 1.0)]


def shuffled_ids(rng: Rng, rows: int) -> Ids:
    return rng.permutation(3 * rows)[:rows].astype(np.int64)


def expected(squared: NDArray[np.float32], queries: int, items: Ids, rerank: Reranking) -> Floats:
    """What the oracle gives; of equally near nodes queries come first, then rows by item id."""
    return dense_reranking(
        squared,
        queries=queries,
        order=np.concatenate([np.arange(queries) - 10**6, items]),
        k1=rerank.k1,
        k2=rerank.k2,
        lambda_=rerank.lambda_,
    )


def assert_same(found: Floats, oracle: Floats, items: Ids) -> None:
    """The same to 1e-6, and in the order of the oracle's values in float32, equal ones by item.

    Close to 0 float32 tells apart what double precision happens to add up to, so there values
    that differ by 1e-11 may come in any order, and those that differ by 1e-15 are equal.
    """
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracle, atol=1e-6, rtol=0)
    order = ranked(found, items)
    sorted_ = np.take_along_axis(oracle, order, axis=1)
    steps = np.diff(sorted_.astype(np.float32).astype(np.float64), axis=1)
    assert (steps > -1e-11).all()
    equal = (steps == 0) | (np.abs(np.diff(sorted_, axis=1)) < 1e-15)
    assert (np.diff(items[order], axis=1)[equal] > 0).all()


# From distances


def from_matrix(
    distances: NDArray[np.float32], queries: int, items: Ids, rerank: Reranking
) -> NDArray[np.float32]:
    q = queries
    return rerank_distances(
        distances[:q, q:], distances[:q, :q], distances[q:, q:], items=items, reranking=rerank
    )


@pytest.mark.parametrize(("k1", "k2", "lambda_"), PARAMETERS)
@pytest.mark.parametrize("kind", DATA)
def test_of_the_same_distances_it_makes_what_the_oracle_makes(
    kind: str, k1: int, k2: int, lambda_: float, rng: Rng
) -> None:
    rerank, items = Reranking(k1=k1, k2=k2, lambda_=lambda_), shuffled_ids(rng, 80)
    distances = np.sqrt(all_squared(KINDS[kind](rng, 100)))
    found = from_matrix(distances, 20, items, rerank)
    assert_same(found, expected(distances**2, 20, items, rerank), items)


@pytest.mark.parametrize("kind", ["clustered", "tied"])
def test_a_thousand_nodes(kind: str, rng: Rng) -> None:
    rerank, items = Reranking(), shuffled_ids(rng, 960)
    distances = np.sqrt(all_squared(KINDS[kind](rng, 1000)))
    found = from_matrix(distances, 40, items, rerank)
    assert_same(found, expected(distances**2, 40, items, rerank), items)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(sorted(KINDS)),
    queries=st.integers(0, 20),
    rows=st.integers(2, 30),
    k1=st.integers(1, 49),
    k2=st.integers(1, 50),
    lambda_=st.floats(0, 1),
)
def test_of_any_few_nodes_it_makes_what_the_oracle_makes(
    seed: int, kind: str, queries: int, rows: int, k1: int, k2: int, lambda_: float
) -> None:
    rng, nodes = np.random.default_rng(seed), queries + rows
    rerank = Reranking(k1=min(k1, nodes - 1), k2=min(k2, nodes), lambda_=lambda_)
    items = shuffled_ids(rng, rows)
    distances = np.sqrt(all_squared(KINDS[kind](rng, nodes)))
    found = from_matrix(distances, queries, items, rerank)
    assert found.shape == (queries, rows)
    if queries:
        assert_same(found, expected(distances**2, queries, items, rerank), items)


def test_three_nodes_by_hand() -> None:
    # Nodes at 0, 1 and 3; k1 = 1: the query and the first row are each other's nearest, the other
    # row is nobody's. V = {q: e⁰, a: e^-1/9} and {q: e^-1/4, a: e⁰}, scaled; m sums the lesser.
    one, far = np.exp(-1 / 9), np.exp(-1 / 4)
    m = far / (1 + far) + one / (1 + one)
    jaccard = 1 - m / (2 - m)
    found = rerank_distances(
        np.array([[1.0, 3.0]]),
        np.array([[0.0]]),
        np.array([[0.0, 2.0], [2.0, 0.0]]),
        reranking=Reranking(k1=1, k2=1, lambda_=0.3),
    )
    assert found.tolist() == [pytest.approx([0.7 * jaccard + 0.3 / 9, 0.7 + 0.3], abs=1e-7)]


# From vectors


@pytest.mark.parametrize(("k1", "k2", "lambda_"), PARAMETERS[:4])
@pytest.mark.parametrize("kind", [*DATA, "lengths", "a line"])
def test_of_vectors_it_makes_what_the_oracle_makes_of_their_distances(
    kind: str, k1: int, k2: int, lambda_: float, rng: Rng
) -> None:
    rerank, items = Reranking(k1=k1, k2=k2, lambda_=lambda_), shuffled_ids(rng, 80)
    vectors = KINDS[kind](rng, 100)
    oracle = expected(all_pairs(vectors), 20, items, rerank)
    joint = rerank_joint(vectors[:20], vectors[20:], items=items, reranking=rerank)
    assert_same(joint.distances(), oracle, items)


def all_pairs(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The squared distances that `rerank_joint` is made from, (N, N)."""
    first, second = np.divmod(np.arange(len(vectors) ** 2), len(vectors))
    return pair_distances(vectors, first, second).reshape(len(vectors), -1)


def test_vectors_far_from_the_origin_make_what_the_oracle_makes(rng: Rng) -> None:
    """A matrix product in single precision says next to nothing about such distances, the
    farthest row's included."""
    vectors, items = KINDS["shifted"](rng, 100), shuffled_ids(rng, 80)
    oracle = expected(all_pairs(vectors), 20, items, Reranking())
    joint = rerank_joint(vectors[:20], vectors[20:], items=items)
    assert_same(joint.distances(), oracle, items)


def opposite(rng: Rng, rows: int) -> NDArray[np.float32]:
    """Two small heaps opposite to each other, half of the rows twice: who is farthest differs by
    less than a matrix product rounds."""
    ends = np.zeros((rows // 2, 64))
    ends[:, 0] = np.where(np.arange(rows // 2) % 2, 1, -1)
    heaps = unit(ends + 1e-4 * rng.normal(size=ends.shape))
    return np.concatenate([heaps, heaps])[rng.permutation(2 * len(heaps))]


def test_the_order_of_duplicates_does_not_hang_on_who_is_farthest(rng: Rng) -> None:
    vectors, items = opposite(rng, 160), shuffled_ids(rng, 140)
    oracle = expected(all_pairs(vectors), 20, items, Reranking())
    joint = rerank_joint(vectors[:20], vectors[20:], items=items)
    assert_same(joint.distances(), oracle, items)


@pytest.mark.parametrize("kind", [*DATA, "lengths", "equal", "zero", "minute"])
@pytest.mark.parametrize("lambda_", [0.0, 0.3, 1.0])
def test_a_chunk_is_within_its_bound(kind: str, lambda_: float, rng: Rng) -> None:
    vectors = KINDS[kind](rng, 150)
    joint = rerank_joint(vectors[:70], vectors[70:], reranking=Reranking(lambda_=lambda_))
    exact = joint.distances().astype(np.float64)
    for start, stop in ((0, 70), (0, 1), (33, 67), (69, 70)):
        found, bound = joint.chunk(start, stop)
        assert (found.dtype, found.shape, bound.shape) == (
            np.float32,
            (stop - start, 80),
            (stop - start,),
        )
        assert (np.abs(found - exact[start:stop]) <= bound[:, None]).all()
        if kind != "lengths":
            assert bound.max() < 1e-5


def test_pairs_can_be_asked_for_in_any_order(rng: Rng) -> None:
    vectors = KINDS["clustered"](rng, 120)
    joint = rerank_joint(vectors[:40], vectors[40:])
    whole = joint.distances()
    assert (joint.queries, joint.gallery, whole.shape) == (40, 80, (40, 80))
    queries, rows = rng.integers(0, 40, 9000), rng.integers(0, 80, 9000)
    np.testing.assert_array_equal(joint.exact(queries, rows), whole[queries, rows])
    nothing = np.empty(0, np.int64)
    assert joint.exact(nothing, nothing).shape == (0,)
    for chunk in (1, 7, 40, 1000):
        np.testing.assert_array_equal(joint.distances(chunk=chunk), whole)


@pytest.mark.parametrize("kind", ["clustered", "duplicated", "tied"])
def test_neither_tiles_nor_the_order_of_rows_decide(
    kind: str, rng: Rng, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, items = KINDS[kind](rng, 200), shuffled_ids(rng, 150)
    queries, gallery = vectors[:50], vectors[50:]
    found = rerank_joint(queries, gallery, items=items).distances()
    shuffled = rng.permutation(150)
    again = rerank_joint(queries, gallery[shuffled], items=items[shuffled]).distances()
    np.testing.assert_array_equal(again, found[:, shuffled])
    monkeypatch.setattr(neighbours, "_TILE", 64)
    np.testing.assert_array_equal(rerank_joint(queries, gallery, items=items).distances(), found)


def test_without_items_rows_come_in_their_order(rng: Rng) -> None:
    vectors = KINDS["tied"](rng, 100)
    found = rerank_joint(vectors[:30], vectors[30:]).distances()
    named = rerank_joint(vectors[:30], vectors[30:], items=np.arange(70) * 5 + 2).distances()
    reverse = rerank_joint(vectors[:30], vectors[30:], items=np.arange(70)[::-1].copy())
    np.testing.assert_array_equal(found, named)
    assert not np.array_equal(found, reverse.distances())


@pytest.mark.parametrize("kind", ["equal", "zero"])
def test_equal_vectors_give_numbers(kind: str, rng: Rng) -> None:
    vectors = KINDS[kind](rng, 60)
    oracle = expected(all_pairs(vectors), 10, np.arange(50), Reranking())
    found = rerank_joint(vectors[:10], vectors[10:]).distances()
    assert np.isfinite(found).all()
    assert_same(found, oracle, np.arange(50))


@pytest.mark.parametrize("queries", [0, 60])
def test_one_side_may_be_empty(queries: int, rng: Rng) -> None:
    vectors = KINDS["random"](rng, 60)
    joint = rerank_joint(vectors[:queries], vectors[queries:])
    assert joint.distances().shape == (queries, 60 - queries)
    assert joint.chunk(0, queries)[0].shape == (queries, 60 - queries)


# What is refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k1": 0}, "k1 and k2 of 1 or more, got 0, 6"),
        ({"k2": 0}, "k1 and k2 of 1 or more, got 20, 0"),
        ({"lambda_": -0.1}, r"a lambda in \[0, 1\], got -0.1"),
        ({"lambda_": 1.01}, r"a lambda in \[0, 1\], got 1.01"),
        ({"lambda_": float("nan")}, r"a lambda in \[0, 1\], got nan"),
    ],
)
def test_parameters_that_make_no_sense(options: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Reranking(**options)


@pytest.mark.parametrize(
    ("k1", "k2", "least"), [(20, 6, 21), (4, 9, 9), (20, 21, 21), (20, 22, 22)]
)
def test_so_many_nodes_are_needed(k1: int, k2: int, least: int, rng: Rng) -> None:
    vectors, rerank = KINDS["random"](rng, least), Reranking(k1=k1, k2=k2)
    assert rerank_joint(vectors[:2], vectors[2:], reranking=rerank).gallery == least - 2
    words = f"k1 = {k1}, k2 = {k2} needs at least {least} items and there are {least - 1}"
    with pytest.raises(UsageError, match=words):
        rerank_joint(vectors[:2], vectors[3:], reranking=rerank)
    matrix = np.zeros((least - 1, least - 1))
    with pytest.raises(UsageError, match=words):
        from_matrix(matrix, 1, np.arange(least - 2), rerank)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda v: rerank_joint(v[0], v), DimensionMismatch, r"vectors are \(n, D\), got \(4,\)"),
        (lambda v: rerank_joint(v[:, :3], v), DimensionMismatch, "3 dimensions, the gallery 4"),
        (lambda v: rerank_joint(v, v * np.nan), NotFiniteError, "holds NaN or Inf"),
        (lambda v: rerank_joint(v * 1e300, v), NotFiniteError, "too large|holds NaN or Inf"),
        (lambda v: rerank_joint(v * 1e19, v), NotFiniteError, "scale them down"),
        (lambda v: rerank_distances(v, v, v), UsageError, r"\(30, 4\), \(30, 4\), \(30, 4\) do"),
        (lambda v: rerank_distances(v, v @ v.T, v), UsageError, "do not fit"),
        (lambda v: from_products(v * np.inf), NotFiniteError, "NaN or Inf"),
        (lambda v: from_products(v * 1e15), NotFiniteError, "too large for float32"),
    ],
)
def test_what_cannot_be_compared(
    call: Callable[[Floats], object], kind: type[ReidIndexError], words: str, rng: Rng
) -> None:
    with pytest.raises(kind, match=words) as caught:
        call(np.abs(rng.normal(size=(30, 4))) + 1)
    assert "\n" not in str(caught.value)


def from_products(vectors: Floats) -> Floats:
    products = vectors @ vectors.T
    return rerank_distances(products[:5, 5:], products[:5, :5], products[5:, 5:])
