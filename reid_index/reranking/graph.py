"""A gallery's neighbour graph: what its rows are to each other, made once for many queries.

graph.h5      the arrays below, uncompressed and contiguous, mapped in place
graph.json    what they are
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import BadShard, CorruptGallery
from ..files import json_bytes, write_file
from ..reading import read_json, whole
from ..search.index import approximate_neighbours
from ..store.vectors import ArrayStream, map_arrays, write_vectors
from .neighbours import Neighbourhood, exact_neighbours, neighbourhood
from .reciprocal import Sparse, fill_distances, inverted, robust_sets, room
from .rerank import Reranking

EXACT_ROWS = 300_000
"""Up to so many rows a graph is exact unless asked otherwise: two cores need some three minutes
for as many of 256 dimensions, and the time grows with the square."""

_LARGEST_JSON = 2**20

_KINDS = {
    "index": ("int32",),
    "squared": ("float32",),
    "farthest": ("float32",),
    "set_offsets": ("int64",),
    "set_index": ("int32",),
    "set_squared": ("float32",),
    "holder_offsets": ("int64",),
    "holder_index": ("int32",),
}


@dataclass(frozen=True)
class Graph:
    """What a gallery's rows are to each other, without any query.

    near: neighbour lists of the N rows. sets: R* of each, with squared distances. holders: for each
    row, those whose R* it is in. k1: what they were made for. exact: whether every neighbour and
    every farthest row is the true one.
    """

    near: Neighbourhood
    sets: Sparse
    holders: Sparse
    k1: int
    exact: bool

    def fits(self, reranking: Reranking) -> bool:
        """Whether it can be re-ranked with by these parameters."""
        return self.k1 == reranking.k1 and self.near.index.shape[1] >= reranking.length

    @cached_property
    def last(self) -> NDArray[np.float32]:
        """The squared distance of each row's last neighbour, (N,)."""
        return np.ascontiguousarray(self.near.squared[:, -1])

    def followers(self, k2: int) -> Sparse:
        """For each row, those that have it among the first k2 of their list; itself where k2 is 1:
        then nothing is averaged, and of duplicates another may come first in the list."""
        if k2 == 1:
            rows = np.arange(len(self.near.index), dtype=np.int32)
            return Sparse(np.arange(len(rows) + 1), rows, np.empty(len(rows), np.int8))
        index = np.ascontiguousarray(self.near.index[:, :k2]).reshape(-1)
        offsets = np.arange(0, len(index) + 1, k2)
        return inverted(offsets, index, np.empty(len(index), np.int8), len(self.near.index))


def make_graph(
    vectors: NDArray[np.float32],
    *,
    items: NDArray[np.int64],
    reranking: Reranking,
    exact: bool | None = None,
) -> Graph:
    """The graph of vectors (N, D) float32, of length 1 for cosine.

    items: int64 (N,), the ids by which equal distances are ordered. exact: compare all pairs; None
    does up to EXACT_ROWS rows. Otherwise the neighbours are those that an inverted-file index
    finds, and the farthest row is the farthest of a sample. Raises UsageError for too few rows,
    NotFiniteError.
    """
    reranking.check(len(vectors))
    if exact is None:
        exact = len(vectors) <= EXACT_ROWS
    order = np.argsort(np.argsort(items, kind="stable"))
    if exact:
        near = neighbourhood(vectors, order=order, k=reranking.length)
    else:
        found, farthest = approximate_neighbours(vectors, reranking.length)
        near = exact_neighbours(vectors, found, farthest, order=order, k=reranking.length)
    sets = fill_distances(robust_sets(near.index, near.squared, k1=reranking.k1), vectors)
    holders = inverted(sets.offsets, sets.index, np.empty(len(sets.index), np.int8), len(vectors))
    return Graph(near, sets, holders, reranking.k1, exact)


def write_graph(folder: Path, graph: Graph) -> None:
    """Write the two files into a folder."""
    arrays: dict[str, NDArray[Any]] = {
        "index": graph.near.index,
        "squared": graph.near.squared,
        "farthest": graph.near.farthest,
        "set_offsets": graph.sets.offsets,
        "set_index": graph.sets.index,
        "set_squared": graph.sets.values,
        "holder_offsets": graph.holders.offsets,
        "holder_index": graph.holders.index,
    }
    write_vectors(
        folder / "graph.h5", {name: ArrayStream.of(array) for name, array in arrays.items()}
    )
    rows, length = graph.near.index.shape
    facts = {"rows": rows, "neighbours": length, "k1": graph.k1, "exact": graph.exact}
    write_file(folder / "graph.json", json_bytes(facts), sync=False)


def read_graph(folder: Path, *, rows: int) -> Graph:
    """Open a graph of so many rows; its large arrays are mapped.

    All indices are looked at, as compiled loops follow them without a check. Raises CorruptGallery.
    """
    try:
        data = read_json(folder / "graph.json", most=_LARGEST_JSON)
        neighbours = whole(data["neighbours"], name="neighbours", most=rows)
        arrays = map_arrays(folder / "graph.h5", _KINDS)
        graph = Graph(
            near=Neighbourhood(
                cast("NDArray[np.int32]", arrays["index"]),
                cast("NDArray[np.float32]", arrays["squared"]),
                cast("NDArray[np.float32]", arrays["farthest"]),
            ),
            sets=Sparse(
                cast("NDArray[np.int64]", arrays["set_offsets"]),
                cast("NDArray[np.int32]", arrays["set_index"]),
                cast("NDArray[np.float32]", arrays["set_squared"]),
            ),
            holders=Sparse(
                cast("NDArray[np.int64]", arrays["holder_offsets"]),
                cast("NDArray[np.int32]", arrays["holder_index"]),
                np.empty(0, np.int8),
            ),
            k1=whole(data["k1"], name="k1", least=1, most=rows),
            exact=bool(data["exact"]),
        )
        _check(graph, arrays, rows=rows, neighbours=neighbours)
    except (OSError, BadShard, LookupError, TypeError, ValueError) as error:
        raise CorruptGallery(
            f"{folder}: the neighbour graph cannot be read ({error}); reid graph makes it again"
        ) from None
    return graph


def _check(graph: Graph, arrays: Mapping[str, NDArray[Any]], *, rows: int, neighbours: int) -> None:
    """Raise ValueError unless every index leads to where something is."""
    members, holders = int(graph.sets.offsets[-1]), int(graph.holders.offsets[-1])
    expected = {
        "index": (rows, neighbours),
        "squared": (rows, neighbours),
        "farthest": (rows,),
        "set_offsets": (rows + 1,),
        "set_index": (members,),
        "set_squared": (members,),
        "holder_offsets": (rows + 1,),
        "holder_index": (holders,),
    }
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != expected or neighbours <= graph.k1:
        raise ValueError(f"its arrays have the shapes {shapes}, not those of {rows} rows")
    for sparse in (graph.sets, graph.holders):
        # Not by their differences, which may be too large for their type.
        if sparse.offsets[0] != 0 or (sparse.offsets[1:] < sparse.offsets[:-1]).any():
            raise ValueError("its offsets do not ascend")
    if np.diff(graph.sets.offsets).max() > room(graph.k1):
        raise ValueError("a set has more members than there can be")
    for index in (graph.near.index, graph.sets.index, graph.holders.index):
        if index.size and not 0 <= index.min() <= index.max() < rows:
            raise ValueError("it names rows that are not there")
    for squared in (graph.near.squared, graph.near.farthest, graph.sets.values):
        if not (np.isfinite(squared) & (squared >= 0)).all():
            raise ValueError("it has distances that are none")
