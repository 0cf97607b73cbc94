"""`reid build` from every kind of source, and what an interrupted or refused build leaves."""

import json
import shutil
import subprocess
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_world import (
    ENVIRONMENT,
    REID,
    assert_refused,
    pixels_of,
    real,
    run,
    stripes_of,
    succeed,
    tree,
)
from PIL import Image

import extractors.harvest
from cli.world import draw_scene, draw_world
from reid_index import ArrayStream, Fingerprint, Gallery, Metric, write_shard

SCRIPT = """
import sys, functools, extractors.harvest as harvest
harvest.Pace = functools.partial(harvest.Pace, part_rows=4)
write, calls = harvest.write_shard, []
def write_shard(*arguments, **options):
    calls.append(1)
    if len(calls) == 2:
        {second}
    write(*arguments, **options)
harvest.write_shard = write_shard
from cli.main import main
main()
"""
KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
PAUSE = "print('writing', flush=True); sys.stdin.read()"


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """18 crops of 4 drawn people, with Market-style names."""
    folder = tmp_path_factory.mktemp("world") / "crops"
    assert draw_world(folder, people=4, cameras=3, crops_per_camera=2, seed=1) == 18
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "g"


def built(*sources, out, **options):
    named = [f"--{name}={value}" for name, value in options.items()]
    is_other = any((Path(source) / "shard.json").exists() for source in sources)
    if not is_other and "extractor" not in options:
        named += ["--extractor", "stripes"]
    succeed("build", *sources, "--out", out, *named)
    assert not out.with_name(f"{out.name}.building").exists()
    return Gallery.open(out)


def column(gallery, name):
    return gallery.items[name].to_pylist()


def all_vectors(gallery):
    return gallery.vectors(range(len(gallery)))


def people_of(names):
    """What Market-style names say, read without the code that is tested."""
    cut = [name.replace("s1", "").split("_") for name in names]
    return [(person, int(camera[1:]), int(frame)) for person, camera, frame, _ in cut]


# Pictures


def test_a_market_style_folder_gives_the_vectors_of_the_files_and_what_their_names_say(crops, out):
    result = succeed("build", "--extractor", "stripes", crops, "--out", out)
    assert (result.stdout, result.stderr) == ("", f"{out}: 18 items\n")
    gallery = Gallery.open(out)
    names = sorted(path.name for path in crops.iterdir())
    assert column(gallery, "item") == list(range(18))
    assert column(gallery, "source") == names
    columns = [column(gallery, name) for name in ("person", "camera", "frame_first")]
    assert list(zip(*columns, strict=True)) == people_of(names)
    expected = stripes_of(*(pixels_of(crops / name) for name in names))
    np.testing.assert_allclose(all_vectors(gallery), expected, atol=1e-6)


def test_other_names_tell_nothing_and_folders_are_searched_in_depth(crops, tmp_path, out):
    pictures = sorted(crops.iterdir())[:2]
    for source, path in zip(pictures, ("a/b/one.jpg", "two.jpg"), strict=True):
        (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / "in" / path)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    result = succeed("build", "--extractor", "stripes", tmp_path / "in", "--out", out)
    assert "left out 1: no picture by its name" in result.stderr
    gallery = Gallery.open(out)
    assert sorted(column(gallery, "source")) == ["a/b/one.jpg", "two.jpg"]
    assert column(gallery, "person") == column(gallery, "camera") == [None, None]


def test_layout_folder_reads_nothing_from_market_style_names(crops, out):
    gallery = built(crops, out=out, layout="folder")
    assert len(gallery) == 18
    assert set(column(gallery, "person")) == {None}


def test_several_folders_have_their_common_root(crops, tmp_path, out):
    first, second = sorted(crops.iterdir())[:2]
    for number, path in enumerate((first, second)):
        (tmp_path / f"day{number}").mkdir()
        shutil.copy(path, tmp_path / f"day{number}")
    gallery = built(tmp_path / "day0", tmp_path / "day1", out=out)
    assert column(gallery, "source") == [f"day0/{first.name}", f"day1/{second.name}"]
    assert gallery.root_of(0) == str(tmp_path)


def test_single_files_are_taken_in_the_order_given(crops, out):
    first, second = sorted(crops.iterdir())[:2]
    gallery = built(second, first, out=out)
    assert column(gallery, "source") == [second.name, first.name]


def test_junk_is_left_out_unless_kept_and_a_distractor_is_nobody(crops, tmp_path, out):
    names = ["-1_c1s1_000001_01.jpg", "0000_c2s1_000002_01.jpg", "0007_c3s1_000003_01.jpg"]
    (tmp_path / "in").mkdir()
    for name, source in zip(names, sorted(crops.iterdir())[:3], strict=True):
        shutil.copy(source, tmp_path / "in" / name)
    result = succeed("build", "--extractor", "stripes", tmp_path / "in", "--out", out)
    assert "left out 1: junk (person -1)" in result.stderr
    gallery = Gallery.open(out)
    assert column(gallery, "source") == names[1:]
    assert column(gallery, "person") == [None, "0007"]
    assert column(gallery, "role") == ["distractor", None]
    succeed(
        "build",
        "--extractor",
        "stripes",
        tmp_path / "in",
        "--out",
        tmp_path / "kept",
        "--keep-junk",
    )
    assert column(Gallery.open(tmp_path / "kept"), "role") == ["junk", "distractor", None]


LISTED = {
    "file": ["c.jpg", "sub/d.jpg"],
    "camera": [4, None],
    "person": ["0012", None],
    "start": ["2024-05-01T12:00:00Z", None],
    "attr.hat": ["yes", None],
}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_list_of_files_brings_its_columns(crops, tmp_path, out, kind):
    (tmp_path / "sub").mkdir()
    for name, source in zip(LISTED["file"], sorted(crops.iterdir())[:2], strict=True):
        shutil.copy(source, tmp_path / name)
    path = tmp_path / f"list.{kind}"
    if kind == "csv":
        rows = zip(*LISTED.values(), strict=True)
        lines = [LISTED, *([("" if cell is None else str(cell)) for cell in row] for row in rows)]
        path.write_text("".join(",".join(line) + "\n" for line in lines))
    else:
        pq.write_table(pa.table(LISTED), path)
    gallery = built(path, out=out)
    assert column(gallery, "source") == LISTED["file"]
    assert column(gallery, "camera") == [4, None]
    assert column(gallery, "person") == ["0012", None]
    assert column(gallery, "attr.hat") == ["yes", None]
    assert column(gallery, "start")[0].isoformat() == "2024-05-01T12:00:00+00:00"
    expected = stripes_of(*(pixels_of(tmp_path / name) for name in LISTED["file"]))
    np.testing.assert_allclose(all_vectors(gallery), expected, atol=1e-6)


def box_files(folder, scenes):
    """The same boxes of scenes {name: boxes} as CSV, COCO and MOTChallenge; frames are 1, 2."""
    numbered = [(frame, name, box) for frame, name in enumerate(scenes, 1) for box in scenes[name]]
    rows = [",".join(map(str, (name, *box))) for _, name, box in numbered]
    (folder / "boxes.csv").write_text("\n".join(["file,x,y,w,h", *rows]))
    images = [{"id": frame, "file_name": name} for frame, name in enumerate(scenes, 1)]
    found = [{"image_id": frame, "bbox": list(box)} for frame, _, box in numbered]
    (folder / "boxes.json").write_text(json.dumps({"images": images, "annotations": found}))
    # MOTChallenge counts pixels from 1.
    mot = [
        f"{frame},{n},{x + 1},{y + 1},{w},{h}"
        for n, (frame, _, (x, y, w, h)) in enumerate(numbered, 1)
    ]
    (folder / "boxes.txt").write_text("\n".join(mot))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Two full pictures with five people, and their boxes in three formats."""
    folder = tmp_path_factory.mktemp("scenes")
    drawn = {}
    for frame, people in ((1, (1, 2, 3)), (2, (2, 4))):
        picture, drawn[f"{frame:06d}.png"] = draw_scene(people=people, camera=1, frame=frame)
        picture.save(folder / f"{frame:06d}.png")
    box_files(folder, drawn)
    return folder, drawn


@pytest.mark.parametrize("kind", ["csv", "json", "txt"])
def test_people_in_full_pictures_come_from_their_boxes(scenes, out, kind):
    folder, drawn = scenes
    gallery = built(folder, out=out, boxes=folder / f"boxes.{kind}")
    flat = [(name, box) for name, boxes in drawn.items() for box in boxes]
    assert [tuple(box) for box in column(gallery, "box")] == [box for _, box in flat]
    assert column(gallery, "source") == [name for name, _ in flat]
    cut = []
    for name, box in flat:
        x, y, width, height = map(int, box)
        cut.append(pixels_of(folder / name)[y : y + height, x : x + width])
    np.testing.assert_allclose(all_vectors(gallery), stripes_of(*cut), atol=1e-6)


# Vectors and shards


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """Three vectors of length 5 as .npy, .h5 and Parquet, with and without items, and shards."""
    folder = tmp_path_factory.mktemp("vectors")
    array = np.array([[3, 4], [-4, 3], [0, 5]], np.float32)
    np.save(folder / "v.npy", array)
    with h5py.File(folder / "v.h5", "w") as file:
        file["global"] = array
    items = {"source": ["a.jpg", "b.jpg", "c.jpg"], "camera": [1, 2, None]}
    pq.write_table(pa.table({"vector": array.tolist(), **items}), folder / "v.parquet")
    (folder / "i.csv").write_text("source,camera\na.jpg,1\nb.jpg,2\nc.jpg,\n")
    for name, extra in (("plain", {}), ("numbered", {"item": [10, 20, 30]})):
        write_shard(
            folder / name,
            arrays={"global": ArrayStream.of(array)},
            items=[pa.table(items | extra)],
            fingerprint=Fingerprint(name="external:mine", version="1"),
            metric=Metric.EUCLIDEAN,
            root="/somewhere",
        )
    return folder


@pytest.mark.parametrize(
    "arguments", [["v.npy", "--items", "i.csv"], ["v.h5", "--items", "i.csv"], ["v.parquet"]]
)
def test_vectors_made_elsewhere_come_with_their_items(vectors, out, monkeypatch, arguments):
    monkeypatch.chdir(vectors)
    gallery = built(*arguments, out=out, extractor="external:mine")
    np.testing.assert_allclose(all_vectors(gallery), [[0.6, 0.8], [-0.8, 0.6], [0, 1]], atol=1e-7)
    assert column(gallery, "source") == ["a.jpg", "b.jpg", "c.jpg"]
    assert column(gallery, "camera") == [1, 2, None]
    assert gallery.fingerprint == Fingerprint(name="external:mine", version="1")


def test_vectors_without_items_are_named_by_file_and_row(vectors, out):
    gallery = built(vectors / "v.npy", out=out, extractor="external:mine")
    assert column(gallery, "source") == ["v.npy#0", "v.npy#1", "v.npy#2"]


@pytest.mark.parametrize(("shard", "ids"), [("plain", [0, 1, 2]), ("numbered", [10, 20, 30])])
def test_a_shard_of_somebody_else_keeps_its_ids_metric_and_extractor(vectors, out, shard, ids):
    gallery = built(vectors / shard, out=out)
    assert column(gallery, "item") == ids
    assert gallery.metric is Metric.EUCLIDEAN
    assert gallery.fingerprint.name == "external:mine"
    assert gallery.root_of(2) == "/somewhere"
    assert all_vectors(gallery).tolist() == [[3, 4], [-4, 3], [0, 5]]


def test_metric_and_dtype_are_as_asked(vectors, out):
    options = {"extractor": "external:mine", "metric": "inner_product", "dtype": "float16"}
    gallery = built(vectors / "v.npy", out=out, **options)
    assert gallery.metric is Metric.INNER_PRODUCT
    assert all_vectors(gallery).tolist() == [[3, 4], [-4, 3], [0, 5]]
    with h5py.File(out / "shards" / "000001" / "vectors.h5") as file:
        assert file["global"].dtype == np.float16


# Interrupted, twice, failed


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of 4 crops and more, so that a handful of crops makes several."""
    small = partial(extractors.harvest.Pace, part_rows=4)
    monkeypatch.setattr(extractors.harvest, "Pace", small)


def script(second, *arguments):
    """A build in a process of its own that does something before it writes its second part."""
    command = [REID[0], "-c", SCRIPT.format(second=second), "build"]
    command += ["--extractor", "stripes", *map(str, arguments)]
    return partial(subprocess.Popen, command, env=ENVIRONMENT, text=True)


def assert_same_galleries(one, other):
    np.testing.assert_array_equal(all_vectors(one), all_vectors(other))
    assert one.items.equals(other.items)


def test_a_build_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(crops, tmp_path, out):
    whole = built(crops, out=tmp_path / "whole")
    process = script(KILL, crops, "--out", out, "--batch-size", 4)()
    assert process.wait() == -9
    left = tmp_path / "g.building"
    assert not out.exists()
    assert (left / "parts" / "part-000001" / "vectors.h5").exists()
    (left / "parts" / "part-000002.tmp").write_text("a file that a run left behind")
    result = succeed("build", "--extractor", "stripes", crops, "--out", out)
    assert result.stderr == f"4 crops were there from an earlier run\n{out}: 18 items\n"
    assert not left.exists()
    assert_same_galleries(Gallery.open(out), whole)


@pytest.mark.usefixtures("small_parts")
def test_pictures_that_changed_since_the_interruption_are_read_again(
    crops, tmp_path, out, monkeypatch
):
    folder = tmp_path / "in"
    shutil.copytree(crops, folder)
    first, second, *_ = sorted(folder.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(extractors.harvest, "write_shard", fail_at_call(2, KeyboardInterrupt))
        assert (
            run(
                "build", "--extractor", "stripes", folder, "--out", out, "--batch-size", "4"
            ).exit_code
            == 1
        )
    shutil.copy(second, first)
    result = succeed("build", "--extractor", "stripes", folder, "--out", out, "--batch-size", "4")
    assert result.stderr == f"{out}: 18 items\n"
    found = all_vectors(Gallery.open(out))
    np.testing.assert_array_equal(found[0], found[1])


def fail_at_call(number, error):
    calls = []
    write = extractors.harvest.write_shard

    def write_or_fail(*arguments, **options):
        calls.append(arguments)
        if len(calls) == number:
            raise error
        write(*arguments, **options)

    return write_or_fail


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(("call", "left"), [(1, False), (2, True)])
def test_a_failed_build_keeps_only_finished_parts(crops, tmp_path, out, monkeypatch, call, left):
    error = OSError(28, "No space left on device", "part")
    monkeypatch.setattr(extractors.harvest, "write_shard", fail_at_call(call, error))
    result = run("build", "--extractor", "stripes", crops, "--out", out, "--batch-size", "4")
    assert_refused(result, code=1, text="part: No space left on device")
    assert not out.exists()
    kept = sorted(path.name for path in (tmp_path / "g.building" / "parts").glob("*"))
    assert kept == (["journal.json", "part-000001"] if left else [])
    assert (tmp_path / "g.building").exists() is left


@pytest.mark.usefixtures("small_parts")
def test_an_unfinished_build_with_another_metric_is_not_gone_on_with(
    crops, tmp_path, out, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(extractors.harvest, "write_shard", fail_at_call(2, OSError("full")))
        run("build", "--extractor", "stripes", crops, "--out", out, "--batch-size", "4")
    before = tree(tmp_path)
    result = run("build", "--extractor", "stripes", crops, "--out", out, "--metric", "euclidean")
    assert_refused(result, code=2, text="holds an unfinished run with another metric")
    assert tree(tmp_path) == before


def test_two_builds_into_one_folder_do_not_meet(crops, tmp_path, out):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with script(PAUSE, crops, "--out", out, "--batch-size", 4)(**pipes) as first:
        assert first.stdout.readline() == "writing\n"
        before = tree(tmp_path)
        result = run("build", "--extractor", "stripes", crops, "--out", out)
        assert_refused(result, code=1, text="another process is writing to it; wait until it has")
        assert tree(tmp_path) == before
        first.stdin.close()
        assert first.wait() == 0
    assert len(Gallery.open(out)) == 18


def test_a_taken_folder_is_refused_and_not_touched(crops, tmp_path, out):
    built(crops, out=out)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    before = tree(tmp_path)
    assert_refused(
        run("build", "--extractor", "stripes", crops, "--out", out),
        code=1,
        text="g is a gallery already",
    )
    again = run("build", "--extractor", "stripes", crops, "--out", tmp_path / "taken")
    assert_refused(again, code=1, text="exists and is not an empty folder; choose another --out")
    assert tree(tmp_path) == before


def test_an_empty_folder_is_taken(crops, out):
    out.mkdir()
    assert len(built(crops, out=out)) == 18


def test_a_real_process_says_the_same_and_ends_with_the_code(crops, out):
    command = [*REID, "build", "--extractor", "stripes", crops, "--out", out]
    first, second = (
        subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True) for _ in range(2)
    )
    assert (first.returncode, first.stdout, first.stderr) == (0, "", f"{out}: 18 items\n")
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr == f"reid: {out} is a gallery already; choose another --out\n"


# Real crops


def direct_onnx(model, batch):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: batch})[0]


def direct_openvino(model, batch):
    import openvino

    core = openvino.Core()
    network = core.read_model(model)
    network.reshape(list(batch.shape))
    return next(
        iter(
            core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(batch).values()
        )
    )


def direct_input(path, card):
    """A crop as the card says, resized by Pillow, without the code that is tested."""
    size = (card["width"], card["height"])
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))
    ordered = pixels if card["color_order"] == "RGB" else pixels[..., ::-1]
    scaled = (ordered * card["scale"] - card["mean"]) / card["std"]
    return scaled.transpose(2, 0, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("extractor", "model", "direct"),
    [
        ("onnx", "osnet_x0_25_msmt17.onnx", direct_onnx),
        ("openvino", "person-reidentification-retail-0288.xml", direct_openvino),
    ],
)
def test_real_crops_get_the_models_own_vectors_and_answers(tmp_path, out, extractor, model, direct):
    # Not importorskip: only the extractor imports OpenVINO in a way that sends nothing anywhere.
    if extractor == "openvino" and find_spec("openvino") is None:
        pytest.skip("the extra openvino is not installed")
    weights = real("models", model)
    crops = sorted(real("market1501", "bounding_box_train").glob("*.jpg"))[:1200:20]
    (tmp_path / "in").mkdir()
    for crop in crops:
        shutil.copy(crop, tmp_path / "in")
    gallery = built(tmp_path / "in", out=out, extractor=extractor, weights=weights)
    card = json.loads(weights.with_suffix(".json").read_bytes())
    expected = direct(weights, np.stack([direct_input(crop, card) for crop in crops]))
    expected = expected.reshape(60, -1) / np.linalg.norm(expected.reshape(60, -1), axis=1)[:, None]
    assert np.sum(all_vectors(gallery) * expected, axis=1).min() >= 0.9999

    query = ["query", out, crops[7], "--not-camera", "own", "--format", "jsonl", "--top", "5"]
    rows = [json.loads(line) for line in succeed(*query).stdout.splitlines()]
    cameras = np.array(column(gallery, "camera"))
    similar = np.where(cameras == cameras[7], -np.inf, expected @ expected[7])
    assert [row["item"] for row in rows] == np.argsort(-similar, kind="stable")[:5].tolist()
    assert [row["similarity"] for row in rows] == pytest.approx(np.sort(similar)[:-6:-1], abs=1e-3)
    assert rows[0]["source"] == crops[rows[0]["item"]].name


def test_a_folder_of_somebody_else_is_not_taken_for_the_build(crops, tmp_path):
    other = tmp_path / "g.building"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    result = run("build", "--extractor", "stripes", crops, "--out", tmp_path / "g")
    assert_refused(result, code=1, text="g.building is needed for building and holds something")
    assert (other / "thesis.txt").read_text() == "mine"


def test_an_out_that_no_folder_can_become_is_refused_at_once(crops, tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    result = run("build", "--extractor", "stripes", crops, "--out", tmp_path / "link")
    assert_refused(result, code=1, text="link is a link, a mount point or the working folder")
    monkeypatch.chdir(tmp_path / "real")
    assert_refused(
        run("build", "--extractor", "stripes", crops, "--out", "."),
        code=1,
        text="the working folder",
    )
    assert list((tmp_path / "real").iterdir()) == []


def test_many_skipped_pictures_do_not_flood_the_terminal(tmp_path):
    for number in range(30):
        (tmp_path / f"{number:02d}.jpg").write_bytes(b"")
    lines = run(
        "build", "--extractor", "stripes", tmp_path, "--out", tmp_path / "g"
    ).stderr.splitlines()
    assert sum(line.startswith("skipped: /") for line in lines) == 20
    assert lines[20:22] == ["skipped: more are counted, not listed", "30 of 30 were skipped"]
