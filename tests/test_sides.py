"""The sides of an evaluation: rows picked, files of a list found, tracklets pooled, refusals."""

import hashlib
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_world import assert_refused, pixels_of, run, stripes_of, succeed
from conftest import FINGERPRINT
from PIL import Image
from scipy.io import savemat
from test_cli_evaluate import assert_figures, evaluated, figures, joint, unit
from test_onnx import save as save_model
from test_sheet import parse

from cli import sides
from cli.sides import Side
from cli.world import draw_crop
from extractors.onnx import OnnxExtractor
from reid_index import Fingerprint, Gallery, Metric
from reid_index.errors import BadItems, BadSource, ExtractorMismatch, NothingToIndex, UsageError
from reid_index.items import conform
from reid_index.shard import write_shard
from reid_index.vectors import ArrayStream


def side(*sources, name="side", metric=Metric.EUCLIDEAN, fingerprint=FINGERPRINT, **columns):
    """A side whose rows hold their own numbers: vector (i, 0), item 10 + i, root r0, r1 …"""
    rows = len(sources)
    table = {"item": range(10, 10 + rows), "source": pa.array(sources, pa.string()), **columns}
    vectors = np.zeros((rows, 2), np.float32)
    vectors[:, 0] = np.arange(rows)
    return Side(
        path=Path(name),
        blocks=[vectors],
        items=conform(pa.table(table)),
        roots=np.array([f"r{row}" for row in range(rows)], object),
        metric=metric,
        fingerprint=fingerprint,
    )


def listed(path, *rows, columns=("file", "split")):
    path.write_text("".join(",".join(row) + "\n" for row in (columns, *rows)))
    return path


def rows_of(found):
    return [item - 10 for item in found.items["item"].to_pylist()]


# Rows


def test_rows_come_from_every_block_in_the_order_asked_for():
    blocks = [np.full((2, 3), 1, np.float32), np.arange(6, dtype=np.float16).reshape(2, 3)]
    both = side("a", "b", "c", "d")
    whole = Side(**(vars(both) | {"blocks": blocks}))
    found = whole.matrix(np.array([3, 0, 2, 3]))
    assert found.dtype == np.float32
    assert found.tolist() == [[3, 4, 5], [1, 1, 1], [0, 1, 2], [3, 4, 5]]
    found[:] = 9
    assert blocks[0].max() == 1
    taken = whole.take(np.array([3, 1]))
    assert [block.tolist() for block in taken.blocks] == [[[3, 4, 5], [1, 1, 1]]]
    assert taken.items["source"].to_pylist() == ["d", "b"]
    assert taken.roots.tolist() == ["r3", "r1"]


def test_what_a_path_is_and_what_is_stored_in_it(make_gallery, tmp_path):
    gallery = make_gallery()
    gallery.add([[1, 0, 0], [0, 2, 0]], [{"source": "a"}, {"source": "b"}], root="/one")
    gallery.add([[0, 0, 1]], [{"source": "c"}], root="/two")
    whole = sides.stored_side(gallery.path)
    assert whole.matrix(np.arange(3)).tolist() == np.eye(3).tolist()
    assert whole.roots.tolist() == ["/one", "/one", "/two"]
    assert (whole.gallery.path, whole.metric) == (gallery.path, Metric.COSINE)
    assert whole.take(np.arange(3)).gallery is None
    shard = gallery.path / gallery.manifest.shards[0].folder
    assert [sides.kind_of(path) for path in (gallery.path, shard, tmp_path, tmp_path / "none")] == [
        "gallery",
        "shard",
        "dataset",
        "dataset",
    ]
    part = sides.stored_side(shard)
    assert (part.items["item"].to_pylist(), part.roots.tolist()) == ([0, 1], ["/one", "/one"])
    assert (part.fingerprint, part.gallery) == (FINGERPRINT, None)


def test_rows_of_a_shard_without_ids_are_told_apart_by_their_numbers(tmp_path):
    write_shard(
        tmp_path / "s",
        arrays={"global": ArrayStream.of(np.eye(3, dtype=np.float32))},
        items=[conform(pa.table({"source": ["a", "b", "c"]}))],
        fingerprint=FINGERPRINT,
        metric=Metric.COSINE,
    )
    assert sides.stored_side(tmp_path / "s").items["item"].to_pylist() == [0, 1, 2]


# Lists


def test_files_are_found_by_path_then_by_its_end_then_by_name(tmp_path):
    path = listed(
        tmp_path / "s.csv",
        ("b/x.jpg", "query"),
        ("other.jpg", "gallery"),
        ("day1/c/x.jpg", "query"),
        ("y.jpg", "query"),
        ("elsewhere/z.jpg", "query"),
    )
    whole = side("a/x.jpg", "b/x.jpg", "c/x.jpg", "day/b/x.jpg", "q/y.jpg", "q/z.jpg", "other.jpg")
    found = sides.apply_split(whole, path, "query")
    assert rows_of(found) == [1, 2, 4, 5]
    assert found.matrix(np.arange(4))[:, 0].tolist() == [1, 2, 4, 5]
    assert rows_of(sides.apply_split(whole, path, "gallery")) == [6]


def test_the_end_of_a_path_is_whole_names(tmp_path):
    path = listed(tmp_path / "s.csv", ("b/x.jpg", "query"))
    with pytest.raises(BadItems, match=r"s\.csv: 'b/x\.jpg' may be 2 items of side; give longer"):
        sides.apply_split(side("ab/x.jpg", "c/x.jpg"), path, "query")


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([("x.jpg", "query")], "'x.jpg' may be 2 items of side"),
        ([("b.jpg", "query"), ("b.jpg", "query")], "'b.jpg' and 'b.jpg' are one item of side"),
        ([("p/y.jpg", "query"), ("y.jpg", "query")], "'p/y.jpg' and 'y.jpg' are one item"),
        (
            [("b.jpg", "query"), ("c.jpg", "query"), ("d.jpg", "query")],
            r"2 of its 3 files are not in side \('c.jpg', …\)",
        ),
        ([("", "query"), ("b.jpg", "query")], "1 rows of the split 'query' name no file"),
        ([("b.jpg", "gallery")], "no row has the split 'query'"),
    ],
)
def test_a_list_that_does_not_say_which_rows_is_refused(tmp_path, rows, text):
    whole = side("p/x.jpg", "q/x.jpg", "b.jpg", "p/y.jpg", None)
    with pytest.raises((BadItems, BadSource), match=text) as error:
        sides.apply_split(whole, listed(tmp_path / "s.csv", *rows), "query")
    assert str(error.value).startswith(f"{tmp_path / 's.csv'}: ")


@pytest.mark.parametrize("columns", [("file", "part"), ("name", "split")])
def test_a_list_needs_both_columns(tmp_path, columns):
    path = listed(tmp_path / "s.csv", ("b.jpg", "query"), columns=columns)
    with pytest.raises(BadSource, match="a split is a list with the columns file and split"):
        sides.apply_split(side("b.jpg"), path, "query")


def test_what_the_list_tells_replaces_what_the_side_has_and_nothing_else_does(tmp_path):
    whole = side("a", "b", "c", person=["1", "2", None], camera=[1, 2, None], night=[True] * 3)
    rows = [("c", "query", "0009", ""), ("a", "query", "", "7")]
    path = listed(tmp_path / "s.csv", *rows, columns=("file", "split", "person", "camera"))
    found = sides.apply_split(whole, path, "query").items
    assert found["person"].to_pylist() == ["0009", "1"]
    assert found["camera"].to_pylist() == [None, 7]
    assert found["night"].to_pylist() == [True, True]
    assert found.schema == whole.items.schema
    bare = listed(tmp_path / "bare.csv", ("b", "query"))
    assert sides.apply_split(whole, bare, "query").items["person"].to_pylist() == ["2"]


def test_a_parquet_list_may_hold_numbers(tmp_path):
    table = pa.table({"file": [17, 4], "split": ["query", "query"], "person": [2, 3]})
    pq.write_table(table, tmp_path / "s.parquet")
    found = sides.apply_split(side("4", "17"), tmp_path / "s.parquet", "query")
    assert rows_of(found) == [1, 0]
    assert found.items["person"].to_pylist() == ["2", "3"]


def test_pictures_of_a_folder_that_a_list_names(tmp_path):
    names = ("a/0001_c1_f1.png", "b/0001_c1_f1.png", "b/-1_c2_f1.png", "b/0002_c1_f1.png")
    for name in names:
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 8)).save(tmp_path / "p" / name)
    rows = [(names[1], "query"), ("-1_c2_f1.png", "query"), ("none.png", "gallery")]
    path = listed(tmp_path / "s.csv", *rows)
    source = sides.split_pictures(tmp_path / "p", path, "query")
    # Which of two equal names is meant, `apply_split` decides; junk is not missing.
    assert [picture.source for picture in source.pictures()] == [names[0], names[2], names[1]]
    assert [picture.people[0].columns["role"] for picture in source.pictures()][1] == "junk"
    assert source.count == 3
    with pytest.raises(BadItems, match=r"s\.csv: none of its files for the split 'gallery' is in"):
        sides.split_pictures(tmp_path / "p", path, "gallery")


# Two extractors


def test_rows_of_two_galleries_are_matched_by_source_and_box():
    boxes = [[1, 2, 3, 4], [5, 6, 7, 8], None]
    first = side("a.jpg", "a.jpg", "b.jpg", box=boxes)
    other = side("b.jpg", "a.jpg", "c.jpg", "a.jpg", box=[None, boxes[1], boxes[0], boxes[0]])
    found = sides.same_rows(first, other)
    assert rows_of(found) == [3, 1, 0]
    assert found.matrix(np.arange(3))[:, 0].tolist() == [3, 1, 0]


@pytest.mark.parametrize(
    ("first", "other", "text"),
    [
        (("a", None), ("a", "b"), "first: items without a source cannot be found in other"),
        (("a", ""), ("a", ""), "first: items without a source cannot be found in other"),
        (("a", "b"), ("a", "c"), "first: 1 of its 2 files are not in other"),
        (("p/a", "q/a"), ("a", "b"), "first: 'p/a' and 'q/a' are one item of other"),
        (("a",), ("a", "a"), "first: 'a' may be 2 items of other"),
    ],
)
def test_rows_that_cannot_be_matched_are_refused(first, other, text):
    with pytest.raises(BadItems, match=text):
        sides.same_rows(side(*first, name="first"), side(*other, name="other"))


def test_sides_that_cannot_be_compared():
    gallery = side("a", name="g")
    sides.check_comparable(gallery, side("b", name="q"))
    newer = Fingerprint(name="external:test", version="2", height=8)
    with pytest.raises(
        ExtractorMismatch,
        match=r"^q comes from another extractor than g \(version: '2' ≠ '1'; height: 8 ≠ None\)",
    ):
        sides.check_comparable(gallery, side("b", name="q", fingerprint=newer))
    with pytest.raises(UsageError, match="q is compared by cosine, g by euclidean: build both"):
        sides.check_comparable(gallery, side("b", name="q", metric=Metric.COSINE))


def test_pictures_cannot_be_embedded_like_vectors_made_elsewhere(make_gallery):
    with pytest.raises(UsageError, match="gallery: its vectors were made elsewhere"):
        sides.recipe_of(Gallery.open(make_gallery().path), weights=None, device="cpu")


# Tracklets


def pooled(metric):
    whole = side("a/1", "b/1", "a/2", "a/3", camera=[1] * 4, track=["t", "t", "t", None])
    vectors = np.array([[3, 0], [0, 2], [0, 5], [0, 7]], np.float32)
    return sides.pooled(Side(**(vars(whole) | {"blocks": [vectors], "metric": metric})))


def test_tracklets_are_pooled_and_of_length_1_for_cosine():
    means = np.array([[0.5, 0.5], [0, 1], [0, 1]])
    found = pooled(Metric.EUCLIDEAN)
    np.testing.assert_allclose(found.matrix(np.arange(3)), means, atol=1e-7)
    assert (rows_of(found), found.roots.tolist()) == ([0, 1, 3], ["r0", "r1", "r3"])
    assert found.gallery is None
    found = pooled(Metric.COSINE).matrix(np.arange(3))
    np.testing.assert_allclose(found, means / [[0.5**0.5], [1], [1]], atol=1e-7)


# Folders


class _Greys:
    """An extractor whose vector is (mean grey, 255)."""

    fingerprint = FINGERPRINT
    dim = 2

    def prepare(self, crop):
        return np.array([crop.mean(), 255], np.float32)

    def embed(self, batch):
        return SimpleNamespace(global_=batch, parts=None, visible=None, attributes=None)


def test_a_folder_is_embedded_and_what_is_broken_is_told(tmp_path, capsys):
    for name, grey in (("a.png", 51), ("c.png", 102)):
        Image.new("L", (4, 8), grey).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"no picture")
    source = sides.find_pictures([tmp_path])
    found = sides.dataset_side(tmp_path, source, _Greys(), metric=Metric.INNER_PRODUCT)
    assert found.matrix(np.arange(2)).tolist() == [[51, 255], [102, 255]]
    assert found.items["source"].to_pylist() == ["a.png", "c.png"]
    assert (found.roots.tolist(), found.metric) == ([str(tmp_path)] * 2, Metric.INNER_PRODUCT)
    skipped, counted = capsys.readouterr().err.splitlines()
    assert skipped.startswith(f"skipped: {tmp_path / 'b.png'}")
    assert counted == f"{tmp_path}: 1 of 3 were skipped"


@pytest.mark.parametrize(
    ("names", "text"), [((), "one side has no pictures"), (("b.png",), "not one of 1 pictures can")]
)
def test_a_folder_without_a_picture_that_can_be_read(tmp_path, names, text):
    for name in names:
        (tmp_path / name).write_bytes(b"no picture")
    source = sides.find_pictures([tmp_path])
    with pytest.raises(NothingToIndex, match=text):
        sides.dataset_side(tmp_path, source, _Greys(), metric=Metric.COSINE)


# Folders as sides


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """A folder like Market-1501's: 4 people before 3 cameras, a nobody, junk, a lonely query."""
    folder = tmp_path_factory.mktemp("folders") / "market"
    names = [f"query/{p:04d}_c{c}s1_{p}_00.png" for p in (1, 2, 3, 4) for c in (1, 2)]
    names += ["query/0005_c1s1_9_00.png", "bounding_box_test/-1_c2s1_8_00.png"]
    names += [f"bounding_box_test/{p:04d}_c{c}s1_2{p}_00.png" for p in range(5) for c in (1, 2, 3)]
    draw(folder, names)
    return folder


def draw(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        person, camera, frame, _ = Path(name).name.split("_")
        person = int(person) % 90 or 90
        draw_crop(person=person, camera=int(camera[1]), frame=int(frame)).save(folder / name)


def records_of(folder):
    """What the names in a folder tell, but of junk, in their order; paths in `source`."""
    found = []
    for item, path in enumerate(path for path in sorted(folder.iterdir()) if path.name[0] != "-"):
        person, camera, *_ = path.name.split("_")
        known = {"person": None if person == "0000" else person, "camera": int(camera[1])}
        found.append({"item": item, "source": path, **known})
    return found


def both_of(folder):
    return records_of(folder / "query"), records_of(folder / "bounding_box_test")


def described(records):
    return stripes_of(*(pixels_of(record["source"]) for record in records))


def striped(folder):
    """The figures of such a folder by the extractor alone."""
    asked, searched = both_of(folder)
    return figures(-described(asked) @ described(searched).T, asked, searched)


def test_a_dataset_with_itself_and_its_counts(market):
    found, _, told = evaluated(market, market)
    assert_figures(found, striped(market))
    assert (found["queries"], found["answerable"], found["gallery"]) == (9, 8, 15)
    lines = told.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["market1501", "found", "published"],
        ["train", "0", "12,936"],
        ["query", "9", "3,368"],
    ]
    assert lines.count("differs: market1501: 15 gallery, published are 15,913") == 1
    assert lines.count("differs: market1501: 8 answerable queries, published are 3,368") == 1
    assert lines[-2:] == [
        "1 of 9 queries have no match:",
        "  query/0005_c1s1_9_00.png (person 0005, camera 1)",
    ]


def test_a_dataset_is_embedded_by_the_extractor_of_the_gallery(market, tmp_path, monkeypatch):
    """Whichever side that is, and by its metric; or by the one that is named."""
    model = save_model(tmp_path)
    build = ("--extractor", "onnx", "--weights", model, "--metric", "euclidean")
    succeed("build", market / "bounding_box_test", "--out", tmp_path / "g", *build)
    succeed("build", market / "query", "--out", tmp_path / "q", *build)
    asked, searched = both_of(market)
    greys = [
        OnnxExtractor(model).extract([pixels_of(record["source"]) for record in side]).global_
        for side in (asked, searched)
    ]
    keys = np.linalg.norm(greys[0][:, None].astype(float) - greys[1], axis=2)
    expected = figures(keys, asked, searched)
    assert_figures(evaluated(tmp_path / "g", market)[0], expected)
    assert_figures(evaluated(market, tmp_path / "q")[0], expected)
    assert_figures(
        evaluated(market, market, *build[:4])[0],
        figures(-unit(greys[0]) @ unit(greys[1]).T, asked, searched),
    )
    rows = [(record["source"].name, "query") for record in asked]
    split = listed(tmp_path / "s.csv", *rows, *((r["source"].name, "gallery") for r in searched))
    assert_figures(evaluated(tmp_path / "g", market, "--split", split)[0], expected)

    # An extractor that is named is that of GALLERY and QUERIES, not of those that are fused.
    others = [tmp_path / "g2", tmp_path / "q2"]
    for folder, part in zip(others, ("bounding_box_test", "query"), strict=True):
        succeed("build", market / part, "--out", folder)
    fused = ("--with", *others, "--fuse-weights", "0,1")
    assert_figures(evaluated(market, market, *build[:4], *fused)[0], striped(market))

    monkeypatch.delattr(sides, "dataset_side")  # refused before anything is embedded
    result = run("evaluate", tmp_path / "g", market, "--extractor", "stripes", "--split", split)
    assert_refused(result, code=1, text="market comes from another extractor than")
    result = run("evaluate", tmp_path / "g", market, "--card", model.with_suffix(".json"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith("reid: how crops are fed to a model belongs")


def test_folders_with_a_list_and_a_list_as_dataset(market, tmp_path):
    asked, searched = both_of(market)
    split = listed(
        market.parent / "list.csv",
        *((f"market/query/{r['source'].name}", "query", r["person"], "1") for r in asked),
        *(
            (f"market/bounding_box_test/{r['source'].name}", "gallery", r["person"] or "x", "2")
            for r in searched
        ),
        columns=("file", "split", "person", "camera"),
    )
    asked, searched = ([r | {"camera": c} for r in some] for c, some in ((1, asked), (2, searched)))
    expected = figures(-described(asked) @ described(searched).T, asked, searched)
    assert_figures(evaluated(market, market, "--split", split)[0], expected)
    found, _, told = evaluated(split, split, "--protocol", "csv")
    assert_figures(found, expected)
    assert told.splitlines()[0] == "1 of 9 queries have no match:"


def test_frames_are_pooled_in_the_protocols_of_videos(tmp_path):
    base = tmp_path / "i-LIDS-VID" / "sequences"
    for person, camera, frame in product(range(1, 9), (1, 2), (1, 2, 3)):
        path = base / f"cam{camera}" / f"person{person:03d}" / f"cam{camera}_{frame:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_crop(person=person, camera=camera, frame=frame).save(path)
    names = sorted(path.name for path in (base / "cam1").iterdir())
    tested = sorted(sorted(names, key=lambda n: hashlib.sha256(f"1 {n}".encode()).digest())[:4])
    means, records = [], []
    for camera in (1, 2):
        folders = [base / f"cam{camera}" / name for name in tested]
        tracks = [[pixels_of(path) for path in sorted(folder.iterdir())] for folder in folders]
        means.append(unit([stripes_of(*frames).mean(axis=0) for frames in tracks]))
        records.append(
            [{"item": i, "person": name, "camera": camera} for i, name in enumerate(tested)]
        )
    expected = figures(-means[0] @ means[1].T, *records)
    options = ("--protocol", "ilids-vid", "--split-number", "1")
    found, _, told = evaluated(tmp_path, tmp_path, *options)
    assert_figures(found, expected)
    assert (found["queries"], found["gallery"]) == (4, 4)
    assert "differs: ilids-vid: 4 query tracklets, published are 150" in told.splitlines()


# The report


def test_the_report_shows_the_right_strips(market, tmp_path):
    pytest.importorskip("matplotlib")
    asked, searched = both_of(market)
    options = ("--rerank", "joint", "--k1", "3", "--k2", "2", "--report", tmp_path / "r")
    found, rest, _ = evaluated(market, market, *options)
    pictures = ("cmc", "precision-recall", "histogram", "before-after")
    assert {path.name for path in (tmp_path / "r").iterdir()} == {
        "report.html",
        *(f"{name}.{suffix}" for name in pictures for suffix in ("svg", "png")),
    }
    page = parse((tmp_path / "r" / "report.html").read_text())
    cells = [element.text for element in page.elements if element.tag in ("th", "td")]
    table = {cells[at]: cells[at + 1 : at + 3] for at in range(0, len(cells), 3)}
    assert table["measure"] == ["as extracted", "re-ranked (joint)"]
    assert table["mAP"] == [f"{striped(market)['mAP']:.4f}", f"{found['mAP']:.4f}"]
    assert table["re-ranking"] == ["-", rest["rerank"]]
    notes = [note.text for note in page.of_class("note")]
    assert notes[0] == "1 of 9 queries have no match; left out of the means."

    keys = joint(described(asked), described(searched), k1=3, k2=2)
    similar = described(asked) @ described(searched).T
    shown = [" ".join(card.text.split()) for card in page.of_class("candidate")]
    aps = [float(ap.text.removeprefix("AP ")) for ap in page.of_class("ap")]
    assert (aps[:6], aps[6:]) == (sorted(aps[:6])[::-1], sorted(aps[6:]))
    assert (max(aps), min(aps)) == (aps[0], aps[6])
    labels = [title.text for title in page.all("h3")]
    assert len(labels) == 12
    for label, ap in zip(labels, aps, strict=True):
        (row,) = [
            at
            for at, r in enumerate(asked)
            if label == f"query/{r['source'].name}, camera {r['camera']}"
        ]
        query = asked[row]
        assert ap == pytest.approx(figures(keys[[row]], [query], searched)["mAP"], abs=1e-4)
        left = [
            at
            for at, r in enumerate(searched)
            if (r["person"], r["camera"]) != (query["person"], query["camera"])
        ]
        best = sorted(left, key=lambda at: keys[row, at])[:10]
        strip, shown = shown[:10], shown[10:]
        for rank, (at, text) in enumerate(zip(best, strip, strict=True), start=1):
            one = searched[at]
            right = "✓ right" if one["person"] == query["person"] else "✗ wrong"
            assert text == (
                f"#{rank}{right} similarity {similar[row, at]:.3f} "
                f"bounding_box_test/{one['source'].name}, camera {one['camera']}"
            )
    crops = page.all("img")[4:]
    assert len(crops) == 12 * 11
    names = [image.attributes["alt"].split()[-3].split("/")[-1] for image in crops]
    pictures = {(name, image.attributes["src"]) for name, image in zip(names, crops, strict=True)}
    # One picture for each name, and one name for each picture.
    assert len({name for name, _ in pictures}) == len({src for _, src in pictures}) == len(pictures)


def test_equal_numbers_of_two_folders_are_not_equal_items(tmp_path):
    """MARS has the queries in the gallery, but rows of two folders have no common ids."""
    pytest.importorskip("matplotlib")
    names = [f"{p:04d}C{c}T0001F001.png" for p in (1, 2) for c in (1, 2)]
    for name in names:
        path = tmp_path / "bbox_test" / name[:4] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_crop(person=int(name[:4]), camera=int(name[5]), frame=1).save(path)
    (tmp_path / "info").mkdir()
    (tmp_path / "info" / "test_name.txt").write_text("\n".join(names))
    tracks = np.array([[row, row, p, c] for row, (p, c) in enumerate(product((1, 2), (1, 2)), 1)])
    savemat(tmp_path / "info" / "tracks_test_info.mat", {"track_test_info": tracks})
    savemat(tmp_path / "info" / "query_IDX.mat", {"query_IDX": np.array([[2, 1, 4]])})
    options = ("--protocol", "mars-official", "--rerank", "joint", "--k1", "2", "--k2", "1")
    found, _, _ = evaluated(tmp_path, tmp_path, *options, "--report", tmp_path / "r")
    assert (found["queries"], found["answerable"], found["gallery"]) == (3, 3, 4)
    page = parse((tmp_path / "r" / "report.html").read_text())
    cells = [element.text for element in page.elements if element.tag in ("th", "td")]
    assert cells[cells.index("answerable") + 1 :][:2] == ["3", "3"]
    verdicts = [card.attributes["data-verdict"] for card in page.of_class("candidate")]
    assert verdicts.count("right") == 6  # one in each of the three lists, shown as best and worst
