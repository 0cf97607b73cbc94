"""Building: which kind is chosen, what is built of it, and whether tuning keeps its word."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from reid_index import Gallery, verify_gallery
from reid_index.errors import UsageError
from reid_index.metric import Metric
from reid_index.search import index_tuning
from reid_index.search.exact import Block
from reid_index.search.index import Index
from reid_index.search.index_build import (
    BuiltIndex,
    build_index,
    choose_kind,
    index_bytes,
)
from reid_index.search.index_tuning import Rows, exact_best

ROWS, DIM = 5000, 32
GB = 2**30


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    """500 people with ten vectors each, in no order."""
    return people(np.random.default_rng(3), ROWS)


def people(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    centres = np.random.default_rng(8).standard_normal((500, DIM), dtype=np.float32)
    noise = rng.standard_normal((count, DIM), dtype=np.float32)
    return centres[rng.permutation(count) % 500] + np.float32(0.4) * noise


@pytest.fixture(scope="module")
def built(vectors: NDArray[np.float32]) -> BuiltIndex:
    half = vectors[:2000].astype(np.float16)
    return build_index([half, vectors[2000:]], "hnsw-sq8", metric=Metric.EUCLIDEAN, recall=0.8)


@pytest.mark.parametrize(
    ("rows", "recall", "memory", "kind"),
    [
        (49_999, 0.95, 64 * GB, "flat"),
        (50_000, 0.95, 64 * GB, "hnsw-sq8"),
        (1_000_000, 0.95, 64 * GB, "hnsw-sq8"),
        (1_000_001, 0.95, 64 * GB, "ivf-pq"),
        (1_000_001, 0.96, 64 * GB, "ivf-sq8"),
        (1_000_000, 0.95, GB // 2, "ivf-pq"),
        (1_000_000, 0.99, GB // 2, "ivf-sq8"),
        (1_000_000, 0.99, GB // 4, "ivf-pq"),
        (1_000_000, 0.99, GB // 20, "flat"),
    ],
)
def test_auto_goes_by_rows_recall_and_memory(
    rows: int, recall: float, memory: int, kind: str
) -> None:
    assert choose_kind(rows, 512, recall=recall, memory=memory) == kind


@pytest.mark.parametrize(
    ("kind", "measured"),
    [("hnsw", 464_028_130), ("hnsw-sq8", 156_832_262), ("ivf-pq", 19_135_156)],
)
def test_sizes_are_those_of_files_that_were_built(kind: str, measured: int) -> None:
    """200,000 × 512, as Faiss 1.15 wrote them."""
    assert index_bytes(kind, 200_000, 512) == pytest.approx(measured, rel=0.01)


def test_the_exact_comparison(vectors: NDArray[np.float32]) -> None:
    rows = Rows([vectors[:100].astype(np.float16), vectors[100:3000], vectors[3000:]])
    assert len(rows) == ROWS
    some = np.array([0, 99, 100, 2999, 3000, 4999])
    taken = rows.take(some)
    assert taken.dtype == np.float32
    assert (taken[2:] == vectors[some[2:]]).all()
    allowed = np.random.default_rng(1).random(ROWS) < 0.2
    wide = np.concatenate(list(rows.pieces(700))).astype(np.float64)
    for metric in Metric:
        found = exact_best(rows, vectors[:9] + 1, 7, metric=metric, allowed=allowed)
        for query, best in zip(vectors[:9].astype(np.float64) + 1, found, strict=True):
            keys = wide @ query
            if metric is Metric.EUCLIDEAN:
                keys = -((wide - query) ** 2).sum(axis=1)
            keys[~allowed] = -np.inf
            assert best.tolist() == np.argsort(-keys)[:7].tolist()
    few = np.zeros(ROWS, np.bool_)
    few[[3, 4000]] = True
    found = exact_best(rows, vectors[:2], 7, metric=Metric.COSINE, allowed=few)
    assert found.shape == (2, 2)


def test_trusted_answers_reach_the_recall_that_the_table_says(
    built: BuiltIndex, vectors: NDArray[np.float32]
) -> None:
    """On queries that tuning did not see, under filters that it did not see either."""
    rng = np.random.default_rng(77)
    index = Index(built.facts, built.opened)
    queries, k = people(rng, 200), 10
    rows = Rows([vectors])
    for share in (1.0, 0.5, 0.1):
        effort = index.effort(share=share, recall=0.95, k=k)
        assert effort is not None
        assert effort.recall >= 0.95
        assert effort.probe < effort.value
        allowed = rng.random(ROWS) < share
        truth = exact_best(rows, queries, k, metric=Metric.EUCLIDEAN, allowed=allowed)
        full, probe = (
            rescored(
                index.search(queries, effort.fetch * k, effort=value, allowed=allowed),
                queries,
                vectors,
                k,
            )
            for value in (effort.value, effort.probe)
        )
        agree = np.array([len(np.intersect1d(*pair)) / k for pair in zip(full, probe, strict=True)])
        right = np.array([len(np.intersect1d(*pair)) / k for pair in zip(full, truth, strict=True)])
        trusted = agree >= effort.agreement
        assert trusted.mean() == pytest.approx(effort.accepted, abs=0.15)
        assert right[trusted].mean() >= 0.93


def rescored(
    found: NDArray[np.int64], queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int
) -> NDArray[np.int64]:
    distances = np.linalg.norm(vectors[found] - queries[:, None], axis=2)
    return np.take_along_axis(found, np.argsort(distances, axis=1)[:, :k], axis=1)


def test_the_table_is_of_the_shares_and_recalls_asked_for(built: BuiltIndex) -> None:
    facts = built.facts
    assert (facts.kind, facts.rows, facts.dim) == ("hnsw-sq8", ROWS, DIM)
    assert {entry.wanted for entry in facts.tuned} == {0.8, 0.9, 0.95, 0.99}
    assert {1.0, 0.8, 0.5, 0.3} <= {entry.share for entry in facts.tuned}
    assert {entry.k for entry in facts.tuned} == {10, 20, 100}
    assert all(entry.effort.recall >= entry.wanted for entry in facts.tuned)
    assert all(0.3 < entry.effort.accepted <= 1 for entry in facts.tuned)
    assert all(entry.effort.rows_single > 0 < entry.effort.rows_batch for entry in facts.tuned)
    # A queue shorter than the candidates asked for would not be the queue that was tuned.
    assert all(entry.effort.probe >= entry.effort.fetch * entry.k for entry in facts.tuned)
    assert 0 < facts.batch_scan <= 1
    about = built.about(0.8)
    assert (about["kind"], about["rows"], about["recall_wanted"]) == ("hnsw-sq8", ROWS, 0.8)
    assert about["recall_reached"]["at 10"]["1"] >= 0.8


@pytest.mark.parametrize("kind", ["ivf", "ivf-sq8", "ivf-pq", "hnsw"])
def test_a_gallery_keeps_what_was_built(
    make_gallery: Callable[..., Gallery], vectors: NDArray[np.float32], kind: str
) -> None:
    gallery = make_gallery(dim=DIM, dtype="float16" if kind == "ivf-sq8" else "float32")
    gallery.add(vectors[:700])
    gallery.add(vectors[700:1500])
    told: list[int] = []
    index = gallery.build_index(kind, recall=0.9, progress=told.append)
    assert index is not None
    assert sum(told) == 2 * 1500  # added, and tuned
    again = Gallery.open(gallery.path)
    assert again.index is not None
    assert again.index.facts == index.facts
    assert again.index.rows == 1500
    (entry,) = again.manifest.attached
    assert (entry.kind, entry.about["kind"], entry.about["rows"]) == ("index", kind, 1500)
    assert entry.about["recall_reached"]["at 10"]["1"] >= 0.9
    assert verify_gallery(again) == []
    effort = again.index.effort(share=1.0, recall=0.9, k=10)
    assert effort is not None
    stored = gallery.vectors(range(1500))
    found = again.index.search(stored[::50], 10 * effort.fetch, effort=effort.value)
    truth = np.argsort(-(stored[::50] @ stored.T), axis=1)[:, :10]
    shared = [len(np.intersect1d(*pair)) for pair in zip(found, truth, strict=True)]
    assert np.mean(shared) / 10 >= 0.88


def test_costs_are_told_in_rows_of_the_exact_scan(
    vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that nothing moves but: a row of an exact scan, 2 ticks; 32 queries' products,
    16; a candidate's score, 3; a query's search, 1,000 and as many as its effort."""
    clock = Clock()
    monkeypatch.setattr(index_tuning, "time", clock)

    def candidates(blocks: list[Block], queries: NDArray[np.float32], *_: int, **how: bool) -> None:
        assert blocks[0].vectors.dtype == np.float32
        assert len(queries) == (1 if how["scan"] else 32)
        clock.now += len(blocks[0].vectors) * (2 if how["scan"] else 16)

    def score_pairs(_: object, rows: NDArray[np.float32], **__: object) -> None:
        clock.now += 3 * len(rows)

    search = index_tuning.search_faiss

    def search_faiss(opened: object, queries: NDArray[np.float32], *more: int, **how: Any) -> Any:
        clock.now += len(queries) * (1000 + how["effort"])
        return search(opened, queries, *more, **how)

    for patch in (candidates, score_pairs, search_faiss):
        monkeypatch.setattr(index_tuning, patch.__name__, patch)
    halves = [vectors.astype(np.float16)]
    facts = build_index(halves, "ivf-sq8", metric=Metric.EUCLIDEAN).facts
    assert facts.batch_scan == 16 / 32 / 2
    assert {10, 20} <= {entry.k for entry in facts.tuned}
    for entry in facts.tuned:
        effort = entry.effort
        searches = 1000 + effort.value + 1000 + effort.probe
        assert effort.rows_single == (searches + 3 * 2 * entry.k) / 2
        assert effort.rows_batch == effort.rows_single


class Clock:
    """A clock that stands still; it has what `time` has of it."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.mark.parametrize("kind", ["flat", "auto"])
def test_flat_removes_a_former_index(
    make_gallery: Callable[..., Gallery], vectors: NDArray[np.float32], kind: str
) -> None:
    gallery = make_gallery(dim=DIM)
    gallery.add(vectors[:1500])
    for made in ("index", "graph"):
        gallery.attach(made, lambda folder: (folder / "made.json").touch(), generation=1)
    reader, folder = Gallery.open(gallery.path), gallery.attached("index")
    assert folder is not None
    assert gallery.build_index(kind) is None
    for seen in (gallery, Gallery.open(gallery.path)):
        assert [entry.kind for entry in seen.manifest.attached] == ["graph"]
        assert (seen.manifest.generation, seen.index) == (4, None)
    assert reader.attached("index") == folder
    assert folder.is_dir()  # as long as there is a reader
    assert verify_gallery(gallery) == []
    reader.close()
    gallery.add(vectors[:1])  # a detaching writer's work is finished by the next
    assert not folder.exists()
    assert gallery.attached("graph") is not None
    assert gallery.build_index(kind) is None
    assert gallery.manifest.generation == 5  # nothing to remove, nothing committed


def test_flat_removes_a_former_index_at_once_where_nobody_reads(
    make_gallery: Callable[..., Gallery], vectors: NDArray[np.float32]
) -> None:
    gallery = make_gallery(dim=DIM)
    gallery.add(vectors[:1500])
    gallery.attach("index", lambda folder: (folder / "made.json").touch(), generation=1)
    assert gallery.build_index("flat") is None
    assert list((gallery.path / "attached").iterdir()) == []


def test_flat_and_small_build_nothing(
    make_gallery: Callable[..., Gallery], vectors: NDArray[np.float32]
) -> None:
    gallery = make_gallery(dim=DIM)
    gallery.add(vectors[:999])
    generation = gallery.manifest.generation
    assert gallery.build_index("auto") is None
    assert gallery.build_index("flat") is None
    assert gallery.manifest.generation == generation
    for kind, recall, words in (
        ("ivf", 0.95, "'ivf' of 999 rows cannot be built: it takes at least 1,000"),
        ("annoy", 0.95, "no index 'annoy'; there are auto, flat, ivf,"),
        ("ivf", 1.0, "a recall of 1 cannot"),
        ("flat", 0.0, "a recall of 0 cannot"),
    ):
        with pytest.raises(UsageError, match=words):
            gallery.build_index(kind, recall=recall)
