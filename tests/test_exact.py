"""Exact candidates in ranges, chunks and tiles so small that a few hundred rows fill many."""

from itertools import product

import numpy as np
import pytest

from reid_index import threads
from reid_index.filters.allowed import Allowed
from reid_index.metric import Metric
from reid_index.search import exact, knn
from reid_index.search.exact import Block, key_bound
from reid_index.search.knn import Rows, _is_settled, nearest
from reid_index.search.oracle import nearest_by_numpy


@pytest.mark.parametrize(("metric", "dtype"), list(product(Metric, ["float32", "float16"])))
def test_ranges_chunks_and_tiles_change_nothing(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, metric: Metric, dtype: str
) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 3)
    for name, value in {"_ALONE": 1, "_PIECES": 7, "_GATHERED": 16, "_TOGETHER": 5}.items():
        monkeypatch.setattr(exact, name, value)
    vectors = rng.normal(size=(700, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[::50].astype(np.float32)
    vectors, items, mask = vectors.astype(dtype), rng.permutation(700), np.arange(700) % 3 != 1
    blocks = [Block(part, 1.001) for part in np.split(vectors, [100, 101, 101])]
    rows = Rows(blocks=blocks, items=items, metric=metric)
    for allowed in (None, mask):
        wanted = nearest_by_numpy(vectors, items, queries, 11, metric=metric, allowed=allowed)
        ways = ["dense"] if allowed is None else ["gather", "dense"]
        for only in ways + ["scan"] * (allowed is not None and dtype == "float32"):
            found = nearest(rows, queries, 11, allowed=Allowed(700, allowed), only=only)
            for one, (best, scores) in zip(found, wanted, strict=True):
                assert "every one" not in one.path
                assert one.rows.tolist() == best.tolist()
                assert one.scores.tolist() == scores.tolist()


def test_one_far_row_does_not_have_everything_compared(rng: np.random.Generator) -> None:
    """In a Euclidean gallery the bound of a key grows with the square of the longest row."""
    vectors = rng.normal(size=(3000, 16)).astype(np.float32)
    vectors[17] *= 1e5
    items = np.arange(3000)
    rows = Rows(blocks=[Block(vectors, 1e6)], items=items, metric=Metric.EUCLIDEAN)
    queries = np.concatenate([vectors[100:104] + 0.1, vectors[17:18] + 1]).astype(np.float32)
    wanted = nearest_by_numpy(vectors, items, queries, 7, metric=Metric.EUCLIDEAN)
    for one, (best, scores) in zip(nearest(rows, queries, 7), wanted, strict=True):
        assert one.rows.tolist() == best.tolist()
        assert one.scores.tolist() == scores.tolist()
    assert {one.path for one in nearest(rows, queries[:4], 7)} == {"scan of all 3,000 rows"}


def test_candidates_of_many_queries_are_held_in_parts(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = rng.normal(size=(400, 6)).astype(np.float32)
    items = np.arange(400)
    rows = Rows(blocks=[Block(vectors, 10.0)], items=items, metric=Metric.EUCLIDEAN)
    alone = nearest(rows, vectors[:50], 5)
    asked = []

    def found(blocks, queries, want, **how):  # type: ignore[no-untyped-def]
        asked.append(len(queries) * want)
        return exact.candidates(blocks, queries, want, **how)

    monkeypatch.setattr(knn, "candidates", found)
    monkeypatch.setattr(knn, "_CANDIDATES", 100)
    parts = nearest(rows, vectors[:50], 5)
    assert [one.rows.tolist() for one in parts] == [one.rows.tolist() for one in alone]
    assert max(asked) <= 100
    assert len(asked) >= 7


@pytest.mark.parametrize("metric", list(Metric))
def test_what_rounding_could_hide_is_looked_for(metric: Metric) -> None:
    """A candidate list is final only when its last key is further from the k-th than single
    precision can be wrong: D·2⁻²⁴·‖x‖·‖y‖ for a product, and ‖x‖²/2 more in a Euclidean gallery."""
    query = np.zeros(1000, np.float32)
    query[0] = 3
    bound = key_bound(query[None], largest=5.0, metric=metric)[0]
    if metric is Metric.EUCLIDEAN:
        error, kth, key = 1000 * 2.0**-24 * (3 * 5 + 5**2 / 2), np.float32(2), (9 - 4) / 2
    else:
        error, kth, key = 1000 * 2.0**-24 * 3 * 5, np.float32(2), 2
    assert error < bound < 1.02 * error
    reaches = np.array([key - 0.99 * error, key - 1.05 * error]) + bound
    settled = _is_settled(np.repeat(kth, 2), reaches, np.array([3.0, 3.0]), metric)
    assert settled.tolist() == [False, True]
