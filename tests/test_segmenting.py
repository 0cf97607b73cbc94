"""Shards of frames to shards of segments, against a naive cutting of the same rows."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extractors import segmenting
from extractors.frames import Frame, read_frame
from extractors.segmenting import Cut, Segmented, write_segments
from extractors.segments import MeanEncoder, SegmentEncoder, Segments
from reid_index.errors import BadItems, NotFiniteError, UsageError
from reid_index.fingerprint import Fingerprint
from reid_index.matcher import Matcher
from reid_index.metric import Metric
from reid_index.store.items import STANDARD
from reid_index.store.shard import open_shard, write_shard
from reid_index.store.vectors import ArrayStream

FINGERPRINT = Fingerprint(name="external:test", version="1")
DIM = 4
Row = dict[str, Any]
Maker = Callable[..., tuple[Segmented, list[Row], np.ndarray]]


def frame_row(track: str | None, frame: int | None, **columns: Any) -> Row:
    return {"source": "v.mp4", "video": "v.mp4", "track": track, "frame_first": frame} | columns


def write_frames(folder: Path, rows: list[Row], vectors: np.ndarray, *, sizes: list[int]) -> list:
    """Parts of those sizes, the last one with the rest."""
    types = STANDARD | {"role": pa.string()}
    parts, start = [], 0
    for number, size in enumerate([*sizes, len(rows)]):
        some = rows[start : start + size]
        if some:
            part = folder / f"part-{number}"
            table = {
                name: pa.array([row.get(name) for row in some], kind)
                for name, kind in types.items()
            }
            write_shard(
                part,
                arrays={"global": ArrayStream.of(vectors[start : start + size])},
                items=[pa.table(table)],
                fingerprint=FINGERPRINT,
                metric=Metric.EUCLIDEAN,
                root="/footage",
            )
            parts.append(part)
        start += size
    return parts


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Segments of rows of frames: what was told, their items, and their vectors."""
    count = iter(range(10_000))

    def make(
        rows: list[Row], vectors: np.ndarray, *, cut: Cut, sizes: list[int] | None = None
    ) -> tuple[Segmented, list[Row], np.ndarray]:
        folder = tmp_path / str(next(count))
        done = write_segments(
            write_frames(folder, rows, vectors, sizes=sizes or []),
            folder / "segments",
            encoder=MeanEncoder(DIM),
            fingerprint=FINGERPRINT,
            metric=Metric.EUCLIDEAN,
            cut=cut,
        )
        shards = [open_shard(part) for part in done.parts]
        assert {shard.header.root for shard in shards} == {"/footage"}
        items = [row for shard in shards for row in shard.items.to_pylist()]
        return done, items, np.concatenate([shard.vectors for shard in shards])

    return make


def naive(rows: list[Row], cut: Cut) -> list[list[int]]:
    """The rows of each segment."""
    tracks: dict[object, list[int]] = {}
    for at, row in enumerate(rows):
        tracks.setdefault(at if row["track"] is None else row["track"], []).append(at)
    segments = []
    for track in tracks.values():
        if all(rows[at]["frame_first"] is not None for at in track):
            track.sort(key=lambda at: rows[at]["frame_first"])
        if len(track) <= cut.length:
            segments.append(track)
            continue
        begins = list(range(0, len(track) - cut.length + 1, cut.stride))
        if begins[-1] != len(track) - cut.length:
            begins.append(len(track) - cut.length)
        segments += [track[begin : begin + cut.length] for begin in begins]
    return segments


@pytest.mark.usefixtures("quick_disk")
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
@given(st.data())
def test_segments_are_those_of_a_naive_cutting(make: Maker, data: st.DataObject) -> None:
    tracks = st.sampled_from(["a", "b", "c", None])
    frames = st.one_of(st.integers(0, 60), st.none()) if data.draw(st.booleans()) else st.integers()
    frames = frames.filter(lambda one: one is None or 0 <= one < 2**40)
    keys = data.draw(st.lists(st.tuples(tracks, frames), min_size=1, max_size=60))
    length = data.draw(st.integers(1, 9))
    cut = Cut(length, data.draw(st.integers(1, length)))
    sizes = data.draw(st.lists(st.integers(1, 20), max_size=5))
    rows = [frame_row(track, frame) for track, frame in keys]
    vectors = np.random.default_rng(len(rows)).standard_normal((len(rows), DIM)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmenting, "_FRAMES", data.draw(st.integers(1, 40)))
        patch.setattr(segmenting, "_BYTES", data.draw(st.integers(1, 400)))
        patch.setattr(segmenting, "_OPEN", data.draw(st.integers(1, 3)))
        done, items, found = make(rows, vectors, cut=cut, sizes=sizes)
    expected = naive(rows, cut)
    assert [row["frame_first"] for row in items] == [
        min(
            (rows[at]["frame_first"] for at in one if rows[at]["frame_first"] is not None),
            default=None,
        )
        for one in expected
    ]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert found == pytest.approx(np.array([unit[one].mean(axis=0) for one in expected]), abs=1e-6)
    assert [row["track"] for row in items] == [rows[one[0]]["track"] for one in expected]
    assert (done.rows, done.frames) == (len(expected), len(rows))
    assert len({at for one in expected for at in one}) == len(rows)


def test_what_a_segment_of_a_video_says(make: Maker) -> None:
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
    rows = [
        frame_row(
            "7",
            number,
            frame_last=number,
            start_s=number / 4,
            end_s=number / 4,
            start=noon + timedelta(seconds=number),
            end=noon + timedelta(seconds=number),
            box=[number + 0.1, 2, 30, 40],
            camera=3,
            role="r",
        )
        for number in (9, 6, 7)
    ]
    done, items, _ = make(rows, np.eye(3, DIM, dtype=np.float32), cut=Cut())
    (row,) = items
    assert (row["source"], row["video"], row["track"]) == ("v.mp4", "v.mp4", "7")
    assert (row["frame_first"], row["frame_last"]) == (6, 9)
    assert (row["start_s"], row["end_s"]) == (1.5, 2.25)
    assert (row["start"], row["end"]) == (noon + timedelta(seconds=6), noon + timedelta(seconds=9))
    assert (row["camera"], row["role"]) == (3, "r")
    assert row["box"] == pytest.approx([7.1, 2, 30, 40])
    assert row["frames"] == ["6@1.5:6.1,2,30,40", "7@1.75:7.1,2,30,40", "9@2.25:9.1,2,30,40"]
    assert (done.tracks, done.single, done.sorted) == (1, 0, 1)


def test_what_a_segment_of_pictures_says(make: Maker) -> None:
    rows: list[Row] = [{"source": f"p/{name}.jpg", "track": "1"} for name in "cab"]
    rows[2]["box"] = [1, 2, 3, 4.5]
    rows += [{"source": "p/x.jpg", "track": "2"}, {"source": "p/y.jpg"}]
    vectors = np.ones((5, DIM), np.float32)
    done, items, _ = make(rows, vectors, cut=Cut(2, 2))
    assert [row["source"] for row in items] == ["p/a.jpg", "p/b.jpg", "p/x.jpg", "p/y.jpg"]
    assert [row["frames"] for row in items] == [
        ["p/c.jpg", "p/a.jpg"],
        ["p/a.jpg", "p/b.jpg@1,2,3,4.5"],
        ["p/x.jpg"],
        ["p/y.jpg"],
    ]
    assert {row["video"] for row in items} == {None}
    assert (done.tracks, done.untracked, done.frames) == (3, 1, 5)
    assert (done.single, done.sorted) == (1, 0)


def test_what_was_left_is_made_again(make: Maker, tmp_path: Path) -> None:
    left = tmp_path / "0" / "segments" / "part-000009"
    left.mkdir(parents=True)
    done, _, _ = make([frame_row("a", 1)], np.ones((1, DIM), np.float32), cut=Cut())
    assert [part.name for part in done.parts] == ["part-000001"]
    assert not left.exists()


def test_a_frame_that_is_no_vector(make: Maker) -> None:
    with pytest.raises(NotFiniteError, match="length 0"):
        make([frame_row("a", 1)], np.zeros((1, DIM), np.float32), cut=Cut())
    with pytest.raises(UsageError, match="not every 5"):
        Cut(4, 5)


@pytest.mark.parametrize(
    ("frame", "text", "of_video"),
    [
        (Frame(number=0, seconds=0.0), "0@0", True),
        (Frame(number=12, seconds=0.48), "12@0.48", True),
        (
            Frame(number=3, seconds=1e-7, box=(0.5, -1, 2, 1e6)),
            "3@0.0000001:0.5,-1,2,1000000",
            True,
        ),
        (Frame(source="a@b/c.jpg"), "a@b/c.jpg", False),
        (Frame(source="a.jpg", box=(1, 2, 3.25, 4)), "a.jpg@1,2,3.25,4", False),
    ],
)
def test_texts_of_frames(frame: Frame, text: str, of_video: bool) -> None:
    assert str(frame) == text
    assert read_frame(text, of_video=of_video) == frame


@pytest.mark.parametrize(
    "text", ["", "v.mp4", "1", "1@", "@1", "1@2:3,4,5", "1@2:a,b,c,d", "9" * 19 + "@1"]
)
def test_texts_that_are_no_frames(text: str) -> None:
    with pytest.raises(BadItems, match="is no frame"):
        read_frame(text, of_video=True)


class Keys(SegmentEncoder):
    """Keeps frames as they are: the segment's sum, and numbers that tell frames from each other."""

    @property
    def dim(self) -> int:
        return DIM

    @property
    def matcher(self) -> Matcher:
        return Matcher(name="coattention", head=(1.0,) * DIM)

    def encode(self, frames: np.ndarray, offsets: np.ndarray) -> Segments:
        sums = np.add.reduceat(frames, offsets[:-1], axis=0)
        return Segments(global_=sums, index=sums[:, :2], key=frames[:, :2], value=2 * frames)


@pytest.mark.parametrize("size", [1, 10_000])
def test_frames_are_kept_where_pairs_are_scored_by_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, size: int
) -> None:
    monkeypatch.setattr(segmenting, "_FRAMES", size)
    rows = [frame_row(track, at) for at, track in enumerate("aabaaabbb")]
    vectors = rng.random((len(rows), DIM)).astype(np.float32)
    cut = Cut(3, 2)
    done = write_segments(
        write_frames(tmp_path, rows, vectors, sizes=[4]),
        tmp_path / "segments",
        encoder=Keys(),
        fingerprint=FINGERPRINT,
        metric=Metric.COSINE,
        cut=cut,
    )
    (shard,) = map(open_shard, done.parts)
    expected = naive(rows, cut)
    flat = [at for one in expected for at in one]
    sums = np.array([vectors[one].sum(axis=0) for one in expected])
    assert shard.header.matcher == Keys().matcher
    assert shard.arrays["frame_offset"].tolist() == [0, 3, 6, 9, 12]
    assert (shard.arrays["frame_key"] == vectors[flat, :2]).all()
    assert (shard.arrays["frame_value"] == 2 * vectors[flat]).all()
    assert shard.arrays["index"] == pytest.approx(sums[:, :2])
    unit = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    assert shard.vectors == pytest.approx(unit, abs=1e-6)
