"""Segments compared as the target's segment attends to the candidate's frames.

Co-attentive snippet embedding: Chen et al., "Video Person Re-identification with Competitive
Snippet-similarity Aggregation and Co-attentive Snippet Embedding", CVPR 2018; US 2020/0134321 A1.
Each frame t of a segment has a key k_t and a value v_t, each segment an index vector q. A target's
segment p and a candidate's g:

    h_t = ⟨q_p, k_t⟩,   a = softmax(h) over the frames t of g,   e_g = Σ_t a_t · v_t
    m(p, g) = sigmoid(bias + Σ_d head_d · (e_p − e_g)_d²)

where e_p is the same of p with its own index vector and frames. So a candidate's code depends on
who asks. The batch normalisation of the squares and the two outputs of the source are in head and
bias: the softmax of two numbers is the sigmoid of their difference.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..compiled import compiled
from ..errors import CorruptGallery, DimensionMismatch, NotFiniteError, UsageError
from ..matcher import Matcher, told
from ..store.frames import SegmentFrames, frames_of, joined
from ..threads import over_ranges
from .exact import widened
from .pairs import by_block, ends_of

_PIECE = 32
"""Segments that a thread takes at a time: some 0.3 ms with 8 frames of 128, and a target of 8."""

_LARGEST = float(np.finfo(np.float32).max)

# Sums may be taken in any order, but the same code takes them in the same one for every pair.
_FAST = {"reassoc", "contract", "nsz"}


@dataclass(frozen=True)
class Coattending:
    """The frames of N stored rows, mapped, and how they are compared.

    blocks: together N segments. Raises CorruptGallery where their widths differ.
    """

    matcher: Matcher
    blocks: Sequence[SegmentFrames]

    def __post_init__(self) -> None:
        if len({(one.key.shape[1], one.value.shape[1]) for one in self.blocks}) > 1:
            raise CorruptGallery("the shards hold frames of different widths: restore them")

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Where each block ends, counted over all of them."""
        return ends_of([len(one) for one in self.blocks])

    @property
    def key_dim(self) -> int | None:
        """Dk; None where there are no rows to tell it."""
        return self.blocks[0].key.shape[1] if self.blocks else None

    def take(self, rows: NDArray[np.int64]) -> SegmentFrames:
        """Copies of the frames of those rows, in that order, as float32."""
        dim, wide = self.key_dim or 0, len(self.matcher.head)
        none = np.zeros((0, dim), np.float32)
        some = [SegmentFrames(none, none, np.zeros((0, wide), np.float32), np.zeros(1, np.int64))]
        order = [np.empty(0, np.int64)]
        for number, places, local in by_block(rows, self.ends):
            some.append(self.blocks[number].take(local))
            order.append(np.arange(len(rows)) if places is None else places)
        together = joined(some)
        ordered = together.take(np.argsort(np.concatenate(order), kind="stable"))
        return SegmentFrames(
            ordered.index.astype(np.float32, copy=False),
            ordered.key.astype(np.float32, copy=False),
            ordered.value.astype(np.float32, copy=False),
            ordered.offset,
        )

    def asked(self, index: ArrayLike | None, *, segments: int) -> NDArray[np.float32]:
        """The index vectors of so many segments of a target, checked: float32 (segments, Dk).

        Raises UsageError where there are none, DimensionMismatch, NotFiniteError.
        """
        if index is None:
            raise UsageError(
                f"this gallery compares segments by {told(self.matcher)}, and the target has no "
                "index vectors: give those that its encoder makes"
            )
        try:
            array = np.asarray(index, np.float64)
        except (TypeError, ValueError) as error:
            raise UsageError(f"index vectors are numbers, (n, Dk): {error}") from None
        if array.ndim == 1 and segments == 1:
            array = array[None]
        wanted = (segments, array.shape[-1] if self.key_dim is None else self.key_dim)
        if array.ndim != 2 or array.shape != wanted:
            raise DimensionMismatch(
                f"the target's index vectors have the shape {array.shape}, and {wanted} is "
                "needed: use the encoder that the gallery was built with"
            )
        if not np.abs(array).max(initial=0) <= _LARGEST:  # nor is NaN
            raise NotFiniteError("the target's index vectors hold NaN, Inf or too large numbers")
        return array.astype(np.float32)


class FramePairs:
    """Probabilities that two segments show one person: see `Pairs`.

    codes: e_p, float32 (n, Dv), as the encoder makes them, not brought to length 1. index: (n, Dk).
    """

    def __init__(
        self,
        codes: NDArray[np.generic],
        index: NDArray[np.generic],
        blocks: Sequence[SegmentFrames],
        *,
        matcher: Matcher,
    ) -> None:
        self._codes, self._index = codes.astype(np.float64), index.astype(np.float64)
        self._head, self._bias = np.array(matcher.head, np.float64), float(matcher.bias)
        self._blocks = blocks
        self._ends = ends_of([len(one) for one in blocks])

    def __call__(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """See `Pairs`."""
        for number, places, local in by_block(rows, self._ends):
            room = out if places is None else out[places]
            block = self._blocks[number]
            key, value, offset = block.key, block.value, block.offset
            if key.dtype != np.float32:  # Numba knows no float16
                frames, offset = frames_of(offset, local)
                key, value = widened(key, frames), widened(value, frames)
                local = np.arange(len(local))
            _pairs(
                self._codes, self._index, self._head, self._bias, key, value, offset, local, room
            )
            if places is not None:
                out[places] = room


def probabilities(
    codes: NDArray[np.generic],
    index: NDArray[np.generic],
    frames: SegmentFrames,
    *,
    matcher: Matcher,
) -> NDArray[np.float32]:
    """m(p, g) of a target's segments, codes (n, Dv) and index (n, Dk), with each of m segments:
    float32 (n, m), from 0 to 1. Taken in double precision and rounded once."""
    pairs = FramePairs(codes, index, [frames], matcher=matcher)
    out = np.empty((len(frames), len(codes)), np.float32)

    def some(start: int, stop: int) -> None:
        pairs(np.arange(start, stop), out[start:stop])

    over_ranges(some, len(frames), piece=_PIECE)
    return out.T


def attention(index: NDArray[np.generic], frames: SegmentFrames) -> NDArray[np.float32]:
    """a, how much each segment of a target, index (n, Dk), attends to each frame of some segments:
    float32 (n, F), of the frames of one segment together 1. For showing: it takes a loop."""
    heat = index.astype(np.float64) @ frames.key.astype(np.float64).T
    for start, stop in zip(frames.offset[:-1], frames.offset[1:], strict=True):
        some = heat[:, start:stop]
        some -= some.max(axis=1, keepdims=True)
        np.exp(some, out=some)
        some /= some.sum(axis=1, keepdims=True)
    return heat.astype(np.float32)


def own_codes(frames: SegmentFrames) -> NDArray[np.float32]:
    """The self-attended codes of m segments, each with its own index vector: float32 (m, Dv); what
    `FramePairs` takes as codes where these segments are the target."""
    out = np.empty((len(frames), frames.value.shape[1]), np.float32)
    index, key, value = (
        one.astype(np.float32, copy=False) for one in (frames.index, frames.key, frames.value)
    )

    def some(start: int, stop: int) -> None:
        rows = np.arange(start, stop)
        _own_codes(index.astype(np.float64), key, value, frames.offset, rows, out[start:stop])

    over_ranges(some, len(frames), piece=_PIECE * 32)
    return out


@compiled(fastmath=_FAST)
def _pairs(e, q, head, bias, key, value, offset, rows, out):  # type: ignore[no-untyped-def]
    longest = 1
    for row in rows:
        longest = max(longest, offset[row + 1] - offset[row])
    heat, code = np.empty(longest), np.empty(value.shape[1])
    for i in range(len(rows)):
        first, last = offset[rows[i]], offset[rows[i] + 1]
        for p in range(len(q)):
            _attended(q[p], key, value, first, last, heat, code)
            total = 0.0
            for d in range(len(code)):
                total += head[d] * (e[p, d] - code[d]) ** 2
            total += bias
            if total >= 0:
                out[i, p] = 1 / (1 + math.exp(-total))
            else:
                odds = math.exp(total)
                out[i, p] = odds / (1 + odds)


@compiled(fastmath=_FAST)
def _own_codes(q, key, value, offset, rows, out):  # type: ignore[no-untyped-def]
    longest = 1
    for row in rows:
        longest = max(longest, offset[row + 1] - offset[row])
    heat, code = np.empty(longest), np.empty(value.shape[1])
    for i in range(len(rows)):
        _attended(q[rows[i]], key, value, offset[rows[i]], offset[rows[i] + 1], heat, code)
        for d in range(len(code)):
            out[i, d] = code[d]


@compiled(fastmath=_FAST)
def _attended(q, key, value, first, last, heat, code):  # type: ignore[no-untyped-def]
    """Σ softmax(⟨q, k_t⟩)_t · v_t of the frames from first up to last, into code."""
    count = last - first
    largest = -np.inf
    for t in range(count):
        total = 0.0
        for d in range(len(q)):
            total += q[d] * np.float64(key[first + t, d])
        heat[t] = total
        largest = max(largest, total)
    whole = 0.0
    for t in range(count):
        heat[t] = math.exp(heat[t] - largest)
        whole += heat[t]
    for d in range(len(code)):
        code[d] = 0.0
    for t in range(count):
        share = heat[t] / whole
        for d in range(len(code)):
            code[d] += share * np.float64(value[first + t, d])
