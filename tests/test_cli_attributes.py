"""`reid attributes`: what the items of a gallery are known to wear, carry and be."""

import json
import shutil
import subprocess

import pytest
from cli_world import ENVIRONMENT, REID, assert_refused, real, run, succeed, tree
from label_files import DUKE, MARKET, market_labels, part, write_labels

from cli.world import draw_world
from reid_index import Gallery, verify_gallery


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A gallery of four drawn persons, 0001 to 0004, each seen by two cameras."""
    folder = tmp_path_factory.mktemp("built")
    draw_world(folder / "crops", people=4, cameras=2, crops_per_camera=1)
    gallery = folder / "gallery"
    succeed("build", folder / "crops", "--out", gallery, "--extractor", "stripes")
    return gallery


@pytest.fixture
def gallery(built, tmp_path):
    return shutil.copytree(built, tmp_path / "gallery")


def known(gallery, name):
    """Item → value, confidence and origin of an attribute, of those where it is known."""
    columns = ["item", *(f"attr.{name}{what}" for what in ("", ".confidence", ".origin"))]
    items = Gallery.open(gallery).items.select(columns)
    rows = [tuple(row.values()) for row in items.to_pylist()]
    return {item: said for item, *said in rows if said[0] is not None}


def by_person(gallery, name):
    items = Gallery.open(gallery).items
    values = zip(items["person"].to_pylist(), items[f"attr.{name}"].to_pylist(), strict=True)
    return dict(values)


def test_labels_of_market_1501(gallery, tmp_path):
    labels = market_labels(tmp_path / "market.mat", hat=[2, 1])
    before = tree(gallery / "shards")
    result = succeed("attributes", gallery, "--from", labels, "--format", "json")
    assert result.stderr.splitlines() == [
        f"{labels}: no row for 2 persons of the gallery (0001, 0004): nothing new is known of 4 "
        "items",
        f"{labels}: 1 row that names no person of the gallery",
    ]
    told = json.loads(result.stdout)
    names = told.pop("attributes")
    assert told == {
        "gallery": str(gallery),
        "from": str(labels),
        "by": "person",
        "origin": "label",
        "items": 4,
        "cells": 42,  # ten words each, and two sets of the one who has a colour marked
        "without_row": 4,
        "rows_of_nobody": 1,
    }
    assert names["hat"] == {"said": 4, "known": 4, "unknown": 4}
    assert names["upper_color"] == {"said": 2, "known": 2, "unknown": 6}
    assert by_person(gallery, "hat") == {"0001": None, "0002": "yes", "0003": "no", "0004": None}
    assert by_person(gallery, "upper_color")["0003"] == ["blue", "red"]
    assert {tuple(said[1:]) for said in known(gallery, "hat").values()} == {(None, "label")}
    assert tree(gallery / "shards") == before
    assert verify_gallery(Gallery.open(gallery)) == []


def test_what_is_told_as_a_table(gallery, tmp_path):
    labels = market_labels(tmp_path / "market.mat")
    lines = succeed("attributes", gallery, "--from", labels).stdout.splitlines()
    assert lines[:5] == [
        f"gallery         {gallery}",
        f"from            {labels}",
        "by              person",
        "origin          label",
        "items           4",
    ]
    rows = [line.split() for line in lines[lines.index("") + 1 :]]
    assert rows[0] == ["attribute", "said", "now", "known", "unknown"]
    assert ["upper_color", "2", "2", "6"] in rows


def test_a_person_corrects_a_label(gallery, tmp_path):
    succeed("attributes", gallery, "--from", market_labels(tmp_path / "market.mat"))
    first = min(known(gallery, "hat"))
    table = tmp_path / "seen.csv"
    table.write_text(f"item,hat,upper_color\n{first},yes,\n")
    succeed("attributes", gallery, "--from", table, "--origin", "person")
    assert known(gallery, "hat")[first] == ["yes", None, "person"]
    # A label does not take back what a person has said; one person's word replaces another's.
    succeed("attributes", gallery, "--from", market_labels(tmp_path / "market.mat"))
    assert known(gallery, "hat")[first] == ["yes", None, "person"]
    table.write_text(f"item,hat,hat.confidence\n{first},no,0.5\n")
    succeed("attributes", gallery, "--from", table, "--origin", "person")
    assert known(gallery, "hat")[first] == ["no", 0.5, "person"]


def test_rows_of_pictures(gallery, tmp_path):
    items = Gallery.open(gallery).items
    source, item = items["source"][3].as_py(), items["item"][3].as_py()
    table = tmp_path / "a.csv"
    table.write_text(f"source,person,attr.umbrella,umbrella\n{source},0009,red|open,no\n")
    result = succeed("attributes", gallery, "--from", table)
    assert f"{table}: its rows are told by source" in result.stderr
    assert "not read: umbrella" in result.stderr
    assert known(gallery, "umbrella") == {item: [["open", "red"], None, "label"]}
    # What the gallery has as sets stays sets, also where a cell has a single word.
    table.write_text(f"source,attr.umbrella\n{items['source'][0].as_py()},open\n")
    succeed("attributes", gallery, "--from", table)
    assert known(gallery, "umbrella")[items["item"][0].as_py()][0] == ["open"]
    result = run("attributes", gallery, "--from", table, "--by", "person")
    assert_refused(result, code=2, text="it has no column 'person'")


def test_what_was_said_is_searched_by(gallery, tmp_path):
    labels = market_labels(tmp_path / "market.mat")
    succeed("attributes", gallery, "--from", labels)
    wanted = "attr.upper_color = 'red' AND attr.bag = 'yes'"
    lines = succeed("query", gallery, "--item", 0, "--where", wanted, "--format", "jsonl").stdout
    assert {json.loads(line)["person"] for line in lines.splitlines()} == {"0003"}


def test_taking_back(gallery, tmp_path):
    succeed("attributes", gallery, "--from", market_labels(tmp_path / "market.mat"))
    result = succeed("attributes", gallery, "--clear", "hat", "--format", "json")
    told = json.loads(result.stdout)
    assert told["taken_back"] == 4
    assert "hat" not in told["attributes"]
    assert told["attributes"]["bag"]["known"] == 4
    succeed("attributes", gallery, "--clear", "all")
    names = Gallery.open(gallery).items.column_names
    assert [name for name in names if name.startswith("attr.")] == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "by --from FILE, or take it back, by --clear NAME"),
        (["--from", "a.csv", "--clear", "hat"], "by --from FILE, or take it back"),
        (["--from", "a.csv", "--origin", "me"], "--origin 'me': label or person"),
        (["--clear", "hat", "--by", "item"], "--by means nothing when attributes are taken back"),
        (["--clear", "hat", "--strict"], "--strict means nothing when attributes are taken back"),
        (["--clear", "hat"], "hat"),
    ],
)
def test_wrong_usage(options, text, gallery):
    assert_refused(run("attributes", gallery, *options), code=2, text=text)


def test_labels_of_nobody_here(gallery, tmp_path):
    before = tree(gallery)
    path = write_labels(
        tmp_path / "m.mat", "market_attribute", {"test": part(MARKET, ["0700", "0701"])}
    )
    result = run("attributes", gallery, "--from", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "its first person is '0700'; the gallery has '0001'" in result.stderr.splitlines()[-1]
    (tmp_path / "a.csv").write_text("item,hat\n")
    result = run("attributes", gallery, "--from", tmp_path / "a.csv")
    assert result.exit_code == 1
    assert "a.csv: it has no rows" in result.stderr
    assert tree(gallery) == before


def test_codes_and_words_that_mean_nothing(gallery, tmp_path):
    path = tmp_path / "d.mat"
    write_labels(path, "duke_attribute", {"train": part(DUKE, ["0001", "0002"], top=[0, 2])})
    before = tree(gallery)
    assert_refused(
        run("attributes", gallery, "--from", path, "--strict"), code=1, text="the field 'top' has"
    )
    (tmp_path / "a.csv").write_text("person,age\n0001,ancient\n")
    result = run("attributes", gallery, "--from", tmp_path / "a.csv", "--strict")
    assert_refused(result, code=1, text="words not known here: 'ancient'")
    assert tree(gallery) == before
    assert "and 0 for 1 person: unknown" in succeed("attributes", gallery, "--from", path).stderr
    assert by_person(gallery, "sleeve") == {
        "0001": None,
        "0002": "long",
        "0003": None,
        "0004": None,
    }


def test_a_gallery_that_is_not_there(tmp_path):
    result = run("attributes", tmp_path / "g", "--from", market_labels(tmp_path / "m.mat"))
    assert_refused(result, code=1, text="g: ")


WHILE_COMMITTING = """
import os, signal
import reid_index.store.commit as commit
from reid_index import files
write_json = files.write_json
def killed(path, value):
    if path.name == "CURRENT":
        os.kill(os.getpid(), signal.SIGKILL)
    write_json(path, value)
files.write_json = killed
from cli.main import main
main()
"""


def test_interrupted_nothing_is_said(gallery, tmp_path):
    labels = market_labels(tmp_path / "market.mat")
    command = [REID[0], "-c", WHILE_COMMITTING, "attributes", str(gallery), "--from", str(labels)]
    killed = subprocess.run(command, env=ENVIRONMENT, capture_output=True)
    assert killed.returncode == -9
    names = Gallery.open(gallery).items.column_names
    assert [name for name in names if name.startswith("attr.")] == []
    succeed("attributes", gallery, "--from", labels)
    assert len(known(gallery, "hat")) == 4
    assert verify_gallery(Gallery.open(gallery)) == []


def test_real_crops_with_their_labels(tmp_path):
    labels = real("market1501", "market_attribute.mat")
    crops = sorted(real("market1501", "bounding_box_train").resolve().glob("*.jpg"))[:40]
    (tmp_path / "list.csv").write_text(
        "file,person,camera\n"
        + "".join(f"{path},{path.name[:4]},{path.name[6]}\n" for path in crops)
    )
    gallery = tmp_path / "gallery"
    succeed("build", tmp_path / "list.csv", "--out", gallery)
    result = succeed("attributes", gallery, "--from", labels, "--format", "json")
    told = json.loads(result.stdout)
    assert (told["items"], told["without_row"]) == (40, 0)
    assert told["attributes"]["gender"] == {"said": 40, "known": 40, "unknown": 0}
    found = by_person(gallery, "gender")
    assert found.keys() == {path.name[:4] for path in crops}
    assert set(found.values()) <= {"male", "female"}
