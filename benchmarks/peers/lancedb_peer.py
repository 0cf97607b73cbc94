"""LanceDB with its prefilter: flat, IVF_PQ and IVF_HNSW_SQ, scalar indexes on the columns."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.filter_world import Filter, World
from benchmarks.peers import GRAPH_ROWS, padded

_CHUNK = 50_000
_BITMAP = ("zone", "outfit", "build", "camera")
"""Columns of few values; the other gets a B-tree, as Lance's documentation advises."""


@dataclass(frozen=True)
class _Way:
    """A table, and how it is asked."""

    table: str
    flat: bool = False
    nprobes: int = 0
    refine: int = 0
    ef: int = 0


_VARIANTS = {
    "flat": _Way("pq", flat=True),
    "IVF_PQ nprobes 64 refine 10": _Way("pq", nprobes=64, refine=10),
    "IVF_HNSW_SQ ef 512 refine 2": _Way("hnsw", nprobes=20, refine=2, ef=512),
}


def variants(rows: int) -> tuple[str, ...]:
    """Flat, PQ and with its graph."""
    every = tuple(_VARIANTS)
    return every if rows <= GRAPH_ROWS else every[:2]


def build(world: World, folder: Path) -> dict[str, float]:
    """A table for each vector index, and the scalar indexes."""
    base = lancedb.connect(str(folder))
    rows, dim = world.vectors.shape
    seconds = {}
    for name in ("pq", "hnsw") if rows <= GRAPH_ROWS else ("pq",):
        start = time.perf_counter()
        schema = pa.schema(
            [
                *((column, pa.int64()) for column in ("row", *world.columns)),
                ("vector", pa.list_(pa.float32(), dim)),
            ]
        )
        table = base.create_table(name, _batches(world, schema), schema=schema)
        seconds[f"{name}: rows"] = time.perf_counter() - start
        start = time.perf_counter()
        for column in world.columns:
            table.create_scalar_index(column, index_type="BITMAP" if column in _BITMAP else "BTREE")
        seconds[f"{name}: scalar indexes"] = time.perf_counter() - start
        start = time.perf_counter()
        if name == "pq":
            table.create_index(
                metric="dot",
                index_type="IVF_PQ",
                num_partitions=max(1, round(rows**0.5)),
                num_sub_vectors=dim // 8,
            )
        else:
            table.create_index(
                metric="dot", index_type="IVF_HNSW_SQ", num_partitions=1, m=20, ef_construction=300
            )
        seconds[f"{name}: vector index"] = time.perf_counter() - start
    return seconds


def _batches(world: World, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    rows, dim = world.vectors.shape
    for start in range(0, rows, _CHUNK):
        stop = min(start + _CHUNK, rows)
        flat = pa.array(world.vectors[start:stop].reshape(-1))
        columns = [
            pa.array(np.arange(start, stop)),
            *(pa.array(column[start:stop]) for column in world.columns.values()),
            pa.FixedSizeListArray.from_arrays(flat, dim),
        ]
        yield pa.record_batch(columns, schema=schema)


class Opened:
    """Its tables."""

    def __init__(self, world: World, folder: Path) -> None:
        base = lancedb.connect(str(folder))
        self._tables: dict[str, Any] = {name: base.open_table(name) for name in base.table_names()}

    def search(
        self, queries: NDArray[np.float32], chosen: Filter, variant: str, k: int
    ) -> NDArray[np.int64]:
        """One search with prefilter, for one query or for several."""
        way = _VARIANTS[variant]
        where = chosen.sql()
        several = len(queries) > 1
        search = self._tables[way.table].search(queries if several else queries[0])
        search = search.select(["row", "_distance"]).limit(k)
        if where is not None:
            search = search.where(where, prefilter=True)
        if way.flat:
            search = search.bypass_vector_index()
        else:
            search = search.nprobes(way.nprobes).refine_factor(way.refine)
        if way.ef:
            search = search.ef(way.ef)
        found = search.to_arrow()
        rows = found["row"].to_numpy()
        if not several:
            return padded([rows], k)
        of = found["query_index"].to_numpy()
        return padded([rows[of == number] for number in range(len(queries))], k)

    def processes(self) -> Sequence[int]:
        """None."""
        return ()

    def close(self) -> None:
        """Nothing to end."""
