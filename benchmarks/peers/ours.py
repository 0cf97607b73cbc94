"""This project: a gallery folder, asked exactly and for a recall."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.filter_world import Filter, World
from benchmarks.peers import padded
from reid_index import Fingerprint, Gallery

_VARIANTS = {"exact": None, "recall 0.95": 0.95, "recall 0.99": 0.99}


def variants(rows: int) -> tuple[str, ...]:
    """Exact, and for two recalls."""
    return tuple(_VARIANTS)


def build(world: World, folder: Path) -> dict[str, float]:
    """A gallery, its rows in one commit, and the index that it chooses for itself."""
    start = time.perf_counter()
    gallery = Gallery.create(
        folder, dim=world.vectors.shape[1], fingerprint=Fingerprint(name="external:b", version="1")
    )
    gallery.add(world.vectors, pa.table(dict(world.columns)))
    added = time.perf_counter()
    gallery.build_index()
    return {"rows": added - start, "index": time.perf_counter() - added}


class Opened:
    """The open gallery."""

    def __init__(self, world: World, folder: Path) -> None:
        self._gallery = Gallery.open(folder)

    def search(
        self, queries: NDArray[np.float32], chosen: Filter, variant: str, k: int
    ) -> NDArray[np.int64]:
        """One call of `nearest` for all queries."""
        found = self._gallery.nearest(queries, k=k, where=chosen.sql(), recall=_VARIANTS[variant])
        return padded([one.rows.tolist() for one in found], k)

    def processes(self) -> Sequence[int]:
        """None."""
        return ()

    def close(self) -> None:
        """Nothing to end."""
