"""A gallery's parts, and a shortlist put in the order that its matcher gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import CorruptGallery, DimensionMismatch, NotFiniteError, UsageError
from ..matcher import Matcher, told
from ..store.append import as_parts
from .aligned import local_distances, matched_distances

SHORTLIST = 1000
"""Rows whose parts are compared, unless told otherwise."""

_GATHERED = 8192
"""Rows whose parts are copied together at a time: 32 MiB at 8 stripes of 128."""

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Matching:
    """The parts of N stored rows, and how they are compared.

    blocks: (n, P, Dp) float32 or float16 each, mapped or in memory, together N rows.
    Raises CorruptGallery where their P or Dp differ.
    """

    matcher: Matcher
    blocks: Sequence[NDArray[np.generic]]

    def __post_init__(self) -> None:
        if len({block.shape[1:] for block in self.blocks}) > 1:
            raise CorruptGallery("the shards hold parts of different shapes: restore them")

    @property
    def shape(self) -> tuple[int, ...] | None:
        """(P, Dp); None where there are no rows to tell it."""
        return self.blocks[0].shape[1:] if self.blocks else None

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Copies of the parts of those rows: float32 (m, P, Dp)."""
        found = np.empty((len(rows), *(self.shape or (0, 0))), np.float32)
        offset = 0
        for block in self.blocks:
            here = np.flatnonzero((rows >= offset) & (rows < offset + len(block)))
            if len(here):
                found[here] = block[rows[here] - offset]
            offset += len(block)
        return found

    def asked(self, parts: ArrayLike | None, *, queries: int) -> NDArray[np.float32]:
        """The parts of so many queries' pictures, checked: float32 (queries, P, Dp).

        Raises UsageError where there are none, DimensionMismatch, NotFiniteError.
        """
        if parts is None:
            raise UsageError(
                f"this gallery compares items by {told(self.matcher)}, too, and the query has no "
                "parts: give those that its extractor makes, or ask for the nearest by vectors "
                "alone (Gallery.nearest)"
            )
        array: NDArray[Any] = as_parts(parts)
        if array.ndim == 2 and queries == 1:
            array = array[None]
        shape = self.shape or array.shape[1:]
        if array.ndim != 3 or array.shape != (queries, *shape):
            wanted = ", ".join(map(str, (queries, *(shape if self.shape else ("P", "Dp")))))
            raise DimensionMismatch(
                f"the query's parts have the shape {array.shape}, and ({wanted}) is needed: use "
                "the extractor that the gallery was built with"
            )
        wide = array.astype(np.float64)
        if not np.isfinite(wide).all():
            raise NotFiniteError("the query's parts hold NaN or Inf")
        if np.abs(wide).max(initial=0) > _LARGEST:
            raise NotFiniteError("the query's parts hold numbers too large for float32")
        return wide.astype(np.float32)

    def distances(
        self,
        parts: NDArray[np.float32],
        similarities: NDArray[np.float32],
        rows: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Matched distances of a person to those rows: float32 (m,).

        parts: (n, P, Dp) of n pictures. similarities: cosines, (1, m) of what the pictures' vectors
        have in common, or (n, m) of each. Of one, D_local is the mean over the pictures; of each,
        a row's distance is the smallest to any picture.
        """
        found = np.empty(len(rows), np.float32)
        for at in range(0, len(rows), _GATHERED):
            some = slice(at, at + _GATHERED)
            there = self.take(rows[some])
            local = np.stack([local_distances(one, there) for one in parts])
            if len(similarities) == 1:
                local = local.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
            matched = matched_distances(similarities[:, some], local, weight=self.matcher.weight)
            found[some] = matched.min(axis=0)
        return found


def refuse_parts(parts: ArrayLike | None) -> None:
    """Raise UsageError where parts are given and the gallery has no matcher."""
    if parts is not None:
        raise UsageError(
            "this gallery compares items by their vectors alone, so the query's parts say nothing: "
            "leave them out"
        )


def check_shortlist(shortlist: int | None) -> None:
    """Raise UsageError unless it is a whole number from 1 up, or None."""
    if shortlist is not None and (
        isinstance(shortlist, bool) or not isinstance(shortlist, int | np.integer) or shortlist < 1
    ):
        raise UsageError(
            f"a shortlist is a whole number from 1 up, or None for all that is allowed, got "
            f"{shortlist!r}"
        )
