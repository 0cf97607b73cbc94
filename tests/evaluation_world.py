"""What tests of `reid evaluate` share: people, galleries of them, and the figures by hand."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from cli_world import succeed
from conftest import FINGERPRINT
from dense_reranking import dense_reranking

from reid_index import Gallery

KEYS = (
    *("mAP", "mINP", "rank1", "rank5", "rank10", "rank20", "queries", "answerable", "gallery"),
    *("ap_rule", "rerank", "seconds", "unanswerable", "protocol", "fuse", "matcher"),
    "aggregate",
)
REST = ("rerank", "seconds", "unanswerable", "protocol", "fuse", "matcher", "aggregate")
SMALL = ("--k1", "5", "--k2", "3")


# What is to come out, written down once more


def figures(keys, asked, searched, *, rule="standard", zero=False, at=None, same_item=False):
    """What JSON has but REST, for keys (Q, G), lower is better, of rows `asked` and
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
    rest = {name: found.pop(name) for name in REST}
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
