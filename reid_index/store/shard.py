"""A shard: vectors and their items in one folder, written once and never changed.

    vectors.h5      the arrays (see vectors.py)
    items.parquet   one row for each vector, same order (see items.py)
    shard.json      what the arrays are and which extractor made them

Anyone with embeddings of their own can write one; a gallery is made of them.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from ..errors import (
    BadItems,
    BadShard,
    FormatTooNew,
    NotFiniteError,
    ReidIndexError,
    UsageError,
)
from ..files import create, json_bytes, write_file, write_folder
from ..fingerprint import Fingerprint
from ..matcher import Matcher, told
from ..metric import Metric
from ..reading import PARQUET_ERRORS, ParquetTable, number, parse_json, shown, text, whole
from .frames import OffsetCheck, offsets_of, wrong_offsets, wrong_shapes
from .items import conform, sound_attributes, stack, type_text
from .vectors import (
    FRAMES,
    HDF5_ERRORS,
    NAMES,
    ArrayStream,
    map_vectors,
    stored_type,
    write_vectors,
)

FORMAT = (1, 6)
"""Major, minor. A reader refuses a newer major; a newer minor only adds fields."""

FILES = ("vectors.h5", "items.parquet", "shard.json")

MATCHER = "matcher"
"""What a reader must know of to read a shard or manifest with a matcher: by their vectors alone its
items would be ranked otherwise."""

OF_SEGMENTS = "frames"
"""What a reader must know of, too, where the matcher compares frames: to readers of format 1.4 such
a matcher would look damaged."""

OF_VISIBLE = "visibility"
"""The same where the matcher compares only the parts that are to be seen."""

_LAST_ITEM = 2**62
"""Item ids stay below: one near the end of int64 would leave no room for those that follow."""

_PIECE = 4096
"""Rows handled at a time when a shard is read through: 8 MiB at 512 float32."""

_ROW_GROUP = 65_536
"""Most items that are compressed together, and read at a time where all are gone through."""


@dataclass(frozen=True, kw_only=True)
class ShardHeader:
    """What `shard.json` says.

    rows, dim, dtype: shape (rows, dim) and type ("float32" or "float16") of `global`.
    normalised: every row of `global` has length 1, as exactly as its type can say.
    max_norm: the largest L2 norm of a row of `global`.
    metric: how the rows are meant to be compared.
    root: the folder that `source` is relative to; "" where no pictures exist.
    matcher: how the rows' `parts` are compared; None where the rows are by `global` alone.
    """

    rows: int
    dim: int
    dtype: str
    normalised: bool
    max_norm: float
    metric: Metric
    root: str
    fingerprint: Fingerprint
    matcher: Matcher | None = None


@dataclass(frozen=True)
class Shard:
    """An opened shard. Its arrays are mapped, its items read, when first asked for.

    sha256: of its files by name, those that are known; items are compared with it as they are read.
    """

    folder: Path
    header: ShardHeader
    sha256: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """Name → read-only array mapped in place, `global` among them."""
        arrays = map_vectors(self.folder / "vectors.h5")
        expected = (self.header.rows, self.header.dim)
        if "global" not in arrays or arrays["global"].shape != expected:
            raise BadShard(f"{self.folder}: vectors.h5 holds no global array of shape {expected}")
        shapes = {name: one.shape for name, one in arrays.items()}
        wrong = wrong_shapes(shapes, rows=self.header.rows)
        wrong = wrong or unmatched(self.header.matcher, shapes)
        if wrong is None and "frame_offset" in arrays:
            # In memory, where it stays as it was checked: compiled code goes by it.
            offsets = np.array(arrays["frame_offset"], np.int64)
            offsets.flags.writeable = False
            wrong = wrong_offsets(offsets, frames=len(arrays["frame_key"]))
            arrays["frame_offset"] = offsets
        if wrong:
            raise BadShard(f"{self.folder}: {wrong}: restore it")
        return arrays

    @property
    def vectors(self) -> NDArray[np.generic]:
        """`global`: (rows, dim) float32 or float16, read-only, mapped."""
        return self.arrays["global"]

    @property
    def columns(self) -> pa.Schema:
        """Names and types of the items' columns."""
        with self._parquet() as file:
            return conform(file.schema.empty_table()).schema

    @cached_property
    def items(self) -> pa.Table:
        """The items, every standard column present, in the order of the vectors."""
        with self._parquet() as file:
            return conform(file.read())

    def read_columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns of the items, those of them that there are, as `items` has them."""
        with self._parquet() as file:
            there = [name for name in names if name in file.schema.names]
            return conform(file.read(columns=there)).select(there)

    @property
    def has_unused_texts(self) -> bool:
        """Whether a dictionary of its items has texts that no row has; formats before 1.3 wrote
        such."""
        with self._parquet() as file:
            schema = file.schema
            coded = [one.name for one in schema if pa.types.is_dictionary(one.type)]
            columns = file.read(columns=coded).columns if coded else []
        return any(
            len(pc.unique(chunk.indices.drop_null())) < len(chunk.dictionary)
            for column in columns
            for chunk in column.chunks
        )

    def item_batches(self) -> Iterator[pa.Table]:
        """The items, some tens of thousands at a time, so that many take little memory."""
        with self._parquet() as file:
            for batch in file.batches(_ROW_GROUP):
                yield conform(batch)

    @contextmanager
    def _parquet(self) -> Iterator[ParquetTable]:
        path = self.folder / "items.parquet"
        try:
            file = ParquetTable(read_checked(path, self.sha256.get(path.name)))
            if file.rows != self.header.rows:
                raise BadShard(f"{path}: {file.rows} rows, but {self.header.rows} vectors")
            yield file
        except (ReidIndexError, PermissionError):
            raise
        except PARQUET_ERRORS as error:
            reason = str(error).splitlines()[0]
            raise BadShard(f"{path}: not a readable Parquet file ({reason}): restore it") from None

    def pieces(self, name: str) -> Iterator[NDArray[np.generic]]:
        """The rows of one array, be they of frames, a few thousand at a time, copied: nothing
        stays mapped, so a walk through a large shard takes little memory."""
        path = self.folder / "vectors.h5"
        try:
            with h5py.File(path, "r") as file:
                for start in range(0, len(file[name]), _PIECE):
                    yield file[name][start : start + _PIECE]
        except HDF5_ERRORS as error:
            raise BadShard(f"{path}: not a readable HDF5 file: {error!r}; restore it") from None


class _Checked:
    """Passes rows of `global` on as they are to be stored, and remembers their largest norm."""

    def __init__(self, *, metric: Metric, dtype: str, normalise: bool) -> None:
        self.max_norm = 0.0
        self.normalised = True
        self._metric = metric
        self._dtype = dtype
        self._normalise = normalise
        self._row = 0

    def __call__(self, piece: NDArray[np.generic]) -> NDArray[np.generic]:
        rows = piece.astype(np.float64)
        self._refuse(~np.isfinite(rows).all(axis=1), "holds NaN or Inf")
        with np.errstate(over="ignore"):
            norms = _lengths(rows)
            self._refuse(np.isinf(norms), f"is too large for {self._dtype}")
            if self._metric is Metric.COSINE:
                self._refuse(norms == 0, "has length 0, so cosine has no direction to compare")
                if self._normalise:
                    rows /= norms[:, None]
        if piece.dtype == self._dtype and not (self._normalise and self._metric is Metric.COSINE):
            self._remember(norms)
            return piece
        with np.errstate(over="ignore"):
            stored = rows.astype(self._dtype)
        self._refuse(~np.isfinite(stored).all(axis=1), f"is too large for {self._dtype}")
        self._remember(_lengths(stored.astype(np.float64)))
        return cast("NDArray[np.generic]", stored)

    def _remember(self, lengths: NDArray[np.float64]) -> None:
        """Of rows as they are stored."""
        if len(lengths):
            self.max_norm = max(self.max_norm, float(lengths.max()))
            tolerance = 1e-6 if self._dtype == "float32" else 2e-3
            self.normalised &= bool((np.abs(lengths - 1) <= tolerance).all())
        self._row += len(lengths)

    def _refuse(self, bad: ArrayLike, what: str) -> None:
        if np.any(bad):
            row = self._row + int(np.argmax(bad))
            raise NotFiniteError(f"vector {row} (from 0) {what}")


def _lengths(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.sqrt((rows * rows).sum(axis=1))
    return lengths


def write_shard(
    path: Path,
    *,
    arrays: Mapping[str, ArrayStream],
    items: Iterable[pa.Table],
    fingerprint: Fingerprint,
    metric: Metric,
    dtype: str = "float32",
    root: str = "",
    normalise: bool = True,
    matcher: Matcher | None = None,
) -> None:
    """Write a shard folder in one step; nothing is left of it when something raises.

    arrays: `global` (N, D) of any float type, optional `parts` (N, P, Dp), `visible` (N, P) of 0
    and 1; of segments of F frames together `index` (N, Dk), `frame_key` (F, Dk), `frame_value`
    (F, Dv) and `frame_offset` (N + 1,), whole numbers: row i has the frames from the i-th of them
    up to the next, at least one.
    Rows of `global` are L2-normalised for cosine, kept as they are otherwise, and stored as dtype
    ("float32" or "float16"); parts, keys, … are stored in it too. normalise: False for rows of
    another shard, which are already as they are to be stored: doing it twice would change last
    bits.
    items: tables whose rows add up to N, in the order of the vectors, all of one schema.
    matcher: how the parts are compared, or the frames; it needs them, and cosine; values as wide as
    `global`. Only one that compares what is visible may have `visible`, and where that is not given
    all parts are.

    Raises NotFiniteError for NaN, Inf, a zero vector under cosine, or an overflow of dtype;
    BadItems for items that do not fit; BadShard for arrays that do not; UsageError for a matcher
    and another metric; FileExistsError where path is taken.
    """
    if dtype not in ("float32", "float16"):
        raise UsageError(f"dtype {dtype!r}: vectors are stored as float32 or float16")
    if "global" not in arrays or not arrays.keys() <= set(NAMES):
        raise BadShard(
            f"a shard holds global and optionally {', '.join(NAMES[1:])}; got {sorted(arrays)}"
        )
    shape = arrays["global"].shape
    if len(shape) != 2 or shape[1] < 1:
        raise BadShard(f"vectors must have the shape (rows, dim), got {shape}")
    check_matcher(matcher, metric)
    if matcher is not None and matcher.has_visible:
        arrays = _with_visible(arrays)
    shapes = {name: stream.shape for name, stream in arrays.items()}
    wrong = wrong_shapes(shapes, rows=shape[0]) or unmatched(matcher, shapes)
    if wrong:
        raise BadShard(f"{path}: {wrong}")
    checked = _Checked(metric=metric, dtype=dtype, normalise=normalise)
    streams = {"global": ArrayStream(shape, dtype, map(checked, arrays["global"].pieces))}
    for name in [name for name in NAMES[1:] if name in arrays]:
        kind = stored_type(name, dtype)
        if name == "frame_offset":
            pieces = _offsets(arrays[name], frames=shapes["frame_key"][0])
        else:
            pieces = _stored(name, arrays[name], kind)
        streams[name] = ArrayStream(shapes[name], kind, pieces)

    def fill(folder: Path) -> None:
        write_vectors(folder / "vectors.h5", streams)
        rows = _write_items(folder / "items.parquet", items)
        if rows != shape[0]:
            raise BadItems(f"{shape[0]} vectors but {rows} items: one row for each vector, please")
        header = ShardHeader(
            rows=shape[0],
            dim=shape[1],
            dtype=dtype,
            normalised=checked.normalised,
            max_norm=checked.max_norm,
            metric=metric,
            root=root,
            fingerprint=fingerprint,
            matcher=matcher,
        )
        write_file(folder / "shard.json", json_bytes(_header_to_json(header)), sync=False)

    write_folder(path, fill)


def check_matcher(matcher: Matcher | None, metric: Metric) -> None:
    """Raise UsageError for a matcher where vectors are not compared by cosine."""
    if matcher is not None and metric is not Metric.COSINE:
        raise UsageError(
            f"a matcher adds distances of parts to those of cosine, and these are compared by "
            f"{metric}: choose cosine, or leave the matcher out"
        )


def unmatched(matcher: Matcher | None, shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Why a matcher cannot compare arrays of those shapes, None where it can."""
    if matcher is None:
        return None
    if matcher.of_frames:
        return _unmatched_frames(matcher, shapes)
    if "parts" not in shapes:
        return f"it has no parts, and its matcher ({told(matcher)}) compares them"
    if len(shapes["parts"]) != 3 or min(shapes["parts"][1:]) < 1:
        return f"parts have the shape {tuple(shapes['parts'])}, and (rows, P, Dp) is needed"
    if not matcher.has_visible:
        if "visible" in shapes:
            return (
                f"the matcher {matcher.name} compares all parts and knows no hidden ones (visible)"
            )
        return None
    if "visible" not in shapes:
        return f"it does not say which parts are visible, and its matcher ({told(matcher)}) asks"
    if tuple(shapes["visible"]) != tuple(shapes["parts"][:2]):
        return (
            f"parts and visible have the shapes {tuple(shapes['parts'])} and "
            f"{tuple(shapes['visible'])}, and (rows, P, Dp) and (rows, P) are needed"
        )
    return None


def _unmatched_frames(matcher: Matcher, shapes: Mapping[str, Sequence[int]]) -> str | None:
    if not set(FRAMES) <= shapes.keys():
        return f"it has no frames, and its matcher ({told(matcher)}) compares them"
    if "parts" in shapes or "visible" in shapes:
        return f"the matcher {matcher.name} compares frames and knows no parts"
    widths = {shapes["global"][1], shapes["frame_value"][1], len(matcher.head)}
    if len(widths) > 1:
        return (
            f"its vectors have {shapes['global'][1]} dimensions, the values of its frames "
            f"{shapes['frame_value'][1]}, the matcher's head {len(matcher.head)}: they are compared"
            ", so all are the same"
        )
    return None


def _with_visible(arrays: Mapping[str, ArrayStream]) -> Mapping[str, ArrayStream]:
    """The arrays, and where nothing is said of their parts all of them visible."""
    parts = arrays.get("parts")
    if parts is None or len(parts.shape) != 3 or "visible" in arrays:
        return arrays
    rows, count, _ = parts.shape
    pieces = (np.ones((min(_PIECE, rows - at), count), np.uint8) for at in range(0, rows, _PIECE))
    return {**arrays, "visible": ArrayStream((rows, count), "uint8", pieces)}


def _offsets(stream: ArrayStream, *, frames: int) -> Iterator[NDArray[np.generic]]:
    """The pieces of frame_offset as they are to be stored. Raises BadShard."""
    check = OffsetCheck(frames)
    for piece in stream.pieces:
        if piece.dtype.kind not in "iu":
            raise BadShard(f"frame_offset holds {piece.dtype}, and whole numbers are needed")
        stored = piece.astype(np.int64)
        wrong = check.piece(stored)
        if wrong:
            raise BadShard(wrong)
        yield stored
    wrong = check.end()
    if wrong:
        raise BadShard(wrong)


def _stored(name: str, stream: ArrayStream, kind: str) -> Iterator[NDArray[np.generic]]:
    """The pieces of parts, say, or visible as they are to be stored."""
    for piece in stream.pieces:
        if name == "visible":
            if not np.isin(piece, (0, 1)).all():
                raise BadShard("visible holds something else than 0 and 1")
            yield piece.astype(kind)
            continue
        with np.errstate(over="ignore"):
            stored = piece.astype(kind)
        if not np.isfinite(stored).all():
            raise NotFiniteError(f"{name} holds NaN, Inf, or a number too large for {kind}")
        yield stored


def _write_items(path: Path, tables: Iterable[pa.Table]) -> int:
    """Write the tables as one file, and return their rows."""
    rows = 0
    writer: pq.ParquetWriter | None = None
    with create(path, sync=False) as file:
        try:
            for table in tables:
                table = conform(table)
                # Before version 26, pyarrow could not read back lists of fixed size with nulls.
                at = table.column_names.index("box")
                table = table.set_column(at, "box", table["box"].cast(pa.list_(pa.float32())))
                table = without_unused_texts(table)
                if writer is None:
                    writer = pq.ParquetWriter(file, table.schema, compression="zstd")
                if table.schema != writer.schema:
                    raise BadItems("items: two pieces of one shard have different columns")
                writer.write_table(table, row_group_size=_ROW_GROUP)
                rows += table.num_rows
            if writer is None:
                raise BadItems("a shard needs a table of items, even an empty one")
        finally:
            if writer is not None:
                writer.close()
    return rows


def without_unused_texts(table: pa.Table) -> pa.Table:
    """The table with no text in a dictionary that no row has: a part of a table comes with those of
    all of it, and a rest of one with those of deleted rows."""
    for at, name in enumerate(table.column_names):
        if pa.types.is_dictionary(table[name].type):
            texts = table[name].cast(pa.string()).combine_chunks()
            table = table.set_column(at, name, texts.dictionary_encode())
    return table


def read_checked(path: Path, sha256: str | None) -> bytes:
    """A file's bytes. Raises BadShard where a sha256 is given and is not theirs."""
    content = path.read_bytes()
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise BadShard(f"{path}: its bytes have changed since it was written: restore it")
    return content


def open_shard(folder: Path, *, sha256: Mapping[str, str] | None = None) -> Shard:
    """Open a shard by its `shard.json`; arrays and items are looked at when asked for.

    sha256: of its files by name, where they are known. Raises BadShard for a folder that is none
    or whose files are not those, FormatTooNew for one from a newer version.
    """
    path = folder / "shard.json"
    expected = sha256 or {}
    try:
        data = parse_json(read_checked(path, expected.get(path.name)))
    except FileNotFoundError:
        raise BadShard(f"{folder} is not a shard: it has no shard.json") from None
    except BadShard:
        raise
    except ValueError as error:
        raise BadShard(f"{path} is not JSON ({error}): restore it from a copy") from None
    header = _header_from_json(data, path)
    vectors = folder / "vectors.h5"
    needed = header.rows * header.dim * np.dtype(header.dtype).itemsize
    if vectors.exists() and vectors.stat().st_size < needed:
        raise BadShard(
            f"{path}: {header.rows} rows of {header.dim} dimensions are more than vectors.h5 holds"
        )
    return Shard(folder, header, expected)


def check_format(data: Any, path: Path, *, known: Sequence[str] = ()) -> None:
    """Refuse a missing format (BadShard), a newer major one, and one that requires to know of
    something else than `known` (FormatTooNew): to ignore a list of deletions, say, would bring the
    deleted back."""
    version = data.get("format") if isinstance(data, dict) else None
    if not isinstance(version, list) or [type(part) for part in version] != [int, int]:
        raise BadShard(f"{path}: no format version in it, so it is not of this project")
    if version[0] > FORMAT[0]:
        raise FormatTooNew(
            f"{path}: format {version[0]} is newer than the {FORMAT[0]} that this reid-index "
            "reads; upgrade reid-index"
        )
    required = data.get("requires", [])
    if not isinstance(required, list):
        raise BadShard(f"{path}: what it requires is {shown(required)}, not a list")
    needed = [shown(name) for name in required if name not in known]
    if needed:
        raise FormatTooNew(
            f"{path}: to read it one must know of [{', '.join(needed)}], and this reid-index does "
            "not; upgrade reid-index"
        )


def _header_to_json(header: ShardHeader) -> dict[str, Any]:
    return {
        "format": list(FORMAT),
        "requires": required_by(header.matcher),
        "rows": header.rows,
        "dim": header.dim,
        "dtype": header.dtype,
        "normalised": header.normalised,
        "max_norm": header.max_norm,
        "metric": str(header.metric),
        "root": header.root,
        "fingerprint": header.fingerprint.to_json(),
        "matcher": None if header.matcher is None else header.matcher.to_json(),
    }


def _header_from_json(data: Any, path: Path) -> ShardHeader:
    check_format(data, path, known=[MATCHER, OF_SEGMENTS, OF_VISIBLE])
    try:
        return ShardHeader(
            rows=whole(data["rows"], name="rows"),
            dim=whole(data["dim"], name="dim", least=1),
            dtype=_dtype(data["dtype"]),
            normalised=bool(data["normalised"]),
            max_norm=number(data["max_norm"], name="max_norm", least=0),
            metric=Metric(data["metric"]),
            root=text(data["root"], name="root"),
            fingerprint=Fingerprint.from_json(data["fingerprint"]),
            matcher=matcher_from_json(data),
        )
    except KeyError as error:
        raise BadShard(f"{path}: the field {error} is missing") from None
    except FormatTooNew as error:
        raise FormatTooNew(f"{path}: {error}") from None
    except (TypeError, ValueError) as error:
        raise BadShard(f"{path}: {error}") from None


def required_by(matcher: Matcher | None) -> list[str]:
    """What a reader must know of where there is such a matcher."""
    if matcher is None:
        return []
    if matcher.has_visible:
        return [MATCHER, OF_VISIBLE]
    return [MATCHER, OF_SEGMENTS] if matcher.of_frames else [MATCHER]


def matcher_from_json(data: Mapping[str, Any]) -> Matcher | None:
    """Of a shard.json or a manifest. Raises ValueError for what is none, or not there though it is
    required, and FormatTooNew."""
    if data.get("matcher") is None:  # formats before 1.4 have none
        if MATCHER in data.get("requires", []):
            raise ValueError("it requires a matcher and has none")
        return None
    matcher = Matcher.from_json(data["matcher"])
    check_matcher(matcher, Metric(data["metric"]))
    return matcher


def _dtype(value: Any) -> str:
    if value not in ("float32", "float16"):
        raise ValueError(f"dtype is {shown(value)}, not float32 or float16")
    return str(value)


def merge_shards(
    path: Path, *, shards: Sequence[Shard], first_item: int, metric: Metric, dtype: str
) -> None:
    """Write the rows of several shards, in order, as one, giving each row an item id.

    Rows without an item id get the next ones from first_item on; a shard that brings ids keeps
    them when they are ≥ first_item, all different and below 2⁶², and is refused (BadItems)
    otherwise. All shards have the same fingerprint, matcher and arrays; an item column that one
    lacks is null there. Memory does not grow with the number of rows, but for the item ids and the
    frames' offsets.
    """
    names = shards[0].arrays.keys()
    if any(shard.arrays.keys() != names for shard in shards):
        raise BadShard("the shards hold different arrays: all or none must have parts, or frames")
    arrays = {}
    for name in names:
        shapes = {shard.arrays[name].shape[1:] for shard in shards}
        if len(shapes) > 1:
            raise BadShard(f"the shards hold {name} of different widths: {sorted(shapes)}")
        if name == "frame_offset":
            lengths = [np.diff(shard.arrays[name]) for shard in shards]
            arrays[name] = ArrayStream.of(offsets_of(np.concatenate(lengths)))
        else:
            rows = sum(len(shard.arrays[name]) for shard in shards)
            arrays[name] = ArrayStream((rows, *shapes.pop()), dtype, _rows_of(name, shards))
    roots = {shard.header.root for shard in shards}
    if len(roots) > 1:
        raise BadShard(f"the shards have different roots: {sorted(roots)}")
    if len({shard.header.matcher for shard in shards}) > 1:
        raise BadShard("the shards have different matchers: their items cannot be compared")
    write_shard(
        path,
        arrays=arrays,
        items=numbered(_alike(shards), first_item),
        fingerprint=shards[0].header.fingerprint,
        metric=metric,
        dtype=dtype,
        root=roots.pop(),
        matcher=shards[0].header.matcher,
    )


def _rows_of(name: str, shards: Iterable[Shard]) -> Iterator[NDArray[np.generic]]:
    for shard in shards:
        yield from shard.pieces(name)


def _alike(shards: Sequence[Shard]) -> Iterator[pa.Table]:
    """The shards' items, all with the same columns."""
    schema = stack([shard.columns.empty_table() for shard in shards]).schema
    for shard in shards:
        yield stack([schema.empty_table(), shard.items])


def numbered(tables: Iterable[pa.Table], first_item: int) -> Iterator[pa.Table]:
    """Tables of items with ids; see `merge_shards`. Raises BadItems, also for what
    `sound_attributes` refuses."""
    taken = np.empty(0, np.int64)
    next_item = first_item
    for table in map(sound_attributes, map(conform, tables)):
        given = table["item"]
        if given.null_count == table.num_rows:
            if next_item + table.num_rows > _LAST_ITEM:
                raise BadItems(f"items: there are no ids left below {_LAST_ITEM} to be given")
            ids = np.arange(next_item, next_item + table.num_rows)
            table = table.set_column(0, "item", pa.array(ids, pa.int64()))
        elif given.null_count:
            raise BadItems("items: some rows have an item id and some have none")
        else:
            ids = given.to_numpy()
            again = len(np.unique(ids)) != len(ids)
            again |= ids.min() < next_item and bool(np.isin(ids, taken).any())
            if again or ids.min() < first_item or ids.max() >= _LAST_ITEM:
                raise BadItems(
                    f"items: the item ids are not unique, below {first_item}, the next one to be "
                    f"given, or beyond {_LAST_ITEM - 1}; drop the item column to have ids given"
                )
        taken = np.concatenate([taken, ids])
        next_item = max(next_item, int(ids.max(initial=next_item - 1)) + 1)
        yield table


def check_alike(
    new: Shard, *, columns: Mapping[str, str], beside: Shard | None, of: Path
) -> dict[str, str]:
    """The columns of the gallery `of` with those of a new shard, and their types as text.

    columns: those it has. beside: one of its shards. Raises BadItems where one column would have
    two types, BadShard where the new shard has other arrays.
    """
    types = column_types(new)
    for name, kind in types.items():
        if columns.get(name, kind) != kind:
            raise BadItems(
                f"items: column {name!r} holds {kind}, that of {of} {columns[name]}: a column can "
                "have one type"
            )
    if beside is not None:
        mine, its = _widths(beside), _widths(new)
        if mine != its:
            raise BadShard(f"the rows hold {its}, those of {of} {mine}: all must have the same")
    return {**columns, **types}


def column_types(shard: Shard) -> dict[str, str]:
    """A shard's columns and their types as text."""
    return {column.name: type_text(column.type) for column in shard.columns}


def _widths(shard: Shard) -> dict[str, tuple[int, ...]]:
    return {name: array.shape[1:] for name, array in shard.arrays.items()}
