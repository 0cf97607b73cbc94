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
from dense_reranking import dense_reranking

from cli import judge as judging
from cli import judge_report
from reid_index import Fingerprint, Gallery, Metric, Reranking, rerank_gallery
from reid_index.items import conform
from reid_index.shard import write_shard
from reid_index.vectors import ArrayStream

KEYS = (
    *("mAP", "mINP", "rank1", "rank5", "rank10", "rank20", "queries", "answerable", "gallery"),
    *("ap_rule", "rerank", "seconds"),
)
SMALL = ("--k1", "5", "--k2", "3")


# What is to come out, written down once more


def figures(keys, asked, searched, *, rule="standard", zero=False, at=None, same_item=False):
    """What JSON has but `rerank`, `seconds`, for keys (Q, G), lower is better, of rows `asked` and
    `searched`: mappings with item, person, camera."""
    ap, inp, first = [], [], []
    for key, query in zip(keys, asked, strict=True):
        order = sorted(range(len(searched)), key=lambda row: (key[row], searched[row]["item"]))
        marks = []
        for row in (searched[row] for row in order):
            right = row["person"] == query["person"]
            camera = query["camera"] is not None and row["camera"] == query["camera"]
            if not (right and (camera or (same_item and row["item"] == query["item"]))):
                marks.append(right)
        hits = [rank for rank, right in enumerate(marks, start=1) if right]
        if hits:
            shares = []
            for i, rank in enumerate(hits, start=1):
                before = 1 if rank == 1 else (i - 1) / (rank - 1)
                share = i / rank if rule == "standard" else (before + i / rank) / 2
                shares.append(0 if at is not None and rank > at else share)
            ap.append(sum(shares) / len(hits))
            inp.append(len(hits) / hits[-1])
            first.append(hits[0])
    divisor = len(asked) if zero else len(first)
    means = {"mAP": sum(ap) / divisor, "mINP": sum(inp) / divisor}
    if at is not None:
        means = {f"mAP@{at}": means["mAP"]}
    shown = [k for k in (1, 5, 10, 20) if at is None or k <= at]
    return means | {
        **{f"rank{k}": sum(rank <= k for rank in first) / divisor for k in shown},
        "queries": len(asked),
        "answerable": len(first),
        "gallery": len(searched),
        "ap_rule": rule,
    }


def unit(vectors):
    wide = np.asarray(vectors, np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def cosine(queries, gallery):
    return -(unit(queries) @ unit(gallery).T)


def joint(queries, gallery, *, k1=5, k2=3, lambda_=0.3):
    both = unit(np.concatenate([queries, gallery]))
    squared = ((both[:, None] - both) ** 2).sum(axis=2)
    return dense_reranking(
        squared, queries=len(queries), order=np.arange(len(both)), k1=k1, k2=k2, lambda_=lambda_
    )


def alone(queries, gallery, **parameters):
    return np.concatenate([joint(query[None], gallery, **parameters) for query in queries])


def evaluated(*arguments):
    """What `reid evaluate --format json` prints: the figures, the rest, standard error."""

    def refuse(text):
        raise AssertionError(f"{text} in JSON")

    result = succeed("evaluate", *arguments, "--format", "json")
    (line,) = result.stdout.splitlines()
    found = json.loads(line, parse_constant=refuse)
    rest = {name: found.pop(name) for name in ("rerank", "seconds")}
    return found, rest, result.stderr


def assert_figures(found, expected):
    assert list(found) == list(expected)
    assert found == {
        name: pytest.approx(value, abs=1e-9) if isinstance(value, float) else value
        for name, value in expected.items()
    }


# Vectors of people: rows of a gallery, some of them its queries


def people(*, seed=7, dim=6):
    """60 rows: 8 people before 3 cameras, two of them twice, nobodies, junk, unknown cameras."""
    rng = np.random.default_rng(seed)
    rows = [(f"{p:04d}", c, None) for p in range(1, 9) for c in (1, 2, 3) for _ in (1, 2)]
    rows += [(None, c, "distractor") for c in (1, 2, 3, 1)]
    rows += [(None, 1, "junk"), ("-1", 2, None)]
    rows += [("0009", 2, None), ("0009", 2, None), ("0001", None, None), ("0001", None, None)]
    rows += [("0010", 3, None), ("0001", None, None)]
    order = rng.permutation(len(rows))
    centres = rng.normal(size=(11, dim))
    records, vectors = [], []
    for item, (person, camera, role) in enumerate(rows[place] for place in order):
        source = f"cam{camera}/{item:03d}.jpg"
        record = {"item": item, "source": source, "person": person, "camera": camera}
        records.append(record | {"role": role})
        centre = centres[int(person)] if person not in (None, "-1") else 0
        vectors.append(centre + 1.1 * rng.normal(size=dim))
    return np.array(vectors, np.float32), records


def store(folder, vectors, records, **properties):
    properties = {"dim": vectors.shape[1], "fingerprint": FINGERPRINT} | properties
    Gallery.create(folder, **properties).add(vectors, records)
    return folder


def kept(records, *, queries=False):
    """Rows that an evaluation keeps: no junk, no nobodies among the queries."""
    return [
        row
        for row, record in enumerate(records)
        if record["person"] != "-1"
        and record["role"] != "junk"
        and (record["person"] is not None or not queries)
    ]


def pick(things, rows):
    return [things[row] for row in rows]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Vectors and records, and the gallery of them."""
    vectors, records = people()
    folder = store(tmp_path_factory.mktemp("world") / "g", vectors, records)
    return vectors, records, folder


@pytest.fixture(scope="module")
def halves(world, tmp_path_factory):
    """Every third row as queries, the others as gallery; as lists of rows, and a split list."""
    _, records, _ = world
    asked = [row for row in kept(records, queries=True) if row % 3 == 0]
    searched = [row for row in kept(records) if row % 3]
    path = tmp_path_factory.mktemp("halves") / "split.csv"
    write_split(path, records, asked, searched)
    return asked, searched, path


def write_split(path, records, asked, searched, **columns):
    chosen = [*asked, *searched]
    parts = ["query"] * len(asked) + ["gallery"] * len(searched)
    table = pa.table({"file": [records[row]["source"] for row in chosen], "split": parts} | columns)
    if path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)


def of(world, asked, searched, keys=cosine, **rules):
    vectors, records, _ = world
    found = keys(vectors[asked], vectors[searched])
    return figures(found, pick(records, asked), pick(records, searched), **rules)


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
    assert_refused(result, code=2, text="the gallery have nothing to evaluate: of 0 rows")
    result = run("evaluate", folder, tmp_path / "empty", "--protocol", "mars-official")
    assert_refused(result, code=2, text="the queries have nothing to evaluate: of 0 rows")
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
    for path in (tmp_path / "none" / "q.csv", tmp_path / "q.csv"):
        result = run("evaluate", world[2], world[2], "--per-query", path, "--format", "json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["queries"] == 54
        last = result.stderr.splitlines()[-1]
        assert last.startswith("reid: ")
        assert path.name in last
        assert "fault of reid-index" not in last
        assert [left.name for left in tmp_path.iterdir()] == ["q.csv"]


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
