"""Filters: asked twice, looked up once, within a budget; and never changed by who gets them."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from reid_index.errors import UsageError
from reid_index.filters import allowed as module
from reid_index.filters.allowed import Allowed, Filters
from reid_index.filters.columns import Columns
from reid_index.store.deletions import Live

CAMERAS = [1, 2, None, 3, 1, 2, 2, 3]


@pytest.fixture
def filters() -> Filters:
    table = pa.table({"camera": pa.array(CAMERAS, pa.int32())})
    return Filters(Columns(table), Live([len(CAMERAS)], [None]))


def test_a_filter_that_comes_again_is_the_one_that_was_kept(filters: Filters) -> None:
    first = filters.allowed(where="camera > 1", not_camera=[3, 1])
    assert first.listed.tolist() == [1, 5, 6]
    assert filters.allowed(where="camera > 1", not_camera=(1, 3, 3)) is first
    assert filters.allowed(where="camera > 1", not_camera=[]).listed.tolist() == [1, 3, 5, 6, 7]
    assert filters.allowed(where=None, not_camera=[2]).listed.tolist() == [0, 2, 3, 4, 7]
    assert filters.allowed(where=None, not_camera=[]).mask is None


def test_those_asked_longest_ago_go_when_the_budget_is_spent(
    filters: Filters, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(camera: int) -> Allowed:
        return filters.allowed(where=f"camera = {camera}", not_camera=[])

    # 8 bytes of mask and 8 for each of 2, 3 and 2 rows, beside 10 of text and 1,000 for what holds
    # them: two filters fit, three do not.
    monkeypatch.setattr(module, "_KEPT_BYTES", 24 + 32 + 2020)
    one, two = ask(1), ask(2)
    assert ask(1) is one
    three = ask(3)
    assert (ask(1), ask(3)) == (one, three)
    assert ask(2) is not two
    kept = ask(2)
    wide = "camera > 0" + " " * 1100  # fits no budget
    large = filters.allowed(where=wide, not_camera=[])
    assert filters.allowed(where=wide, not_camera=[]) is not large
    assert ask(2) is kept


def test_what_is_allowed_compares_by_its_rows_and_cannot_be_changed() -> None:
    def of(*rows: int) -> Allowed:
        return Allowed(9, np.isin(np.arange(9), rows))

    assert of(1, 4).equals(of(1, 4))
    assert not of(1, 4).equals(of(1, 5))
    assert of(1, 4).key == of(1, 4).key != of(1, 5).key
    assert of(*range(9)).equals(Allowed(9))
    assert [of(1, 4).before(row) for row in (1, 2, 5)] == [0, 1, 2]
    assert (Allowed(9).before(4), Allowed(9).before(12)) == (4, 9)
    assert of(1, 4, 8).since(4).listed.tolist() == [4, 8]
    mask: Any = of(1, 4).mask
    with pytest.raises(ValueError, match="read-only"):
        mask[0] = True


@pytest.mark.parametrize(
    ("where", "not_camera", "words"),
    [
        (5, [], "a filter is text such as 'camera = 3', got 5"),
        (["camera = 1"], [], "got .'camera = 1'."),
        (None, 3, "a list of camera numbers, got 3"),
        (None, [2.5], "whole numbers of 32 bits"),
        (None, [2**31], "whole numbers of 32 bits"),
    ],
)
def test_filters_that_are_refused(
    filters: Filters, where: Any, not_camera: Any, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        filters.allowed(where=where, not_camera=not_camera)
