"""`reid attributes --from MODEL`: what a model says of pictures that a gallery has already."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from cli_world import ENVIRONMENT, REID, REPOSITORY, assert_refused, real, run, succeed, tree
from PIL import Image

import extractors.predictors
from extractors.attributes import AttributePredictor
from reid_index import Fingerprint, Gallery, verify_gallery

SHADES = (20, 70, 120, 200)
"""Of the pictures, one colour each."""


class Shade(AttributePredictor):
    """Who is dark wears a hat. The darker or brighter, the surer."""

    fingerprint = Fingerprint(name="shade", version="1", weights_sha256="ab" * 32)
    names = ("hat",)

    def prepare(self, crop):
        return crop.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)

    def predict(self, batch):
        bright = batch.mean(axis=1) / 255
        return {
            "attr.hat": ["no" if one > 0.5 else "yes" for one in bright],
            "attr.hat.confidence": np.maximum(bright, 1 - bright).tolist(),
            "attr.hat.origin": [self.origin] * len(batch),
        }


ORIGIN = f"model shade 1 {'ab' * 6}"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    (folder / "crops").mkdir()
    for number, shade in enumerate(SHADES):
        image = Image.new("RGB", (24, 48), (shade, shade, shade))
        image.save(folder / "crops" / f"{number + 1:04d}_c1s1_000001_01.png")
    # One picture of two people: a dark one on the left, a bright one on the right.
    (folder / "scenes").mkdir()
    scene = np.zeros((60, 80, 3), np.uint8)
    scene[:, 40:] = 250
    Image.fromarray(scene).save(folder / "scenes" / "s.png")
    (folder / "boxes.csv").write_text("file,x,y,w,h\ns.png,4,4,20,40\ns.png,50,4,20,40\n")
    gallery = folder / "gallery"
    succeed("build", folder / "crops", "--out", gallery, "--extractor", "stripes")
    succeed("add", gallery, folder / "scenes", "--boxes", folder / "boxes.csv")
    return folder


@pytest.fixture
def world(built, tmp_path, monkeypatch):
    """A folder with the gallery and the pictures that it was built from, and a model."""
    world = shutil.copytree(built, tmp_path / "world")
    model = world / "shade.xml"
    model.write_text("")
    monkeypatch.setattr(extractors.predictors, "predictor_of", lambda *_, **__: Shade())
    return world


def hats(gallery):
    items = Gallery.open(gallery).items
    columns = (items[f"attr.hat{what}"].to_pylist() for what in ("", ".confidence", ".origin"))
    return list(zip(*columns, strict=True))


def test_pictures_and_boxes_are_looked_at_again(world):
    gallery = world / "gallery"
    shards = tree(gallery / "shards")
    arguments = ("--from", world / "shade.xml", "--root", world, "--format", "json")
    told = json.loads(succeed("attributes", gallery, *arguments).stdout)
    assert told["attributes"] == {"hat": {"said": 6, "known": 6, "unknown": 0}}
    assert {name: told[name] for name in ("items", "cells", "unread", "unpictured")} == {
        "items": 6,
        "cells": 6,
        "unread": 0,
        "unpictured": 0,
    }
    found = hats(gallery)
    assert [word for word, *_ in found] == ["yes", "yes", "yes", "no", "yes", "no"]
    bright = np.array([*SHADES, 0, 250]) / 255
    sure = [confidence for _, confidence, _ in found]
    assert sure == pytest.approx(np.maximum(bright, 1 - bright), abs=1e-6)
    assert {origin for *_, origin in found} == {ORIGIN}
    assert tree(gallery / "shards") == shards
    assert not gallery.with_name("gallery.predicting").exists()
    assert verify_gallery(Gallery.open(gallery)) == []


def test_what_people_and_labels_say_stays(world):
    gallery = world / "gallery"
    (world / "a.csv").write_text("item,hat\n0,no\n")
    (world / "b.csv").write_text("item,hat\n1,no\n")
    succeed("attributes", gallery, "--from", world / "a.csv", "--origin", "person")
    succeed("attributes", gallery, "--from", world / "b.csv")
    succeed("attributes", gallery, "--from", world / "shade.xml", "--root", world)
    assert hats(gallery)[:2] == [("no", None, "person"), ("no", None, "label")]
    assert hats(gallery)[2][2] == ORIGIN


def test_pictures_that_cannot_be_read(world):
    gallery = world / "gallery"
    (world / "crops" / "0002_c1s1_000001_01.png").write_bytes(b"no picture")
    (world / "scenes" / "s.png").unlink()
    arguments = ("attributes", gallery, "--from", world / "shade.xml", "--root", world)
    before = tree(gallery)
    result = run(*arguments, "--strict")
    assert result.exit_code == 1
    assert "0002_c1s1_000001_01.png" in result.stderr
    assert tree(gallery) == before
    result = succeed(*arguments, "--format", "json")
    assert "3 of 6 were skipped" in result.stderr
    assert json.loads(result.stdout)["unread"] == 3
    assert [word for word, *_ in hats(gallery)] == ["yes", None, "yes", "no", None, None]


def test_no_picture_at_all(world, tmp_path):
    gallery = world / "gallery"
    arguments = ("--from", world / "shade.xml", "--root", tmp_path / "elsewhere")
    before = tree(gallery)
    result = run("attributes", gallery, *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "not one of 6 pictures can be read; --root FOLDER says" in result.stderr
    assert tree(gallery) == before
    assert not gallery.with_name("gallery.predicting").exists()
    np.save(tmp_path / "v.npy", np.eye(3, dtype=np.float32))
    vectors = tmp_path / "vectors"
    succeed("build", tmp_path / "v.npy", "--extractor", "external:x", "--out", vectors)
    result = run("attributes", vectors, "--from", world / "shade.xml")
    assert_refused(result, code=1, text="it knows of no pictures that a model could look at")


def test_wrong_usage(world):
    gallery = world / "gallery"
    model, labels = world / "shade.xml", world / "a.csv"
    for option in (("--by", "item"), ("--origin", "person")):
        result = run("attributes", gallery, "--from", model, *option)
        assert_refused(result, code=2, text=f"{option[0]} means nothing when a model predicts")
    result = run("attributes", gallery, "--from", labels, "--root", world)
    assert_refused(result, code=2, text="--root means nothing when labels are read")


def test_items_without_a_picture(world, tmp_path):
    np.save(tmp_path / "v.npy", np.eye(2, dtype=np.float32))
    (tmp_path / "items.csv").write_text('source\ncrops/0001_c1s1_000001_01.png\n""\n')
    gallery = tmp_path / "gallery"
    arguments = ("--items", tmp_path / "items.csv", "--extractor", "external:x", "--out", gallery)
    succeed("build", tmp_path / "v.npy", *arguments)
    result = succeed(
        *("attributes", gallery, "--from", world / "shade.xml", "--root", world),
        *("--format", "json"),
    )
    assert "1 item without a picture: left out" in result.stderr
    assert json.loads(result.stdout)["unpictured"] == 1
    assert [word for word, *_ in hats(gallery)] == ["yes", None]


def test_a_model_that_predicts_none(world, monkeypatch):
    monkeypatch.undo()
    gallery = world / "gallery"
    before = tree(world)
    model = REPOSITORY / "extractors" / "default.safetensors"
    result = run("attributes", gallery, "--from", model, "--root", world)
    assert_refused(result, code=1, text="predicts no attributes")
    assert tree(world) == before


def test_what_is_deleted_meanwhile(world, monkeypatch):
    gallery = world / "gallery"

    class Deleting(Shade):
        def predict(self, batch):
            with Gallery.open(gallery) as opened:
                opened.delete(where="item = 1")
            return super().predict(batch)

    monkeypatch.setattr(extractors.predictors, "predictor_of", lambda *_, **__: Deleting())
    arguments = ("attributes", gallery, "--from", world / "shade.xml", "--root", world)
    told = json.loads(succeed(*arguments, "--format", "json").stdout)
    assert (told["items"], told["unread"]) == (5, 0)
    assert Gallery.open(gallery).items["item"].to_pylist() == [0, 2, 3, 4, 5]
    assert [word for word, *_ in hats(gallery)] == ["yes", "yes", "no", "yes", "no"]


def test_frames_of_segments_vote(world, tmp_path):
    track = tmp_path / "tracks" / "t1"
    track.mkdir(parents=True)
    shades = [0, 255, 51, 51, 255, 255]
    for frame, shade in enumerate(shades):
        Image.new("RGB", (24, 48), (shade, shade, shade)).save(track / f"{frame}.png")
    gallery = tmp_path / "segments"
    layout = ("--layout", "tracklets", "--segment", 4, "--stride", 2)
    succeed("build", track.parent, "--out", gallery, "--extractor", "stripes", *layout)
    arguments = ("attributes", gallery, "--from", world / "shade.xml")
    told = json.loads(succeed(*arguments, "--format", "json").stdout)
    assert told["items"] == 2
    # Frames 0 to 3 and 2 to 5: yes by 1, 0.8 and 0.8, then by 0.8 and 0.8 against no by 1 and 1.
    assert [(word, round(sure, 4)) for word, sure, _ in hats(gallery)] == [
        ("yes", 0.65),
        ("no", 0.5),
    ]
    # A frame that cannot be read has no vote, and a segment without one nothing to say.
    succeed("attributes", gallery, "--clear", "all")
    for frame in (2, 3, 4, 5):
        (track / f"{frame}.png").unlink()
    told = json.loads(succeed(*arguments, "--format", "json").stdout)
    assert (told["items"], told["unread"]) == (1, 1)
    assert [word for word, *_ in hats(gallery)] == ["yes", None]


INTERRUPTED = """
import functools, os, signal, sys
sys.path.insert(0, sys.argv.pop(1))
import extractors.predictors, extractors.harvest as harvest
from test_cli_attributes_predicted import Shade
extractors.predictors.predictor_of = lambda *_, **__: Shade()
harvest.Pace = functools.partial(harvest.Pace, part_rows=2)
write, calls = harvest.write_shard, []
def write_shard(*arguments, **options):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    write(*arguments, **options)
harvest.write_shard = write_shard
from cli.main import main
main()
"""


def test_what_was_interrupted_goes_on(world):
    gallery = world / "gallery"
    before = tree(gallery)
    arguments = ["attributes", gallery, "--from", world / "shade.xml", "--root", world]
    command = [REID[0], "-c", INTERRUPTED, os.path.dirname(__file__), *map(str, arguments)]
    command += ["--batch-size", "1"]
    killed = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert tree(gallery) == before
    assert gallery.with_name("gallery.predicting").is_dir()
    result = succeed(*arguments)
    assert "2 crops were there from an earlier run" in result.stderr
    assert None not in [word for word, *_ in hats(gallery)]
    assert not gallery.with_name("gallery.predicting").exists()


def test_the_model_of_crossroads_on_real_crops(tmp_path):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    model = real("models", "person-attributes-recognition-crossroad-0230.xml")
    crops = sorted(real("market1501", "bounding_box_train").resolve().glob("*.jpg"))[:300:10]
    (tmp_path / "list.csv").write_text("file\n" + "".join(f"{path}\n" for path in crops))
    gallery = tmp_path / "gallery"
    succeed("build", tmp_path / "list.csv", "--out", gallery)
    told = json.loads(succeed("attributes", gallery, "--from", model, "--format", "json").stdout)
    assert told["items"] == 30
    assert told["attributes"]["gender"] == {"said": 30, "known": 30, "unknown": 0}
    items = Gallery.open(gallery).items
    assert set(items["attr.hat"].to_pylist()) <= {"yes", "no"}
    sure = items["attr.hat.confidence"].to_numpy()
    assert sure.min() >= 0.5
    assert sure.max() <= 1
    (origin,) = set(items["attr.hat.origin"].to_pylist())
    assert origin.startswith("model ")
