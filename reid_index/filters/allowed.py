"""The rows that an answer may hold, and those of the filters asked last, kept."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..store.deletions import Live
from .columns import Columns
from .where import compile_where

_Key = tuple[str | None, tuple[int, ...]]
"""An expression, and cameras."""

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
    comparing with few of them. Threads may share it. Deleted rows are never allowed.
    """

    def __init__(self, columns: Columns, live: Live) -> None:
        self._columns = columns
        self._live = live.mask
        self._everything = Allowed(live.stored, live.mask)
        self._lock = Lock()
        self._kept: OrderedDict[_Key, Allowed] = OrderedDict()
        self._bytes = 0

    def allowed(self, *, where: str | None, not_camera: Sequence[int]) -> Allowed:
        """The rows that a query may return.

        not_camera drops the items known to be of those cameras; items of unknown camera stay.
        Raises WhereError, UsageError.
        """
        if where is not None and not isinstance(where, str):
            raise UsageError(f"a filter is text such as 'camera = 3', got {where!r}")
        key = (where, _cameras(not_camera))
        if key == (None, ()):
            return self._everything
        with self._lock:
            known = self._kept.get(key)
            if known is not None:
                self._kept.move_to_end(key)
                return known
        allowed = Allowed(self._everything.rows, self._mask(*key))
        self._keep(key, allowed)
        return allowed

    def _mask(self, where: str | None, cameras: tuple[int, ...]) -> NDArray[np.bool_]:
        mask = self._asked(where, cameras)
        return mask if self._live is None else mask & self._live

    def _asked(self, where: str | None, cameras: tuple[int, ...]) -> NDArray[np.bool_]:
        if where is None:
            return self._columns.not_camera(cameras)
        mask = self._columns.mask(compile_where(where))
        return mask & self._columns.not_camera(cameras) if cameras else mask

    def _keep(self, key: _Key, allowed: Allowed) -> None:
        size = _size(key, allowed)
        with self._lock:
            if size > _KEPT_BYTES or key in self._kept:
                return
            self._kept[key] = allowed
            self._bytes += size
            while self._bytes > _KEPT_BYTES:
                self._bytes -= _size(*self._kept.popitem(last=False))


def _size(key: _Key, allowed: Allowed) -> int:
    """Bytes of the mask, the list and the words, and about what holds them."""
    return allowed.rows + 8 * allowed.count + len(key[0] or "") + 1000


def _cameras(numbers: Sequence[int]) -> tuple[int, ...]:
    if not hasattr(numbers, "__iter__"):
        raise UsageError(f"not_camera is a list of camera numbers, got {numbers!r}")
    for number in numbers:
        if not isinstance(number, int | np.integer) or abs(number) >= 2**31:
            raise UsageError(f"not_camera must hold whole numbers of 32 bits, got {list(numbers)}")
    return tuple(sorted({int(number) for number in numbers}))
