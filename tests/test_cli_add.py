"""`reid add`: what is new and nothing twice, whatever it is interrupted by."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_world import ENVIRONMENT, REID, assert_refused, pixels_of, run, stripes_of, succeed, tree

import extractors.harvest
from cli.world import draw_scene, draw_world
from extractors.stripes import StripesExtractor
from reid_index import ArrayStream, Fingerprint, Gallery, Metric, write_shard

KILLED = """
import os, signal, sys, functools, extractors.harvest as harvest
from reid_index import Gallery
harvest.Pace = functools.partial(harvest.Pace, part_rows=4)

def killed(function, number, when):
    calls = []
    def call(*arguments, **options):
        calls.append(1)
        if when == "after":
            function(*arguments, **options)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        if when == "before":
            function(*arguments, **options)
    return call

if sys.argv.pop(1) == "extracting":
    harvest.write_shard = killed(harvest.write_shard, 2, "before")
else:
    Gallery.add = killed(Gallery.add, 1, "after")
    Gallery.add_shards = killed(Gallery.add_shards, 1, "after")
from cli.main import main
main()
"""
"""`reid` in a process of its own that is killed before its second part, or behind its commit."""

EXTERNAL = Fingerprint(name="external:mine", version="1")


def kill(when, *arguments):
    command = [REID[0], "-c", KILLED, when, "add", *map(str, arguments)]
    assert subprocess.run(command, env=ENVIRONMENT, capture_output=True).returncode == -9


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """`old` has 4 crops of two drawn people, `new` 8 of four others; `g` is the gallery of old."""
    folder = tmp_path_factory.mktemp("world")
    assert draw_world(folder / "drawn", people=6, cameras=2, crops_per_camera=1, seed=1) == 12
    crops = sorted((folder / "drawn").iterdir())
    for name, some in (("old", crops[:4]), ("new", crops[4:])):
        (folder / name).mkdir()
        for crop in some:
            crop.rename(folder / name / crop.name)
    succeed("build", "--extractor", "stripes", folder / "old", "--out", folder / "g")
    return folder


def make_place(world, folder):
    (folder / "crops").mkdir()
    for name in ("old", "new"):
        shutil.copytree(world / name, folder / "crops", dirs_exist_ok=True)
    # The gallery knows its pictures by their paths, so it is made from those here.
    old = sorted(path.name for path in (world / "old").iterdir())
    succeed(
        "build",
        "--extractor",
        "stripes",
        *(folder / "crops" / name for name in old),
        "--out",
        folder / "g",
    )
    return folder


@pytest.fixture
def place(world, tmp_path):
    """In `crops` twelve crops, in `g` a gallery of the first four of them."""
    return make_place(world, tmp_path)


def column(gallery, name):
    return gallery.items[name].to_pylist()


def all_vectors(gallery):
    return gallery.vectors(range(len(gallery)))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# What is added


def test_pictures_that_are_new_are_added_with_their_own_vectors(place):
    g, crops = place / "g", place / "crops"
    result = succeed("add", g, crops)
    assert result.stdout == ""
    assert result.stderr == (
        f"{crops}: left out 4: in the gallery already\n{g}: 8 items added, 12 in all\n"
    )
    with Gallery.open(g) as gallery:
        names = names_in(crops)
        assert column(gallery, "item") == list(range(12))
        assert column(gallery, "source") == names
        assert [name.split("_")[0] for name in names] == column(gallery, "person")
        expected = stripes_of(*(pixels_of(crops / name) for name in names))
        np.testing.assert_allclose(all_vectors(gallery), expected, atol=1e-6)
        assert gallery.manifest.generation == 2
    before = tree(place)
    result = succeed("add", g, crops)
    assert result.stderr == (
        f"{crops}: left out 12: in the gallery already\n{g}: there is nothing new to add\n"
    )
    assert tree(place) == before


def test_the_same_folder_by_another_way_is_the_same(place, monkeypatch):
    """Through a link, and from within it: neither twice nor, once erased, again."""
    g, crops = place / "g", place / "crops"
    (place / "link").symlink_to(crops)
    succeed("add", g, place / "link")
    assert len(Gallery.open(g)) == 12
    receipt = place.parent / "receipt.json"
    succeed("delete", g, "--where", "item IN (0, 4)", "--receipt", receipt)
    succeed("compact", g)
    monkeypatch.chdir(place / "link")
    for way in (crops, place / "link", Path(".")):
        told = succeed("add", g, way, "--except-erased", receipt).stderr
        assert re.search(r"left out 2: erased, as a receipt says$", told, re.MULTILINE), told
        assert re.search(r"left out 10: in the gallery already$", told, re.MULTILINE), told
    succeed("verify", g, "--erased", receipt)


def test_again_adds_them_once_more(place):
    g, crops = place / "g", place / "crops"
    assert succeed("add", g, crops, "--again").stderr == f"{g}: 12 items added, 16 in all\n"


def test_what_was_deleted_is_new_again_unless_a_receipt_names_it(place):
    g, crops, receipt = place / "g", place / "crops", place / "receipt.json"
    succeed("add", g, crops)
    succeed("delete", g, "--item", "0", "--item", "5", "--receipt", receipt)
    gone = names_in(crops)[0], names_in(crops)[5]
    odd = crops / os.fsdecode(b"0099_c1s1_000001_01.\xff.jpg")
    odd.write_bytes(b"")
    result = succeed("add", g, crops, "--except-erased", receipt)
    assert "its name is not UTF-8" in result.stderr
    odd.unlink()
    assert f"{crops}: left out 2: erased, as a receipt says\n" in result.stderr
    assert f"{crops}: left out 10: in the gallery already\n" in result.stderr
    assert len(Gallery.open(g)) == 10
    succeed("add", g, crops)
    with Gallery.open(g) as gallery:
        assert tuple(column(gallery, "source")[10:]) == gone
        assert column(gallery, "item")[10:] == [12, 13]


def test_a_picture_of_several_people_brings_those_that_are_not_there(tmp_path):
    picture, boxes = draw_scene(people=(1, 2, 3), camera=1, frame=1)
    (tmp_path / "full").mkdir()
    picture.save(tmp_path / "full" / "1.png")
    # 0.1 is another number in single precision, in which the gallery has it.
    rows = [f"1.png,{x + 0.1},{y + 0.1},{w},{h}" for x, y, w, h in boxes]
    for name, some in (("first", rows[:1]), ("all", rows)):
        (tmp_path / f"{name}.csv").write_text("\n".join(["file,x,y,w,h", *some]))
    options = [tmp_path / "full", "--boxes", tmp_path / "first.csv"]
    succeed("build", "--extractor", "stripes", *options, "--out", tmp_path / "g")
    result = succeed("add", tmp_path / "g", tmp_path / "full", "--boxes", tmp_path / "all.csv")
    assert result.stderr == (
        f"{tmp_path}/full: left out 1: in the gallery already\n"
        f"{tmp_path}/g: 2 items added, 3 in all\n"
    )
    found = np.array(column(Gallery.open(tmp_path / "g"), "box"))
    shifted = [(x + 0.1, y + 0.1, w, h) for x, y, w, h in boxes]
    np.testing.assert_allclose(found, shifted, atol=1e-4)


@pytest.mark.parametrize("kind", ["boxes", "csv", "parquet"])
def test_of_a_picture_of_several_people_only_the_erased_stay_out(tmp_path, kind):
    """However their boxes are given, and whatever becomes of them in single precision."""
    picture, drawn = draw_scene(people=(1, 2, 3), camera=1, frame=1)
    (tmp_path / "full").mkdir()
    picture.save(tmp_path / "full" / "1.png")
    boxes = [[x + 0.1, y + 1 / 3, w, h] for x, y, w, h in drawn]
    nearly = [boxes[1][0] + 0.01, *boxes[1][1:]]

    def source(name, some):
        path = tmp_path / f"{name}.{'parquet' if kind == 'parquet' else 'csv'}"
        if kind == "parquet":
            table = {"source": ["full/1.png"] * len(some), "box": some}
            pq.write_table(pa.table(table), path)
            return [path]
        file = "1.png" if kind == "boxes" else "full/1.png"
        rows = [f"{file},{','.join(map(repr, map(float, box)))}" for box in some]
        path.write_text("\n".join(["file,x,y,w,h", *rows]))
        return [tmp_path / "full", "--boxes", path] if kind == "boxes" else [path]

    g, receipt = tmp_path / "g", tmp_path / "receipt.json"
    succeed("build", "--extractor", "stripes", *source("two", boxes[:2]), "--out", g)
    succeed("delete", g, "--item", 1, "--receipt", receipt)
    every = source("all", boxes)
    result = succeed("add", g, *every, "--except-erased", receipt)
    root = tmp_path / "full" if kind == "boxes" else tmp_path
    assert result.stderr == (
        f"{root}: left out 1: in the gallery already\n"
        f"{root}: left out 1: erased, as a receipt says\n"
        f"{g}: 1 item added, 2 in all\n"
    )
    expected = np.array([boxes[0], boxes[2]], np.float32)
    np.testing.assert_array_equal(np.array(column(Gallery.open(g), "box"), np.float32), expected)
    again = succeed("add", g, *source("again", [nearly]), "--except-erased", receipt)
    assert again.stderr == f"{g}: 1 item added, 3 in all\n"


def test_metric_and_dtype_are_the_gallerys(world, tmp_path):
    g = tmp_path / "g"
    how = ["--metric", "euclidean", "--dtype", "float16"]
    succeed("build", "--extractor", "stripes", world / "old", "--out", g, *how)
    succeed("add", g, world / "new")
    with Gallery.open(g) as gallery:
        assert {block.dtype.name for block in gallery.blocks} == {"float16"}
        crops = [pixels_of(path) for path in sorted((world / "new").iterdir())]
        expected = StripesExtractor().extract(crops).global_
        np.testing.assert_array_equal(all_vectors(gallery)[4:], expected.astype(np.float16))


def make_plane(folder):
    np.save(folder / "two.npy", np.eye(2))
    np.save(folder / "v.npy", np.array([[3, 4], [-4, 3], [0, 5]], np.float32))
    (folder / "i.csv").write_text("source,camera\na.jpg,1\nb.jpg,2\nc.jpg,\n")
    write_shard(
        folder / "s",
        arrays={"global": ArrayStream.of(np.array([[0, -2]], np.float32))},
        items=[pa.table({"source": ["d.jpg"]})],
        fingerprint=EXTERNAL,
        metric=Metric.COSINE,
    )
    succeed("build", folder / "two.npy", "--extractor", EXTERNAL.name, "--out", folder / "g")
    return folder


@pytest.fixture
def plane(tmp_path):
    """A gallery of two vectors made elsewhere, three more as `v.npy`, and one as the shard `s`."""
    return make_plane(tmp_path)


def test_vectors_and_shards_are_added_as_they_are(plane):
    g = plane / "g"
    result = succeed("add", g, plane / "v.npy", "--items", plane / "i.csv")
    assert result.stderr == f"{g}: 3 items added, 5 in all\n"
    assert succeed("add", g, plane / "s").stderr == f"{g}: 1 item added, 6 in all\n"
    with Gallery.open(g) as gallery:
        found = all_vectors(gallery)[2:]
        np.testing.assert_allclose(found, [[0.6, 0.8], [-0.8, 0.6], [0, 1], [0, -1]], atol=1e-7)
        assert column(gallery, "source")[2:] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
        assert column(gallery, "camera")[2:] == [1, 2, None, None]
    assert not (plane / "g.adding").exists()


def test_a_graph_that_is_stale_now_is_told(place):
    succeed("graph", place / "g", "--k1", "2", "--k2", "1")
    line = "its neighbour graph is stale now; `reid graph` or `reid compact` makes it again"
    assert line in succeed("add", place / "g", place / "crops").stderr


# What is refused


def test_another_extractor_is_refused_before_anything_is_extracted(place, monkeypatch):
    def fingerprint(self):
        return Fingerprint(name="stripes", version="other")

    monkeypatch.setattr(StripesExtractor, "fingerprint", property(fingerprint))
    monkeypatch.setattr(extractors.harvest, "harvest", lambda *_, **__: 1 / 0)
    before = tree(place)
    result = run("add", place / "g", place / "crops")
    assert_refused(result, code=1, text="version: 'other' ≠ '1'")
    assert tree(place) == before


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        ("nowhere crops", 1, "nowhere: there is no such folder; reid build makes one"),
        ("nowhere plane/s", 1, "nowhere: there is no such folder; reid build makes one"),
        ("crops crops", 1, "crops is not a gallery: it has no CURRENT file"),
        ("g nowhere", 1, "nowhere: there is no such file or folder"),
        ("g empty", 1, "empty: there are no pictures in it"),
        ("g plane/v.npy", 1, "g has vectors of the extractor stripes, and plane/v.npy does not"),
        ("g plane/s", 1, "plane/s has 2 dimensions, the gallery 912"),
        ("g crops --items plane/i.csv", 2, "--items means nothing when adding pictures"),
        ("g crops --weights x.onnx", 2, "the extractor stripes takes no weights"),
        ("g crops --except-erased nowhere.json", 1, "nowhere.json"),
        ("plane/g crops", 2, "its vectors were made elsewhere"),
        ("plane/g plane/s --again", 2, "--again means nothing when adding shards"),
        ("plane/g plane/v.npy --except-erased r", 2, "--except-erased means nothing when adding v"),
        ("plane/g plane/v.npy plane/s", 2, "shards and other sources do not mix in one add"),
        ("plane/g plane/v.npy plane/two.npy", 2, "add takes one file of vectors"),
    ],
)
def test_bad_input_gets_one_line_and_its_code_and_changes_nothing(
    everything, monkeypatch, line, code, text
):
    monkeypatch.chdir(everything)
    before = tree(everything)
    assert_refused(run("add", *line.split()), code=code, text=text)
    assert tree(everything) == before


@pytest.fixture(scope="module")
def everything(world, tmp_path_factory):
    """A place with a plane beside, that no test changes."""
    folder = make_place(world, tmp_path_factory.mktemp("everything"))
    (folder / "empty").mkdir()
    (folder / "plane").mkdir()
    make_plane(folder / "plane")
    return folder


def test_a_folder_of_somebody_else_is_not_taken_for_the_addition(place):
    (place / "g.adding").mkdir()
    (place / "g.adding" / "thesis.txt").write_text("mine")
    before = tree(place)
    result = run("add", place / "g", place / "crops")
    assert_refused(result, code=1, text="g.adding is needed for adding and holds something else")
    assert tree(place) == before


# Interrupted


def test_an_addition_that_was_killed_goes_on(place):
    g, crops = place / "g", place / "crops"
    before = tree(g)
    kill("extracting", g, crops, "--batch-size", 4)
    assert tree(g) == before
    assert (place / "g.adding" / "parts" / "part-000001" / "vectors.h5").exists()
    facts = json.loads(succeed("inspect", g, "--format", "json").stdout)
    assert facts["unfinished"] == [str(place / "g.adding")]
    assert "unfinished" in succeed("inspect", g).stdout
    result = succeed("add", g, crops)
    assert result.stderr == (
        f"{crops}: left out 4: in the gallery already\n"
        "4 crops were there from an earlier run\n"
        f"{g}: 8 items added, 12 in all\n"
    )
    assert column(Gallery.open(g), "source") == names_in(crops)
    assert names_in(place) == ["crops", "g"]
    assert "unfinished" not in succeed("inspect", g).stdout


def test_shards_can_be_added_while_an_addition_of_pictures_waits(place):
    g, crops = place / "g", place / "crops"
    write_shard(
        place / "s",
        arrays={"global": ArrayStream.of(np.ones((1, 912), np.float32))},
        items=[pa.table({"source": ["d.jpg"]})],
        fingerprint=StripesExtractor().fingerprint,
        metric=Metric.COSINE,
    )
    kill("extracting", g, crops, "--batch-size", 4)
    succeed("add", g, place / "s")
    assert "4 crops were there from an earlier run" in succeed("add", g, crops).stderr
    assert len(Gallery.open(g)) == 13


def test_pictures_that_were_committed_before_the_kill_are_not_added_twice(place):
    g, crops = place / "g", place / "crops"
    kill("committed", g, crops)
    assert len(Gallery.open(g)) == 12
    assert (place / "g.adding").exists()
    one = sorted(crops.iterdir())[0]
    shutil.copy(one, crops / "0099_c1s1_000001_01.jpg")
    result = succeed("add", g, crops)
    assert result.stderr == (
        f"{g}: the items of an earlier run are in it, which was cut short then\n"
        f"{crops}: left out 12: in the gallery already\n"
        f"{g}: 1 item added, 13 in all\n"
    )
    assert names_in(place) == ["crops", "g"]


@pytest.mark.parametrize("what", ["v.npy", "s", "crops --again"])
def test_what_cannot_be_known_by_its_path_is_not_added_twice_either(
    world, plane, what, monkeypatch
):
    monkeypatch.chdir(plane)
    if "crops" in what:
        shutil.copytree(world / "g", plane / "g", dirs_exist_ok=True)
        shutil.copytree(world / "new", plane / "crops")
    arguments = ["g", *what.split()]
    before = len(Gallery.open("g"))
    kill("committed", *arguments)
    after = Gallery.open("g")
    added = len(after) - before
    assert added > 0
    line = "g: the items of an earlier run are in it, which was cut short then"
    assert succeed("add", *arguments).stderr == f"{line}; nothing is added twice\n"
    assert not (plane / "g.adding").exists()
    assert len(Gallery.open("g")) == len(after)
    # A new wish, not the one that was cut short.
    assert succeed("add", *arguments).exit_code == 0
    assert len(Gallery.open("g")) == len(after) + added


def test_another_addition_after_a_kill_behind_the_commit_is_added(plane):
    kill("committed", plane / "g", plane / "v.npy")
    result = succeed("add", plane / "g", plane / "s")
    assert result.stderr.startswith(f"{plane}/g: the items of an earlier run are in it")
    assert result.stderr.endswith(f"{plane}/g: 1 item added, 6 in all\n")


def test_a_commit_that_fails_and_takes_effect_all_the_same_is_not_made_twice(plane, monkeypatch):
    add = Gallery.add

    def add_and_fail(*arguments, **options):
        add(*arguments, **options)
        raise OSError(5, "Input/output error", "CURRENT")

    with monkeypatch.context() as patch:
        patch.setattr(Gallery, "add", add_and_fail)
        result = run("add", plane / "g", plane / "v.npy")
        assert_refused(result, code=1, text="CURRENT: Input/output error")
    assert "nothing is added twice" in succeed("add", plane / "g", plane / "v.npy").stderr
    assert len(Gallery.open(plane / "g")) == 5


def test_a_commit_that_fails_leaves_nothing(plane, monkeypatch):
    before = tree(plane)

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device", "vectors.h5")

    monkeypatch.setattr(Gallery, "add", fail)
    result = run("add", plane / "g", plane / "v.npy")
    assert_refused(result, code=1, text="vectors.h5: No space left on device")
    assert tree(plane) == before


def test_a_note_that_cannot_be_read_is_told_and_not_guessed(plane):
    (plane / "g.adding").mkdir()
    (plane / "g.adding" / "run.json").write_text(json.dumps({"key": None}))
    result = run("add", plane / "g", plane / "v.npy")
    assert_refused(result, code=2, text="run.json cannot be read: see by `reid inspect --history`")


def test_two_additions_at_once_do_not_meet(place):
    script = "import sys; from reid_index import Gallery; from cli import add, main\n"
    script += "done = Gallery.add_shards\n"
    script += "def wait(*a, **k): print('adding', flush=True); sys.stdin.read(); done(*a, **k)\n"
    script += "Gallery.add_shards = wait; main.main()"
    command = [REID[0], "-c", script, "add", place / "g", place / "crops"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=ENVIRONMENT, text=True, **pipes) as first:
        assert first.stdout.readline() == "adding\n"
        result = run("add", place / "g", place / "crops")
        assert_refused(result, code=1, text="g.adding: another process is writing to it")
        first.stdin.close()
        assert first.wait() == 0
    assert len(Gallery.open(place / "g")) == 12
