"""Re-ranking from the command line: `reid graph`, `reid build --graph`, `reid query --rerank`."""

import csv
import json

import numpy as np
import pytest
from cli_world import assert_refused, run, succeed, tree
from test_neighbours import KINDS, unit

from reid_index import Gallery, Reranking, rerank_joint
from reid_index.reranking import rerank_gallery

DEFAULTS = ("--extractor", "external:test")


@pytest.fixture
def vectors(tmp_path):
    """40 vectors, in `v.npy` too."""
    made = KINDS["clustered"](np.random.default_rng(3), 40)
    np.save(tmp_path / "v.npy", made)
    return made


@pytest.fixture
def built(tmp_path, vectors):
    """A gallery of them without a graph."""
    succeed(
        "build", "--extractor", "stripes", tmp_path / "v.npy", "--out", tmp_path / "g", *DEFAULTS
    )
    return tmp_path / "g"


def reranked(vectors, query, **parameters):
    """(item, re-ranked distance) of all rows by the graph of all of them, nearest first."""
    rerank = Reranking(**parameters)
    (distances,) = rerank_joint(query[None], vectors, reranking=rerank).distances().tolist()
    return sorted(enumerate(distances), key=lambda pair: pair[::-1])


def answers(*arguments):
    """What `reid query --format jsonl` prints, as (item, re-ranked distance)."""
    lines = succeed("query", *arguments, "--format", "jsonl").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    return [(row["item"], row["reranked_distance"]) for row in rows]


def test_re_ranked_distances_stand_beside_similarities(built, vectors):
    expected = reranked(vectors, vectors[3])[:4]
    plain = ("query", built, "--item", "3", "--top", "4")
    options = (*plain, "--rerank")
    rows = [json.loads(line) for line in succeed(*options, "--format", "jsonl").stdout.splitlines()]
    assert [(row["item"], row["reranked_distance"]) for row in rows] == expected
    for row in rows:
        assert row["similarity"] == pytest.approx(vectors[3] @ vectors[row["item"]], abs=1e-6)
        assert row["distance"] is None

    cells = list(csv.DictReader(succeed(*options, "--format", "csv").stdout.splitlines()))
    assert [(int(cell["item"]), float(cell["reranked_distance"])) for cell in cells] == expected
    assert [float(cell["similarity"]) for cell in cells] == [row["similarity"] for row in rows]

    head, *lines = succeed(*options).stdout.splitlines()
    assert head.split()[:4] == ["rank", "item", "similarity", "re-ranked"]
    assert [line.split()[:4] for line in lines] == [
        [str(rank), str(row["item"]), f"{row['similarity']:.4f}", f"{row['reranked_distance']:.4f}"]
        for rank, row in enumerate(rows, start=1)
    ]

    assert "re-ranked" not in succeed(*plain).stdout
    for line in succeed(*plain, "--format", "jsonl").stdout.splitlines():
        assert json.loads(line)["reranked_distance"] is None


def test_the_sheet_shows_them_too(built, vectors):
    values = [value for _, value in reranked(vectors, vectors[3])[1:4]]
    page = succeed("query", built, "--item", "3", "--rerank", "--format", "html").stdout
    assert all(f"<dd>{value:.4f}</dd>" in page for value in values)
    assert "best first, by re-ranked distance;" in page
    plain = succeed("query", built, "--item", "3", "--format", "html").stdout
    assert "re-ranked" not in plain


def test_parameters_are_passed_on(built, vectors, tmp_path):
    np.save(tmp_path / "q.npy", vectors[3] + vectors[9])
    query = unit(vectors[[3]] + vectors[[9]])[0]
    options = ("--k1", "9", "--k2", "4", "--lambda", "0.55", "--top", "40")
    found = answers(built, tmp_path / "q.npy", "--rerank", *options)
    expected = reranked(vectors, query, k1=9, k2=4, lambda_=0.55)
    assert [item for item, _ in found] == [item for item, _ in expected]
    assert [value for _, value in found] == pytest.approx([v for _, v in expected], abs=1e-6)
    assert expected != reranked(vectors, query)


def test_a_graph_is_made_kept_and_used(built, vectors, monkeypatch):
    before = answers(built, "--item", "3", "--rerank", "--k1", "7", "--top", "40")
    result = succeed("graph", built, "--k1", "7", "--k2", "8")
    assert result.stdout == ""
    assert result.stderr == f"{built}: neighbour graph of 40 items, k1 = 7, exact\n"
    monkeypatch.setattr(rerank_gallery, "AT_ONCE", 0)
    assert answers(built, "--item", "3", "--rerank", "--k1", "7", "--top", "40") == before
    explained = succeed("query", built, "--item", "3", "--rerank", "--k1", "7", "--explain")
    assert "re-ranked with the graph of the whole gallery" in explained.stderr
    result = succeed("graph", built, "--k1", "7", "--mode", "approximate")
    assert result.stderr.splitlines()[-1].endswith("40 items, k1 = 7, approximate")
    explained = succeed("query", built, "--item", "3", "--rerank", "--k1", "7", "--explain")
    assert "re-ranked with an approximate graph" in explained.stderr


def test_building_can_make_it_at_once(tmp_path, vectors, monkeypatch):
    folder = tmp_path / "g"
    result = succeed(
        "build", "--extractor", "stripes", tmp_path / "v.npy", "--out", folder, "--graph", *DEFAULTS
    )
    last = f"{folder}: neighbour graph of 40 items, k1 = 20, exact"
    assert result.stderr.splitlines()[-2:] == [f"{folder}: 40 items", last]
    assert not Gallery.open(folder).is_stale("graph")
    monkeypatch.setattr(rerank_gallery, "AT_ONCE", 0)
    assert answers(folder, "--item", "5", "--rerank") == reranked(vectors, vectors[5])[:20]


def test_which_rows_the_graph_is_of(built, vectors):
    few = np.arange(30)
    options = ("--item", "3", "--where", "item < 30", "--top", "40", "--rerank")
    whole = [pair for pair in reranked(vectors, vectors[3]) if pair[0] < 30]
    alone = reranked(vectors[few], vectors[3])
    assert answers(built, *options) == answers(built, *options, "--rerank-graph", "whole") == whole
    assert answers(built, *options, "--rerank-graph", "allowed") == alone
    assert whole != alone


def test_a_threshold_is_of_the_similarity(built, vectors):
    similar = vectors @ vectors[3]
    limit = float(np.sort(similar)[-8:-6].mean())
    found = answers(built, "--item", "3", "--rerank", "--top", "40", "--threshold", limit)
    expected = [pair for pair in reranked(vectors, vectors[3]) if similar[pair[0]] >= limit]
    assert (found, len(found)) == (expected, 7)


def test_nothing_allowed_is_said(built):
    result = succeed("query", built, "--item", "3", "--rerank", "--where", "camera = 1")
    assert len(result.stdout.splitlines()) == 1
    assert "match" in result.stderr


# What is refused


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--k1", "40"), "k1 = 40, k2 = 6 needs at least 41 items"),
        (("--k1", "0"), "k1 and k2 of 1 or more"),
        (("--lambda", "1.5"), "a lambda in [0, 1], got 1.5"),
        (("--lambda", "nan"), "a lambda in [0, 1], got nan"),
        (("--where", "item < 9", "--rerank-graph", "allowed"), "at least 21 items"),
    ],
)
def test_parameters_that_do_not_fit_are_wrong_usage(built, options, text):
    result = run("query", built, "--item", "3", "--rerank", *options)
    assert_refused(result, code=2, text=text)


def test_a_large_gallery_without_a_graph_that_fits_says_what_to_run(built, vectors, monkeypatch):
    monkeypatch.setattr(rerank_gallery, "AT_ONCE", 39)
    query = ("query", built, "--item", "3", "--rerank", "--k1", "9", "--k2", "4")
    remedy = f"run `reid graph {built} --k1 9 --k2 4`"
    assert_refused(run(*query), code=1, text=f"{built} has no neighbour graph")
    assert remedy in run(*query).stderr
    succeed("graph", built)
    assert_refused(run(*query), code=1, text=f"{built} has a neighbour graph for k1 = 20")
    assert remedy in run(*query).stderr
    succeed("graph", built, "--k1", "9", "--k2", "4")
    succeed(*query)
    Gallery.open(built).add(vectors[:3])
    assert_refused(run(*query), code=1, text=f"{built} has a stale neighbour graph")
    assert remedy in run(*query).stderr
    succeed("query", built, "--item", "3")


@pytest.mark.parametrize(
    ("options", "text"),
    [(("--k1", "40"), "needs at least 41 items"), (("--k2", "0"), "k1 and k2 of 1 or more")],
)
def test_a_graph_that_cannot_be_made_leaves_the_gallery_alone(built, options, text):
    before = tree(built)
    assert_refused(run("graph", built, *options), code=2, text=text)
    assert tree(built) == before


def test_there_is_no_graph_of_an_inner_product_gallery(tmp_path, vectors):
    options = ("--metric", "inner_product", *DEFAULTS)
    succeed(
        "build", "--extractor", "stripes", tmp_path / "v.npy", "--out", tmp_path / "g", *options
    )
    text = "an inner product gallery has none"
    assert_refused(run("graph", tmp_path / "g"), code=2, text=text)
    result = run("query", tmp_path / "g", "--item", "3", "--rerank")
    assert_refused(result, code=2, text=text)


def test_building_refuses_beforehand_what_can_have_no_graph(tmp_path, vectors):
    options = ("--metric", "inner_product", "--graph", *DEFAULTS)
    result = run(
        "build", "--extractor", "stripes", tmp_path / "v.npy", "--out", tmp_path / "g", *options
    )
    assert result.exit_code == 2
    assert "inner product" in result.stderr
    assert not (tmp_path / "g").exists()


def test_there_is_no_graph_of_no_gallery(tmp_path):
    result = run("graph", tmp_path / "none")
    assert_refused(result, code=1, text="there is no such folder; reid build makes one")


def test_re_ranking_says_what_its_ranks_are(built, tmp_path, vectors):
    np.save(tmp_path / "q.npy", vectors[3])
    assert succeed("query", built, tmp_path / "q.npy", "--rerank").stderr == ""
    succeed("graph", built, "--mode", "approximate")
    note = succeed("query", built, tmp_path / "q.npy", "--rerank").stderr
    assert note.startswith("not exact: ")
    assert "approximate graph" in note
    note = succeed("query", built, "--item", "3", "--rerank").stderr
    assert "the item is in the graph twice, as query and as itself" in note
    succeed("graph", built)
