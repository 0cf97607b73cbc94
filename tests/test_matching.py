"""Searching a gallery with a matcher, against all of it compared one by one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FINGERPRINT
from numpy.typing import NDArray
from test_aligned import local

from reid_index import Fingerprint, Gallery, Matcher, Reranking, Result
from reid_index.errors import (
    CorruptGallery,
    DimensionMismatch,
    ExtractorMismatch,
    NotFiniteError,
    UsageError,
)
from reid_index.search import matching

ROWS, DIM, SHAPE = 60, 6, (3, 5)
WEIGHT = 0.5
MATCHER = Matcher(name="aligned", weight=WEIGHT)

Found = list[tuple[int, float, float]]


def people(rows: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, DIM)).astype(np.float32)
    return vectors, rng.normal(size=(rows, *SHAPE)).astype(np.float32)


ASKED, ASKED_PARTS = people(4, 99)
ONE, ITS_PARTS = ASKED[0], ASKED_PARTS[0]


@pytest.fixture(scope="module", params=["float32", "float16"])
def gallery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """Two shards; items 7 and 40 are deleted, 11 and 50 are alike in all."""
    made = Gallery.create(
        tmp_path_factory.mktemp("matching") / "g",
        dim=DIM,
        fingerprint=FINGERPRINT,
        dtype=request.param,
        matcher=MATCHER,
    )
    vectors, parts = people(ROWS, 0)
    vectors[50], parts[50] = vectors[11], parts[11]
    items = [{"camera": n % 3 + 1} for n in range(ROWS)]
    for start, stop in ((0, 35), (35, ROWS)):
        made.add(vectors[start:stop], items[start:stop], parts=parts[start:stop])
    made.delete(items=[7, 40])
    return made


def expected(
    gallery: Gallery,
    vectors: NDArray[np.float32],
    parts: NDArray[np.float32],
    *,
    best: bool = False,
    allowed: Callable[[int], bool] = lambda _: True,
) -> Found:
    """(item, matched distance, similarity) of all that is allowed, by the definition, best
    first."""
    rows = range(len(gallery))
    stored, items = gallery.vectors(rows).astype(np.float64), gallery.items["item"].to_pylist()
    asked = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    of_parts = np.array([[local(one, its) for its in gallery.parts(rows)] for one in parts])
    if not best:
        asked = asked.mean(axis=0, keepdims=True)
        asked /= np.linalg.norm(asked)
        of_parts = of_parts.mean(axis=0, keepdims=True)
    cosines = asked @ stored.T
    matched = (np.sqrt(np.maximum(2 - 2 * cosines, 0)) + WEIGHT * of_parts).min(axis=0)
    every = zip(items, matched.tolist(), cosines.max(axis=0).tolist(), strict=True)
    kept = [one for one in every if allowed(one[0])]
    return sorted(kept, key=lambda one: (round(one[1], 6), one[0]))


def assert_answered(result: Result, wanted: Found) -> None:
    assert [match.item for match in result.matches] == [item for item, _, _ in wanted]
    assert [match.rank for match in result.matches] == list(range(1, len(wanted) + 1))
    found = [(match.matched_distance, match.similarity) for match in result.matches]
    np.testing.assert_allclose(found, [one[1:] for one in wanted], rtol=0, atol=2e-6)


def test_all_are_compared_by_vectors_and_parts(gallery: Gallery) -> None:
    for vector, parts in zip(ASKED, ASKED_PARTS, strict=True):
        wanted = expected(gallery, vector[None], parts[None])
        result = gallery.search(vector, parts=parts, k=ROWS, shortlist=None)
        assert_answered(result, wanted)
        assert (result.exact, result.allowed) == (True, 58)
        assert result.plan == "all, aligned over 58 of 58 allowed"
        few = gallery.search(vector, parts=parts, k=9)
        assert_answered(few, wanted[:9])
        assert few.exact
        assert few.plan.endswith(", aligned over 58 of 58 allowed")
        assert set(few.seconds) == {"where", "search", "match", "items"}


def test_parts_decide(gallery: Gallery) -> None:
    by_vectors = gallery.nearest(ONE, k=20)[0]
    by_both = [match.item for match in gallery.search(ONE, parts=ITS_PARTS).matches]
    assert gallery.items["item"].take(by_vectors.rows).to_pylist() != by_both


def test_of_equals_the_smaller_id_comes_first(gallery: Gallery) -> None:
    row = gallery.row_of(50)
    (vector,), (parts,) = gallery.vectors([row]), gallery.parts([row])
    matches = gallery.search(vector, parts=parts, k=2).matches
    assert [match.item for match in matches] == [11, 50]
    assert matches[0].matched_distance == matches[1].matched_distance
    assert matches[0].similarity == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("shortlist", [10, 25, 57])
def test_only_the_nearest_by_their_vectors_have_their_parts_compared(
    gallery: Gallery, shortlist: int
) -> None:
    wanted = expected(gallery, ONE[None], ITS_PARTS[None])
    nearest = sorted(wanted, key=lambda one: -one[2])[:shortlist]
    result = gallery.search(ONE, parts=ITS_PARTS, k=10, shortlist=shortlist)
    assert_answered(result, [one for one in wanted if one in nearest][:10])
    assert not result.exact
    assert result.plan.endswith(f", aligned over {shortlist} of 58 allowed")


def test_a_shortlist_has_k_rows_at_least(gallery: Gallery) -> None:
    wanted = expected(gallery, ONE[None], ITS_PARTS[None])
    nearest = sorted(wanted, key=lambda one: -one[2])[:12]
    result = gallery.search(ONE, parts=ITS_PARTS, k=12, shortlist=3)
    assert_answered(result, [one for one in wanted if one in nearest])


def test_filters_come_before_the_shortlist(gallery: Gallery) -> None:
    wanted = expected(
        gallery, ONE[None], ITS_PARTS[None], allowed=lambda item: item % 3 == 1 and item >= 20
    )
    for shortlist in (None, len(wanted), 1000):
        result = gallery.search(
            ONE,
            parts=ITS_PARTS,
            where="item >= 20 AND camera <> 1",
            not_camera=[3],
            shortlist=shortlist,
        )
        assert_answered(result, wanted)
        assert result.exact
    assert gallery.search(ONE, parts=ITS_PARTS, where="camera = 9").matches == ()


def test_a_threshold_is_on_the_similarity_and_comes_first(gallery: Gallery) -> None:
    wanted = expected(gallery, ONE[None], ITS_PARTS[None])
    limit = sorted((one[2] for one in wanted), reverse=True)[14] + 1e-5  # between two of them
    passing = [one for one in wanted if one[2] >= limit]
    assert len(passing) == 14
    for shortlist in (None, 20, 1000):
        result = gallery.search(ONE, parts=ITS_PARTS, k=30, threshold=limit, shortlist=shortlist)
        assert_answered(result, passing)
        assert result.exact  # nothing beyond the shortlist reaches it
        assert "14 of 58 allowed" in result.plan
    cut = gallery.search(ONE, parts=ITS_PARTS, k=5, threshold=limit, shortlist=10)
    assert not cut.exact
    none = gallery.search(ONE, parts=ITS_PARTS, threshold=1.0)
    assert none.note == "not in this gallery: no allowed item reaches the threshold 1"


def test_several_pictures_are_averaged_or_the_best_counts(gallery: Gallery) -> None:
    for combine in ("mean", "best"):
        wanted = expected(gallery, ASKED, ASKED_PARTS, best=combine == "best")
        for shortlist in (None, 1000):
            result = gallery.search(
                ASKED, parts=ASKED_PARTS, combine=combine, k=12, shortlist=shortlist
            )
            assert_answered(result, wanted[:12])
            assert result.exact


def test_many_queries_are_answered_as_each_alone(gallery: Gallery) -> None:
    wheres = ["camera = 1", None, "camera = 2", "camera = 1"]
    options: dict[str, Any] = {"k": 7, "shortlist": 12, "threshold": -0.3}
    many = gallery.search_many(ASKED, parts=ASKED_PARTS, where=wheres, **options)
    for result, vector, parts, where in zip(many, ASKED, ASKED_PARTS, wheres, strict=True):
        alone = gallery.search(vector, parts=parts, where=where, **options)
        assert (result.matches, result.exact) == (alone.matches, alone.exact)
        assert all(match.matched_distance is not None for match in result.matches)
    assert gallery.search_many(np.empty((0, DIM)), parts=np.empty((0, *SHAPE))) == []


def test_many_rows_are_gathered_a_few_at_a_time(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gallery.search(ONE, parts=ITS_PARTS, k=ROWS, shortlist=None).matches
    monkeypatch.setattr(matching, "_GATHERED", 7)
    assert gallery.search(ONE, parts=ITS_PARTS, k=ROWS, shortlist=None).matches == whole


def test_an_items_parts_can_be_had(gallery: Gallery) -> None:
    stored = people(ROWS, 0)[1].astype(gallery.manifest.dtype).astype(np.float32)
    for item in (0, 8, 39, 41):
        row = gallery.row_of(item)
        np.testing.assert_array_equal(gallery.parts([row]), stored[[item]])
    with pytest.raises(IndexError, match="there is no row 58"):
        gallery.parts([58])


def test_an_empty_gallery_answers_nothing(tmp_path: Path) -> None:
    empty = Gallery.create(tmp_path / "g", dim=DIM, fingerprint=FINGERPRINT, matcher=MATCHER)
    for shortlist in (None, 1000):
        result = empty.search(ONE, parts=ITS_PARTS, shortlist=shortlist)
        assert (result.matches, result.exact) == ((), True)


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"parts": None}, UsageError, "the query has no parts: give those that its extractor"),
        ({"parts": ITS_PARTS[:2]}, DimensionMismatch, r"\(1, 2, 5\), and \(1, 3, 5\) is needed"),
        ({"parts": ITS_PARTS[:, :4]}, DimensionMismatch, r"\(1, 3, 4\), and \(1, 3, 5\)"),
        ({"parts": ASKED_PARTS}, DimensionMismatch, r"\(4, 3, 5\), and \(1, 3, 5\) is needed"),
        ({"parts": ITS_PARTS[0]}, DimensionMismatch, r"shape \(5,\), and \(1, 3, 5\)"),
        ({"parts": np.full(SHAPE, np.nan)}, NotFiniteError, "parts hold NaN or Inf"),
        ({"parts": np.full(SHAPE, np.inf)}, NotFiniteError, "parts hold NaN or Inf"),
        ({"parts": np.full(SHAPE, 1e39)}, NotFiniteError, "too large for float32"),
        ({"parts": np.full(SHAPE, "a")}, UsageError, "real numbers"),
        ({"parts": [[1, 2], [3]]}, UsageError, "parts are numbers"),
        ({"shortlist": 0}, UsageError, "whole number from 1 up, or None"),
        ({"shortlist": -1}, UsageError, "whole number from 1 up"),
        ({"shortlist": 2.5}, UsageError, "whole number from 1 up"),
        ({"shortlist": True}, UsageError, "whole number from 1 up"),
        ({"shortlist": None, "recall": 0.9}, UsageError, "leave recall and device out, or give a"),
        ({"rerank": Reranking(k1=3, k2=2)}, UsageError, "re-ranking goes by vectors alone"),
        (
            {"fingerprint": Fingerprint(name="external:other", version="1")},
            ExtractorMismatch,
            "name: 'external:other'",
        ),
    ],
)
def test_what_is_refused(
    gallery: Gallery, options: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        gallery.search(ONE, **{"parts": ITS_PARTS, **options})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"parts": None}, "the query has no parts"),
        ({"parts": ASKED_PARTS[:3]}, r"\(3, 3, 5\), and \(4, 3, 5\) is needed"),
        ({"shortlist": None}, "is for single queries"),
        ({"shortlist": 0}, "whole number from 1 up"),
    ],
)
def test_what_is_refused_of_many(gallery: Gallery, options: dict[str, Any], named: str) -> None:
    with pytest.raises((UsageError, DimensionMismatch), match=named):
        gallery.search_many(ASKED, **{"parts": ASKED_PARTS, **options})


def test_parts_are_refused_where_none_are_compared(tmp_path: Path) -> None:
    plain = Gallery.create(tmp_path / "g", dim=DIM, fingerprint=FINGERPRINT)
    plain.add(ASKED)
    for ask in (
        lambda: plain.search(ONE, parts=ITS_PARTS),
        lambda: plain.search_many(ASKED, parts=ASKED_PARTS),
    ):
        with pytest.raises(UsageError, match="the query's parts say nothing: leave them out"):
            ask()
    with pytest.raises(UsageError, match="by their vectors alone: it has no parts"):
        plain.parts([0])
    assert plain.search(ONE).matches[0].matched_distance is None


def test_shards_whose_parts_differ_are_damage() -> None:
    with pytest.raises(CorruptGallery, match="parts of different shapes"):
        matching.Matching(MATCHER, [np.ones((2, 3, 4)), np.ones((2, 3, 5))])


def test_without_an_index_a_recall_changes_nothing(gallery: Gallery) -> None:
    result = gallery.search(ONE, parts=ITS_PARTS, recall=0.5, k=9)
    assert_answered(result, expected(gallery, ONE[None], ITS_PARTS[None])[:9])
