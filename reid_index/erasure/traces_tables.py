"""Looking for what a receipt names in Parquet and HDF5 files, decoded: every row, every value."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..reading import PARQUET_ERRORS, ParquetTable, read_json, room_for
from ..store.vectors import HDF5_ERRORS, OF_FRAMES
from ..threads import over_ranges
from .erasure import CROP, PATH, as_bytes, crop_values, picture_path
from .receipt import Receipt
from .sought import Finder

_VALUE = "an erased value"
_SHOWN = 4
"""Places of one kind in one file that are named before the rest are counted."""

_BLOCK = 2**23
"""Bytes of a data set that are decoded at a time."""

_ROWS = 512
"""Rows that a thread takes at a time."""

_BACK = ("person",)
"""Columns whose erased values are a trace in items that were added later, too; others, such as a
colour or the number of a track, come again by themselves."""


@dataclass(frozen=True)
class Sought:
    """What is looked for, and with what."""

    receipt: Receipt
    finder: Finder

    @classmethod
    def of(cls, receipt: Receipt) -> "Sought":
        """What a receipt names."""
        needles = receipt.needles
        return cls(receipt, Finder(receipt.hasher, pieces=receipt.pieces, needles=needles))

    def within(self, values: Sequence[bytes]) -> dict[int, set[int]]:
        """Place of a value → the needles that are in it."""
        ends = np.cumsum([len(value) + 1 for value in values])
        found: dict[int, set[int]] = {}
        joined = np.frombuffer(b"\0".join(values), np.uint8)
        for at, number in self.finder.needles(joined):
            place = int(np.searchsorted(ends, at, side="right"))
            found.setdefault(place, set()).add(number)
        return found


@dataclass
class Found:
    """What was found in a file: lines without its name, and the rows that hold it. explained:
    needles that are part of a text of an item that was added later, so they may be in its bytes."""

    lines: list[str] = field(default_factory=list)
    rows: set[int] = field(default_factory=set)
    explained: set[int] = field(default_factory=set)

    def add(self, places: Sequence[str], what: str) -> None:
        """A line for each place, the first few of them."""
        self.lines += [f"{place}: {what}" for place in places[:_SHOWN]]
        if len(places) > _SHOWN:
            self.lines.append(f"{len(places) - _SHOWN:,} more places: {what}")


@dataclass
class _Table:
    """What was found in a table so far: rows by column, and other places."""

    rows: dict[str, list[int]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    summed_up: list[str] = field(default_factory=list)
    explained: set[int] = field(default_factory=set)

    def add(self, where: str, rows: Iterable[int]) -> None:
        self.rows.setdefault(where, []).extend(rows)

    def found(self) -> Found:
        found = Found(explained=self.explained)
        for where, rows in self.rows.items():
            found.rows.update(rows)
            found.add([f"{where}, row {row}" for row in rows], _VALUE)
        found.add(self.unused, "an erased value that no row has any more")
        found.add(self.summed_up, _VALUE)
        return found


def _undecoded(error: Exception) -> Found:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return Found([f"cannot be decoded, so it may hold anything: {reason}"])


def parquet_traces(path: Path, sought: Sought, *, is_overlay: bool = False) -> Found:
    """What a Parquet file holds. is_overlay: what it has of an item may have been said after the
    erasure, so that a text is a trace in an erased item's rows only."""
    table = _Table()
    try:
        ParquetTable(path)  # what it claims is within limits
        with pq.ParquetFile(path) as file:
            leaves = [file.schema.column(i) for i in range(len(file.schema))]
            texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        root = _root(path)
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            for group in range(file.num_row_groups):
                _look_at_group(file, group, root, sought, table, is_overlay)
    except FileNotFoundError:  # for the caller: a writer has removed it
        raise
    except (*PARQUET_ERRORS, KeyError) as error:
        return _undecoded(error)
    return table.found()


def _root(path: Path) -> str:
    """What `source` in a table of items is relative to; "" where that is not known."""
    try:
        return str(read_json(path.parent / "shard.json")["root"])
    except (OSError, KeyError, TypeError, ValueError):
        return ""


def _look_at_group(
    file: pq.ParquetFile, group: int, root: str, sought: Sought, table: _Table, is_overlay: bool
) -> None:
    first = sum(file.metadata.row_group(i).num_rows for i in range(group))
    schema = file.schema_arrow
    later = np.zeros(file.metadata.row_group(group).num_rows, np.bool_)
    if "item" in schema.names and pa.types.is_integer(schema.field("item").type):
        items = file.read_row_group(group, columns=["item"])["item"].combine_chunks()
        ids = pc.fill_null(items.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
        later = ids > sought.receipt.last_item
        erased = list(_erased_ids(ids, later, sought))
        table.add("column 'item'", (first + row for row in erased))
        if is_overlay:
            later[:] = True
            later[erased] = False
    if {"source", "box"} <= set(schema.names):
        rows = _erased_crops(file.read_row_group(group, columns=["source", "box"]), root, sought)
        table.add("columns 'source' and 'box'", (first + row for row in rows))
    for name in dict.fromkeys(schema.names):
        column = file.read_row_group(group, columns=[name])[name]
        values = _values_of(column)
        if values is not None:
            may_be = _look_at_column(name, values, later, first, root, sought, table)
            _look_at_statistics(file, group, name, may_be, sought, table)


def _erased_ids(ids: NDArray[np.int64], later: NDArray[np.bool_], sought: Sought) -> Iterator[int]:
    for row in np.flatnonzero(~later).tolist():
        if sought.receipt.is_cell("item", b"%d" % ids[row]):
            yield row


def _erased_crops(table: pa.Table, root: str, sought: Sought) -> Iterator[int]:
    try:
        crops = crop_values(table, root).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # what is called so is something else
        return
    for row, crop in enumerate(crops):
        if crop is not None and sought.receipt.is_cell(CROP, crop):
            yield row


@dataclass(frozen=True)
class _Values:
    """The texts of a column: those of its dictionary, and which of them is where.

    numbers: of texts, (n,). rows: they are in, (n,).
    """

    dictionary: list[bytes]
    numbers: NDArray[np.int64]
    rows: NDArray[np.int64]


def _values_of(column: pa.ChunkedArray) -> _Values | None:
    """None for a column that is not of texts, or of lists of texts."""
    column.validate(full=True)  # so that no place of a dictionary leads beyond it
    array = column.unify_dictionaries().combine_chunks()
    rows = np.arange(len(array))
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        rows = pc.list_parent_indices(array).to_numpy(zero_copy_only=False)
        array = pc.list_flatten(array)
    if not pa.types.is_dictionary(array.type):
        return None
    kind = array.type.value_type
    if not any(check(kind) for check in (pa.types.is_string, pa.types.is_binary)):
        array = array.cast(pa.dictionary(pa.int32(), pa.binary()))
    there = array.is_valid().to_numpy(zero_copy_only=False)
    numbers = array.indices.filter(array.is_valid()).to_numpy(zero_copy_only=False)
    return _Values(as_bytes(array.dictionary), numbers.astype(np.int64), rows[there])


def _look_at_column(
    name: str,
    values: _Values,
    later: NDArray[np.bool_],
    first: int,
    root: str,
    sought: Sought,
    table: _Table,
) -> set[bytes]:
    """Note what is found; the values that look erased and may be there."""
    texts = values.dictionary
    within = sought.within(texts)
    suspects = set(within)
    for place, text in enumerate(texts):
        # Of a source below a known root, only the whole path tells.
        by_itself = name != "source" or not root
        is_cell = by_itself and sought.receipt.is_cell(name, text)
        if is_cell or _is_back(name, text, root, sought):
            suspects.add(place)
    may_be = set()
    for place, rows in _rows_with(sorted(suspects), values):
        text = texts[place]
        wrong = rows if _is_back(name, text, root, sought) else rows[~later[rows]]
        table.add(f"column {name!r}", (wrong + first).tolist())
        if len(rows) == 0:
            table.unused.append(f"column {name!r}, value {place} of its dictionary")
        elif len(wrong) == 0:
            may_be.add(text)
            table.explained |= within.get(place, set())
    return may_be


def _rows_with(places: list[int], values: _Values) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Some values of a dictionary, ascending, each with the rows that have it."""
    some = np.isin(values.numbers, places)
    order = np.argsort(values.numbers[some], kind="stable")
    numbers, rows = values.numbers[some][order], values.rows[some][order]
    starts = np.searchsorted(numbers, places)
    for place, start, stop in zip(places, starts, [*starts, len(numbers)][1:], strict=True):
        yield place, np.unique(rows[start:stop])


def _is_back(name: str, text: bytes, root: str, sought: Sought) -> bool:
    """Whether a value is a trace even in an item that was added later."""
    if name == "source":
        path = picture_path(root, text.decode(errors="surrogateescape"))
        return sought.receipt.is_cell(PATH, path.encode(errors="surrogateescape"))
    return name in _BACK and sought.receipt.is_cell(name, text)


def _look_at_statistics(
    file: pq.ParquetFile,
    group: int,
    name: str,
    may_be: set[bytes],
    sought: Sought,
    table: _Table,
) -> None:
    """The least and the largest value of a column stand beside its pages."""
    described = file.metadata.row_group(group)
    for i in range(described.num_columns):
        column = described.column(i)
        statistics = column.statistics
        if column.path_in_schema.split(".list.")[0] != name or statistics is None:
            continue
        for end in (statistics.min, statistics.max) if statistics.has_min_max else ():
            text = end.encode() if isinstance(end, str) else end
            if not isinstance(text, bytes) or text in may_be:
                continue
            if sought.receipt.is_cell(name, text) or sought.within([text]):
                table.summed_up.append(f"statistics of column {name!r}, row group {group}")


def hdf5_traces(path: Path, sought: Sought) -> Found:
    """What the data sets of an HDF5 file hold, however they are stored."""
    found, places = Found(), []
    try:
        with h5py.File(path, "r") as file:
            names: list[str] = []
            file.visititems(
                lambda name, one: names.append(name) if isinstance(one, h5py.Dataset) else None
            )
            offsets = _offsets(file)
            for name in names:
                for row in _in_dataset(file[name], name, sought):
                    found.rows |= _rows_with_place(name, row, offsets)
                    places.append(f"data set {name!r}, row {row}")
    except FileNotFoundError:
        raise
    except HDF5_ERRORS as error:
        return _undecoded(error)
    found.add(places, "an erased vector or text")
    return found


def _offsets(file: h5py.File) -> NDArray[np.int64] | None:
    """Whose the frames are, in a shard that has some."""
    there = file.get("frame_offset")
    if not isinstance(there, h5py.Dataset) or there.dtype != np.int64 or there.ndim != 1:
        return None
    if there.nbytes > Path(file.filename).stat().st_size:
        raise ValueError("data set 'frame_offset' claims more bytes than its file has")
    offsets: NDArray[np.int64] = there[:]
    return offsets


def _rows_with_place(name: str, place: int, offsets: NDArray[np.int64] | None) -> set[int]:
    """The row of a shard whose place of a data set it is: where that is a frame's, the row that
    has the frame."""
    if offsets is None or name not in (*OF_FRAMES, "frame_offset"):
        return {place}
    row = place if name == "frame_offset" else int(np.searchsorted(offsets, place, "right")) - 1
    return {row} if 0 <= row < len(offsets) - 1 else set()


def _in_dataset(dataset: h5py.Dataset, name: str, sought: Sought) -> Iterator[int]:
    if dataset.dtype.kind not in "biufSV" or dataset.size == 0 or dataset.shape == ():
        return
    if dataset.nbytes > room_for(Path(dataset.file.filename).stat().st_size):
        raise ValueError(f"data set {name!r} claims more bytes than its file can mean")
    width = dataset.dtype.itemsize * (dataset.size // dataset.shape[0])
    step = max(1, _BLOCK // width)
    # Texts and pieces of vectors in what lies as it is are found in the file's bytes.
    is_coded = dataset.id.get_offset() is None
    for start in range(0, dataset.shape[0], step):
        block = np.ascontiguousarray(dataset[start : start + step])
        found = _whole_rows(block, sought)
        if is_coded:
            content = block.reshape(-1).view(np.uint8)
            hits = [*sought.finder.pieces(content), *sought.finder.needles(content)]
            found |= {at // width for at, _ in hits}
        yield from (start + row for row in sorted(found))


def _whole_rows(block: NDArray[Any], sought: Sought) -> set[int]:
    """Rows that are erased vectors, in whatever precision they are stored."""
    kinds = {block.dtype}
    if block.dtype.kind == "f":
        kinds |= {np.dtype("<f4"), np.dtype("<f2")}
    known = {one.length: one.records for one in sought.receipt.rows}
    found: set[int] = set()
    for kind in kinds:
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(block.reshape(len(block), -1).astype(kind))
        flat = rows.view(np.uint8).reshape(len(rows), -1)
        if flat.shape[1] in known:
            found |= set(_known_rows(flat, known[flat.shape[1]], sought))
    return found


def _known_rows(
    rows: NDArray[np.uint8], records: NDArray[np.void], sought: Sought
) -> Iterator[int]:
    hasher = sought.receipt.hasher
    start, width = np.zeros(1, np.int64), rows.shape[1]

    def keys_of(first: int, last: int) -> NDArray[np.uint64]:
        return hasher.keys(rows[first:last], start, width)[:, 0]

    keys = np.concatenate(over_ranges(keys_of, len(rows), piece=_ROWS))
    for row in np.flatnonzero(np.isin(keys, records["key"])).tolist():
        place = int(np.searchsorted(records["key"], keys[row]))
        if records["check"][place] == hasher.check(rows[row].tobytes()):
            yield row
