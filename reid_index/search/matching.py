"""A gallery's parts, and a shortlist put in the order that its matcher gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import CorruptGallery, DimensionMismatch, NotFiniteError, UsageError
from ..matcher import Matcher, told
from ..store.append import as_parts, as_visible
from .aligned import local_distances, matched_distances
from .visibility import visible_of_pairs

SHORTLIST = 1000
"""Rows whose parts are compared, unless told otherwise."""

_GATHERED = 8192
"""Rows whose parts are copied together at a time: 32 MiB at 8 stripes of 128."""

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class AskedParts:
    """Of n pictures: parts, float32 (n, P, Dp), and which of them are visible, (n, P); all are
    where the matcher does not ask."""

    parts: NDArray[np.float32]
    visible: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.parts)

    def of(self, picture: int) -> "AskedParts":
        """One picture's alone."""
        return AskedParts(self.parts[picture, None], self.visible[picture, None])


@dataclass(frozen=True)
class Matching:
    """The parts of N stored rows, and how they are compared.

    blocks: (n, P, Dp) float32 or float16 each, mapped or in memory, together N rows. visible: which
    of them are to be seen, (n, P) each, where the matcher asks.
    Raises CorruptGallery where their P or Dp differ.
    """

    matcher: Matcher
    blocks: Sequence[NDArray[np.generic]]
    visible: Sequence[NDArray[np.generic]] = ()

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
        _gather(self.blocks, rows, found)
        return found

    def take_visible(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Which of these are visible: uint8 (m, P), copied; only where the matcher asks."""
        found = np.empty((len(rows), (self.shape or (0, 0))[0]), np.uint8)
        _gather(self.visible, rows, found)
        return found

    def asked(
        self, parts: ArrayLike | None, visible: ArrayLike | None, *, queries: int
    ) -> AskedParts:
        """The parts of so many queries' pictures (queries, P, Dp), and which are visible
        (queries, P), None for all, checked.

        Raises UsageError where there are no parts, or it is told of a matcher that does not ask
        what is visible, or by something else than 0 and 1; DimensionMismatch, NotFiniteError.
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
        return AskedParts(wide.astype(np.float32), self._seen(visible, wide.shape[:2]))

    def _seen(self, visible: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """What the query says is visible, checked."""
        if visible is None:
            return np.ones(shape, np.bool_)
        if not self.matcher.has_visible:
            raise UsageError(
                f"this gallery compares items by {told(self.matcher)}, so which of the query's "
                "parts are visible says nothing: leave it out"
            )
        array = as_visible(visible)
        if array.ndim == 1 and shape[0] == 1:
            array = array[None]
        if array.shape != shape:
            raise DimensionMismatch(
                f"the query's visible has the shape {array.shape}, and {shape} is needed: one for "
                "each part"
            )
        if not np.isin(array, (0, 1)).all():
            raise UsageError("the query's visible holds something else than 0 and 1")
        seen: NDArray[np.bool_] = array != 0
        return seen

    def distances(
        self,
        asked: AskedParts,
        similarities: NDArray[np.float32],
        rows: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Matched distances of a person to those rows: float32 (m,).

        asked: of n pictures. similarities: cosines, (1, m) of what the pictures' vectors have in
        common, or (n, m) of each. Of one, a row's distance is the mean over the pictures' parts;
        of each, the smallest to any picture.
        """
        found = np.empty(len(rows), np.float32)
        compare = self._by_visible if self.matcher.has_visible else self._by_path
        for at in range(0, len(rows), _GATHERED):
            some = slice(at, at + _GATHERED)
            found[some] = compare(asked, similarities[:, some], rows[some])
        return found

    def _by_path(
        self, asked: AskedParts, similarities: NDArray[np.float32], rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        there = self.take(rows)
        local = np.stack([local_distances(one, there) for one in asked.parts])
        if len(similarities) == 1:
            local = local.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
        matched = matched_distances(similarities, local, weight=self.matcher.weight)
        smallest: NDArray[np.float32] = matched.min(axis=0)
        return smallest

    def _by_visible(
        self, asked: AskedParts, similarities: NDArray[np.float32], rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        of_each = np.broadcast_to(similarities, (len(asked), len(rows)))
        matched = np.empty(of_each.shape, np.float32)
        offset = 0
        for block, shown in zip(self.blocks, self.visible, strict=True):
            here = np.flatnonzero((rows >= offset) & (rows < offset + len(block)))
            found = visible_of_pairs(
                asked.parts,
                asked.visible,
                np.repeat(np.arange(len(asked)), len(here)),
                block,
                shown,
                np.tile(rows[here] - offset, len(asked)),
                of_each[:, here].ravel(),
                distance=self.matcher.distance,
            )
            matched[:, here] = found.reshape(len(asked), len(here))
            offset += len(block)
        if len(similarities) > 1:
            smallest: NDArray[np.float32] = matched.min(axis=0)
            return smallest
        mean: NDArray[np.float64] = matched.mean(axis=0, dtype=np.float64)
        return mean.astype(np.float32)


def _gather(
    blocks: Sequence[NDArray[np.generic]], rows: NDArray[np.int64], found: NDArray[np.generic]
) -> None:
    """Copy those rows of all blocks to found, in that order."""
    offset = 0
    for block in blocks:
        here = np.flatnonzero((rows >= offset) & (rows < offset + len(block)))
        if len(here):
            found[here] = block[rows[here] - offset]
        offset += len(block)


def refuse_parts(parts: ArrayLike | None, visible: ArrayLike | None) -> None:
    """Raise UsageError where parts, or which are visible, are given and the gallery has no
    matcher."""
    if parts is not None or visible is not None:
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
