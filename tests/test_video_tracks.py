"""Boxes of tracks from MOTChallenge text, CSV and Parquet, and what is amiss in them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extractors.video.tracks import TrackBoxes, Tracks, read_tracks
from reid_index.errors import BadSource

DATA = Path(__file__).parents[2] / "shared" / "data" / "video"

Row = tuple[int, str | None, tuple[float, ...]]


def rows(boxes: TrackBoxes) -> list[Row]:
    """Frame, track, box, in order."""
    assert (np.diff(boxes.frame) >= 0).all()
    frames = boxes.frame.tolist()
    return list(zip(frames, boxes.track, map(tuple, boxes.box.tolist()), strict=True))


def read(path: Path, text: str, *videos: str) -> Tracks:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return read_tracks(path, videos=videos or ("v.mp4",), root=path.parent)


EXPECTED: list[Row] = [
    (0, "1", (10.0, 20.0, 30.0, 60.0)),
    (2, "1", (11.0, 21.0, 30.0, 60.0)),
    (2, "2", (50.0, 20.0, 30.5, 60.0)),
]


def test_motchallenge_counts_from_1(tmp_path: Path) -> None:
    text = "1,1,11,21,30,60,1,-1,-1,-1\n3,1,12,22,30,60,1,-1,-1,-1\n3,2,51,21,30.5,60,1,-1,-1,-1\n"
    assert rows(read(tmp_path / "t.txt", text).boxes["v.mp4"]) == EXPECTED


def test_motchallenge_ground_truth_leaves_out_who_does_not_count(tmp_path: Path) -> None:
    text = "1,1,11,21,30,60,1,1,1\n1,2,1,1,5,5,0,1,1\n1,3,1,1,5,5,1,3,1\n2,-1,1,1,5,5,1,1,1\n"
    assert rows(read(tmp_path / "t.txt", text).boxes["v.mp4"]) == [
        (0, "1", (10, 20, 30, 60)),
        (1, None, (0, 0, 5, 5)),
    ]


def test_csv_by_corners_and_by_sizes(tmp_path: Path) -> None:
    corners = "Video,cam,track,frame,x1,y1,x2,y2,score\n" + "".join(
        f"v.mp4,3,{track},{frame},{x},{y},{x + w},{y + h},0.5\n"
        for frame, track, (x, y, w, h) in EXPECTED
    )
    sizes = "frame,track,x,y,w,h,person\n" + "".join(
        f"{frame},{track},{x},{y},{w},{h},0007\n" for frame, track, (x, y, w, h) in EXPECTED
    )
    one = read(tmp_path / "a.csv", corners).boxes["v.mp4"]
    two = read(tmp_path / "b.csv", sizes).boxes["v.mp4"]
    assert rows(one) == rows(two) == EXPECTED
    assert (list(one.camera), list(one.person)) == ([3, 3, 3], [None] * 3)
    assert (list(two.camera), list(two.person)) == ([None] * 3, ["0007"] * 3)


def test_parquet(tmp_path: Path) -> None:
    columns = {
        "track": [track for _, track, _ in EXPECTED],
        "frame": [frame for frame, _, _ in EXPECTED],
        "note": ["whatever"] * 3,
        "camera": pa.array([1, None, 2], pa.int16()),
    }
    columns |= {name: [box[at] for *_, box in EXPECTED] for at, name in enumerate("xywh")}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    boxes = read_tracks(tmp_path / "t.parquet", videos=["v.mp4"], root=tmp_path).boxes["v.mp4"]
    assert rows(boxes) == EXPECTED
    assert list(boxes.camera) == [1, None, 2]


def test_rows_without_a_track(tmp_path: Path) -> None:
    found = read(tmp_path / "t.csv", "frame,track,x,y,w,h\n0,,1,1,5,5\n0,,2,2,5,5\n0,-,3,3,5,5\n")
    assert [row[1] for row in rows(found.boxes["v.mp4"])] == [None, None, "-"]
    assert not found.boxes["v.mp4"].refused


def test_frames_one_by_one(tmp_path: Path) -> None:
    text = "frame,x,y,w,h\n" + "".join(f"{frame},1,1,5,5\n" for frame in (4, 0, 4, 9))
    boxes = read(tmp_path / "t.csv", text).boxes["v.mp4"]
    assert list(boxes.frames()) == [(0, range(1)), (4, range(1, 3)), (9, range(3, 4))]


def test_thinned_takes_every_second_box_of_each_track(tmp_path: Path) -> None:
    text = "frame,track,x,y,w,h\n" + "".join(
        f"{frame},{track},1,1,5,5\n" for frame in range(5) for track in ("a", "b") if frame or track
    )
    boxes = read(tmp_path / "t.csv", text.replace("0,b", "0,")).boxes["v.mp4"].thinned(2)
    kept = [(frame, track) for frame, track, _ in rows(boxes)]
    assert kept == [(0, "a"), (0, None), (1, "b"), (2, "a"), (3, "b"), (4, "a")]


# Which video


def test_videos_are_named_by_path_end_or_stem(tmp_path: Path) -> None:
    names = ("in/c1/a.mp4", "in/c2/a.mp4", "in/b.mp4")
    said = ["in/c1/a.mp4", "c2/a.mp4", "c2/a", "b", "b.mp4", "c1\\a.mp4"]
    text = "video,frame,x,y,w,h\n" + "".join(
        f"{name},{frame},1,1,5,5\n" for frame, name in enumerate(said)
    )
    found = read(tmp_path / "t.csv", text, *names)
    frames = {name: boxes.frame.tolist() for name, boxes in found.boxes.items()}
    assert frames == {"in/c1/a.mp4": [0, 5], "in/c2/a.mp4": [1, 2], "in/b.mp4": [3, 4]}
    assert (found.left_out, found.notes) == ({}, ())


def test_boxes_of_many_cameras_do_for_the_folder_of_one(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "video,frame,x,y,w,h\n"
        + "".join(f"{name},{frame},1,1,5,5\n" for frame, name in enumerate(["c1/a.mp4", "c2/a"]))
        + f"{tmp_path}/c2/a.mp4,7,1,1,5,5\n"
    )
    found = read_tracks(tmp_path / "t.csv", videos=["a.mp4"], root=tmp_path / "c2")
    assert found.boxes["a.mp4"].frame.tolist() == [1, 7]
    [(reason, count)] = found.left_out.items()
    assert ("c1/a.mp4" in reason, count) == (True, 1)


def test_unknown_and_ambiguous_videos_are_left_out_and_told(tmp_path: Path) -> None:
    text = "video,frame,x,y,w,h\nx.mp4,0,1,1,5,5\nx.mp4,1,1,1,5,5\na.mp4,0,1,1,5,5\nb,0,1,1,5,5\n"
    path = tmp_path / "t.csv"
    found = read(path, text, "c1/a.mp4", "c2/a.mp4", "b.mp4")
    assert list(found.boxes) == ["b.mp4"]
    assert found.left_out == {
        f"boxes of 'x.mp4' in {path}, which means none of the videos, or several": 2,
        f"boxes of 'a.mp4' in {path}, which means none of the videos, or several": 1,
    }
    assert found.notes == ("c1/a.mp4 and 1 more: there are no boxes of it",)


@pytest.mark.parametrize("text", ["1,1,1,1,5,5\n", "frame,x,y,w,h\n0,1,1,5,5\n"])
def test_a_file_that_does_not_say_which_video_is_for_one_alone(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadSource, match="does not say of which of 2 videos"):
        read(tmp_path / "t.txt", text, "a.mp4", "b.mp4")


def test_a_folder_has_files_called_as_the_videos(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    read(folder / "a.txt", "1,1,1,1,5,5\n")
    read(folder / "c2" / "b.tracks.csv", "frame,x,y,w,h\n3,1,1,5,5\n")
    read(folder / "more.csv", "video,frame,x,y,w,h\nc1/b.mp4,7,1,1,5,5\n")
    read(folder / "z.csv", "frame,x,y,w,h\n3,1,1,5,5\n")
    (folder / "readme.md").write_text("boxes")
    found = read_tracks(folder, videos=["a.mp4", "c1/b.mp4", "c2/b.mp4"], root=tmp_path)
    frames = {name: boxes.frame.tolist() for name, boxes in found.boxes.items()}
    assert frames == {"a.mp4": [0], "c1/b.mp4": [7], "c2/b.mp4": [3]}
    [(reason, count)] = found.left_out.items()
    assert "'z'" in reason
    assert count == 1


# Something amiss


def test_frames_out_of_order_are_sorted_and_told(tmp_path: Path) -> None:
    text = "frame,track,x,y,w,h\n5,a,1,1,5,5\n3,a,2,1,5,5\n1,b,1,1,5,5\n2,b,1,1,5,5\n"
    found = read(tmp_path / "t.csv", text)
    assert [row[:2] for row in rows(found.boxes["v.mp4"])] == [
        *[(1, "b"), (2, "b"), (3, "a"), (5, "a")]
    ]
    assert found.notes == ("v.mp4: the frames of track a were out of order; they are sorted",)


def test_tracks_one_behind_the_other_are_in_order(tmp_path: Path) -> None:
    text = "frame,track,x,y,w,h\n4,a,1,1,5,5\n5,a,1,1,5,5\n1,b,1,1,5,5\n"
    assert read(tmp_path / "t.csv", text).notes == ()


def test_one_track_twice_in_a_frame(tmp_path: Path) -> None:
    text = "frame,track,x,y,w,h,score\n" + "".join(
        f"{frame},{track},{x},1,5,5,{score}\n"
        for frame, track, x, score in [
            *[(0, "a", 1, 0.5), (0, "a", 2, 0.9), (0, "b", 3, 0.5), (0, "b", 4, 0.5)],
            *[(0, "b", 5, 0.5), (1, "a", 6, 0.1)],
        ]
    )
    boxes = read(tmp_path / "t.csv", text).boxes["v.mp4"]
    assert [(frame, track, box[0]) for frame, track, box in rows(boxes)] == [
        *[(0, "a", 2), (0, "b", 3), (1, "a", 6)]
    ]
    assert [count for _, count in boxes.refused] == [1, 2]
    assert boxes.refused[0][0] == (
        "v.mp4: track a has several boxes in frame 0; the surest, or the first, is used"
    )


def test_two_files_that_claim_one_track(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    read(folder / "v.csv", "frame,track,x,y,w,h\n0,1,1,1,5,5\n2,1,1,1,5,5\n")
    read(folder / "v.txt", "2,1,9,1,5,5\n2,2,9,1,5,5\n")
    boxes = read_tracks(folder, videos=["v.mp4"], root=tmp_path).boxes["v.mp4"]
    assert [row[:2] for row in rows(boxes)] == [(0, "1"), (1, "2"), (2, "1")]
    told = f"v.mp4: track 1 is in {folder / 'v.csv'} and in {folder / 'v.txt'}; the former is used"
    assert boxes.refused == ((told, 1),)


def test_order_is_of_the_file_that_is_used(tmp_path: Path) -> None:
    text = "frame,track,x,y,w,h\n0,1,1,1,5,5\n2,1,1,1,5,5\n"
    read(tmp_path / "t" / "v.csv", text)
    read(tmp_path / "t" / "v.tracks.csv", text)
    assert read_tracks(tmp_path / "t", videos=["v.mp4"], root=tmp_path).notes == ()


def test_one_bad_file_of_a_folder_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    read(folder / "b.csv", "frame,track,x,y,w,h\n0,1,1,1,5,5\n")
    (folder / "a.csv").write_text("frame,track,x,y,w,h\n0,1,1,1,5,5\n1,1,here,1,5,5\n")
    found = read_tracks(folder, videos=["a.mp4", "b.mp4"], root=tmp_path)
    assert len(found.boxes["b.mp4"].frame) == 1
    assert len(found.boxes["a.mp4"].frame) == 0
    assert found.faults == (f"{folder / 'a.csv'}, line 3: x is 'here'; give a finite number",)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file is empty"),
        ("who,where\n1,2\n", "is no header of tracks"),
        ("track,x,y,w,h\n1,1,1,5,5\n", "is no header of tracks"),
        ("frame,x,y,w,h,frame\n0,1,1,5,5,0\n", "has a column twice"),
        ("frame,x,y,w,h\n0,1,1,5\n", "line 2: 4 cells, not 5"),
        ("frame,x,y,w,h\n0,1,nan,5,5\n", "line 2: y is 'nan'; give a finite number"),
        ("frame,x,y,w,h\n-1,1,1,5,5\n", "line 2: frame is -1; give a whole number from 0"),
        ("frame,x,y,w,h\n1.5,1,1,5,5\n", "line 2: frame is 1.5"),
        ("frame,x,y,w,h\n,1,1,5,5\n", "line 2: frame is ''"),
        ("1,1,1,1,5\n", "line 1: 5 columns"),
        ("1,1,1,1,5,5\n2,1,1\n", "line 2: 3 columns, not 6"),
        ("0,1,1,1,5,5\n", "line 1: frame is 0; give a whole number from 1"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(BadSource) as caught:
        read(tmp_path / "t.csv", text)
    assert told in str(caught.value)
    assert str(tmp_path / "t.csv") in str(caught.value)


def test_parquet_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 and nothing")
    with pytest.raises(BadSource, match="cannot be read as Parquet"):
        read_tracks(path, videos=["v.mp4"], root=tmp_path)
    pq.write_table(pa.table({"frame": [0, None]} | {key: [1, 1] for key in "xywh"}), path)
    with pytest.raises(BadSource, match=r"row 2: frame is ''"):
        read_tracks(path, videos=["v.mp4"], root=tmp_path)


def test_a_folder_without_tracks(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="there is no file of tracks in it"):
        read_tracks(tmp_path, videos=["v.mp4"], root=tmp_path)


def test_the_real_file() -> None:
    path = DATA / "one-by-one-person-detection.tracks.csv"
    if not path.exists():
        pytest.skip("the research data are not at ../shared")
    found = read_tracks(path, videos=["one-by-one-person-detection.mp4"], root=DATA)
    [boxes] = found.boxes.values()
    assert (len(boxes.frame), len(set(boxes.track)), found.left_out) == (503, 6, {})
    assert set(boxes.camera) == {1}
