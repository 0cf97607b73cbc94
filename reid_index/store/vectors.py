"""`vectors.h5`: arrays that lie uncompressed and contiguous in one HDF5 file.

Contiguous means that each data set is one run of bytes at a known offset, so that readers map it
into memory in place instead of copying it.
"""

import errno
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..errors import BadShard
from ..files import Output, create

_KINDS = {
    "global": ("float32", "float16"),
    "parts": ("float32", "float16"),
    "visible": ("uint8",),
    "index": ("float32", "float16"),
    "frame_offset": ("int64",),
    "frame_key": ("float32", "float16"),
    "frame_value": ("float32", "float16"),
}
NAMES = tuple(_KINDS)
"""The data sets of format 1: `global` (N, D) float32 or float16; optional `parts` (N, P, Dp) of
the same kinds and `visible` (N, P) uint8 of 0 and 1; and, of segments, those of FRAMES."""

FRAMES = ("index", "frame_offset", "frame_key", "frame_value")
"""The data sets of segments of frames, all or none: `index` (N, Dk), `frame_key` (F, Dk) and
`frame_value` (F, Dv) of the kinds of `global`, `frame_offset` (N + 1,) int64. Row i has the frames
from frame_offset[i] up to frame_offset[i + 1], at least one."""

OF_FRAMES = ("frame_key", "frame_value")
"""Those that have a row for each frame."""

_FIXED = {"visible": "uint8", "frame_offset": "int64"}


def stored_type(name: str, dtype: str) -> str:
    """The type of a data set in a shard of such vectors."""
    return _FIXED.get(name, dtype)


HDF5_ERRORS = (OSError, RuntimeError, KeyError, TypeError, ValueError)
"""What h5py raises for a damaged file."""

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

_COPIED = 2**20
"""Bytes of an array up to which it is read instead of mapped: a mapping takes a descriptor, and
there may be a thousand small shards."""

_PIECE = 4096

_BLOCK = 2048
"""Bytes that HDF5 gives to what describes the data sets, before it gives more."""


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
    """Write the file, piece by piece; for `write_folder`, which syncs it. Memory: one piece at a
    time.

    Raises OSError, with errno and path, where the disk is full or fails.
    """
    with create(path, sync=False) as output:
        output.write(_head(arrays))
        # As in a file that HDF5 opens itself, what describes the arrays takes the first block, and
        # they follow without gaps: the first, at least, lies well in memory.
        streams = list(arrays.items())
        _fill(output, streams[:1], start=_BLOCK, of=path)
        if streams[1:]:
            _fill(output, streams[1:], start=1, of=path)


def _head(arrays: Mapping[str, ArrayStream]) -> bytes:
    """The file without the arrays themselves."""
    content = io.BytesIO()
    with h5py.File(content, "w", libver="earliest") as file:
        for name, stream in arrays.items():
            # HDF5 gives no bytes to a data set without elements, so there is nothing to map.
            file.create_dataset(name, shape=stream.shape, dtype=stream.dtype)
    return content.getvalue()


def _fill(
    output: Output, streams: Iterable[tuple[str, ArrayStream]], *, start: int, of: Path
) -> None:
    """Write arrays, each at a multiple of `start`."""
    output.check()  # HDF5 is to read only what could be written
    aligned = {"alignment_threshold": 1, "alignment_interval": start}
    with h5py.File(output, "r+", libver="earliest", **aligned) as file:
        for name, stream in streams:
            row = 0
            for piece in stream.pieces:
                file[name][row : row + len(piece)] = piece
                row += len(piece)
                output.check()
            if row != stream.shape[0]:
                raise BadShard(f"{of.name}: {name} was promised {stream.shape[0]} rows, got {row}")


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
                # Not behind a link, which may lead to another file.
                if isinstance(file.get(name, getlink=True), h5py.HardLink)
            }
    except BadShard:
        raise
    except HDF5_ERRORS as error:
        refuse_shortage(error, path)
        raise BadShard(f"{path}: not a readable HDF5 file: {error!r}; restore it") from None


def refuse_shortage(error: Exception, path: Path) -> None:
    """Raise OSError where the system has no more of something: the file itself may be whole."""
    if isinstance(error, OSError) and error.errno in _SHORTAGES:
        more = "; compact the gallery to fewer shards, or raise the limit (ulimit -n)"
        advice = more if error.errno in (errno.EMFILE, errno.ENFILE) else ""
        raise OSError(error.errno, os.strerror(error.errno) + advice, str(path)) from None


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
    if dataset.nbytes <= _COPIED:
        array: NDArray[np.generic] = dataset[:]
        array.flags.writeable = False
        return array
    return np.memmap(path, mode="r", dtype=dataset.dtype, shape=dataset.shape, offset=offset)
