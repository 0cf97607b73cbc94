"""`reid evaluate`: its figures against plain NumPy and Python, its messages, its files."""

import csv
import json
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from cli_world import assert_refused, real, run, succeed
from conftest import FINGERPRINT
from evaluation_world import (
    KEYS,
    SMALL,
    alone,
    assert_figures,
    cosine,
    evaluated,
    figures,
    joint,
    kept,
    of,
    people,
    pick,
    store,
    write_split,
)

from cli import judge as judging
from cli import judge_report
from reid_index import Fingerprint, Gallery, Metric, Reranking
from reid_index.reranking import rerank_gallery
from reid_index.store.items import conform
from reid_index.store.shard import write_shard
from reid_index.store.vectors import ArrayStream


@pytest.mark.parametrize(
    ("options", "rules"),
    [
        ((), {}),
        (("--ap", "trapezoid", "--unanswerable", "zero"), {"rule": "trapezoid", "zero": True}),
        (("--at", "7"), {"at": 7}),
        (("--protocol", "mars-official", "--ap", "standard"), {"zero": True}),
    ],
)
def test_a_gallery_with_itself(world, options, rules):
    _, records, folder = world
    found, rest, _ = evaluated(folder, folder, *options)
    asked, searched = kept(records, queries=True), kept(records)
    assert (len(asked), len(searched)) == (54, 58)
    assert_figures(found, of(world, asked, searched, same_item=True, **rules))
    assert found["answerable"] == 51
    assert rest["rerank"] is None
    assert rest["seconds"] >= 0


def test_json_has_these_keys_and_the_table_the_same(world):
    folder = world[2]
    line = succeed("evaluate", folder, folder, "--format", "json").stdout
    found = json.loads(line)
    assert tuple(found) == KEYS
    rows = [line.split() for line in succeed("evaluate", folder, folder).stdout.splitlines()]
    assert [name for name, _ in rows] == list(KEYS)
    shown = dict(rows)
    assert shown["mAP"] == f"{found['mAP']:.4f}"
    assert (shown["queries"], shown["gallery"], shown["rerank"]) == ("54", "58", "-")


def test_queries_without_a_match_are_named(world):
    _, records, folder = world
    _, _, told = evaluated(folder, folder)
    lines = told.splitlines()
    assert lines[0] == "3 of 54 queries have no match:"
    assert lines[1:] == [
        f"  {record['source']} (person {record['person']}, camera {record['camera']})"
        for record in records
        if record["person"] in ("0009", "0010")
    ]


def test_many_queries_without_a_match_are_counted_and_nothing_steers_the_terminal(tmp_path):
    records = [{"person": f"p{row}\x1b", "camera": None} for row in range(40)]
    records += [{"person": "p0\x1b", "camera": 1}]
    folder = store(tmp_path / "g", np.random.default_rng(0).normal(size=(41, 3)), records)
    _, _, told = evaluated(folder, folder)
    lines = told.splitlines()
    assert lines[:2] == ["39 of 41 queries have no match:", "  item 1 (person p1�)"]
    assert lines[-1] == "  and 9 more; --per-query FILE has them"
    assert len(lines) == 32


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_row_for_each_query(world, tmp_path, suffix):
    """By hand for one query; the means are those that are printed."""
    vectors, records, folder = world
    path = tmp_path / f"q{suffix}"
    found, _, _ = evaluated(folder, folder, "--per-query", path)
    table = pa.csv.read_csv(path) if suffix == ".csv" else pq.read_table(path)
    rows = table.to_pylist()
    asked = kept(records, queries=True)
    assert [row["item"] for row in rows] == asked
    assert [row["source"] for row in rows] == [records[row]["source"] for row in asked]
    assert np.mean([row["ap"] for row in rows if row["relevant"]]) == pytest.approx(found["mAP"])
    assert np.mean([row["inp"] for row in rows if row["relevant"]]) == pytest.approx(found["mINP"])
    none = [row for row in rows if row["relevant"] == 0]
    assert len(none) == 3
    assert {row[name] for row in none for name in ("ap", "inp", "first_rank", "last_rank")} == {
        None
    }
    searched = pick(records, kept(records))
    one = rows[0]
    key = cosine(vectors[[one["item"]]], vectors[kept(records)])
    expected = figures(key, [records[one["item"]]], searched, same_item=True)
    assert (one["ap"], one["inp"]) == pytest.approx((expected["mAP"], expected["mINP"]))
    assert one["relevant"] / one["last_rank"] == pytest.approx(one["inp"])
    assert list(tmp_path.iterdir()) == [path]


# Lists


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("by", ["path", "name"])
def test_a_list_says_which_rows_are_which_side(world, halves, tmp_path, suffix, by):
    _, records, folder = world
    asked, searched, _ = halves
    cut = {"path": lambda source: source, "name": lambda source: "x/" + source.split("/")[1]}[by]
    named = [record | {"source": cut(record["source"])} for record in records]
    path = tmp_path / f"split{suffix}"
    write_split(path, named, asked[::-1], searched)
    found, _, _ = evaluated(folder, folder, "--split", path)
    assert_figures(found, of(world, asked, searched))


def test_a_list_overrides_persons_and_cameras(world, halves, tmp_path):
    """Half of the labels are only in the list, the others only in the gallery."""
    vectors, records, _ = world
    asked, searched, _ = halves
    told = [row % 2 == 0 for row in (*asked, *searched)]
    columns = {
        name: [
            records[row][name] if tells else None
            for row, tells in zip((*asked, *searched), told, strict=True)
        ]
        for name in ("person", "camera")
    }
    wrong = [
        record | ({"person": "wrong", "camera": 99} if row % 2 == 0 and record["person"] else {})
        for row, record in enumerate(records)
    ]
    for row, record in enumerate(wrong):
        if records[row]["camera"] is None:
            record["camera"] = None
    folder = store(tmp_path / "g", vectors, wrong)
    write_split(tmp_path / "split.csv", records, asked, searched, **columns)
    found, _, _ = evaluated(folder, folder, "--split", tmp_path / "split.csv")
    assert_figures(found, of(world, asked, searched))


# Shards


def test_shards_and_galleries(world, halves, tmp_path):
    """A shard of its own, one that is part of the gallery, and one with itself, without ids."""
    vectors, records, folder = world
    asked, searched, split = halves
    chosen = pick(records, asked)
    write_shard(
        tmp_path / "s",
        arrays={"global": ArrayStream.of(vectors[asked])},
        items=[conform(pa.Table.from_pylist(chosen).drop_columns("item"))],
        fingerprint=FINGERPRINT,
        metric=Metric.COSINE,
    )
    found, _, _ = evaluated(
        store(tmp_path / "g", vectors[searched], pick(records, searched)), tmp_path / "s"
    )
    assert_figures(found, of(world, asked, searched))

    found, _, _ = evaluated(tmp_path / "s", tmp_path / "s", "--unlabelled", "drop")
    assert_figures(found, of(world, asked, asked, same_item=True))

    inside = folder / Gallery.open(folder).manifest.shards[0].folder
    expected = of(world, kept(records, queries=True), kept(records), same_item=True)
    assert_figures(evaluated(folder, inside)[0], expected)
    assert_figures(evaluated(inside, folder)[0], expected)

    write_shard(
        tmp_path / "all",
        arrays={"global": ArrayStream.of(vectors)},
        items=[conform(pa.Table.from_pylist(records).drop_columns("item"))],
        fingerprint=FINGERPRINT,
        metric=Metric.COSINE,
    )
    found, _, _ = evaluated(tmp_path / "all", tmp_path / "all", "--split", split)
    assert_figures(found, of(world, asked, searched))


# Rows without a person


@pytest.mark.parametrize("choice", ["distractor", "drop"])
def test_rows_without_a_person(world, tmp_path, choice):
    """What is told of a query stays with it when others before it are left out."""
    vectors, records, _ = world
    bare = [record | ({"person": None} if record["item"] < 9 else {}) for record in records]
    folder = store(tmp_path / "g", vectors, bare)
    found, _, _ = evaluated(
        folder, folder, "--unlabelled", choice, "--per-query", tmp_path / "q.csv"
    )
    asked = kept(bare, queries=True)
    searched = [
        row
        for row in kept(bare)
        if choice == "distractor" or bare[row]["person"] or bare[row]["role"]
    ]
    keys = cosine(vectors[asked], vectors[searched])
    expected = figures(keys, pick(bare, asked), pick(bare, searched), same_item=True)
    assert_figures(found, expected)
    with (tmp_path / "q.csv").open() as file:
        rows = [(row["item"], row["source"], row["person"]) for row in csv.DictReader(file)]
    assert rows == [(str(row), bare[row]["source"], bare[row]["person"]) for row in asked]
    unknown = sum(record["person"] is None and record["role"] is None for record in bare)
    text = f"no person is known for {unknown} of 60 queries and {unknown} of 60 gallery items: "
    assert_refused(run("evaluate", folder, folder), code=1, text=text)


# Re-ranking


def test_joint_re_ranking_is_the_dense_one(world, halves):
    asked, searched, split = halves
    options = (*SMALL, "--lambda", "0.4")
    found, rest, _ = evaluated(world[2], world[2], "--split", split, "--rerank", "joint", *options)
    expected = of(world, asked, searched, lambda *both: joint(*both, lambda_=0.4))
    assert_figures(found, expected)
    assert expected["mAP"] != pytest.approx(of(world, asked, searched)["mAP"], abs=1e-3)
    assert expected["mAP"] != of(world, asked, searched, alone)["mAP"]
    assert rest["rerank"] == "joint k1=5 k2=3 lambda=0.4"


@pytest.fixture
def apart(world, halves, tmp_path):
    """The gallery and the queries of `halves`, each in a gallery of its own; what is expected."""
    vectors, records, _ = world
    asked, searched, _ = halves
    gallery = store(tmp_path / "g", vectors[searched], pick(records, searched))
    queries = store(tmp_path / "q", vectors[asked], pick(records, asked))
    return gallery, queries, of(world, asked, searched, alone)


def test_each_query_alone_with_and_without_a_kept_graph(world, halves, apart, monkeypatch):
    gallery, queries, expected = apart
    monkeypatch.setattr(rerank_gallery, "AT_ONCE", 0)  # an evaluation may take its time
    options = ("--rerank", "query", *SMALL)
    found, rest, _ = evaluated(gallery, queries, *options)
    assert_figures(found, expected)
    assert rest["rerank"] == "query k1=5 k2=3 lambda=0.3"

    Gallery.open(gallery).build_graph(Reranking(k1=9, k2=3))  # for another k1: not used
    assert_figures(evaluated(gallery, queries, *options)[0], expected)

    Gallery.open(gallery).build_graph(Reranking(k1=5, k2=3))
    with monkeypatch.context() as patched:
        patched.delattr(judging, "make_graph")
        assert_figures(evaluated(gallery, queries, *options)[0], expected)

    # Rows that are left out, or come in, make it another graph.
    asked, searched, _ = halves
    vectors, records, _ = world
    nobody = {"source": "new.jpg", "camera": 1}
    Gallery.open(gallery).add(vectors[[asked[0]]], [nobody])
    without, _, _ = evaluated(gallery, queries, *options, "--unlabelled", "drop")
    assert_figures(without, expected)
    found, _, _ = evaluated(gallery, queries, *options, "--unlabelled", "distractor")
    grown = np.concatenate([vectors[searched], vectors[[asked[0]]]])
    rows = [*pick(records, searched), nobody | {"item": 99, "person": None}]
    assert_figures(found, figures(alone(vectors[asked], grown), pick(records, asked), rows))


def test_an_approximate_graph_is_called_so(apart, second, monkeypatch):
    """Whichever extractor it is of."""
    gallery, queries, _ = apart
    options = ("--rerank", "query", *SMALL)
    name = "query k1=5 k2=3 lambda=0.3, approximate graph"
    with monkeypatch.context() as patched:
        patched.setattr(judging, "make_graph", partial(judging.make_graph, exact=False))
        Gallery.open(gallery).build_graph(Reranking(k1=5, k2=3))
        assert evaluated(gallery, queries, *options)[1]["rerank"] + ", approximate graph" == name
        assert evaluated(gallery, queries, *options, "--with", *second[1:])[1]["rerank"] == name
    succeed("graph", gallery, "--mode", "approximate", *SMALL)
    assert evaluated(gallery, queries, *options)[1]["rerank"] == name


def test_joint_through_torch_is_the_same(world, halves):
    options = (world[2], world[2], "--split", halves[2], "--rerank", "joint", *SMALL)
    found, _, _ = evaluated(*options)
    again, _, _ = evaluated(*options, "--device", "cpu:0")
    assert_figures(again, found)


def test_twins_are_told(world):
    _, _, told = evaluated(world[2], world[2], "--rerank", "joint", *SMALL)
    assert "queries are gallery items, too: each is its own neighbour in the graph" in told


# Fusion


def ranked(keys):
    """Ranks from 1; items are in the order of the columns."""
    return np.argsort(np.argsort(keys, axis=1, kind="stable"), axis=1) + 1


@pytest.fixture
def second(world, halves, tmp_path):
    """Vectors of another extractor, and its galleries of the two halves in another order."""
    vectors, _ = people(seed=8, dim=4)
    asked, searched, _ = halves
    folders = []
    for name, rows in (("g2", searched), ("q2", asked)):
        rows = np.random.default_rng(1).permutation(rows)
        records = [{"source": world[1][row]["source"]} for row in rows]
        other = Fingerprint(name="external:other", version="1")
        folders.append(store(tmp_path / name, vectors[rows], records, fingerprint=other))
    return vectors, *folders


@pytest.mark.parametrize("method", ["rrf", "min_max", "z_score"])
def test_two_extractors_are_fused_item_by_item(world, halves, apart, second, method):
    vectors, *others = second
    asked, searched, _ = halves

    def number(keys):
        if method == "rrf":
            return -1 / (60 + ranked(keys))
        if method == "min_max":
            low, high = keys.min(axis=1, keepdims=True), keys.max(axis=1, keepdims=True)
            return (keys - high) / (high - low)
        return (keys - keys.mean(axis=1, keepdims=True)) / keys.std(axis=1, keepdims=True)

    both = [cosine(of[asked], of[searched]) for of in (world[0], vectors)]
    records = pick(world[1], asked), pick(world[1], searched)
    expected = figures(2 * number(both[0]) + 0.5 * number(both[1]), *records)
    options = ("--with", *others, "--fuse", method)
    found, rest, _ = evaluated(*apart[:2], *options, "--fuse-weights", "2,0.5")
    assert_figures(found, expected)
    assert rest["rerank"] is None
    assert_figures(
        evaluated(*apart[:2], *options, "--fuse-weights", "0,1")[0], figures(both[1], *records)
    )


@pytest.mark.parametrize(("scope", "keys"), [("joint", joint), ("query", alone)])
def test_re_ranked_lists_are_fused_by_reciprocal_ranks(world, halves, apart, second, scope, keys):
    vectors, *others = second
    asked, searched, _ = halves
    both = [ranked(keys(of[asked], of[searched])) for of in (world[0], vectors)]
    expected = figures(
        -sum(1 / (60 + ranks) for ranks in both),
        pick(world[1], asked),
        pick(world[1], searched),
    )
    found, _, _ = evaluated(*apart[:2], "--with", *others, "--rerank", scope, *SMALL)
    assert_figures(found, expected)


# The report of rows without pictures; that of folders is in test_sides.py


def test_the_report_leaves_out_what_the_figures_do(world, tmp_path, monkeypatch):
    """A Euclidean gallery with itself: no item beside itself, whatever its camera."""
    pytest.importorskip("matplotlib")
    vectors, records, _ = world
    folder = store(tmp_path / "g", vectors, records, metric="euclidean")
    asked, searched = kept(records, queries=True), kept(records)
    distance = np.linalg.norm(vectors[asked][:, None].astype(float) - vectors[searched], axis=2)
    right, wrong, lists = [], [], {}
    for row, query in enumerate(pick(records, asked)):
        marks = [one["person"] == query["person"] for one in pick(records, searched)]
        left = []
        for at, one in enumerate(pick(records, searched)):
            camera = query["camera"] is not None and one["camera"] == query["camera"]
            if not (marks[at] and (camera or one["item"] == query["item"])):
                (right if marks[at] else wrong).append(distance[row, at])
                left.append(at)
        best = sorted(left, key=lambda at, row=row: distance[row, at])[:10]
        lists[f"{query['source']}, camera {query['camera']}".replace(", camera None", "")] = [
            (records[searched[at]]["source"], marks[at], f"distance {distance[row, at]:.3f}")
            for at in best
        ]
    seen = {}
    drawn = judge_report.histogram_figure
    monkeypatch.setattr(
        judge_report, "histogram_figure", lambda **data: drawn(**data, **seen.update(data) or {})
    )
    monkeypatch.setattr(judge_report, "write_report", lambda _, **data: seen.update(data))
    options = ("--unanswerable", "zero", "--report", tmp_path / "r")
    evaluated(folder, folder, *options)
    for name, values in (("positives", right), ("negatives", wrong)):
        expected = np.histogram(np.array(values, np.float32), seen["edges"])[0]
        assert abs(seen[name] - expected).sum() <= 2  # a value beside an edge may be rounded over
        assert seen[name].sum() == len(values)
    every = [*distance.min(axis=1), *distance.max(axis=1)]
    ends = pytest.approx((min(every), max(every)), abs=2e-3)
    assert (seen["edges"][0], seen["edges"][-1]) == ends
    assert seen["score_name"] == "distance"
    assert seen["notes"] == ["3 of 54 queries have no match; counted as 0."]
    assert len(seen["best"] + seen["worst"]) == 12
    for strip in seen["best"] + seen["worst"]:
        found = [(c.label.split(", ")[0], c.right, c.score) for c in strip.candidates]
        assert found == lists[strip.label]
        assert strip.image is None


# Real data: labels only


def test_the_counts_of_the_dev_split(tmp_path):
    split = real("market1501", "dev-split.csv")
    names = sorted(path.name for path in real("market1501", "bounding_box_train").iterdir())
    records = [{"source": name} for name in names if name.endswith(".jpg")]
    vectors = np.random.default_rng(0).normal(size=(len(records), 4)).astype(np.float32)
    folder = store(tmp_path / "g", vectors, records)
    found, _, told = evaluated(folder, folder, "--split", split)
    assert (found["queries"], found["answerable"], found["gallery"]) == (1076, 1055, 3218)
    assert told.splitlines()[0] == "21 of 1076 queries have no match:"
    assert len(told.splitlines()) == 22
