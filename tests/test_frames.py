"""Segments' frames in shards and galleries, and the matcher that belongs to them: what is written,
carried on, erased and refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from conftest import FINGERPRINT, contents, ids
from numpy.typing import NDArray

from reid_index import (
    ArrayStream,
    Fingerprint,
    Gallery,
    Matcher,
    Metric,
    SegmentFrames,
    open_shard,
    verify_gallery,
    write_shard,
)
from reid_index.erasure import traces_tables
from reid_index.erasure.receipt import read_receipt
from reid_index.erasure.traces import find_traces
from reid_index.errors import (
    BadShard,
    DimensionMismatch,
    FormatTooNew,
    NotFiniteError,
    UsageError,
)
from reid_index.files import json_bytes
from reid_index.store import shard, vectors

HEAD = (-0.5, 0.25, -1.0)
COATTENTION = Matcher(name="coattention", head=HEAD, bias=0.5)
Make = Callable[..., Gallery]


def drawn(rows: int, seed: int = 0) -> tuple[NDArray[np.float32], SegmentFrames]:
    """Vectors (n, 3), and segments of 1 to 5 frames with Dk = 2, Dv = 3."""
    rng = np.random.default_rng(seed)
    offset = np.concatenate([[0], np.cumsum(rng.integers(1, 6, rows))])
    frames = SegmentFrames(
        index=rng.normal(size=(rows, 2)).astype(np.float32),
        key=rng.normal(size=(offset[-1], 2)).astype(np.float32),
        value=rng.normal(size=(offset[-1], 3)).astype(np.float32),
        offset=offset,
    )
    return rng.normal(size=(rows, 3)).astype(np.float32), frames


def write(path: Path, rows: int = 5, seed: int = 0, **options: Any) -> Path:
    """A shard of segments; arrays: further or other ones."""
    rows_of, frames = drawn(rows, seed)
    arrays = {"global": rows_of, **frames.arrays} | options.pop("arrays", {})
    write_shard(
        path,
        arrays={name: ArrayStream.of(one) for name, one in arrays.items() if one is not None},
        items=[options.pop("items", pa.table({"camera": [1] * rows}))],
        **{
            "fingerprint": FINGERPRINT,
            "metric": Metric.COSINE,
            "matcher": COATTENTION,
            **options,
        },
    )
    return path


def assert_same(found: SegmentFrames, expected: SegmentFrames) -> None:
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array, err_msg=name)


def segments(frames: SegmentFrames) -> list[Any]:
    """Each on its own: index vector, keys, values."""
    return [
        (index.tolist(), frames.key[start:stop].tolist(), frames.value[start:stop].tolist())
        for index, start, stop in zip(
            frames.index, frames.offset[:-1], frames.offset[1:], strict=True
        )
    ]


def all_of(gallery: Gallery) -> list[Any]:
    return segments(gallery.frames(range(len(gallery))))


def test_a_shard_has_them_and_says_that_readers_must_know_of_them(tmp_path: Path) -> None:
    folder = write(tmp_path / "s")
    assert_same(SegmentFrames.of(open_shard(folder).arrays), drawn(5)[1])
    assert open_shard(folder).header.matcher == COATTENTION
    told = json.loads((folder / "shard.json").read_bytes())
    assert told["matcher"] == {"name": "coattention", "head": list(HEAD), "bias": 0.5}
    assert told["requires"] == ["matcher", "frames"]
    assert told["format"] == [1, 6]


def test_half_precision_and_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_PIECE", 3)
    monkeypatch.setattr(shard, "_PIECE", 4)
    folder = write(tmp_path / "s", 20, dtype="float16")
    arrays = open_shard(folder).arrays
    assert {arrays[name].dtype for name in ("index", "frame_key", "frame_value")} == {
        np.dtype("float16")
    }
    np.testing.assert_array_equal(arrays["frame_key"], drawn(20)[1].key.astype(np.float16))
    np.testing.assert_array_equal(arrays["frame_offset"], drawn(20)[1].offset)


def test_no_rows(tmp_path: Path) -> None:
    arrays = open_shard(write(tmp_path / "s", 0)).arrays
    assert arrays["frame_offset"].tolist() == [0]
    assert arrays["frame_key"].shape == (0, 2)


OFFSET = drawn(5)[1].offset
FRAMES = int(OFFSET[-1])


def changed(at: int, value: int) -> NDArray[np.int64]:
    offset = OFFSET.copy()
    offset[at] = value
    return offset


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"arrays": {"index": None}}, BadShard, "frame_value and no index: segments need all"),
        ({"arrays": {"frame_offset": None}}, BadShard, "and no frame_offset"),
        (
            {"arrays": dict.fromkeys(drawn(1)[1].arrays)},
            BadShard,
            r"it has no frames, and its matcher \(coattention over frames, 3 dimensions\)",
        ),
        ({"arrays": {"index": np.ones((4, 2))}}, BadShard, "index has 4 rows beside 5 vectors"),
        ({"arrays": {"index": np.ones((5, 3))}}, BadShard, "keys are as wide as index vectors"),
        ({"arrays": {"index": np.ones(5)}}, BadShard, r"shapes \(5,\), .* are needed"),
        ({"arrays": {"frame_key": np.ones((FRAMES, 0))}}, BadShard, r"Dk\), .* are needed"),
        ({"arrays": {"frame_key": np.ones((3, 2))}}, BadShard, "a key and a value"),
        ({"arrays": {"frame_value": np.ones((FRAMES, 4))}}, BadShard, "frames 4, the matcher's"),
        ({"matcher": replace(COATTENTION, head=(1.0, 2.0))}, BadShard, "head 2: they are compared"),
        ({"arrays": {"frame_offset": OFFSET[:-1]}}, BadShard, "has 5 rows beside 5 .*one more is"),
        ({"arrays": {"frame_offset": OFFSET[:, None]}}, BadShard, r"shape \(6, 1\), not \(rows \+"),
        ({"arrays": {"frame_offset": OFFSET * 1.0}}, BadShard, "float64, and whole numbers are"),
        ({"arrays": {"frame_offset": changed(0, 1)}}, BadShard, "begins with 1, not with 0"),
        ({"arrays": {"frame_offset": changed(2, OFFSET[1])}}, BadShard, "at row 1 .*at least one"),
        ({"arrays": {"frame_offset": changed(2, -1)}}, BadShard, "to -1 at row 1"),
        ({"arrays": {"frame_offset": changed(3, FRAMES + 1)}}, BadShard, "at row 2"),
        ({"arrays": {"frame_offset": changed(5, FRAMES - 1)}}, BadShard, "ends with|goes from"),
        ({"arrays": {"parts": np.ones((5, 1, 1))}}, BadShard, "compares frames and knows no parts"),
        ({"arrays": {"index": np.full((5, 2), np.nan)}}, NotFiniteError, "index holds NaN"),
        (
            {"arrays": {"frame_key": np.full((FRAMES, 2), np.inf)}},
            NotFiniteError,
            "key holds",
        ),
        (
            {"arrays": {"frame_value": np.full((FRAMES, 3), 1e6)}, "dtype": "float16"},
            NotFiniteError,
            "too large for float16",
        ),
        ({"metric": Metric.EUCLIDEAN}, UsageError, "compared by euclidean: choose cosine"),
    ],
)
def test_frames_that_do_not_go_together_are_not_written(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        write(tmp_path / "s", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("offset", "named"),
    [
        (changed(2, 2**40), "at row 1"),
        (changed(0, -5), "begins with -5"),
        (changed(1, 0), "at row 0"),
        (OFFSET[:-1], "frame_offset has 5 rows beside 5"),
        (OFFSET.astype(np.int32), "frame_offset is int32, expected int64"),
        (np.int64(3), "not a readable HDF5 file"),
    ],
)
def test_offsets_that_somebody_made_up_are_refused(tmp_path: Path, offset: Any, named: str) -> None:
    """Compiled code goes by them."""
    folder = write(tmp_path / "s")
    with h5py.File(folder / "vectors.h5", "r+") as file:
        del file["frame_offset"]
        file.create_dataset("frame_offset", data=offset)
    with pytest.raises(BadShard, match=named):
        _ = open_shard(folder).arrays


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"matcher": {"name": "coattention", "head": [1, 2, 3]}}, BadShard, "has no bias"),
        ({"matcher": {"name": "coattention", "head": 3, "bias": 0}}, BadShard, "is 3, not a list"),
        ({"matcher": {"name": "coattention", "head": [1, 2], "bias": 0}}, BadShard, "head 2"),
        ({"requires": ["matcher", "frames", "moons"]}, FormatTooNew, r"know of \['moons'\]"),
        (
            {"matcher": {"name": "coattention", "head": [1, 2, 3], "bias": 0, "of": 1}},
            FormatTooNew,
            "upgrade",
        ),
    ],
)
def test_a_damaged_or_newer_matcher_is_refused(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], named: str
) -> None:
    path = write(tmp_path / "s") / "shard.json"
    path.write_bytes(json_bytes(json.loads(path.read_bytes()) | changes))
    with pytest.raises(error, match=named):
        _ = open_shard(path.parent).arrays


@pytest.fixture
def gallery(make_gallery: Make, tmp_path: Path) -> Gallery:
    """Three shards of segments: 5 and 6 rows together, 4, 3."""
    made = make_gallery(matcher=COATTENTION)
    made.add_shards([write(tmp_path / "a"), write(tmp_path / "b", 6, 9)])
    for rows, seed in ((4, 1), (3, 2)):
        array, frames = drawn(rows, seed)
        made.add(array, [{"camera": seed}] * rows, frames=frames)
    return made


EVERYTHING = [
    one for rows, seed in ((5, 0), (6, 9), (4, 1), (3, 2)) for one in segments(drawn(rows, seed)[1])
]


def assert_carried(gallery: Gallery) -> None:
    again = Gallery.open(gallery.path)
    told = json.loads((again.path / again.manifest.file_name).read_bytes())
    assert told["requires"][-2:] == ["matcher", "frames"]
    assert again.matcher == COATTENTION
    assert verify_gallery(again) == []


def test_a_gallery_carries_them_through_all_that_changes_it(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "_PIECE", 4)
    assert_carried(gallery)
    assert all_of(gallery) == EVERYTHING
    assert gallery.delete(items=[1, 6, 12]) == 3
    kept = [one for item, one in enumerate(EVERYTHING) if item not in (1, 6, 12)]
    assert_carried(gallery)
    assert all_of(gallery) == kept
    blocks = gallery.frame_blocks
    assert blocks is not None
    assert [one for block in blocks for one in segments(block)] == kept
    gallery.compact()
    assert_carried(gallery)
    assert all_of(gallery) == kept
    assert len(gallery.manifest.shards) == 1
    gallery.add(drawn(2, 5)[0], frames=drawn(2, 5)[1])
    gallery.compact()
    assert all_of(gallery) == kept + segments(drawn(2, 5)[1])


def test_some_rows_are_copied_in_the_order_asked_for(gallery: Gallery) -> None:
    assert segments(gallery.frames([17, 0, 5, 0, 11])) == [EVERYTHING[i] for i in (17, 0, 5, 0, 11)]
    assert len(gallery.frames([])) == 0
    with pytest.raises(IndexError, match="no row 18"):
        gallery.frames([18])


def test_rebuilding_takes_those_of_the_new_shards(gallery: Gallery, tmp_path: Path) -> None:
    gallery.delete(items=[4])
    other = Fingerprint(name="external:other", version="1")
    order = np.random.default_rng(3).permutation(18)
    new = [
        write(tmp_path / f"new{at}", 9, at, items=pa.table({"item": some}), fingerprint=other)
        for at, some in enumerate((order[:9], order[9:]))
    ]
    gallery.rebuild(new, recipe={})
    assert_carried(gallery)
    made = dict(
        zip(order.tolist(), segments(drawn(9, 0)[1]) + segments(drawn(9, 1)[1]), strict=True)
    )
    assert all_of(gallery) == [made[item] for item in ids(gallery)]
    assert ids(gallery) == [item for item in range(18) if item != 4]


@pytest.mark.parametrize(
    ("frames", "error", "named"),
    [
        (
            None,
            UsageError,
            "over frames, 3 dimensions, too: add vectors with their frames",
        ),
        (drawn(5)[1], DimensionMismatch, "index has 5 rows beside 4 vectors"),
        (replace(drawn(4)[1], offset=np.arange(5)), BadShard, "frame_offset ends with 4"),
        (replace(drawn(4)[1], offset=np.arange(5.0)), UsageError, "frame_offset of the frames"),
        (replace(drawn(4)[1], key=np.full((1, 2), "a")), UsageError, "frame_key of the frames"),
        (replace(drawn(4)[1], index=np.ones((4, 3))), DimensionMismatch, "as wide as index"),
    ],
)
def test_rows_without_fitting_frames_are_not_added(
    gallery: Gallery, frames: Any, error: type[Exception], named: str
) -> None:
    before = contents(gallery.path)
    with pytest.raises(error, match=named):
        gallery.add(drawn(4)[0], frames=frames)
    assert contents(gallery.path) == before


def test_frames_of_another_width_than_the_gallerys_are_not_added(gallery: Gallery) -> None:
    array, frames = drawn(4)
    wide = replace(frames, index=np.ones((4, 7)), key=np.ones((len(frames.key), 7)))
    with pytest.raises(BadShard, match=r"'index': \(7,\).*all must have the same"):
        gallery.add(array, frames=wide)


def test_what_says_nothing_is_refused(gallery: Gallery, make_gallery: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="so parts say nothing: leave them out"):
        gallery.add(np.ones((2, 3)), parts=np.ones((2, 2, 4)), frames=drawn(2)[1])
    with pytest.raises(UsageError, match="it has no parts"):
        gallery.parts([0])
    plain = make_gallery("plain")
    with pytest.raises(UsageError, match="by vectors alone, so frames say nothing"):
        plain.add(np.ones((2, 3)), frames=drawn(2)[1])
    with pytest.raises(UsageError, match="by vectors alone: it has no"):
        plain.frames([])
    assert plain.frame_blocks is None
    with pytest.raises(BadShard, match="by vectors alone, the gallery by coattention"):
        gallery.add_shards(
            [write(tmp_path / "s", matcher=None, arrays=dict.fromkeys(drawn(1)[1].arrays))]
        )


def test_a_search_for_items_says_how_to_ask(gallery: Gallery) -> None:
    for ask in (
        lambda: gallery.search([1, 0, 0]),
        lambda: gallery.search_many([[1, 0, 0]]),
    ):
        with pytest.raises(UsageError, match=r"coattention .*: ask by Gallery\.search_videos, or"):
            ask()
    assert len(gallery.nearest([[1, 0, 0]], k=3)[0].rows) == 3


def test_what_is_erased_is_found_and_gone_after_compaction(
    make_gallery: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and values, in the bytes and in the rows that have the frames."""
    monkeypatch.setattr(traces_tables, "_SHOWN", 99)
    made = make_gallery(matcher=replace(COATTENTION, head=(1.0,) * 16), dim=16)
    rng = np.random.default_rng(0)
    offset = np.arange(11) * 3
    wide = [rng.normal(size=(count, 16)).astype(np.float32) for count in (10, 10, 30, 30)]
    frames = SegmentFrames(index=wide[1], key=wide[2], value=wide[3], offset=offset)
    made.add(wide[0], frames=frames)
    made.delete(items=[3], receipt=tmp_path / "r")
    receipt = read_receipt(tmp_path / "r")
    found = find_traces(made.path, receipt)
    for name, rows in (("index", [3]), ("frame_key", [9, 10, 11]), ("frame_value", [9, 10, 11])):
        for row in rows:
            assert any(f"data set '{name}', row {row}" in line for line in found.lines), name
    assert found.compact
    assert found.items == ()
    made.compact()
    assert find_traces(made.path, receipt).lines == ()
    made.add(
        rng.normal(size=(2, 16)),
        frames=SegmentFrames(
            index=rng.normal(size=(2, 16)),
            key=np.concatenate([rng.normal(size=(4, 16)), wide[2][10:11]]),
            value=rng.normal(size=(5, 16)),
            offset=np.array([0, 3, 5]),
        ),
    )
    again = find_traces(made.path, receipt)
    assert again.items == (11,)
    assert any("data set 'frame_key', row 4" in line for line in again.lines)
