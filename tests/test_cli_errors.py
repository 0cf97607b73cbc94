"""Bad input on the command line: one clear line, the right exit code, and nothing changed."""

import json
import os
import shlex
import shutil
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_world import assert_refused, run, stripes_of, succeed, tree
from PIL import Image

from cli.world import draw_world
from reid_index import ArrayStream, Fingerprint, Gallery, Metric, write_shard

EXTERNAL = "--extractor external:x --out new"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """`crops` of drawn people, the gallery `g` of them, and everything bad beside."""
    folder = tmp_path_factory.mktemp("place")
    draw_world(folder / "crops", people=3, cameras=2, crops_per_camera=2, seed=1)
    succeed("build", "--extractor", "stripes", folder / "crops", "--out", folder / "g")
    (folder / "empty").mkdir()
    (folder / "unreadable").mkdir()
    bad_pictures(folder / "unreadable")
    bad_vectors(folder)
    bad_tables(folder)
    for name, header in (("newer", {"format": [2, 0]}), ("alien", {"format": "mine"})):
        shutil.copytree(folder / "g", folder / f"{name}_gallery")
        edit_json(folder / f"{name}_gallery" / "CURRENT", header)
        shutil.copytree(folder / "shard", folder / f"{name}_shard")
        edit_json(folder / f"{name}_shard" / "shard.json", header)
    shutil.copytree(folder / "g", folder / "cut")
    items = folder / "cut" / "shards" / "000001" / "items.parquet"
    items.write_bytes(items.read_bytes()[:-1])
    (folder / "bare.onnx").write_bytes(b"no card beside it")
    (folder / "broken.onnx").write_bytes(b"not a model")
    card = {"height": 8, "width": 4, "color_order": "RGB", "scale": 1, "mean": [0, 0, 0]}
    card |= {"std": [1, 1, 1], "interpolation": "bilinear"}
    (folder / "broken.json").write_text(json.dumps(card))
    return folder


def edit_json(path, values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def png_header(width, height):
    """A small file that says it is a picture of that size."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    parts = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def bad_pictures(folder):
    (folder / "a_zero.jpg").write_bytes(b"")
    (folder / "b_text.jpg").write_text("I am no picture")
    Image.effect_noise((64, 128), 80).save(folder / "c_cut.png")
    os.truncate(folder / "c_cut.png", 3000)
    (folder / "d_100_megapixel.png").write_bytes(png_header(10_000, 10_000))
    (folder / "e_bomb.png").write_bytes(png_header(40_000, 40_000))
    Image.fromarray(np.zeros((4, 4), np.float32)).save(folder / "f_float.tif")


SKIPPED = [
    "a_zero.jpg: the file is empty",
    "b_text.jpg: not a picture that can be read",
    "c_cut.png: broken: ",
    "d_100_megapixel.png: 10000 × 10000 pixels, over the limit of 80,000,000: it was not decoded",
    "e_bomb.png: over the limit of 80,000,000 pixels: it was not decoded",
    "f_float.tif: 32-bit pixels have no known range",
]


def bad_vectors(folder):
    arrays = {
        "nan": [[1, 2], [np.nan, 1]],
        "inf": [[np.inf, 2], [3, 1]],
        "zero": [[1, 2], [0, 0]],
        "deep": np.ones((2, 2, 2)),
        "text": [["a", "b"]],
        "none": np.ones((0, 2)),
        "two": [[1, 2], [3, 4]],
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.array(array))
    np.save(folder / "pickle.npy", np.array([[{}]], object), allow_pickle=True)
    with (folder / "zip.npy").open("wb") as file:
        np.savez(file, global_=np.ones((2, 2)))
    (folder / "empty.npy").write_bytes(b"")
    (folder / "junk.h5").write_bytes(b"junk")
    (folder / "junk.parquet").write_bytes(b"junk")
    for name, metric in (("shard", Metric.COSINE), ("other_shard", Metric.COSINE)):
        write_shard(
            folder / name,
            arrays={"global": ArrayStream.of(np.eye(2, dtype=np.float32))},
            items=[pa.table({"source": ["a", "b"]})],
            fingerprint=Fingerprint(name="external:x", version=name),
            metric=metric,
        )


def bad_tables(folder):
    (folder / "three.csv").write_text("camera\n1\n2\n3\n")
    (folder / "camera.csv").write_text("camera\n1\nfront\n")
    (folder / "latin.csv").write_bytes("person\nJosé\nx\n".encode("latin-1"))
    (folder / "nofile.csv").write_text("camera\n1\n")
    (folder / "headless.csv").write_text("1,2\n3,4\n")
    (folder / "boxes.csv").write_text("file,x,y,w,h\na.jpg,1,2,-3,4\n")
    (folder / "outside.csv").write_text("file,x,y,w,h\n../a.jpg,1,2,3,4\n")
    pq.write_table(pa.table({"vector": [[1.0, 2.0], [3.0]]}), folder / "ragged.parquet")


BAD_INPUT = [
    # What to build from
    ("build nowhere --out new", 1, "nowhere: there is no such file or folder"),
    ("build empty --out new", 1, "empty: there are no pictures in it"),
    ("build crops --out new --strict --boxes nowhere.csv", 1, "nowhere.csv: cannot be read"),
    ("build crops --out new --boxes boxes.csv", 1, "line 2: the box is -3.0×4.0 pixels"),
    ("build crops --out new --boxes outside.csv", 1, "no path inside the folder of pictures"),
    ("build crops/.. --out new --layout market", 1, "names are not Market-style"),
    ("build crops three.csv --out new", 1, "a list is taken alone"),
    ("build nofile.csv --out new", 1, "every row names its picture"),
    ("build unreadable/a_zero.jpg --strict --out new", 1, "a_zero.jpg: the file is empty"),
    # Where to
    ("build crops --out g", 1, "g is a gallery already; choose another --out"),
    ("build crops --out empty.npy", 1, "exists and is not an empty folder"),
    ("build crops --out empty.npy/new", 1, "Not a directory"),
    # Extractors
    ("build crops --out new --extractor sift", 2, "there are trained, checkpoint, stripes, osnet"),
    ("build crops --out new --extractor onnx", 2, "needs its model file: --weights FILE"),
    ("build crops --out new --weights x.pth", 1, "x.pth: there is no such model file"),
    ("build crops --out new --extractor stripes --weights x", 2, "stripes takes no weights"),
    ("build crops --out new --extractor onnx --weights no.onnx", 1, "no such model file"),
    ("build crops --out new --extractor onnx --weights bare.onnx", 1, "bare.json"),
    ("build crops --out new --extractor onnx --weights broken.onnx", 1, "not a model that onnx"),
    ("build crops --out new --extractor osnet --weights no.pth", 1, "no.pth"),
    ("build crops --out new --device cuda:9", 2, "device 'cuda:9' is not to be had"),
    ("build crops --out new --extractor stripes --device cuda", 2, "stripes runs on the CPU only"),
    ("build crops --out new --extractor onnx --weights bare.onnx --scale 1", 2, "--input-size"),
    # Vectors and shards
    ("build two.npy --out new", 2, "--extractor external:NAME"),
    ("build two.npy --out new --extractor stripes", 2, "--extractor external:NAME"),
    (f"build two.npy --weights x {EXTERNAL}", 2, "--weights means nothing when building from vec"),
    (f"build two.npy nan.npy {EXTERNAL}", 2, "build takes one file of vectors"),
    (f"build two.npy crops {EXTERNAL}", 2, "vector files and other sources do not mix"),
    (f"build nan.npy {EXTERNAL}", 1, "vector 1 (from 0) holds NaN or Inf"),
    (f"build inf.npy {EXTERNAL}", 1, "vector 0 (from 0) holds NaN or Inf"),
    (f"build zero.npy {EXTERNAL}", 1, "vector 1 (from 0) has length 0"),
    (f"build deep.npy {EXTERNAL}", 1, "deep.npy: vectors are (N, D), this holds (2, 2, 2)"),
    (f"build text.npy {EXTERNAL}", 1, "text.npy: vectors are numbers, this holds <U1"),
    (f"build none.npy {EXTERNAL}", 1, "none.npy: it holds no vectors"),
    (f"build pickle.npy {EXTERNAL}", 1, "pickle.npy: cannot be read as vectors"),
    (f"build zip.npy {EXTERNAL}", 1, "zip.npy: cannot be read as vectors"),
    (f"build empty.npy {EXTERNAL}", 1, "empty.npy: cannot be read as vectors"),
    (f"build junk.h5 {EXTERNAL}", 1, "junk.h5: cannot be read as vectors"),
    (f"build junk.parquet {EXTERNAL}", 1, "junk.parquet: not a readable Parquet file"),
    (f"build ragged.parquet {EXTERNAL}", 1, "differ in length or are missing"),
    (f"build two.npy --items three.csv {EXTERNAL}", 1, "three.csv: 2 vectors but 3 items for them"),
    (f"build two.npy --items camera.csv {EXTERNAL}", 1, "camera.csv"),
    (f"build two.npy --items latin.csv {EXTERNAL}", 1, "latin.csv"),
    (f"build two.npy --items nowhere.csv {EXTERNAL}", 1, "nowhere.csv"),
    ("build shard crops --out new", 2, "shards and other sources do not mix in one build"),
    ("build shard other_shard --out new", 1, "(version: 'other_shard' ≠ 'shard')"),
    ("build newer_shard --out new", 1, "format 2 is newer than the 1"),
    ("build alien_shard --out new", 1, "no format version in it"),
    # Galleries
    ("inspect nowhere", 1, "nowhere: there is no such folder; reid build makes one"),
    ("inspect crops", 1, "crops is not a gallery: it has no CURRENT file"),
    ("inspect newer_gallery", 1, "format 2 is newer than the 1 that this reid-index reads"),
    ("query newer_gallery --item 0", 1, "upgrade reid-index"),
    ("verify alien_gallery", 1, "no format version in it"),
    ("query cut --item 0", 1, "cut/shards/000001/items.parquet has"),
    ("verify cut", 1, "cut/shards/000001/items.parquet has"),
    # Queries
    ("query g", 2, "a TARGET or --item N, one of the two"),
    ("query g crops --item 1", 2, "a TARGET or --item N, one of the two"),
    ("query g nowhere.jpg", 1, "nowhere.jpg: there is no such file or folder"),
    ("query g empty", 1, "empty: there are no pictures in it to look for"),
    ("query g unreadable/c_cut.png", 1, "c_cut.png: broken"),
    ("query g unreadable/d_100_megapixel.png", 1, "over the limit of 80,000,000"),
    ("query g --item 99", 2, "there is no item 99"),
    ("query g --item 99999999999999999999999", 2, "there is no item 99999999999999999999999"),
    ("query g --item 1 --top 0", 2, "--top must be at least 1, got 0"),
    ("query g --item 1 --top -3", 2, "--top must be at least 1, got -3"),
    ("query g --item 1 --threshold nan", 2, "the threshold must be a finite number, got nan"),
    ("query g two.npy", 1, "the query has 2 dimensions, the gallery 912"),
    ("query g nan.npy", 1, "the query has 2 dimensions, the gallery 912"),
    ("query plane nan.npy", 1, "the query holds NaN or Inf"),
    ("query plane inf.npy", 1, "the query holds NaN or Inf"),
    ("query plane zero.npy", 1, "the query has length 0"),
    ("query plane none.npy", 1, "a query is (D,) or (n, D) with n ≥ 1"),
]


@pytest.mark.parametrize(
    ("line", "code", "text"), BAD_INPUT, ids=[line for line, _, _ in BAD_INPUT]
)
def test_bad_input_gets_one_line_and_its_code_and_changes_nothing(
    place, before, monkeypatch, line, code, text
):
    monkeypatch.chdir(place)
    assert_refused(run(*shlex.split(line)), code=code, text=text)
    assert tree(place) == before


@pytest.fixture(scope="module")
def before(place):
    """Makes a gallery of the vectors (1, 2) and (3, 4); the files as they then are."""
    arguments = ["--extractor", "external:x", "--out", place / "plane"]
    succeed("build", "--extractor", "stripes", place / "two.npy", *arguments)
    return tree(place)


@pytest.mark.parametrize(
    ("where", "text", "caret"),
    [
        ("camera = 1 AND hat = 'red'", "unknown column 'hat'", 16),
        ("camera = 'one'", "'one' does not fit column 'camera' (int32)", 10),
        ("camera = 1 AND (person = '0001'", "the expression ends too early", 32),
        ("camera == = 1", "character 11", 11),
        ("__import__('os')", "character 11", 11),
        ("", "the expression is empty", 1),
    ],
)
def test_a_bad_where_shows_the_place(place, where, text, caret):
    result = run("query", place / "g", "--item", "0", "--where", where)
    assert (result.exit_code, result.stdout) == (2, "")
    first, expression, mark = result.stderr.splitlines()
    assert first.startswith("reid: where: ")
    assert text in first
    assert expression == f"  {where}"
    assert mark == " " * (caret + 1) + "^"


def test_a_folder_without_one_readable_picture_lists_them_and_leaves_nothing(place, tmp_path):
    result = run("build", "--extractor", "stripes", place / "unreadable", "--out", tmp_path / "new")
    assert (result.exit_code, result.stdout) == (1, "")
    *skipped, count, last = result.stderr.splitlines()
    for line, expected in zip(skipped, SKIPPED, strict=True):
        assert line.startswith(f"skipped: {place}/unreadable/{expected}")
    assert count == "6 of 6 were skipped"
    assert last == (
        f"reid: {place}/unreadable: not one of 6 pictures can be read; a list's paths are relative "
        "to its own folder"
    )
    assert list(tmp_path.iterdir()) == []


def odd_pictures(folder):
    """Pictures that must be read, each with the RGB pixels it stands for."""
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 256, (24, 12, 3), np.uint8)
    grey = rng.integers(0, 256, (24, 12), np.uint8)
    marks = rng.integers(0, 2, (24, 12), np.uint8)
    colours = np.array([[250, 20, 40], [10, 90, 200]], np.uint8)
    plain = Image.fromarray(rgb)
    palette = Image.new("P", (12, 24))
    palette.putdata(marks.ravel().tolist())
    palette.putpalette(colours.tobytes())
    alpha = np.dstack([rgb, rng.integers(0, 256, (24, 12), np.uint8)])
    inks = [Image.fromarray(channel) for channel in (*np.moveaxis(255 - rgb, -1, 0), 0 * grey)]
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = {
        "16bit.png": (Image.fromarray(grey.astype(np.uint16) * 257), np.dstack([grey] * 3)),
        "alpha.png": (Image.fromarray(alpha), rgb),
        "cmyk.tif": (Image.merge("CMYK", inks), rgb),
        "one.png": (Image.fromarray(rgb[:1, :1]), rgb[:1, :1]),
        "palette.png": (palette, colours[marks]),
        "turned.png": (plain, np.rot90(rgb, -1)),
    }
    for name, (image, _) in pictures.items():
        image.save(folder / name, **({"exif": exif} if name == "turned.png" else {}))
    return {name: pixels for name, (_, pixels) in pictures.items()}


def test_odd_pictures_are_read_and_bad_ones_among_them_skipped(tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    expected = odd_pictures(folder)
    bad_pictures(folder)
    (folder / os.fsdecode(b"z_\xff.png")).write_bytes((folder / "one.png").read_bytes())
    (folder / "z_\x1b[31m\n.png").write_bytes(b"")
    result = succeed("build", "--extractor", "stripes", folder, "--out", tmp_path / "g")
    *skipped, count, last = result.stderr.splitlines()
    assert count == "8 of 14 were skipped"
    assert last == f"{tmp_path}/g: 6 items"
    reasons = [*SKIPPED, "z_�[31m�.png: the file is empty", "z_�.png: its name is not UTF-8"]
    for line, reason in zip(skipped, reasons, strict=True):
        assert line.startswith(f"skipped: {folder}/{reason}")
    gallery = Gallery.open(tmp_path / "g")
    assert gallery.items["source"].to_pylist() == list(expected)
    np.testing.assert_allclose(gallery.vectors(range(6)), stripes_of(*expected.values()), atol=1e-6)


def test_strict_makes_the_first_skipped_picture_fatal(tmp_path):
    (tmp_path / "in").mkdir()
    odd_pictures(tmp_path / "in")
    (tmp_path / "in" / "b.jpg").write_bytes(b"")
    result = run(
        "build", "--extractor", "stripes", tmp_path / "in", "--out", tmp_path / "g", "--strict"
    )
    assert_refused(result, code=1, text="b.jpg: the file is empty")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("what", ["source", "out", "weights", "vectors"])
def test_a_path_that_is_not_utf8_is_refused_where_a_gallery_must_hold_it(place, tmp_path, what):
    odd = tmp_path / os.fsdecode(b"\xff.npy")
    paths = {"source": place / "crops", "out": tmp_path / "g", "weights": place / "broken.onnx"}
    options = []
    if what == "source":
        paths["source"] = odd
        shutil.copytree(place / "crops", odd)
    elif what == "vectors":
        paths["source"] = odd
        shutil.copy(place / "two.npy", odd)
        options = ["--extractor", "external:x"]
    elif what == "weights":
        options = ["--extractor", "onnx", "--weights", odd]
    else:
        paths["out"] = odd
    before = tree(tmp_path)
    result = run(
        "build", "--extractor", "stripes", paths["source"], "--out", paths["out"], *options
    )
    assert_refused(result, code=2, text="�.npy: the path is not UTF-8, so no gallery can hold it")
    assert tree(tmp_path) == before
