"""From vectors of frames to one vector for each tracklet."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reid_index.errors import DimensionMismatch, NotFiniteError
from reid_index.store.tracks import tracks_of

from .attributes import voted

_EARLIEST = ("start", "start_s", "frame_first")
_LATEST = ("end", "end_s", "frame_last")

_PIECE = 4096


def pool_tracklets(
    vectors: NDArray[np.floating[Any]],
    items: pa.Table,
    *,
    roots: pa.DictionaryArray | None = None,
) -> tuple[NDArray[np.float32], pa.Table]:
    """One vector for each tracklet, and its items.

    vectors: (n, D). items: n rows of standard columns (`reid_index.store.items`) and any others.
    Which rows are one tracklet `reid_index.store.tracks.tracks_of` says, with their roots; a row
    without a track stays alone.

    Returns float32 (t, D), the mean of the rows' vectors, each scaled to length 1 first, summed in
    double precision, so that every frame counts alike; the mean itself is not scaled. Averaging
    over a tracklet's frames is what torchreid does, too, but without scaling them. The items are
    those of a tracklet's first row, with the earliest start and frame_first and the latest end
    and frame_last of its rows, and the attributes on which these vote (`attributes.voted`).
    Tracklets are in the order of their first rows.

    Raises DimensionMismatch where vectors and items differ in number, NotFiniteError for a row
    that holds NaN or Inf or has length 0.
    """
    if vectors.ndim != 2 or len(vectors) != items.num_rows:
        raise DimensionMismatch(
            f"{items.num_rows} items need as many rows of vectors, these are {vectors.shape}"
        )
    codes = tracks_of(items, roots)
    firsts = np.unique(codes, return_index=True)[1]
    sums = np.zeros((len(firsts), vectors.shape[1]), np.float64)
    for start in range(0, len(vectors), _PIECE):
        piece = _unit(vectors[start : start + _PIECE], start)
        inside = codes[start : start + _PIECE]
        order = np.argsort(inside, kind="stable")
        groups, at = np.unique(inside[order], return_index=True)
        sums[groups] += np.add.reduceat(piece[order], at, axis=0)
    sums /= np.bincount(codes, minlength=len(firsts))[:, None]
    return sums.astype(np.float32), _widened(items, codes, firsts)


def _unit(rows: NDArray[np.floating[Any]], start: int) -> NDArray[np.float64]:
    wide: NDArray[np.float64] = rows.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    wrong = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))
    if len(wrong):
        raise NotFiniteError(
            f"row {start + wrong[0]} of the frames' vectors holds NaN or Inf or has length 0; "
            "leave it out"
        )
    wide /= lengths
    return wide


def _widened(items: pa.Table, codes: NDArray[np.int64], firsts: NDArray[np.int64]) -> pa.Table:
    pooled = items.take(pa.array(firsts))
    wanted = [(name, "min") for name in _EARLIEST] + [(name, "max") for name in _LATEST]
    wanted = [(name, how) for name, how in wanted if name in items.column_names]
    grouped = items.append_column("tracklet of the row", pa.array(codes))
    spans = grouped.group_by("tracklet of the row").aggregate(wanted)
    spans = spans.take(pc.sort_indices(spans["tracklet of the row"]))
    for name, how in wanted:
        pooled = pooled.set_column(
            pooled.column_names.index(name), items.schema.field(name), spans[f"{name}_{how}"]
        )
    order = np.argsort(codes, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    for name, column in voted(items, [group.tolist() for group in groups]).items():
        pooled = pooled.set_column(pooled.column_names.index(name), name, column)
    return pooled
