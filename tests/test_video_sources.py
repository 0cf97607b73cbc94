"""The people in videos as pictures: tracked or whole, walked, embedded, gone on with."""

import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_harvest import MeanColour, items, run, vectors
from video_world import BLUE, HEIGHT, RED, WIDTH, box_of, draw, write_boxes, write_video

from extractors import harvest as harvesting
from extractors.pictures import Picture, Source
from extractors.video.sources import find_videos, is_video
from reid_index.errors import BadSource, UnreadableImage, UsageError


def find(*paths: Path, **options: Any) -> Source:
    return find_videos(list(paths), **{"tracks": None, "whole": False, "videos": None} | options)


def people(source: Source) -> list[dict[str, Any]]:
    return [dict(person.columns) for picture in source.pictures() for person in picture.people]


def faults(source: Source) -> list[tuple[str, int]]:
    found = []
    for picture in source.pictures():
        if picture.frame is None:
            assert picture.image is not None
            with pytest.raises(UnreadableImage) as caught:
                picture.image()
            found.append((str(caught.value), len(picture.people)))
    return found


def test_what_is_a_video() -> None:
    assert all(is_video(Path(name)) for name in ("a.mp4", "b/c.MKV", "d.webm"))
    assert not any(is_video(Path(name)) for name in ("a.jpg", "mp4", "a.csv", "a.mp4.part"))


def test_people_of_tracks(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4")
    source = find(video, tracks=write_boxes(tmp_path / "t.csv", frames=[3, 4, 20]))
    assert (source.root, source.count, source.left_out, source.notes) == (tmp_path, 6, {}, ())
    pictures = list(source.pictures())
    assert [picture.frame for picture in pictures] == [3, 4, 20]
    assert {picture.source for picture in pictures} == {"v.mp4"}
    assert [person.box for person in pictures[2].people] == [box_of(0, 20), box_of(1, 20)]
    columns = people(source)
    assert [one["track"] for one in columns] == ["a", "b"] * 3
    assert [one["frame_first"] for one in columns] == [3, 3, 4, 4, 20, 20]
    assert columns[0] == {
        **{"video": "v.mp4", "track": "a", "person": None, "camera": None},
        **{"frame_first": 3, "frame_last": 3, "start_s": 0.3, "end_s": 0.3},
        **{"start": None, "end": None},
    }


def test_only_the_asked_frames_become_pixels(tmp_path: Path, monkeypatch: Any) -> None:
    made = []
    from extractors.video.decode import Frame

    image = Frame.image
    monkeypatch.setattr(Frame, "image", lambda self: made.append(self.number) or image(self))
    video = write_video(tmp_path / "v.mp4")
    source = find(video, tracks=write_boxes(tmp_path / "t.csv", frames=[3, 20]))
    taken = run(source, MeanColour(), tmp_path / "out")
    assert (taken.rows, sorted(made)) == (4, [3, 20])


def test_crops_are_what_is_in_the_boxes(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4")
    source = find(video, tracks=write_boxes(tmp_path / "t.csv", frames=range(30)))
    taken = run(source, MeanColour(), tmp_path / "out")
    np.testing.assert_allclose(vectors(taken), [RED, BLUE] * 30, atol=8)
    assert items(taken, "source") == ["v.mp4"] * 60
    assert items(taken, "box")[2] == list(box_of(0, 1))
    assert items(taken, "start_s")[-1] == pytest.approx(2.9)


def test_a_rotated_video_has_its_boxes_upright(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", rotation=-90)
    x, y, width, height = box_of(0, 5)
    boxes = tmp_path / "t.csv"
    boxes.write_text(f"frame,x,y,w,h\n5,{HEIGHT - y - height},{x},{height},{width}\n")
    taken = run(find(video, tracks=boxes), MeanColour(), tmp_path / "out")
    np.testing.assert_allclose(vectors(taken), [RED], atol=8)


def test_a_whole_video_is_one_track(tmp_path: Path) -> None:
    source = find(write_video(tmp_path / "v.mp4"), whole=True)
    assert source.count == 30
    columns = people(source)
    assert {one["track"] for one in columns} == {"whole"}
    assert [one["frame_first"] for one in columns] == list(range(30))
    taken = run(source, MeanColour(), tmp_path / "out")
    expected = [draw(number).mean(axis=(0, 1)) for number in range(30)]
    np.testing.assert_allclose(vectors(taken), expected, atol=3)
    assert set(items(taken, "box")) == {None}


def test_every_so_manieth(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4")
    whole = find(video, whole=True, every=7)
    assert whole.count == 5
    assert [one["frame_first"] for one in people(whole)] == [0, 7, 14, 21, 28]
    tracked = find(video, tracks=write_boxes(tmp_path / "t.csv", frames=[2, 3, 9]), every=2)
    assert [one["frame_first"] for one in people(tracked)] == [2, 2, 9, 9]


def test_folders_of_videos(tmp_path: Path) -> None:
    for name in ("in/c1/a.mp4", "in/c2/a.mp4", "in/.hidden/a.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        write_video(tmp_path / name, frames=2)
    (tmp_path / "in" / "readme.txt").write_text("two videos")
    source = find(tmp_path / "in", whole=True)
    found = [(one["video"], one["camera"]) for one in people(source)]
    assert found == [("c1/a.mp4", 1)] * 2 + [("c2/a.mp4", 2)] * 2


# Cameras and times


@pytest.mark.parametrize(
    ("name", "camera", "start"),
    [
        ("c3_0001.mp4", 3, None),
        ("cam12.mp4", 12, None),
        ("hall-Camera-04-east.mp4", 4, None),
        ("pic3.mp4", None, None),
        ("c3s1.mp4", None, None),
        ("20240501T120003.mp4", None, datetime(2024, 5, 1, 12, 0, 3)),
        ("cam1_2024-05-01_12-00-03.mp4", 1, datetime(2024, 5, 1, 12, 0, 3)),
        ("20241301T120000.mp4", None, None),
        ("120240501T120003.mp4", None, None),
    ],
)
def test_names_tell_cameras_and_times(
    tmp_path: Path, name: str, camera: int | None, start: datetime | None
) -> None:
    one, two = people(find(write_video(tmp_path / name, frames=2), whole=True))
    assert one["camera"] == camera
    begin = None if start is None else start.replace(tzinfo=UTC)
    assert one["start"] == one["end"] == begin
    assert two["start"] == (None if begin is None else begin + timedelta(seconds=0.1))


def test_lists_go_before_names_and_names_before_metadata(tmp_path: Path) -> None:
    made = {"creation_time": "2020-01-01T00:00:00.000000Z"}
    for name in ("c1_20240501T120000", "c2_20240501T120000", "c3", "d"):
        write_video(tmp_path / f"{name}.mp4", frames=1, metadata=made)
    listed = tmp_path / "videos.csv"
    listed.write_text(
        "video,camera,start\nc1_20240501T120000.mp4,9,2022-02-02T02:00:00Z\n"
        "c2_20240501T120000,,2023-02-02T02:00:00+01:00\nc3.mp4,8,\nnobody.mp4,1,\n"
    )
    source = find(tmp_path, whole=True, videos=listed)
    assert [(one["camera"], one["start"]) for one in people(source)] == [
        (9, datetime(2022, 2, 2, 2, tzinfo=UTC)),
        (2, datetime(2023, 2, 2, 1, tzinfo=UTC)),
        (8, datetime(2020, 1, 1, tzinfo=UTC)),
        (None, datetime(2020, 1, 1, tzinfo=UTC)),
    ]
    assert source.notes == (f"{listed}: 'nobody.mp4' means none of the videos, or several",)


def test_a_boxs_own_camera_goes_before_its_videos(tmp_path: Path) -> None:
    video = write_video(tmp_path / "c1.mp4")
    boxes = tmp_path / "t.csv"
    boxes.write_text("frame,cam,x,y,w,h\n0,7,1,1,5,5\n1,,1,1,5,5\n")
    assert [one["camera"] for one in people(find(video, tracks=boxes))] == [7, 1]


def test_a_video_listed_twice(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", frames=1)
    (tmp_path / "l.csv").write_text("video,camera\nv.mp4,1\nv,2\n")
    with pytest.raises(BadSource, match="is in it twice"):
        find(video, whole=True, videos=tmp_path / "l.csv")


# Something amiss


def test_boxes_of_frames_that_are_not_there(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", frames=10)
    source = find(video, tracks=write_boxes(tmp_path / "t.csv", frames=[8, 9, 10, 30]))
    assert [picture.frame for picture in source.pictures()] == [8, 9, None]
    told = f"{video}: 4 boxes are of frame 10 or later, but it has 10 frames, from 0 on"
    assert faults(source) == [(told, 4)]
    skipped: list[str] = []
    taken = run(source, MeanColour(), tmp_path / "out", on_skip=lambda e: skipped.append(str(e)))
    assert (taken.rows, taken.skipped, skipped) == (4, 4, [told])


def test_boxes_outside_and_of_no_area(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", frames=3)
    boxes = tmp_path / "t.csv"
    rows = ["-5,-5,15,15", f"{WIDTH + 1},5,9,9", "5,5,0,9", "5,5,9,-1", "90,60,99,99"]
    text = "".join(f"1,{track},{row}\n" for track, row in enumerate(rows))
    boxes.write_text("frame,track,x,y,w,h\n" + text)
    skipped: list[str] = []
    taken = run(
        find(video, tracks=boxes),
        MeanColour(),
        tmp_path / "out",
        on_skip=lambda error: skipped.append(str(error)),
    )
    assert items(taken, "track") == ["0", "4"]
    assert len(skipped) == taken.skipped == 3
    assert all(one.startswith(f"{video}, frame 1: box (") for one in skipped)
    assert "covers no pixel of the 96×64 picture" in skipped[0]
    assert all("has no area" in one for one in skipped[1:])


def test_one_bad_video_among_others(tmp_path: Path) -> None:
    for name in ("a.mp4", "c.mp4"):
        write_video(tmp_path / name, frames=2)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    for options, lost in (({"whole": True}, 1), ({"tracks": tmp_path / "t"}, 3)):
        (tmp_path / "t").mkdir(exist_ok=True)
        for name in "abc":
            write_boxes(tmp_path / "t" / f"{name}.csv", frames=[0, 1, 1][:2], figures=1)
        (tmp_path / "t" / "b.csv").write_text("frame,x,y,w,h\n" + "0,1,1,5,5\n" * 3)
        source = find(tmp_path, **options)
        [(told, count)] = faults(source)
        assert "b.mp4: not a video that can be read" in told
        assert count == lost
        out = tmp_path / f"out{lost}"
        taken = run(source, MeanColour(), out)
        assert (items(taken, "video"), taken.skipped) == (["a.mp4"] * 2 + ["c.mp4"] * 2, lost)
        with pytest.raises(UnreadableImage, match=r"b\.mp4: not a video"):
            run(source, MeanColour(), tmp_path / f"strict{lost}", strict=True)


def test_a_cut_video_is_used_as_far_as_it_goes_and_told(tmp_path: Path) -> None:
    faststart = {"movflags": "faststart"}
    video = write_video(tmp_path / "v.mp4", frames=60, container_options=faststart)
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    skipped: list[str] = []
    taken = run(
        find(video, whole=True),
        MeanColour(),
        tmp_path / "out",
        on_skip=lambda error: skipped.append(str(error)),
    )
    assert 5 < taken.rows < 55
    assert taken.skipped == 0
    assert len(skipped) == 1
    assert "cut off or damaged" in skipped[0]


def test_damage_before_the_last_box_is_told(tmp_path: Path) -> None:
    """Frames that are lost shift the numbers of all that follow."""
    faststart = {"movflags": "faststart"}
    video = write_video(tmp_path / "v.mp4", frames=60, container_options=faststart)
    data = bytearray(video.read_bytes())
    middle = (data.index(b"mdat") + len(data)) // 2
    data[middle : middle + 600] = b"\xff" * 600
    video.write_bytes(data)
    boxes = write_boxes(tmp_path / "t.csv", frames=range(45))
    [(told, count)] = faults(find(video, tracks=boxes))
    assert "cut off or damaged: 45 frames could be decoded, with damage in " in told
    assert "boxes behind the damage may be of other frames" in told
    assert count == 0
    write_boxes(boxes, frames=range(5))
    assert faults(find(video, tracks=boxes)) == []


def test_doubles_are_told_and_counted(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", frames=3)
    boxes = tmp_path / "t.csv"
    boxes.write_text("frame,track,x,y,w,h\n0,a,1,1,5,5\n0,a,1,1,5,5\n1,a,1,1,5,5\n")
    source = find(video, tracks=boxes)
    assert source.count == 3
    [(told, count)] = faults(source)
    assert "track a has several boxes in frame 0" in told
    assert count == 1


def test_a_bad_file_of_tracks_is_told_where_it_is_walked(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames=3)
    (tmp_path / "t").mkdir()
    write_boxes(tmp_path / "t" / "a.csv", frames=[0])
    (tmp_path / "t" / "b.csv").write_text("what is this")
    source = find(tmp_path / "a.mp4", tracks=tmp_path / "t")
    [(told, count)] = faults(source)
    assert "is no header of tracks" in told
    assert (count, source.count) == (0, 2)


def test_what_is_refused(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", frames=1)
    with pytest.raises(UsageError, match="from tracks, or each whole video"):
        find(video)
    with pytest.raises(UsageError, match="from tracks, or each whole video"):
        find(video, whole=True, tracks=write_boxes(tmp_path / "t.csv", frames=[0]))
    with pytest.raises(UsageError, match="every is 0"):
        find(video, whole=True, every=0)
    with pytest.raises(BadSource, match="there is no such file or folder"):
        find(tmp_path / "w.mp4", whole=True)
    with pytest.raises(BadSource, match="no video by its name"):
        find(tmp_path / "t.csv", whole=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadSource, match="there are no videos"):
        find(tmp_path / "empty", whole=True)


# Runs that go on


def test_a_run_goes_on_in_the_middle_of_a_video(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4")
    source = find(video, tracks=write_boxes(tmp_path / "t.csv", frames=range(30)))
    once = run(source, MeanColour(), tmp_path / "once")
    stopped = MeanColour(stop_at=35, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(source, stopped, tmp_path / "out")
    again = MeanColour()
    taken = run(source, again, tmp_path / "out")
    assert 0 < taken.resumed == 60 - sum(again.batches)
    assert vectors(taken) == vectors(once)
    for name in ("track", "frame_first", "start_s", "box"):
        assert items(taken, name) == items(once, name)


def test_parts_of_a_video_that_has_changed_are_done_again(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4")
    boxes = write_boxes(tmp_path / "t.csv", frames=range(30))
    run(find(video, tracks=boxes), MeanColour(), tmp_path / "out")
    again = run(find(video, tracks=boxes), MeanColour(), tmp_path / "out")
    assert again.resumed == 60
    write_video(video, options={"crf": "9"})
    changed = run(find(video, tracks=boxes), MeanColour(), tmp_path / "out")
    assert changed.resumed == 0


def test_frames_are_told_apart_where_nothing_else_differs(tmp_path: Path) -> None:
    """Of two frames with equal people the identity differs by the number alone."""
    from extractors.journal import identity

    video = write_video(tmp_path / "v.mp4", frames=2)
    one, two = (
        Picture(video, "v.mp4", root=tmp_path, frame=number, image=lambda: draw(0))
        for number in (0, 1)
    )
    assert identity(one) != identity(two)


def test_waiting_frames_are_bounded_by_their_bytes(tmp_path: Path, monkeypatch: Any) -> None:
    """However many crops may wait, frames are decoded no further ahead than their bytes allow."""
    video = write_video(tmp_path / "v.mp4", frames=200, key_every=50)
    frame = 3 * WIDTH * HEIGHT
    monkeypatch.setattr(harvesting, "_HELD", 4 * frame)
    ahead: list[int] = []
    done: list[int] = []
    source = find(video, whole=True)
    assert {picture.held for picture in source.pictures()} == {frame}
    walk = source.pictures

    def watched() -> Any:
        for picture in walk():
            ahead.append(picture.frame - len(done))  # type: ignore[operator]
            yield picture

    prepare = harvesting._prepare
    extractor = MeanColour()

    def counted(picture: Picture, extractor: MeanColour) -> Any:
        prepared = prepare(picture, extractor)
        done.append(1)
        assert prepared.picture.image is None
        return prepared

    monkeypatch.setattr(harvesting, "_prepare", counted)
    source = Source(source.root, source.count, {}, {}, watched)
    run(source, extractor, tmp_path / "out", batch_size=64)
    assert len(ahead) == 200
    assert max(ahead) <= 6


def test_memory_does_not_grow_with_a_video(tmp_path: Path) -> None:
    """What Python holds, walking 100 frames and 1,000."""
    peaks = []
    for frames in (100, 1000):
        video = write_video(tmp_path / f"{frames}.mp4", frames=frames, rate=50, key_every=50)
        source = find(video, whole=True)
        tracemalloc.start()
        for picture in source.pictures():
            assert picture.image is not None
            picture.image()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 100_000
