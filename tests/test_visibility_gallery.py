"""Galleries whose items say which of their parts are to be seen: what is written, carried on,
answered and refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from conftest import FINGERPRINT, contents
from numpy.typing import NDArray
from test_parts import rewritten
from test_visibility import weighted

from reid_index import (
    ArrayStream,
    Gallery,
    Matcher,
    Metric,
    Reranking,
    Result,
    open_shard,
    verify_gallery,
    write_shard,
)
from reid_index.errors import BadShard, DimensionMismatch, UsageError
from reid_index.search import matching

ROWS, DIM, SHAPE = 60, 6, (4, 5)

Found = list[tuple[int, float, float]]
People = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]


def people(rows: int, seed: int) -> People:
    """Vectors, parts, and which are visible: of some people none, of some all."""
    rng = np.random.default_rng(seed)
    visible = rng.integers(0, 2, size=(rows, SHAPE[0])).astype(np.uint8)
    visible[2::9], visible[3::9] = 0, 1
    return (
        rng.normal(size=(rows, DIM)).astype(np.float32),
        rng.normal(size=(rows, *SHAPE)).astype(np.float32),
        visible,
    )


ASKED, ASKED_PARTS, ASKED_VISIBLE = people(4, 99)
ASKED_VISIBLE[0] = [1, 0, 1, 0]
ONE, ITS_PARTS, ITS_VISIBLE = ASKED[0], ASKED_PARTS[0], ASKED_VISIBLE[0]
ASK: dict[str, Any] = {"parts": ITS_PARTS, "visible": ITS_VISIBLE}


def matcher(distance: str = "cosine") -> Matcher:
    return Matcher(name="visibility", distance=distance)


def make(path: Path, distance: str = "cosine", dtype: str = "float32") -> Gallery:
    """Two shards; items 7 and 40 are deleted, 11 and 50 are alike in all."""
    made = Gallery.create(
        path, dim=DIM, fingerprint=FINGERPRINT, dtype=dtype, matcher=matcher(distance)
    )
    vectors, parts, visible = people(ROWS, 0)
    vectors[50], parts[50], visible[50] = vectors[11], parts[11], visible[11]
    items = [{"camera": n % 3 + 1} for n in range(ROWS)]
    for start, stop in ((0, 35), (35, ROWS)):
        some = slice(start, stop)
        made.add(vectors[some], items[some], parts=parts[some], visible=visible[some])
    made.delete(items=[7, 40])
    return made


@pytest.fixture(
    scope="module",
    params=[("cosine", "float32"), ("euclidean", "float32"), ("cosine", "float16")],
)
def gallery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return make(tmp_path_factory.mktemp("visibility") / "g", *request.param)


def expected(
    gallery: Gallery,
    vectors: NDArray[np.float32],
    parts: NDArray[np.float32],
    visible: NDArray[np.uint8],
    *,
    best: bool = False,
) -> Found:
    """(item, d, similarity) of all, by the definition, best first."""
    assert gallery.matcher is not None
    rows = range(len(gallery))
    stored, items = gallery.vectors(rows).astype(np.float64), gallery.items["item"].to_pylist()
    asked = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    if not best:
        asked = asked.mean(axis=0, keepdims=True)
        asked /= np.linalg.norm(asked)
    cosines = asked @ stored.T
    matched = np.array(
        [
            [
                weighted(one, seen, its, shown, cosine, gallery.matcher.distance)
                for its, shown, cosine in zip(
                    gallery.parts(rows), gallery.visible(rows), of_picture, strict=True
                )
            ]
            for one, seen, of_picture in zip(
                parts, visible, np.broadcast_to(cosines, (len(parts), len(rows))), strict=True
            )
        ]
    )
    final = matched.min(axis=0) if best else matched.mean(axis=0)
    every = zip(items, final.tolist(), cosines.max(axis=0).tolist(), strict=True)
    return sorted(every, key=lambda one: (round(one[1], 6), one[0]))


def of_one(gallery: Gallery) -> Found:
    return expected(gallery, ONE[None], ITS_PARTS[None], ITS_VISIBLE[None])


def assert_answered(result: Result, wanted: Found) -> None:
    assert [match.item for match in result.matches] == [item for item, _, _ in wanted]
    found = [(match.matched_distance, match.similarity) for match in result.matches]
    np.testing.assert_allclose(found, [one[1:] for one in wanted], rtol=0, atol=2e-6)


def test_all_are_compared_by_what_both_show(gallery: Gallery) -> None:
    for vector, parts, visible in zip(ASKED, ASKED_PARTS, ASKED_VISIBLE, strict=True):
        wanted = expected(gallery, vector[None], parts[None], visible[None])
        options: dict[str, Any] = {"parts": parts, "visible": visible}
        result = gallery.search(vector, **options, k=ROWS, shortlist=None)
        assert_answered(result, wanted)
        assert (result.exact, result.allowed) == (True, 58)
        assert result.plan == "all, visibility over 58 of 58 allowed"
        assert_answered(gallery.search(vector, **options, k=9), wanted[:9])


def test_a_query_that_says_nothing_shows_all(gallery: Gallery) -> None:
    all_of_them = np.ones_like(ITS_VISIBLE)
    wanted = expected(gallery, ONE[None], ITS_PARTS[None], all_of_them[None])[:20]
    assert_answered(gallery.search(ONE, parts=ITS_PARTS), wanted)
    said = gallery.search(ONE, parts=ITS_PARTS, visible=[True] * SHAPE[0])
    assert_answered(said, wanted)
    assert [one[0] for one in wanted] != [one[0] for one in of_one(gallery)[:20]]


def test_one_that_shows_nothing_is_compared_by_its_vector(gallery: Gallery) -> None:
    result = gallery.search(ONE, parts=ITS_PARTS, visible=np.zeros(SHAPE[0]), k=15)
    nearest = gallery.nearest(ONE[None], k=15)[0]
    found = [match.item for match in result.matches]
    assert found == gallery.items["item"].take(nearest.rows).to_pylist()


def test_of_equals_the_smaller_id_comes_first(gallery: Gallery) -> None:
    row = gallery.row_of(50)
    matches = gallery.search(
        gallery.vectors([row])[0], parts=gallery.parts([row]), visible=gallery.visible([row]), k=2
    ).matches
    assert [match.item for match in matches] == [11, 50]
    assert matches[0].matched_distance == matches[1].matched_distance


@pytest.mark.parametrize("shortlist", [10, 57])
def test_a_shortlist_is_the_nearest_by_their_vectors(gallery: Gallery, shortlist: int) -> None:
    wanted = of_one(gallery)
    nearest = sorted(wanted, key=lambda one: -one[2])[:shortlist]
    result = gallery.search(ONE, **ASK, k=10, shortlist=shortlist)
    assert_answered(result, [one for one in wanted if one in nearest][:10])
    assert not result.exact
    assert result.plan.endswith(f", visibility over {shortlist} of 58 allowed")


def test_filters_and_the_threshold_come_first(gallery: Gallery) -> None:
    wanted = of_one(gallery)
    limit = sorted((one[2] for one in wanted), reverse=True)[14] + 1e-5  # between two of them
    passing = [one for one in wanted if one[2] >= limit]
    for shortlist in (None, 20):
        result = gallery.search(ONE, **ASK, k=30, threshold=limit, shortlist=shortlist)
        assert_answered(result, passing)
        assert result.exact
        filtered = gallery.search(
            ONE, **ASK, k=30, where="item >= 20", not_camera=[3], shortlist=shortlist
        )
        allowed = [one for one in wanted if one[0] >= 20 and one[0] % 3 != 2]
        if shortlist is None:
            assert_answered(filtered, allowed)


def test_several_pictures_are_averaged_or_the_best_counts(gallery: Gallery) -> None:
    for combine in ("mean", "best"):
        wanted = expected(gallery, ASKED, ASKED_PARTS, ASKED_VISIBLE, best=combine == "best")
        for shortlist in (None, 1000):
            result = gallery.search(
                ASKED,
                parts=ASKED_PARTS,
                visible=ASKED_VISIBLE,
                combine=combine,
                k=12,
                shortlist=shortlist,
            )
            assert_answered(result, wanted[:12])


def test_many_queries_are_answered_as_each_alone(gallery: Gallery) -> None:
    wheres = ["camera = 1", None, "camera = 2", "camera = 1"]
    options: dict[str, Any] = {"k": 7, "shortlist": 12}
    many = gallery.search_many(
        ASKED, parts=ASKED_PARTS, visible=ASKED_VISIBLE, where=wheres, **options
    )
    for place, result in enumerate(many):
        alone = gallery.search(
            ASKED[place],
            parts=ASKED_PARTS[place],
            visible=ASKED_VISIBLE[place],
            where=wheres[place],
            **options,
        )
        assert (result.matches, result.exact) == (alone.matches, alone.exact)
    none = gallery.search_many(
        np.empty((0, DIM)), parts=np.empty((0, *SHAPE)), visible=np.empty((0, SHAPE[0]))
    )
    assert none == []


def test_many_rows_are_gathered_a_few_at_a_time(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gallery.search(ONE, **ASK, k=ROWS, shortlist=None).matches
    monkeypatch.setattr(matching, "_GATHERED", 7)
    assert gallery.search(ONE, **ASK, k=ROWS, shortlist=None).matches == whole


def test_what_is_visible_can_be_had(gallery: Gallery) -> None:
    stored = people(ROWS, 0)[2]
    stored[50] = stored[11]
    kept = [item for item in range(ROWS) if item not in (7, 40)]
    found = gallery.visible([gallery.row_of(item) for item in kept])
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, stored[kept])
    blocks = gallery.visible_blocks
    assert blocks is not None
    np.testing.assert_array_equal(np.concatenate(blocks), stored[kept])
    with pytest.raises(IndexError, match="there is no row 58"):
        gallery.visible([58])


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"parts": None}, UsageError, "by visibility parts, .* distance, too, and the query has"),
        ({"visible": ITS_VISIBLE[:3]}, DimensionMismatch, r"\(1, 3\), and \(1, 4\) is needed"),
        ({"visible": ASKED_VISIBLE}, DimensionMismatch, r"\(4, 4\), and \(1, 4\) is needed"),
        ({"visible": [0, 1, 2, 1]}, UsageError, "something else than 0 and 1"),
        ({"visible": [0, 1, np.nan, 1]}, UsageError, "something else than 0 and 1"),
        ({"visible": ["a"] * 4}, UsageError, "visible must be 0 and 1, or False and True"),
        ({"visible": [[1], [1, 2]]}, UsageError, "visible is 0 or 1 for each part"),
        ({"rerank": Reranking(k1=3, k2=2)}, UsageError, "re-ranking goes by vectors alone"),
    ],
)
def test_what_is_refused(
    gallery: Gallery, options: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        gallery.search(ONE, **{**ASK, **options})


def test_what_is_visible_is_refused_where_nobody_asks(tmp_path: Path) -> None:
    plain = Gallery.create(tmp_path / "plain", dim=DIM, fingerprint=FINGERPRINT)
    aligned = Gallery.create(
        tmp_path / "aligned", dim=DIM, fingerprint=FINGERPRINT, matcher=Matcher(name="aligned")
    )
    plain.add(ASKED)
    aligned.add(ASKED, parts=ASKED_PARTS)
    with pytest.raises(UsageError, match="by their vectors alone"):
        plain.search(ONE, visible=ITS_VISIBLE)
    with pytest.raises(UsageError, match="parts are visible says nothing: leave it out"):
        aligned.search(ONE, **ASK)
    with pytest.raises(UsageError, match="by vectors alone, so which parts are visible says noth"):
        plain.add(ASKED, visible=ASKED_VISIBLE)
    with pytest.raises(UsageError, match="make a gallery with the matcher visibility"):
        aligned.add(ASKED, parts=ASKED_PARTS, visible=ASKED_VISIBLE)
    for made in (plain, aligned):
        assert made.visible_blocks is None
        with pytest.raises(UsageError, match="says of no part whether it is visible"):
            made.visible([0])


def shard(path: Path, rows: int = 5, seed: int = 0, **options: Any) -> Path:
    """One of vectors, parts and what is visible; arrays: further or other ones."""
    vectors, parts, visible = people(rows, seed)
    arrays = {"global": vectors, "parts": parts, "visible": visible} | options.pop("arrays", {})
    write_shard(
        path,
        arrays={name: ArrayStream.of(one) for name, one in arrays.items() if one is not None},
        items=[options.pop("items", pa.table({"camera": [1] * rows}))],
        **{
            "fingerprint": FINGERPRINT,
            "metric": Metric.COSINE,
            "matcher": matcher(),
            **options,
        },
    )
    return path


def json_of(path: Path) -> Any:
    return json.loads(path.read_bytes())


def test_a_shard_says_that_readers_must_know_of_it(tmp_path: Path) -> None:
    told = json_of(shard(tmp_path / "s") / "shard.json")
    assert told["matcher"] == {"name": "visibility", "distance": "cosine"}
    assert told["requires"] == ["matcher", "visibility"]
    opened = open_shard(tmp_path / "s")
    assert opened.header.matcher == matcher()
    np.testing.assert_array_equal(opened.arrays["visible"], people(5, 0)[2])


@pytest.mark.parametrize("rows", [0, 5, 9000])
def test_where_nothing_is_said_all_are_visible(tmp_path: Path, rows: int) -> None:
    folder = shard(tmp_path / "s", rows, arrays={"visible": None})
    found = open_shard(folder).arrays["visible"]
    assert (found.shape, found.dtype) == ((rows, SHAPE[0]), np.uint8)
    assert (found == 1).all()


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"arrays": {"parts": None}}, BadShard, "it has no parts, and its matcher"),
        ({"arrays": {"parts": None, "visible": None}}, BadShard, "it has no parts, and its match"),
        ({"arrays": {"parts": np.ones((5, 4))}}, BadShard, r"parts have the shape \(5, 4\)"),
        (
            {"arrays": {"visible": np.ones((5, 3))}},
            BadShard,
            r"parts and visible have the shapes \(5, 4, 5\) and \(5, 3\)",
        ),
        ({"arrays": {"visible": np.ones(5)}}, BadShard, r"\(5, 4, 5\) and \(5,\)"),
        ({"arrays": {"visible": np.ones((4, 4))}}, BadShard, "visible has 4 rows beside 5"),
        ({"arrays": {"visible": np.full((5, 4), 2)}}, BadShard, "something else than 0 and 1"),
        ({"arrays": {"visible": np.full((5, 4), np.nan)}}, BadShard, "something else than 0 and"),
        ({"metric": Metric.EUCLIDEAN}, UsageError, "compared by euclidean: choose cosine"),
    ],
)
def test_a_shard_has_parts_and_what_is_visible(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        shard(tmp_path / "s", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_lost_what_is_visible_is_damaged(tmp_path: Path) -> None:
    folder = shard(tmp_path / "s")
    with h5py.File(folder / "vectors.h5", "r+") as file:
        del file["visible"]
    with pytest.raises(BadShard, match="it does not say which parts are visible"):
        _ = open_shard(folder).arrays
    with h5py.File(folder / "vectors.h5", "r+") as file:
        file.create_dataset("visible", data=np.ones((5, 3), np.uint8))
    with pytest.raises(BadShard, match=r"\(5, 4, 5\) and \(5, 3\)"):
        _ = open_shard(folder).arrays


def stored(gallery: Gallery) -> dict[int, tuple[Any, Any]]:
    rows = range(len(gallery))
    pairs = zip(gallery.parts(rows).tolist(), gallery.visible(rows).tolist(), strict=True)
    return dict(zip(gallery.items["item"].to_pylist(), pairs, strict=True))


def test_a_gallery_carries_it_through_all_that_changes_it(tmp_path: Path) -> None:
    made = Gallery.create(tmp_path / "g", dim=DIM, fingerprint=FINGERPRINT, matcher=matcher())
    made.add_shards([shard(tmp_path / "one"), shard(tmp_path / "two", 3, 1)])
    vectors, parts, visible = people(4, 2)
    made.add(vectors, parts=parts, visible=visible.astype(bool))
    made.add(vectors, parts=parts)
    wanted = stored(made)
    every = [people(5, 0), people(3, 1), people(4, 2)]
    flags = [row for one in every for row in one[2].tolist()] + [[1] * SHAPE[0]] * 4
    assert [one[1] for one in wanted.values()] == flags
    told = json_of(made.path / made.manifest.file_name)
    assert told["requires"] == ["matcher", "visibility"]
    assert told["matcher"] == {"name": "visibility", "distance": "cosine"}
    made.delete(items=[1, 6])
    del wanted[1], wanted[6]
    assert stored(made) == wanted
    made.compact()
    assert stored(made) == wanted
    assert verify_gallery(made) == []
    made.rebuild([made.path / name for name in made.manifest.folders], recipe={"a": 1})
    again = Gallery.open(made.path)
    assert (again.matcher, stored(again)) == (matcher(), wanted)
    assert verify_gallery(again) == []


def test_rebuilding_changes_the_matcher(tmp_path: Path) -> None:
    made = make(tmp_path / "g")
    items = pa.table({"item": np.arange(ROWS)})
    new = shard(tmp_path / "new", ROWS, 3, items=items, matcher=matcher("euclidean"))
    made.rebuild([new], recipe={})
    assert made.matcher == matcher("euclidean")
    kept = [item for item in range(ROWS) if item not in (7, 40)]
    np.testing.assert_array_equal(made.visible(range(58)), people(ROWS, 3)[2][kept])


@pytest.mark.parametrize(
    ("visible", "error", "named"),
    [
        (np.ones((2, 3)), DimensionMismatch, r"\(2, 3\) for parts .*: \(2, 4\) is needed"),
        (np.ones(4), DimensionMismatch, r"\(4,\) for parts of the shape \(2, 4, 5\)"),
        (np.full((2, 4), 3), BadShard, "something else than 0 and 1"),
        (np.full((2, 4), -0.5), BadShard, "something else than 0 and 1"),
        ([["a"] * 4] * 2, UsageError, "visible must be 0 and 1"),
        ([[1], [1, 0]], UsageError, "visible is 0 or 1 for each part"),
    ],
)
def test_rows_without_fitting_visibility_are_not_added(
    gallery: Gallery, visible: Any, error: type[Exception], named: str
) -> None:
    before = contents(gallery.path)
    with pytest.raises(error, match=named):
        gallery.add(np.ones((2, DIM)), parts=np.ones((2, *SHAPE)), visible=visible)
    assert contents(gallery.path) == before


@pytest.mark.parametrize("other", [None, Matcher(name="aligned"), matcher("euclidean")])
def test_a_shard_of_another_matcher_is_not_added(tmp_path: Path, other: Matcher | None) -> None:
    made = Gallery.create(tmp_path / "g", dim=DIM, fingerprint=FINGERPRINT, matcher=other)
    with pytest.raises(BadShard, match="is to be compared by visibility parts, cosine distance"):
        made.add_shards([shard(tmp_path / "s")])


def test_verify_finds_what_is_neither_0_nor_1(tmp_path: Path) -> None:
    """What no write of this project makes, with sums that fit it."""
    made = make(tmp_path / "g")
    name = made.manifest.folders[1]
    with h5py.File(made.path / name / "vectors.h5", "r+") as file:
        file["visible"][3, 1] = 7
    content = (made.path / name / "vectors.h5").read_bytes()

    def described(told: Any) -> Any:
        digest = hashlib.sha256(content).hexdigest()
        told["shards"][1]["files"]["vectors.h5"] = {"bytes": len(content), "sha256": digest}
        return told

    lines = verify_gallery(Gallery.open(rewritten(made, described)))
    assert lines == [f"{made.path / name}: vectors.h5 holds something else than 0 and 1 in visible"]
