"""Vectors that somebody else made: `.npy`, HDF5 or Parquet files, with or without their items."""

from pathlib import Path
from tokenize import TokenError

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reid_index.errors import BadSource

SUFFIXES = frozenset({".npy", ".h5", ".hdf5", ".parquet"})

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
            # np.load would also take a zip archive or a pickle.
            with path.open("rb") as file:
                return _floats(np.lib.format.read_array(file, allow_pickle=False), path), None
        if path.suffix.lower() == ".parquet":
            return _read_parquet(path)
        return _floats(_read_hdf5(path), path), None
    except (OSError, ValueError, KeyError, TokenError, pa.ArrowInvalid) as error:
        if isinstance(error, BadSource):
            raise
        raise BadSource(f"{path}: cannot be read as vectors: {error}") from None


def holds_vectors(path: Path) -> bool:
    """Whether a file holds vectors; a Parquet file without a vector column is a list of files."""
    if path.suffix.lower() != ".parquet":
        return path.suffix.lower() in SUFFIXES
    try:
        return _vector_column(pq.read_schema(path)) is not None
    except (OSError, pa.ArrowInvalid) as error:
        raise BadSource(f"{path}: not a readable Parquet file: {error}") from None


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
        flat = [name for name in file if isinstance(file[name], h5py.Dataset)]
        tables = [name for name in flat if file[name].ndim == 2]
        if "global" not in flat and len(tables) != 1:
            raise BadSource(
                f"{path}: holds the data sets {', '.join(flat) or 'none'}; call the one with the "
                "vectors `global`"
            )
        array: NDArray[np.generic] = file["global" if "global" in flat else tables[0]][:]
        return array


def _vector_column(schema: pa.Schema) -> str | None:
    for name in _VECTOR_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            if any(is_list(kind) for is_list in _IS_LIST):
                return name
    return None


def _read_parquet(path: Path) -> tuple[NDArray[np.floating], pa.Table]:
    table = pq.read_table(path)
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
