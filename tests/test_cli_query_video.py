"""`reid query` with videos: targets of every kind, how candidates are scored, and the answers."""

import csv
import io
import json
import math
import re
import shutil
from base64 import b64decode

import numpy as np
import pytest
from cli_world import assert_refused, run, stripes_of, succeed
from films import RATE, halves, write_boxes, write_film
from PIL import Image
from test_sheet import parse

from extractors.video.decode import read_frames
from reid_index import Fingerprint, Gallery
from reid_index.matcher import Matcher
from reid_index.store.frames import SegmentFrames

PEOPLE = [1, 2, 3, 4]
FRAMES = 26
"""13 a half: segments of 8 frames from 0, 4 and, the tail, 5."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A film of 4 drawn people, its boxes' first and second halves, the gallery `g` of the second
    ones, and `crops`, a folder of tracklets of the first ones."""
    folder = tmp_path_factory.mktemp("world")
    boxes = write_film(folder / "film.mp4", PEOPLE, frames=FRAMES)
    first, second = halves(boxes)
    write_boxes(folder / "first.csv", first)
    write_boxes(folder / "second.csv", second)
    build = ["build", "--extractor", "stripes", folder / "film.mp4"]
    succeed(*build, "--tracks", folder / "second.csv", "--out", folder / "g")
    pixels = crops_of(folder, first)
    for box, crop in zip(first, pixels, strict=True):
        name = folder / "crops" / str(box["track"]) / f"{box['frame']:04d}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(crop).save(name)
    return folder


def crops_of(folder, boxes):
    images = {frame.number: frame.image() for frame in read_frames(folder / "film.mp4")}
    return [
        images[box["frame"]][box["y"] : box["y"] + box["h"], box["x"] : box["x"] + box["w"]]
        for box in boxes
    ]


def boxes_of(folder, name):
    with (folder / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {key: value if key == "video" else int(value) for key, value in row.items()} for row in rows
    ]


@pytest.fixture(scope="module")
def vectors(world):
    """Of each half and track: unit vectors of its frames, by the extractor alone."""
    found = {}
    for half in ("first", "second"):
        boxes = boxes_of(world, f"{half}.csv")
        unit = stripes_of(*crops_of(world, boxes))
        for track in PEOPLE:
            found[half, track] = unit[[box["track"] == track for box in boxes]]
    return found


def segments(unit, starts, length):
    means = np.stack([unit[start : start + length].mean(axis=0) for start in starts])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def similarities(vectors, track, starts=(0, 4, 5), length=8):
    """Track of the gallery → all pairs of its segments with those of a target, best first."""
    target = segments(vectors["first", track], starts, length)
    return {
        other: np.sort((target @ segments(vectors["second", other], (0, 4, 5), 8).T).ravel())[::-1]
        for other in PEOPLE
    }


def target(world, track=1):
    return [world / "g", world / "film.mp4", "--tracks", world / "first.csv", "--track", track]


def rows_of(*arguments):
    result = succeed("query", *arguments, "--format", "jsonl")
    return [json.loads(line) for line in result.stdout.splitlines()]


def scores_of(*arguments):
    return {int(row["track"]): row["score"] for row in rows_of(*arguments)}


# Scores


def test_every_first_half_finds_its_second_half(world):
    for track in PEOPLE:
        rows = rows_of(*target(world, track))
        assert [row["rank"] for row in rows] == [1, 2, 3, 4]
        assert rows[0]["track"] == str(track)


@pytest.mark.parametrize(
    ("options", "score"),
    [
        ([], lambda best: best[:2].mean()),
        (["--aggregate", "sum"], lambda best: best[:2].sum()),
        (["--aggregate", "sum", "--proportion", "0.5"], lambda best: best[:5].sum()),
        (["--aggregate", "mean", "--proportion", "1"], lambda best: best.mean()),
        (["--aggregate", "mean", "--proportion", "0.001"], lambda best: best[0]),
    ],
)
def test_scores_are_of_the_best_pairs(world, vectors, options, score):
    found = scores_of(*target(world), *options)
    expected = {track: score(best) for track, best in similarities(vectors, 1).items()}
    assert found == pytest.approx(expected, abs=1e-5)
    assert list(found) == sorted(expected, key=lambda track: -expected[track])


def test_above_sums_all_pairs_that_reach_it_and_leaves_out_who_has_none(world, vectors):
    every = similarities(vectors, 1)
    limit = round(float((every[1].min() + max(every[t].max() for t in (2, 3, 4))) / 2), 6)
    assert every[1].min() > limit
    result = succeed("query", *target(world), "--aggregate", f"above:{limit}", "--format", "jsonl")
    (row,) = map(json.loads, result.stdout.splitlines())
    assert (row["track"], row["pairs"], row["counted"]) == ("1", 9, 9)
    assert row["score"] == pytest.approx(every[1].sum(), abs=1e-5)
    assert f"only 1 candidate: the others have no pair that reaches {limit:g}" in result.stderr


def test_the_target_is_cut_as_it_is_said_else_as_the_gallery(world, vectors):
    found = scores_of(*target(world), *("--segment", 4, "--stride", 3, "--aggregate", "mean"))
    best = similarities(vectors, 1, starts=(0, 3, 6, 9), length=4)
    assert found == pytest.approx({t: best[t][:3].mean() for t in PEOPLE}, abs=1e-5)
    halves_of_it = rows_of(*target(world), "--segment", 4)  # every 2 frames, and the tail
    assert halves_of_it[0]["pairs"] == 6 * 3


# Targets


def test_a_tracklets_pictures_are_the_same_as_its_track(world):
    from_video = scores_of(*target(world, 2))
    from_folder = scores_of(world / "g", world / "crops" / "2")
    assert from_folder == pytest.approx(from_video, abs=1e-6)
    assert scores_of(world / "g", world / "crops", "--track", 2) == from_folder
    lines = ["file", *(f"crops/2/{path.name}" for path in sorted((world / "crops/2").iterdir()))]
    (world / "list.csv").write_text("\n".join(lines))
    assert scores_of(world / "g", world / "list.csv") == pytest.approx(from_video, abs=1e-6)


def test_a_tracklets_pictures_are_in_the_order_of_their_numbers(world, tmp_path):
    for path in (world / "crops" / "1").iterdir():
        shutil.copy(path, tmp_path / f"f{int(path.stem)}.png")  # f10 before f9, by name
    assert scores_of(world / "g", tmp_path) == pytest.approx(scores_of(*target(world)), abs=1e-6)


def test_one_picture_is_a_segment_of_one_frame(world, vectors):
    boxes = boxes_of(world, "first.csv")
    number = [box["track"] for box in boxes].index(3)
    picture = sorted((world / "crops" / "3").iterdir())[0]
    found = scores_of(world / "g", picture, "--aggregate", "mean", "--proportion", "1")
    of_one = vectors["first", 3][:1]
    expected = {
        track: (of_one @ segments(vectors["second", track], (0, 4, 5), 8).T).mean()
        for track in PEOPLE
    }
    assert found == pytest.approx(expected, abs=1e-5)
    assert boxes[number]["frame"] == int(picture.stem)


def test_a_box_says_who_of_a_picture(world):
    box = next(box for box in boxes_of(world, "first.csv") if box["track"] == 4)
    image = next(f for f in read_frames(world / "film.mp4") if f.number == box["frame"]).image()
    Image.fromarray(image).save(world / "frame.png")
    place = ",".join(str(box[side]) for side in "xywh")
    found = scores_of(world / "g", world / "frame.png", "--box", place)
    assert found == pytest.approx(
        scores_of(world / "g", world / "crops" / "4" / f"{box['frame']:04d}.png"), abs=1e-6
    )


def test_an_item_is_its_one_segment(world):
    with Gallery.open(world / "g") as gallery:
        tracks = gallery.items["track"].to_pylist()
    item = tracks.index("3")
    rows = rows_of(world / "g", "--item", item)
    assert (rows[0]["track"], rows[0]["similarity"]) == ("3", pytest.approx(1, abs=1e-6))
    assert (rows[0]["pairs"], rows[0]["counted"]) == (3, 1)
    assert rows[0]["winners"][0]["item"] == item


def test_vectors_are_segments(world, vectors, tmp_path):
    np.save(tmp_path / "v.npy", segments(vectors["first", 2], (0, 4, 5), 8))
    found = scores_of(world / "g", tmp_path / "v.npy")
    assert found == pytest.approx(scores_of(*target(world, 2)), abs=1e-5)
    page = succeed("query", world / "g", tmp_path / "v.npy", "--format", "html").stdout
    assert '<h2 id="query">v.npy</h2>' in page


@pytest.fixture(scope="module")
def of_crops(world):
    """A gallery of the crops of the first halves, not of segments; `camera` is the track."""
    lines = ["file,track,camera,person"]
    for path in sorted((world / "crops").rglob("*.png")):
        track = path.parent.name
        lines.append(f"{path.relative_to(world)},{track},{track},p{track}")
    (world / "crops.csv").write_text("\n".join(lines))
    build = ["build", "--extractor", "stripes", world / "crops.csv"]
    succeed(*build, "--out", world / "of_crops")
    return world / "of_crops"


def test_a_video_is_looked_for_among_crops(world, vectors, of_crops):
    query = [of_crops, world / "film.mp4", "--tracks", world / "second.csv", "--track", 2]
    rows = rows_of(*query, "--aggregate", "mean", "--proportion", 1)
    of_target = segments(vectors["second", 2], (0, 4, 5), 8)
    expected = {track: (of_target @ vectors["first", track].T).mean() for track in PEOPLE}
    assert {int(row["track"]): row["score"] for row in rows} == pytest.approx(expected, abs=1e-5)
    assert (rows[0]["track"], rows[0]["segments"], rows[0]["pairs"]) == ("2", 13, 39)


def test_a_picture_is_compared_with_tracks_of_crops_where_that_is_asked(world, of_crops):
    picture = sorted((world / "crops" / "3").iterdir())[0]
    items = succeed("query", of_crops, picture, "--format", "jsonl", "--top", 5).stdout
    assert len(items.splitlines()) == 5
    assert "item" in json.loads(items.splitlines()[0])
    rows = rows_of(of_crops, picture, "--aggregate", "mean")
    assert [row["segments"] for row in rows] == [13] * 4
    assert (rows[0]["track"], rows[0]["person"]) == ("3", "p3")


def test_cameras_and_filters_leave_candidates_out(world, of_crops):
    query = [of_crops, world / "film.mp4", "--tracks", world / "second.csv", "--track", 2]
    assert {row["camera"] for row in rows_of(*query)} == {1, 2, 3, 4}
    # All of the film is of camera 1.
    assert {row["camera"] for row in rows_of(*query, "--not-camera", "own")} == {2, 3, 4}
    assert {row["camera"] for row in rows_of(*query, "--where", "camera >= 3")} == {3, 4}
    picture = sorted((world / "crops" / "3").iterdir())[0]
    result = run("query", world / "g", picture, "--not-camera", "own")
    assert_refused(result, code=2, text="the target's camera is not known")


# What is refused


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["film.mp4", "--tracks", "first.csv"], 2, "Say it with --track: there are 1, 2, 3, 4"),
        (["film.mp4", "--tracks", "first.csv", "--track", "9"], 2, "no track 9 in film.mp4; there"),
        (["film.mp4", "--track", "1"], 2, "--track 1 belongs to --tracks FILE"),
        (["film.mp4", "--tracks", "no.csv", "--track", "1"], 1, "no.csv: cannot be read"),
        (["film.mp4", "--tracks", "other.csv", "--track", "1"], 2, "it has no box in film.mp4"),
        (["film.mp4", "--box", "1,2,3,4"], 2, "film.mp4 is a video: a box or position belongs"),
        (["film.mp4", "--boxes", "first.csv"], 2, "--tracks has its people's boxes, not --boxes"),
        (["crops/1", "--box", "1,2,3,4"], 2, "is a folder: a box or position belongs"),
        (["crops/1", "--tracks", "first.csv"], 2, "no video: --tracks has the boxes of a video's"),
        (["crops/1", "--track", "2"], 2, "no pictures of a track 2; there is 1"),
        (["crops"], 2, "crops: whom to look for? Say it with --track: there are 1, 2, 3, 4"),
        (["crops/1/0000.png", "--track", "1"], 2, "is one picture: --track belongs to several"),
        (["none.mp4"], 1, "none.mp4: there is no such file"),
        (["text.mp4"], 1, "text.mp4: not a video that can be read"),
        (["empty"], 1, "empty: there is nobody in it to look for"),
        (["broken"], 1, "a.png: not a picture that can be read"),
        (["--item", "1", "--track", "2"], 2, "--item has its own frames: --track says nothing"),
        (["--item", "1", "--segment", "2"], 2, "--item has its own frames: --segment says nothing"),
        (["crops/1", "--stride", "9"], 2, "not every 9: frames between them would be lost"),
        (["crops/1", "--aggregate", "most"], 2, "--aggregate 'most': sum, mean or above:S, please"),
        (["crops/1", "--aggregate", "above:"], 2, "above:S, where S is a number, please"),
        (["crops/1", "--aggregate", "above:nan"], 2, "above:S, where S is a number, please"),
        (["crops/1", "--aggregate", "mean:1"], 2, "sum, mean or above:S, please"),
        (["crops/1", "--aggregate", "above:1", "--proportion", "1"], 2, "leave --proportion out"),
        (["crops/1", "--proportion", "0"], 2, "--proportion must be above 0 and at most 1, got 0"),
        (["crops/1", "--threshold", "0.5"], 2, "--aggregate above:S counts the pairs that reach S"),
        (["crops/1", "--rerank"], 2, "--rerank says nothing where videos and tracks are compared"),
        (["crops/1", "--recall", "0.9"], 2, "no index is asked for candidates"),
        (["crops/1", "--combine", "best"], 2, "--combine says nothing where videos and tracks"),
        (["crops/1", "--shortlist", "5"], 2, "--shortlist says nothing"),
    ],
)
def test_what_makes_no_sense_is_one_line(world, monkeypatch, options, code, text):
    monkeypatch.chdir(world)
    (world / "text.mp4").write_text("no video")
    (world / "other.csv").write_text("video,track,frame,x,y,w,h\nother.mp4,1,0,1,2,3,4\n")
    (world / "empty").mkdir(exist_ok=True)
    (world / "broken").mkdir(exist_ok=True)
    (world / "broken" / "a.png").write_text("no picture")
    assert_refused(run("query", "g", *options), code=code, text=text)


def test_options_of_videos_say_nothing_of_items(world, of_crops):
    picture = sorted((world / "crops" / "3").iterdir())[0]
    result = run("query", of_crops, picture, "--proportion", "0.5")
    assert_refused(result, code=2, text="--proportion belongs to videos")


def test_frames_that_cannot_be_used_are_told_and_left_out(world, tmp_path):
    boxes = [box for box in boxes_of(world, "first.csv") if box["track"] == 1]
    write_boxes(
        tmp_path / "t.csv", [*boxes[:6], {**boxes[6], "x": 900}, {**boxes[7], "frame": 900}]
    )
    query = [world / "g", world / "film.mp4", "--tracks", tmp_path / "t.csv"]
    result = succeed("query", *query, "--format", "jsonl")
    told = result.stderr.splitlines()
    assert len(told) == 3
    assert "film.mp4, frame 6: " in told[0]
    assert "1 box is of frame 900 or later" in told[1]
    assert json.loads(result.stdout.splitlines()[0])["pairs"] == 3  # one segment of 6 frames
    write_boxes(tmp_path / "none.csv", [{**boxes[6], "x": 900}])
    none = run("query", world / "g", world / "film.mp4", "--tracks", tmp_path / "none.csv")
    assert_refused(none, code=1, text="film.mp4: there is nobody in it to look for: ")


# Answers


def test_jsonl_has_the_spans_of_segments_in_seconds(world):
    (row, *_) = rows_of(*target(world, 2))
    begin = FRAMES + FRAMES // 2  # of the second half of the second person
    end = 2 * FRAMES - 1
    assert (row["video"], row["camera"]) == ("film.mp4", 1)
    assert (row["start_s"], row["end_s"]) == pytest.approx((begin / RATE, end / RATE))
    assert len(row["winners"]) == 2
    for winner in row["winners"]:
        first = winner["frame_first"]
        assert first in (begin, begin + 4, begin + 5)
        assert winner["start_s"] == pytest.approx(first / RATE)
        assert winner["end_s"] == pytest.approx((first + 7) / RATE)
        numbers = [int(frame.partition("@")[0]) for frame in winner["frames"]]
        assert numbers == list(range(first, first + 8))
        assert winner["attention"] is None


def test_table_and_csv(world):
    header, first, *_ = succeed("query", *target(world, 2)).stdout.splitlines()
    assert header.split()[:3] == ["rank", "score", "similarity"]
    assert re.search(r" 2 +0:03\.9–0:05\.1 +2 of 9 +film\.mp4$", first)
    text = succeed("query", *target(world, 2), "--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert len(json.loads(rows[0]["items"])) == 2


def test_the_sheet_shows_the_frames_of_videos(world):
    page = parse(succeed("query", *target(world, 2), "--format", "html").stdout)
    assert page.all("h1")[0].text == "film.mp4, track 2 in g"
    assert page.of_class("gone") == []
    # 3 segments of the target at most, 2 winners of 4 candidates, 8 frames each.
    strips = page.of_class("strip")
    assert len(page.all("img")) == 8 * len(strips)
    assert len(strips) in (9, 10, 11)
    assert [lane.text for lane in page.of_class("lane-name")] == ["camera 1", ""]
    assert len([bar for bar in page.of_class("bar") if "data-rank" in bar.attributes]) == 4


def test_a_frame_of_the_sheet_is_that_of_the_video(world):
    page = parse(succeed("query", *target(world, 2), "--top", 1, "--format", "html").stdout)
    image = page.all("img")[-1]
    number = int(re.search(r"frame (\d+)", image.attributes["alt"])[1])
    box = next(box for box in boxes_of(world, "second.csv") if box["frame"] == number)
    (crop,) = crops_of(world, [box])
    data = b64decode(image.attributes["src"].partition(",")[2])
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float64)
    assert shown.shape == crop.shape
    assert np.abs(shown - crop).mean() < 6


def test_a_report_of_an_evaluation_shows_the_middle_frame_of_a_segment(world, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra plots)")
    sides = []
    for camera, name in enumerate(("first", "second"), start=1):
        boxes = [
            box | {"camera": camera, "person": box["track"]}
            for box in boxes_of(world, f"{name}.csv")
        ]
        write_boxes(tmp_path / f"{name}.csv", boxes)
        sides.append(tmp_path / name)
        built = ["build", world / "film.mp4", "--tracks", tmp_path / f"{name}.csv"]
        succeed(*built, "--extractor", "stripes", "--out", sides[-1])
    succeed("evaluate", sides[1], sides[0], "--report", tmp_path / "r")
    page = parse((tmp_path / "r" / "report.html").read_text())
    assert "cannot be shown" not in " ".join(page.all("body")[0].text.split())
    crops = {one["frame"]: crop for one, crop in zip(boxes, crops_of(world, boxes), strict=True)}
    cards = page.of_class("candidate")
    assert cards
    for card in cards:
        [number] = re.findall(r"film.mp4, frame (\d+) at", card.text)
        # 8 frames from the 13th, 17th or 18th of a person's 26: the middle one is the fifth.
        assert int(number) % FRAMES - FRAMES // 2 in (4, 8, 9)
        inside = page.elements[page.elements.index(card) :]
        image = next(one for one in inside if one.tag == "img")
        data = b64decode(image.attributes["src"].partition(",")[2])
        shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float64)
        assert np.abs(shown - crops[int(number)]).mean() < 6


def test_frames_that_are_gone_have_placeholders_and_are_counted(world, tmp_path):
    query = [*target(world, 2), "--format", "html"]
    moved = tmp_path / "moved"
    moved.mkdir()
    result = succeed("query", *query, "--root", moved)
    page = parse(result.stdout)
    assert len(page.of_class("gone")) == 4 * 2 * 8
    assert len(page.all("img")) > 0  # the target's own are there
    gone = len({one.attributes["title"] for one in page.of_class("gone")})  # segments overlap
    assert f"{gone} of {gone} frames cannot be shown; --root says" in result.stderr
    shutil.copy(world / "film.mp4", moved)
    assert parse(succeed("query", *query, "--root", moved).stdout).of_class("gone") == []


def test_a_whole_video_is_one_candidate(world, tmp_path):
    for person in (1, 2):
        (tmp_path / "films").mkdir(exist_ok=True)
        write_film(tmp_path / "films" / f"c{person}.mp4", [person], frames=12)
    build = ["build", "--extractor", "stripes", "--whole", tmp_path / "films"]
    succeed(*build, "--out", tmp_path / "g")
    write_film(tmp_path / "again.mp4", [2], frames=10, first=3)
    result = succeed("query", tmp_path / "g", tmp_path / "again.mp4", "--format", "jsonl")
    first, second = map(json.loads, result.stdout.splitlines())
    assert (first["video"], first["track"], first["pairs"]) == ("c2.mp4", "whole", 2 * 2)
    assert second["video"] == "c1.mp4"
    assert first["winners"][0]["frames"][0] in ("0@0", "4@0.4")
    assert "whole frames" not in result.stderr
    people = succeed("query", world / "g", tmp_path / "again.mp4")
    assert "whole frames of again.mp4 are looked for; --tracks FILE" in people.stderr
    page = parse(
        succeed("query", tmp_path / "g", tmp_path / "again.mp4", "--format", "html").stdout
    )
    assert page.of_class("gone") == []
    assert len(page.of_class("whole")) == len(page.of_class("strip"))


def test_explain_says_what_was_covered(world):
    result = succeed("query", *target(world, 2), "--explain", "--where", "track <> '4'")
    lines = dict(line.split(maxsplit=1) for line in result.stderr.splitlines()[1:])
    assert lines["allowed"] == "9 of 12 items, 3 candidates"
    assert lines["target"] == "3 segments"
    assert lines["pairs"].startswith("27")
    assert lines["covered"].startswith("3 of 3 candidates")
    assert lines["exact"] == "yes"
    assert "target " in lines["ms"]
    assert math.isfinite(float(lines["generation"]))


# Co-attention


@pytest.fixture(scope="module")
def attending(tmp_path_factory):
    """A gallery of 3 segments, 2 tracks, by a head that was made up; and their frames."""
    rng = np.random.default_rng(7)
    path = tmp_path_factory.mktemp("attending") / "g"
    offset = np.array([0, 2, 5, 6])
    frames = SegmentFrames(
        index=rng.standard_normal((3, 4)).astype(np.float32),
        key=rng.standard_normal((6, 4)).astype(np.float32),
        value=rng.standard_normal((6, 5)).astype(np.float32),
        offset=offset,
    )
    codes = np.stack([code(frames, n, n) for n in range(3)]).astype(np.float32)
    head = tuple(float(one) for one in -rng.uniform(0.1, 0.5, 5))
    with Gallery.create(
        path,
        dim=5,
        fingerprint=Fingerprint(name="external:test", version="1"),
        matcher=Matcher(name="coattention", head=head, bias=1.5),
        recipe={"segments": {"length": 3, "stride": 3}},
    ) as gallery:
        items = [
            {
                "track": track,
                "source": f"{track}/1.jpg",
                "frames": [f"{track}/{n}.jpg" for n in range(k)],
            }
            for track, k in (("a", 2), ("a", 3), ("b", 1))
        ]
        gallery.add(codes, items, frames=frames)
    return path, frames, np.array(head)


def attended(frames, asks, row):
    """The attention of a segment's frames to an index vector, in double precision."""
    key = frames.key[frames.offset[row] : frames.offset[row + 1]].astype(np.float64)
    heat = np.exp(key @ frames.index[asks].astype(np.float64))
    return heat / heat.sum()


def code(frames, asks, row):
    value = frames.value[frames.offset[row] : frames.offset[row + 1]].astype(np.float64)
    return attended(frames, asks, row) @ value


def test_co_attention_sums_probabilities_and_says_what_was_attended_to(attending):
    path, frames, head = attending
    rows = rows_of(path, "--item", 0, "--exact")
    of = [
        1 / (1 + math.exp(-(1.5 + head @ (code(frames, 0, 0) - code(frames, 0, row)) ** 2)))
        for row in range(3)
    ]
    assert [(row["track"], row["pairs"], row["counted"]) for row in rows] == [
        *(("a", 2, 1), ("b", 1, 1))
    ]
    assert [row["score"] for row in rows] == pytest.approx([max(of[:2]), of[2]], abs=1e-6)
    whole = rows_of(path, "--item", 0, "--proportion", 1)
    assert whole[0]["score"] == pytest.approx(of[0] + of[1], abs=1e-6)
    winners = {winner["item"]: winner for winner in whole[0]["winners"]}
    assert set(winners) == {0, 1}
    for row in (0, 1):
        assert winners[row]["attention"] == pytest.approx(attended(frames, 0, row).tolist())


def test_the_sheet_of_co_attention_draws_bars(attending):
    page = parse(succeed("query", attending[0], "--item", 0, "--format", "html").stdout)
    bars = page.of_class("weight")
    assert len(bars) == len(page.of_class("frame")) - 2  # but those of the target
    assert bars[-1].attributes["aria-label"] == "attention 100%"  # of a single frame


def test_co_attention_needs_frames(attending, tmp_path):
    np.save(tmp_path / "v.npy", np.ones((1, 5), np.float32))
    result = run("query", attending[0], tmp_path / "v.npy")
    assert_refused(result, code=2, text="v.npy: a file of vectors has no frames")


def test_a_shortlist_says_that_it_is_one(attending):
    result = succeed("query", attending[0], "--item", 0, "--top", 1, "--shortlist", 1, "--explain")
    assert "not exact: 1 of 2 candidates have all of their pairs compared" in result.stderr
    assert "--exact compares the frames of all" in result.stderr
    assert re.search(r"^exact +no$", result.stderr, re.MULTILINE)


def test_exact_compares_the_frames_of_all(tmp_path):
    rng = np.random.default_rng(3)
    n = 1100  # more than a shortlist has
    frames = SegmentFrames(
        index=rng.standard_normal((n, 4)).astype(np.float32),
        key=rng.standard_normal((n, 4)).astype(np.float32),
        value=rng.standard_normal((n, 5)).astype(np.float32),
        offset=np.arange(n + 1),
    )
    with Gallery.create(
        tmp_path / "g",
        dim=5,
        fingerprint=Fingerprint(name="external:test", version="1"),
        matcher=Matcher(name="coattention", head=(-1.0,) * 5),
        recipe={"segments": {"length": 1, "stride": 1}},
    ) as gallery:
        items = [{"track": str(row), "source": f"{row}.jpg"} for row in range(n)]
        gallery.add(frames.value, items, frames=frames)
    query = [tmp_path / "g", "--item", 5, "--top", 1, "--explain"]
    assert "not exact: 1,000 of 1,100 candidates" in succeed("query", *query).stderr
    exact = succeed("query", *query, "--exact").stderr
    assert "1,100 of 1,100 candidates have all of their pairs compared" in exact
    assert re.search(r"^exact +yes$", exact, re.MULTILINE)


def test_a_recipe_that_does_not_say_how_the_gallery_was_cut(world, tmp_path):
    with Gallery.open(world / "g") as whole:
        recipe = {**whole.manifest.recipe, "segments": {"length": "many", "stride": 4}}
        made = {"dim": whole.dim, "fingerprint": whole.fingerprint, "recipe": recipe}
        Gallery.create(tmp_path / "g", **made).add(whole.vectors([0]))
    result = run("query", tmp_path / "g", world / "crops" / "1")
    assert_refused(result, code=2, text="its recipe does not say how it was cut")
