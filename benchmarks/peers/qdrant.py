"""Qdrant Edge: the segment engine in this process, integer payload indexes, payload-aware HNSW."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as qe
from numpy.typing import NDArray

from benchmarks.filter_world import Condition, Filter, World
from benchmarks.peers import GRAPH_ROWS, padded

_VARIANTS: dict[str, dict[str, Any]] = {
    "exact": {"exact": True},
    "HNSW ef 128": {"hnsw_ef": 128},
    "HNSW ef 512": {"hnsw_ef": 512},
}
_CHUNK = 2000


def variants(rows: int) -> tuple[str, ...]:
    """Exact, and with its graph."""
    return tuple(_VARIANTS) if rows <= GRAPH_ROWS else ("exact",)


def build(world: World, folder: Path) -> dict[str, float]:
    """Points with payload, an integer index for each column, then `optimize`, which builds the
    graph with its links for each indexed value."""
    rows, dim = world.vectors.shape
    folder.mkdir(parents=True)
    graph = rows <= GRAPH_ROWS
    config = qe.EdgeConfig(
        vectors=qe.EdgeVectorParams(size=dim, distance=qe.Distance.Dot),
        hnsw_config=qe.HnswIndexConfig(m=32, ef_construct=100, full_scan_threshold=10_000),
        # In KB: beyond any segment of the world where no graph is wanted.
        optimizers=qe.EdgeOptimizersConfig(indexing_threshold=10_000 if graph else 10**9),
    )
    start = time.perf_counter()
    shard = qe.EdgeShard.create(str(folder), config)
    for name in world.columns:
        index = qe.UpdateOperation.create_field_index(name, qe.PayloadSchemaType.Integer)
        shard.update(index)
    for at in range(0, rows, _CHUNK):
        shard.update(qe.UpdateOperation.upsert_points(_points(world, at, min(at + _CHUNK, rows))))
    loaded = time.perf_counter()
    shard.optimize()
    shard.flush()
    shard.close()
    return {"points": loaded - start, "optimize": time.perf_counter() - loaded}


def _points(world: World, start: int, stop: int) -> list[qe.Point]:
    columns = {name: column[start:stop].tolist() for name, column in world.columns.items()}
    return [
        qe.Point(start + place, vector, {name: column[place] for name, column in columns.items()})
        for place, vector in enumerate(world.vectors[start:stop].tolist())
    ]


class Opened:
    """An open shard."""

    def __init__(self, world: World, folder: Path) -> None:
        self._shard = qe.EdgeShard.load(str(folder))

    def search(
        self, queries: NDArray[np.float32], chosen: Filter, variant: str, k: int
    ) -> NDArray[np.int64]:
        """By `query`, or `query_batch` for several."""
        must = [_condition(one) for one in chosen.conditions]
        requests = [
            qe.QueryRequest(
                limit=k,
                query=qe.Query.Nearest(query),
                filter=qe.Filter(must=must) if must else None,
                params=qe.SearchParams(**_VARIANTS[variant]),
                with_payload=False,
            )
            for query in queries.tolist()
        ]
        if len(requests) == 1:
            found = [self._shard.query(requests[0])]
        else:
            found = self._shard.query_batch(qe.QueryBatchRequest(requests))
        return padded([[int(point.id) for point in one] for one in found], k)

    def processes(self) -> Sequence[int]:
        """None."""
        return ()

    def close(self) -> None:
        """Closes the shard."""
        self._shard.close()


def _condition(one: Condition) -> Any:
    if one.between:
        low, high = one.values
        return qe.FieldCondition(one.column, range=qe.RangeFloat(gte=low, lte=high))
    if len(one.values) == 1:
        return qe.FieldCondition(one.column, match=qe.MatchValue(one.values[0]))
    return qe.FieldCondition(one.column, match=qe.MatchAny(list(one.values)))
