"""Milvus Lite through pymilvus: FLAT and HNSW, inverted indexes on the columns."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pymilvus import DataType, MilvusClient

from benchmarks.filter_world import Condition, Filter, World
from benchmarks.peers import GRAPH_ROWS, padded

_VARIANTS = {"FLAT": {}, "HNSW ef 128": {"ef": 128}, "HNSW ef 512": {"ef": 512}}
_CHUNK = 2000


def variants(rows: int) -> tuple[str, ...]:
    """Flat, and with its graph."""
    return tuple(_VARIANTS) if rows <= GRAPH_ROWS else ("FLAT",)


def build(world: World, folder: Path) -> dict[str, float]:
    """A collection for each kind of index, in a database of its own."""
    folder.mkdir(parents=True)
    rows, dim = world.vectors.shape
    seconds = {}
    for kind in ("FLAT", "HNSW") if rows <= GRAPH_ROWS else ("FLAT",):
        client = _client(folder / f"{kind}.db")
        schema = client.create_schema()
        schema.add_field("row", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        for name in world.columns:
            schema.add_field(name, DataType.INT64)
        client.create_collection("crops", schema=schema)
        start = time.perf_counter()
        for at in range(0, rows, _CHUNK):
            client.insert("crops", _records(world, at, min(at + _CHUNK, rows)))
        client.flush("crops")
        seconds[f"{kind}: rows"] = time.perf_counter() - start
        start = time.perf_counter()
        indexes = client.prepare_index_params()
        graph = {"M": 32, "efConstruction": 100} if kind == "HNSW" else {}
        indexes.add_index("vector", index_type=kind, metric_type="IP", params=graph)
        for name in world.columns:
            indexes.add_index(name, index_type="INVERTED")
        client.create_index("crops", indexes)
        client.load_collection("crops")
        seconds[f"{kind}: indexes"] = time.perf_counter() - start
        client.close()
    return seconds


def _client(path: Path) -> MilvusClient:
    # By default it pings its server so often that this hangs up while an index is built.
    return MilvusClient(str(path), grpc_options={"grpc.keepalive_time_ms": 3_600_000})


def _records(world: World, start: int, stop: int) -> list[dict[str, object]]:
    columns = {name: column[start:stop].tolist() for name, column in world.columns.items()}
    return [
        {
            "row": start + place,
            "vector": vector,
            **{name: column[place] for name, column in columns.items()},
        }
        for place, vector in enumerate(world.vectors[start:stop])
    ]


class Opened:
    """A client for each database."""

    def __init__(self, world: World, folder: Path) -> None:
        self._clients = {}
        for path in sorted(folder.glob("*.db")):
            client = _client(path)
            client.load_collection("crops")
            self._clients[path.stem] = client

    def search(
        self, queries: NDArray[np.float32], chosen: Filter, variant: str, k: int
    ) -> NDArray[np.int64]:
        """One call of `search` for all queries."""
        found = self._clients[variant.split()[0]].search(
            "crops",
            data=list(queries),
            filter=" and ".join(map(_expression, chosen.conditions)),
            limit=k,
            search_params={"metric_type": "IP", "params": _VARIANTS[variant]},
        )
        return padded([[hit["row"] for hit in one] for one in found], k)

    def processes(self) -> Sequence[int]:
        """None: it runs in a thread of this one."""
        return ()

    def close(self) -> None:
        """Closes the clients."""
        for client in self._clients.values():
            client.close()


def _expression(one: Condition) -> str:
    if one.between:
        low, high = one.values
        return f"{one.column} >= {low} and {one.column} <= {high}"
    if len(one.values) == 1:
        return f"{one.column} == {one.values[0]}"
    return f"{one.column} in {list(one.values)}"
