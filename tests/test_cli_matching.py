"""The command line with an extractor that has parts and a matcher: nobody has to be told."""

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from cli_world import Sheet, assert_refused, pixels_of, run, succeed
from test_aligned import local

import extractors.stripes
from cli.world import draw_world
from extractors.extractor import Embedding
from extractors.stripes import StripesExtractor
from reid_index import Gallery, Matcher, evaluate_distances

MATCHER = Matcher(name="aligned", weight=0.25)


class PartsExtractor(StripesExtractor):
    """`stripes`, whose stripes are parts, too, four of them joined."""

    matcher = MATCHER

    @property
    def fingerprint(self):
        return replace(super().fingerprint, pooling="stripes and all")

    def embed(self, batch):
        whole = super().embed(batch).global_
        return Embedding(global_=whole, parts=whole.reshape(len(whole), 4, -1))


@pytest.fixture(scope="module", autouse=True)
def with_parts():
    """`--extractor stripes` has parts in this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractors.stripes, "StripesExtractor", PartsExtractor)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory, with_parts):
    """A folder with `crops` of 4 drawn people, the gallery `g` of them, and `plain`, of their
    vectors alone."""
    folder = tmp_path_factory.mktemp("world")
    draw_world(folder / "crops", people=4, cameras=3, crops_per_camera=2, seed=1)
    succeed("build", "--extractor", "stripes", folder / "crops", "--out", folder / "g")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractors.stripes, "StripesExtractor", StripesExtractor)
        succeed("build", "--extractor", "stripes", folder / "crops", "--out", folder / "plain")
    return folder


def crops_of(world):
    return sorted((world / "crops").iterdir())


def made_of(*paths):
    """Unit vectors and parts of crops, by the extractor alone."""
    made = PartsExtractor().extract([pixels_of(path) for path in paths])
    return made.global_ / np.linalg.norm(made.global_, axis=1, keepdims=True), made.parts


def matched(world, *targets, best=False):
    """(matched distance, item) of all items, best first, by the definition."""
    vectors, parts = made_of(*crops_of(world))
    asked, asked_parts = made_of(*targets)
    of_parts = np.array([[local(one, its) for its in parts] for one in asked_parts])
    if not best:
        of_parts, asked = of_parts.mean(axis=0, keepdims=True), asked.mean(axis=0, keepdims=True)
        asked /= np.linalg.norm(asked)
    whole = np.sqrt(np.maximum(2 - 2 * asked.astype(float) @ vectors.T, 0))
    distances = (whole + MATCHER.weight * of_parts).min(axis=0)
    return sorted((round(distance, 5), item) for item, distance in enumerate(distances.tolist()))


def rows_of(*arguments):
    result = succeed("query", *arguments, "--format", "jsonl")
    return [json.loads(line) for line in result.stdout.splitlines()]


def pairs_of(*arguments):
    return [(row["matched_distance"], row["item"]) for row in rows_of(*arguments)]


def assert_same(found, wanted):
    # The distance of a vector to itself is the root of what rounding leaves.
    assert [item for _, item in found] == [item for _, item in wanted]
    assert [distance for distance, _ in found] == pytest.approx([d for d, _ in wanted], abs=1e-3)


def test_a_build_keeps_parts_and_matcher(world):
    gallery = Gallery.open(world / "g")
    assert gallery.matcher == MATCHER
    np.testing.assert_array_equal(gallery.parts(range(len(gallery))), made_of(*crops_of(world))[1])
    assert json.loads(succeed("inspect", world / "g", "--format", "json").stdout)["matcher"] == (
        "aligned parts, weight 0.25"
    )
    assert re.search(r"matcher +aligned parts, weight 0.25", succeed("inspect", world / "g").stdout)
    assert succeed("verify", world / "g").exit_code == 0


def test_a_gallery_of_its_shards_has_them_too(world, tmp_path):
    [shard] = (world / "g" / "shards").iterdir()
    succeed("build", shard, "--out", tmp_path / "of_shards")
    gallery = Gallery.open(tmp_path / "of_shards")
    assert gallery.matcher == MATCHER
    assert gallery.parts([3]).tolist() == Gallery.open(world / "g").parts([3]).tolist()


def test_pictures_that_are_added_have_them_too(world, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    for path in crops_of(world)[:7]:
        (half / path.name).write_bytes(path.read_bytes())
    succeed("build", "--extractor", "stripes", half, "--out", tmp_path / "g")
    succeed("add", tmp_path / "g", world / "crops")
    with Gallery.open(tmp_path / "g") as gallery:
        assert len(gallery) == 7 + len(crops_of(world))
        assert len(gallery.parts(range(len(gallery)))) == len(gallery)
    succeed("delete", tmp_path / "g", "--item", "2")
    succeed("compact", tmp_path / "g")
    assert Gallery.open(tmp_path / "g").matcher == MATCHER
    assert succeed("verify", tmp_path / "g").exit_code == 0


def test_a_rebuild_brings_them(world, tmp_path, monkeypatch):
    monkeypatch.setattr(extractors.stripes, "StripesExtractor", StripesExtractor)
    succeed("build", "--extractor", "stripes", world / "crops", "--out", tmp_path / "g")
    assert Gallery.open(tmp_path / "g").matcher is None
    monkeypatch.setattr(extractors.stripes, "StripesExtractor", PartsExtractor)
    succeed("rebuild", tmp_path / "g", "--extractor", "stripes")
    assert Gallery.open(tmp_path / "g").matcher == MATCHER
    target = crops_of(world)[5]
    assert pairs_of(tmp_path / "g", target) == pairs_of(world / "g", target)


def test_a_picture_is_compared_by_its_parts(world):
    target = crops_of(world)[5]
    found = pairs_of(world / "g", target)
    assert_same(found, matched(world, target)[:20])
    alone = rows_of(world / "plain", "--item", "5")
    assert [item for _, item in found] != [row["item"] for row in alone]


def test_an_item_is_compared_by_its_own_parts(world):
    found = pairs_of(world / "g", "--item", "5", "--top", "9")
    assert_same(found, matched(world, crops_of(world)[5])[:9])


@pytest.mark.parametrize("combine", ["mean", "best"])
def test_a_folder_of_pictures_is_combined(world, tmp_path, combine):
    chosen = crops_of(world)[:3]
    for path in chosen:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    found = pairs_of(world / "g", tmp_path, "--combine", combine)
    assert_same(found, matched(world, *chosen, best=combine == "best")[:20])


def test_a_shortlist_is_said(world):
    target = crops_of(world)[5]
    result = succeed("query", world / "g", target, "--shortlist", "4", "--top", "3", "--explain")
    count = len(crops_of(world))
    assert f", aligned over 4 of {count} allowed" in result.stderr
    assert re.search(r"exact +no", result.stderr)
    assert re.search(r"ms .* match ", result.stderr)
    similar = rows_of(world / "plain", "--item", "5", "--top", "4")
    items = {row["item"] for row in similar}
    wanted = [pair for pair in matched(world, target) if pair[1] in items][:3]
    found = pairs_of(world / "g", target, "--shortlist", "4", "--top", "3")
    assert_same(found, wanted)


def test_an_answer_that_others_could_be_in_says_so(world):
    target = crops_of(world)[5]
    words = ["query", world / "g", target, "--top", "3"]
    short = succeed(*words, "--shortlist", "9").stderr
    assert re.search(
        r"^not exact: .*aligned over 9 of .*; --exact compares the parts of all$", short
    )
    assert "not exact" not in succeed(*words, "--exact").stderr


def test_exact_compares_all(world):
    target = crops_of(world)[5]
    result = succeed("query", world / "g", target, "--exact", "--top", "3", "--explain")
    count = len(crops_of(world))
    assert f"plan        all, aligned over {count} of {count} allowed" in result.stderr
    assert re.search(r"exact +yes", result.stderr)
    assert_same(pairs_of(world / "g", target, "--exact"), matched(world, target)[:20])


def test_every_format_has_the_matched_distance(world):
    target = crops_of(world)[5]
    rows = rows_of(world / "g", target, "--top", "3")
    ask = ("query", world / "g", target, "--top", "3", "--format")
    cells = list(csv.DictReader(io.StringIO(succeed(*ask, "csv").stdout)))
    assert [float(cell["matched_distance"]) for cell in cells] == [
        row["matched_distance"] for row in rows
    ]
    head, *lines = [line.split()[:4] for line in succeed(*ask, "table").stdout.splitlines()]
    assert head == ["rank", "item", "similarity", "matched"]
    assert [line[3] for line in lines] == [f"{row['matched_distance']:.4f}" for row in rows]
    page = succeed(*ask, "html").stdout
    assert [card[1] for card in Sheet(page).cards] == [str(row["item"]) for row in rows]
    assert "best first, by matched distance, which is of parts, too" in page
    assert f"<dt>matched</dt><dd>{rows[1]['matched_distance']:.4f}</dd>" in page


def test_without_parts_there_is_none(world):
    ask = (world / "plain", "--item", "5")
    assert {row["matched_distance"] for row in rows_of(*ask)} == {None}
    assert "matched" not in succeed("query", *ask).stdout
    assert "matched" not in succeed("query", *ask, "--format", "html").stdout


@pytest.mark.parametrize(
    ("gallery", "arguments", "code", "text"),
    [
        ("g", ["--shortlist", "0"], 2, "--shortlist must be at least 1, got 0"),
        ("g", ["--shortlist", "9", "--exact"], 2, "no shortlist of them"),
        ("g", ["--rerank"], 2, "re-ranking goes by vectors alone"),
        ("plain", ["--shortlist", "9"], 2, "by their vectors alone, so --shortlist says nothing"),
        ("plain", [], 1, "pooling: 'stripes and all' ≠"),
    ],
)
def test_what_is_refused(world, gallery, arguments, code, text):
    target = [] if arguments and gallery == "plain" else [crops_of(world)[5]]
    of_item = ["--item", "5"] if not target else []
    result = run("query", world / gallery, *target, *of_item, *arguments)
    assert_refused(result, code=code, text=text)


def test_a_file_of_vectors_has_no_parts(world, tmp_path):
    np.save(tmp_path / "target.npy", made_of(crops_of(world)[5])[0])
    result = run("query", world / "g", tmp_path / "target.npy")
    assert_refused(result, code=2, text="has no parts, and this gallery compares items by aligned")
    assert "give pictures, or --item N" in result.stderr


def test_a_system_without_parts_is_refused(world, monkeypatch):
    """One of the same fingerprint, whose parts are gone."""
    monkeypatch.setattr(PartsExtractor, "embed", StripesExtractor.embed)
    result = run("query", world / "g", crops_of(world)[5])
    assert_refused(result, code=2, text="the query has no parts: give those that its extractor")


# Evaluation


def figures(*arguments):
    return json.loads(succeed("evaluate", *arguments, "--format", "json").stdout)


def split(world):
    """Two crops of each person and camera: one asks, the other is found."""
    path = world / "split.csv"
    names = [crop.name for crop in crops_of(world)]
    lines = [f"{name},{'gallery' if place % 2 else 'query'}" for place, name in enumerate(names)]
    path.write_text("\n".join(["file,split", *lines]) + "\n")
    return ["--split", path]


def test_figures_are_of_matched_distances(world):
    found = figures(world / "g", world / "g", *split(world))
    assert found["matcher"] == "aligned parts, weight 0.25"
    crops = crops_of(world)
    asked, searched = crops[::2], crops[1::2]
    distance = np.array(
        [[dict((i, d) for d, i in matched(world, one))[crops.index(to)] for to in searched]
         for one in asked]
    )  # fmt: skip
    sides = [
        [[int(path.name[:4]) for path in side], [int(path.name[6]) for path in side]]
        for side in (asked, searched)
    ]
    (persons, cameras), (its_persons, its_cameras) = sides
    wanted = evaluate_distances(distance, persons, its_persons, cameras, its_cameras)
    assert (found["mAP"], found["mINP"]) == pytest.approx((wanted.mAP, wanted.mINP))
    assert found["rank1"] == pytest.approx(wanted.cmc[0])


def test_vectors_alone_can_be_asked_for(world):
    of_vectors = figures(world / "g", world / "g", *split(world), "--global-only")
    plain = figures(world / "plain", world / "plain", *split(world))
    assert of_vectors["matcher"] is plain["matcher"] is None
    names = ("mAP", "mINP", "rank1", "queries")
    assert [of_vectors[name] for name in names] == [plain[name] for name in names]
    assert figures(world / "g", world / "g", *split(world))["mAP"] != plain["mAP"]


def test_shards_and_folders_are_compared_so_too(world):
    [shard] = (world / "g" / "shards").iterdir()
    wanted = figures(world / "g", world / "g", *split(world))
    for gallery in (shard, world / "crops"):
        found = figures(gallery, world / "g", *split(world))
        assert (found["mAP"], found["matcher"]) == (wanted["mAP"], wanted["matcher"])


def test_a_report_has_both(world, tmp_path):
    pytest.importorskip("matplotlib")
    succeed("evaluate", world / "g", world / "g", *split(world), "--report", tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "aligned parts, weight 0.25" in page


@pytest.mark.parametrize(
    ("names", "arguments", "text"),
    [
        ("g g", ["--rerank", "joint"], "--rerank goes by vectors alone"),
        ("g g", ["--with", "plain", "plain"], "--with goes by vectors alone"),
        ("plain plain", ["--global-only"], "by their vectors alone as it is; leave it out"),
    ],
)
def test_evaluations_that_are_refused(world, names, arguments, text):
    paths = [world / name for name in names.split()]
    options = [world / one if one == "plain" else one for one in arguments]
    assert_refused(run("evaluate", *paths, *split(world), *options), code=2, text=text)


def test_re_ranking_is_of_vectors_alone_where_that_is_asked_for(world):
    options = ("--rerank", "joint", "--k1", "3", "--k2", "2")
    found = figures(world / "g", world / "g", *split(world), "--global-only", *options)
    plain = figures(world / "plain", world / "plain", *split(world), *options)
    assert found["mAP"] == plain["mAP"]
