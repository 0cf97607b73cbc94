"""`reid evaluate`: what there is nothing to compute from, and what is refused."""

import json

import numpy as np
import pytest
from cli_world import assert_refused, run
from conftest import FINGERPRINT
from dense_reranking import dense_reranking
from evaluation_world import (
    SMALL,
    assert_figures,
    evaluated,
    figures,
    kept,
    pick,
    store,
)

from reid_index import Fingerprint, Gallery

# What there is nothing to compute from, and what is refused


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("scope", [None, "joint", "query", "fused"])
def test_duplicates_and_zero_vectors_are_ordered_by_item(tmp_path, metric, scope):
    """All vectors are one: the ids alone decide, and no figure is NaN."""
    vectors = np.full((14, 3), metric == "cosine", np.float32)
    records = [
        {"person": "a" if row in (4, 9) else f"b{row}", "camera": row, "source": f"{row}.jpg"}
        for row in range(14)
    ]
    gallery = store(tmp_path / "g", vectors, records, metric=metric)
    asked = [
        {"item": item, "person": person, "camera": 20, "source": person}
        for item, person in enumerate(("a", "b7"))
    ]
    queries = store(tmp_path / "q", vectors[:2], asked, metric=metric)
    searched = [record | {"item": row} for row, record in enumerate(records)]
    options = {None: (), "fused": ("--with", gallery, queries)}.get(
        scope, ("--rerank", scope, *SMALL)
    )

    def dense(queries):
        nodes = np.arange(queries + 14)
        zeros = np.zeros((len(nodes), len(nodes)))
        return dense_reranking(zeros, queries=queries, order=nodes, k1=5, k2=3)

    keys = np.zeros((2, 14))
    if scope == "joint":
        keys = dense(2)
    elif scope == "query":
        keys = np.concatenate([dense(1), dense(1)])
    assert_figures(evaluated(gallery, queries, *options)[0], figures(keys, asked, searched))


def test_no_query_has_a_match(tmp_path):
    rows = [{"person": "a", "camera": 1}, {"person": "b", "camera": 2}]
    folder = store(tmp_path / "g", np.eye(2, dtype=np.float32), rows)
    result = run("evaluate", folder, folder, "--unanswerable", "zero", "--format", "json")
    assert_refused(result, code=2, text="no query has a match: none of the 2 queries' persons")


@pytest.mark.parametrize("scope", ["joint", "query"])
def test_more_neighbours_than_items(world, scope):
    result = run("evaluate", world[2], world[2], "--rerank", scope, "--k1", "200")
    assert_refused(result, code=2, text="k1 = 200, k2 = 6 needs at least 201 items")


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--protocol", "market"), 2, "there is no protocol 'market'; there are market1501, "),
        (("--fuse-weights", "1,2"), 2, "--fuse-weights belongs to --with"),
        (("--with", "G", "G", "--fuse-weights", "1,x"), 2, "'1,x': numbers with commas between"),
        (("--with", "G", "G", "--fuse-weights", "1"), 2, "1 weights for 2 extractors"),
        (("--with", "G", "G", "--fuse-weights", "0,0"), 2, "one of them above 0"),
        (("--with", "G", "other"), 1, "other comes from another extractor than"),
        (("--per-query", "q.txt"), 2, "--per-query q.txt: a .csv or .parquet file, please"),
        (("--extractor", "stripes"), 2, "--extractor is for dataset folders"),
        (("--weights", "m.onnx"), 2, "--extractor is for dataset folders"),
        (("--rerank", "joint", "--k1", "0"), 2, "k1 and k2 of 1 or more"),
        (("--split", "none.csv"), 1, "none.csv: cannot be read as a table"),
    ],
)
def test_options_that_make_no_sense(world, tmp_path, options, code, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store(tmp_path / "other", *world[:2], fingerprint=Fingerprint(name="stripes", version="0"))
    options = [world[2] if option == "G" else option for option in options]
    result = run("evaluate", world[2], world[2], *options)
    assert_refused(result, code=code, text=text)


@pytest.mark.parametrize(
    ("properties", "code", "text"),
    [
        ({"fingerprint": Fingerprint(name="external:test", version="2")}, 1, "version: '2' ≠ '1'"),
        ({"metric": "euclidean"}, 2, "is compared by euclidean, "),
    ],
)
def test_queries_that_cannot_be_compared(world, tmp_path, properties, code, text):
    queries = store(tmp_path / "q", *world[:2], **properties)
    assert_refused(run("evaluate", world[2], queries), code=code, text=text)


def test_sides_that_are_not_there(world, tmp_path):
    folder = world[2]
    text = "none: there is no such gallery, shard or dataset folder"
    assert_refused(run("evaluate", tmp_path / "none", folder), code=1, text=text)
    assert_refused(run("evaluate", folder, tmp_path / "none"), code=1, text=text)
    text = f"{tmp_path / 'query'}: there is no such file or folder; market1501 is a folder with"
    assert_refused(run("evaluate", folder, tmp_path), code=1, text=text)
    Gallery.create(tmp_path / "empty", dim=6, fingerprint=FINGERPRINT)
    result = run("evaluate", tmp_path / "empty", folder)
    assert_refused(result, code=2, text="gallery: nothing to evaluate, of 0 rows")
    result = run("evaluate", folder, tmp_path / "empty", "--protocol", "mars-official")
    assert_refused(result, code=2, text="queries: nothing to evaluate, of 0 rows")
    narrow = store(tmp_path / "narrow", world[0][:, :4], world[1])
    text = "the queries have 4 dimensions, the gallery 6"
    assert_refused(run("evaluate", folder, narrow), code=1, text=text)


def test_an_inner_product_is_no_distance(world, tmp_path):
    vectors, records, _ = world
    folder = store(tmp_path / "g", vectors, records, metric="inner_product")
    asked, searched = kept(records, queries=True), kept(records)
    keys = -(vectors[asked].astype(float) @ vectors[searched].astype(float).T)
    found, _, _ = evaluated(folder, folder)
    rows = pick(records, asked), pick(records, searched)
    assert_figures(found, figures(keys, *rows, same_item=True))
    for scope in ("joint", "query"):
        result = run("evaluate", folder, folder, "--rerank", scope)
        assert_refused(result, code=2, text="re-ranking needs distances: inner products are none")


def test_figures_are_printed_though_a_file_cannot_be_written(world, tmp_path):
    (tmp_path / "q.csv").mkdir()
    path = tmp_path / "q.csv"
    result = run("evaluate", world[2], world[2], "--per-query", path, "--format", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["queries"] == 54
    last = result.stderr.splitlines()[-1]
    assert last.startswith("reid: ")
    assert path.name in last
    assert "fault of reid-index" not in last
    assert [left.name for left in tmp_path.iterdir()] == ["q.csv"]


def test_files_that_cannot_be_written_are_told_beforehand(world, tmp_path):
    (tmp_path / "file").touch()
    for option, name, text in (
        ("--per-query", "none/q.csv", "there is no folder"),
        ("--report", "file", "is a file; name a folder"),
    ):
        result = run("evaluate", world[2], world[2], option, tmp_path / name)
        assert_refused(result, code=2, text=text)
        assert result.stdout == ""


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--device", "cuda"), "--device is for dataset folders and for --rerank joint"),
        (("--split-number", "3"), "--split-number is for dataset folders that have several"),
        (("--fuse", "z_score"), "--fuse belongs to --with"),
        (("--k1", "5"), "--k1 belongs to --rerank"),
    ],
)
def test_options_that_say_nothing_of_galleries(world, options, text):
    assert_refused(run("evaluate", world[2], world[2], *options), code=2, text=text)
