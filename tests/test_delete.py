"""Deleting: what is deleted, what is refused, and that every way to search is then as if it had
never been there."""

import json
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_world import succeed
from conftest import FINGERPRINT, ROWS, contents, ids
from numpy.typing import NDArray

from cli.sides import gallery_side
from reid_index import Gallery, Metric, Reranking, Result, verify_gallery
from reid_index.errors import GalleryLocked, UsageError, WhereError
from reid_index.evaluation.calibration import calibrate
from reid_index.search.index import Effort, IndexFacts, Tuned, new_index, write_index
from reid_index.search.knn import nearest
from reid_index.store.commit import writer_lock

pytestmark = pytest.mark.usefixtures("quick_disk")

MakeGallery = Callable[..., Gallery]
SMALL = Reranking(k1=5, k2=3)


@pytest.fixture
def gallery(make_gallery: MakeGallery) -> Gallery:
    """Items 0 to 5, of the cameras 1, 2, 3, in two shards."""
    gallery = make_gallery()
    for _ in range(2):
        gallery.add(ROWS, [{"camera": camera} for camera in (1, 2, 3)])
    return gallery


# What is deleted


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({"items": [4]}, [0, 1, 2, 3, 5]),
        ({"items": [5, 0, 5, 0]}, [1, 2, 3, 4]),
        ({"items": np.array([1, 2])}, [0, 3, 4, 5]),
        ({"where": "camera = 2"}, [0, 2, 3, 5]),
        ({"where": "camera >= 2 AND item > 2"}, [0, 1, 2, 3]),
        ({"where": "camera = 2", "items": [0, 1]}, [2, 3, 5]),
        ({"where": "camera = 9", "items": [3]}, [0, 1, 2, 4, 5]),
        ({"where": "item >= 0"}, []),
    ],
)
def test_what_is_named_is_gone_for_everyone(
    gallery: Gallery, asked: dict[str, Any], left: list[int]
) -> None:
    before = Gallery.open(gallery.path)
    assert gallery.delete(**asked) == 6 - len(left)
    for seen in (gallery, Gallery.open(gallery.path)):
        assert (len(seen), ids(seen), seen.manifest.rows) == (len(left), left, len(left))
        assert [seen.row_of(item) for item in left] == list(range(len(left)))
        assert seen.vectors(range(len(left))).tolist() == [ROWS[i % 3].tolist() for i in left]
        assert [match.item for match in seen.search(ROWS[0]).matches] == sorted(
            left, key=lambda item: (item % 3 != 0, item)
        )
        assert (seen.manifest.stored, seen.manifest.generation) == (6, 3)
        gone = next(item for item in range(6) if item not in left)
        with pytest.raises(UsageError, match=f"no item {gone}; it holds {len(left)} items"):
            seen.row_of(gone)
        with pytest.raises(IndexError, match=f"no row {len(left)}"):
            seen.vectors([len(left)])
    assert ids(before) == [0, 1, 2, 3, 4, 5]
    past = gallery.history()[-1]
    assert (past.event.what, past.event.rows, past.rows) == ("delete", 6 - len(left), len(left))
    assert verify_gallery(gallery) == []


def test_readers_must_know_of_deletions(gallery: Gallery) -> None:
    def present() -> dict[str, Any]:
        found = json.loads((gallery.path / gallery.manifest.file_name).read_bytes())
        assert isinstance(found, dict)
        return found

    assert present()["requires"] == []
    gallery.delete(items=[1, 3, 4])
    told = present()
    assert (told["format"], told["requires"]) == ([1, 6], ["deletions"])
    assert [shard["rows"] for shard in told["shards"]] == [3, 3]
    assert [shard["deleted"]["rows"] for shard in told["shards"]] == [1, 2]
    assert (gallery.path / told["shards"][1]["deleted"]["file"]).read_bytes() == b"\x03"
    gallery.add(ROWS[:1])
    assert present()["requires"] == ["deletions"]
    gallery.compact()
    assert present()["requires"] == []
    # Nothing of what was asked for is kept: a filter may name a person.
    gallery.delete(where="camera = 3")
    assert b"camera" not in json.dumps(present()["event"]).encode()


def test_deleting_costs_what_it_touches(gallery: Gallery) -> None:
    before = contents(gallery.path)
    gallery.delete(items=[4])
    after = contents(gallery.path)
    assert {name for name in after if after[name] != before.get(name)} == {
        "CURRENT",
        "manifest-000003.json",
        "deleted/000003-000001.bits",
    }
    gallery.delete(items=[3])
    gallery.delete(items=[0])
    assert set(contents(gallery.path)) - set(after) == {
        "manifest-000004.json",
        "deleted/000004-000001.bits",
        "manifest-000005.json",
        "deleted/000005-000000.bits",
    }
    assert ids(gallery) == [1, 2, 5]


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({}, UsageError, "say what to delete"),
        ({"items": [6]}, UsageError, "no item 6; nothing was deleted"),
        ({"items": [0, 9, 7, 8]}, UsageError, r"no item 7 \(nor 2 others that were named\)"),
        ({"items": [1]}, UsageError, "no item 1"),
        ({"items": [0, 1]}, UsageError, "no item 1; nothing"),
        ({"items": [6], "where": "camera = 2"}, UsageError, "no item 6"),
        ({"items": [-1]}, UsageError, "whole numbers from 0 up; got -1"),
        ({"items": [True]}, UsageError, "got True"),
        ({"items": ["0"]}, UsageError, "got '0'"),
        ({"items": [2**62]}, UsageError, "whole numbers from 0 up"),
        ({"where": "colour = 2"}, WhereError, "colour"),
        ({"where": "camera = 'x'"}, WhereError, "camera"),
        ({"where": 3}, UsageError, "a filter is text"),
    ],
)
def test_what_is_refused_deletes_nothing(
    gallery: Gallery, asked: dict[str, Any], error: type[Exception], words: str
) -> None:
    gallery.delete(items=[1])
    before = contents(gallery.path)
    with pytest.raises(error, match=words):
        gallery.delete(**asked)
    with writer_lock(gallery.path), pytest.raises(GalleryLocked):
        gallery.delete(items=[0])
    assert contents(gallery.path) == before
    assert ids(gallery) == [0, 2, 3, 4, 5]


def test_nothing_named_is_no_generation(gallery: Gallery) -> None:
    before = contents(gallery.path)
    assert gallery.delete(where="camera = 9") == 0
    assert gallery.delete(items=[]) == 0
    gallery.delete(where="camera = 2")
    again = contents(gallery.path)
    assert gallery.delete(where="camera = 2") == 0
    assert contents(gallery.path) == again != before


def test_it_is_asked_of_what_is_there_now(gallery: Gallery) -> None:
    """A reader deletes by the rows that others have added and deleted since."""
    reader = Gallery.open(gallery.path)
    gallery.delete(items=[1])
    gallery.add(ROWS[:1], [{"camera": 2}])
    assert reader.delete(where="camera = 2", items=[6]) == 2
    assert ids(reader) == [0, 2, 3, 5]


def test_ids_of_one_shard_in_any_order(make_gallery: MakeGallery) -> None:
    gallery = make_gallery()
    gallery.add(ROWS, [{"item": 7}, {"item": 3}, {"item": 5}])
    gallery.add(ROWS[:2])
    assert gallery.delete(items=[3, 8]) == 2
    assert ids(gallery) == [7, 5, 9]
    for gone in (3, 4, 6, 8):
        with pytest.raises(UsageError, match=f"no item {gone}"):
            gallery.delete(items=[5, gone])
    assert gallery.delete(items=[9, 7]) == 2
    assert ids(gallery) == [5]


def test_ids_are_never_given_again(gallery: Gallery) -> None:
    gallery.delete(items=[4, 5])
    gallery.add(ROWS[:1])
    assert ids(gallery) == [0, 1, 2, 3, 6]
    gallery.delete(items=[6])
    gallery.compact()
    gallery.add(ROWS[:1])
    assert ids(gallery) == [0, 1, 2, 3, 7]
    gallery.delete(where="item >= 0")
    gallery.compact()
    gallery.add(ROWS[:2])
    assert ids(gallery) == [8, 9]
    with pytest.raises(UsageError, match="no item 7"):
        gallery.delete(items=[7])


# Searching as if they had never been there

DIM = 8
COUNT = 200


def vectors_of(rng: np.random.Generator) -> NDArray[np.float32]:
    """25 people, eight rows each, some of them equal."""
    people = rng.normal(size=(25, DIM))
    vectors = np.repeat(people, 8, axis=0) + 0.4 * rng.normal(size=(COUNT, DIM))
    vectors[7::16] = vectors[6::16]
    return vectors.astype(np.float32)


def item_of(item: int) -> dict[str, Any]:
    return {
        "item": item,
        "camera": (1, 2, 3, None)[item // 2 % 4],
        "person": f"p{item // 8}",
        "track": f"t{item // 2}",
        "source": f"{item:03}.jpg",
        "attr.hat": ("yes", "no", None)[item % 3],
        "frame_first": item % 2 * 100,
        "frame_last": item % 2 * 100 + 50,
    }


class Two:
    """Two galleries of the same items, in shards of 120, 1, 59 and 20 rows: `less` had more, of
    which `gone` were deleted; `never` never had them."""

    def __init__(self, folder: Path, *, delete: bool = True, **options: Any) -> None:
        rng = np.random.default_rng(7)
        vectors = vectors_of(rng)
        gone = rng.random(COUNT) < 0.3
        gone[[0, 119, 120, 121, 199]] = True  # the ends of shards, and one as a whole
        self.gone = np.flatnonzero(gone).tolist()
        self.less, self.never = (
            Gallery.create(folder / name, dim=DIM, fingerprint=FINGERPRINT, **options)
            for name in ("less", "never")
        )
        ends = [0, 120, 121, 180, 200]
        for number, (start, stop) in enumerate(pairwise(ends)):
            for gallery, items in (
                (self.less, list(range(start, stop))),
                (self.never, [item for item in range(start, stop) if not gone[item]]),
            ):
                gallery.add(vectors[items], [item_of(item) for item in items], root=f"/{number}")
        if delete:
            self.delete()
        self.queries = (vectors + 0.3 * rng.normal(size=vectors.shape)).astype(np.float32)[::20]

    def delete(self) -> None:
        """By ids and by a filter, a few at a time."""
        half = len(self.gone) // 2
        self.less.delete(items=self.gone[:half])
        named = ", ".join(map(str, self.gone[half:]))
        self.less.delete(where=f"item IN ({named})")


@pytest.fixture(
    scope="module",
    params=[("cosine", "float32"), ("euclidean", "float16"), ("inner_product", "float32")],
    ids=str,
)
def two(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Two:
    """To be looked at only."""
    metric, dtype = request.param
    return Two(tmp_path_factory.mktemp("two"), metric=metric, dtype=dtype)


def told(result: Result) -> dict[str, Any]:
    """All that an answer says but of how and when it was found."""
    ignored = {"generation", "plan", "seconds", "expected", "exact"}
    return {name: value for name, value in vars(result).items() if name not in ignored}


def alike(two: Two, query: NDArray[np.float32], **options: Any) -> Result:
    """What both answer."""
    less, never = (gallery.search(query, **options) for gallery in (two.less, two.never))
    assert told(less) == told(never)
    assert less.note == never.note
    return less


FILTERS: list[dict[str, Any]] = [
    {},
    {"where": "camera = 2"},
    {"where": "attr.hat = 'yes' OR camera IS NULL", "not_camera": [1]},
    {"not_camera": [2, 3]},
    {"where": "item IN (1, 2, 150)"},
    {"where": "item > 9999"},
]


@pytest.mark.parametrize("k", [1, 12, 500])
@pytest.mark.parametrize("asked", FILTERS, ids=str)
def test_answers_are_as_if_they_had_never_been_there(
    two: Two, asked: dict[str, Any], k: int
) -> None:
    for query in two.queries[:3]:
        result = alike(two, query, k=k, **asked)
        assert not {match.item for match in result.matches} & set(two.gone)
        scores = [match.similarity or match.distance or 0.0 for match in result.matches]
        if scores:
            limit = scores[len(scores) // 2]
            assert len(alike(two, query, k=k, threshold=limit, **asked).matches) > 0
    for combine in ("mean", "best"):
        alike(two, two.queries[:4], k=k, combine=combine, **asked)
    many = [gallery.search_many(two.queries, k=k, **asked) for gallery in (two.less, two.never)]
    assert list(map(told, many[0])) == list(map(told, many[1]))
    near = [gallery.nearest(two.queries, k=k, **asked) for gallery in (two.less, two.never)]
    for less, never in zip(*near, strict=True):
        assert (less.rows.tolist(), less.scores.tolist()) == (
            never.rows.tolist(),
            never.scores.tolist(),
        )
        assert less.allowed == never.allowed


def test_filters_of_their_own(two: Two) -> None:
    wheres = [("camera = 1", None, "item < 90")[at % 3] for at in range(len(two.queries))]
    many = [g.search_many(two.queries, k=7, where=wheres) for g in (two.less, two.never)]
    assert list(map(told, many[0])) == list(map(told, many[1]))


@pytest.mark.parametrize("where", [None, "camera != 2"])
def test_every_path_leaves_them_out(two: Two, where: str | None) -> None:
    """Rows of `nearest` are those of `Gallery.items`; each path finds the same."""
    expected = two.never.nearest(two.queries, k=9, where=where)
    for found, right in zip(two.less.nearest(two.queries, k=9, where=where), expected, strict=True):
        named = two.less.items["item"].take(found.rows).to_pylist()
        assert named == two.never.items["item"].take(right.rows).to_pylist()
    searched = two.less._generation.searched
    allowed = searched.filters.allowed(where=where, not_camera=[])
    half = two.less.manifest.dtype == "float16"
    for only in ("gather", "dense") if half else ("scan", "gather", "dense"):
        for queries in (two.queries, two.queries[:1]):
            given = normalised(queries) if two.less.metric is Metric.COSINE else queries
            answers = nearest(searched.rows, given, 9, allowed=allowed, only=only)
            for found, right in zip(answers, expected, strict=False):
                kept = searched.live.rows_of(found.rows)
                assert kept.tolist() == right.rows.tolist()
                assert found.scores.tolist() == right.scores.tolist()


def normalised(queries: NDArray[np.float32]) -> NDArray[np.float32]:
    wide = queries.astype(np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)


def attach_exact_index(gallery: Gallery, *, kind: str) -> None:
    """An index of all stored rows, asked with so much effort that it finds all that is allowed."""
    stored = np.concatenate(
        [shard.vectors.astype(np.float32) for shard in gallery._generation.shards]
    )
    parameters = {"cells": 4, "codes": 8, "links": 16, "queue": 40}
    index = new_index(kind, dim=DIM, metric=gallery.metric, parameters=parameters)
    index.train(stored)
    index.add(stored)
    effort = Effort(
        value=4 if kind == "ivf" else 400,
        probe=4,
        fetch=2,
        agreement=0.0,
        rows_single=1e-3,
        rows_batch=1e-3,
        recall=1.0,
        accepted=1.0,
    )
    facts = IndexFacts(
        kind=kind,
        rows=len(stored),
        dim=DIM,
        metric=gallery.metric,
        parameters=parameters,
        tuned=(Tuned(share=0.001, k=50, wanted=0.99, effort=effort),),
        batch_scan=1.0,
        build_seconds=0.0,
        tune_seconds=0.0,
        versions={},
    )
    gallery.attach(
        "index",
        lambda folder: write_index(folder, index, facts),
        generation=gallery.manifest.generation,
    )


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
@pytest.mark.usefixtures("one_thread")
def test_an_index_made_before_leaves_them_out(
    tmp_path: Path, rng: np.random.Generator, kind: str
) -> None:
    two = Two(tmp_path, delete=False, metric="euclidean")
    attach_exact_index(two.less, kind=kind)
    late = rng.normal(size=(3, DIM))
    for gallery in (two.less, two.never):
        gallery.add(late, [{"item": item} for item in (300, 301, 302)])
    two.gone.append(301)
    two.delete()
    two.never.delete(items=[301])
    assert two.less.is_stale("index")
    for where in (None, "camera = 2 OR item > 299"):
        options: dict[str, Any] = {"k": 9, "where": where}
        right = [told(result) for result in two.never.search_many(two.queries, **options)]
        rows = [one.rows.tolist() for one in two.never.nearest(two.queries, **options)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("reid_index.search.query.nearest", partial(nearest, only="index"))
            found = two.less.search_many(two.queries, **options, recall=0.9)
            assert all(f"{kind} index of 200 rows" in result.plan for result in found)
            assert list(map(told, found)) == right
            near = two.less.nearest(two.queries, **options, recall=0.9)
            assert [one.rows.tolist() for one in near] == rows
    assert two.less._generation.kept_index[1] == f"{kind} index of 200 of 203 rows"


@pytest.mark.parametrize("which", ["whole", "allowed"])
@pytest.mark.parametrize("asked", FILTERS[:3], ids=str)
def test_re_ranking_is_as_if_they_had_never_been_there(
    tmp_path: Path, which: str, asked: dict[str, Any]
) -> None:
    two = Two(tmp_path, metric="cosine")

    ask = partial(alike, two, two.queries[0], k=20, rerank=SMALL, rerank_graph=which, **asked)
    result = ask()
    assert result.matches[0].reranked_distance is not None
    limit = sorted(match.similarity or 0.0 for match in result.matches)[8]
    assert len(ask(threshold=limit).matches) < 20
    # With the graph that is kept, of the rows that are left.
    for gallery in (two.less, two.never):
        gallery.build_graph(SMALL)
    assert not two.less.is_stale("graph")
    assert told(ask()) == told(result)
    for gallery in (two.less, two.never):
        gallery.delete(where="item = 5 OR person = 'p3'")
    assert two.less.is_stale("graph")
    assert two.less.graph is None
    assert told(ask()) != told(result)


def test_evaluation_is_as_if_they_had_never_been_there(tmp_path: Path) -> None:
    two = Two(tmp_path, metric="cosine", dtype="float16")
    sides = [gallery_side(gallery.path) for gallery in (two.less, two.never)]
    rows = np.arange(len(two.less))
    assert sides[0].matrix(rows).tobytes() == sides[1].matrix(rows).tobytes()
    assert sides[0].items.equals(sides[1].items)
    assert sides[0].roots.tolist() == sides[1].roots.tolist()
    assert np.concatenate(two.less.blocks).tobytes() == np.concatenate(two.never.blocks).tobytes()
    for options in ([], ["--rerank", "query", "--k1", "5", "--k2", "3"]):
        figures = []
        for gallery in (two.less, two.never):
            said = succeed("evaluate", gallery.path, gallery.path, *options, "--format", "json")
            figures.append(json.loads(said.stdout) | {"seconds": None})
        assert figures[0] == figures[1]
        assert 0 < figures[0]["mAP"] < 1


@pytest.mark.parametrize("weak", [False, True])
def test_calibration_is_as_if_they_had_never_been_there(two: Two, weak: bool) -> None:
    options: dict[str, Any] = {"weak": weak, "same_camera": True, "false_match_rate": 0.1}
    less, never = (calibrate(gallery, **options) for gallery in (two.less, two.never))
    assert less.to_json() | {"generation": 0} == never.to_json() | {"generation": 0}
    assert less.items == COUNT - len(two.gone)
