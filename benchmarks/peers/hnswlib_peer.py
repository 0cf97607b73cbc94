"""hnswlib with its filter: a function that is asked about every row on the way."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import hnswlib
import numpy as np
from numpy.typing import NDArray

from benchmarks.filter_world import Filter, World
from benchmarks.peers import GRAPH_ROWS, padded

_EFFORTS = {"ef 128": 128, "ef 512": 512}


def variants(rows: int) -> tuple[str, ...]:
    """By ef; none where no graph is built."""
    return tuple(_EFFORTS) if rows <= GRAPH_ROWS else ()


def build(world: World, folder: Path) -> dict[str, float]:
    """M 16, ef_construction 200: its defaults."""
    rows, dim = world.vectors.shape
    start = time.perf_counter()
    folder.mkdir(parents=True)
    index = hnswlib.Index(space="ip", dim=dim)
    index.init_index(max_elements=rows, M=16, ef_construction=200)
    index.add_items(world.vectors, np.arange(rows))
    index.save_index(str(folder / "index.bin"))
    return {"add and write": time.perf_counter() - start}


class Opened:
    """The index in memory, and the columns that masks are made of."""

    def __init__(self, world: World, folder: Path) -> None:
        self._columns = world.columns
        self._index = hnswlib.Index(space="ip", dim=world.vectors.shape[1])
        self._index.load_index(str(folder / "index.bin"))

    def search(
        self, queries: NDArray[np.float32], chosen: Filter, variant: str, k: int
    ) -> NDArray[np.int64]:
        """One call of `knn_query`; with a filter on one thread, as its documentation asks for
        Python functions. It raises where one query of a batch finds fewer than k: each is then
        asked alone, and has no answer where that raises too."""
        self._index.set_ef(_EFFORTS[variant])
        mask = chosen.mask(self._columns)
        if mask is None:
            return np.asarray(self._index.knn_query(queries, k)[0], dtype=np.int64)
        passes = mask.tobytes().__getitem__
        try:
            return self._filtered(queries, passes, k)
        except RuntimeError:
            return padded([self._alone(query, passes, k) for query in queries], k)

    def _filtered(
        self, queries: NDArray[np.float32], passes: Callable[[int], int], k: int
    ) -> NDArray[np.int64]:
        found = self._index.knn_query(queries, k, num_threads=1, filter=passes)[0]
        return np.asarray(found, dtype=np.int64)

    def _alone(self, query: NDArray[np.float32], passes: Callable[[int], int], k: int) -> list[int]:
        try:
            return [int(row) for row in self._filtered(query[None], passes, k)[0]]
        except RuntimeError:
            return []

    def processes(self) -> Sequence[int]:
        """None."""
        return ()

    def close(self) -> None:
        """Nothing to end."""
