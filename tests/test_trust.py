"""What nearest does when a way it was given fails or lies."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from reid_index import Gallery, generation
from reid_index.errors import DeviceFailed, DeviceTooSmall
from reid_index.filters.allowed import Allowed
from reid_index.metric import Metric
from reid_index.search import knn
from reid_index.search.device_rows import DeviceRows
from reid_index.search.exact import Block
from reid_index.search.index import Effort
from reid_index.search.knn import Rows, _is_settled, nearest
from reid_index.search.oracle import nearest_by_numpy


@pytest.fixture
def rows(rng: np.random.Generator) -> Rows:
    vectors = rng.normal(size=(500, 8)).astype(np.float32)
    return Rows(blocks=[Block(vectors, 10.0)], items=rng.permutation(500), metric=Metric.EUCLIDEAN)


class Lost:
    """A device that is lost in the middle of a query."""

    name = "cuda:0 in float32"

    def candidates(self, *_: Any, **__: Any) -> Any:
        raise DeviceFailed("the device is gone")


def too_small() -> Any:
    raise DeviceTooSmall("500 rows of 8 float32 need 9 MiB on 'cuda', 8 MiB are free")


@pytest.mark.parametrize("share", [None, 0.5])
def test_a_device_answers_as_the_oracle_does_and_so_does_the_processor_in_its_place(
    rng: np.random.Generator, rows: Rows, share: float | None
) -> None:
    mask = None if share is None else rng.random(500) < share
    queries = rng.normal(size=(6, 8)).astype(np.float32)
    vectors: Any = rows.blocks[0].vectors
    wanted = nearest_by_numpy(vectors, rows.items, queries, 9, metric=rows.metric, allowed=mask)

    def load() -> DeviceRows:
        return DeviceRows.load(rows.blocks, devices=["cpu"], metric=rows.metric)

    for device, words in (
        (load, "rows compared on cpu in float32"),
        (Lost, "the processor did: the device is gone"),
        (too_small, "the processor did: 500 rows of 8 float32 need 9 MiB"),
    ):
        found = nearest(rows, queries, 9, allowed=Allowed(500, mask), device=device)
        for one, (best, scores) in zip(found, wanted, strict=True):
            assert (one.rows.tolist(), one.scores.tolist()) == (best.tolist(), scores.tolist())
            assert one.exact
            assert words in (one.fallback or one.path)


class Liar:
    """An index that returns the rows it likes."""

    rows, kind = 500, "made-up"

    def effort(self, *, share: float, recall: float, k: int) -> Effort:
        return Effort(
            value=2, probe=1, fetch=1, agreement=1.0, rows_single=1.0, rows_batch=1.0,
            recall=1.0, accepted=1.0,
        )  # fmt: skip

    def search(self, queries: NDArray[np.float32], want: int, **_: Any) -> NDArray[np.int64]:
        return np.tile(np.arange(want), (len(queries), 1))


def test_no_row_outside_the_filter_is_returned_whatever_an_index_says(rows: Rows) -> None:
    mask = np.arange(500) > 2
    liar: Any = Liar()
    with pytest.raises(AssertionError, match="outside the mask"):
        nearest(
            rows, np.zeros((1, 8), np.float32), 5,
            allowed=Allowed(500, mask), recall=0.9, index=liar, only="index",
        )  # fmt: skip


def test_single_and_several_vectors_of_one_person_may_be_answered_by_an_index(
    make_gallery: Callable[..., Gallery], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = make_gallery(dim=8)
    gallery.add(rng.normal(size=(500, 8)))
    monkeypatch.setattr(generation.Generation, "kept_index", (Liar(), "a liar"))
    for query in (rng.normal(size=8), rng.normal(size=(3, 8))):
        result = gallery.search(query, k=5, recall=0.9, combine="best")
        assert (result.exact, "index" in result.expected) == (False, True)
        assert sorted(match.item for match in result.matches) == [0, 1, 2, 3, 4]
        assert gallery.search(query, k=5, combine="best").exact


class Wavering(Liar):
    """Its probe confirms the answers to every query but the second; two candidates for a match."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def effort(self, *, share: float, recall: float, k: int) -> Effort:
        return replace(super().effort(share=share, recall=recall, k=k), fetch=2)

    def search(self, queries: NDArray[np.float32], want: int, **how: Any) -> NDArray[np.int64]:
        self.asked.append(want)
        found = super().search(queries, want)
        if how["effort"] == 1:
            found[1:2] += 100
        return found


def test_a_person_of_several_vectors_is_answered_exactly_only_if_all_are(
    make_gallery: Callable[..., Gallery], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = make_gallery(dim=8)
    gallery.add(rng.normal(size=(500, 8)))
    index = Wavering()
    monkeypatch.setattr(generation.Generation, "kept_index", (index, "one that wavers"))
    queries = rng.normal(size=(3, 8))
    assert [one.exact for one in gallery.nearest(queries, k=5, recall=0.9)] == [False, True, False]
    assert not gallery.search(queries, k=5, recall=0.9, combine="best").exact
    assert set(index.asked) == {10}


def test_all_rows_are_compared_for_every_query_a_few_at_a_time(
    rng: np.random.Generator, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knn, "_TOGETHER", 1100)  # two queries with 500 rows each
    queries = rng.normal(size=(7, 8)).astype(np.float32)
    vectors: Any = rows.blocks[0].vectors
    wanted = nearest_by_numpy(vectors, rows.items, queries, 500, metric=rows.metric)
    for one, (best, _) in zip(nearest(rows, queries, 500), wanted, strict=True):
        assert one.rows.tolist() == best.tolist()


def test_a_kth_score_settles_nothing_within_its_own_rounding() -> None:
    four, three = np.array([4.0], np.float32), np.array([3.0])
    within, beyond = np.array([2.0**-24]), np.array([2.0**-21])
    for off, settled in ((within, False), (beyond, True)):
        assert _is_settled(four, 4 * (1 - off), three, Metric.COSINE)[0] == settled
        assert _is_settled(-four, -4 * (1 + off), three, Metric.COSINE)[0] == settled
        key = (9 - (4 * (1 + off)) ** 2) / 2
        assert _is_settled(four, key, three, Metric.EUCLIDEAN)[0] == settled
