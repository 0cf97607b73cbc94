"""A shard: vectors and their items in one folder, written once and never changed.

    vectors.h5      the arrays (see vectors.py)
    items.parquet   one row for each vector, same order (see items.py)
    shard.json      what the arrays are and which extractor made them

Anyone with embeddings of their own can write one; a gallery is made of them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from .errors import BadItems, BadShard, FormatTooNew, NotFiniteError, UsageError
from .files import write_folder, write_json
from .fingerprint import Fingerprint
from .items import conform, stack
from .metric import Metric
from .vectors import HDF5_ERRORS, NAMES, ArrayStream, map_vectors, write_vectors

FORMAT = (1, 2)
"""Major, minor. A reader refuses a newer major; a newer minor only adds fields."""

FILES = ("vectors.h5", "items.parquet", "shard.json")

_LAST_ITEM = 2**62
"""Item ids stay below: one near the end of int64 would leave no room for those that follow."""

_PIECE = 4096
"""Rows handled at a time when a shard is read through: 8 MiB at 512 float32."""


@dataclass(frozen=True, kw_only=True)
class ShardHeader:
    """What `shard.json` says.

    rows, dim, dtype: shape (rows, dim) and type ("float32" or "float16") of `global`.
    normalised: every row of `global` has length 1, as exactly as its type can say.
    max_norm: the largest L2 norm of a row of `global`.
    metric: how the rows are meant to be compared.
    root: the folder that `source` is relative to; "" where no pictures exist.
    """

    rows: int
    dim: int
    dtype: str
    normalised: bool
    max_norm: float
    metric: Metric
    root: str
    fingerprint: Fingerprint


@dataclass(frozen=True)
class Shard:
    """An opened shard. Its arrays are mapped, its items read, when first asked for."""

    folder: Path
    header: ShardHeader

    @cached_property
    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """Name → read-only array mapped in place, `global` among them."""
        arrays = map_vectors(self.folder / "vectors.h5")
        expected = (self.header.rows, self.header.dim)
        if "global" not in arrays or arrays["global"].shape != expected:
            raise BadShard(f"{self.folder}: vectors.h5 holds no global array of shape {expected}")
        for name, array in arrays.items():
            if array.shape[0] != self.header.rows:
                raise BadShard(f"{self.folder}: {name} has {len(array)} rows, not {expected[0]}")
        return arrays

    @property
    def vectors(self) -> NDArray[np.generic]:
        """`global`: (rows, dim) float32 or float16, read-only, mapped."""
        return self.arrays["global"]

    @property
    def columns(self) -> pa.Schema:
        """Names and types of the items' columns, without reading the items."""
        return conform(pq.read_schema(self.folder / "items.parquet").empty_table()).schema

    @cached_property
    def items(self) -> pa.Table:
        """The items, every standard column present, in the order of the vectors."""
        path = self.folder / "items.parquet"
        try:
            table = pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise BadShard(f"{path}: not a readable Parquet file ({error}): restore it") from None
        if table.num_rows != self.header.rows:
            raise BadShard(f"{path}: {table.num_rows} rows, but {self.header.rows} vectors")
        return conform(table)

    def pieces(self, name: str) -> Iterator[NDArray[np.generic]]:
        """The rows of one array a few thousand at a time, copied: nothing stays mapped, so a
        walk through a large shard takes little memory."""
        path = self.folder / "vectors.h5"
        try:
            with h5py.File(path, "r") as file:
                for start in range(0, self.header.rows, _PIECE):
                    yield file[name][start : start + _PIECE]
        except HDF5_ERRORS as error:
            raise BadShard(f"{path}: not a readable HDF5 file: {error!r}; restore it") from None


class _Checked:
    """Passes rows of `global` on as they are to be stored, and remembers their largest norm."""

    def __init__(self, *, metric: Metric, dtype: str) -> None:
        self.max_norm = 0.0
        self.normalised = True
        self._metric = metric
        self._dtype = dtype
        self._row = 0

    def __call__(self, piece: NDArray[np.generic]) -> NDArray[np.generic]:
        rows = piece.astype(np.float64)
        self._refuse(~np.isfinite(rows).all(axis=1), "holds NaN or Inf")
        with np.errstate(over="ignore"):
            norms = np.sqrt((rows * rows).sum(axis=1))
            self._refuse(np.isinf(norms), f"is too large for {self._dtype}")
            if self._metric is Metric.COSINE:
                self._refuse(norms == 0, "has length 0, so cosine has no direction to compare")
                rows /= norms[:, None]
            stored = rows.astype(self._dtype)
        self._refuse(~np.isfinite(stored).all(axis=1), f"is too large for {self._dtype}")
        lengths = np.sqrt((stored.astype(np.float64) ** 2).sum(axis=1))
        if len(lengths):
            self.max_norm = max(self.max_norm, float(lengths.max()))
            tolerance = 1e-6 if self._dtype == "float32" else 2e-3
            self.normalised &= bool((np.abs(lengths - 1) <= tolerance).all())
        self._row += len(piece)
        return cast("NDArray[np.generic]", stored)

    def _refuse(self, bad: ArrayLike, what: str) -> None:
        if np.any(bad):
            row = self._row + int(np.argmax(bad))
            raise NotFiniteError(f"vector {row} (from 0) {what}")


def write_shard(
    path: Path,
    *,
    arrays: Mapping[str, ArrayStream],
    items: Iterable[pa.Table],
    fingerprint: Fingerprint,
    metric: Metric,
    dtype: str = "float32",
    root: str = "",
) -> None:
    """Write a shard folder in one step; nothing is left of it when something raises.

    arrays: `global` (N, D) of any float type, optional `parts` (N, P, Dp), `visible` (N, P) of 0
    and 1.
    Rows of `global` are L2-normalised for cosine, kept as they are otherwise, and stored as dtype
    ("float32" or "float16"); parts are stored in it too.
    items: tables whose rows add up to N, in the order of the vectors, all of one schema.

    Raises NotFiniteError for NaN, Inf, a zero vector under cosine, or an overflow of dtype;
    BadItems for items that do not fit; FileExistsError where path is taken.
    """
    if dtype not in ("float32", "float16"):
        raise UsageError(f"dtype {dtype!r}: vectors are stored as float32 or float16")
    if "global" not in arrays or not arrays.keys() <= set(NAMES):
        raise BadShard(f"a shard holds global and optionally parts, visible; got {sorted(arrays)}")
    shape = arrays["global"].shape
    if len(shape) != 2 or shape[1] < 1:
        raise BadShard(f"vectors must have the shape (rows, dim), got {shape}")
    checked = _Checked(metric=metric, dtype=dtype)
    streams = {"global": ArrayStream(shape, dtype, map(checked, arrays["global"].pieces))}
    for name in [name for name in NAMES[1:] if name in arrays]:
        if arrays[name].shape[0] != shape[0]:
            raise BadShard(f"{name} has {arrays[name].shape[0]} rows beside {shape[0]} vectors")
        kind = "uint8" if name == "visible" else dtype
        streams[name] = ArrayStream(arrays[name].shape, kind, _stored(name, arrays[name], kind))

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
        )
        write_json(folder / "shard.json", _header_to_json(header))

    write_folder(path, fill)


def _stored(name: str, stream: ArrayStream, kind: str) -> Iterator[NDArray[np.generic]]:
    """The pieces of parts or visible as they are to be stored."""
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
    rows = 0
    writer: pq.ParquetWriter | None = None
    try:
        for table in tables:
            table = conform(table)
            # Before version 26, pyarrow could not read back lists of fixed size with nulls.
            at = table.column_names.index("box")
            table = table.set_column(at, "box", table["box"].cast(pa.list_(pa.float32())))
            if writer is None:
                writer = pq.ParquetWriter(path, table.schema, compression="zstd")
            if table.schema != writer.schema:
                raise BadItems("items: two pieces of one shard have different columns")
            writer.write_table(table)
            rows += table.num_rows
        if writer is None:
            raise BadItems("a shard needs a table of items, even an empty one")
    finally:
        if writer is not None:
            writer.close()
    return rows


def open_shard(folder: Path) -> Shard:
    """Open a shard by its `shard.json`; arrays and items are looked at when asked for.

    Raises BadShard for a folder that is none, FormatTooNew for one from a newer version.
    """
    path = folder / "shard.json"
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadShard(f"{folder} is not a shard: it has no shard.json") from None
    except ValueError as error:
        raise BadShard(f"{path} is not JSON ({error}): restore it from a copy") from None
    return Shard(folder, _header_from_json(data, path))


def check_format(data: Any, path: Path) -> None:
    """Refuse a missing format (BadShard), a newer major one, and one of a newer minor that
    requires what this version does not know (FormatTooNew): to ignore a list of deletions, say,
    would bring the deleted back. This version requires nothing."""
    version = data.get("format") if isinstance(data, dict) else None
    if not isinstance(version, list) or [type(part) for part in version] != [int, int]:
        raise BadShard(f"{path}: no format version in it, so it is not of this project")
    if version[0] > FORMAT[0]:
        raise FormatTooNew(
            f"{path}: format {version[0]} is newer than the {FORMAT[0]} that this reid-index "
            "reads; upgrade reid-index"
        )
    needed = data.get("requires", [])
    if needed:
        raise FormatTooNew(
            f"{path}: to read it one must know of {needed}, and this reid-index does not; upgrade "
            "reid-index"
        )


def _header_to_json(header: ShardHeader) -> dict[str, Any]:
    return {
        "format": list(FORMAT),
        "requires": [],
        "rows": header.rows,
        "dim": header.dim,
        "dtype": header.dtype,
        "normalised": header.normalised,
        "max_norm": header.max_norm,
        "metric": str(header.metric),
        "root": header.root,
        "fingerprint": header.fingerprint.to_json(),
    }


def _header_from_json(data: Any, path: Path) -> ShardHeader:
    check_format(data, path)
    try:
        return ShardHeader(
            rows=int(data["rows"]),
            dim=int(data["dim"]),
            dtype=str(data["dtype"]),
            normalised=bool(data["normalised"]),
            max_norm=float(data["max_norm"]),
            metric=Metric(data["metric"]),
            root=str(data["root"]),
            fingerprint=Fingerprint.from_json(data["fingerprint"]),
        )
    except KeyError as error:
        raise BadShard(f"{path}: the field {error} is missing") from None
    except FormatTooNew as error:
        raise FormatTooNew(f"{path}: {error}") from None
    except (TypeError, ValueError) as error:
        raise BadShard(f"{path}: {error}") from None


def merge_shards(
    path: Path, *, shards: Sequence[Shard], first_item: int, metric: Metric, dtype: str
) -> None:
    """Write the rows of several shards, in order, as one, giving each row an item id.

    Rows without an item id get the next ones from first_item on; a shard that brings ids keeps
    them when they are ≥ first_item, all different and below 2⁶², and is refused (BadItems)
    otherwise. All shards have the same fingerprint and arrays; an item column that one lacks is
    null there. Memory does not grow with the number of rows, but for the item ids.
    """
    names = shards[0].arrays.keys()
    if any(shard.arrays.keys() != names for shard in shards):
        raise BadShard("the shards hold different arrays: all or none must have parts")
    rows = sum(shard.header.rows for shard in shards)
    arrays = {}
    for name in names:
        shapes = {shard.arrays[name].shape[1:] for shard in shards}
        if len(shapes) > 1:
            raise BadShard(f"the shards hold {name} of different widths: {sorted(shapes)}")
        arrays[name] = ArrayStream((rows, *shapes.pop()), dtype, _rows_of(name, shards))
    roots = {shard.header.root for shard in shards}
    if len(roots) > 1:
        raise BadShard(f"the shards have different roots: {sorted(roots)}")
    write_shard(
        path,
        arrays=arrays,
        items=numbered(_alike(shards), first_item),
        fingerprint=shards[0].header.fingerprint,
        metric=metric,
        dtype=dtype,
        root=roots.pop(),
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
    """Tables of items with ids; see `merge_shards`."""
    taken = np.empty(0, np.int64)
    next_item = first_item
    for table in map(conform, tables):
        given = table["item"]
        if given.null_count == table.num_rows:
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


def check_alike(new: Shard, present: Sequence[Shard], *, of: Path) -> None:
    """Raise BadItems unless the new shard's columns can stand below those of each present one of
    the gallery `of`, BadShard unless it has the same arrays."""
    stack(shard.columns.empty_table() for shard in (*present, new))
    for shard in present[:1]:
        mine, its = _widths(shard), _widths(new)
        if mine != its:
            raise BadShard(f"the rows hold {its}, those of {of} {mine}: all must have the same")


def _widths(shard: Shard) -> dict[str, tuple[int, ...]]:
    return {name: array.shape[1:] for name, array in shard.arrays.items()}
