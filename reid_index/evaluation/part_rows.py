"""The parts of an evaluation's rows, in blocks: some copied, at length 1."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..errors import DimensionMismatch
from .scores import VectorScores

NEAR = 1 / 16
"""Squared distances below are taken from differences: the root would magnify the rounding of
products."""


class PartRows:
    """Blocks of parts, float32 or float16 (n, P, Dp) each, mapped or in memory: G rows together."""

    def __init__(self, blocks: Sequence[NDArray[np.generic]]) -> None:
        self.blocks = [np.asarray(block) for block in blocks]
        self._starts = np.cumsum([0, *map(len, blocks)])

    def between(self, first: int, last: int) -> NDArray[np.float32]:
        """The parts of the rows first … last, copied."""
        return between(self.blocks, first, last).astype(np.float32)

    def places(
        self, rows: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        """For each block: its number, which of those rows are in it, and where there."""
        for number, (block, first) in enumerate(zip(self.blocks, self._starts, strict=False)):
            here = np.flatnonzero((rows >= first) & (rows < first + len(block)))
            yield number, here, rows[here] - first


def between(blocks: Sequence[NDArray[np.generic]], first: int, last: int) -> NDArray[np.generic]:
    """The rows first … last of all blocks, copied."""
    pieces = []
    start = 0
    for block in blocks:
        pieces.append(block[max(0, first - start) : max(0, last - start)])
        start += len(block)
    return np.concatenate(pieces)


def check_parts(
    vectors: VectorScores, queries: NDArray[np.float32], blocks: Sequence[NDArray[np.generic]]
) -> None:
    """Raise DimensionMismatch unless the parts are of one shape, and of just those vectors."""
    shapes = sorted({queries.shape[1:], *(block.shape[1:] for block in blocks)})
    rows = sum(map(len, blocks))
    if len(shapes) > 1 or (len(queries), rows) != (vectors.queries, vectors.gallery):
        raise DimensionMismatch(
            f"parts of {len(queries)} queries and {rows} rows, of the shapes {shapes}: one "
            f"shape is needed, for {vectors.queries} and {vectors.gallery}"
        )


def unit(parts: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Parts (n, P, Dp) at length 1, and their squared lengths then (n, P): 1, or 0 for zeros."""
    wide = parts.astype(np.float64)
    lengths = np.sqrt(np.einsum("npd,npd->np", wide, wide))
    wide /= np.where(lengths > 0, lengths, 1)[:, :, None]
    return wide.astype(np.float32), (lengths > 0).astype(np.float32)


def squared_bound(dim: int) -> float:
    """How far the squared distance of parts of so many numbers, 2 − 2·product, may be from the
    exact one in single precision: 2·(Dp + 8)·2⁻²⁴ (Higham, Accuracy and Stability of Numerical
    Algorithms, 2nd ed., eq. 3.5). Its root, from NEAR on, by that divided by √NEAR."""
    return 2 * (dim + 8) * 2.0**-24


@compiled(fastmath={"reassoc", "contract", "nsz"})
def squared_distance(one, other):  # type: ignore[no-untyped-def]
    """‖a − b‖² of float32 (Dp,), from differences."""
    total = np.float32(0)
    for d in range(len(one)):
        difference = one[d] - other[d]
        total += difference * difference
    return total
