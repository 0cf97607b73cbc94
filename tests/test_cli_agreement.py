"""`reid query` by the target's attributes, and without a target: options, answers, explanations."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from attribute_world import write_model
from cli_world import Sheet, assert_refused, run, succeed
from PIL import Image
from test_sheet import parse

from cli.world import draw_world
from reid_index import Gallery
from reid_index.filters.agreement import write_thresholds

HATS = ["yes", "no", None, "no"]
SURE = [0.9, 0.8, None, None]
COLORS = [["red"], ["black", "red"], ["blue"], None]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with `crops`, the gallery `plain` of them, and `g`, which knows attributes, too."""
    folder = tmp_path_factory.mktemp("world")
    draw_world(folder / "crops", people=4, cameras=3, crops_per_camera=1, seed=1)
    succeed("build", "--extractor", "stripes", folder / "crops", "--out", folder / "plain")
    plain = Gallery.open(folder / "plain")
    made = Gallery.create(
        folder / "g",
        dim=plain.dim,
        fingerprint=plain.fingerprint,
        recipe=plain.manifest.recipe,
    )
    rows = [
        row
        | {
            "attr.hat": HATS[n % 4],
            "attr.hat.confidence": SURE[n % 4],
            "attr.upper_color": COLORS[n % 4],
            "attr.upper_color.confidence": 0.5 + n % 4 / 10,
        }
        for n, row in enumerate(plain.items.drop_columns(["item"]).to_pylist())
    ]
    made.add(plain.vectors(range(len(plain))), rows, root=plain.roots[0])
    return folder


def items_of(*arguments):
    lines = succeed("query", *arguments, "--top", "99", "--format", "jsonl").stdout.splitlines()
    return {json.loads(line)["item"] for line in lines}


def rows_that(world, holds):
    return {n for n in range(len(Gallery.open(world / "g"))) if holds(n % 4)}


def test_an_item_as_the_target_drops_what_disagrees_with_it(world):
    asked = [world / "g", "--item", "0"]
    everything = rows_that(world, lambda n: True)
    assert items_of(*asked) == everything
    # Of hat only: the colour of item 0 has the confidence 0.5.
    sure = rows_that(world, lambda n: n not in (1, 3))
    assert items_of(*asked, "--auto-filter", "0.7") == sure
    assert items_of(*asked, "--auto-filter", "0.85") == rows_that(world, lambda n: n != 3)
    assert items_of(*asked, "--auto-filter", "0.7", "--no-filter-by", "hat") == everything
    told = succeed("query", *asked, "--auto-filter", "0.7", "--top", "99").stderr
    dropped = f"--auto-filter dropped {len(everything - sure)} of {len(everything)}; --explain says"
    assert dropped in told
    both = rows_that(world, lambda n: n == 0)
    assert items_of(*asked, "--auto-filter", "0.7", "--filter-at", "upper_color=0.5") == both
    assert items_of(*asked, "--auto-filter", "0.4", "--where", "camera = 2") == {
        n for n in both if Gallery.open(world / "g").items["camera"][n].as_py() == 2
    }


def test_a_file_of_thresholds_uses_what_it_names(world, tmp_path):
    asked = [world / "g", "--item", "0", "--auto-filter", tmp_path / "t.json"]
    write_thresholds(tmp_path / "t.json", {"upper_color": 0.5}, about={})
    assert items_of(*asked) == rows_that(world, lambda n: n != 2)
    write_thresholds(tmp_path / "t.json", {"upper_color": 0.5, "hat": 0.95}, about={})
    assert items_of(*asked) == rows_that(world, lambda n: n != 2)
    assert items_of(*asked, "--filter-at", "hat=0.7") == rows_that(world, lambda n: n == 0)
    write_thresholds(tmp_path / "t.json", {"upper_color": None, "hat": None}, about={})
    assert items_of(*asked) == rows_that(world, lambda n: True)


def test_it_is_explained_which_attribute_dropped_how_many(world):
    words = ["--auto-filter", "0.7", "--filter-at", "hat=0.85", "--explain"]
    told = succeed("query", world / "g", "--item", "0", *words).stderr
    count = len(Gallery.open(world / "g"))
    dropped = len(rows_that(world, lambda n: n == 3))
    lines = told.splitlines()
    at = lines.index(f"auto-filter {dropped} of {count} items dropped")
    assert [line.split() for line in lines[at + 1 :]] == [
        ["attribute", "target", "confidence", "threshold", "dropped", "only", "by", "it"],
        ["hat", "yes", "0.900", "0.85", str(dropped), str(dropped)],
        ["upper_color", "red", "0.500", "0.7", "-", "-", "not", "sure", "enough"],
    ]


def test_thresholds_of_words(world, tmp_path):
    path = tmp_path / "t.json"
    asked = [world / "g", "--item", "0", "--auto-filter", path]
    write_thresholds(path, {"hat": {"yes": 0.9, "no": 0.85}, "upper_color": {"red": 0}}, about={})
    assert items_of(*asked) == rows_that(world, lambda n: n != 3)
    told = succeed("query", *asked, "--explain").stderr
    rows = [line.split()[:7] for line in told.splitlines()]
    dropped = str(len(rows_that(world, lambda n: n == 3)))
    assert ["hat", "yes", "0.900", "0.9,", "items", "0.85", dropped] in rows
    assert ["upper_color", "red", "0.500", "0,", "items", "never", "0"] in rows
    write_thresholds(path, {"hat": {"yes": 0.9, "no": 0.8, "maybe": 1}}, about={})
    assert items_of(*asked) == rows_that(world, lambda n: n not in (1, 3))
    assert "0.9, items 0.8 … 1" in succeed("query", *asked, "--explain").stderr
    assert items_of(*asked, "--filter-at", "hat=0.85") == rows_that(world, lambda n: n != 3)
    write_thresholds(path, {"hat": {"no": 0.5}}, about={})
    assert items_of(*asked) == rows_that(world, lambda n: True)
    assert "yes is not to be used" in succeed("query", *asked, "--explain").stderr


def test_the_attributes_that_filter_are_shown(world):
    asked = ["query", world / "g", "--item", "0", "--top", "2"]
    where = ["--auto-filter", "0.7", "--where", "attr.hat != 'no'"]
    head, first, _ = succeed(*asked, *where).stdout.splitlines()
    assert head.split() == [
        *("rank", "item", "similarity", "camera", "person", "hat", "time", "source")
    ]
    assert "yes (0.90)" in first
    assert "hat" not in succeed(*asked, "--auto-filter", "0.7").stdout  # too many for a terminal
    where = "attr.upper_color.confidence >= 0.5 AND attr.hat IS NOT NULL"
    head = succeed(*asked, "--where", where).stdout.splitlines()[0]
    assert head.split()[5:7] == ["upper_color", "hat"]
    page = parse(succeed(*asked, "--auto-filter", "0.7", "--format", "html").stdout)
    terms = [one.text for one in page.all("dt")]
    assert terms.count("hat") == 2
    assert "auto-filter" in terms


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--auto-filter 1.5", "--auto-filter 1.5: a confidence is from 0 to 1"),
        ("--auto-filter nan", "--auto-filter nan: a confidence is from 0 to 1"),
        ("--auto-filter much", "--auto-filter much: a confidence from 0 to 1, or a file of"),
        ("--filter-at hat=0.9", "--filter-at belongs to --auto-filter"),
        ("--no-filter-by hat", "--no-filter-by belongs to --auto-filter"),
        ("--auto-filter 0.7 --filter-at hat", "--filter-at hat: NAME=T, please"),
        ("--auto-filter 0.7 --filter-at hat=2", "--filter-at hat=2: NAME=T, please"),
        ("--auto-filter 0.7 --filter-at bag=0.9", "no attribute 'bag'"),
        ("--auto-filter 0.7 --no-filter-by bag", "its attributes: hat, upper_color"),
        ("--auto-filter 0.7 --filter-at hat=1 --no-filter-by hat", "clash: give one of them"),
    ],
)
def test_options_that_make_no_sense(world, words, text):
    assert_refused(run("query", world / "g", "--item", "0", *words.split()), code=2, text=text)


def test_a_damaged_file_of_thresholds_is_an_error(world, tmp_path):
    (tmp_path / "t.json").write_text('{"format": 1, "thresholds": {"hat": 7}}')
    asked = run("query", world / "g", "--item", "0", "--auto-filter", tmp_path / "t.json")
    assert_refused(asked, code=1, text="t.json: no thresholds of attributes can be read: that of")


def test_a_file_that_names_no_attribute_is_refused(world, tmp_path):
    write_thresholds(tmp_path / "t.json", {}, about={})
    asked = ["query", world / "g", "--item", "0", "--auto-filter", tmp_path / "t.json"]
    assert_refused(run(*asked), code=2, text="t.json: it names no attribute")
    succeed(*asked, "--filter-at", "hat=0.7")


def test_a_target_of_which_nothing_is_known(world, tmp_path):
    text = "nothing is known of its attributes, so --auto-filter has nothing to go by"
    crop = sorted((world / "crops").iterdir())[0]
    for target in ([crop], ["--item", "0"]):
        assert_refused(
            run("query", world / "plain", *target, "--auto-filter", "0.7"), code=2, text=text
        )
    np.save(tmp_path / "v.npy", Gallery.open(world / "g").vectors([0]))
    refused = run("query", world / "g", tmp_path / "v.npy", "--auto-filter", "0.7")
    assert_refused(refused, code=2, text=f"v.npy: {text}")
    assert "reid build --attributes MODEL" in refused.stderr
    assert "--where" in refused.stderr


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """A folder with `crops` of one colour each and the gallery `g` of them, whose model takes the
    means of their colours for the probabilities of attributes."""
    folder = tmp_path_factory.mktemp("predicted")
    (folder / "crops").mkdir()
    for name, colour in (
        *(("blue", (0, 0, 255)), ("dark", (160, 0, 95)), ("red", (255, 0, 0))),
        ("wine", (200, 0, 20)),
    ):
        Image.new("RGB", (32, 64), colour).save(folder / "crops" / f"{name}.png")
    model = write_model(folder / "model.xml")
    words = ["--extractor", "stripes", "--attributes", model]
    succeed("build", folder / "crops", "--out", folder / "g", *words)
    return folder


def test_a_picture_filters_by_what_the_gallerys_model_predicts_of_it(predicted, tmp_path):
    asked = [predicted / "g", predicted / "crops" / "red.png"]
    plain = ["--no-filter-by", "upper_color", "--no-filter-by", "lower_color"]
    filtered = succeed("query", *asked, "--auto-filter", "0.7", *plain, "--explain")
    sources = [line.split()[-1] for line in filtered.stdout.splitlines()[1:]]
    assert sources == ["red.png", "wine.png", "dark.png"]  # whose 160 and 95 of 255 are not sure
    told = {line.split()[0]: line.split()[1:] for line in filtered.stderr.splitlines()}
    assert told["auto-filter"] == ["1", "of", "4", "items", "dropped"]
    assert told["gender"] == ["female", "1.000", "0.7", "1", "0"]
    assert told["bag"] == ["no", "1.000", "0.7", "0", "0"]
    differ = ["gender", "backpack", "hat", "lower_length", "hair"]
    put_down = [word for name in differ for word in ("--no-filter-by", name)]
    assert len(items_of(*asked, "--auto-filter", "0.7", *plain, *put_down)) == 4


def test_pictures_that_contradict_each_other_are_not_sure(predicted, tmp_path):
    (tmp_path / "two").mkdir()
    for name in ("blue", "red"):
        shutil.copy(predicted / "crops" / f"{name}.png", tmp_path / "two")
    asked = ["query", predicted / "g", tmp_path / "two", "--auto-filter", "0.7", "--explain"]
    told = {line.split()[0]: line.split()[1:] for line in succeed(*asked).stderr.splitlines()}
    assert told["gender"] == ["male", "0.500", "0.7", "-", "-", "not", "sure", "enough"]
    assert told["bag"] == ["no", "1.000", "0.7", "0", "0"]


# Without a target


def test_a_description_lists_items_by_confidence(world):
    where = "attr.hat = 'no' AND attr.upper_color = 'red'"
    table = succeed("query", world / "g", "--where", where)
    lines = [line.split() for line in table.stdout.splitlines()]
    fits = sorted(rows_that(world, lambda n: n == 1))
    assert lines[0] == [
        *("rank", "item", "confidence", "camera", "person", "hat", "upper_color"),
        *("time", "source"),
    ]
    assert [(line[0], line[1], line[2]) for line in lines[1:]] == [
        (str(rank), str(item), "0.6000") for rank, item in enumerate(fits, start=1)
    ]
    assert lines[1][5:10] == ["no", "(0.80)", "black,", "red", "(0.60)"]
    count = len(Gallery.open(world / "g"))
    assert table.stderr == f"only {len(fits)} match: {len(fits)} of {count} items are allowed\n"


def test_the_surest_come_first_in_every_form(world):
    asked = ["query", world / "g", "--where", "attr.hat = 'no'", "--top", "3"]
    certain = sorted(rows_that(world, lambda n: n == 3))
    sure = sorted(rows_that(world, lambda n: n == 1))
    expected = [(item, 1.0) for item in certain] + [(item, np.float32(0.8)) for item in sure]
    lines = succeed(*asked, "--format", "jsonl").stdout.splitlines()
    found = [json.loads(line) for line in lines]
    assert [(one["item"], one["confidence"]) for one in found] == expected[:3]
    assert {(one["similarity"], one["distance"]) for one in found} == {(None, None)}
    assert found[0]["attr.hat"] == "no"
    text = succeed(*asked, "--format", "csv").stdout
    table = list(csv.DictReader(io.StringIO(text)))
    assert [(int(one["item"]), float(one["confidence"])) for one in table] == expected[:3]
    html = succeed(*asked, "--format", "html").stdout
    cards = Sheet(html).cards
    assert [int(card[1]) for card in cards] == [item for item, _ in expected[:3]]
    assert all(card[-1] for card in cards)
    page = parse(html)
    assert "3 matches" in page.all("main")[0].text
    assert [one.attributes["data-confidence"] for one in page.of_class("card")] == [
        str(float(sure)) for _, sure in expected[:3]
    ]
    assert page.of_class("eyebrow")[0].text == "Description"
    assert "vector query" not in html


def test_a_description_takes_cameras_and_a_threshold(world):
    asked = ["query", world / "g", "--where", "attr.hat = 'no'", "--threshold", "0.9"]
    certain = rows_that(world, lambda n: n == 3)
    assert items_of(*asked[1:]) == certain
    cameras = Gallery.open(world / "g").items["camera"].to_pylist()
    others = {item for item in certain if cameras[item] != 1}
    assert items_of(*asked[1:], "--not-camera", "1") == others
    told = succeed(*asked, "--explain").stderr
    assert "plan        by confidence" in told
    empty = succeed("query", world / "g", "--where", "camera = 77", "--format", "html").stdout
    assert "No item of the gallery is as described." in empty


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--rerank", "--rerank belongs to a target: name a TARGET or --item N"),
        ("--auto-filter 0.7", "--auto-filter belongs to a target"),
        ("--aggregate mean", "--aggregate belongs to a target"),
        ("--person 0001", "--person belongs to a target"),
        ("--not-camera own", "the target's camera is not known"),
        ("--threshold auto", "--threshold 'auto': without a target it is a confidence"),
        ("--threshold 1.5", "the threshold of a confidence is from 0 to 1"),
    ],
)
def test_what_says_nothing_without_a_target(world, words, text):
    asked = run("query", world / "g", "--where", "attr.hat = 'no'", *words.split())
    assert_refused(asked, code=2, text=text)


def test_neither_a_target_nor_a_description(world):
    assert_refused(run("query", world / "g"), code=2, text="or --where alone to list what it")
    refused = run("query", world / "g", "--where", "attr.bag = 'yes'")
    assert refused.exit_code == 2
    assert "unknown column 'attr.bag'" in refused.stderr
    assert "attributes: attr.hat, attr.upper_color" in refused.stderr
