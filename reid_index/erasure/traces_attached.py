"""Looking for what was made from erased items in a gallery's attachments.

Codes, links and counts cannot be told from others by their bytes. So each attachment must have been
made from shards that hold none of the erased items; an index must have an entry for each of their
rows, no other, each as near its row's vector as its codes can be; and a graph the true distances.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ReidIndexError
from ..reranking.graph import Graph, read_graph
from ..reranking.neighbours import pair_distances
from ..search.index import Index, import_faiss, open_index
from ..search.index_tuning import Rows
from ..store.attached import attached_folder
from ..store.deletions import Live, read_deleted
from ..store.manifest import AttachedEntry, Manifest, ShardEntry
from ..store.shard import open_shard

_PIECE = 4096
"""Entries of an index that are decoded at a time."""

_CHECKED = 20_000
"""Rows of a graph whose distances are computed again; of more, so many at even steps."""

_FARTHEST = 64
"""Rows that are compared with all others for the farthest."""

_LISTS = 256
"""Rows of a graph that are looked at at a time."""

_TOLERANCE = 1e-5
"""Relative: distances are rounded to float32, sums may be taken in another order."""


def attachment_traces(
    gallery: Path, manifest: Manifest, *, touched: set[Path]
) -> tuple[list[tuple[Path, str]], set[str]]:
    """Attachments in the folder that were, or may have been, made from erased items: their folders
    with a line each, and the kinds that have to be made again, as no compaction does it.

    touched: folders in which something erased was found.
    """
    found: list[tuple[Path, str]] = []
    wrong = set()
    folder = gallery / "attached"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        entry = next((one for one in manifest.attached if gallery / one.folder == path), None)
        if entry is None:
            why = "is no part of the present generation, so it may have been made from erased items"
            found.append((path, f"{path}: {why}"))
        elif {gallery / shard for shard in entry.covers} & touched:
            found.append((path, f"{path}: was made from shards that still hold erased items"))
        else:
            lines = list(_in_attachment(path, entry, gallery, manifest))
            found += [(path, line) for line in lines]
            wrong |= {entry.kind} if lines else set()
    return found, wrong


def _in_attachment(
    path: Path, entry: AttachedEntry, gallery: Path, manifest: Manifest
) -> Iterator[str]:
    by_folder = {shard.folder: shard for shard in manifest.shards}
    if not set(entry.covers) <= by_folder.keys():
        yield f"{path}: was made from shards that are gone, so maybe from erased items"
        return
    covered = [by_folder[folder] for folder in entry.covers]
    try:
        attached_folder(gallery, entry)  # before Faiss reads a byte of it
        if entry.kind == "index":
            yield from _in_index(path, gallery, covered, manifest)
        elif entry.kind == "graph" and entry.deleted == sum(shard.gone for shard in covered):
            yield from _in_graph(path, gallery, covered)
    except ReidIndexError as error:
        yield f"{error}"


def _vectors(gallery: Path, shards: Sequence[ShardEntry]) -> Rows:
    return Rows([open_shard(gallery / shard.folder).vectors for shard in shards])


def _in_index(
    path: Path, gallery: Path, shards: Sequence[ShardEntry], manifest: Manifest
) -> Iterator[str]:
    vectors = _vectors(gallery, shards)
    index = open_index(
        path, rows=len(vectors), dim=manifest.dim, metric=manifest.metric, take=vectors.take
    )
    seen = np.zeros(len(vectors), np.int64)
    wrong: list[int] = []
    for rows, held, encode in _entries(index):
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(seen):
            yield f"{path}: the index numbers rows that are not there"
            return
        seen += np.bincount(rows, minlength=len(seen))
        wrong += _not_own(rows, held, encode, vectors)
    if not (seen == 1).all():
        extra, missing = int((seen > 1).sum()), int((seen == 0).sum())
        yield f"{path}: the index has {extra:,} rows twice or more, and {missing:,} not at all"
    if wrong:
        yield (
            f"{path}: {len(wrong):,} entries of the index are not of their row's vector, that of "
            f"row {min(wrong)} first"
        )


_Encode = Callable[[NDArray[np.float32]], NDArray[np.float32]]
_Entries = Iterator[tuple[NDArray[np.int64], NDArray[np.float32], _Encode]]


def _not_own(
    rows: NDArray[np.int64], held: NDArray[np.float32], encode: _Encode, vectors: Rows
) -> list[int]:
    """Rows of which the index holds something that is farther from their vector than the code that
    it would give that vector."""
    order = np.argsort(rows)
    own = np.empty_like(held)
    own[order] = vectors.take(rows[order])
    off = np.linalg.norm(held - own, axis=1)
    wrong = off > 1e-6 * np.linalg.norm(own, axis=1)
    if wrong.any():
        best = np.linalg.norm(encode(own) - own, axis=1)
        wrong &= off > 1.01 * best + 1e-6 * np.linalg.norm(own, axis=1)
    found: list[int] = rows[wrong].tolist()
    return found


def _entries(index: Index) -> _Entries:
    """All entries of an index: the rows that they are of, what is held of these, and what would be
    held of given vectors in their places."""
    return _in_graph_of(index.opened) if hasattr(index.opened, "hnsw") else _in_cells(index.opened)


def _in_graph_of(opened: Any) -> _Entries:
    store = import_faiss().downcast_index(opened.storage)
    for start in range(0, opened.ntotal, _PIECE):
        count = min(_PIECE, opened.ntotal - start)
        rows = np.arange(start, start + count)
        held = store.reconstruct_n(start, count)
        yield rows, held, lambda vectors: store.sa_decode(store.sa_encode(vectors))


def _in_cells(opened: Any) -> _Entries:
    faiss = import_faiss()
    lists, width = opened.invlists, opened.code_size
    waiting: list[tuple[int, NDArray[np.int64], NDArray[np.uint8]]] = []
    for cell in range(opened.nlist):
        size = lists.list_size(cell)
        if size:
            ids = faiss.rev_swig_ptr(lists.get_ids(cell), size).astype(np.int64)
            codes = faiss.rev_swig_ptr(lists.get_codes(cell), size * width).copy()
            waiting.append((cell, ids, codes))
        if sum(len(ids) for _, ids, _ in waiting) >= _PIECE or cell == opened.nlist - 1:
            yield from _decoded(opened, waiting)
            waiting = []


def _decoded(
    opened: Any, waiting: Sequence[tuple[int, NDArray[np.int64], NDArray[np.uint8]]]
) -> _Entries:
    faiss = import_faiss()
    if not waiting:
        return
    rows = np.concatenate([ids for _, ids, _ in waiting])
    cells = np.concatenate([np.full(len(ids), cell, np.int64) for cell, ids, _ in waiting])
    codes = np.concatenate([codes for _, _, codes in waiting])

    def decode(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        vectors = np.empty((len(rows), opened.d), np.float32)
        pointers = [faiss.swig_ptr(one) for one in (codes, cells, vectors)]
        opened.decode_vectors(len(rows), *pointers)
        return vectors

    def encode(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        made = np.empty(len(rows) * opened.code_size, np.uint8)
        pointers = [faiss.swig_ptr(one) for one in (vectors, cells, made)]
        opened.encode_vectors(len(rows), *pointers)
        return decode(made)

    yield rows, decode(codes), encode


def _in_graph(path: Path, gallery: Path, shards: Sequence[ShardEntry]) -> Iterator[str]:
    live = Live(
        [shard.rows for shard in shards], [read_deleted(gallery, shard) for shard in shards]
    )
    graph = read_graph(path, rows=live.count)
    vectors = _vectors(gallery, shards)
    rows = np.unique(np.linspace(0, live.count - 1, min(live.count, _CHECKED)).astype(np.int64))
    wrong = 0
    for start in range(0, len(rows), _LISTS):
        wrong += _wrong_lists(graph, rows[start : start + _LISTS], live, vectors)
    of = "" if len(rows) == live.count else f" of the {len(rows):,} that were looked at"
    if wrong:
        yield f"{path}: the lists of {wrong:,} rows{of} hold distances that no present rows have"
    some = rows[:: max(1, len(rows) // _FARTHEST)]
    if not _farthest_are_true(graph, some, live, vectors):
        yield f"{path}: farthest distances in it are those of no present rows"
    if not _holders_fit(graph):
        yield f"{path}: sets and their holders do not fit each other"


def _wrong_lists(graph: Graph, rows: NDArray[np.int64], live: Live, vectors: Rows) -> int:
    """How many rows have another distance to a neighbour, or a member of their set, than it has."""
    sets = [np.arange(graph.sets.offsets[row], graph.sets.offsets[row + 1]) for row in rows]
    members = np.concatenate(sets)
    others = [graph.near.index[rows].reshape(-1), graph.sets.index[members]]
    said = [graph.near.squared[rows].reshape(-1), graph.sets.values[members]]
    length = graph.near.index.shape[1]
    whose = [
        np.repeat(np.arange(len(rows)), length),
        np.repeat(np.arange(len(rows)), list(map(len, sets))),
    ]
    mine, other = np.concatenate(whose), np.concatenate(others).astype(np.int64)
    needed, at = np.unique(np.concatenate([rows, other]), return_inverse=True)
    some = vectors.take(live.stored_of(needed))
    true = pair_distances(some, at[: len(rows)][mine], at[len(rows) :])
    off = ~np.isclose(np.concatenate(said), true, rtol=_TOLERANCE, atol=0)
    return len(np.unique(mine[off]))


def _farthest_are_true(graph: Graph, rows: NDArray[np.int64], live: Live, vectors: Rows) -> bool:
    """Whether no row's farthest is farther than any row is, nor nearer where all were compared."""
    mine = vectors.take(live.stored_of(rows)).astype(np.float64)
    true = np.zeros(len(rows))
    for start in range(0, live.count, _PIECE):
        piece = np.arange(start, min(start + _PIECE, live.count))
        others = vectors.take(live.stored_of(piece)).astype(np.float64)
        norms = (mine**2).sum(axis=1)[:, None] + (others**2).sum(axis=1)
        true = np.maximum(true, (norms - 2 * mine @ others.T).max(axis=1))
    said = graph.near.farthest[rows]
    room = _TOLERANCE * true + 1e-12 * (mine**2).sum(axis=1)
    return bool((said <= true + room).all() and (not graph.exact or (said >= true - room).all()))


def _holders_fit(graph: Graph) -> bool:
    """Whether each row is held by just the rows whose set it is in."""
    count = len(graph.near.index)
    in_sets = np.repeat(np.arange(count), np.diff(graph.sets.offsets))
    held = np.repeat(np.arange(count), np.diff(graph.holders.offsets))
    pairs = np.sort(in_sets * count + graph.sets.index)
    return bool(np.array_equal(pairs, np.sort(graph.holders.index.astype(np.int64) * count + held)))
