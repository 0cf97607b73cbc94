"""Graph, index and calibration made again: by what the manifest says, or by their own files."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reid_index import Gallery, Reranking
from reid_index.errors import NoCalibration, UsageError
from reid_index.evaluation.calibration import (
    MAX_ROWS,
    calibrate,
    read_calibration,
    write_calibration,
)
from reid_index.reranking.graph import EXACT_ROWS
from reid_index.search import index_tuning
from reid_index.store.manifest import AttachedEntry
from reid_index.upkeep.remake import (
    CalibrationRecipe,
    GraphRecipe,
    IndexRecipe,
    Recipe,
    make_again,
    recipe_of,
)

MakeGallery = Callable[..., Gallery]
DATA = Path(__file__).parent / "data"


def vectors(count: int, dim: int = 3) -> np.ndarray:
    return np.random.default_rng(11).normal(size=(count, dim)).astype(np.float32)


@pytest.fixture
def gallery(make_gallery: MakeGallery) -> Gallery:
    gallery = make_gallery()
    gallery.add(vectors(60), [{"person": f"p{n % 6}", "camera": n % 4} for n in range(60)])
    return gallery


def recipe(gallery: Gallery, kind: str, **changes: Any) -> Recipe | str:
    entry = gallery.manifest.attachment(kind)
    assert entry is not None
    return recipe_of(gallery.path, replace(entry, **changes))


@pytest.mark.parametrize("exact", [None, True, False])
def test_a_graph_is_made_again_as_it_was_asked_for(gallery: Gallery, exact: bool | None) -> None:
    asked = Reranking(k1=4, k2=7)
    gallery.build_graph(asked, exact=exact)
    said = recipe(gallery, "graph")
    assert said == GraphRecipe(reranking=asked, exact=exact)
    gallery.delete(items=range(0, 20))
    assert gallery.graph is None
    assert not isinstance(said, str)
    make_again(gallery, said)
    graph = gallery.graph
    assert graph is not None
    assert graph.fits(asked)
    assert graph.exact == (exact is not False)
    assert len(graph.near.index) == 40


@pytest.mark.parametrize(("k1", "k2", "longest"), [(4, 2, 5), (4, 5, 5), (4, 7, 7)])
def test_by_its_own_file_a_graph_serves_the_same_k2(
    gallery: Gallery, k1: int, k2: int, longest: int
) -> None:
    gallery.build_graph(Reranking(k1=k1, k2=k2))
    said = recipe(gallery, "graph", about={})
    assert said == GraphRecipe(reranking=Reranking(k1=k1, k2=longest), exact=None)
    assert not isinstance(said, str)
    before = gallery.graph
    make_again(gallery, said)
    assert before is not None
    assert gallery.graph is not None
    assert np.array_equal(gallery.graph.near.index, before.near.index)


@pytest.mark.parametrize(
    ("rows", "exact", "asked"),
    [
        (EXACT_ROWS, True, None),
        (EXACT_ROWS, False, False),
        (EXACT_ROWS + 1, True, True),
        (EXACT_ROWS + 1, False, None),
    ],
)
def test_exactness_that_differs_from_the_default_was_asked_for(
    gallery: Gallery, rows: int, exact: bool, asked: bool | None
) -> None:
    said = {"rows": rows, "neighbours": 4, "k1": 3, "exact": exact}

    def write(folder: Path) -> None:
        (folder / "graph.json").write_text(json.dumps(said))

    gallery.attach("graph", write, generation=1)
    assert recipe(gallery, "graph") == GraphRecipe(reranking=Reranking(k1=3, k2=4), exact=asked)


def test_an_index_is_made_again(make_gallery: MakeGallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_tuning, "SHARES", (1.0,))
    monkeypatch.setattr(index_tuning, "MATCHES", (10,))
    gallery = make_gallery()
    gallery.add(vectors(1010))
    gallery.build_index("ivf-sq8", recall=0.8)
    expected = IndexRecipe(kind="ivf-sq8", recall=0.8)
    assert recipe(gallery, "index") == recipe(gallery, "index", about={}) == expected
    gallery.delete(items=[3, 1009])
    gallery.compact(remake=False)
    assert gallery.index is None
    make_again(gallery, expected)
    index = gallery.index
    assert index is not None
    assert (index.kind, index.rows) == ("ivf-sq8", 1008)
    assert 0.8 in {tuned.wanted for tuned in index.facts.tuned}
    gallery.delete(items=range(10, 20))
    assert recipe(gallery, "index") == expected
    done = gallery.compact()
    assert done.remade == ()
    assert [why.partition(":")[0] for _, why in done.dropped] == [
        "an index 'ivf-sq8' of 998 rows cannot be built"
    ]
    gallery.add(vectors(2))  # still owed, and there are enough again
    assert gallery.compact().remade == ("index",)


@pytest.mark.parametrize("weak", [False, True])
def test_a_calibration_is_made_again_from_what_is_left(
    make_gallery: MakeGallery, weak: bool
) -> None:
    gallery = make_gallery()
    items = [
        {"person": f"p{n % 6}", "camera": n % 2, "track": f"t{n % 6}", "frame_first": n // 6}
        for n in range(60)
    ]
    gallery.add(vectors(60), items)
    options = {"false_match_rate": 0.25, "max_rows": 30, "seed": 7}
    write_calibration(gallery, calibrate(gallery, weak=weak, same_camera=not weak, **options))
    said = recipe(gallery, "calibration")
    assert said == CalibrationRecipe(weak=weak, same_camera=not weak, **options)
    assert not isinstance(said, str)
    gallery.delete(where="person = 'p3'")
    make_again(gallery, said)
    made = read_calibration(gallery)
    assert made is not None
    fresh = calibrate(gallery, weak=weak, same_camera=not weak, **options)
    assert made.summary() == fresh.summary() | {"generation": made.generation}
    assert (made.items, made.rows, made.usable) == (50, 30, 50)


@pytest.mark.parametrize(("max_rows", "found"), [(30, 30), (60, MAX_ROWS)])
def test_by_its_own_file_a_calibration_takes_as_many_items(
    gallery: Gallery, max_rows: int, found: int
) -> None:
    write_calibration(gallery, calibrate(gallery, false_match_rate=0.5, max_rows=max_rows))
    assert recipe(gallery, "calibration", about={}) == CalibrationRecipe(
        weak=False, same_camera=False, false_match_rate=0.5, max_rows=found, seed=0
    )


def test_what_is_left_may_not_suffice(gallery: Gallery, tmp_path: Path) -> None:
    gallery.build_graph(Reranking(k1=20, k2=6))
    write_calibration(gallery, calibrate(gallery, false_match_rate=0.5))
    by_labels = recipe(gallery, "calibration")
    assert isinstance(by_labels, CalibrationRecipe)
    gallery.delete(where="person != 'p1'")
    graph = recipe(gallery, "graph")
    assert isinstance(graph, GraphRecipe)
    with pytest.raises(UsageError, match="needs at least 21 items and there are 10"):
        make_again(gallery, graph)
    with pytest.raises(NoCalibration, match="all labelled items are of one person"):
        make_again(gallery, by_labels)


def test_a_list_of_pairs_is_not_kept(gallery: Gallery, tmp_path: Path) -> None:
    listed = tmp_path / "pairs.csv"
    listed.write_text("a,b,same\n0,6,1\n0,1,0\n")
    write_calibration(gallery, calibrate(gallery, listed=listed, false_match_rate=1))
    why = "it was made from a list of pairs: run `reid calibrate --pairs` again"
    assert recipe(gallery, "calibration") == recipe(gallery, "calibration", about={}) == why


@pytest.mark.parametrize(
    ("kind", "about", "words"),
    [
        ("graph", {"k1": "4", "k2": 2, "exact": None}, "whole k1 and k2"),
        ("graph", {"k1": 4}, "cannot be read (KeyError('k2'))"),
        ("graph", {"k1": 4, "k2": 2, "exact": "yes"}, "exact is 'yes'"),
        ("graph", {}, "graph.json has changed since it was written"),
        ("index", {"kind": "x", "recall_wanted": 0.5}, "there is no index 'x'"),
        ("index", {"kind": "ivf", "recall_wanted": 2}, "cannot be tuned for"),
        ("index", {}, "how it was made cannot be read: No such file"),
        ("calibration", {"origin": "x"}, "origin is 'x'"),
        ("calibration", {"origin": "labels", "max_rows": 9, "seed": 0}, "KeyError('same_camera')"),
        ("likes", {}, "this reid-index does not know how a likes is made"),
    ],
)
def test_what_cannot_be_told_is_said_in_a_line(
    gallery: Gallery, kind: str, about: dict[str, Any], words: str
) -> None:
    gallery.build_graph(Reranking(k1=4, k2=2))
    graph = gallery.manifest.attachment("graph")
    assert graph is not None
    (gallery.path / graph.folder / "graph.json").write_text('{"k1": 9}')
    entry = AttachedEntry(
        kind=kind, folder=graph.folder, covers=graph.covers, files=graph.files, about=about
    )
    why = recipe_of(gallery.path, entry)
    assert isinstance(why, str)
    assert words in why
    assert "\n" not in why


@pytest.mark.parametrize("name", ["format_v1_1", "format_v1_1_stale"])
def test_what_older_formats_have_is_made_again_by_compaction(tmp_path: Path, name: str) -> None:
    with Gallery.open(shutil.copytree(DATA / name, tmp_path / "g")) as gallery:
        gallery.delete(items=[0])
        done = gallery.compact()
        assert (done.remade, done.dropped) == (("graph", "calibration"), ())
        graph, made = gallery.graph, read_calibration(gallery)
        assert graph is not None
        assert graph.fits(Reranking(k1=4, k2=5))
        assert made is not None
        assert (made.false_match_rate, made.items) == (0.05, len(gallery))
        about = {entry.kind: entry.about for entry in gallery.manifest.attached}
        assert about["graph"] == {"k1": 4, "k2": 5, "exact": None}
