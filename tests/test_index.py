"""Opened indexes: what they return, which efforts they name, and which files are refused."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from reid_index import Gallery
from reid_index.errors import CorruptGallery
from reid_index.metric import Metric
from reid_index.search.index import (
    CLASSES,
    Effort,
    Index,
    IndexFacts,
    Tuned,
    new_index,
    open_index,
    write_index,
)

ROWS, DIM = 3000, 32
PARAMETERS = {"cells": 32, "codes": 8, "links": 16, "queue": 40}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    """300 people with ten vectors each, not of length 1."""
    rng = np.random.default_rng(5)
    people = rng.standard_normal((300, DIM), dtype=np.float32)
    return np.repeat(people, 10, axis=0) + 0.3 * rng.standard_normal((ROWS, DIM), dtype=np.float32)


def facts(kind: str, metric: Metric, *, tuned: tuple[Tuned, ...] = ()) -> IndexFacts:
    return IndexFacts(
        kind=kind,
        rows=ROWS,
        dim=DIM,
        metric=metric,
        parameters=PARAMETERS,
        tuned=tuned,
        batch_scan=0.25,
        build_seconds=1.5,
        tune_seconds=2.5,
        versions={"faiss": "x"},
    )


def built(folder: Path, vectors: NDArray[np.float32], kind: str, metric: Metric) -> Path:
    index = new_index(kind, dim=DIM, metric=metric, parameters=PARAMETERS)
    index.train(vectors)
    index.add(vectors)
    folder.mkdir()
    write_index(folder, index, facts(kind, metric))
    return folder


def opened(folder: Path, vectors: NDArray[np.float32], metric: Metric) -> Index:
    return open_index(folder, rows=ROWS, dim=DIM, metric=metric, take=vectors.__getitem__)


def best(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int, metric: Metric
) -> NDArray[np.int64]:
    keys = queries @ vectors.T
    if metric is Metric.EUCLIDEAN:
        keys = keys - (vectors**2).sum(axis=1) / 2
    return np.argsort(-keys, axis=1)[:, :k]


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("kind", list(CLASSES))
def test_every_kind_finds_the_best_allowed_rows(
    tmp_path: Path, vectors: NDArray[np.float32], kind: str, metric: Metric
) -> None:
    if metric is Metric.COSINE:
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    folder = built(tmp_path / "index", vectors, kind, metric)
    index = opened(folder, vectors, metric)
    assert (index.kind, index.rows) == (kind, ROWS)
    queries = vectors[::100] + np.float32(0.01)
    allowed = np.random.default_rng(1).random(ROWS) < 0.3
    effort = 512 if kind.startswith("hnsw") else 32  # all cells
    # PQ asks for more, to be scored again.
    want = 80 if kind == "ivf-pq" else 20
    for mask in (None, allowed):
        places = np.arange(ROWS) if mask is None else np.flatnonzero(mask)
        truth = places[best(vectors[places], queries, 10, metric)]
        found = index.search(queries, want, effort=effort, allowed=mask)
        assert found.shape == (len(queries), want)
        assert found.dtype == np.int64
        assert mask is None or mask[found].all()
        shared = [len(np.intersect1d(*pair)) for pair in zip(found, truth, strict=True)]
        assert np.mean(shared) / 10 >= 0.97
        if kind != "ivf-pq":  # best first
            first = found[:, 0] == truth[:, 0]
            assert first.mean() > 0.9


@pytest.mark.parametrize("kind", ["ivf-sq8", "hnsw"])
def test_what_is_not_found_is_marked(
    tmp_path: Path, vectors: NDArray[np.float32], kind: str
) -> None:
    folder = built(tmp_path / "index", vectors, kind, Metric.EUCLIDEAN)
    index = opened(folder, vectors, Metric.EUCLIDEAN)
    few = np.zeros(ROWS, np.bool_)
    few[[7, 2999]] = True
    found = index.search(vectors[7:8], 5, effort=2000, allowed=few)
    assert found.tolist() == [[7, 2999, -1, -1, -1]]
    assert (index.search(vectors[:2], 5, effort=64, allowed=np.zeros_like(few)) == -1).all()
    with pytest.raises(ValueError, match="a mask of 2999 rows for an index of 3000"):
        index.search(vectors[:2], 5, effort=64, allowed=few[1:])


@pytest.mark.parametrize("kind", ["ivf", "hnsw-sq8"])
def test_threads_get_their_own_answers(
    tmp_path: Path, vectors: NDArray[np.float32], kind: str
) -> None:
    folder = built(tmp_path / "index", vectors, kind, Metric.EUCLIDEAN)
    index = opened(folder, vectors, Metric.EUCLIDEAN)
    rng = np.random.default_rng(2)
    masks = [rng.random(ROWS) < share for share in rng.uniform(0.1, 0.9, 24)]

    def search(turn: int) -> NDArray[np.int64]:
        part = vectors[turn : turn + 2]
        return index.search(part, 10, effort=16 + turn, allowed=masks[turn])

    alone = [search(turn) for turn in range(24)]
    with ThreadPoolExecutor(4) as pool:
        for turn, found in enumerate(pool.map(search, range(24))):
            assert (found == alone[turn]).all()


def effort(value: int, *, rows: float = 100.0, accepted: float = 1.0) -> Effort:
    return Effort(
        value=value,
        probe=1,
        fetch=2,
        agreement=0.5,
        rows_single=rows,
        rows_batch=rows / 2,
        recall=0.9,
        accepted=accepted,
    )


def test_an_effort_is_that_of_the_next_harder_request() -> None:
    table = tuple(
        Tuned(share=share, k=k, wanted=wanted, effort=effort(value, rows=float(value)))
        for share, k, wanted, value in [
            (1.0, 10, 0.9, 4),
            (1.0, 10, 0.95, 8),
            (1.0, 100, 0.9, 16),
            (0.5, 10, 0.9, 32),
            (0.1, 10, 0.99, 64),
        ]
    )
    index = Index(facts("ivf", Metric.COSINE, tuned=table), None)

    def value(share: float, recall: float, k: int) -> int | None:
        found = index.effort(share=share, recall=recall, k=k)
        return None if found is None else found.value

    assert value(1.0, 0.9, 10) == 4
    assert value(1.0, 0.5, 1) == 4
    # The same candidates as when it was tuned: 2 for each of 10 matches.
    assert [index.effort(share=1, recall=0.9, k=k).fetch for k in (1, 3, 9, 10)] == [20, 7, 3, 2]
    assert value(1.0, 0.91, 10) == 8
    assert value(1.0, 0.9, 11) == 16
    assert value(0.999, 0.9, 10) == 32
    assert value(0.5, 0.9, 10) == 32
    # Tuning found nothing good enough at the next smaller share.
    assert value(0.5, 0.95, 10) is None
    assert value(1.0, 0.96, 10) is None
    assert value(0.1, 0.99, 10) == 64
    assert value(0.09, 0.9, 10) is None
    assert value(1.0, 0.991, 10) is None
    assert value(1.0, 0.95, 100) is None
    assert value(1.0, 0.9, 101) is None


def test_the_cost_of_answers_that_are_not_trusted_is_added() -> None:
    table = (
        Tuned(share=0.5, k=10, wanted=0.9, effort=effort(4, rows=100.0, accepted=0.7)),
        Tuned(share=0.5, k=10, wanted=0.9, effort=effort(8, rows=200.0, accepted=0.9)),
    )
    index = Index(facts("ivf", Metric.COSINE, tuned=table), None)
    found = index.effort(share=0.5, recall=0.9, k=10)
    # 100 + 0.3 · 1500 is more than 200 + 0.1 · 1500.
    assert found is not None
    assert found.value == 8
    assert found.rows_single == pytest.approx(200 + 150)
    assert found.rows_batch == pytest.approx(100 + 150 * 0.25)


def test_the_record_comes_back_as_it_was() -> None:
    table = (Tuned(share=0.5, k=10, wanted=0.9, effort=effort(4)),)
    record = facts("hnsw", Metric.EUCLIDEAN, tuned=table)
    assert IndexFacts.from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize("kind", list(CLASSES))
def test_cut_files_are_refused(tmp_path: Path, vectors: NDArray[np.float32], kind: str) -> None:
    folder = built(tmp_path / "index", vectors, kind, Metric.EUCLIDEAN)
    path = folder / "index.faiss"
    whole = path.read_bytes()
    for size in (0, 3, 50, len(whole) // 2, len(whole) - 1):
        path.unlink()
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptGallery, match=r"index\.faiss: the index cannot.*`reid index`"):
            opened(folder, vectors, Metric.EUCLIDEAN)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": ROWS + 1}, "one of 3,001 rows"),
        ({"dim": 16}, "of 16 dimensions"),
        ({"metric": Metric.COSINE}, "by cosine, not of 3,000 of 32 by euclidean"),
        ({"kind": "hnsw"}, "IndexIVFFlat, not IndexHNSWFlat"),
        ({"kind": "x"}, "no kind 'x'"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(
    tmp_path: Path, vectors: NDArray[np.float32], change: dict[str, object], words: str
) -> None:
    folder = built(tmp_path / "index", vectors, "ivf", Metric.EUCLIDEAN)
    record = replace(facts("ivf", Metric.EUCLIDEAN), **change)
    (folder / "index.json").write_text(json.dumps(record.to_json()))
    with pytest.raises(CorruptGallery, match=words):
        opened(folder, vectors, Metric.EUCLIDEAN)


@pytest.mark.parametrize(
    "asked",
    [
        {"rows": ROWS - 1, "dim": DIM, "metric": Metric.EUCLIDEAN},
        {"rows": ROWS, "dim": DIM + 1, "metric": Metric.EUCLIDEAN},
        {"rows": ROWS, "dim": DIM, "metric": Metric.COSINE},
    ],
)
def test_the_index_of_another_gallery_is_refused(
    tmp_path: Path, vectors: NDArray[np.float32], asked: dict[str, object]
) -> None:
    folder = built(tmp_path / "index", vectors, "hnsw", Metric.EUCLIDEAN)
    # The record is made to fit, so that Faiss's own file must tell.
    record = replace(facts("hnsw", Metric.EUCLIDEAN), **asked)
    (folder / "index.json").write_text(json.dumps(record.to_json()))
    with pytest.raises(CorruptGallery, match=r"index\.faiss"):
        open_index(folder, take=vectors.__getitem__, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("kind", list(CLASSES))
def test_an_index_of_other_vectors_is_refused(
    tmp_path: Path, vectors: NDArray[np.float32], kind: str, metric: Metric
) -> None:
    """Of the same kind, size, dimensions and metric: also the same rows in another order."""
    for name, others in (("new", vectors[::-1] + 1), ("moved", np.roll(vectors, 1, axis=0))):
        folder = built(tmp_path / name, others, kind, metric)
        assert opened(folder, others, metric).rows == ROWS
        words = r"index\.faiss: .* does not belong to its shard: row \d+ .*`reid index` makes it"
        with pytest.raises(CorruptGallery, match=words):
            opened(folder, vectors, metric)


@pytest.mark.parametrize("kind", list(CLASSES))
def test_the_indexes_of_two_galleries_are_not_to_be_swapped(
    make_gallery: Callable[..., Gallery], vectors: NDArray[np.float32], kind: str
) -> None:
    """The rows of both lie in two shards, in float16, and their lengths are 1."""
    galleries = []
    for name, some in (("a", vectors), ("b", vectors + 1)):
        gallery = make_gallery(name, dim=DIM, dtype="float16")
        gallery.add(some[:700])
        gallery.add(some[700:])
        stored = gallery.vectors(range(ROWS))
        index = built(gallery.path / "index", stored, kind, Metric.COSINE)
        gallery.attach("index", lambda into, index=index: moved(index, into), generation=2)
        galleries.append(gallery)
    _, second = (gallery.path / "attached/000003-index" for gallery in galleries)
    assert all(Gallery.open(gallery.path).index is not None for gallery in galleries)
    galleries[0].attach("index", lambda into: copied(second, into), generation=2)
    with pytest.raises(CorruptGallery, match="does not belong to its shard"):
        Gallery.open(galleries[0].path).nearest(vectors[:1], recall=0.9)
    own = second / "index.faiss"
    changed = bytearray(own.read_bytes())
    changed[-1] ^= 1
    own.unlink()
    own.write_bytes(changed)
    with pytest.raises(CorruptGallery, match=r"index\.faiss: its bytes have changed"):
        Gallery.open(galleries[1].path).nearest(vectors[:1], recall=0.9)


def moved(folder: Path, into: Path) -> None:
    for file in folder.iterdir():
        file.rename(into / file.name)


def copied(folder: Path, into: Path) -> None:
    for file in folder.iterdir():
        (into / file.name).write_bytes(file.read_bytes())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "ivf"}', '{"tuned": 3}'])
def test_a_broken_record_is_refused(
    tmp_path: Path, vectors: NDArray[np.float32], text: str
) -> None:
    folder = built(tmp_path / "index", vectors, "ivf", Metric.EUCLIDEAN)
    (folder / "index.json").write_text(text)
    with pytest.raises(CorruptGallery, match=r"index\.json"):
        opened(folder, vectors, Metric.EUCLIDEAN)


def test_an_index_stays_of_use_for_the_first_rows(
    make_gallery: Callable[..., Gallery], tmp_path: Path, vectors: NDArray[np.float32]
) -> None:
    folder = built(tmp_path / "index", vectors, "ivf-sq8", Metric.EUCLIDEAN)
    gallery = make_gallery(dim=DIM, metric="euclidean")
    assert gallery.index is None
    gallery.add(vectors[:1000])
    gallery.add(vectors[1000:])

    def write(into: Path) -> None:
        copied(folder, into)

    gallery.attach("index", write, generation=2, about={"recall": 0.9})
    gallery.add(vectors[:10])
    again = Gallery.open(gallery.path)
    assert len(again) == ROWS + 10
    assert again.index is not None
    assert again.index.rows == ROWS
    assert again.manifest.attached[0].about == {"recall": 0.9}
    # One that says to be of the first shard only, but has the rows of both.
    gallery.attach("index", write, generation=1)
    with pytest.raises(CorruptGallery, match="not of 1,000"):
        _ = gallery.index


def test_an_index_of_other_shards_is_none(
    make_gallery: Callable[..., Gallery], vectors: NDArray[np.float32]
) -> None:
    gallery = make_gallery(dim=DIM)
    gallery.add(vectors[:1000])

    def write(into: Path) -> None:
        (into / "index.json").write_text("{}")

    gallery.attach("index", write, generation=1)
    present = gallery._generation
    shards = present.manifest.shards
    moved = replace(present.manifest, shards=(replace(shards[0], folder="shards/000009"),))
    assert replace(present, manifest=moved).kept_index == (None, "an index of other rows")
