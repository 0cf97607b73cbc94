"""The rows that an answer may hold, and those of the filters asked last, kept."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from .columns import Columns
from .errors import UsageError
from .where import compile_where

_KEPT_BYTES = 2**26
"""What the kept filters of one gallery may take: 64 MiB."""


class Allowed:
    """Which of so many rows an answer may hold.

    mask: bool (rows,), never changed; None for all.
    """

    def __init__(self, rows: int, mask: NDArray[np.bool_] | None = None) -> None:
        self.rows = rows
        self.mask = mask
        if mask is not None:
            mask.flags.writeable = False  # others share it

    @cached_property
    def listed(self) -> NDArray[np.int64]:
        """They themselves, ascending."""
        return np.arange(self.rows) if self.mask is None else np.flatnonzero(self.mask)

    @cached_property
    def count(self) -> int:
        """How many they are."""
        return self.rows if self.mask is None else len(self.listed)

    @cached_property
    def key(self) -> int:
        """Equal for equal masks."""
        return 0 if self.mask is None else hash(np.packbits(self.mask).tobytes())

    def before(self, row: int) -> int:
        """How many come before a row."""
        return (
            int(np.searchsorted(self.listed, row)) if self.mask is not None else min(row, self.rows)
        )

    def since(self, first: int) -> "Allowed":
        """Those from a row on."""
        mask = np.ones(self.rows, np.bool_) if self.mask is None else self.mask.copy()
        mask[:first] = False
        return Allowed(self.rows, mask)

    def equals(self, other: "Allowed") -> bool:
        """Whether both hold the same rows."""
        return self.count == other.count and np.array_equal(self.listed, other.listed)


class Filters:
    """The rows that filters allow, of one generation; those asked last are kept.

    An operator asks for many people under one filter, and looking the rows up takes longer than
    comparing with few of them. Threads may share it.
    """

    def __init__(self, columns: Columns, rows: int) -> None:
        self._columns = columns
        self._everything = Allowed(rows)
        self._lock = Lock()
        self._kept: OrderedDict[tuple[str | None, tuple[int, ...]], Allowed] = OrderedDict()
        self._bytes = 0

    def allowed(self, *, where: str | None, not_camera: Sequence[int]) -> Allowed:
        """The rows that a query may return.

        not_camera drops the items known to be of those cameras; items of unknown camera stay.
        Raises WhereError, UsageError.
        """
        if where is None and len(not_camera) == 0:
            return self._everything
        key = (where, _cameras(not_camera))
        with self._lock:
            known = self._kept.get(key)
            if known is not None:
                self._kept.move_to_end(key)
                return known
        allowed = Allowed(self._everything.rows, self._mask(*key))
        self._keep(key, allowed)
        return allowed

    def _mask(self, where: str | None, cameras: tuple[int, ...]) -> NDArray[np.bool_]:
        if where is None:
            return self._columns.not_camera(cameras)
        mask = self._columns.mask(compile_where(where))
        return mask & self._columns.not_camera(cameras) if cameras else mask

    def _keep(self, key: tuple[str | None, tuple[int, ...]], allowed: Allowed) -> None:
        size = _size(allowed)
        with self._lock:
            if size > _KEPT_BYTES or key in self._kept:
                return
            self._kept[key] = allowed
            self._bytes += size
            while self._bytes > _KEPT_BYTES:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= _size(oldest)


def _size(allowed: Allowed) -> int:
    """Bytes of its mask and list."""
    return allowed.rows + 8 * allowed.count


def _cameras(numbers: Sequence[int]) -> tuple[int, ...]:
    for number in numbers:
        if not isinstance(number, int | np.integer) or abs(number) >= 2**31:
            raise UsageError(f"not_camera must hold whole numbers of 32 bits, got {list(numbers)}")
    return tuple(sorted({int(number) for number in numbers}))
