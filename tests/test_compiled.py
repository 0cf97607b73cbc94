"""Compiled loops: the same answers where nothing can be cached."""

import numba.core.caching
import pytest

from reid_index.compiled import compiled


def double(number):  # type: ignore[no-untyped-def]
    return 2 * number


def test_without_a_folder_for_the_cache_it_compiles_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(numba.core.caching.CompileResultCacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(double)
    assert compiled()(double)(21) == 42
    assert compiled(fastmath=True)(double)(0.5) == 1.0
