"""Segments: windows of a track's frames, and what makes vectors of them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid_index.errors import DimensionMismatch, NotFiniteError, UsageError
from reid_index.matcher import Matcher

LENGTH, STRIDE = 8, 4
"""Frames in a segment, and from the begin of one to that of the next, unless somebody says."""


def windows(frames: int, length: int = LENGTH, stride: int = STRIDE) -> NDArray[np.int64]:
    """The segments of a track of so many frames: int64 (n, 2), first frame and the one behind the
    last, from 0, in order.

    They begin every `stride` frames and have `length`. Where the last one does not end with the
    track, one more has its last `length` frames, so that none is lost. A track of at most `length`
    frames is one segment. No frames: (0, 2).

    Raises UsageError for a length or stride below 1, and a stride beyond the length, which would
    leave frames out.
    """
    check_windows(length, stride)
    if frames <= length:
        return np.array([(0, frames)] if frames else [], np.int64).reshape(-1, 2)
    firsts = list(range(0, frames - length + 1, stride))
    if firsts[-1] + length < frames:
        firsts.append(frames - length)
    return np.array([(first, first + length) for first in firsts], np.int64)


def check_windows(length: int, stride: int) -> None:
    """Raise UsageError for a length and stride by which frames would be lost."""
    if length < 1:
        raise UsageError(f"a segment has at least 1 frame, not {length}")
    if not 1 <= stride <= length:
        raise UsageError(
            f"segments of {length} frames begin every 1 to {length} frames, not every {stride}: "
            "frames between them would be lost"
        )


@dataclass(frozen=True, kw_only=True)
class Segments:
    """What an encoder yields for n segments that have F frames together.

    global_: float32 (n, D'), finite, for the coarse search and for galleries of mean vectors; not
    scaled to length 1. Where pairs are scored by their frames it is the segment's code by its own
    index vector, and D' = Dv.
    index: float32 (n, Dk), key: float32 (F, Dk), value: float32 (F, Dv): all three, or None.
    """

    global_: NDArray[np.float32]
    index: NDArray[np.float32] | None = None
    key: NDArray[np.float32] | None = None
    value: NDArray[np.float32] | None = None


class SegmentEncoder(ABC):
    """Makes vectors of segments from the vectors of their frames. One thread at a time calls it."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """D', the width of `Segments.global_`."""

    @property
    def matcher(self) -> Matcher | None:
        """How pairs of segments are scored by their frames; None where they are by `global_`."""
        return None

    @abstractmethod
    def encode(self, frames: NDArray[np.float32], offsets: NDArray[np.int64]) -> Segments:
        """frames: (F, D), as the extractor's `embed` yields them, those of a segment in order of
        time. offsets: (n + 1), ascending from 0 to F: segment i is frames[offsets[i]:offsets[i+1]]
        and has at least one. n ≥ 1. A segment's numbers do not depend on the others."""


class MeanEncoder(SegmentEncoder):
    """The mean of a segment's frames, each scaled to length 1 first, as `pool_tracklets` has it.

    The sum is in double precision, the mean is not scaled. A segment of one frame is that frame, so
    crops and segments of one extractor can be compared.
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim

    @property
    def dim(self) -> int:
        return self._dim

    def encode(self, frames: NDArray[np.float32], offsets: NDArray[np.int64]) -> Segments:
        """Raises NotFiniteError for a frame that holds NaN or Inf or has length 0,
        DimensionMismatch for frames of another width."""
        if frames.ndim != 2 or frames.shape[1] != self._dim:
            raise DimensionMismatch(f"frames have the shape {frames.shape}, not (F, {self._dim})")
        wide = frames.astype(np.float64)
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise NotFiniteError("a frame's vector holds NaN or Inf or has length 0; leave it out")
        sums = np.add.reduceat(wide / lengths, offsets[:-1], axis=0)
        return Segments(global_=(sums / np.diff(offsets)[:, None]).astype(np.float32))


def segments_of(
    frames: NDArray[np.float32],
    numbers: NDArray[np.int64] | None = None,
    *,
    length: int = LENGTH,
    stride: int = STRIDE,
    encoder: SegmentEncoder,
) -> tuple[Segments, NDArray[np.int64], NDArray[np.int64]]:
    """One track cut into segments and encoded.

    frames: (F, D), F ≥ 1, vectors of a track's frames. numbers: (F,), what orders them, equal ones
    as they come; None where they are in order.

    Returns the n segments; `order` (F,), the rows of frames in order; and `spans` (n, 2): segment i
    is of the rows order[spans[i, 0] : spans[i, 1]].

    Raises what `windows` and the encoder do.
    """
    order = np.arange(len(frames)) if numbers is None else np.argsort(numbers, kind="stable")
    spans = windows(len(frames), length, stride)
    rows, offsets = rows_of(spans)
    return encoder.encode(frames[order[rows]], offsets), order, spans


def rows_of(spans: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of all spans (n, 2) one after the other, (F,), and where each begins, (n + 1)."""
    lengths = spans[:, 1] - spans[:, 0]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    shifts = np.repeat(spans[:, 0] - offsets[:-1], lengths)
    return np.arange(offsets[-1]) + shifts, offsets
