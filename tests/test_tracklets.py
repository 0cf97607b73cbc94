"""Frames pooled to tracklets, by value."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from extractors import tracklets
from extractors.tracklets import pool_tracklets
from reid_index.errors import DimensionMismatch, NotFiniteError
from reid_index.store.items import conform

ROWS: list[dict[str, Any]] = [
    {"source": "a/1.jpg", "camera": 1, "track": "t", "frame_first": 7, "frame_last": 7},
    {"source": "b/1.jpg", "camera": 1, "track": "t", "frame_first": 1, "frame_last": 1},
    {"source": "a/2.jpg", "camera": 1, "track": "t", "frame_first": 3, "frame_last": 9},
    {"source": "a/3.jpg", "camera": 1, "frame_first": 4, "frame_last": 4},
    {"source": "a/4.jpg", "camera": 1, "frame_first": 4, "frame_last": 4},
]
VECTORS = np.array([[3, 4], [0, 2], [0, 5], [2, 0], [0, 1]], np.float32)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return conform(pa.table({name: [row.get(name) for row in rows] for name in names}))


def test_means_of_unit_vectors_in_order_of_appearance() -> None:
    vectors, items = pool_tracklets(VECTORS, table(ROWS))
    # (3, 4) and (0, 5) have the directions (0.6, 0.8) and (0, 1).
    assert vectors.dtype == np.float32
    assert vectors.tolist() == np.array([[0.3, 0.9], [0, 1], [1, 0], [0, 1]], "f4").tolist()
    assert items["source"].to_pylist() == ["a/1.jpg", "b/1.jpg", "a/3.jpg", "a/4.jpg"]
    assert items["frame_first"].to_pylist() == [3, 1, 4, 4]
    assert items["frame_last"].to_pylist() == [9, 1, 4, 4]
    assert items.schema == table(ROWS).schema


def test_pieces_do_not_matter(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    track = rng.integers(0, 5, 60)
    vectors = rng.standard_normal((60, 8)).astype(np.float32)
    rows = [{"source": "x/1.jpg", "track": str(one)} for one in track]
    monkeypatch.setattr(tracklets, "_PIECE", 7)
    pooled, items = pool_tracklets(vectors, table(rows))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row, name in enumerate(items["track"].to_pylist()):
        expected = unit[track == int(name)].mean(axis=0)
        assert pooled[row] == pytest.approx(expected, abs=1e-6)
    assert items.num_rows == 5


@pytest.mark.parametrize(
    ("column", "one", "other"),
    [
        ("camera", 1, 2),
        ("track", "t", "u"),
        ("person", "1", None),
        ("video", "v", "w"),
        ("video", "x", None),
        ("source", "x/1.jpg", "y/1.jpg"),
    ],
)
def test_what_parts_tracklets(column: str, one: Any, other: Any) -> None:
    base = {"source": "x/1.jpg", "camera": 1, "track": "t", "person": "1"}
    rows = [{**base, column: one}, {**base, column: other}]
    assert pool_tracklets(VECTORS[:2], table(rows))[1].num_rows == 2
    rows[1][column] = one
    assert pool_tracklets(VECTORS[:2], table(rows))[1].num_rows == 1


def test_a_video_is_one_place_whatever_the_folders() -> None:
    rows = [{"source": f"{name}/1.jpg", "video": "v.mp4", "track": "t"} for name in "ab"]
    assert pool_tracklets(VECTORS[:2], table(rows))[1].num_rows == 1


def test_times_are_widened_and_other_columns_are_the_first_rows() -> None:
    noon, later = datetime(2024, 5, 1, 12, tzinfo=UTC), datetime(2024, 5, 1, 13, tzinfo=UTC)
    box = [1.0, 2.0, 3.0, 4.0]
    rows = [
        {"source": "x/1", "track": "t", "start": later, "end": None, "end_s": 2.0, "role": "r"},
        {"source": "x/2", "track": "t", "start": noon, "end": later, "end_s": 1.0, "box": box},
    ]
    _, items = pool_tracklets(VECTORS[:2], table(rows))
    (row,) = items.to_pylist()
    names = ("source", "start", "end", "start_s", "end_s", "role", "box")
    assert [row[name] for name in names] == ["x/1", noon, later, None, 2.0, "r", None]


def test_frames_vote_on_attributes() -> None:
    said = [("no", 0.6), ("yes", 0.5), ("yes", 0.9), ("no", 0.8), (None, None)]
    rows = [
        row | {"attr.hat": word, "attr.hat.confidence": sure}
        for row, (word, sure) in zip(ROWS, said, strict=True)
    ]
    _, items = pool_tracklets(VECTORS, table(rows))
    assert items["attr.hat"].to_pylist() == ["yes", "yes", "no", None]
    sure = items["attr.hat.confidence"].to_pylist()
    assert sure == [pytest.approx(0.45), pytest.approx(0.5), pytest.approx(0.8), None]
    none = pool_tracklets(VECTORS[:0], table(rows).slice(0, 0))[1]
    assert (none.num_rows, none.schema) == (0, items.schema)


def test_bad_input() -> None:
    with pytest.raises(DimensionMismatch, match=r"5 items need as many rows .* are \(4, 2\)"):
        pool_tracklets(VECTORS[:4], table(ROWS))
    for value in (0, np.nan, np.inf):
        vectors = VECTORS.copy()
        vectors[3] = value
        with pytest.raises(NotFiniteError, match="row 3 of the frames' vectors"):
            pool_tracklets(vectors, table(ROWS))


def test_nothing() -> None:
    vectors, items = pool_tracklets(VECTORS[:0], table(ROWS).slice(0, 0))
    assert (vectors.shape, items.num_rows) == ((0, 2), 0)
