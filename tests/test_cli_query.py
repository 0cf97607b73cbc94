"""`reid query`: every kind of target, what may be returned, and what the sheet shows."""

import json
import os
import re
import shutil

import numpy as np
import onnx
import pyarrow as pa
import pytest
from cli_world import Sheet, assert_refused, pixels_of, run, stripes_of, succeed
from PIL import Image

from cli.world import draw_scene, draw_world
from extractors.stripes import StripesExtractor
from reid_index import ArrayStream, Fingerprint, Gallery, Metric, write_shard


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with `crops` of 4 drawn people and the gallery `g` of them."""
    folder = tmp_path_factory.mktemp("world")
    draw_world(folder / "crops", people=4, cameras=3, crops_per_camera=2, seed=1)
    succeed("build", "--extractor", "stripes", folder / "crops", "--out", folder / "g")
    return folder


@pytest.fixture(scope="module")
def unit(world):
    """Unit vectors of the crops in the order of the items, by the extractor alone."""
    return stripes_of(*map(pixels_of, crops_of(world)))


def crops_of(world):
    return sorted((world / "crops").iterdir())


def rows_of(*arguments):
    result = succeed("query", *arguments, "--format", "jsonl")
    return [json.loads(line) for line in result.stdout.splitlines()]


def items_of(*arguments):
    return [row["item"] for row in rows_of(*arguments)]


def ranked(similar, *, top=20, allowed=None):
    """Item ids by falling similarity, among those allowed."""
    ids = [item for item in range(len(similar)) if allowed is None or allowed[item]]
    return sorted(ids, key=lambda item: -similar[item])[:top]


# Targets


def test_a_picture_is_ranked_by_the_cosine_of_its_vector(world, unit):
    rows = rows_of(world / "g", crops_of(world)[5], "--top", "6")
    similar = unit @ unit[5]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["item"] for row in rows] == ranked(similar, top=6)
    assert [row["similarity"] for row in rows] == pytest.approx(
        np.sort(similar)[:-7:-1].tolist(), abs=1e-6
    )
    first = crops_of(world)[5].name
    assert {name: rows[0][name] for name in ("source", "camera", "person")} == {
        "source": first,
        "camera": int(first[6]),
        "person": first[:4],
    }


def copy_pair(world, folder, numbers):
    folder.mkdir()
    for number in numbers:
        shutil.copy(crops_of(world)[number], folder)


def test_a_folder_is_the_mean_of_its_vectors_or_the_best_of_them(world, unit, tmp_path):
    copy_pair(world, tmp_path / "two", (2, 14))
    scores = unit @ unit[[2, 14]].T
    expected_mean = ranked(scores.mean(axis=1))
    expected_best = ranked(scores.max(axis=1))
    assert expected_mean != expected_best
    assert items_of(world / "g", tmp_path / "two") == expected_mean
    best = rows_of(world / "g", tmp_path / "two", "--combine", "best")
    assert sorted(expected_best[:2]) == sorted(row["item"] for row in best[:2]) == [2, 14]
    assert [row["item"] for row in best[2:]] == expected_best[2:]
    assert best[1]["similarity"] == pytest.approx(1, abs=1e-6)


def test_a_picture_of_a_folder_that_cannot_be_read_is_an_error(world, tmp_path):
    copy_pair(world, tmp_path / "two", (2, 14))
    (tmp_path / "two" / "z.jpg").write_bytes(b"")
    assert_refused(run("query", world / "g", tmp_path / "two"), code=1, text="z.jpg: the file is")


def test_a_vector_is_searched_with_as_it_is(world, unit, tmp_path):
    np.save(tmp_path / "v.npy", 7 * unit[9])
    assert items_of(world / "g", tmp_path / "v.npy") == ranked(unit @ unit[9])


def test_an_item_is_searched_with_its_own_vector(world, unit):
    rows = rows_of(world / "g", "--item", "0", "--top", "4")
    assert [row["item"] for row in rows] == ranked(unit @ unit[0], top=4)
    assert rows[0]["item"] == 0


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    picture, boxes = draw_scene(people=(1, 2, 3), camera=2, frame=7)
    picture.save(folder / "street.png")
    picture.save(folder / "empty.png")
    lines = ["file,x,y,w,h", *(",".join(map(str, ("street.png", *box))) for box in boxes)]
    (folder / "boxes.csv").write_text("\n".join(lines))
    return folder, boxes


def test_a_box_says_which_person_of_a_full_picture(world, unit, scene):
    folder, boxes = scene
    x, y, width, height = map(int, boxes[1])
    pixels = pixels_of(folder / "street.png")
    expected = ranked(unit @ stripes_of(pixels[y : y + height, x : x + width])[0])
    assert expected != ranked(unit @ stripes_of(pixels)[0])
    street = [world / "g", folder / "street.png"]
    assert items_of(*street, "--box", f"{x},{y},{width},{height}") == expected
    assert items_of(*street, "--boxes", folder / "boxes.csv", "--position", "2") == expected


def test_a_box_file_tells_person_and_camera_of_the_target(world, scene, tmp_path):
    folder, boxes = scene
    rows = [",".join(map(str, ("street.png", *box, 7 + n, f"p{n}"))) for n, box in enumerate(boxes)]
    (tmp_path / "b.csv").write_text("\n".join(["file,x,y,w,h,camera,person", *rows]))
    street = [world / "g", folder / "street.png", "--boxes", tmp_path / "b.csv", "--position", "2"]
    page = succeed("query", *street, "--not-camera", "own", "--format", "html").stdout
    assert "<dd>p1</dd>" in page
    assert "A high rank is no proof of who somebody is." in page
    assert succeed("query", *street, "--not-camera", "own").stdout


def test_a_folder_with_boxes_is_one_person_in_several_pictures(world, unit, scene, tmp_path):
    folder, boxes = scene
    shutil.copy(folder / "street.png", tmp_path)
    rows = [",".join(map(str, ("street.png", *box))) for box in boxes[:2]]
    (tmp_path / "b.csv").write_text("\n".join(["file,x,y,w,h", *rows]))
    pixels = pixels_of(folder / "street.png")
    crops = [
        pixels[int(y) : int(y + height), int(x) : int(x + width)]
        for x, y, width, height in boxes[:2]
    ]
    mean = stripes_of(*crops).mean(axis=0)
    found = items_of(world / "g", tmp_path, "--boxes", tmp_path / "b.csv")
    assert found == ranked(unit @ mean)


def test_an_out_without_a_folder_is_refused_before_the_search(world, tmp_path):
    result = run("query", world / "g", "--item", "0", "--out", tmp_path / "no" / "a.csv")
    assert_refused(result, code=2, text=f"there is no folder {tmp_path}/no")


def test_boxes_name_the_end_of_the_pictures_path(world, scene, tmp_path, monkeypatch):
    """Of two that fit, the longer; a name that only ends alike is another picture."""
    folder, boxes = scene
    (tmp_path / "day/1").mkdir(parents=True)
    shutil.copy(folder / "street.png", tmp_path / "day/1")
    names = ("treet.png", "street.png", "1/street.png", "2/street.png")
    rows = [(name, *box) for name, box in zip(names, [*boxes, boxes[0]], strict=True)]
    lines = ["file,x,y,w,h", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path / "day/1")
    x, y, width, height = map(int, boxes[2])
    expected = rows_of(world / "g", "street.png", "--box", f"{x},{y},{width},{height}")
    given = rows_of(world / "g", "street.png", "--boxes", tmp_path / "boxes.csv")
    assert given == expected
    (tmp_path / "boxes.csv").write_text("\n".join([lines[0], lines[1], lines[4]]))
    result = run("query", world / "g", "street.png", "--boxes", tmp_path / "boxes.csv")
    assert_refused(result, code=2, text="it has no box in street.png")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["street.png", "--boxes", "boxes.csv"], "3 people in street.png; say which"),
        (["street.png", "--boxes", "boxes.csv", "--position", "4"], "no person 4 in street.png"),
        (["street.png", "--boxes", "boxes.csv", "--box", "1,1,5,5"], "--box and --boxes clash"),
        (["empty.png", "--boxes", "boxes.csv"], "it has no box in empty.png"),
        (["street.png", "--position", "1"], "it needs --boxes FILE"),
        (["street.png", "--box", "1,2,3"], "four numbers X,Y,W,H"),
        (["street.png", "--box", "1,2,0,9"], "width and height must be above 0"),
        (["street.png", "--box", "1,2,nan,9"], "width and height must be above 0"),
        ([".", "--box", "1,2,3,4"], "a box or position belongs to one picture"),
        (["--item", "1", "--box", "1,2,3,4"], "--item has its own picture"),
    ],
)
def test_boxes_that_say_nothing_clear_are_wrong_usage(world, scene, monkeypatch, options, text):
    monkeypatch.chdir(scene[0])
    assert_refused(run("query", world / "g", *options), code=2, text=text)


def test_a_box_outside_the_picture_is_one_line(world, scene):
    result = run("query", world / "g", scene[0] / "street.png", "--box", "9000,9000,5,5")
    assert_refused(result, code=1, text="covers no pixel of the 480×270 picture")


# What may be returned


def cameras_of(world):
    return np.array([int(path.name[6]) for path in crops_of(world)])


def test_not_camera_leaves_out_numbers_and_the_targets_own(world, unit):
    cameras = cameras_of(world)
    target = crops_of(world)[0]
    assert cameras[0] == 1
    similar = unit @ unit[0]
    query = [world / "g", target, "--not-camera"]
    assert items_of(*query, "2") == ranked(similar, allowed=cameras != 2)
    assert items_of(*query, "own") == ranked(similar, allowed=cameras != 1)
    assert items_of(*query, "own", "--not-camera", "2") == ranked(similar, allowed=cameras == 3)
    assert items_of(world / "g", "--item", "0", "--not-camera", "own") == (
        ranked(similar, allowed=cameras != 1)
    )


@pytest.mark.parametrize("number", ["two", "--5", "1.5", "99999999999", "9" * 5000])
def test_not_camera_wants_a_number(world, number):
    result = run("query", world / "g", "--item", "0", f"--not-camera={number}")
    assert_refused(result, code=2, text="a camera's number or `own`, please")


def test_own_camera_needs_a_target_whose_camera_is_known(world, tmp_path):
    shutil.copy(crops_of(world)[0], tmp_path / "someone.jpg")
    result = run("query", world / "g", tmp_path / "someone.jpg", "--not-camera", "own")
    assert_refused(result, code=2, text="the target's camera is not known; give its number")


def test_where_and_threshold_and_top_narrow_the_answer(world, unit):
    similar, cameras = unit @ unit[0], cameras_of(world)
    item = [world / "g", "--item", "0"]
    where = ["--where", "camera IN (2, 3) AND person != '0001'"]
    strangers = np.array([not path.name.startswith("0001") for path in crops_of(world)])
    allowed = (cameras != 1) & strangers
    assert items_of(*item, *where) == ranked(similar, allowed=allowed)
    assert items_of(*item, *where, "--top", "2") == ranked(similar, allowed=allowed, top=2)
    middle = np.sort(similar)[8:10].mean()
    expected = ranked(similar, allowed=similar >= middle)
    assert items_of(*item, "--threshold", str(middle)) == expected


@pytest.mark.parametrize(
    ("options", "note"),
    [
        (["--top", "18"], ""),
        (["--top", "100"], "only 18 match: 18 of 18 items are allowed\n"),
        (["--where", "person = '0001'"], "only 4 match: 4 of 18 items are allowed\n"),
        (
            ["--top", "3", "--threshold", "0.9999"],
            "only 1 match: the others are beyond the threshold 0.9999\n",
        ),
        (["--where", "camera = 7"], "only 0 match: 0 of 18 items are allowed\n"),
    ],
)
def test_a_short_answer_says_why_and_is_no_failure(world, options, note):
    assert succeed("query", world / "g", "--item", "0", *options).stderr == note


def test_explain_goes_to_standard_error_alone(world):
    query = ["query", world / "g", "--item", "0", "--top", "2", "--not-camera", "own"]
    plain, explained = succeed(*query), succeed(*query, "--explain")
    assert explained.stdout == plain.stdout
    assert plain.stderr == ""
    lines = dict(line.split(maxsplit=1) for line in explained.stderr.splitlines())
    allowed = int(np.sum(cameras_of(world) != 1))
    assert lines["allowed"] == f"{allowed} of 18 items"
    assert (lines["generation"], lines["exact"], lines["where"]) == ("1", "yes", "-")
    assert re.fullmatch(
        r"open [\d.]+ · target [\d.]+ · where [\d.]+ · search [\d.]+ · items [\d.]+", lines["ms"]
    )


# Another extractor, another place


def small_model(path, *, factor):
    """An ONNX model whose vector is factor × the mean colour, and its card."""
    helper = onnx.helper
    scale = helper.make_tensor("scale", onnx.TensorProto.FLOAT, [1], [factor])
    nodes = [
        helper.make_node("GlobalAveragePool", ["in"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Mul", ["flat", "scale"], ["out"]),
    ]
    ports = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("in", ["batch", 3, 8, 4]), ("out", ["batch", 3]))
    ]
    graph = helper.make_graph(nodes, "mean", ports[:1], ports[1:], [scale])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opset), path)
    card = {"height": 8, "width": 4, "color_order": "RGB", "scale": 1, "mean": [0, 0, 0]}
    card |= {"std": [1, 1, 1], "interpolation": "bilinear"}
    path.with_suffix(".json").write_text(json.dumps(card))


def test_a_model_that_moved_is_named_and_a_different_one_refused(world, tmp_path):
    for name, factor in (("m.onnx", 1.0), ("other.onnx", 2.0)):
        small_model(tmp_path / name, factor=factor)
    weights = ["--extractor", "onnx", "--weights", tmp_path / "m.onnx"]
    succeed("build", world / "crops", "--out", tmp_path / "g", *weights)
    query = ["query", tmp_path / "g", crops_of(world)[3], "--top", "1", "--format", "csv"]
    answer = succeed(*query).stdout
    assert crops_of(world)[3].name in answer
    (tmp_path / "moved").mkdir()
    for suffix in ("onnx", "json"):
        (tmp_path / f"m.{suffix}").rename(tmp_path / "moved" / f"m.{suffix}")
    assert_refused(run(*query), code=1, text="is not there; --weights FILE says where")
    assert succeed(*query, "--weights", tmp_path / "moved" / "m.onnx").stdout == answer
    other = run(*query, "--weights", tmp_path / "other.onnx")
    assert_refused(other, code=1, text="the query comes from another extractor than")
    assert re.search(r"\(weights_sha256: '[0-9a-f]{64}' ≠ '[0-9a-f]{64}'\)", other.stderr)


def stored(folder, *, sources, root, **values):
    """A gallery `folder/g` of unit vectors along the axes, from a shard made by hand."""
    fields = {"name": "external:x", "version": "1"} | values
    write_shard(
        folder / "shard",
        arrays={"global": ArrayStream.of(np.eye(len(sources), dtype=np.float32))},
        items=[pa.table({"source": sources})],
        fingerprint=Fingerprint(**fields),
        metric=Metric.COSINE,
        root=str(root),
    )
    succeed("build", folder / "shard", "--out", folder / "g")
    return folder / "g"


def test_a_gallery_of_an_older_stripes_refuses_pictures_with_the_field_that_differs(
    world, tmp_path
):
    fields = StripesExtractor().fingerprint.to_json() | {"version": "0"}
    gallery = stored(tmp_path, sources=["a", "b"], root="", **fields)
    result = run("query", gallery, crops_of(world)[0])
    assert_refused(result, code=1, text="(version: '1' ≠ '0')")


def test_vectors_made_elsewhere_are_not_queried_with_pictures(world, tmp_path):
    gallery = stored(tmp_path, sources=["a", "b"], root="")
    result = run("query", gallery, crops_of(world)[0])
    assert_refused(result, code=2, text="query it with a vector (.npy) of the same extractor")


# The sheet


def sheet_of(*arguments):
    return Sheet(succeed("query", *arguments, "--format", "html").stdout)


def verdicts(page):
    return [verdict for *_, verdict, _ in page.cards]


def test_the_sheet_knows_the_person_by_name_by_item_and_by_option(world, tmp_path):
    persons = [row["person"] for row in rows_of(world / "g", "--item", "4", "--top", "9")]
    right = ["same" if person == "0002" else "other" for person in persons]
    assert {"same", "other"} <= set(right)
    target = crops_of(world)[4]
    page = sheet_of(world / "g", target, "--top", "9")
    assert (verdicts(page), page.query_pictures) == (right, 1)
    assert verdicts(sheet_of(world / "g", "--item", "4", "--top", "9")) == right
    shutil.copy(target, tmp_path / "someone.jpg")
    unnamed = [world / "g", tmp_path / "someone.jpg", "--top", "9"]
    assert verdicts(sheet_of(*unnamed)) == ["unknown"] * 9
    assert verdicts(sheet_of(*unnamed, "--person", "0002")) == right


def test_the_sheet_finds_pictures_that_moved_by_root(world, tmp_path):
    shutil.copytree(world / "crops", tmp_path / "crops")
    succeed("build", "--extractor", "stripes", tmp_path / "crops", "--out", tmp_path / "g")
    query = [tmp_path / "g", "--item", "0", "--top", "3"]

    def pictures(*more):
        result = succeed("query", *query, "--format", "html", *more)
        page = Sheet(result.stdout)
        return page.query_pictures, [shown for *_, shown in page.cards], result.stderr

    assert pictures() == (1, [True] * 3, "")
    (tmp_path / "crops").rename(tmp_path / "moved")
    note = "3 of 3 pictures cannot be shown; --root says where they are now\n"
    assert pictures() == (0, [False] * 3, note)
    assert pictures("--root", tmp_path / "moved") == (1, [True] * 3, "")


def test_only_pictures_below_the_root_are_shown(tmp_path):
    (tmp_path / "root" / "deep").mkdir(parents=True)
    for path in ("secret.png", "root/deep/open.png"):
        Image.new("RGB", (4, 8), "red").save(tmp_path / path)
    os.symlink(tmp_path / "secret.png", tmp_path / "root" / "link.png")
    outside = ["../secret.png", "deep/../../secret.png", str(tmp_path / "root/deep/open.png")]
    sources = ["deep/open.png", "link.png", *outside, "a\0b.png", "x" * 5000, "deep", ""]
    gallery = stored(tmp_path, sources=sources, root=tmp_path / "root")
    np.save(tmp_path / "q.npy", np.arange(len(sources), 0, -1, dtype=np.float32))
    result = succeed("query", gallery, tmp_path / "q.npy", "--format", "html")
    assert "\n8 of 9 pictures cannot be shown; --root" in result.stderr
    page = Sheet(result.stdout)
    assert [int(item) for _, item, *_ in page.cards] == list(range(len(sources)))
    assert [shown for *_, shown in page.cards] == [True] + [False] * 8


def test_names_that_are_not_utf8_reach_the_sheet_and_the_message(world, tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    shutil.copy(crops_of(world)[0], tmp_path / name)
    text = succeed("query", world / "g", tmp_path / name, "--format", "html").stdout
    assert "caf?.jpg" in text
    (tmp_path / name).write_bytes(b"")
    result = run("query", world / "g", tmp_path / name)
    assert_refused(result, code=1, text="caf�.jpg: the file is empty")


def test_a_query_changes_nothing_in_the_gallery(world):
    before = {path: path.stat().st_mtime_ns for path in (world / "g").rglob("*")}
    sheet_of(world / "g", crops_of(world)[0])
    assert {path: path.stat().st_mtime_ns for path in (world / "g").rglob("*")} == before
    assert Gallery.open(world / "g").manifest.generation == 1
