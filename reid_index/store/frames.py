"""What a segment keeps of its frames, so that a target's segment can attend to them.

Segments have different numbers of frames, so these lie one after the other, and offsets say whose
they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .vectors import FRAMES, OF_FRAMES


@dataclass(frozen=True)
class SegmentFrames:
    """Of n segments that have F frames together; float32 or float16, finite.

    index: (n, Dk), what each segment asks with. key: (F, Dk) and value: (F, Dv) of the frames.
    offset: int64 (n + 1,); segment i has the frames from offset[i] up to offset[i + 1], at least
    one; the first is 0, the last F.
    """

    index: NDArray[np.generic]
    key: NDArray[np.generic]
    value: NDArray[np.generic]
    offset: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """By the names that a shard has for them."""
        of = (self.index, self.offset, self.key, self.value)
        return dict(zip(FRAMES, of, strict=True))

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "SegmentFrames":
        """Those of a shard."""
        return cls(
            index=arrays["index"],
            key=arrays["frame_key"],
            value=arrays["frame_value"],
            offset=arrays["frame_offset"].astype(np.int64, copy=False),
        )

    def take(self, rows: NDArray[np.int64]) -> "SegmentFrames":
        """Copies of some segments, in that order."""
        frames, offset = frames_of(self.offset, rows)
        return SegmentFrames(self.index[rows], self.key[frames], self.value[frames], offset)


def frames_of(
    offset: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which frames some segments have, one after the other, and their own offsets (n + 1,)."""
    lengths = (offset[1:] - offset[:-1])[rows]
    own = offsets_of(lengths)
    frames = np.arange(own[-1]) + np.repeat(offset[rows] - own[:-1], lengths)
    return frames, own


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 (n + 1,) of the numbers of frames (n,)."""
    offset = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offset[1:])
    return offset


def joined(some: Sequence[SegmentFrames]) -> SegmentFrames:
    """Segments of several, one after the other; at least one of them."""
    return SegmentFrames(
        index=np.concatenate([one.index for one in some]),
        key=np.concatenate([one.key for one in some]),
        value=np.concatenate([one.value for one in some]),
        offset=offsets_of(np.concatenate([np.diff(one.offset) for one in some])),
    )


def mask_of_frames(
    rows: NDArray[np.bool_], arrays: Mapping[str, NDArray[np.generic]], name: str
) -> NDArray[np.bool_]:
    """A mask over a shard's rows as one over what the array of that name has first: frames, or the
    rows themselves."""
    if name not in OF_FRAMES:
        return rows
    return np.repeat(rows, np.diff(arrays["frame_offset"]))


def wrong_shapes(shapes: Mapping[str, Sequence[int]], *, rows: int) -> str | None:
    """Why arrays of those shapes cannot be a shard's of so many rows, None where they can.

    Of an array that has a row for each frame it is only asked that both have as many.
    """
    there = [name for name in FRAMES if name in shapes]
    if there and len(there) < len(FRAMES):
        missing = next(name for name in FRAMES if name not in shapes)
        return f"it has {', '.join(there)} and no {missing}: segments need all of them"
    for name, shape in shapes.items():
        if len(shape) == 0:
            return f"{name} is a single number, not one for each row"
        wanted = rows + 1 if name == "frame_offset" else rows
        if name not in OF_FRAMES and shape[0] != wanted:
            more = ", and one more is needed" if name == "frame_offset" else ""
            return f"{name} has {shape[0]} rows beside {rows} vectors{more}"
    if not there:
        return None
    index, key, value = (tuple(shapes[name]) for name in ("index", "frame_key", "frame_value"))
    if len(shapes["frame_offset"]) != 1:
        return f"frame_offset has the shape {tuple(shapes['frame_offset'])}, not (rows + 1,)"
    if {len(index), len(key), len(value)} != {2} or min(key[1], value[1]) < 1:
        return (
            f"index, frame_key, frame_value have the shapes {index}, {key}, {value}, and (rows, "
            "Dk), (frames, Dk), (frames, Dv) are needed"
        )
    if key[0] != value[0] or key[1] != index[1]:
        return (
            f"index, frame_key, frame_value have the shapes {index}, {key}, {value}: each frame "
            "has a key and a value, and keys are as wide as index vectors"
        )
    return None


def wrong_offsets(offset: NDArray[np.int64], *, frames: int) -> str | None:
    """Why offsets (n + 1,) cannot be those of so many frames, None where they can."""
    check = OffsetCheck(frames)
    return check.piece(offset) or check.end()


class OffsetCheck:
    """Looks at offsets piece by piece, whether they can be those of so many frames."""

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._last: int | None = None
        self._row = 0

    def piece(self, offsets: NDArray[np.int64]) -> str | None:
        """What is wrong with the next ones, if anything."""
        if len(offsets) == 0:
            return None
        if self._last is None and offsets[0] != 0:
            return f"frame_offset begins with {offsets[0]}, not with 0"
        before = np.concatenate([[-1 if self._last is None else self._last], offsets[:-1]])
        bad = (offsets <= before) | (offsets > self._frames)
        if bad.any():
            at = int(np.argmax(bad))
            return (
                f"frame_offset goes from {before[at]} to {offsets[at]} at row {self._row + at - 1} "
                f"(from 0): each row has at least one of the {self._frames} frames, after those "
                "before it"
            )
        self._last = int(offsets[-1])
        self._row += len(offsets)
        return None

    def end(self) -> str | None:
        """What is wrong after the last, if anything."""
        if self._last != self._frames:
            return f"frame_offset ends with {self._last}, and there are {self._frames} frames"
        return None
