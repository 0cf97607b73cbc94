"""`vectors.h5`: arrays that lie uncompressed and contiguous in one HDF5 file.

Contiguous means that each data set is one run of bytes at a known offset, so that readers map it
into memory in place instead of copying it.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from .errors import BadShard

_KINDS = {
    "global": ("float32", "float16"),
    "parts": ("float32", "float16"),
    "visible": ("uint8",),
}
NAMES = tuple(_KINDS)
"""The data sets of format 1: `global` (N, D) float32 or float16; optional `parts` (N, P, Dp) of
the same kinds and `visible` (N, P) uint8 of 0 and 1."""

HDF5_ERRORS = (OSError, RuntimeError, KeyError, TypeError, ValueError)
"""What h5py raises for a damaged file."""

_PIECE = 4096


@dataclass(frozen=True)
class ArrayStream:
    """An array that comes in pieces along its first axis.

    shape, dtype: of the whole array. pieces: arrays whose lengths add up to shape[0].
    """

    shape: tuple[int, ...]
    dtype: DTypeLike
    pieces: Iterable[NDArray[np.generic]]

    @classmethod
    def of(cls, array: NDArray[np.generic]) -> "ArrayStream":
        """An array that is already there, a few thousand rows at a time."""
        pieces = [array[start : start + _PIECE] for start in range(0, len(array), _PIECE)]
        return cls(array.shape, array.dtype, pieces)


def write_vectors(path: Path, arrays: Mapping[str, ArrayStream]) -> None:
    """Write the file, piece by piece. Memory: one piece at a time.

    Raises OSError, with errno and path, where the disk is full or fails.
    """
    try:
        _write(path, arrays)
    except (OSError, RuntimeError) as error:
        # HDF5 tells of a full disk in a paragraph of its own.
        found = re.search(r"errno = (\d+)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from None


def _write(path: Path, arrays: Mapping[str, ArrayStream]) -> None:
    with h5py.File(path, "w", libver="earliest") as file:
        for name, stream in arrays.items():
            # HDF5 gives no bytes to a data set without elements, so there is nothing to map.
            dataset = file.create_dataset(name, shape=stream.shape, dtype=stream.dtype)
            row = 0
            for piece in stream.pieces:
                dataset[row : row + len(piece)] = piece
                row += len(piece)
            if row != stream.shape[0]:
                raise BadShard(
                    f"{path.name}: {name} was promised {stream.shape[0]} rows, got {row}"
                )


def map_vectors(path: Path) -> dict[str, NDArray[np.generic]]:
    """A shard's arrays, those of NAMES that the file has; see `map_arrays`."""
    return map_arrays(path, _KINDS)


def map_arrays(path: Path, kinds: Mapping[str, tuple[str, ...]]) -> dict[str, NDArray[np.generic]]:
    """Read-only arrays mapped in place, none of their bytes read yet.

    kinds: the types that each data set may have. Raises BadShard for a file that is not HDF5, or
    whose data sets are chunked, compressed, of another byte order. Data sets of other names, which
    a newer minor format may add, are left.
    """
    try:
        with h5py.File(path, "r") as file:
            return {
                name: _map(path, name, file[name], allowed)
                for name, allowed in kinds.items()
                if name in file
            }
    except BadShard:
        raise
    except HDF5_ERRORS as error:
        raise BadShard(f"{path}: not a readable HDF5 file: {error!r}; restore it") from None


def _map(
    path: Path, name: str, dataset: h5py.Dataset, kinds: tuple[str, ...]
) -> NDArray[np.generic]:
    if not isinstance(dataset, h5py.Dataset):
        raise BadShard(f"{path}: {name} is a group, not a data set")
    if dataset.dtype not in [np.dtype(kind) for kind in kinds]:
        raise BadShard(f"{path}: {name} is {dataset.dtype}, expected {' or '.join(kinds)}")
    if dataset.size == 0:
        return np.empty(dataset.shape, dataset.dtype)
    offset = dataset.id.get_offset()
    if offset is None:
        raise BadShard(
            f"{path}: {name} is chunked or compressed; write it contiguous "
            "(h5py create_dataset without chunks or compression)"
        )
    return np.memmap(path, mode="r", dtype=dataset.dtype, shape=dataset.shape, offset=offset)
