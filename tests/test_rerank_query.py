"""A query put into a gallery's graph gets what it would get if the whole graph were made anew."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_neighbours import KINDS
from test_rerank import opposite, shuffled_ids

from reid_index import Reranking, rerank_joint
from reid_index.errors import NotFiniteError, UsageError
from reid_index.reranking.graph import make_graph
from reid_index.reranking.rerank_query import QueryReranking, QueryScores

Rng = np.random.Generator
Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]
PARAMETERS = [(20, 6, 0.3), (50, 15, 0.3), (7, 1, 0.3), (23, 3, 0.0), (4, 9, 0.3), (1, 1, 1.0)]


def prepared(gallery: Vectors, items: Ids, rerank: Reranking) -> QueryReranking:
    graph = make_graph(gallery, items=items, reranking=rerank)
    return QueryReranking(vectors=gallery, items=items, graph=graph, reranking=rerank)


def assert_as_joint(
    single: QueryReranking, query: Vectors, gallery: Vectors, items: Ids, rerank: Reranking
) -> None:
    """Every distance is that of `rerank_joint` with this one query, to the bit; so is the order,
    whatever k; and the approximate distances keep their bound."""
    joint = rerank_joint(query[None], gallery, items=items, reranking=rerank)
    expected = joint.distances()[0].astype(np.float64)
    found = single.rerank(query)
    np.testing.assert_array_equal(found.exact(np.arange(len(gallery))), expected)
    assert (np.abs(found.approximate - expected) <= found.error).all()
    order = np.lexsort((items, expected))
    for k in (1, 7, len(gallery), len(gallery) + 5):
        rows, distances = found.best(k, items, None)
        np.testing.assert_array_equal(rows, order[:k])
        np.testing.assert_array_equal(distances, expected[order[:k]])


def some_queries(rng: Rng, kind: str, gallery: Vectors) -> Vectors:
    """Others of the kind, rows of the gallery, rows of it nearly, means of two, and outliers."""
    some = gallery[rng.choice(len(gallery), 5, replace=False)]
    spread = gallery.std() + np.float32(1e-30)
    noise = rng.normal(size=some.shape).astype(np.float32) * spread
    outliers = gallery.mean(axis=0) + 30 * noise[:3]
    others = KINDS[kind](rng, 5)
    return np.concatenate([others, some, some + noise / 20, (some + some[::-1]) / 2, outliers])


@pytest.mark.parametrize(("k1", "k2", "lambda_"), PARAMETERS)
@pytest.mark.parametrize("kind", ["random", "clustered", "duplicated", "tied", "hubs", "lengths"])
def test_a_query_gets_what_the_joint_graph_gives_it(
    kind: str, k1: int, k2: int, lambda_: float, rng: Rng
) -> None:
    gallery, items = KINDS[kind](rng, 140), shuffled_ids(rng, 140)
    rerank = Reranking(k1=k1, k2=k2, lambda_=lambda_)
    single = prepared(gallery, items, rerank)
    for query in some_queries(rng, kind, gallery):
        assert_as_joint(single, query, gallery, items, rerank)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(sorted(set(KINDS) - {"shifted", "minute"})),
    rows=st.integers(2, 60),
    k1=st.integers(1, 59),
    k2=st.integers(1, 60),
    lambda_=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_any_small_gallery_does_so(
    seed: int, kind: str, rows: int, k1: int, k2: int, lambda_: float
) -> None:
    rng = np.random.default_rng(seed)
    gallery, items = KINDS[kind](rng, rows), shuffled_ids(rng, rows)
    rerank = Reranking(k1=min(k1, rows - 1), k2=min(k2, rows), lambda_=lambda_)
    single = prepared(gallery, items, rerank)
    for query in (*KINDS[kind](rng, 3), gallery[0], (gallery[0] + gallery[1]) / 2):
        assert_as_joint(single, query, gallery, items, rerank)


def test_long_lists_on_a_ring_share_nearly_everything(rng: Rng) -> None:
    angles = rng.uniform(0, 2 * np.pi, 300)
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    items, rerank = shuffled_ids(rng, 300), Reranking(k1=180, k2=6)
    single = prepared(gallery, items, rerank)
    for query in gallery[:2] * np.float32(1.01):
        assert_as_joint(single, query, gallery, items, rerank)


@pytest.mark.parametrize("kind", ["equal", "zero", "minute"])
def test_next_to_no_distances_give_numbers(kind: str, rng: Rng) -> None:
    gallery, items = KINDS[kind](rng, 50), shuffled_ids(rng, 50)
    found = prepared(gallery, items, Reranking()).rerank(gallery[0])
    assert np.isfinite(found.exact(np.arange(50))).all()
    assert np.isfinite(found.approximate).all()


@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (3, 1)])
def test_vectors_far_from_the_origin(k1: int, k2: int, rng: Rng) -> None:
    gallery, items = KINDS["shifted"](rng, 140), shuffled_ids(rng, 140)
    rerank = Reranking(k1=k1, k2=k2)
    single = prepared(gallery, items, rerank)
    for query in (*KINDS["shifted"](rng, 5), gallery[3]):
        assert_as_joint(single, query, gallery, items, rerank)


def test_who_is_farthest_by_less_than_rounding_decides_nothing(rng: Rng) -> None:
    vectors = opposite(rng, 180)
    gallery, items = vectors[30:], shuffled_ids(rng, 150)
    single = prepared(gallery, items, Reranking())
    for query in vectors[:30]:
        assert_as_joint(single, query, gallery, items, Reranking())


def test_a_query_does_not_change_the_next_answer(rng: Rng) -> None:
    gallery, items = KINDS["clustered"](rng, 140), shuffled_ids(rng, 140)
    single = prepared(gallery, items, Reranking())
    first = single.rerank(gallery[0]).exact(np.arange(140))
    for query in some_queries(rng, "clustered", gallery):
        single.rerank(query)
    np.testing.assert_array_equal(single.rerank(gallery[0]).exact(np.arange(140)), first)


def test_many_queries_get_what_each_gets_alone(rng: Rng, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, items = KINDS["clustered"](rng, 140), shuffled_ids(rng, 140)
    single = prepared(gallery, items, Reranking())
    queries = some_queries(rng, "clustered", gallery)
    alone = np.stack([single.rerank(query).exact(np.arange(140)) for query in queries])
    scores = QueryScores(queries, single)
    assert (scores.queries, scores.gallery) == (len(queries), 140)
    some, rows = rng.integers(0, len(queries), 500), rng.integers(0, 140, 500)
    np.testing.assert_array_equal(scores.exact(some, rows), alone[some, rows])
    found, bound = scores.chunk(2, 9)
    assert (found.dtype, found.shape, bound.shape) == (np.float32, (7, 140), (7,))
    assert (np.abs(found - alone[2:9]) <= bound[:, None]).all()
    np.testing.assert_array_equal(scores.exact(some, rows), alone[some, rows])
    monkeypatch.setattr(single, "rerank", None)  # those of the chunk are there
    there = (some >= 2) & (some < 9)
    exact = scores.exact(some[there], rows[there])
    np.testing.assert_array_equal(exact, alone[some[there], rows[there]])


@pytest.mark.parametrize("kind", ["clustered", "duplicated"])
def test_the_best_of_the_allowed_are_the_first_allowed_of_all(kind: str, rng: Rng) -> None:
    gallery, items = KINDS[kind](rng, 140), shuffled_ids(rng, 140)
    found = prepared(gallery, items, Reranking()).rerank(KINDS[kind](rng, 1)[0])
    everything, distances = found.best(140, items, None)
    for share in (0.02, 0.5, 1):
        allowed = rng.random(140) < share
        allowed[5] = True
        kept = allowed[everything]
        for k in (1, 10, 200):
            rows, values = found.best(k, items, allowed)
            np.testing.assert_array_equal(rows, everything[kept][:k])
            np.testing.assert_array_equal(values, distances[kept][:k])
    rows, values = found.best(3, items, np.zeros(140, np.bool_))
    assert (rows.tolist(), values.tolist()) == ([], [])


def test_a_longer_graph_serves_a_smaller_k2(rng: Rng) -> None:
    gallery, items = KINDS["clustered"](rng, 140), shuffled_ids(rng, 140)
    graph = make_graph(gallery, items=items, reranking=Reranking(k1=7, k2=30))
    rerank = Reranking(k1=7, k2=3, lambda_=0.1)
    single = QueryReranking(vectors=gallery, items=items, graph=graph, reranking=rerank)
    for query in some_queries(rng, "clustered", gallery):
        assert_as_joint(single, query, gallery, items, rerank)


@pytest.mark.parametrize(("k1", "k2"), [(6, 3), (8, 3), (7, 31)])
def test_a_graph_for_other_parameters_is_refused(k1: int, k2: int, rng: Rng) -> None:
    gallery = KINDS["clustered"](rng, 60)
    graph = make_graph(gallery, items=np.arange(60), reranking=Reranking(k1=7, k2=30))
    words = f"this graph is for k1 = 7 and k2 up to 30, not for k1 = {k1}, k2 = {k2}"
    with pytest.raises(UsageError, match=words):
        QueryReranking(
            vectors=gallery,
            items=np.arange(60),
            graph=graph,
            reranking=Reranking(k1=k1, k2=k2),
        )


def test_a_query_too_far_for_float32_is_refused(rng: Rng) -> None:
    gallery = KINDS["random"](rng, 60)
    single = prepared(gallery, np.arange(60), Reranking())
    with pytest.raises(NotFiniteError, match="do not fit float32"):
        single.rerank(np.full(16, 1e19, np.float32))
