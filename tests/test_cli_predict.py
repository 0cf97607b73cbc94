"""`--attributes MODEL`: galleries built, added to, queried and rebuilt with a predictor."""

import functools
import json

import numpy as np
import pytest
from attribute_world import write_model
from cli_world import assert_refused, run, succeed
from PIL import Image
from video_world import write_boxes, write_video

import extractors.harvest
from cli.target import file_target, item_target
from cli.video_target import file_segments, item_segment
from extractors.predictors import predictor_of
from extractors.segmenting import Cut
from extractors.trained import DEFAULT
from reid_index import Gallery

STRIPES = ("--extractor", "stripes")
SHADES = {"dark": (20, 20, 20), "light": (230, 230, 230), "red": (220, 10, 20)}


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model.xml")


@pytest.fixture
def crops(tmp_path):
    """Three crops of one colour each."""
    folder = tmp_path / "crops"
    folder.mkdir()
    for name, shade in SHADES.items():
        Image.new("RGB", (40, 80), shade).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "g"


def rows_of(out):
    with Gallery.open(out) as gallery:
        return {row["source"]: row for row in gallery.items.to_pylist()}


def looked_for(out, path, **options):
    with Gallery.open(out) as gallery:
        given = {"box": None, "boxes": None, "position": None, "weights": None, "device": "cpu"}
        return file_target(gallery, path, **given, **options)


def test_built_gallery_says_what_the_model_says(crops, model, out):
    succeed("build", crops, "--out", out, *STRIPES, "--attributes", model)
    rows = rows_of(out)
    assert {name: row["attr.gender"] for name, row in rows.items()} == {
        "dark.png": "female",
        "light.png": "male",
        "red.png": "female",
    }
    assert rows["light.png"]["attr.gender.confidence"] == pytest.approx(230 / 255, abs=1e-3)
    assert rows["red.png"]["attr.upper_color"] == ["red"]
    assert rows["red.png"]["attr.hat.origin"] == predictor_of(model).origin
    with Gallery.open(out) as gallery:
        said = gallery.manifest.recipe["attributes"]
        found = gallery.search(gallery.vectors([0]), k=3, where="attr.upper_color = 'red'")
    assert said["weights"] == str(model)
    assert said["fingerprint"] == predictor_of(model).fingerprint.to_json()
    assert [match.item for match in found.matches] == [rows["red.png"]["item"]]


def test_vectors_are_those_without_attributes(crops, model, out):
    succeed("build", crops, "--out", out, *STRIPES, "--attributes", model)
    succeed("build", crops, "--out", out.with_name("plain"), *STRIPES)
    with Gallery.open(out) as with_them, Gallery.open(out.with_name("plain")) as plain:
        np.testing.assert_array_equal(with_them.vectors(range(3)), plain.vectors(range(3)))
        assert with_them.fingerprint == plain.fingerprint
        assert not any(name.startswith("attr.") for name in plain.items.column_names)
        assert "attributes" not in plain.manifest.recipe


def test_added_pictures_are_predicted_without_being_told(crops, model, out, tmp_path):
    succeed("build", crops, "--out", out, *STRIPES, "--attributes", model)
    more = tmp_path / "more"
    more.mkdir()
    Image.new("RGB", (40, 80), (0, 0, 255)).save(more / "blue.png")
    succeed("add", out, more)
    assert rows_of(out)["blue.png"]["attr.gender"] == "male"
    # Moved, its new place is told; another model is refused, and nothing is added.
    moved = tmp_path / "moved.xml"
    model.rename(moved)
    model.with_suffix(".bin").rename(moved.with_suffix(".bin"))
    Image.new("RGB", (40, 80), (0, 0, 250)).save(more / "navy.png")
    assert_refused(run("add", out, more), code=1, text="--attributes FILE says where it is now")
    other = write_model(tmp_path / "other.xml", shift=0.125)
    assert_refused(run("add", out, more, "--attributes", other), code=1, text="of another model")
    assert len(rows_of(out)) == 4
    succeed("add", out, more, "--attributes", moved)
    assert rows_of(out)["navy.png"]["attr.gender"] == "male"


def test_a_gallery_without_a_model_takes_none_later(crops, model, out):
    succeed("build", crops, "--out", out, *STRIPES)
    result = run("add", out, crops, "--again", "--attributes", model)
    assert_refused(result, code=2, text="built without a model that predicts attributes")


def test_sources_without_pictures_take_no_model(model, out, tmp_path):
    np.save(tmp_path / "v.npy", np.eye(4, dtype=np.float32))
    external = ("--extractor", "external:x", "--attributes", model)
    result = run("build", tmp_path / "v.npy", "--out", out, *external)
    assert_refused(result, code=2, text="--attributes means nothing when building from vectors")


def test_models_that_are_none_are_refused(crops, out, tmp_path):
    result = run("build", crops, "--out", out, *STRIPES, "--attributes", tmp_path / "m.safetensors")
    assert_refused(result, code=1, text="m.safetensors: there is no such model file")
    result = run("build", crops, "--out", out, *STRIPES, "--attributes", DEFAULT)
    assert_refused(result, code=1, text="this model predicts no attributes")
    seven = write_model(tmp_path / "seven.xml", attributes=7)
    result = run("build", crops, "--out", out, *STRIPES, "--attributes", seven)
    assert_refused(result, code=1, text="its outputs are 453 [1,7,1,1]")
    assert not out.exists()


def test_a_target_has_attributes(crops, model, out, tmp_path):
    succeed("build", crops, "--out", out, *STRIPES, "--attributes", model)
    target = looked_for(out, crops / "red.png")
    assert target.attributes["attr.upper_color"] == [["red"]]
    assert target.attributes["attr.hat.origin"] == [predictor_of(model).origin]
    folder = looked_for(out, crops)
    assert folder.attributes["attr.gender"] == ["female", "male", "female"]
    assert looked_for(out, crops / "red.png", predict=False).attributes is None
    with Gallery.open(out) as gallery:
        item = rows_of(out)["red.png"]["item"]
        assert item_target(gallery, item, other_root=None).attributes["attr.upper_color"] == [
            ["red"]
        ]
    moved = tmp_path / "moved.xml"
    model.rename(moved)
    model.with_suffix(".bin").rename(moved.with_suffix(".bin"))
    succeed("query", out, crops / "red.png")  # nobody asks for its attributes
    asked = ("query", out, crops / "red.png", "--auto-filter", "0.7")
    assert_refused(run(*asked), code=1, text="--attributes FILE says where it is now")
    succeed(*asked, "--attributes", moved)


def test_a_color_that_nobody_knew_can_be_told_later(crops, out, tmp_path):
    """The model's point of upper clothes lies outside of all crops."""
    model = write_model(tmp_path / "outside.xml", points=((2, 0.25), (0.5, 0.75)))
    succeed("build", crops, "--out", out, *STRIPES, "--attributes", model)
    (tmp_path / "l.csv").write_text("source,upper_color\nred.png,red|black\n")
    succeed("attributes", out, "--from", tmp_path / "l.csv")
    assert rows_of(out)["red.png"]["attr.upper_color"] == ["black", "red"]
    assert rows_of(out)["dark.png"]["attr.upper_color"] is None


def test_a_gallery_without_a_model_predicts_nothing(crops, out):
    succeed("build", crops, "--out", out, *STRIPES)
    assert looked_for(out, crops / "red.png").attributes is None


def test_rebuild_keeps_the_model(crops, model, out, tmp_path):
    succeed("build", crops, "--out", out, *STRIPES, "--attributes", model)
    before = rows_of(out)
    succeed("rebuild", out, "--extractor", "trained")
    with Gallery.open(out) as gallery:
        assert gallery.manifest.recipe["extractor"] == "trained"
        assert gallery.manifest.recipe["attributes"]["weights"] == str(model)
    assert rows_of(out) == before
    assert looked_for(out, crops / "red.png").attributes["attr.upper_color"] == [["red"]]


def test_a_run_with_another_model_is_not_gone_on_with(crops, model, out, tmp_path, monkeypatch):
    """The first part is written, then the run is interrupted."""
    pace = functools.partial(extractors.harvest.Pace, part_rows=1)
    monkeypatch.setattr(extractors.harvest, "Pace", pace)
    write, calls = extractors.harvest.write_shard, []

    def write_shard(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(*arguments, **options)

    monkeypatch.setattr(extractors.harvest, "write_shard", write_shard)
    command = ("build", crops, "--out", out, *STRIPES, "--batch-size", 1)
    assert run(*command, "--attributes", model).exit_code != 0
    monkeypatch.setattr(extractors.harvest, "write_shard", write)
    journal = json.loads((tmp_path / "g.building" / "parts" / "journal.json").read_text())
    assert journal["parts"]
    other = write_model(tmp_path / "other.xml", shift=0.125)
    for options in ((), ("--attributes", other)):
        result = run(*command, *options)
        assert_refused(result, code=2, text="holds an unfinished run with another attributes")
    succeed(*command, "--attributes", model)
    assert None not in [row["attr.gender"] for row in rows_of(out).values()]


def test_segments_have_what_their_frames_vote(model, out, tmp_path):
    pytest.importorskip("av")
    folder = tmp_path / "footage"
    folder.mkdir()
    write_video(folder / "v.mp4")
    boxes = write_boxes(tmp_path / "v.csv", frames=range(20), video="v.mp4")
    boxes = tmp_path / "v.csv" if boxes is None else boxes
    source = (folder, "--tracks", boxes, "--segment", 4)
    succeed("build", *source, "--out", out, *STRIPES, "--attributes", model)
    with Gallery.open(out) as gallery:
        rows = gallery.items.to_pylist()
        first = item_segment(gallery, rows[0]["item"])
        target = file_segments(
            gallery,
            folder / "v.mp4",
            tracks=boxes,
            track=rows[0]["track"],
            box=None,
            boxes=None,
            position=None,
            cut=Cut(4, 2),
            weights=None,
            device="cpu",
        )
    assert first.attributes["attr.gender"] == [rows[0]["attr.gender"]]
    same = [row for row in rows if row["track"] == rows[0]["track"]]
    assert len(same) > 1
    assert target.attributes["attr.gender"] == [row["attr.gender"] for row in same]
    found = target.attributes["attr.gender.confidence"]
    assert found == pytest.approx([row["attr.gender.confidence"] for row in same], abs=1e-6)


def test_segments_that_disagree_with_a_targets_are_left_out(model, out, tmp_path):
    folder = tmp_path / "footage"
    folder.mkdir()
    video = write_video(folder / "v.mp4")
    boxes = write_boxes(tmp_path / "v.csv", frames=range(20), video="v.mp4")
    source = (folder, "--tracks", boxes, "--segment", 4)
    succeed("build", *source, "--out", out, *STRIPES, "--attributes", model)
    for target in ((video, "--tracks", boxes, "--track", "a"), ("--item", "0")):
        asked = ("query", out, *target, "--format", "jsonl")
        for options, tracks in (((), {"a", "b"}), (("--auto-filter", "0.7"), {"a"})):
            lines = succeed(*asked, *options).stdout.splitlines()
            assert {json.loads(line)["track"] for line in lines} == tracks
        told = succeed(*asked, "--auto-filter", "0.7", "--explain").stderr
        assert "auto-filter 9 of 18 items dropped" in told
    moved = tmp_path / "moved.xml"
    model.rename(moved)
    model.with_suffix(".bin").rename(moved.with_suffix(".bin"))
    asked = ("query", out, video, "--tracks", boxes, "--track", "a")
    succeed(*asked)  # nobody asks for its attributes
    told = run(*asked, "--auto-filter", "0.7")
    assert_refused(told, code=1, text="--attributes FILE says where it is now")
    succeed(*asked, "--auto-filter", "0.7", "--attributes", moved)


def test_an_evaluation_predicts_where_it_filters(model, out, tmp_path):
    """A moved model is asked for only then; two people are told apart by their shades."""
    data = tmp_path / "data"
    for part, camera in (("query", 1), ("bounding_box_test", 2), ("bounding_box_train", 3)):
        (data / part).mkdir(parents=True)
        for person, shade in ((1, SHADES["dark"]), (2, SHADES["light"])):
            name = f"{person:04d}_c{camera}s1_000001_00.png"
            Image.new("RGB", (40, 80), shade).save(data / part / name)
    succeed("build", data / "bounding_box_test", "--out", out, *STRIPES, "--attributes", model)
    moved = tmp_path / "moved.xml"
    model.rename(moved)
    model.with_suffix(".bin").rename(moved.with_suffix(".bin"))
    succeed("evaluate", out, data)
    filtered = ("evaluate", out, data, "--auto-filter", "0.8", "--format", "json")
    told = run(*filtered)
    assert (told.exit_code, told.stdout) == (1, "")
    assert "--attributes FILE says where it is now" in told.stderr
    for options in (filtered, ("evaluate", data, data, *STRIPES, *filtered[3:])):
        found = json.loads(succeed(*options, "--attributes", moved).stdout)["auto_filter"]
        assert (found["kept"], found["dropped"]) == (1, 0.5)
    asked = run("evaluate", out, data, "--attributes", moved)
    assert_refused(asked, code=2, text="--attributes belongs to --auto-filter")
    asked = run("evaluate", out, out, "--auto-filter", "0.8", "--attributes", moved)
    assert_refused(asked, code=2, text="--attributes is for dataset folders")
