"""The rows that an answer may hold, and those of the filters asked last, kept."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from threading import Lock

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..errors import UsageError
from ..store.deletions import Live
from .agreement import Agreed, Agreement
from .columns import Columns, packed
from .confidence import confidences
from .where import compile_where

_Key = tuple[str | None, tuple[int, ...], Agreement | None]
"""An expression, cameras, and what is known of a target."""

_KEPT_BYTES = 2**26
"""What the kept filters of one gallery may take: 64 MiB."""


class Allowed:
    """Which of so many rows an answer may hold.

    mask: bool (rows,), never changed; None for all. agreed: what a target's attributes had dropped
    of them, where it was asked for.
    """

    def __init__(
        self, rows: int, mask: NDArray[np.bool_] | None = None, *, agreed: Agreed | None = None
    ) -> None:
        self.rows = rows
        self.mask = mask
        self.agreed = agreed
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

    def allowed(
        self,
        *,
        where: str | None,
        not_camera: Sequence[int],
        agreement: Agreement | None = None,
    ) -> Allowed:
        """The rows that a query may return.

        not_camera drops the items known to be of those cameras; items of unknown camera stay.
        agreement drops those that confidently disagree with a target's attributes.
        Raises WhereError, UsageError.
        """
        if where is not None and not isinstance(where, str):
            raise UsageError(f"a filter is text such as 'camera = 3', got {where!r}")
        if agreement is not None and not isinstance(agreement, Agreement):
            raise UsageError(f"agreement is an Agreement, got a {type(agreement).__name__}")
        key = (where, _cameras(not_camera), agreement)
        if key == (None, (), None):
            return self._everything
        with self._lock:
            known = self._kept.get(key)
            if known is not None:
                self._kept.move_to_end(key)
                return known
        if agreement is None:
            allowed = Allowed(self._everything.rows, self._mask(where, key[1]))
        else:
            allowed = self._agreeing(self.allowed(where=where, not_camera=not_camera), agreement)
        self._keep(key, allowed)
        return allowed

    def _agreeing(self, others: Allowed, agreement: Agreement) -> Allowed:
        mask = np.ones(others.rows, np.bool_) if others.mask is None else others.mask
        bitmap = packed(mask)
        disagreeing, agreed = agreement.disagreement(self._columns, bitmap)
        return Allowed(others.rows, self._columns.unpacked(bitmap & ~disagreeing), agreed=agreed)

    def confidences(
        self, where: str, items: pa.Table, rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """How sure it is that an expression holds for rows for which it does; see confidence.py.
        items: the table that this filters. Raises WhereError."""
        return confidences(compile_where(where), self._columns, items, rows)

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
