"""Folders of pictures as sides of an evaluation, from files to figures and report."""

import hashlib
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cli_world import assert_refused, pixels_of, run, stripes_of, succeed
from conftest import FINGERPRINT
from evaluation_world import assert_figures, evaluated, figures, joint, unit
from PIL import Image
from scipy.io import savemat
from test_onnx import save as save_model
from test_sheet import parse

from cli import sides
from cli.world import draw_crop
from extractors.onnx import OnnxExtractor
from reid_index import Metric
from reid_index.errors import NothingToIndex

STRIPES = ("--extractor", "stripes")


def listed(path, *rows, columns=("file", "split")):
    path.write_text("".join(",".join(row) + "\n" for row in (columns, *rows)))
    return path


# Folders


class _Greys:
    """An extractor whose vector is (mean grey, 255)."""

    fingerprint = FINGERPRINT
    dim = 2
    matcher = None
    predicted_by = None

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
    found, _, told = evaluated(market, market, *STRIPES)
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
        succeed("build", "--extractor", "stripes", market / part, "--out", folder)
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
    assert_figures(evaluated(market, market, "--split", split, *STRIPES)[0], expected)
    found, _, told = evaluated(split, split, "--protocol", "csv", *STRIPES)
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
    found, _, told = evaluated(tmp_path, tmp_path, *options, *STRIPES)
    assert_figures(found, expected)
    assert (found["queries"], found["gallery"]) == (4, 4)
    assert "differs: ilids-vid: 4 query tracklets, published are 150" in told.splitlines()


# The report


def test_the_report_shows_the_right_strips(market, tmp_path):
    pytest.importorskip("matplotlib")
    asked, searched = both_of(market)
    options = ("--rerank", "joint", "--k1", "3", "--k2", "2", "--report", tmp_path / "r")
    found, rest, _ = evaluated(market, market, *options, *STRIPES)
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
                f"#{rank}{right} similarity {similar[row, at]:.3f}, "
                f"re-ranked {keys[row, at]:.3f} "
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
    found, _, _ = evaluated(tmp_path, tmp_path, *options, *STRIPES, "--report", tmp_path / "r")
    assert (found["queries"], found["answerable"], found["gallery"]) == (3, 3, 4)
    page = parse((tmp_path / "r" / "report.html").read_text())
    cells = [element.text for element in page.elements if element.tag in ("th", "td")]
    assert cells[cells.index("answerable") + 1 :][:2] == ["3", "3"]
    verdicts = [card.attributes["data-verdict"] for card in page.of_class("candidate")]
    assert verdicts.count("right") == 6  # one in each of the three lists, shown as best and worst
