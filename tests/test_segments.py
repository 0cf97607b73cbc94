"""Windows of tracks, and the vectors that are made of them."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.segments import MeanEncoder, rows_of, segments_of, windows
from extractors.stripes import StripesExtractor
from extractors.tracklets import pool_tracklets
from reid_index.errors import DimensionMismatch, NotFiniteError, UsageError
from reid_index.store.items import conform


@pytest.mark.parametrize(
    ("frames", "length", "stride", "expected"),
    [
        (0, 8, 4, []),
        (1, 8, 4, [[0, 1]]),
        (8, 8, 4, [[0, 8]]),
        (9, 8, 4, [[0, 8], [1, 9]]),
        (12, 8, 4, [[0, 8], [4, 12]]),
        (14, 8, 4, [[0, 8], [4, 12], [6, 14]]),
        (3, 1, 1, [[0, 1], [1, 2], [2, 3]]),
        (7, 3, 3, [[0, 3], [3, 6], [4, 7]]),
    ],
)
def test_windows_by_hand(frames: int, length: int, stride: int, expected: list[list[int]]) -> None:
    assert windows(frames, length, stride).tolist() == expected


@given(st.integers(1, 200), st.integers(1, 20), st.data())
def test_every_frame_is_covered_and_no_window_comes_twice(
    frames: int, length: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, length))
    spans = windows(frames, length, stride)
    covered = {frame for first, stop in spans.tolist() for frame in range(first, stop)}
    assert covered == set(range(frames))
    assert (np.diff(spans, axis=1) == min(length, frames)).all()
    # Ascending, so none comes twice; all but the tail begin every `stride` frames.
    assert (np.diff(spans[:, 0]) > 0).all()
    assert (spans[:-1, 0] == stride * np.arange(len(spans) - 1)).all()


@pytest.mark.parametrize(
    ("length", "stride", "text"),
    [
        (0, 1, "at least 1 frame, not 0"),
        (8, 0, "every 1 to 8 frames, not every 0"),
        (4, 5, "not every 5: frames between them would be lost"),
    ],
)
def test_windows_that_would_lose_frames(length: int, stride: int, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        windows(30, length, stride)


def test_rows_of_spans() -> None:
    rows, offsets = rows_of(np.array([[3, 6], [0, 2], [5, 6]]))
    assert (rows.tolist(), offsets.tolist()) == ([3, 4, 5, 0, 1, 5], [0, 3, 5, 6])
    rows, offsets = rows_of(windows(0))
    assert (rows.tolist(), offsets.tolist()) == ([], [0])


def test_means_are_those_of_tracklets(rng: np.random.Generator) -> None:
    frames = rng.standard_normal((9, 5)).astype(np.float32)
    offsets = np.array([0, 4, 5, 9])
    tracks = np.repeat(["a", "b", "c"], np.diff(offsets))
    expected, _ = pool_tracklets(frames, conform(pa.table({"track": tracks})))
    found = MeanEncoder(5).encode(frames, offsets)
    assert found.global_.dtype == np.float32
    assert found.global_ == pytest.approx(expected, abs=1e-7)
    assert (found.index, found.key, found.value) == (None, None, None)
    assert np.linalg.norm(found.global_[0]) < 0.99  # not scaled


def test_frames_are_put_in_order(rng: np.random.Generator) -> None:
    frames = rng.standard_normal((5, 3)).astype(np.float32)
    numbers = np.array([7, 2, 7, 1, 9])
    encoder = MeanEncoder(3)
    segments, order, spans = segments_of(frames, numbers, length=2, stride=2, encoder=encoder)
    assert order.tolist() == [3, 1, 0, 2, 4]
    assert spans.tolist() == [[0, 2], [2, 4], [3, 5]]
    for row, (first, stop) in enumerate(spans.tolist()):
        inside = frames[order[first:stop]]
        expected = encoder.encode(inside, np.array([0, len(inside)])).global_
        assert (segments.global_[row] == expected[0]).all()
    _, order, spans = segments_of(frames, encoder=encoder)
    assert (order.tolist(), spans.tolist()) == ([0, 1, 2, 3, 4], [[0, 5]])


def test_every_extractor_has_means() -> None:
    extractor = StripesExtractor()
    assert extractor.segments.dim == extractor.dim
    assert extractor.segments.matcher is None


def test_bad_frames() -> None:
    encoder = MeanEncoder(2)
    offsets = np.array([0, 2])
    for value in (0, np.nan, np.inf):
        with pytest.raises(NotFiniteError, match="a frame's vector holds NaN"):
            encoder.encode(np.array([[1, 2], [value, 0]], np.float32), offsets)
    with pytest.raises(DimensionMismatch, match=r"\(2, 3\), not \(F, 2\)"):
        encoder.encode(np.ones((2, 3), np.float32), offsets)
