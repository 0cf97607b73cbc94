"""Search: every path equals the oracle exactly, the oracle equals a formula, and what a query
may and may not change."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from conftest import FINGERPRINT
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reid_index import Fingerprint, Gallery, Metric
from reid_index.errors import (
    DimensionMismatch,
    ExtractorMismatch,
    NotFiniteError,
    UsageError,
    WhereError,
)
from reid_index.filters.allowed import Allowed
from reid_index.search import query as query_module
from reid_index.search.exact import Block
from reid_index.search.knn import Rows, nearest
from reid_index.search.oracle import nearest_by_numpy, score

MakeGallery = Callable[..., Gallery]


def found(gallery: Gallery, query: Any, **options: Any) -> list[int]:
    return [match.item for match in gallery.search(query, **options).matches]


def unit(vectors: NDArray[Any]) -> NDArray[Any]:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def rows_of(
    vectors: NDArray[Any], items: NDArray[np.int64], sizes: tuple[int, ...], metric: Metric
) -> Rows:
    parts = np.split(vectors, np.cumsum(sizes)[:-1])
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    blocks = [Block(part, float(norms.max())) for part in parts]
    return Rows(blocks=blocks, items=items, metric=metric)


def check_against_oracle(
    vectors: NDArray[Any],
    items: NDArray[np.int64],
    query: NDArray[np.float32],
    k: int,
    *,
    sizes: tuple[int, ...],
    metric: Metric,
    allowed: NDArray[np.bool_] | None,
) -> set[str]:
    """Assert equal rows and bit-equal scores on every path, alone and among other queries; the
    paths in words."""
    [(rows, scores)] = nearest_by_numpy(
        vectors, items, query[None], k, metric=metric, allowed=allowed
    )
    searched = rows_of(vectors, items, sizes, metric)
    paths = set()
    for batch in (query[None], np.stack([vectors[0].astype(np.float32), query])):
        for only in (None, *exact_paths(vectors, allowed)):
            permitted = Allowed(len(vectors), allowed)
            answer = nearest(searched, batch, k, allowed=permitted, only=only)[-1]
            assert answer.rows.tolist() == rows.tolist()
            assert answer.scores.tolist() == scores.tolist()
            assert answer.exact
            paths.add(answer.path)
    return paths


def exact_paths(vectors: NDArray[Any], allowed: NDArray[np.bool_] | None) -> list[str]:
    if allowed is None or allowed.all() or not allowed.any():
        return []
    return ["gather", "dense"] if vectors.dtype == np.float16 else ["scan", "gather", "dense"]


@pytest.mark.parametrize(
    ("metric", "dtype", "masked", "k", "paths"),
    [
        (metric, dtype, masked, k, paths)
        for metric, dtype, (masked, k, paths) in product(
            Metric,
            ("float32", "float16"),
            [
                (False, 1, {"scan of all 300 rows", "products of all 300 rows"}),
                (
                    True,
                    5,
                    {
                        "scan of 200 allowed rows of 300",
                        "products of 200 allowed rows of 300",
                        "scan of all 300 rows, 200 of them allowed",
                        "products of all 300 rows, 200 of them allowed",
                    },
                ),
                (True, 195, {"every one of 200 allowed rows compared"}),
                (False, 300, {"every one of 300 allowed rows compared"}),
            ],
        )
    ],
)
def test_every_path_equals_the_oracle(
    rng: np.random.Generator, metric: Metric, dtype: str, masked: bool, k: int, paths: set[str]
) -> None:
    vectors = rng.normal(size=(300, 16))
    query = rng.normal(size=16)
    if metric is Metric.COSINE:
        vectors, query = unit(vectors), unit(query)
    allowed = np.arange(300) % 3 != 1 if masked else None
    taken = check_against_oracle(
        vectors.astype(dtype),
        rng.permutation(300),
        query.astype(np.float32),
        k,
        sizes=(100, 1, 0, 199),
        metric=metric,
        allowed=allowed,
    )
    if dtype == "float16":
        paths = {path for path in paths if "scan" not in path}
    else:  # for two queries a scan of everything is faster than products
        paths = paths - {"products of all 300 rows, 200 of them allowed"}
    assert taken == paths if k == 5 else taken <= paths


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    metric=st.sampled_from(list(Metric)),
    dtype=st.sampled_from(["float32", "float16"]),
    spread=st.sampled_from([0, 1e-7, 1e-3, 1]),
    scale=st.sampled_from([1e-22, 1e-4, 1, 1e4]),
    share=st.sampled_from([0, 0.02, 0.5, 1]),
    k=st.integers(1, 60),
)
def test_clustered_and_duplicate_rows_equal_the_oracle(
    seed: int, metric: Metric, dtype: str, spread: float, scale: float, share: float, k: int
) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.integers(-2, 3, size=(4, 8)) + 0.5
    vectors = centres[rng.integers(4, size=150)] + spread * rng.normal(size=(150, 8))
    query = centres[0] + spread * rng.normal(size=8)
    if metric is Metric.COSINE:
        vectors, query, scale = unit(vectors), unit(query), 1
    scale = 1 if dtype == "float16" else scale
    check_against_oracle(
        (vectors * scale).astype(dtype),
        rng.permutation(1000)[:150],
        (query * scale).astype(np.float32),
        k,
        sizes=(70, 80),
        metric=metric,
        allowed=None if share == 1 else rng.random(150) < share,
    )


@pytest.mark.parametrize("metric", [Metric.EUCLIDEAN, Metric.INNER_PRODUCT])
def test_vectors_too_large_for_sums_in_float32(metric: Metric) -> None:
    vectors = np.zeros((80, 2), np.float32)
    vectors[:50, 0] = -1.9e19
    vectors[50:, 0] = np.arange(30)
    query = np.array([29, 0] if metric is Metric.EUCLIDEAN else [1.9e19, 0], np.float32)
    items = np.arange(80)
    check_against_oracle(vectors, items, query, 25, sizes=(80,), metric=metric, allowed=None)


TINY = 2.0**-149  # the smallest number of float32


@pytest.mark.parametrize(
    ("metric", "many", "one", "rest", "best"),
    [
        # Eight products of 0.4 make 3, but none in float32; eight of 0.6 make 5, but 8 there.
        (Metric.INNER_PRODUCT, 0.4, 2, 1, 3 * TINY),
        (Metric.EUCLIDEAN, 0.6, 5, 6, np.sqrt(4.8 * TINY)),
    ],
)
def test_products_too_small_for_float32(
    metric: Metric, many: float, one: float, rest: float, best: float
) -> None:
    root = np.sqrt(many * TINY)
    inner = metric is Metric.INNER_PRODUCT
    vectors = np.zeros((40, 8))
    vectors[0] = root
    vectors[1, 0], vectors[2:, 0] = (
        (one * TINY / root, rest * TINY / root)
        if inner
        else (np.sqrt(one * TINY), np.sqrt(rest * TINY))
    )
    query = np.full(8, root if inner else 0, np.float32)
    small, items = vectors.astype(np.float32), np.arange(40)
    [(rows, scores)] = nearest_by_numpy(small, items, query[None], 1, metric=metric)
    assert rows.tolist() == [0]
    np.testing.assert_allclose(scores, best, rtol=1e-6)
    check_against_oracle(small, items, query, 1, sizes=(40,), metric=metric, allowed=None)


def test_an_endless_inner_product_is_a_tie(make_gallery: MakeGallery) -> None:
    gallery = make_gallery(metric="inner_product")
    gallery.add([[0, 1, 0], [2e30, 0, 0], [3e30, 0, 0]])
    matches = gallery.search([1e30, 0, 0]).matches
    assert [(match.item, match.similarity) for match in matches] == [
        (1, np.inf),
        (2, np.inf),
        (0, 0),
    ]


@pytest.mark.parametrize("metric", list(Metric))
def test_the_oracle_equals_a_matrix_product(rng: np.random.Generator, metric: Metric) -> None:
    vectors = unit(rng.normal(size=(9000, 24))).astype(np.float32)
    queries = unit(rng.normal(size=(3, 24))).astype(np.float32)
    items, allowed = rng.permutation(9000), rng.random(9000) < 0.9
    wide, asked = vectors.astype(np.float64), queries.astype(np.float64)
    products = asked @ wide.T
    scores = products
    if metric is Metric.EUCLIDEAN:
        squares = (wide**2).sum(axis=1) + (asked**2).sum(axis=1)[:, None] - 2 * products
        scores = np.sqrt(squares)
    worst_first = -scores if metric.higher_is_better else scores
    answers = nearest_by_numpy(vectors, items, queries, 50, metric=metric, allowed=allowed)
    for row, answer in enumerate(answers):
        order = np.lexsort((items, np.where(allowed, worst_first[row], np.inf)))[:50]
        assert answer[0].tolist() == order.tolist()
        np.testing.assert_allclose(answer[1], scores[row][order], rtol=0, atol=1e-7)


def test_scores_by_hand() -> None:
    query, rows = np.array([1, 2], np.float32), np.array([[4, 6], [-3, 5]], np.float32)
    assert score(query, rows, metric=Metric.EUCLIDEAN).tolist() == [5, 5]
    assert score(query, rows, metric=Metric.INNER_PRODUCT).tolist() == [16, 7]
    assert score(query, rows, metric=Metric.COSINE).tolist() == [1, 1]
    assert score(-query, rows, metric=Metric.COSINE).tolist() == [-1, -1]


@pytest.mark.parametrize("metric", list(Metric))
def test_a_score_depends_on_the_pair_alone(rng: np.random.Generator, metric: Metric) -> None:
    rows = (rng.normal(size=(1001, 301)) * 10.0 ** rng.integers(-4, 5, size=(1001, 301))).astype(
        np.float32
    )
    query = rng.normal(size=301).astype(np.float32)
    # Terms that cancel, so that another order of summation would show.
    rows[:, 150:300], query[150:300] = -rows[:, :150], query[:150]
    together = score(query, rows, metric=metric)
    one_by_one = [score(query, rows[i : i + 1], metric=metric)[0] for i in range(1001)]
    assert together.tolist() == [float(value) for value in one_by_one]
    assert score(query, np.asfortranarray(rows), metric=metric).tolist() == together.tolist()


def test_ties_at_the_border_of_k_go_to_the_smaller_item(make_gallery: MakeGallery) -> None:
    gallery = make_gallery()
    ids = np.random.default_rng(1).permutation(500)
    same = np.tile([[0.3, 0.5, -0.7]], (500, 1))
    gallery.add(same[:1], [{"item": 700}])
    gallery.add(same, [{"item": int(701 + item)} for item in ids])
    gallery.add([[0.3, 0.5, -0.6]])
    matches = gallery.search([0.3, 0.5, -0.7], k=20).matches
    assert [match.item for match in matches] == list(range(700, 720))
    assert [match.rank for match in matches] == list(range(1, 21))
    assert len({match.similarity for match in matches}) == 1


CAMERAS = [1, 1, 2, None, 3, None]
ANGLES = [0, 10, 20, 30, 40, 50]


@pytest.fixture
def cameras(make_gallery: MakeGallery) -> Gallery:
    """Six items of known and unknown cameras, ever less like [1, 0]; the last is a dog."""
    gallery = make_gallery(dim=2)
    radians = np.radians(ANGLES)
    items = [{"camera": camera, "person": "ann"} for camera in CAMERAS]
    items[-1]["person"] = "dog"
    gallery.add(np.stack([np.cos(radians), np.sin(radians)], axis=1), items)
    return gallery


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"not_camera": [1]}, [2, 3, 4, 5]),
        ({"not_camera": (1, 3)}, [2, 3, 5]),
        ({"not_camera": [np.int64(2)]}, [0, 1, 3, 4, 5]),
        ({"where": "person = 'ann'"}, [0, 1, 2, 3, 4]),
        ({"where": "person = 'ann'", "not_camera": [1]}, [2, 3, 4]),
        ({"where": "camera IS NOT NULL", "not_camera": [2]}, [0, 1, 4]),
        ({"where": "camera = 1", "not_camera": [1]}, []),
    ],
)
def test_where_and_not_camera(
    cameras: Gallery, options: dict[str, Any], expected: list[int]
) -> None:
    result = cameras.search([1, 0], **options)
    assert [match.item for match in result.matches] == expected
    assert (result.allowed, result.rows) == (len(expected), 6)


def test_fewer_than_k_says_why(cameras: Gallery) -> None:
    result = cameras.search([1, 0], k=5, not_camera=[1, 2])
    assert result.note == "only 3 match: 3 of 6 items are allowed"
    assert cameras.search([1, 0], k=3, not_camera=[1, 2]).note is None
    result = cameras.search([1, 0], k=5, threshold=0.9)
    assert result.note == "only 3 match: the others are beyond the threshold 0.9"
    assert found(cameras, [1, 0], k=10**12) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("threshold", "count"), [(1, 1), (0.9, 3), (0.7, 5), (-1, 6), (1.1, 0)])
def test_threshold_is_the_smallest_similarity(
    cameras: Gallery, threshold: float, count: int
) -> None:
    assert found(cameras, [5, 0], threshold=threshold) == list(range(count))


@pytest.mark.parametrize(("threshold", "count"), [(0, 1), (4.99, 1), (5, 2), (1e300, 3), (-1, 0)])
def test_threshold_is_the_largest_distance(
    make_gallery: MakeGallery, threshold: float, count: int
) -> None:
    gallery = make_gallery(dim=2, metric="euclidean")
    gallery.add([[1, 1], [4, 5], [10, 10]])
    result = gallery.search([1, 1], threshold=threshold)
    assert [match.item for match in result.matches] == [0, 1, 2][:count]
    assert [match.distance for match in result.matches][:2] == [0, 5][:count]
    assert all(match.similarity is None for match in result.matches)


def test_what_is_returned_reaches_the_threshold_as_it_was_given(
    make_gallery: MakeGallery,
) -> None:
    gallery = make_gallery(dim=1, metric="inner_product")
    gallery.add([[0.9], [1]])  # 0.9 is stored as 0.899999976
    assert found(gallery, [1], threshold=0.9) == [1]
    assert found(gallery, [1], threshold=float(np.float32(0.9))) == [1, 0]


def test_mean_and_best_of_several_vectors_by_hand(make_gallery: MakeGallery) -> None:
    gallery = make_gallery(dim=2)
    gallery.add([[1, 0], [0, 1], [1, 1]])
    two = [[10, 0], [0, 1]]
    mean = gallery.search(two, k=3, combine="mean").matches
    assert [match.item for match in mean] == [2, 0, 1]
    half = np.sqrt(0.5)
    np.testing.assert_allclose([match.similarity for match in mean], [1, half, half], atol=1e-7)
    best = gallery.search(two, k=3, combine="best").matches
    assert [match.item for match in best] == [0, 1, 2]
    np.testing.assert_allclose([match.similarity for match in best], [1, 1, half], atol=1e-7)
    assert found(gallery, two, k=1, combine="best") == [0]


def test_mean_of_vectors_that_have_lengths(make_gallery: MakeGallery) -> None:
    gallery = make_gallery(dim=2, metric="euclidean")
    gallery.add([[2, 2], [0, 0], [4, 0]])
    matches = gallery.search([[4, 0], [0, 4]], combine="mean").matches
    assert [(match.item, match.distance) for match in matches] == [
        (0, 0.0),
        (1, float(np.float32(np.sqrt(8)))),
        (2, float(np.float32(np.sqrt(8)))),
    ]
    assert found(gallery, [[4, 0], [0, 0]], combine="best", k=2) == [1, 2]


@pytest.mark.parametrize("combine", ["mean", "best"])
@pytest.mark.parametrize("metric", list(Metric))
def test_best_and_mean_equal_the_oracle(
    rng: np.random.Generator, make_gallery: MakeGallery, metric: Metric, combine: str
) -> None:
    gallery = make_gallery(dim=4, metric=metric, dtype="float16")
    rows, queries = rng.normal(size=(200, 4)), rng.normal(size=(5, 4))
    gallery.add(rows[:90])
    gallery.add(rows[90:])
    stored = gallery.vectors(range(200)).astype(np.float64)
    if metric is Metric.COSINE:
        queries = unit(queries)
    if combine == "mean":
        queries = queries.mean(axis=0, keepdims=True)
        queries = unit(queries) if metric is Metric.COSINE else queries
    queries = queries.astype(np.float32).astype(np.float64)
    if metric is Metric.EUCLIDEAN:
        scores = -np.sqrt(((queries[:, None] - stored) ** 2).sum(axis=2)).min(axis=0)
    else:
        scores = (queries @ stored.T).max(axis=0)
    result = gallery.search(queries, k=30, combine=combine)
    assert [match.item for match in result.matches] == np.argsort(-scores)[:30].tolist()
    assert result.exact


def test_a_match_has_everything_that_the_item_has(make_gallery: MakeGallery) -> None:
    gallery = make_gallery(dim=2)
    gallery.add([[1, 0]], [{"source": "a.png"}], root="/first")
    gallery.add(
        [[0, 1]],
        [
            {
                "source": "b.png",
                "camera": 4,
                "person": "ann",
                "track": "t",
                "video": "v.mp4",
                "start": "2024-05-01T12:00",
                "start_s": 0.5,
                "frame_first": 9,
                "box": [1, 2, 3, 4],
                "attr.hat": "yes",
                "shop": None,
            }
        ],
        root="/second",
    )
    first, second = gallery.search([0, 1]).matches
    assert (first.item, first.source, first.root, first.rank) == (1, "b.png", "/second", 1)
    assert (first.camera, first.person, first.track, first.video) == (4, "ann", "t", "v.mp4")
    assert first.start is not None
    assert first.start.isoformat() == "2024-05-01T12:00:00+00:00"
    assert (first.start_s, first.end, first.end_s) == (0.5, None, None)
    assert first.box == (1, 2, 3, 4)
    assert dict(first.extra) == {"frame_first": 9, "attr.hat": "yes"}
    assert (first.similarity, first.distance) == (1, None)
    assert (second.root, second.camera, second.box, dict(second.extra)) == (
        "/first",
        None,
        None,
        {},
    )


@pytest.mark.parametrize("metric", list(Metric))
def test_order_of_rows_and_number_of_adds_change_nothing(
    rng: np.random.Generator, make_gallery: MakeGallery, metric: Metric
) -> None:
    rows = rng.integers(-2, 3, size=(120, 3)) + 0.5
    queries = rng.normal(size=(6, 3))
    items = [{"item": int(item)} for item in rng.permutation(120)]
    whole = make_gallery("whole", metric=metric)
    whole.add(rows, items)
    order = sorted(range(120), key=lambda row: (items[row]["item"] >= 60, rng.random()))
    parts = make_gallery("parts", metric=metric)
    for part in (order[:60], order[60:]):
        parts.add(rows[part], [items[row] for row in part])
    for query in queries:
        one, other = (gallery.search(query, k=25).matches for gallery in (whole, parts))
        assert one == other


def test_splitting_queries_changes_nothing(rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(90, 5)).astype(np.float32)
    queries = rng.normal(size=(7, 5)).astype(np.float32)
    together = nearest_by_numpy(vectors, np.arange(90), queries, 9, metric=Metric.EUCLIDEAN)
    searched = rows_of(vectors, np.arange(90), (40, 50), Metric.EUCLIDEAN)
    batch = nearest(searched, queries, 9)
    for query, one, (rows, scores) in zip(queries, batch, together, strict=True):
        [alone] = nearest(searched, query[None], 9)
        assert (one.rows.tolist(), one.scores.tolist()) == (rows.tolist(), scores.tolist())
        assert (alone.rows.tolist(), alone.scores.tolist()) == (rows.tolist(), scores.tolist())


def test_vectors_of_half_precision_are_compared_as_stored(make_gallery: MakeGallery) -> None:
    gallery = make_gallery(dim=1, metric="inner_product", dtype="float16")
    gallery.add([[2049], [0.1]])
    similarities = [match.similarity for match in gallery.search([1]).matches]
    assert similarities == [2048, float(np.float16(0.1))]


@pytest.mark.parametrize(
    ("query", "options", "error", "words"),
    [
        ([1, 0], {"k": 0}, UsageError, "from 1 up, got 0"),
        ([1, 0], {"k": -3}, UsageError, "got -3"),
        ([1, 0], {"k": 2.0}, UsageError, r"got 2\.0"),
        ([1, 0], {"k": True}, UsageError, "got True"),
        ([1, 0], {"threshold": float("nan")}, UsageError, "finite"),
        ([1, 0], {"combine": "worst"}, UsageError, "'worst'"),
        ([1, 0], {"not_camera": [2**40]}, UsageError, "not_camera"),
        ([1, 0], {"not_camera": [1.5]}, UsageError, "not_camera"),
        ([1, 0], {"where": "colour = 1"}, WhereError, "colour"),
        ([1, 0, 0], {}, DimensionMismatch, "3 dimensions, the gallery 2"),
        (np.empty((0, 2)), {}, DimensionMismatch, r"\(0, 2\)"),
        ([[1, 0], [1]], {}, UsageError, r"a query is numbers, \(D,\) or \(n, D\)"),
        ([[[1, 0]]], {}, DimensionMismatch, r"\(1, 1, 2\)"),
        ([1, np.nan], {}, NotFiniteError, "NaN or Inf"),
        ([[1, 0], [np.inf, 0]], {}, NotFiniteError, "NaN or Inf"),
        ([0, 0], {}, NotFiniteError, "length 0"),
        ([[1, 0], [-1, 0]], {}, NotFiniteError, "length 0"),
        ([1e300, 0], {}, NotFiniteError, "too large"),
        ([1e39, 0], {"combine": "best"}, NotFiniteError, "too large"),
        (
            [1, 0],
            {"fingerprint": Fingerprint(name="stripes", version="1")},
            ExtractorMismatch,
            "name: 'stripes' ≠ 'external:test'",
        ),
    ],
)
def test_queries_that_are_refused(
    cameras: Gallery, query: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        cameras.search(query, **options)


def test_an_equal_fingerprint_is_accepted(cameras: Gallery) -> None:
    assert found(cameras, [1, 0], k=1, fingerprint=FINGERPRINT) == [0]


def test_matches_of_a_large_gallery_are_its_items(
    make_gallery: MakeGallery, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    gallery = make_gallery()
    for first in (0, 5):
        rows = [{"person": str(n), "attr.hat": "yes"} for n in range(first, first + 5)]
        gallery.add(rng.standard_normal((5, 3)), rows)
    query = rng.standard_normal(3)
    expected = gallery.search(query, k=10).matches
    monkeypatch.setattr(query_module, "_MANY", 9)
    assert gallery.search(query, k=10).matches == expected
    assert [one.person for one in expected] == [str(one.item) for one in expected]
    assert gallery.search(query, where="camera = 1").matches == ()
