"""Several queries at once: each answered as if alone, whatever they share."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from reid_index import Gallery, Result
from reid_index.errors import DimensionMismatch, NotFiniteError, UsageError, WhereError
from reid_index.search.oracle import nearest_by_numpy

MakeGallery = Callable[..., Gallery]
WHERES = [
    None,
    "camera = 1",
    "camera IN (1, 3)",
    "camera = 1 OR camera = 3",
    "camera BETWEEN 1 AND 3",
    "camera = 9",
    "camera = 1",
]


@pytest.fixture
def gallery(rng: np.random.Generator, make_gallery: MakeGallery) -> Gallery:
    gallery = make_gallery(dim=8)
    for rows in (150, 250):
        cameras = rng.integers(1, 5, rows).tolist()
        gallery.add(rng.normal(size=(rows, 8)), [{"camera": camera} for camera in cameras])
    return gallery


def plain(result: Result) -> list[tuple[int, float | None]]:
    return [(match.item, match.similarity) for match in result.matches]


def test_each_query_is_answered_as_if_alone_under_its_own_filter(
    rng: np.random.Generator, gallery: Gallery
) -> None:
    queries = rng.normal(size=(len(WHERES), 8))
    many = gallery.search_many(queries, k=12, where=WHERES, not_camera=[2])
    for query, where, result in zip(queries, WHERES, many, strict=True):
        alone = gallery.search(query, k=12, where=where, not_camera=[2])
        assert plain(result) == plain(alone)
        assert (result.allowed, result.rows, result.exact) == (alone.allowed, 400, True)
        assert set(result.seconds) == {"where", "search", "items"}
    assert many[5].note == "only 0 match: 0 of 400 items are allowed"


def test_equivalent_filters_give_equal_answers_and_share_the_work(
    rng: np.random.Generator, gallery: Gallery
) -> None:
    same = ["camera IN (2, 3)", "camera = 2 OR camera = 3", "camera BETWEEN 2 AND 3", None]
    queries = np.repeat(rng.normal(size=(1, 8)), 4, axis=0)
    results = gallery.search_many(queries, where=same)
    assert plain(results[0]) == plain(results[1]) == plain(results[2])
    searched = [result.seconds["search"] for result in results]
    assert searched[0] == searched[1] == searched[2] != searched[3]


def test_neighbours_are_the_oracles_rows(rng: np.random.Generator, gallery: Gallery) -> None:
    queries = rng.normal(size=(40, 8)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    mask = np.array(gallery.items["camera"]) == 3
    wanted = nearest_by_numpy(
        gallery.vectors(range(400)),
        np.arange(400),
        queries,
        15,
        metric=gallery.metric,
        allowed=mask,
    )
    found = gallery.nearest(queries, k=15, where="camera = 3")
    for one, (rows, scores) in zip(found, wanted, strict=True):
        assert one.rows.tolist() == rows.tolist()
        # Neighbours' queries are normalised once more, in double precision.
        np.testing.assert_allclose(one.scores, scores, atol=2e-7)
        assert one.allowed == mask.sum()


def test_no_queries_have_no_answers(gallery: Gallery) -> None:
    assert gallery.search_many(np.empty((0, 8))) == []
    assert gallery.nearest(np.empty((0, 8)), where="camera = 1") == []


def test_an_empty_gallery_answers_every_query(make_gallery: MakeGallery) -> None:
    for found in make_gallery().nearest(np.eye(3)):
        assert (found.rows.tolist(), found.path, found.exact) == ([], "the gallery is empty", True)


def test_a_threshold_holds_for_each(rng: np.random.Generator, gallery: Gallery) -> None:
    queries = rng.normal(size=(5, 8))
    for result in gallery.search_many(queries, k=50, threshold=0.5):
        similarities = [match.similarity for match in result.matches]
        assert similarities
        assert all(one is not None and one >= 0.5 for one in similarities)


def test_threads_that_search_one_gallery_at_once_get_their_own_answers(
    rng: np.random.Generator, gallery: Gallery
) -> None:
    queries = rng.normal(size=(60, 8))
    jobs = [(query, WHERES[at % 5]) for at, query in enumerate(queries)]
    alone = [plain(gallery.search(query, where=where)) for query, where in jobs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda job: plain(gallery.search(job[0], where=job[1])), jobs * 4))
    assert together == alone * 4


@pytest.mark.parametrize(
    ("queries", "options", "error", "words"),
    [
        (np.eye(8)[:2], {"where": ["camera = 1"]}, UsageError, "2 queries but 1 filters"),
        (np.eye(8)[:1], {"where": ["colour = 1"]}, WhereError, "colour"),
        (np.eye(8)[:1], {"recall": 0}, UsageError, "more than 0 and at most 1, got 0"),
        (np.eye(8)[:1], {"recall": 1.5}, UsageError, "got 1.5"),
        (np.eye(8)[:1], {"recall": float("nan")}, UsageError, "got nan"),
        (np.eye(8)[:1], {"k": 0}, UsageError, "from 1 up, got 0"),
        (np.eye(7), {}, DimensionMismatch, "7 dimensions, the gallery 8"),
        (np.empty((0, 7)), {}, DimensionMismatch, "n ≥ 1"),
        (np.zeros((2, 8)), {}, NotFiniteError, "length 0"),
    ],
)
def test_batches_that_are_refused(
    gallery: Gallery, queries: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    for ask in (gallery.search_many, gallery.nearest):
        with pytest.raises(error, match=words):
            ask(queries, **options)


def test_many_different_filters_of_equal_size_are_told_apart_in_no_time(
    rng: np.random.Generator, gallery: Gallery
) -> None:
    wheres = [f"item >= {first} AND item < {first + 100}" for first in range(300)]
    query = rng.normal(size=8)
    found = gallery.nearest(np.tile(query, (300, 1)), k=3, where=wheres)
    for first in (0, 63, 64, 150, 299):
        [alone] = gallery.nearest(query, k=3, where=wheres[first])
        assert found[first].rows.tolist() == alone.rows.tolist()
        assert ((found[first].rows >= first) & (found[first].rows < first + 100)).all()


def test_numbers_of_numpy_are_numbers(gallery: Gallery, rng: np.random.Generator) -> None:
    query = rng.normal(size=8)
    assert plain(gallery.search(query, k=np.int64(5))) == plain(gallery.search(query, k=5))  # type: ignore[arg-type]
    assert plain(gallery.search(query * 1e-200)) == plain(gallery.search(query))
    with pytest.raises(UsageError, match="complex"):
        gallery.search(query + 1j)
