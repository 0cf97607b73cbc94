"""Vectors that somebody else made: `.npy`, HDF5 or Parquet files, with or without their items."""

from pathlib import Path
from tokenize import TokenError

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reid_index.errors import BadSource
from reid_index.reading import PARQUET_ERRORS, ParquetTable, room_for

SUFFIXES = frozenset({".npy", ".h5", ".hdf5", ".parquet"})

_NUMPY_AND_HDF5 = (RuntimeError, LookupError, TypeError, ArithmeticError, TokenError)
"""What NumPy and h5py raise for damaged files, beside OSError and ValueError."""

_VECTOR_COLUMNS = ("global", "vector", "embedding")
_IS_LIST = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def read_vectors(path: Path) -> tuple[NDArray[np.floating], pa.Table | None]:
    """The vectors of a file, (N, D), and the items that a Parquet file holds beside them.

    `.npy`: an array (N, D), or (D,) for one vector. HDF5: the data set `global`, or the only one
    with two dimensions. Parquet: a column of lists named global, vector or embedding; the others
    are items. Any float or integer type, byte order and memory order. Raises BadSource.
    """
    try:
        if path.suffix.lower() == ".npy":
            return _floats(_map_npy(path), path), None
        if path.suffix.lower() == ".parquet":
            return _read_parquet(path)
        return _floats(_read_hdf5(path), path), None
    except BadSource:
        raise
    except (*PARQUET_ERRORS, *_NUMPY_AND_HDF5) as error:
        raise BadSource(f"{path}: cannot be read as vectors: {_line(error)}") from None


def holds_vectors(path: Path) -> bool:
    """Whether a file holds vectors; a Parquet file without a vector column is a list of files."""
    if path.suffix.lower() != ".parquet":
        return path.suffix.lower() in SUFFIXES
    try:
        return _vector_column(ParquetTable(path).schema) is not None
    except PARQUET_ERRORS as error:
        raise BadSource(f"{path}: not a readable Parquet file: {_line(error)}") from None


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _map_npy(path: Path) -> NDArray[np.generic]:
    """The array of a `.npy` file, mapped: one that claims more than the file has cannot be. What
    np.load would take as well, zip archives and pickles, is refused."""
    if path.exists() and not path.is_file():
        raise BadSource(f"{path}: it is not a file")
    # A shape beyond all memory: NumPy warns of it, and then fails.
    with np.errstate(over="ignore"):
        array: NDArray[np.generic] = np.lib.format.open_memmap(path, mode="r")
    return array


def _floats(array: NDArray[np.generic], path: Path) -> NDArray[np.floating]:
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.shape[1] == 0:
        raise BadSource(f"{path}: vectors are (N, D), this holds {array.shape}")
    if array.dtype.kind not in "fiu":
        raise BadSource(f"{path}: vectors are numbers, this holds {array.dtype}")
    if array.dtype.kind == "f" and array.dtype.itemsize < 8:
        return np.ascontiguousarray(array, dtype=np.float32)
    return np.ascontiguousarray(array, dtype=np.float64)


def _read_hdf5(path: Path) -> NDArray[np.generic]:
    with h5py.File(path, "r") as file:
        here = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
        flat = [name for name in here if isinstance(file[name], h5py.Dataset)]
        tables = [name for name in flat if file[name].ndim == 2]
        if "global" not in flat and len(tables) != 1:
            raise BadSource(
                f"{path}: holds the data sets {', '.join(flat) or 'none'}; call the one with the "
                "vectors `global`"
            )
        found = file["global" if "global" in flat else tables[0]]
        if found.is_virtual or found.external:
            raise BadSource(f"{path}: its vectors are in another file; copy them into one")
        if found.nbytes > room_for(path.stat().st_size):
            raise BadSource(f"{path}: it claims {found.shape} vectors, more than its size can mean")
        array: NDArray[np.generic] = found[:]
        return array


def _vector_column(schema: pa.Schema) -> str | None:
    for name in _VECTOR_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            if any(is_list(kind) for is_list in _IS_LIST):
                return name
    return None


def _read_parquet(path: Path) -> tuple[NDArray[np.floating], pa.Table]:
    table = ParquetTable(path).read()
    name = _vector_column(table.schema)
    if name is None:
        raise BadSource(f"{path}: no column of lists named {', '.join(_VECTOR_COLUMNS)}")
    column = table[name]
    if not len(column):
        raise BadSource(f"{path}: it holds no vectors")
    widths = pc.unique(pc.list_value_length(column)).to_pylist()
    if column.null_count or len(widths) != 1:
        raise BadSource(f"{path}: the vectors in column {name!r} differ in length or are missing")
    values = pc.list_flatten(column)
    if values.null_count:
        raise BadSource(f"{path}: a vector in column {name!r} has an empty value")
    array = values.to_numpy().reshape(len(column), widths[0])
    return _floats(array, path), table.drop_columns([name])
