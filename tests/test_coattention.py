"""Pairs of segments by their frames: the equations, taken one by one in double precision."""

import numpy as np
import pytest
from numpy.typing import NDArray

from reid_index import Matcher, SegmentFrames
from reid_index.errors import CorruptGallery
from reid_index.search.coattention import (
    Coattending,
    FramePairs,
    attention,
    own_codes,
    probabilities,
)


def drawn(
    segments: int, *, seed: int = 0, longest: int = 9, dk: int = 24, dv: int = 40, size: float = 0.6
) -> SegmentFrames:
    rng = np.random.default_rng(seed)
    offset = np.concatenate([[0], np.cumsum(rng.integers(1, longest + 1, segments))])
    return SegmentFrames(
        index=(size * rng.normal(size=(segments, dk))).astype(np.float32),
        key=(size * rng.normal(size=(offset[-1], dk))).astype(np.float32),
        value=rng.normal(size=(offset[-1], dv)).astype(np.float32),
        offset=offset,
    )


def matcher(dv: int = 40, seed: int = 5) -> Matcher:
    rng = np.random.default_rng(seed)
    return Matcher(name="coattention", head=tuple((0.1 * rng.normal(size=dv)).tolist()), bias=0.3)


def by_loops(
    codes: NDArray[np.float32],
    index: NDArray[np.float32],
    frames: SegmentFrames,
    of: Matcher,
) -> tuple[NDArray[np.float64], list[list[NDArray[np.float64]]]]:
    """m(p, g) (n, m), and a for each p and g."""
    found = np.empty((len(codes), len(frames)))
    shares: list[list[NDArray[np.float64]]] = []
    for p in range(len(codes)):
        shares.append([])
        for g in range(len(frames)):
            heat = [
                sum(float(a) * float(b) for a, b in zip(index[p], frames.key[t], strict=True))
                for t in range(frames.offset[g], frames.offset[g + 1])
            ]
            odds = np.exp(np.array(heat) - max(heat))
            share = odds / odds.sum()
            code = np.zeros(frames.value.shape[1])
            for t, one in enumerate(share, start=int(frames.offset[g])):
                code += one * frames.value[t].astype(np.float64)
            total = of.bias
            for d, weight in enumerate(of.head):
                total += weight * (float(codes[p, d]) - code[d]) ** 2
            found[p, g] = 1 / (1 + np.exp(-total))
            shares[-1].append(share)
    return found, shares


@pytest.mark.parametrize("targets", [1, 8])
def test_it_is_what_the_equations_give(targets: int) -> None:
    frames, target = drawn(60), drawn(targets, seed=1)
    codes, of = own_codes(target), matcher()
    found = probabilities(codes, target.index, frames, matcher=of)
    expected, shares = by_loops(codes, target.index, frames, of)
    assert found.shape == (targets, 60)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)
    heat = attention(target.index, frames)
    for p in range(targets):
        np.testing.assert_allclose(heat[p], np.concatenate(shares[p]), rtol=0, atol=1e-6)


def test_a_segments_own_code_is_of_its_own_index_vector() -> None:
    frames = drawn(30)
    for g in range(30):
        one = frames.take(np.array([g]))
        share = attention(one.index, one)[0].astype(np.float64)
        np.testing.assert_allclose(own_codes(frames)[g], share @ one.value, rtol=0, atol=1e-5)


def test_a_pair_depends_on_nothing_but_the_pair() -> None:
    """Not on the other pairs, the order, the blocks or where in them: to the last bit."""
    frames, target, of = drawn(80), drawn(5, seed=1), matcher()
    codes = own_codes(target)
    expected = probabilities(codes, target.index, frames, matcher=of)
    order = np.random.default_rng(0).permutation(80)
    parts = [frames.take(some) for some in (order[:13], order[13:14], order[14:])]
    found = np.empty((80, 3), np.float32)
    pairs = FramePairs(codes[2:], target.index[2:], parts, matcher=of)
    pairs(np.arange(80)[::-1], found)
    np.testing.assert_array_equal(found.T, expected[2:, order[::-1]])


def test_half_precision_is_widened() -> None:
    frames, target, of = drawn(20), drawn(3, seed=1), matcher()
    half = SegmentFrames(
        *(
            one.astype(np.float16) if one.dtype == np.float32 else one
            for one in (frames.index, frames.key, frames.value, frames.offset)
        )
    )
    wide = SegmentFrames(
        half.index.astype(np.float32),
        half.key.astype(np.float32),
        half.value.astype(np.float32),
        half.offset,
    )
    codes = own_codes(target)
    np.testing.assert_array_equal(
        probabilities(codes, target.index, half, matcher=of),
        probabilities(codes, target.index, wide, matcher=of),
    )
    np.testing.assert_array_equal(own_codes(half), own_codes(wide))


def test_large_numbers_end_at_0_or_1() -> None:
    frames, target = drawn(10, size=1e15), drawn(2, seed=1, size=1e15)
    codes = own_codes(target)
    for sign, end in ((1e9, 1.0), (-1e9, 0.0)):
        of = Matcher(name="coattention", head=(sign,) * 40, bias=sign)
        assert (probabilities(codes, target.index, frames, matcher=of) == end).all()


def test_blocks_of_different_widths_are_refused() -> None:
    with pytest.raises(CorruptGallery, match="frames of different widths"):
        Coattending(matcher(), [drawn(2), drawn(2, dk=7)])
