"""Adding, deleting, compacting and opening in any order, beside a dictionary of what is there."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FINGERPRINT, ids
from faults import Disk
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from numpy.typing import NDArray

from reid_index import Gallery, files, verify_gallery
from reid_index.errors import UsageError
from reid_index.search.oracle import nearest_by_numpy


class Changes(RuleBasedStateMachine):
    """A gallery of small whole numbers, so that scores are exact and many are equal; beside it a
    dictionary of what should be there."""

    def __init__(self) -> None:
        super().__init__()
        self.held = tempfile.TemporaryDirectory()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(files, "os", Disk())
        self.model: dict[int, tuple[list[int], int, str]] = {}
        self.next_item = 0
        self.touched = -1

    @initialize(metric=st.sampled_from(["inner_product", "euclidean"]))
    def create(self, metric: str) -> None:
        self.gallery = Gallery.create(
            Path(self.held.name) / "g", dim=2, fingerprint=FINGERPRINT, metric=metric
        )

    @rule(
        rows=st.lists(
            st.tuples(st.integers(-2, 2), st.integers(-2, 2), st.integers(1, 3)),
            min_size=1,
            max_size=9,
        ),
        root=st.sampled_from(["/a", "/b"]),
        gap=st.sampled_from([None, 0, 3]),
    )
    def add(self, rows: list[tuple[int, int, int]], root: str, gap: int | None) -> None:
        items: list[dict[str, Any]] = [{"camera": camera} for _, _, camera in rows]
        given = [self.next_item + at for at in range(len(rows))]
        if gap is not None:  # ids of their own, backwards
            given = [one + gap for one in reversed(given)]
            items = [item | {"item": one} for item, one in zip(items, given, strict=True)]
        vectors = [row[:2] for row in rows]
        assert self.gallery.add(vectors, items, root=root)
        for one, row in zip(given, rows, strict=True):
            self.model[one] = (list(row[:2]), row[2], root)
        self.next_item = max(given) + 1

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def delete_items(self, data: st.DataObject) -> None:
        named = data.draw(st.lists(st.sampled_from(sorted(self.model)), min_size=1, max_size=5))
        assert self.gallery.delete(items=named) == len(set(named))
        for one in set(named):
            del self.model[one]

    @rule(camera=st.integers(1, 3), below=st.integers(0, 60))
    def delete_where(self, camera: int, below: int) -> None:
        gone = [one for one, known in self.model.items() if known[1] == camera and one < below]
        named = f"camera = {camera} AND item < {below}"
        assert self.gallery.delete(where=named) == len(gone)
        for one in gone:
            del self.model[one]

    @rule(item=st.integers(0, 80))
    def delete_nobody(self, item: int) -> None:
        if item not in self.model:
            with pytest.raises(UsageError, match=f"no item {item}"):
                self.gallery.delete(items=[item])

    @rule()
    def compact(self) -> None:
        deleted = self.gallery.manifest.deleted
        done = self.gallery.compact()
        assert (done.rows, done.removed, done.pending) == (len(self.model), deleted, ())
        assert self.gallery.manifest.stored == len(self.model)

    @rule()
    def reopen(self) -> None:
        path = self.gallery.path
        self.gallery.close()
        self.gallery = Gallery.open(path)
        assert verify_gallery(self.gallery) == []

    @invariant()
    def holds_what_it_should(self) -> None:
        if not hasattr(self, "gallery") or self.touched == self.gallery.manifest.generation:
            return
        gallery, model = self.gallery, self.model
        self.touched = gallery.manifest.generation
        there = ids(gallery)
        assert (sorted(there), len(gallery)) == (sorted(model), len(model))
        vectors = gallery.vectors(range(len(there)))
        assert vectors.tolist() == [model[one][0] for one in there]
        assert gallery.items["camera"].to_pylist() == [model[one][1] for one in there]
        assert [gallery.root_of(row) for row in range(len(there))] == [model[o][2] for o in there]
        assert [gallery.row_of(one) for one in there] == list(range(len(there)))
        self.answers_right(np.array([1, 2], np.float32), vectors, there)

    def answers_right(
        self, query: NDArray[np.float32], vectors: NDArray[np.float32], there: list[int]
    ) -> None:
        for camera in (None, 2):
            allowed = np.array([camera in (None, self.model[one][1]) for one in there], np.bool_)
            where = None if camera is None else f"camera = {camera}"
            result = self.gallery.search(query, k=7, where=where)
            scored = [m.distance if m.similarity is None else m.similarity for m in result.matches]
            if not allowed.any():
                assert scored == []
                continue
            [(rows, scores)] = nearest_by_numpy(
                vectors,
                np.array(there),
                query[None],
                7,
                metric=self.gallery.metric,
                allowed=allowed,
            )
            assert [match.item for match in result.matches] == [there[row] for row in rows]
            assert scored == scores.tolist()
            assert (result.allowed, result.rows) == (allowed.sum(), len(there))

    def teardown(self) -> None:
        if hasattr(self, "gallery"):
            self.gallery.close()
        self.patch.undo()
        self.held.cleanup()


Changes.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestAnySequenceOfChanges = Changes.TestCase
