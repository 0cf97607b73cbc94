"""What identifies deleted items, and of that what no staying item has too."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..store.frames import mask_of_frames
from ..store.items import BOX
from ..store.shard import Shard
from ..threads import over_ranges
from .sought import LONGEST, PIECE, SHORTEST, Finder, Hasher, KeyTable, Pieces

PATH = ":path"
"""The kind of `source` below its root; see `picture_path`."""

NAME = ":name"
"""The kind of the last part of `source`."""

CROP = ":crop"
"""The kind of a picture's path with the box in it; see `crop_value`."""

FRAME = ":frame"
"""The kind of a segment's frames; see `frame_value`."""

_NO_TEXTS = frozenset({"item", NAME, CROP, FRAME})
"""Kinds that are looked for as they are, not within texts."""

_DISTINCT = 4
"""Different numbers that a piece of a vector must have: fewer occur by chance."""

_ROWS = 512
"""Rows that a thread takes at a time."""

_SINGLE = np.dtype("<f4")
_NO_TEXT = pa.scalar(None, pa.string())


def picture_path(root: str, source: str) -> str:
    """Where an item's picture is: its source below the root of its shard."""
    if not root or source.startswith("/"):
        return source
    return f"{root.rstrip('/')}/{source}"


def crop_value(path: bytes, box: Sequence[float] | None) -> bytes:
    """What a crop is known by: the picture's path, 0, and the box in single precision, as it is
    stored; nothing more for the whole picture."""
    return path + b"\0" + (b"" if box is None else (np.asarray(box, _SINGLE) + 0.0).tobytes())


def crop_values(table: pa.Table, root: str) -> pa.Array:
    """The same for each row of a table with `source` and `box`; null where `source` is unknown."""
    source = table["source"].cast(pa.string()).combine_chunks()
    paths = _paths(pc.if_else(pc.not_equal(source, ""), source, _NO_TEXT), root)
    boxes = table["box"].cast(BOX).combine_chunks()
    there = boxes.is_valid()
    packed = np.zeros((len(boxes), 4), _SINGLE)
    numbers = boxes.flatten().to_numpy(zero_copy_only=False)
    packed[there.to_numpy(zero_copy_only=False)] = numbers.reshape(-1, 4) + 0.0  # not -0.0
    buffers = [None, pa.py_buffer(packed)]
    ends = pa.Array.from_buffers(pa.binary(16), len(boxes), buffers).cast(pa.binary())
    return pc.binary_join_element_wise(paths.cast(pa.binary()), pc.if_else(there, ends, b""), b"\0")


def frame_value(path: str, text: str) -> str:
    """What a frame of a video is known by. path: the video's; text: the frame's, in the column
    `frames` of its segments."""
    return f"{path}\0{text}"


def _frame_values(table: pa.Table, root: str) -> pa.Array:
    """The same of all frames of a table of segments of videos. Of segments of pictures, whose
    texts begin with a path relative to the root, that path and what follows it."""
    kind = table.schema.field("frames").type
    if not (pa.types.is_list(kind) and pa.types.is_string(kind.value_type)):  # somebody's own
        return pa.array([], pa.string())
    lists = table["frames"].combine_chunks()
    texts, rows = pc.list_flatten(lists), pc.list_parent_indices(lists)
    source, video = (
        table[name].cast(pa.string()).combine_chunks().take(rows) for name in ("source", "video")
    )
    of_video = pc.fill_null(pc.equal(source, video), False)
    in_video = pc.binary_join_element_wise(_paths(source, root), texts, "\0")
    return pc.if_else(of_video, in_video, _paths(texts, root))


def _paths(sources: pa.Array, root: str) -> pa.Array:
    """`picture_path` of each."""
    if not root:
        return sources
    below = pc.binary_join_element_wise(root.rstrip("/"), sources, "/")
    return pc.if_else(pc.starts_with(sources, "/"), sources, below)


def text_values(table: pa.Table, root: str) -> dict[str, pa.Array]:
    """Kind → the texts in a table of items, each once: its columns of text or sets of texts, item
    ids as text, PATH, NAME, CROP and FRAME; these by the root as it is said, and with all links
    followed.
    """
    values = _column_values(table)
    source = values["source"]
    values[NAME] = _each_once(pc.replace_substring_regex(source, "^.*/", ""))
    roots = dict.fromkeys([root, os.path.realpath(root)] if root else [root])
    values[PATH] = _joined([_paths(source, one) for one in roots])
    values[CROP] = _joined([crop_values(table, one) for one in roots])
    if "frames" in table.column_names:
        values[FRAME] = _joined([_frame_values(table, one) for one in roots])
    return values


def _column_values(table: pa.Table) -> dict[str, pa.Array]:
    """The same of its columns alone, and item ids."""
    values = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_list(column.type):
            column = pc.list_flatten(column)
        if pa.types.is_dictionary(column.type) and pa.types.is_string(column.type.value_type):
            column = column.cast(pa.string())
        if pa.types.is_string(column.type):
            values[name] = _each_once(column)
    values["item"] = _each_once(table["item"].cast(pa.string()))
    return values


def _joined(some: Sequence[pa.Array]) -> pa.Array:
    return _each_once(pa.chunked_array(some))


def _each_once(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    values = pc.unique(column)
    return values.filter(pc.greater(pc.binary_length(values), 0))


def as_bytes(values: pa.Array) -> list[bytes]:
    """Texts in UTF-8; what somebody else wrote may not even be that."""
    texts: list[bytes] = values.cast(pa.binary()).to_pylist()
    return texts


class Texts:
    """The texts of the items that go, in shards and overlays, by kind, and which of them staying
    items have too.

    short: how many are too short to be looked for anywhere. needles: the others, and contained:
    which of these are part of a staying item's text.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        gone: Sequence[NDArray[np.bool_]],
        hasher: Hasher,
        *,
        overlays: Sequence[pa.Table] = (),
    ) -> None:
        found: dict[str, list[pa.Array]] = {}
        for values in chain(_values_of(shards, gone), _said_of(overlays, shards, gone)):
            for kind, some in values.items():
                found.setdefault(kind, []).append(some)
        self._values = {kind: pc.unique(pa.chunked_array(some)) for kind, some in found.items()}
        self._seen = {kind: np.zeros(len(some), np.bool_) for kind, some in self._values.items()}
        self._hasher = hasher
        self._overlays = overlays
        kinds = self._values.keys() - _NO_TEXTS
        texts = {text for kind in kinds for text in as_bytes(self._values[kind])}
        long = {form[:LONGEST] for text in texts if len(text) >= SHORTEST for form in _forms(text)}
        self.short = sum(len(text) < SHORTEST for text in texts)
        self.needles = hasher.needles(sorted(long))
        self.contained = np.zeros(len(self.needles), np.bool_)

    def leave_out(
        self, shards: Sequence[Shard], kept: Sequence[NDArray[np.bool_]], *, beside: bytes = b""
    ) -> None:
        """Mark what staying items have too, and what is part of `beside`, which stays."""
        finder = Finder(self._hasher, pieces=(), needles=self.needles)
        self._find(finder, beside)
        for shard, mask in zip(shards, kept, strict=True):
            if mask.any():
                self._find(finder, (shard.folder / "shard.json").read_bytes())
        for values in chain(_values_of(shards, kept), _said_of(self._overlays, shards, kept)):
            for kind, mine in self._values.items():
                if kind in values:
                    has = pc.is_in(mine, value_set=values[kind])
                    self._seen[kind] |= has.to_numpy(zero_copy_only=False)
            for kind in values.keys() - _NO_TEXTS:
                self._find(finder, b"\0".join(as_bytes(values[kind])))

    def _find(self, finder: Finder, content: bytes) -> None:
        for _, number in finder.needles(np.frombuffer(content, np.uint8)):
            self.contained[number] = True

    @property
    def shared(self) -> dict[str, int]:
        """Kind → how many of its values staying items have too."""
        return {kind: int(seen.sum()) for kind, seen in sorted(self._seen.items())}

    def cells(self) -> dict[str, frozenset[bytes]]:
        """Kind → digests of the values that no staying item has."""
        return {
            kind: frozenset(
                self._hasher.digest(kind, text)
                for text in as_bytes(values.filter(pa.array(~self._seen[kind])))
            )
            for kind, values in self._values.items()
        }


def _forms(text: bytes) -> set[bytes]:
    """A text as it is, and as JSON writes it."""
    plain = text.decode(errors="surrogateescape")
    escaped = (json.dumps(plain, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))
    return {text, *(one.encode(errors="surrogateescape") for one in escaped)}


def _values_of(
    shards: Sequence[Shard], masks: Sequence[NDArray[np.bool_]]
) -> Iterator[dict[str, pa.Array]]:
    for shard, mask in zip(shards, masks, strict=True):
        row = 0
        for table in shard.item_batches() if mask.any() else ():
            wanted = mask[row : row + table.num_rows]
            row += table.num_rows
            if wanted.any():
                yield text_values(table.filter(pa.array(wanted)), shard.header.root)


def _said_of(
    overlays: Sequence[pa.Table], shards: Sequence[Shard], masks: Sequence[NDArray[np.bool_]]
) -> Iterator[dict[str, pa.Array]]:
    """What overlays say of those rows' items."""
    if not overlays:
        return
    ids = [
        shard.read_columns(["item"])["item"].to_numpy()[mask]
        for shard, mask in zip(shards, masks, strict=True)
    ]
    items = np.concatenate([np.empty(0, np.int64), *ids])
    for overlay in overlays:
        wanted = np.isin(overlay["item"].to_numpy(), items)
        if wanted.any():
            yield _column_values(overlay.filter(pa.array(wanted)))


_Sought = dict[int, tuple[NDArray[np.void], NDArray[np.bool_]]]
"""Length in bytes → KEYS, ascending, and which of them staying vectors have too."""


class Vectors:
    """The vectors of the rows that go, by pieces and whole, and which of these staying rows have.

    What is stored in half precision is looked for in single precision, too, as an index has it.
    """

    def __init__(
        self, shards: Sequence[Shard], gone: Sequence[NDArray[np.bool_]], hasher: Hasher
    ) -> None:
        self.plain = 0
        self._hasher = hasher
        pieces: dict[int, list[NDArray[np.void]]] = {}
        rows: dict[int, list[NDArray[np.void]]] = {}
        for values in _rows_of(shards, gone):
            count, width = values.shape[0], values.nbytes // values.shape[0]
            flat = values.view(np.uint8).reshape(count, width)
            rows.setdefault(width, []).append(hasher.pieces(flat[flat.any(axis=1)]).records)
            starts, length = _places(width)
            cut = np.stack([flat[:, at : at + length] for at in starts], axis=1)
            cut = cut.reshape(-1, length)
            plain = _is_plain(cut, itemsize=values.itemsize)
            self.plain += int(plain.sum())
            pieces.setdefault(length, []).append(hasher.pieces(cut[~plain]).records)
        self.pieces = _merged(pieces)
        self.rows = _merged(rows)

    def leave_out(self, shards: Sequence[Shard], kept: Sequence[NDArray[np.bool_]]) -> None:
        """Mark what staying rows have too."""
        rows, pieces = _tables(self.rows), _tables(self.pieces)
        for values in _rows_of(shards, kept):
            width = values.nbytes // len(values)
            flat = values.view(np.uint8).reshape(len(values), width)
            whole = (np.zeros(1, np.int64), width)
            for tables, (starts, length) in ((rows, whole), (pieces, _places(width))):
                if length in tables:
                    self._mark(flat, starts, length, *tables[length])

    def _mark(
        self,
        rows: NDArray[np.uint8],
        starts: NDArray[np.int64],
        length: int,
        table: KeyTable,
        seen: NDArray[np.bool_],
    ) -> None:
        def mark(first: int, last: int) -> None:
            table.mark(self._hasher.keys(rows[first:last], starts, length), seen)

        over_ranges(mark, len(rows), piece=_ROWS)


def _tables(sought: _Sought) -> dict[int, tuple[KeyTable, NDArray[np.bool_]]]:
    return {
        length: (KeyTable(records["key"].astype(np.uint64), bits=64), seen)
        for length, (records, seen) in sought.items()
    }


def _rows_of(shards: Sequence[Shard], masks: Sequence[NDArray[np.bool_]]) -> Iterator[NDArray[Any]]:
    """Some rows of all arrays, and their frames, (n, numbers), a few thousand at a time, in every
    precision."""
    for shard, mask in zip(shards, masks, strict=True):
        if not mask.any():
            continue
        for name in sorted(shard.arrays.keys() - {"visible", "frame_offset"}):
            row, those = 0, mask_of_frames(mask, shard.arrays, name)
            for piece in shard.pieces(name):
                rows = piece[those[row : row + len(piece)]].reshape(-1, piece[0].size)
                row += len(piece)
                if rows.size:
                    yield rows
                if rows.size and rows.dtype == np.float16:
                    yield rows.astype(np.float32)


def _places(width: int) -> tuple[NDArray[np.int64], int]:
    """Where the pieces of a vector of so many bytes begin, the last one flush with its end, and
    how long they are."""
    length = min(PIECE, width)
    starts = {*range(0, width - length + 1, length), width - length}
    return np.array(sorted(starts), np.int64), length


def _is_plain(pieces: NDArray[np.uint8], *, itemsize: int) -> NDArray[np.bool_]:
    """Which pieces have hardly any different numbers but 0, (n,)."""
    numbers = np.sort(pieces.view(f"u{itemsize}"), axis=1)
    new = numbers != 0
    new[:, 1:] &= numbers[:, 1:] != numbers[:, :-1]
    plain: NDArray[np.bool_] = new.sum(axis=1) < min(_DISTINCT, numbers.shape[1])
    return plain


def _merged(found: Mapping[int, Sequence[NDArray[np.void]]]) -> _Sought:
    merged = {}
    for length, records in found.items():
        joined = np.concatenate(records)
        _, first = np.unique(joined["key"], return_index=True)
        merged[length] = (joined[first], np.zeros(len(first), np.bool_))
    return merged


def unseen(sought: _Sought) -> tuple[Pieces, ...]:
    return tuple(Pieces(length, records[~seen]) for length, (records, seen) in sought.items())
