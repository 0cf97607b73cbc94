"""Gallery.search_videos: what comparing all pairs one by one gives, whatever the shards."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from test_coattention import by_loops, drawn

from reid_index import Gallery, Matcher, SegmentFrames, VideoResult
from reid_index.errors import DimensionMismatch, NotFiniteError, UsageError, WhereError
from reid_index.evaluation.video_scores import VideoScores
from reid_index.search.aggregate import Aggregation, Groups
from reid_index.search.coattention import FramePairs, own_codes
from reid_index.search.oracle import score
from reid_index.search.pairs import Pairs, VectorPairs
from reid_index.store import tracks

Make = Callable[..., Gallery]
DIM, ROWS = 12, 160
HEAD = tuple((0.1 * np.random.default_rng(8).normal(size=DIM) - 0.05).tolist())
COATTENTION = Matcher(name="coattention", head=HEAD, bias=0.5)


def item_of(row: int, rng: np.random.Generator) -> dict[str, Any]:
    track = [None, "1", "2", "3"][rng.integers(4)]
    return {
        "video": [None, "a.mp4", "b.mp4"][rng.integers(3)],
        "source": f"f{rng.integers(2)}/{row}.png",
        "camera": int(rng.integers(3)) if row % 11 else None,
        "track": track,
        "person": None if track is None else f"p{track}",
        "start_s": row * 0.5,
        "end_s": row * 0.5 + 0.4,
        "start": f"2024-05-01T12:00:{row % 60:02d}Z",
    }


ITEMS = [item_of(row, np.random.default_rng(row)) for row in range(ROWS)]
VECTORS = np.random.default_rng(1).normal(size=(ROWS, DIM)).astype(np.float32)
VECTORS[40:44] = VECTORS[50:54]  # some are equal
FRAMES = drawn(ROWS, dk=6, dv=DIM, longest=5)
TARGET = drawn(4, seed=3, dk=6, dv=DIM, longest=5)
ASKED = np.random.default_rng(2).normal(size=(4, DIM)).astype(np.float32)


def filled(
    make_gallery: Make,
    name: str = "g",
    *,
    cuts: Sequence[int] = (),
    order: NDArray[np.int64] | None = None,
    frames: bool = False,
    **options: Any,
) -> Gallery:
    """A gallery of all rows, in shards cut there."""
    if frames:
        options["matcher"] = COATTENTION
    made = make_gallery(name, dim=DIM, **options)
    rows = np.arange(ROWS) if order is None else order
    for some in np.split(rows, cuts):
        items = [ITEMS[row] | {"item": int(row)} for row in some.tolist()]
        if order is not None:
            items = [ITEMS[row] | {"number": row} for row in some.tolist()]
        made.add(VECTORS[some], items, frames=FRAMES.take(some) if frames else None)
    return made


def key_of(row: int) -> object:
    known = ITEMS[row]
    if known["track"] is None:
        return row
    place = known["video"] or known["source"].split("/")[0] + "/"
    return place, known["camera"], known["track"], known["person"]


def expected(
    similarities: NDArray[np.floating[Any]],
    allowed: Sequence[int],
    *,
    top: float = 0.2,
    how: str = "sum",
    above: float | None = None,
) -> list[tuple[float, int, int]]:
    """Score, first row and pairs of each candidate, best first; similarities (rows, n)."""
    groups: dict[object, list[int]] = {}
    for row in allowed:
        groups.setdefault(key_of(row), []).append(row)
    found = []
    for rows in groups.values():
        pairs = np.sort(similarities[rows].astype(float).reshape(-1))[::-1]
        best = pairs[: max(1, math.ceil(top * len(pairs) - 1e-9))]
        if above is not None:
            best = pairs[pairs >= above]
        total = math.fsum(best.tolist())
        if len(best):
            found.append((total / len(best) if how == "mean" else total, min(rows), len(best)))
    return sorted(found, key=lambda one: (-one[0], one[1]))


def answer(result: VideoResult) -> list[Any]:
    """All that it says but the seconds and the ranks of shards."""
    return [replace(one, winners=()) for one in result.candidates] + [
        (w.target, w.similarity, w.match.item, w.match.similarity, w.match.distance)
        for one in result.candidates
        for w in one.winners
    ]


def similarities(metric: str, dtype: str = "float32") -> NDArray[np.float32]:
    rows, asked = VECTORS.astype(np.float64), ASKED.astype(np.float64)
    if metric == "cosine":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    stored = rows.astype(dtype)
    if metric == "euclidean":
        gaps = stored.astype(np.float64)[:, None] - asked
        distances: NDArray[np.float32] = -np.linalg.norm(gaps, axis=2).astype(np.float32)
        return distances
    products: NDArray[np.float32] = (stored.astype(np.float64) @ asked.T).astype(np.float32)
    return products


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("options", "where", "passes"),
    [
        ({}, None, lambda _: True),
        ({"how": "mean", "top": 0.6}, "camera = 1", lambda known: known["camera"] == 1),
        ({"how": "above", "above": -0.1}, "start_s >= 20", lambda known: known["start_s"] >= 20),
        ({"how": "mean", "top": 1}, "track IS NULL", lambda known: known["track"] is None),
    ],
)
def test_it_is_what_comparing_all_pairs_gives(
    make_gallery: Make,
    metric: str,
    dtype: str,
    options: dict[str, Any],
    where: str | None,
    passes: Callable[[dict[str, Any]], bool],
) -> None:
    made = filled(make_gallery, cuts=(50, 51, 120), metric=metric, dtype=dtype)
    if metric == "euclidean" and "above" in options:
        options = options | {"above": -4.5}
    result = made.search_videos(ASKED, k=500, where=where, winners=2, **options)
    allowed = [row for row in range(ROWS) if passes(ITEMS[row])]
    wanted = expected(similarities(metric, dtype), allowed, **options)
    found = result.candidates
    assert (result.targets, result.allowed, result.rows) == (4, len(allowed), ROWS)
    assert result.of == len({key_of(row) for row in allowed}) == result.covered
    assert result.exact
    assert [one.rank for one in found] == list(range(1, len(wanted) + 1))
    np.testing.assert_allclose([one.score for one in found], [one[0] for one in wanted], atol=2e-6)
    assert [one.counted for one in found] == [one[2] for one in wanted]
    for one, (_, first, _) in zip(found, wanted, strict=True):
        rows = [row for row in allowed if key_of(row) == key_of(first)]
        assert (one.segments, one.pairs) == (len(rows), 4 * len(rows))
        known = ITEMS[first]
        for name in ("video", "camera", "track", "person"):
            assert getattr(one, name) == known[name]
        assert (one.start_s, one.end_s) == (
            min(ITEMS[row]["start_s"] for row in rows),
            max(ITEMS[row]["end_s"] for row in rows),
        )
        assert one.start is not None
        assert {winner.match.item for winner in one.winners} <= set(rows)
        for rank, winner in enumerate(one.winners, start=1):
            at = similarities(metric, dtype)[winner.match.item, winner.target]
            assert winner.similarity == pytest.approx(at, abs=1e-6)
            kept = winner.match.distance if metric == "euclidean" else winner.match.similarity
            assert kept == pytest.approx(abs(at) if metric == "euclidean" else at, abs=1e-6)
            assert winner.match.rank == rank
        assert len(one.winners) == min(2, one.counted)


def test_similarities_are_those_that_a_search_for_items_gives(make_gallery: Make) -> None:
    made = filled(make_gallery, cuts=(70,), dtype="float16")
    result = made.search_videos(ASKED[0], k=500, top=1, winners=500)
    found = {w.match.item: w.similarity for one in result.candidates for w in one.winners}
    given = {m.item: m.similarity for m in made.search(ASKED[0], k=500).matches}
    assert found == given


def probability(codes: NDArray[np.float32]) -> NDArray[np.float64]:
    return by_loops(codes, TARGET.index, FRAMES, COATTENTION)[0].T


@pytest.mark.parametrize("options", [{}, {"how": "mean"}, {"how": "above", "above": 0.6}])
def test_frames_are_attended_to(make_gallery: Make, options: dict[str, Any]) -> None:
    made = filled(make_gallery, cuts=(9, 90), frames=True)
    codes = own_codes(TARGET)
    result = made.search_videos(codes, index=TARGET.index, k=500, exact=True, winners=1, **options)
    pairs = probability(codes)
    wanted = expected(pairs, range(ROWS), **options)
    found = result.candidates
    np.testing.assert_allclose([one.score for one in found], [one[0] for one in wanted], atol=1e-6)
    assert [one.counted for one in found] == [one[2] for one in wanted]
    assert result.plan.startswith("coattention over 160 of 160 allowed segments")
    unit = codes.astype(float) / np.linalg.norm(codes.astype(float), axis=1, keepdims=True)
    rows = VECTORS.astype(float) / np.linalg.norm(VECTORS.astype(float), axis=1, keepdims=True)
    for one in found:
        (winner,) = one.winners
        at = pairs[winner.match.item, winner.target]
        assert winner.similarity == pytest.approx(at, abs=1e-6)
        cosine = rows[winner.match.item] @ unit[winner.target]
        assert winner.match.similarity == pytest.approx(cosine, abs=1e-6)


@pytest.mark.parametrize(("shortlist", "k"), [(1, 1), (20, 3), (60, 2), (20, 15), (159, 1)])
def test_a_shortlist_is_of_the_best_by_cosines(make_gallery: Make, shortlist: int, k: int) -> None:
    made = filled(make_gallery, cuts=(9, 90), frames=True)
    codes = own_codes(TARGET)
    rows = VECTORS.astype(float) / np.linalg.norm(VECTORS.astype(float), axis=1, keepdims=True)
    unit = codes.astype(float) / np.linalg.norm(codes.astype(float), axis=1, keepdims=True)
    coarse = expected((rows @ unit.T).astype(np.float32), range(ROWS))
    covered: list[int] = []
    for count, (_, first, _) in enumerate(coarse):
        if len(covered) >= shortlist and count >= k:
            break
        covered += [row for row in range(ROWS) if key_of(row) == key_of(first)]
    result = made.search_videos(codes, index=TARGET.index, k=k, shortlist=shortlist)
    wanted = expected(probability(codes), covered)
    np.testing.assert_allclose(
        [one.score for one in result.candidates], [one[0] for one in wanted[:k]], atol=1e-6
    )
    assert (result.covered, result.of) == (len(wanted), len(coarse))
    assert result.exact is (len(wanted) == len(coarse))
    assert result.plan == (
        f"coattention over {len(covered)} of 160 allowed segments, {len(wanted)} of "
        f"{len(coarse)} candidates"
    )


@pytest.mark.parametrize("frames", [False, True])
def test_neither_shards_nor_storage_nor_other_filters_change_anything(
    make_gallery: Make, frames: bool
) -> None:
    asked: dict[str, Any] = {"k": 30, "where": "camera != 2 AND start_s < 70", "winners": 4}
    if frames:
        asked |= {"index": TARGET.index, "shortlist": 60}
    query = own_codes(TARGET) if frames else ASKED
    one = filled(make_gallery, "one", frames=frames)
    wanted = answer(one.search_videos(query, **asked))
    assert len(wanted) > 30
    many = filled(make_gallery, "many", cuts=range(3, 160, 7), frames=frames)
    assert answer(many.search_videos(query, **asked)) == wanted
    backwards = asked | {"where": "start_s < 70 AND NOT camera = 2"}
    assert answer(many.search_videos(query, **backwards)) == wanted
    gone = asked | {"where": None}
    for made in (one, many):
        made.delete(where="camera IS NULL OR camera = 2 OR start_s >= 70")
        again = made.search_videos(query, **gone)
        assert answer(again) == wanted
        assert again.rows == len(made)
        made.compact()
        assert answer(made.search_videos(query, **gone)) == wanted


def test_rows_in_another_order_have_the_same_scores(make_gallery: Make) -> None:
    order = np.random.default_rng(6).permutation(ROWS)
    straight = filled(make_gallery, "a").search_videos(ASKED, k=500)
    mixed = filled(make_gallery, "b", order=order, cuts=(40,)).search_videos(ASKED, k=500)
    for name in ("score", "segments", "counted", "start", "end_s", "track"):
        found, wanted = (
            [getattr(one, name) for one in result.candidates] for result in (mixed, straight)
        )
        if name == "score":
            assert found == wanted
        else:
            assert sorted(map(str, found)) == sorted(map(str, wanted))


def test_cameras_that_are_left_out_and_what_nobody_has(make_gallery: Make) -> None:
    made = filled(make_gallery)
    result = made.search_videos(ASKED, k=500, not_camera=[0, 1])
    assert {one.camera for one in result.candidates} == {None, 2}
    none = made.search_videos(ASKED, where="camera = 77")
    assert (none.candidates, none.of, none.allowed, none.exact) == ((), 0, 0, True)
    empty = make_gallery("empty", dim=DIM)
    assert empty.search_videos(ASKED).candidates == ()
    of_frames = make_gallery("of frames", dim=DIM, matcher=COATTENTION)
    assert of_frames.search_videos(ASKED, index=np.ones((4, 6))).candidates == ()


def test_what_is_grouped_is_kept(make_gallery: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = filled(make_gallery)
    first = answer(made.search_videos(ASKED))
    monkeypatch.setattr(tracks, "_codes", None)
    assert answer(made.search_videos(ASKED)) == first
    assert made.search_videos(ASKED, where="camera = 1").candidates


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"k": 0}, UsageError, "k must be a whole number from 1 up"),
        ({"top": 0}, UsageError, "top is a share of the pairs"),
        ({"how": "best"}, UsageError, "there is no 'best'"),
        ({"how": "above", "above": math.nan}, UsageError, "a finite number, got nan"),
        ({"above": 0.5}, UsageError, "needs how='above'"),
        ({"winners": -1}, UsageError, "winners must be a whole number from 0 up"),
        ({"winners": True}, UsageError, "winners must be"),
        ({"shortlist": 10}, UsageError, "compares all pairs of vectors, so a shortlist"),
        ({"shortlist": 0}, UsageError, "a shortlist is a whole number"),
        ({"index": np.ones((4, 6))}, UsageError, "so index vectors say nothing"),
        ({"query": np.ones((4, 7))}, DimensionMismatch, "the query has 7 dimensions"),
        ({"query": np.full((4, DIM), np.nan)}, NotFiniteError, "NaN or Inf"),
        ({"query": np.empty((0, DIM))}, DimensionMismatch, "with n ≥ 1"),
        ({"where": "camera ="}, WhereError, "camera"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    make_gallery: Make, options: dict[str, Any], error: type[Exception], named: str
) -> None:
    made = filled(make_gallery)
    with pytest.raises(error, match=named):
        made.search_videos(options.pop("query", ASKED), **options)


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"index": None}, UsageError, "the target has no index vectors: give those"),
        ({"index": np.ones((3, 6))}, DimensionMismatch, r"shape \(3, 6\), and \(4, 6\) is needed"),
        ({"index": np.ones((4, 5))}, DimensionMismatch, r"shape \(4, 5\), and \(4, 6\)"),
        ({"index": np.full((4, 6), np.inf)}, NotFiniteError, "index vectors hold NaN, Inf"),
        ({"index": [[1, 2], [3]]}, UsageError, "index vectors are numbers"),
        ({"exact": True, "shortlist": 5}, UsageError, "leave one out"),
    ],
)
def test_what_cannot_be_asked_of_frames_is_refused(
    make_gallery: Make, options: dict[str, Any], error: type[Exception], named: str
) -> None:
    made = filled(make_gallery, frames=True)
    with pytest.raises(error, match=named):
        made.search_videos(ASKED, **({"index": TARGET.index} | options))


@pytest.mark.parametrize("frames", [False, True])
def test_scores_for_an_evaluation_are_those_of_the_search(make_gallery: Make, frames: bool) -> None:
    """Chunk and exact to the last bit."""
    targets = Groups.of(np.array([0, 1, 1, 0]))
    made = filled(make_gallery, cuts=(33,), frames=frames)
    codes = own_codes(TARGET) if frames else ASKED
    unit = (codes / np.linalg.norm(codes.astype(float), axis=1, keepdims=True)).astype(np.float32)

    def pairs_of(rows: NDArray[np.int64]) -> Pairs:
        if made.frame_blocks is not None:
            blocks = made.frame_blocks
            return FramePairs(codes[rows], TARGET.index[rows], blocks, matcher=COATTENTION)
        return VectorPairs(unit[rows], made.blocks, metric=made.metric)

    gallery = Groups.of(tracks.tracks_of(made.items))
    scores = VideoScores(targets, gallery, pairs_of, dim=DIM, aggregation=Aggregation())
    assert (scores.queries, scores.gallery) == (2, len(gallery))
    keys, bounds = scores.chunk(0, 2)
    assert (bounds == 0).all()
    queries, rows = np.indices(keys.shape).reshape(2, -1)
    np.testing.assert_array_equal(scores.exact(queries, rows), keys.reshape(-1))
    np.testing.assert_array_equal(scores.chunk(1, 2)[0], keys[1:])
    for query in range(2):
        rows = targets.rows_of(query)
        more: dict[str, Any] = {"index": TARGET.index[rows], "exact": True} if frames else {}
        found = made.search_videos(codes[rows], k=500, **more).candidates
        wanted = sorted((-keys[query]).tolist(), reverse=True)
        assert [one.score for one in found] == pytest.approx(wanted)


def test_a_search_for_items_agrees_with_one_for_a_segment(make_gallery: Make) -> None:
    """A gallery of single crops: each is a candidate, and the answer is that of `search`."""
    made = make_gallery(dim=DIM)
    made.add(VECTORS, pa.table({"source": [f"{row}.png" for row in range(ROWS)]}))
    result = made.search_videos(ASKED[1], k=40)
    matches = made.search(ASKED[1], k=40).matches
    assert [one.winners[0].match for one in result.candidates] == [
        replace(match, rank=1) for match in matches
    ]
    assert [one.score for one in result.candidates] == [match.similarity for match in matches]
    unit = (ASKED[1] / np.linalg.norm(ASKED[1].astype(float))).astype(np.float32)
    given = score(unit, made.vectors(range(ROWS)), metric=made.metric)
    assert result.candidates[0].score == given.max()


def test_frames_of_half_precision(make_gallery: Make) -> None:
    made = filled(make_gallery, cuts=(20,), frames=True, dtype="float16")
    stored = made.frames(range(ROWS))
    assert isinstance(stored, SegmentFrames)
    codes = own_codes(TARGET)
    result = made.search_videos(codes, index=TARGET.index, k=500, exact=True)
    pairs = by_loops(codes, TARGET.index, stored, COATTENTION)[0].T
    wanted = expected(pairs, range(ROWS))
    np.testing.assert_allclose(
        [one.score for one in result.candidates], [one[0] for one in wanted], atol=1e-6
    )
