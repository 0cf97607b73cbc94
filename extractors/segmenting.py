"""From shards of frames to shards of segments.

What orders frames is read of all of them first, some 60 bytes each; their vectors are then gathered
a few thousand at a time, track by track, from the parts that they lie in. So frames may come in any
order, tracks may overlap as they like, and memory does not grow with them otherwise.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reid_index.files import make_folder, remove
from reid_index.fingerprint import Fingerprint
from reid_index.metric import Metric
from reid_index.store.items import stack
from reid_index.store.shard import Shard, open_shard, write_shard
from reid_index.store.tracks import COLUMNS, tracks_of
from reid_index.store.vectors import ArrayStream

from .attributes import voted
from .frames import Frame
from .segments import LENGTH, STRIDE, SegmentEncoder, Segments, check_windows, rows_of, windows

_FRAMES = 4096
"""Frames that are gathered and encoded at a time, each as often as it is in a segment."""

_BYTES = 2**26
"""Of arrays that are written as one shard."""

_OPEN = 16
"""Parts that are kept open: tracks that overlap in time lie in the same few."""

_EARLIEST = ("start", "start_s", "frame_first")
_LATEST = ("end", "end_s", "frame_last")


@dataclass(frozen=True)
class Cut:
    """How tracks are cut into segments: so many frames, and so many from the begin of one to that
    of the next. Raises UsageError where frames would be lost."""

    length: int = LENGTH
    stride: int = STRIDE

    def __post_init__(self) -> None:
        check_windows(self.length, self.stride)

    @classmethod
    def of(cls, length: int, stride: int | None) -> "Cut":
        """Each half over the next, where no stride is said."""
        return cls(length, stride or max(1, length // 2))

    def to_json(self) -> dict[str, int]:
        return {"length": self.length, "stride": self.stride}


@dataclass(frozen=True)
class Segmented:
    """What was made. parts: shard folders in order; rows: segments in them; tracks: of these, a
    frame without a track counted as one, and untracked: of these; frames: that they are of, each
    once. single: tracks of one frame. sorted: tracks whose frames did not come in order."""

    parts: tuple[Path, ...]
    rows: int
    tracks: int
    untracked: int
    frames: int
    single: int
    sorted: int


def write_segments(
    frames: Sequence[Path],
    folder: Path,
    *,
    encoder: SegmentEncoder,
    fingerprint: Fingerprint,
    metric: Metric,
    dtype: str = "float32",
    cut: Cut,
    progress: Callable[[int], object] = lambda _frames: None,
) -> Segmented:
    """Cut the tracks of frame-level shards into segments, and write these as shards in folder.

    frames: shards as `harvest` writes them, at least one; their vectors as the extractor yields
    them. folder: emptied first; what an interrupted run left of it is made again.

    Which rows are one track `tracks_of` says; a row without one is a segment of its own. Within a
    track, frames are in the order of `frame_first` where all of them have it, else as they come.
    Segments come track by track, by a track's first row, and in order of time.

    A segment's items are those of its middle frame, with the earliest start, start_s and
    frame_first and the latest end, end_s and frame_last of its frames, `frames`, a list of texts,
    one for each frame in order (`Frame`), and the attributes on which its frames vote
    (`attributes.voted`).

    progress is told of frames as they are done. Raises what the encoder and `write_shard` raise.
    """
    remove(folder)
    make_folder(folder)
    store = FrameRows(frames)
    keys = store.keys()
    order, spans = _spans(keys, cut)
    writer = SegmentWriter(
        folder,
        fingerprint=fingerprint,
        metric=metric,
        dtype=dtype,
        root=store.root,
        matcher=encoder.matcher,
    )
    done = 0
    for block in _blocks(spans):
        first, stop = int(block[0, 0]), int(block[:, 1].max())
        vectors, items = store.take(order[first:stop])
        rows, offsets = rows_of(block - first)
        segments = encoder.encode(vectors[rows], offsets)
        writer.add(segments, offsets, _items(items, block - first))
        progress(max(0, stop - done))
        done = max(done, stop)
    writer.flush()
    lengths = np.bincount(keys.codes)
    return Segmented(
        tuple(writer.parts),
        rows=len(spans),
        tracks=len(lengths),
        untracked=int((~keys.named).sum()),
        frames=len(order),
        single=int(((lengths == 1) & keys.named).sum()),
        sorted=_unsorted(order, keys.codes),
    )


@dataclass(frozen=True)
class _Keys:
    """What orders frames. codes: each one's track, counted by first appearance; numbers: its frame
    in it, 0 where not all of the track's are known. named: of each track, whether it is one, or a
    frame without a track."""

    codes: NDArray[np.int64]
    numbers: NDArray[np.int64]
    named: NDArray[np.bool_]


def _unsorted(order: NDArray[np.int64], codes: NDArray[np.int64]) -> int:
    """How many tracks have a frame that came before an earlier one."""
    back = np.diff(order) < 0
    inside = np.diff(codes[order]) == 0
    return len(np.unique(codes[order[1:]][back & inside]))


def _spans(keys: _Keys, cut: Cut) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All frames' rows by track and time, and the segments (n, 2) as ranges of these."""
    order = np.lexsort((keys.numbers, keys.codes))
    ends = np.cumsum(np.bincount(keys.codes))
    lengths = np.diff(ends, prepend=0)
    found = [
        windows(length, cut.length, cut.stride) + (end - length)
        for length, end in zip(lengths.tolist(), ends.tolist(), strict=True)
    ]
    return order, np.concatenate(found)


def _blocks(spans: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The segments a few at a time: _FRAMES frames, or one segment that has more."""
    totals = np.cumsum(spans[:, 1] - spans[:, 0])
    start = 0
    while start < len(spans):
        before = totals[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(totals, before + _FRAMES, side="right")))
        yield spans[start:stop]
        start = stop


class FrameRows:
    """The rows of all parts, at least one, counted through; a few parts are open at a time. root:
    the folder that the first one's sources are relative to."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._parts = parts
        headers = [open_shard(part).header for part in parts]
        self._ends = np.cumsum([header.rows for header in headers])
        self.root = headers[0].root
        self._open: OrderedDict[int, tuple[NDArray[np.generic], pa.Table]] = OrderedDict()

    def keys(self) -> _Keys:
        codes, firsts, numbers, named = [], [], [], []
        tracks = 0
        for part in self._parts:
            items = open_shard(part).read_columns([*COLUMNS, "frame_first"])
            inside = tracks_of(items)
            codes.append(inside + tracks)
            rows = np.unique(inside, return_index=True)[1]
            tracks += len(rows)
            firsts.append(items.select(COLUMNS).take(pa.array(rows)))
            numbers.append(items["frame_first"].fill_null(-1).to_numpy())
            named.append(items["track"].is_valid().to_numpy())
        # One row stands for each track of a part, so that not all texts are held at once.
        every = tracks_of(pa.concat_tables(firsts))[np.concatenate(codes)]
        frames, tracks = np.concatenate(numbers), int(every.max()) + 1
        unknown = np.zeros(tracks, np.bool_)
        unknown[every[frames < 0]] = True
        are_named = np.zeros(tracks, np.bool_)
        are_named[every[np.concatenate(named)]] = True
        return _Keys(every, np.where(unknown[every], 0, frames), are_named)

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of all items."""
        tables = [open_shard(part).read_columns([name]) for part in self._parts]
        return pa.concat_tables(tables)[name]

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], pa.Table]:
        """Vectors (n, D) and items of some rows, in that order."""
        places = np.searchsorted(self._ends, rows, side="right")
        order = np.argsort(places, kind="stable")
        vectors, tables = None, []
        for place in np.unique(places):
            here = order[places[order] == place]
            array, items = self._opened(int(place))
            inside = rows[here] - (self._ends[place] - len(array))
            if vectors is None:
                vectors = np.empty((len(rows), array.shape[1]), np.float32)
            vectors[here] = array[inside]
            tables.append(items.take(pa.array(inside)))
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        assert vectors is not None
        return vectors, stack(tables).take(pa.array(back))

    def _opened(self, place: int) -> tuple[NDArray[np.generic], pa.Table]:
        if place not in self._open:
            shard: Shard = open_shard(self._parts[place])
            self._open[place] = shard.vectors, shard.items
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(place)
        return self._open[place]


def _items(items: pa.Table, spans: NDArray[np.int64]) -> pa.Table:
    """The items of segments that are ranges of some frames' items."""
    texts = _texts(items)
    middles = (spans[:, 0] + spans[:, 1]) // 2
    table = items.take(pa.array(middles))
    for name, best in [(name, min) for name in _EARLIEST] + [(name, max) for name in _LATEST]:
        values = items[name].to_pylist()
        known = ([one for one in values[a:b] if one is not None] for a, b in spans.tolist())
        column = pa.array([best(some) if some else None for some in known], items[name].type)
        table = table.set_column(table.column_names.index(name), name, column)
    for name, column in voted(items, [range(a, b) for a, b in spans.tolist()]).items():
        table = table.set_column(table.column_names.index(name), name, column)
    lists = pa.array([texts[a:b] for a, b in spans.tolist()], pa.list_(pa.string()))
    if "frames" in table.column_names:
        table = table.drop_columns(["frames"])
    return table.append_column("frames", lists)


def _texts(items: pa.Table) -> list[str]:
    names = ("source", "video", "frame_first", "start_s", "box")
    texts = []
    for row in items.select(names).to_pylist():
        box = None if row["box"] is None else tuple(row["box"])
        if row["video"] is not None and row["video"] == row["source"]:
            frame = Frame(number=row["frame_first"], seconds=row["start_s"], box=box)
        else:
            frame = Frame(source=row["source"] or "", box=box)
        texts.append(str(frame))
    return texts


class SegmentWriter:
    """Gathers segments and writes them as shards. parts: those that are written, in order."""

    def __init__(self, folder: Path, **properties: Any) -> None:
        """folder: is there. properties: of the shards, see `write_shard`."""
        self._folder = folder
        self._properties = properties
        self.parts: list[Path] = []
        self._gathered: list[tuple[Segments, NDArray[np.int64], pa.Table]] = []
        self._bytes = 0

    def add(self, segments: Segments, offsets: NDArray[np.int64], items: pa.Table) -> None:
        """offsets: what the encoder was given."""
        self._gathered.append((segments, offsets, items))
        arrays = (segments.global_, segments.index, segments.key, segments.value)
        self._bytes += sum(array.nbytes for array in arrays if array is not None)
        if self._bytes >= _BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered; to be called at the end."""
        if not self._gathered:
            return
        part = self._folder / f"part-{len(self.parts) + 1:06d}"
        every = [segments for segments, _, _ in self._gathered]
        arrays = {"global": np.concatenate([one.global_ for one in every])}
        if every[0].key is not None:
            arrays["index"] = _joined(one.index for one in every)
            arrays["frame_key"] = _joined(one.key for one in every)
            arrays["frame_value"] = _joined(one.value for one in every)
            lengths = [np.diff(offsets) for _, offsets, _ in self._gathered]
            arrays["frame_offset"] = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        write_shard(
            part,
            arrays={name: ArrayStream.of(array) for name, array in arrays.items()},
            items=[stack([items for _, _, items in self._gathered])],
            **self._properties,
        )
        self.parts.append(part)
        self._gathered, self._bytes = [], 0


def _joined(arrays: Iterable[NDArray[np.float32] | None]) -> NDArray[np.float32]:
    return np.concatenate([array for array in arrays if array is not None])
