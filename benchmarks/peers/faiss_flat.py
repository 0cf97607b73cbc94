"""Faiss as its documentation shows it: IndexFlatIP, and a selector made from the user's mask."""

import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.filter_world import Filter, World

faiss: Any = import_module("faiss")  # its own types know only part of it

_SELECTORS = {"IDSelectorBatch": faiss.IDSelectorBatch, "IDSelectorArray": faiss.IDSelectorArray}


def variants(rows: int) -> tuple[str, ...]:
    """By the selector."""
    return tuple(_SELECTORS)


def build(world: World, folder: Path) -> dict[str, float]:
    """The vectors in an index, written."""
    start = time.perf_counter()
    folder.mkdir(parents=True)
    index = faiss.IndexFlatIP(world.vectors.shape[1])
    index.add(np.ascontiguousarray(world.vectors))
    faiss.write_index(index, str(folder / "flat.faiss"))
    return {"add and write": time.perf_counter() - start}


class Opened:
    """The index in memory, and the columns that masks are made of."""

    def __init__(self, world: World, folder: Path) -> None:
        self._columns = world.columns
        self._index = faiss.read_index(str(folder / "flat.faiss"))

    def search(
        self, queries: NDArray[np.float32], chosen: Filter, variant: str, k: int
    ) -> NDArray[np.int64]:
        """One call of `search` for all queries."""
        mask = chosen.mask(self._columns)
        if mask is None:
            return np.asarray(self._index.search(queries, k)[1])
        selector = _SELECTORS[variant](np.flatnonzero(mask))
        return np.asarray(
            self._index.search(queries, k, params=faiss.SearchParameters(sel=selector))[1]
        )

    def processes(self) -> Sequence[int]:
        """None."""
        return ()

    def close(self) -> None:
        """Nothing to end."""
