"""A gallery's neighbour graph: its files, when it is used, and what a re-ranked search answers."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import FINGERPRINT, contents, ids
from numpy.typing import NDArray
from test_neighbours import KINDS, unit
from test_rerank import shuffled_ids

from reid_index import (
    Fingerprint,
    Gallery,
    Reranking,
    Result,
    errors,
    rerank_joint,
    verify_gallery,
)
from reid_index.reranking import graph, rerank_gallery
from reid_index.reranking.graph import Graph, make_graph, read_graph, write_graph
from reid_index.search.query_vectors import query_vectors

Rng = np.random.Generator
Vectors = NDArray[np.float32]
ARRAYS: list[Callable[[Graph], NDArray[Any]]] = [
    *(lambda made: made.near.index, lambda made: made.near.squared),
    *(lambda made: made.near.farthest, lambda made: made.sets.offsets),
    *(lambda made: made.sets.index, lambda made: made.sets.values),
    *(lambda made: made.holders.offsets, lambda made: made.holders.index),
]
SMALL = Reranking(k1=5, k2=3)


# The files


@pytest.fixture
def made(rng: Rng) -> Graph:
    return make_graph(KINDS["clustered"](rng, 60), items=shuffled_ids(rng, 60), reranking=SMALL)


def test_a_graph_is_read_as_it_was_written(made: Graph, tmp_path: Path) -> None:
    write_graph(tmp_path, made)
    read = read_graph(tmp_path, rows=60)
    for array in ARRAYS:
        np.testing.assert_array_equal(array(read), array(made), strict=True)
        assert not array(read).flags.writeable
    assert (read.k1, read.exact) == (5, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graph.h5", "graph.json"]


def test_its_sets_and_holders_say_the_same(made: Graph) -> None:
    sets = [made.sets.index[a:b].tolist() for a, b in pairwise(made.sets.offsets)]
    holders = [made.holders.index[a:b].tolist() for a, b in pairwise(made.holders.offsets)]
    assert holders == [[i for i, members in enumerate(sets) if j in members] for j in range(60)]
    assert np.isfinite(made.sets.values).all()
    np.testing.assert_array_equal(made.last, made.near.squared[:, 5])
    followers = made.followers(3)
    lists = made.near.index[:, :3].tolist()
    assert [followers.index[a:b].tolist() for a, b in pairwise(followers.offsets)] == [
        [i for i, members in enumerate(lists) if j in members] for j in range(60)
    ]


def pairwise(offsets: NDArray[np.int64]) -> list[tuple[int, int]]:
    return list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))


def without(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        with h5py.File(folder / "graph.h5", "a") as file:
            del file[name]

    return change


def of_other_rows(folder: Path) -> None:
    data = json.loads((folder / "graph.json").read_bytes())
    (folder / "graph.json").write_text(json.dumps(data | {"neighbours": 5}))


def of_rows_that_are_not_there(folder: Path) -> None:
    with h5py.File(folder / "graph.h5", "r+") as file:
        file["set_index"][7] = 60


def with_offsets_that_do_not_ascend(folder: Path) -> None:
    with h5py.File(folder / "graph.h5", "r+") as file:
        file["set_offsets"][3] = 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "graph.h5").unlink(),
        lambda folder: (folder / "graph.json").unlink(),
        lambda folder: (folder / "graph.h5").write_bytes(b"\x89HDF\r\n\x1a\nnothing more"),
        lambda folder: (folder / "graph.json").write_text("{"),
        lambda folder: (folder / "graph.json").write_text("[]"),
        lambda folder: (folder / "graph.json").write_bytes(b"\xff"),
        lambda folder: (folder / "graph.json").write_text('{"rows": 60, "neighbours": 6}'),
        without("holder_index"),
        without("squared"),
        of_other_rows,
        of_rows_that_are_not_there,
        with_offsets_that_do_not_ascend,
    ],
)
def test_damaged_files_are_one_line(
    damage: Callable[[Path], object], made: Graph, tmp_path: Path
) -> None:
    write_graph(tmp_path, made)
    damage(tmp_path)
    words = rf"{re.escape(str(tmp_path))}: the neighbour graph cannot be read .*; reid graph makes"
    with pytest.raises(errors.CorruptGallery, match=words) as caught:
        read_graph(tmp_path, rows=60)
    assert "\n" not in str(caught.value)


# A gallery with one


@pytest.fixture
def gallery(tmp_path: Path, rng: Rng) -> Gallery:
    """Two shards, 60 vectors twice, of three cameras; the item ids of each in no order."""
    return filled(tmp_path / "g", rng)


def filled(path: Path, rng: Rng, **properties: Any) -> Gallery:
    made = Gallery.create(path, **{"dim": 16, "fingerprint": FINGERPRINT, **properties})
    once = KINDS["clustered"](rng, 60)
    if properties.get("metric") == "euclidean":
        once *= rng.uniform(1, 3, (60, 1)).astype(np.float32)
    vectors = np.concatenate([once, once])[rng.permutation(120)]
    add(made, vectors[:70], shuffled_ids(rng, 70))
    add(made, vectors[70:], 210 + shuffled_ids(rng, 50))
    return made


def add(gallery: Gallery, vectors: Vectors, ids: NDArray[np.int64]) -> None:
    items = [{"item": int(item), "camera": int(item) % 3} for item in ids]
    gallery.add(vectors, items)


def a_query(gallery: Gallery, rng: Rng) -> Vectors:
    near = gallery.vectors([5])[0]
    return near + np.float32(0.05) * rng.normal(size=near.shape).astype(np.float32)


def by_joint(
    gallery: Gallery,
    query: Vectors,
    *,
    rerank: Reranking = SMALL,
    rows: NDArray[np.intp] | None = None,
) -> list[tuple[int, float]]:
    """All items of those rows, by re-ranking that query with those rows from nothing."""
    rows = np.arange(len(gallery)) if rows is None else rows
    (vector,) = query_vectors(query, dim=gallery.dim, metric=gallery.metric, combine="mean")
    items = gallery.items["item"].to_numpy()[rows]
    joint = rerank_joint(vector[None], gallery.vectors(rows), items=items, reranking=rerank)
    (distances,) = joint.distances().tolist()
    return sorted(zip(items.tolist(), distances, strict=True), key=lambda pair: pair[::-1])


def ranking(result: Result) -> list[tuple[int, float | None]]:
    return [(match.item, match.reranked_distance) for match in result.matches]


def test_a_search_answers_with_the_stored_graph_what_it_answers_without(
    gallery: Gallery, rng: Rng, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = a_query(gallery, rng)
    plain = gallery.search(query, k=120)
    at_once = gallery.search(query, k=120, rerank=SMALL)
    gallery.build_graph(SMALL)
    monkeypatch.setattr(rerank_gallery, "AT_ONCE", 0)
    for opened in (gallery, Gallery.open(gallery.path)):
        stored = opened.search(query, k=120, rerank=SMALL)
        assert ranking(stored) == ranking(at_once) == by_joint(gallery, query)
        assert ranking(opened.search(query, k=7, rerank=SMALL)) == ranking(stored)[:7]
        assert stored.exact
        assert stored.plan == "every row compared, re-ranked with the graph of the whole gallery"
    assert ranking(stored) != ranking(plain)
    assert [match.rank for match in stored.matches] == list(range(1, 121))
    similarity = {match.item: match.similarity for match in plain.matches}
    assert {match.item: match.similarity for match in stored.matches} == similarity
    assert {match.reranked_distance for match in plain.matches} == {None}


def test_one_graph_serves_every_lambda_and_smaller_k2(
    gallery: Gallery, rng: Rng, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.build_graph(SMALL)
    monkeypatch.setattr(rerank_gallery, "AT_ONCE", 0)
    query = a_query(gallery, rng)
    for rerank in (Reranking(k1=5, k2=1), Reranking(k1=5, k2=6, lambda_=0.9), SMALL):
        found = gallery.search(query, k=120, rerank=rerank)
        assert ranking(found) == by_joint(gallery, query, rerank=rerank)


@pytest.mark.parametrize(
    "properties",
    [{"dtype": "float16"}, {"metric": "euclidean"}, {"metric": "euclidean", "dtype": "float16"}],
)
def test_other_galleries(properties: dict[str, Any], tmp_path: Path, rng: Rng) -> None:
    gallery = filled(tmp_path / "g", rng, **properties)
    gallery.build_graph(SMALL)
    query = 3 * a_query(gallery, rng)
    opened = Gallery.open(gallery.path)
    found = opened.search(query, k=120, rerank=SMALL)
    assert ranking(found) == by_joint(gallery, query)
    plain = opened.search(query, k=120)
    assert {(m.item, m.similarity, m.distance) for m in found.matches} == {
        (m.item, m.similarity, m.distance) for m in plain.matches
    }


def test_several_vectors_of_one_person_are_their_mean(gallery: Gallery) -> None:
    vectors = gallery.vectors([5, 9])
    found = gallery.search(7 * vectors, k=120, rerank=SMALL)
    assert ranking(found) == by_joint(gallery, 7 * vectors)
    with pytest.raises(errors.UsageError, match=r"re-ranking takes one vector.* 'mean'"):
        gallery.search(vectors, rerank=SMALL, combine="best")


# Stale, missing or for something else


def test_added_rows_are_never_answered_from_the_old_graph(
    gallery: Gallery, rng: Rng, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.build_graph(SMALL)
    query = a_query(gallery, rng)
    before = Gallery.open(gallery.path)
    old = ranking(before.search(query, k=120, rerank=SMALL))
    add(gallery, unit(query[None] + 0.01 * rng.normal(size=(4, 16))), np.arange(1000, 1004))
    found = gallery.search(query, k=124, rerank=SMALL)
    assert ranking(found) == by_joint(gallery, query)
    assert len(found.matches) == 124
    assert {match.item for match in found.matches[:4]} == set(range(1000, 1004))
    assert ranking(before.search(query, k=120, rerank=SMALL)) == old

    monkeypatch.setattr(rerank_gallery, "AT_ONCE", 100)
    opened = Gallery.open(gallery.path)
    words = f"has a stale neighbour graph, .* run `reid graph {re.escape(str(gallery.path))} --k1 5"
    with pytest.raises(errors.NoGraph, match=words) as caught:
        opened.search(query, rerank=SMALL)
    assert "\n" not in str(caught.value)
    opened.build_graph(SMALL)
    assert ranking(opened.search(query, k=124, rerank=SMALL)) == ranking(found)


def test_a_large_gallery_without_a_graph_asks_for_one(
    gallery: Gallery, rng: Rng, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = a_query(gallery, rng)
    monkeypatch.setattr(rerank_gallery, "AT_ONCE", 120)
    assert ranking(gallery.search(query, k=120, rerank=SMALL)) == by_joint(gallery, query)
    monkeypatch.setattr(rerank_gallery, "AT_ONCE", 119)
    opened = Gallery.open(gallery.path)
    words = f"has no neighbour graph and .* run `reid graph {re.escape(str(gallery.path))} --k1 5"
    with pytest.raises(errors.NoGraph, match=words):
        opened.search(query, rerank=SMALL)
    assert len(opened.search(query, k=5).matches) == 5


@pytest.mark.parametrize(("k1", "k2"), [(4, 3), (6, 3), (20, 6), (5, 7)])
def test_a_graph_for_other_parameters_is_not_used(
    gallery: Gallery, k1: int, k2: int, rng: Rng, monkeypatch: pytest.MonkeyPatch
) -> None:
    rerank, query = Reranking(k1=k1, k2=k2), a_query(gallery, rng)
    gallery.build_graph(SMALL)
    found = gallery.search(query, k=120, rerank=rerank)
    assert ranking(found) == by_joint(gallery, query, rerank=rerank)
    monkeypatch.setattr(rerank_gallery, "AT_ONCE", 119)
    opened = Gallery.open(gallery.path)
    words = f"has a neighbour graph for k1 = 5 and .* run `reid graph .* --k1 {k1} --k2 {k2}`"
    with pytest.raises(errors.NoGraph, match=words):
        opened.search(query, rerank=rerank)
    opened.build_graph(rerank)
    assert ranking(opened.search(query, k=120, rerank=rerank)) == ranking(found)


# Which rows are allowed


def test_with_the_whole_graph_a_filter_only_leaves_rows_out(gallery: Gallery, rng: Rng) -> None:
    gallery.build_graph(SMALL)
    query = a_query(gallery, rng)
    everything = ranking(gallery.search(query, k=120, rerank=SMALL))
    kept = [pair for pair in everything if pair[0] % 3 == 1]
    found = gallery.search(query, k=120, rerank=SMALL, where="camera = 1")
    assert ranking(found) == kept
    assert ranking(gallery.search(query, k=5, rerank=SMALL, not_camera=[0, 2])) == kept[:5]
    assert (found.allowed, found.rows) == (len(kept), 120)


def test_the_graph_of_the_allowed_rows_is_one_of_these_alone(
    gallery: Gallery, rng: Rng, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = a_query(gallery, rng)
    rows = np.flatnonzero(gallery.items["camera"].to_numpy() == 1)
    expected = by_joint(gallery, query, rows=rows)
    gallery.build_graph(Reranking())
    options: dict[str, Any] = {"rerank": SMALL, "rerank_graph": "allowed"}
    found = gallery.search(query, k=120, where="camera = 1", **options)
    assert ranking(found) == expected
    assert found.exact
    assert found.plan == f"re-ranked with the graph of the {len(rows)} allowed rows"
    assert ranking(gallery.search(query, k=4, where="camera = 1", **options)) == expected[:4]
    assert ranking(gallery.search(query, k=120, **options)) == by_joint(gallery, query)

    whole = Gallery.open(gallery.path)
    whole.build_graph(SMALL)
    assert ranking(whole.search(query, k=120, where="camera = 1", rerank=SMALL)) != expected

    monkeypatch.setattr(rerank_gallery, "AT_ONCE", len(rows) - 1)
    with pytest.raises(
        errors.UsageError, match=f"graph of {len(rows)} allowed rows takes too long"
    ):
        gallery.search(query, where="camera = 1", **options)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_threshold_is_of_the_original_score(metric: str, tmp_path: Path, rng: Rng) -> None:
    gallery = filled(tmp_path / "other", rng, metric=metric)
    query = a_query(gallery, rng)
    whole = gallery.search(query, k=120, rerank=SMALL)
    limit, kept = best_by_score(whole, 30)
    found = gallery.search(query, k=120, rerank=SMALL, threshold=limit)
    assert ranking(found) == kept
    assert (found.allowed, found.threshold) == (120, limit)
    some = gallery.search(query, k=3, rerank=SMALL, threshold=limit, where="camera != 0")
    assert ranking(some) == [pair for pair in kept if pair[0] % 3][:3]
    nothing = gallery.search(query, rerank=SMALL, threshold=0 if metric == "euclidean" else 1)
    assert nothing.matches == ()


def best_by_score(whole: Result, count: int) -> tuple[float, list[tuple[int, float | None]]]:
    """A threshold that so many matches reach, and those, in the order of the result."""
    scores = [m.similarity if m.distance is None else -m.distance for m in whole.matches]
    limit = sorted(score or 0 for score in scores)[-count]
    kept = [pair for pair, score in zip(ranking(whole), scores, strict=True) if score >= limit]
    assert len(kept) == count
    return abs(limit), kept


@pytest.mark.parametrize("left", [30, 4])
def test_a_threshold_leaves_the_graph_of_the_allowed_rows_alone(
    gallery: Gallery, left: int, rng: Rng
) -> None:
    options: dict[str, Any] = {"k": 120, "rerank": SMALL, "rerank_graph": "allowed"}
    query = a_query(gallery, rng)
    whole = gallery.search(query, **options)
    limit, kept = best_by_score(whole, left)
    found = gallery.search(query, threshold=limit, **options)
    assert ranking(found) == kept
    assert found.plan == whole.plan


@pytest.mark.parametrize("which", ["whole", "allowed"])
def test_where_nothing_is_allowed_the_answer_is_empty_and_says_so(
    gallery: Gallery, which: str, rng: Rng
) -> None:
    query = a_query(gallery, rng)
    found = gallery.search(query, where="camera = 9", rerank=SMALL, rerank_graph=which)
    plain = gallery.search(query, where="camera = 9")
    assert (found.matches, found.allowed) == ((), 0)
    assert found.note
    assert found.note == plain.note


# What is refused


def test_a_k1_beyond_the_gallery_is_one_line(gallery: Gallery, rng: Rng) -> None:
    query = a_query(gallery, rng)
    rerank = Reranking(k1=120)
    words = "k1 = 120, k2 = 6 needs at least 121 items and there are 120: choose a smaller"
    for which in ("whole", "allowed"):
        with pytest.raises(errors.UsageError, match=words):
            gallery.search(query, rerank=rerank, rerank_graph=which)
    with pytest.raises(errors.UsageError, match=words):
        gallery.build_graph(rerank)
    with pytest.raises(errors.UsageError, match=r"at least 21 items and there are \d+: choose"):
        gallery.search(query, where="item < 50", rerank=Reranking(), rerank_graph="allowed")
    assert Gallery.open(gallery.path).attached("graph") is None


def test_an_inner_product_gallery_has_no_distances(tmp_path: Path, rng: Rng) -> None:
    gallery = filled(tmp_path / "g", rng, metric="inner_product")
    before = contents(gallery.path)
    with pytest.raises(errors.UsageError, match="re-ranking needs distances: an inner product"):
        gallery.search(np.ones(16), rerank=SMALL)
    with pytest.raises(errors.UsageError, match="a graph needs distances: an inner product"):
        gallery.build_graph(SMALL)
    assert contents(gallery.path) == before


@pytest.mark.parametrize(
    ("query", "options", "kind"),
    [
        (np.ones(15), {}, errors.DimensionMismatch),
        (np.full(16, np.nan), {}, errors.NotFiniteError),
        (np.zeros(16), {}, errors.NotFiniteError),
        (np.ones(16), {"k": 0}, errors.UsageError),
        (np.ones(16), {"rerank_graph": "none"}, errors.UsageError),
        (
            np.ones(16),
            {"fingerprint": Fingerprint(name="other", version="1")},
            errors.ExtractorMismatch,
        ),
        ([[1.0] * 16, [1.0]], {"combine": "best"}, errors.UsageError),
    ],
)
def test_a_bad_query_is_refused_as_without_re_ranking(
    gallery: Gallery, query: object, options: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        gallery.search(query, rerank=SMALL, **options)


def test_an_empty_gallery_answers_nothing(tmp_path: Path) -> None:
    gallery = Gallery.create(tmp_path / "g", dim=16, fingerprint=FINGERPRINT)
    assert gallery.search(np.ones(16), rerank=SMALL).matches == ()
    with pytest.raises(errors.UsageError, match="there are 0"):
        gallery.build_graph(SMALL)


# Kept with the gallery


def test_a_changed_byte_is_found_by_verify_and_a_missing_file_when_used(gallery: Gallery) -> None:
    gallery.build_graph(SMALL)
    assert verify_gallery(Gallery.open(gallery.path)) == []
    folder = gallery.attached("graph")
    assert folder is not None
    path = folder / "graph.h5"
    whole = path.read_bytes()
    for place in (0, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        (problem,) = verify_gallery(Gallery.open(gallery.path))
        changed = f"{path}: its bytes have changed since it was written (sha256 differs)"
        assert problem == f"{changed}; `reid graph` makes it again"
    path.unlink()
    opened = Gallery.open(gallery.path)
    with pytest.raises(errors.CorruptGallery, match=r"graph\.h5 is gone; `reid graph` makes"):
        opened.search(np.ones(16), rerank=SMALL)


# Approximate


def test_an_approximate_graph_says_so_and_agrees_mostly(tmp_path: Path, rng: Rng) -> None:
    vectors = KINDS["clustered"](rng, 5000)
    queries = unit(vectors[::500] + 0.05 * rng.normal(size=(10, 16)))
    gallery = Gallery.create(tmp_path / "g", dim=16, fingerprint=FINGERPRINT)
    gallery.add(vectors)
    gallery.build_graph(Reranking(), exact=False)
    approximate = [gallery.search(query, k=10, rerank=Reranking()) for query in queries]
    gallery.build_graph(Reranking(), exact=True)
    exact = [gallery.search(query, k=10, rerank=Reranking()) for query in queries]
    assert {found.exact for found in approximate} == {False}
    assert {found.plan for found in approximate} == {
        "every row compared, re-ranked with an approximate graph of the whole gallery"
    }
    assert {found.exact for found in exact} == {True}
    shared = [
        {match.item for match in one.matches} & {match.item for match in other.matches}
        for one, other in zip(approximate, exact, strict=True)
    ]
    assert np.mean([len(items) for items in shared]) > 9


def test_beyond_the_limit_a_graph_is_approximate(
    gallery: Gallery, rng: Rng, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = a_query(gallery, rng)
    monkeypatch.setattr(graph, "EXACT_ROWS", 119)
    gallery.build_graph(SMALL)
    found = gallery.search(query, k=120, rerank=SMALL)
    assert not found.exact
    assert sorted(match.item for match in found.matches) == sorted(ids(gallery))
    gallery.build_graph(SMALL, exact=True)
    assert gallery.search(query, rerank=SMALL).exact
    monkeypatch.setattr(graph, "EXACT_ROWS", 120)
    gallery.build_graph(SMALL)
    assert gallery.search(query, rerank=SMALL).exact


@pytest.mark.parametrize(("kind", "rows"), [("duplicated", 300), ("clustered", 7), ("equal", 40)])
def test_an_approximate_graph_of_few_or_of_equals_has_whole_lists(
    kind: str, rows: int, tmp_path: Path, rng: Rng
) -> None:
    gallery = Gallery.create(tmp_path / "g", dim=16, fingerprint=FINGERPRINT)
    gallery.add(KINDS[kind](rng, rows))
    gallery.build_graph(SMALL, exact=False)
    lists = gallery.reranking(SMALL).graph.near.index
    assert lists.shape == (rows, 6)
    assert (lists >= 0).all()
    assert all(len(set(row)) == 6 for row in lists.tolist())
    found = gallery.search(rng.normal(size=16), k=rows, rerank=SMALL)
    assert sorted(match.item for match in found.matches) == list(range(rows))
    assert np.isfinite([match.reranked_distance for match in found.matches]).all()
