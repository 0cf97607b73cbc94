"""`reid judge-attributes` on made-up galleries."""

import json
import re

import numpy as np
import pyarrow as pa
import pytest
from cli_world import assert_refused, run, succeed
from conftest import FINGERPRINT
from judged_world import labels_of, people, predicted

from reid_index import Gallery
from reid_index.evaluation.attribute_thresholds import choose_thresholds
from reid_index.evaluation.filter_quality import code, filter_quality
from reid_index.filters.agreement import read_thresholds

ERRORS = {"hat": 0.1, "gender": 0.02, "upper_color": 0.1}
NAMES = ("hat", "gender", "sleeve", "upper_color")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A gallery, what is true of its people, a file that says it, a split, and its items."""
    rng = np.random.default_rng(0)
    true = people(rng, persons=60, crops=4, distractors=10)
    items = predicted(rng, true, errors=ERRORS)
    items = items.append_column(
        "source", pa.array([f"{one}.jpg" for one in items["item"].to_pylist()])
    )
    folder = tmp_path_factory.mktemp("attributes")
    vectors = rng.normal(size=(items.num_rows, 4)).astype(np.float32)
    Gallery.create(folder / "g", dim=4, fingerprint=FINGERPRINT).add(vectors, items)
    said = {row["person"]: row for row in true.to_pylist() if row["person"] is not None}
    lines = ["person,hat,upper_color"]
    lines += [
        f"{person},{row['attr.hat']},{'|'.join(row['attr.upper_color'])}"
        for person, row in said.items()
        if person != "0003"
    ]
    (folder / "labels.csv").write_text("\n".join(lines))
    parts = ["train" if row < 160 else "gallery" if row % 4 else "query" for row in range(240)]
    lines = ["file,split", *(f"{row}.jpg,{part}" for row, part in enumerate(parts))]
    (folder / "split.csv").write_text("\n".join(lines))
    return folder, true, items


def judged(*arguments):
    return json.loads(succeed("judge-attributes", *arguments, "--format", "json").stdout)


def test_accuracy_is_that_of_counting(world) -> None:
    folder, true, items = world
    record = judged(folder / "g", "--labels", folder / "labels.csv")

    assert list(record["attributes"]) == ["hat", "upper_color"]
    hits, judged_items, labelled = 0, 0, 0
    for right, told in zip(true.to_pylist(), items.to_pylist(), strict=True):
        if right["person"] in (None, "0003"):
            continue
        labelled += 1
        judged_items += told["attr.hat"] is not None
        hits += told["attr.hat"] == right["attr.hat"]
    hat = record["attributes"]["hat"]
    assert (hat["labelled"], hat["judged"], hat["group"]) == (labelled, judged_items, "hat")
    assert hat["accuracy"] == hits / judged_items < 1
    colour = record["attributes"]["upper_color"]
    mean = (hat["accuracy"] + colour["accuracy"]) / 2
    assert record["mean"]["accuracy"] == pytest.approx(mean)


def test_filter_quality_and_thresholds_of_a_split(world, tmp_path) -> None:
    folder, _, items = world
    path = tmp_path / "thresholds.json"
    record = judged(
        folder / "g", "--split", folder / "split.csv", "--keep", "0.9", "--thresholds-out", path
    )

    train = items.slice(0, 160)
    chosen = choose_thresholds(code(train, train, NAMES)[0], labels_of(train), keep=0.9)
    assert record["chosen"]["thresholds"] == dict(chosen.thresholds) == read_thresholds(path)
    assert any(isinstance(value, dict) for value in chosen.thresholds.values())
    assert json.loads(path.read_text())["about"]["persons"] == chosen.persons
    rest = items.slice(160, 80)
    asked = rest.take([row for row in range(80) if row % 4 == 0])
    searched = rest.take([row for row in range(80) if row % 4])
    both = code(asked, searched, NAMES)
    for one, thresholds in (
        (record["filter"]["flat"][2], dict.fromkeys(NAMES, 0.7)),
        (record["filter"]["chosen"], dict(chosen.thresholds)),
    ):
        found = filter_quality(*both, labels_of(asked), labels_of(searched), thresholds)
        assert (one["kept"], one["dropped"]) == (found.kept_share, found.dropped_share)
    assert record["attributes"] is None


def test_without_a_split_every_item_is_compared_with_every_other(world) -> None:
    folder, _, items = world
    record = judged(folder / "g")

    assert (record["filter"]["queries"], record["filter"]["gallery"]) == (240, 250)
    named = items.slice(0, 240)
    thresholds = dict.fromkeys(NAMES, 0.5)
    found = filter_quality(
        *code(named, items, NAMES), labels_of(named), labels_of(items), thresholds, same_item=True
    )
    assert record["filter"]["flat"][0]["pairs"] == found.pairs
    assert record["filter"]["flat"][0]["kept"] == found.kept_share
    assert record["chosen"] is None


def test_the_table(world) -> None:
    folder, _, _ = world
    done = succeed(
        "judge-attributes", folder / "g", "--labels", folder / "labels.csv", "--keep", "0.9"
    )
    text = done.stdout
    assert re.search(r"^gender +female [\d.]+, male [\d.]+$", text, re.MULTILINE)
    for words in ("mean of 2 groups", "from confidence", "chosen, below", "kept of people left"):
        assert words in text
    assert "have no label" in done.stderr


def test_refusals(world, tmp_path) -> None:
    folder, _, _ = world
    bare = tmp_path / "bare"
    Gallery.create(bare, dim=2, fingerprint=FINGERPRINT).add(
        np.eye(2), [{"person": "1"}, {"person": "2"}]
    )
    assert_refused(run("judge-attributes", bare), code=2, text="its items have no attributes")
    out = ["--thresholds-out", tmp_path / "no" / "t.json"]
    assert_refused(run("judge-attributes", folder / "g", *out), code=2, text="there is no folder")
    keep = ["--keep", "1"]
    text = "the share of true matches to keep is between 0 and 1"
    assert_refused(run("judge-attributes", folder / "g", *keep), code=2, text=text)
    strangers = tmp_path / "strangers.csv"
    strangers.write_text("person,hat\n9999,yes")
    result = run("judge-attributes", folder / "g", "--labels", strangers)
    assert_refused(result, code=1, text="no row is of an item that is judged, by person")
