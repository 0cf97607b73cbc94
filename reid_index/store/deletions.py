"""Which rows of a gallery are deleted.

Shards never change, so a deleted row stays stored until compaction; a bitmap for each shard says
which are deleted, and everything that is found leaves them out. Rows are counted in two ways: the
stored ones, all that the shards hold, in order; and the gallery's, those not deleted, which is what
anyone outside sees.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptGallery
from .commit import read_listed
from .manifest import Manifest, ShardEntry


class Live:
    """The rows that are not deleted.

    deleted: for each shard which of its rows are, bool (rows,), None for none of them.
    """

    def __init__(self, sizes: Sequence[int], deleted: Sequence[NDArray[np.bool_] | None]) -> None:
        self.deleted = tuple(deleted)
        self._sizes = tuple(sizes)
        self.stored = sum(sizes)
        self.count = self.stored - sum(
            int(np.count_nonzero(one)) for one in deleted if one is not None
        )

    @cached_property
    def mask(self) -> NDArray[np.bool_] | None:
        """Over the stored rows, bool (stored,); None where nothing is deleted."""
        if self.count == self.stored:
            return None
        mask = np.ones(self.stored, np.bool_)
        first = 0
        for size, deleted in zip(self._sizes, self.deleted, strict=True):
            if deleted is not None:
                mask[first : first + size] = ~deleted
            first += size
        return mask

    @cached_property
    def _listed(self) -> NDArray[np.int64]:
        assert self.mask is not None
        return np.flatnonzero(self.mask)

    def stored_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows of the gallery are stored."""
        return rows if self.mask is None else self._listed[rows]

    def rows_of(self, stored: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which rows of the gallery stored ones are; none of them deleted."""
        return stored if self.mask is None else np.searchsorted(self._listed, stored)

    def among(self, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        """A mask over the stored rows as one over the gallery's; None for all."""
        if mask is None or mask is self.mask:
            return None
        return mask if self.mask is None else mask[self.mask]


def pack(deleted: NDArray[np.bool_]) -> bytes:
    """The bitmap of a shard, as its file has it: eight rows a byte, the first in the lowest bit."""
    return np.packbits(deleted, bitorder="little").tobytes()


def unpack(bitmap: bytes, rows: int) -> NDArray[np.bool_]:
    """bool (rows,). Raises ValueError where the bitmap is one of another number of rows."""
    if len(bitmap) != -(-rows // 8):
        raise ValueError(f"it has {len(bitmap)} bytes, which are not those of {rows} rows")
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little").astype(np.bool_)
    if bits[rows:].any():
        raise ValueError(f"it deletes rows beyond the last of {rows}")
    return bits[:rows]


def read_deleted(gallery: Path, shard: ShardEntry) -> NDArray[np.bool_] | None:
    """Which rows of a shard are deleted, bool (rows,); None for none.

    Every byte is checked: a bitmap that was believed wrongly would bring the deleted back. Raises
    CorruptGallery.
    """
    if shard.deleted is None:
        return None
    path = gallery / shard.deleted.file
    try:
        deleted = unpack(read_listed(path, shard.deleted.entry), shard.rows)
        count = np.count_nonzero(deleted)
        if count != shard.deleted.rows:
            raise ValueError(f"it deletes {count} rows, the manifest says {shard.deleted.rows}")
    except OSError as error:
        raise CorruptGallery(f"{path}: cannot be read: {error.strerror}; restore it") from None
    except ValueError as error:
        raise CorruptGallery(f"{path}: {error}; restore it from a copy") from None
    return deleted


def read_live(gallery: Path, manifest: Manifest) -> Live:
    """The rows of a generation that are not deleted. Raises CorruptGallery."""
    return Live(
        [shard.rows for shard in manifest.shards],
        [read_deleted(gallery, shard) for shard in manifest.shards],
    )
