"""Searching for a recall: what an index may answer, and when its answers are not taken."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from reid_index import Gallery, Reranking
from reid_index.errors import UsageError
from reid_index.filters.allowed import Allowed
from reid_index.metric import Metric
from reid_index.search.exact import Block
from reid_index.search.index import Effort, Index
from reid_index.search.index_build import build_index
from reid_index.search.knn import Neighbours, Rows, nearest
from reid_index.search.oracle import nearest_by_numpy

K = 10


@dataclass(frozen=True)
class Peopled:
    """A gallery with an index, and its vectors and queries."""

    gallery: Gallery
    vectors: NDArray[np.float32]
    queries: NDArray[np.float32]

    def exact(self, mask: NDArray[np.bool_] | None) -> list[NDArray[np.int64]]:
        answers = nearest_by_numpy(
            self.vectors,
            np.arange(len(self.vectors)),
            self.queries,
            K,
            metric=Metric.COSINE,
            allowed=mask,
        )
        return [rows for rows, _ in answers]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Peopled:
    rng = np.random.default_rng(8)
    centres = np.repeat(rng.normal(size=(250, 24)), 12, axis=0)
    vectors = centres + 0.4 * rng.normal(size=centres.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[::60] + 0.05 * rng.normal(size=(50, 24))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    from conftest import FINGERPRINT

    folder = tmp_path_factory.mktemp("recall") / "g"
    gallery = Gallery.create(folder, dim=24, fingerprint=FINGERPRINT)
    gallery.add(vectors, [{"camera": row % 10} for row in range(len(vectors))])
    gallery.build_index("hnsw", recall=0.9)
    stored = gallery.vectors(range(len(vectors)))
    return Peopled(gallery, stored, queries.astype(np.float32))


def rows_of(people: Peopled, *, more: int = 0) -> Rows:
    """The gallery's rows, and so many random ones after them."""
    extra = np.random.default_rng(1).normal(size=(more, 24))
    extra /= np.linalg.norm(extra, axis=1, keepdims=True)
    blocks = [Block(people.vectors, 1.0001), Block(extra.astype(np.float32), 1.0001)]
    return Rows(
        blocks=blocks, items=np.arange(len(people.vectors) + more), metric=people.gallery.metric
    )


def index_of(people: Peopled) -> Index:
    assert people.gallery.index is not None
    return people.gallery.index


def recall(found: list[Neighbours], wanted: list[NDArray[np.int64]]) -> float:
    shares = [
        len(np.intersect1d(one.rows, right)) / len(right)
        for one, right in zip(found, wanted, strict=True)
    ]
    return float(np.mean(shares))


def kind_of(allowed: Allowed) -> int:
    """By which experience is kept: the filter, k and recall."""
    return hash((allowed.key, K, 0.9))


class Doubtful(Index):
    """The same index, with changes to the effort that it advises."""

    def __init__(self, index: Index, **changes: Any) -> None:
        super().__init__(index.facts, index.opened)
        self._changes = changes

    def effort(self, *, share: float, recall: float, k: int) -> Effort | None:
        advised = super().effort(share=share, recall=recall, k=k)
        return None if advised is None else replace(advised, **self._changes)


@pytest.mark.parametrize("share", [None, 0.8, 0.5])
def test_an_index_finds_what_was_asked_and_nothing_outside_the_filter(
    people: Peopled, rng: np.random.Generator, share: float | None
) -> None:
    mask = None if share is None else rng.random(len(people.vectors)) < share
    rows = rows_of(people)
    found = nearest(
        rows,
        people.queries,
        K,
        allowed=Allowed(rows.count, mask),
        recall=0.9,
        index=index_of(people),
        only="index",
    )
    assert recall(found, people.exact(mask)) >= 0.9
    assert all(len(one.rows) == K for one in found)
    if mask is not None:
        assert all(mask[one.rows].all() for one in found)
    by_index = [one for one in found if not one.exact]
    assert len(by_index) > len(found) / 2
    assert all(one.path.startswith("hnsw index of 3,000 rows, ") for one in by_index)
    for one, query in zip(found, people.queries, strict=True):
        exact = people.vectors[one.rows].astype(np.float64) @ query.astype(np.float64)
        np.testing.assert_allclose(one.scores, exact, atol=1e-6)
        assert (np.diff(one.scores) <= 0).all()


def test_the_recall_decides_with_the_costs_which_way_is_taken(people: Peopled) -> None:
    gallery, queries = people.gallery, people.queries
    exact = gallery.nearest(queries, k=K)
    assert all(one.exact and "index" not in one.expected for one in exact)
    asked = gallery.nearest(queries, k=K, recall=0.9)
    assert all("index" in one.expected for one in asked)
    assert all(one.exact for one in gallery.nearest(queries, k=K, recall=1))
    assert all("index" not in one.expected for one in gallery.nearest(queries, k=101, recall=0.9))


def test_rows_added_since_are_found_beside_the_index(people: Peopled) -> None:
    rows = rows_of(people, more=400)
    late = np.arange(3000, 3400)
    queries = rows.blocks[1].vectors[::8].astype(np.float32)
    masks = (None, np.arange(3400) % 3 == 0, np.arange(3400) >= 2990)
    for mask in masks:
        found = nearest(
            rows,
            queries,
            K,
            allowed=Allowed(3400, mask),
            recall=0.9,
            index=index_of(people),
            only="index" if mask is None or mask[0] else None,
        )
        for one, itself in zip(found, late[::8], strict=True):
            assert len(one.rows) == K
            assert (one.rows[0] == itself) == (mask is None or bool(mask[itself]))
            assert mask is None or mask[one.rows].all()


def test_answers_that_the_probe_does_not_confirm_are_given_again(people: Peopled) -> None:
    rows = rows_of(people)
    # So little effort that the probe finds next to nothing.
    index = Doubtful(index_of(people), probe=1, agreement=1.0, value=512)
    mask = np.random.default_rng(3).random(3000) < 0.35
    allowed = Allowed(3000, mask)
    found = nearest(rows, people.queries, K, allowed=allowed, recall=0.9, index=index, only="index")
    again = [one for one in found if one.exact]
    assert len(again) > 5
    assert all(one.path.endswith(", the hnsw index being in doubt") for one in again)
    wanted = people.exact(mask)
    for one, right in zip(found, wanted, strict=True):
        if one.exact:
            assert one.rows.tolist() == right.tolist()
    refused = rows.experience.refused(kind_of(allowed))
    assert refused == len(again) / len(found)
    assert rows.experience.refused(kind_of(Allowed(3000, ~mask))) is None


def test_an_answer_that_comes_back_short_is_given_again(people: Peopled) -> None:
    index = Doubtful(index_of(people), probe=0, agreement=0.0, value=1, fetch=1)
    mask = np.zeros(3000, np.bool_)
    mask[np.random.default_rng(4).choice(3000, 1600, replace=False)] = True
    found = nearest(
        rows_of(people),
        people.queries,
        100,
        allowed=Allowed(3000, mask),
        recall=0.9,
        index=index,
        only="index",
    )
    assert all(len(one.rows) == 100 for one in found)
    assert any(one.exact for one in found)


def test_a_filter_whose_answers_were_all_doubted_is_answered_exactly_at_once(
    people: Peopled,
) -> None:
    rows = rows_of(people)
    allowed = Allowed(3000)
    index = Doubtful(index_of(people), rows_single=1.0, rows_batch=1.0, accepted=1.0)

    def ask() -> Neighbours:
        return nearest(rows, people.queries[:1], K, allowed=allowed, recall=0.9, index=index)[0]

    assert not ask().exact
    rows.experience.note(kind_of(allowed), answered=2000, refused=2000)
    assert ask().exact


def test_a_gallery_that_grew_searches_old_rows_by_index_and_new_ones_beside_it(
    make_gallery: Callable[..., Gallery], rng: np.random.Generator
) -> None:
    gallery = make_gallery(dim=16)
    gallery.add(rng.normal(size=(1500, 16)))
    gallery.build_index("ivf", recall=0.9)
    gallery.add(rng.normal(size=(40, 16)))
    assert gallery.index is not None
    assert gallery.index.rows == 1500
    newest = gallery.vectors(range(1500, 1540))
    for at, result in enumerate(gallery.search_many(newest, k=3, recall=0.9)):
        assert result.matches[0].item == 1500 + at


def test_re_ranking_takes_no_recall(people: Peopled) -> None:
    with pytest.raises(UsageError, match="leave recall and device out"):
        people.gallery.search(people.queries[0], rerank=Reranking(), recall=0.9)


def test_short_vectors_are_found_by_inner_product_too() -> None:
    """Where a filter lets in the shortest vectors only, a graph by inner product walks among the
    longest: it is tuned for that, or else not used."""
    rng = np.random.default_rng(3)
    lengths = np.exp(0.5 * rng.standard_normal(4000))
    vectors = (rng.normal(size=(4000, 24)) * lengths[:, None]).astype(np.float32)
    queries = rng.normal(size=(40, 24)).astype(np.float32)
    built = build_index([vectors], "hnsw-sq8", metric=Metric.INNER_PRODUCT, recall=0.9)
    index = Index(built.facts, built.opened)
    rows = Rows(
        blocks=[Block(vectors, float(np.linalg.norm(vectors, axis=1).max()) * 1.001)],
        items=np.arange(4000),
        metric=Metric.INNER_PRODUCT,
    )
    mask = lengths < np.quantile(lengths, 0.35)
    allowed = Allowed(4000, mask)
    assert index.effort(share=0.35, recall=0.9, k=K) is not None
    found = nearest(rows, queries, K, allowed=allowed, recall=0.9, index=index, only="index")
    wanted = nearest_by_numpy(
        vectors, rows.items, queries, K, metric=Metric.INNER_PRODUCT, allowed=mask
    )
    assert recall(found, [best for best, _ in wanted]) >= 0.9
