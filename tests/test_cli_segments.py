"""Galleries of segments from the command line: built, added to, inspected, and refused."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from cli_world import assert_refused, real, run, stripes_of, succeed
from PIL import Image
from video_world import write_boxes, write_video

import extractors.harvest
import extractors.resegmenting
import extractors.segmenting
from extractors.rebuilding import located, with_pictures
from extractors.resegmenting import COLUMNS, listed_frames
from extractors.stripes import StripesExtractor
from reid_index import Gallery
from reid_index.upkeep.rebuild import read_crops

STRIPES = ("--extractor", "stripes")


@pytest.fixture
def footage(tmp_path):
    """A video of 30 frames, v.mp4, and the boxes of two figures in its first 20, v.csv."""
    folder = tmp_path / "footage"
    folder.mkdir()
    write_video(folder / "v.mp4")
    write_boxes(tmp_path / "v.csv", frames=range(20), video="v.mp4")
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "g"


def rows_of(out):
    with Gallery.open(out) as gallery:
        return gallery.items.to_pylist()


def vectors_of(out):
    with Gallery.open(out) as gallery:
        return gallery.vectors(range(len(gallery)))


def draw_track(folder, *, frames, seed):
    """Pictures f0003.png, … of noise, as the frames of one track."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for frame in frames:
        pixels = rng.integers(0, 256, (32, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"f{frame:04d}.png")


def numbers_of(row):
    return [int(text.partition("@")[0]) for text in row["frames"]]


def test_a_video_with_tracks(footage, out, tmp_path):
    told = succeed("build", footage, "--tracks", tmp_path / "v.csv", "--out", out, *STRIPES)
    assert "8 segments of 40 frames in 2 tracks\n" in told.stderr
    rows = rows_of(out)
    for track in "ab":
        mine = [row for row in rows if row["track"] == track]
        assert [numbers_of(row) for row in mine] == [
            list(range(first, first + 8)) for first in (0, 4, 8, 12)
        ]
    row = rows[1]
    assert (row["source"], row["video"], row["track"]) == ("v.mp4", "v.mp4", "a")
    assert (row["frame_first"], row["frame_last"]) == (4, 11)
    assert (row["start_s"], row["end_s"]) == (0.4, 1.1)
    assert row["frames"][0] == "4@0.4:8,4,16,28"
    assert row["box"] == [16, 4, 16, 28]
    with Gallery.open(out) as gallery:
        assert gallery.manifest.recipe["segments"] == {"length": 8, "stride": 4}
        root = gallery.manifest.shards[0].folder
    assert json.loads((out / root / "shard.json").read_bytes())["root"] == str(footage)


def test_vectors_are_means_of_the_crops(footage, out, tmp_path):
    folder = tmp_path / "tracks" / "t"
    draw_track(folder, frames=(3, 1, 2), seed=1)
    draw_track(tmp_path / "tracks" / "u", frames=(1,), seed=2)
    layout = ("--layout", "tracklets", "--segment", 2, "--stride", 1)
    told = succeed("build", tmp_path / "tracks", *layout, "--out", out, *STRIPES)
    assert "3 segments of 4 frames in 2 tracks; 1 track of one frame only\n" in told.stderr
    pixels = [np.asarray(Image.open(folder / f"f000{frame}.png")) for frame in (1, 2, 3)]
    unit = stripes_of(*pixels)
    means = np.array([unit[:2].mean(axis=0), unit[1:].mean(axis=0)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert vectors_of(out)[:2] == pytest.approx(means, abs=1e-6)
    rows = rows_of(out)
    assert [row["frames"] for row in rows] == [
        ["t/f0001.png", "t/f0002.png"],
        ["t/f0002.png", "t/f0003.png"],
        ["u/f0001.png"],
    ]
    assert [row["source"] for row in rows] == ["t/f0002.png", "t/f0003.png", "u/f0001.png"]
    assert {row["video"] for row in rows} == {None}


def test_a_list_with_tracks(out, tmp_path):
    draw_track(tmp_path / "p", frames=range(5), seed=1)
    lines = [f"p/f000{frame}.png,{'x' if frame < 3 else ''},{9 - frame}" for frame in range(5)]
    (tmp_path / "list.csv").write_text("\n".join(["file,track,frame_first", *lines]) + "\n")
    named = ("--segment", 8, "--out", out, *STRIPES)
    told = succeed("build", tmp_path / "list.csv", *named)
    assert "3 segments of 5 frames in 1 track; 2 frames without a track, each by itself" in (
        told.stderr
    )
    assert "frames of 1 track came out of order and were sorted" in told.stderr
    assert [row["frames"] for row in rows_of(out)] == [
        ["p/f0002.png", "p/f0001.png", "p/f0000.png"],
        ["p/f0003.png"],
        ["p/f0004.png"],
    ]


def test_a_whole_video(footage, out, tmp_path):
    videos = tmp_path / "videos.csv"
    videos.write_text("video,camera,start\nv.mp4,7,2024-05-01T12:00:00\n")
    named = ("--whole", "--videos", videos, "--segment", 12, "--stride", 12)
    succeed("build", footage / "v.mp4", *named, "--out", out, *STRIPES)
    rows = rows_of(out)
    assert [numbers_of(row) for row in rows] == [
        list(range(first, first + 12)) for first in (0, 12, 18)
    ]
    assert {(row["track"], row["camera"], row["box"]) for row in rows} == {("whole", 7, None)}
    assert rows[1]["start"].isoformat() == "2024-05-01T12:00:01.200000+00:00"
    assert rows[1]["frames"][0] == "12@1.2"


def test_one_bad_video_among_others(footage, out, tmp_path):
    (footage / "w.mp4").write_bytes(b"no video")
    cut_off = (footage / "v.mp4").read_bytes()
    (footage / "x.mp4").write_bytes(cut_off[: len(cut_off) // 2])
    (footage / "y.mp4").write_bytes(b"")
    told = succeed("build", footage, "--whole", "--out", out, *STRIPES)
    for name in ("w.mp4", "x.mp4", "y.mp4"):
        (line,) = [line for line in told.stderr.splitlines() if name in line]
        assert line.startswith("skipped: ")
    assert {row["video"] for row in rows_of(out)} == {"v.mp4"}
    refused = run("build", footage, "--whole", "--strict", "--out", tmp_path / "h", *STRIPES)
    assert (refused.exit_code, "w.mp4" in refused.stderr) == (1, True)


def test_nobody_in_any_video(footage, out, tmp_path):
    nobody = tmp_path / "nobody.csv"
    nobody.write_text("video,track,frame,x,y,w,h\n")
    refused = run("build", footage, "--tracks", nobody, "--out", out, *STRIPES)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "there is nobody in its videos" in refused.stderr
    nobody.write_text("video,track,frame,x,y,w,h\nv.mp4,1,99,0,0,5,5\nv.mp4,1,2,0,0,0,5\n")
    refused = run("build", footage, "--tracks", nobody, "--out", out, *STRIPES)
    assert refused.exit_code == 1
    assert "frame 99" in refused.stderr
    assert "can be cut from its videos" in refused.stderr
    assert not out.exists()
    assert not out.with_name("g.building").exists()


@pytest.mark.parametrize(
    ("named", "text"),
    [
        ((), "--whole, which takes each as one candidate"),
        (("--whole", "--tracks", "v.csv"), "--detector, --tracks and --whole clash"),
        (("--whole", "--layout", "market"), "--layout means nothing when building from videos"),
        (("--whole", "--segment", 4, "--stride", 5), "frames between them would be lost"),
        (("--whole", "--items", "x.csv"), "--items means nothing when building from videos"),
    ],
)
def test_wrong_usage_with_videos(footage, out, named, text):
    assert_refused(run("build", footage / "v.mp4", *named, "--out", out), code=2, text=text)


def test_a_folder_of_videos_that_nobody_says_are_meant(footage, out):
    told = run("build", footage, "--out", out, *STRIPES)
    assert (told.exit_code, told.stdout) == (1, "")
    assert "there are no pictures in it, but videos: say who is in them, by --tracks" in told.stderr


def test_options_of_videos_mean_nothing_elsewhere(footage, out, tmp_path):
    draw_track(tmp_path / "p", frames=(1,), seed=1)
    picture = tmp_path / "p" / "f0001.png"
    text = "--whole means nothing when building from pictures"
    assert_refused(run("build", picture, "--whole", "--out", out), code=2, text=text)
    mixed = run("build", footage / "v.mp4", picture, "--whole", "--out", out)
    assert_refused(mixed, code=2, text="videos and other sources do not mix in one build")


def test_an_interrupted_build_goes_on(footage, out, tmp_path, monkeypatch):
    named = ("build", footage, "--tracks", tmp_path / "v.csv", *STRIPES, "--out")
    succeed(*named, tmp_path / "straight")
    with monkeypatch.context() as patch:
        pace = functools.partial(extractors.harvest.Pace, part_rows=8)
        patch.setattr(extractors.harvest, "Pace", pace)
        write, calls = extractors.segmenting.write_shard, []

        def fail(*arguments, **options):
            calls.append(1)
            write(*arguments, **options)
            raise KeyboardInterrupt

        patch.setattr(extractors.segmenting, "write_shard", fail)
        assert run(*named, out).exit_code != 0
    assert calls
    assert not out.exists()
    left = out.with_name("g.building")
    assert not (left / "segments").exists()
    assert len(list(left.glob("parts/part-*"))) > 1
    told = succeed(*named, out)
    assert "40 crops were there from an earlier run" in told.stderr
    assert not left.exists()
    assert rows_of(out) == rows_of(tmp_path / "straight")
    assert (vectors_of(out) == vectors_of(tmp_path / "straight")).all()


def test_a_build_of_crops_does_not_go_on_as_one_of_segments(out, tmp_path, monkeypatch):
    draw_track(tmp_path / "p", frames=range(3), seed=1)
    named = ("build", tmp_path / "p", "--layout", "tracklets", "--out", out, *STRIPES)
    with monkeypatch.context() as patch:

        def fail(*_arguments):
            raise KeyboardInterrupt

        patch.setattr(Gallery, "add_shards", fail)
        assert run(*named).exit_code != 0
    refused = run(*named, "--segment", 8)
    assert refused.exit_code == 2
    assert "holds an unfinished run with another metric, of_frames" in refused.stderr


# reid add


def test_added_again_is_left_out(footage, out, tmp_path):
    boxes = tmp_path / "v.csv"
    succeed("build", footage, "--tracks", boxes, "--out", out, *STRIPES)
    told = succeed("add", out, footage, "--tracks", boxes)
    assert "left out 40: in the gallery already" in told.stderr
    assert "there is nothing new to add" in told.stderr
    write_video(footage / "w.mp4")
    text = boxes.read_text()
    new = [line.replace("v.mp4", "w.mp4") for line in text.splitlines()[1:]]
    new += ["v.mp4,c,3,1,2,10,20", "v.mp4,c,4,1,2,10,20"]
    boxes.write_text(text + "\n".join(new) + "\n")
    linked = tmp_path / "linked"
    linked.symlink_to(footage)
    told = succeed("add", out, linked, "--tracks", boxes)
    assert "left out 40: in the gallery already" in told.stderr
    assert f"{out}: 9 items added, 17 in all" in told.stderr
    tracks = [(row["video"], row["track"]) for row in rows_of(out)]
    assert [tracks.count(one) for one in dict.fromkeys(tracks)] == [4, 4, 1, 4, 4]
    again = succeed("add", out, footage, "--tracks", boxes, "--again")
    assert "17 items added, 34 in all" in again.stderr


def test_whole_videos_added_again_are_not_even_decoded(footage, out):
    succeed("build", footage, "--whole", "--out", out, *STRIPES)
    write_video(footage / "w.mp4", frames=9)
    told = succeed("add", out, footage, "--whole")
    assert "left out 30: in the gallery already" in told.stderr
    assert "2 items added" in told.stderr
    assert {row["video"] for row in rows_of(out)} == {"v.mp4", "w.mp4"}


def test_boxes_without_a_track_added_again_are_left_out(footage, out, tmp_path):
    boxes = tmp_path / "loose.csv"
    boxes.write_text("track,frame,x,y,w,h\n,1,0.1,4,16,28\n,2,4,4,16,28\n")
    succeed("build", footage, "--tracks", boxes, "--out", out, *STRIPES)
    boxes.write_text(boxes.read_text() + ",2,5,4,16,28\n")
    told = succeed("add", out, footage, "--tracks", boxes)
    assert "left out 2: in the gallery already" in told.stderr
    assert "1 item added, 3 in all" in told.stderr


def test_two_days_with_the_same_names_are_different_videos(footage, out, tmp_path):
    """One day's track 1 of cam1/v.mp4 is not the next day's."""
    later = tmp_path / "later"
    shutil.copytree(footage, later)
    for day in (footage, later):
        doing = ("build", day, "--out", out, *STRIPES) if day is footage else ("add", out, day)
        succeed(*doing, "--tracks", tmp_path / "v.csv")
    facts = json.loads(succeed("inspect", out, "--format", "json").stdout)["segments"]
    assert (facts["candidates"], facts["videos"]) == (4, 2)
    assert facts["hours"] == pytest.approx(2 * 1.9 / 3600)
    told = succeed("query", out, "--item", 1, "--format", "csv").stdout
    assert {line.split(",")[5] for line in told.splitlines()[1:]} == {"v.mp4"}
    assert len(told.splitlines()) == 1 + 4


def test_tracklets_are_cut_by_the_gallerys_recipe(out, tmp_path):
    tracks = tmp_path / "tracks"
    draw_track(tracks / "t", frames=range(6), seed=1)
    layout = ("--layout", "tracklets")
    succeed("build", tracks, *layout, "--segment", 3, "--stride", 3, "--out", out, *STRIPES)
    draw_track(tracks / "u", frames=range(4), seed=2)
    told = succeed("add", out, tracks, *layout)
    assert "left out 6: in the gallery already" in told.stderr
    assert "2 items added, 4 in all" in told.stderr
    assert [len(row["frames"]) for row in rows_of(out)] == [3, 3, 3, 3]


def test_a_gallery_of_crops_takes_no_videos(footage, out, tmp_path):
    draw_track(tmp_path / "p", frames=(1,), seed=1)
    succeed("build", tmp_path / "p", "--out", out, *STRIPES)
    refused = run("add", out, footage / "v.mp4", "--whole")
    assert_refused(refused, code=2, text="is a gallery of crops, and videos are cut into segments")


def test_an_erased_track_of_a_video_stays_out(footage, out, tmp_path):
    boxes, receipt = tmp_path / "v.csv", tmp_path / "receipt.json"
    succeed("build", footage, "--tracks", boxes, "--out", out, *STRIPES)
    succeed("delete", out, "--where", "track = 'a'", "--receipt", receipt)
    succeed("compact", out)
    succeed("verify", out, "--erased", receipt)
    told = succeed("add", out, footage, "--tracks", boxes, "--except-erased", receipt)
    assert "left out 20: erased, as a receipt says" in told.stderr
    assert "left out 20: in the gallery already" in told.stderr
    assert "there is nothing new to add" in told.stderr
    # Every frame of the track, whatever it is called now; the other one can come again.
    boxes.write_text(boxes.read_text().replace("v.mp4,a", "v.mp4,z"))
    told = succeed("add", out, footage, "--tracks", boxes, "--except-erased", receipt, "--again")
    assert "left out 20: erased, as a receipt says" in told.stderr
    assert {row["track"] for row in rows_of(out)} == {"b"}


def test_frames_that_a_staying_segment_has_are_not_erased(out, tmp_path):
    tracks, receipt = tmp_path / "tracks", tmp_path / "receipt.json"
    draw_track(tracks / "t", frames=range(6), seed=1)
    layout = ("--layout", "tracklets")
    succeed("build", tracks, *layout, "--segment", 4, "--stride", 2, "--out", out, *STRIPES)
    assert [row["source"] for row in rows_of(out)] == ["t/f0002.png", "t/f0004.png"]
    succeed("delete", out, "--item", 0, "--receipt", receipt)
    told = succeed("add", out, tracks, *layout, "--except-erased", receipt)
    # Two that no other segment has, and the source of the one that went.
    assert "left out 3: erased, as a receipt says" in told.stderr
    assert "left out 3: in the gallery already" in told.stderr


# What is known of it


def test_inspect(footage, out, tmp_path):
    succeed("build", footage, "--tracks", tmp_path / "v.csv", "--out", out, *STRIPES)
    table = succeed("inspect", out).stdout
    line = "of 8 frames, every 4; of 2 candidates in 1 video, 0.00 hours"
    assert line in table
    facts = json.loads(succeed("inspect", out, "--format", "json").stdout)
    expected = {"length": 8, "stride": 4, "candidates": 2, "videos": 1}
    assert facts["segments"] == {**expected, "hours": pytest.approx(1.9 / 3600)}
    draw_track(tmp_path / "p", frames=(1,), seed=1)
    succeed("build", tmp_path / "p", "--out", tmp_path / "h", *STRIPES)
    assert "segments" not in succeed("inspect", tmp_path / "h").stdout


# Rebuilt


def rebuilt_as_built(folder, *sources):
    """Build of the sources with another metric, and rebuild to it: the same rows and bytes."""
    first, second = folder / "first", folder / "second"
    succeed("build", *sources, "--out", first, *STRIPES)
    succeed("build", *sources, "--out", second, *STRIPES, *OTHER)
    told = succeed("rebuild", first, *STRIPES, *OTHER)
    assert rows_of(first) == rows_of(second)
    vectors = vectors_of(first)
    np.testing.assert_array_equal(vectors, vectors_of(second))
    with Gallery.open(first) as gallery, Gallery.open(second) as other:
        assert gallery.manifest.recipe == other.manifest.recipe
        assert gallery.manifest.fingerprint == other.manifest.fingerprint
    succeed("verify", first)
    assert not (folder / "first.rebuilding").exists()
    return told


OTHER = ("--metric", "euclidean")


def test_a_video_is_rebuilt_as_if_it_had_been_built_so(footage, tmp_path, monkeypatch):
    embedded = []
    embed = StripesExtractor.embed

    def counted(self, batch):
        embedded.append(len(batch))
        return embed(self, batch)

    monkeypatch.setattr(StripesExtractor, "embed", counted)
    rebuilt_as_built(tmp_path, footage, "--tracks", tmp_path / "v.csv")
    assert sum(embedded) == 3 * 40  # each frame once, though windows overlap


def test_tracklets_and_whole_videos_are_rebuilt(footage, tmp_path):
    draw_track(tmp_path / "t" / "a", frames=range(11), seed=1)
    draw_track(tmp_path / "t" / "b", frames=(4,), seed=2)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    rebuilt_as_built(tmp_path / "one", tmp_path / "t", "--layout", "tracklets", "--segment", 4)
    rebuilt_as_built(tmp_path / "two", footage, "--whole")


def test_segments_without_all_of_their_frames_are_left_out_where_that_is_said(out, tmp_path):
    draw_track(tmp_path / "t" / "a", frames=range(10), seed=1)
    layout = ("--layout", "tracklets", "--segment", 4)
    succeed("build", tmp_path / "t", *layout, "--out", out, *STRIPES)
    before = rows_of(out)
    (tmp_path / "t" / "a" / "f0001.png").unlink()
    refused = run("rebuild", out, *STRIPES, *OTHER)
    assert (refused.exit_code, rows_of(out)) == (1, before)
    assert "no picture of 1 item can be read (0: a/f0002.png)" in refused.stderr
    told = succeed("rebuild", out, *STRIPES, *OTHER, "--drop-missing")
    assert "9 crops were there from an earlier run" in told.stderr
    assert rows_of(out) == before[1:]
    succeed("verify", out)


def test_frames_that_a_video_has_no_more(footage, out, tmp_path):
    succeed("build", footage, "--tracks", tmp_path / "v.csv", "--out", out, *STRIPES)
    write_video(footage / "v.mp4", frames=15)
    told = succeed("rebuild", out, *STRIPES, *OTHER, "--drop-missing")
    assert "frames 15 and later ones are not there: it has 15, from 0 on" in told.stderr
    assert {numbers_of(row)[-1] for row in rows_of(out)} == {7, 11}
    (footage / "v.mp4").write_bytes(b"no video")
    refused = run("rebuild", out, *STRIPES, "--metric", "cosine", "--drop-missing")
    assert refused.exit_code == 1
    assert "not a video that can be read" in refused.stderr
    assert "not one of the pictures of its 4 items can be read" in refused.stderr


def test_frames_that_say_nothing_are_as_pictures_that_are_not_there(out, tmp_path):
    draw_track(tmp_path / "t" / "a", frames=range(6), seed=1)
    succeed(
        "build", tmp_path / "t", "--segment", 4, "--layout", "tracklets", "--out", out, *STRIPES
    )
    crops = read_crops(out, COLUMNS)
    listed = listed_frames(crops)
    assert listed.frames.num_rows == 6
    assert np.diff(listed.offsets).tolist() == [4, 4]
    wrong = crops.set_column(
        crops.column_names.index("frames"),
        "frames",
        pa.array([["", None], None], crops["frames"].type),
    )
    listed = listed_frames(wrong)
    assert listed.whole(listed.numbers[2:]).tolist() == [False, True]
    assert sorted(with_pictures(located(listed.frames, {}))["source"].to_pylist()) == [
        "a/f0004.png"
    ]


def test_frames_of_one_number_are_not_taken_for_each_other(out, tmp_path, monkeypatch):
    draw_track(tmp_path / "t" / "a", frames=range(6), seed=1)
    succeed(
        "build", tmp_path / "t", "--segment", 4, "--layout", "tracklets", "--out", out, *STRIPES
    )
    monkeypatch.setattr(extractors.resegmenting, "_number", lambda text: len(text))
    refused = run("rebuild", out, *STRIPES, *OTHER)
    assert_refused(refused, code=1, text="two frames of the gallery happen to have the same number")
    assert len(rows_of(out)) == 2


def test_a_root_can_move(footage, out, tmp_path):
    succeed("build", footage, "--tracks", tmp_path / "v.csv", "--out", out, *STRIPES)
    moved = tmp_path / "elsewhere"
    shutil.move(footage, moved)
    succeed("rebuild", out, *STRIPES, "--root", moved)
    told = succeed("add", out, moved, "--tracks", tmp_path / "v.csv")
    assert "left out 40: in the gallery already" in told.stderr
    again = tmp_path / "again"
    shutil.move(moved, again)
    succeed("rebuild", out, *STRIPES, *OTHER, "--root", again)
    assert len(rows_of(out)) == 8


# Real videos


def test_all_boxes_of_a_real_video_are_in_segments(out):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    video = real("video", "one-by-one-person-detection.mp4")
    model = real("models", "person-reidentification-retail-0286.xml")
    named = ("--extractor", "openvino", "--weights", model)
    succeed("build", video, "--tracks", video.with_suffix(".tracks.csv"), *named, "--out", out)
    rows = rows_of(out)
    assert len({(row["track"], text) for row in rows for text in row["frames"]}) == 503
    assert len({row["track"] for row in rows}) == 6


def test_a_detector_finds_the_people_first(out, tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    pytest.importorskip("trackers", reason="trackers is not installed (the extra video)")
    detector = real("models", "person-detection-retail-0013.xml")
    video = clip(real("video", "one-by-one-person-detection.mp4"), tmp_path / "clip.mp4")
    named = ("build", video, "--detector", detector, *STRIPES, "--out")
    told = succeed(*named, out)
    boxes = tmp_path / "g.tracks.csv"
    assert f"{boxes} has the boxes" in told.stderr
    assert len(rows_of(out)) > 0
    succeed("build", video, "--tracks", boxes, *STRIPES, "--out", tmp_path / "h")
    assert rows_of(tmp_path / "h") == rows_of(out)
    shutil.rmtree(out)
    refused = run(*named, out)
    assert_refused(refused, code=1, text="is there already: use it by --tracks")


def clip(video: Path, out: Path) -> Path:
    """Five seconds of a video in which somebody walks."""
    import av

    with av.open(str(video)) as source, av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height = 384, 216
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate(source.decode(video=0)):
            if 64 <= number < 114:
                container.mux(stream.encode(frame.reformat(384, 216, "yuv420p")))
        container.mux(stream.encode())
    return out
