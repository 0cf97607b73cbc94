"""Faiss's HNSW with a selector: documented as well, and what many take for filtered search."""

import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.filter_world import Filter, World
from benchmarks.peers import GRAPH_ROWS

faiss: Any = import_module("faiss")  # its own types know only part of it

_EFFORTS = {"ef 128": 128, "ef 512": 512}


def variants(rows: int) -> tuple[str, ...]:
    """By efSearch; none where no graph is built."""
    return tuple(_EFFORTS) if rows <= GRAPH_ROWS else ()


def build(world: World, folder: Path) -> dict[str, float]:
    """HNSW32 with efConstruction 100, written."""
    start = time.perf_counter()
    folder.mkdir(parents=True)
    index = faiss.IndexHNSWFlat(world.vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 100
    index.add(np.ascontiguousarray(world.vectors))
    faiss.write_index(index, str(folder / "hnsw.faiss"))
    return {"add and write": time.perf_counter() - start}


class Opened:
    """The index in memory, and the columns that masks are made of."""

    def __init__(self, world: World, folder: Path) -> None:
        self._columns = world.columns
        self._index = faiss.read_index(str(folder / "hnsw.faiss"))

    def search(
        self, queries: NDArray[np.float32], chosen: Filter, variant: str, k: int
    ) -> NDArray[np.int64]:
        """One call of `search` for all queries."""
        parameters = faiss.SearchParametersHNSW(efSearch=_EFFORTS[variant])
        mask = chosen.mask(self._columns)
        if mask is not None:
            selector = faiss.IDSelectorBatch(np.flatnonzero(mask))
            parameters = faiss.SearchParametersHNSW(efSearch=_EFFORTS[variant], sel=selector)
        return np.asarray(self._index.search(queries, k, params=parameters)[1])

    def processes(self) -> Sequence[int]:
        """None."""
        return ()

    def close(self) -> None:
        """Nothing to end."""
