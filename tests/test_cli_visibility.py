"""The command line with an extractor that says which parts are to be seen."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from cli_world import assert_refused, pixels_of, run, succeed
from test_visibility import weighted

import extractors.stripes
from cli.world import draw_world
from extractors.extractor import Embedding
from extractors.stripes import StripesExtractor
from reid_index import Gallery, Matcher, evaluate_distances

MATCHER = Matcher(name="visibility", distance="cosine")


class ShownExtractor(StripesExtractor):
    """`stripes`, four of which joined are a part: to be seen where the crop is bright there. Of
    pictures that show all it says nothing, as a model may."""

    matcher = MATCHER

    @property
    def fingerprint(self):
        return replace(super().fingerprint, pooling="stripes and bright bands")

    def embed(self, batch):
        whole = super().embed(batch).global_
        bands = batch.reshape(len(batch), 4, -1).mean(axis=2)
        visible = (bands > 110).astype(np.uint8)
        return Embedding(
            global_=whole,
            parts=whole.reshape(len(whole), 4, -1),
            visible=None if visible.all() else visible,
        )


@pytest.fixture(scope="module", autouse=True)
def with_visible():
    """`--extractor stripes` says what is visible in this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractors.stripes, "StripesExtractor", ShownExtractor)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory, with_visible):
    """A folder with `crops` of 7 drawn people, and the gallery `g` of them."""
    folder = tmp_path_factory.mktemp("world")
    draw_world(folder / "crops", people=7, cameras=3, crops_per_camera=2, seed=1)
    succeed("build", "--extractor", "stripes", folder / "crops", "--out", folder / "g")
    return folder


def crops_of(world):
    return sorted((world / "crops").iterdir())


def made_of(paths):
    """Unit vectors, parts and what is visible, by the extractor alone."""
    made = ShownExtractor().extract([pixels_of(path) for path in paths])
    vectors = made.global_ / np.linalg.norm(made.global_, axis=1, keepdims=True)
    visible = np.ones(made.parts.shape[:2]) if made.visible is None else made.visible
    return vectors, made.parts, visible


def distances(world, targets):
    """d of the targets' pictures (n, N), each by itself."""
    vectors, parts, visible = made_of(crops_of(world))
    return np.array(
        [
            [
                weighted(one, seen, its, shown, float(asked @ vector), "cosine")
                for vector, its, shown in zip(vectors, parts, visible, strict=True)
            ]
            for asked, one, seen in zip(*made_of(targets), strict=True)
        ]
    )


def ranked(values):
    return sorted((round(value, 5), item) for item, value in enumerate(values.tolist()))


def rows_of(*arguments):
    result = succeed("query", *arguments, "--format", "jsonl")
    return [json.loads(line) for line in result.stdout.splitlines()]


def assert_same(rows, wanted):
    assert [row["item"] for row in rows] == [item for _, item in wanted]
    found = [row["matched_distance"] for row in rows]
    assert found == pytest.approx([distance for distance, _ in wanted], abs=2e-5)


def test_a_build_keeps_what_is_visible(world):
    gallery = Gallery.open(world / "g")
    assert gallery.matcher == MATCHER
    _, parts, visible = made_of(crops_of(world))
    np.testing.assert_array_equal(gallery.parts(range(len(gallery))), parts)
    np.testing.assert_array_equal(gallery.visible(range(len(gallery))), visible)
    assert 0.2 < visible.mean() < 0.8
    facts = json.loads(succeed("inspect", world / "g", "--format", "json").stdout)
    assert facts["matcher"] == "visibility parts, cosine distance"
    assert succeed("verify", world / "g").exit_code == 0


def test_what_is_added_later_and_compacted_has_it_too(world, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    for path in crops_of(world)[:7]:
        (half / path.name).write_bytes(path.read_bytes())
    succeed("build", "--extractor", "stripes", half, "--out", tmp_path / "g")
    [shard] = (world / "g" / "shards").iterdir()
    succeed("add", tmp_path / "g", world / "crops")
    succeed("build", shard, "--out", tmp_path / "of_shards")
    succeed("delete", tmp_path / "g", "--item", "2")
    succeed("compact", tmp_path / "g")
    _, _, visible = made_of(crops_of(world))
    with Gallery.open(tmp_path / "g") as gallery:
        of = {path.name: row for path, row in zip(crops_of(world), visible, strict=True)}
        wanted = [of[source] for source in gallery.items["source"].to_pylist()]
        assert len(wanted) == len(visible) + 6
        np.testing.assert_array_equal(gallery.visible(range(len(gallery))), wanted)
    with Gallery.open(tmp_path / "of_shards") as gallery:
        np.testing.assert_array_equal(gallery.visible(range(len(gallery))), visible)
    assert succeed("verify", tmp_path / "g").exit_code == 0


def test_a_rebuild_brings_it(world, tmp_path, monkeypatch):
    monkeypatch.setattr(extractors.stripes, "StripesExtractor", StripesExtractor)
    succeed("build", "--extractor", "stripes", world / "crops", "--out", tmp_path / "g")
    monkeypatch.setattr(extractors.stripes, "StripesExtractor", ShownExtractor)
    succeed("rebuild", tmp_path / "g", "--extractor", "stripes")
    target = crops_of(world)[5]
    assert Gallery.open(tmp_path / "g").matcher == MATCHER
    (wanted,) = distances(world, [target])
    assert_same(rows_of(tmp_path / "g", target), ranked(wanted)[:20])


@pytest.mark.parametrize("number", range(0, 16, 3))
def test_a_picture_is_compared_by_what_it_shows(world, number):
    target = crops_of(world)[number]
    (wanted,) = distances(world, [target])
    assert_same(rows_of(world / "g", target), ranked(wanted)[:20])
    assert_same(rows_of(world / "g", "--item", number, "--top", "9"), ranked(wanted)[:9])
    result = succeed("query", world / "g", target, "--exact", "--explain")
    count = len(crops_of(world))
    assert f"plan        all, visibility over {count} of {count} allowed" in result.stderr


@pytest.mark.parametrize("combine", ["mean", "best"])
def test_a_folder_of_pictures_is_combined(world, tmp_path, combine):
    chosen = crops_of(world)[:3]
    for path in chosen:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rows = rows_of(world / "g", tmp_path, "--combine", combine)
    if combine == "best":
        assert_same(rows, ranked(distances(world, chosen).min(axis=0))[:20])
        return
    vectors, parts, visible = made_of(crops_of(world))
    mean = vectors[:3].mean(axis=0)
    cosines = vectors @ (mean / np.linalg.norm(mean))
    each = [
        [
            weighted(parts[picture], visible[picture], its, shown, float(cosine), "cosine")
            for its, shown, cosine in zip(parts, visible, cosines, strict=True)
        ]
        for picture in range(3)
    ]
    assert_same(rows, ranked(np.mean(each, axis=0))[:20])


def test_a_shortlist_is_said(world):
    target = crops_of(world)[5]
    words = ["query", world / "g", target, "--top", "3", "--shortlist", "9"]
    said = succeed(*words).stderr
    assert re.search(r"^not exact: .*visibility over 9 of .*; --exact compares", said)


def test_re_ranking_and_bare_vectors_are_refused(world, tmp_path):
    target = crops_of(world)[5]
    result = run("query", world / "g", target, "--rerank")
    assert_refused(result, code=2, text="re-ranking goes by vectors alone")
    np.save(tmp_path / "target.npy", made_of([target])[0])
    result = run("query", world / "g", tmp_path / "target.npy")
    assert_refused(result, code=2, text="has no parts, and this gallery compares items by visib")


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
    assert found["matcher"] == "visibility parts, cosine distance"
    crops = crops_of(world)
    asked, searched = crops[::2], crops[1::2]
    matrix = np.round(distances(world, asked)[:, 1::2], 5)
    people, cameras = (
        [[int(path.name[place]) for path in side] for side in (asked, searched)]
        for place in (slice(0, 4), slice(6, 7))
    )
    wanted = evaluate_distances(matrix, people[0], people[1], cameras[0], cameras[1])
    assert (found["mAP"], found["mINP"]) == pytest.approx((wanted.mAP, wanted.mINP))
    assert found["rank1"] == pytest.approx(wanted.cmc[0])
    alone = figures(world / "g", world / "g", *split(world), "--global-only")
    assert alone["matcher"] is None
    assert alone["mAP"] != found["mAP"]


def test_shards_and_folders_are_compared_so_too(world):
    [shard] = (world / "g" / "shards").iterdir()
    wanted = figures(world / "g", world / "g", *split(world))
    for gallery in (shard, world / "crops"):
        found = figures(gallery, world / "g", *split(world))
        assert (found["mAP"], found["matcher"]) == (wanted["mAP"], wanted["matcher"])


def test_evaluations_re_rank_vectors_alone(world):
    paths = (world / "g", world / "g", *split(world))
    words = ("--rerank", "joint", "--k1", "3", "--k2", "2")
    result = run("evaluate", *paths, *words)
    assert_refused(result, code=2, text="--rerank goes by vectors alone")
    assert figures(*paths, *words, "--global-only")["matcher"] is None
