"""`reid evaluate --auto-filter`: figures with and without, against loops over made-up galleries."""

import csv
import json

import numpy as np
import pyarrow as pa
import pytest
from cli_world import assert_refused, run, succeed
from conftest import FINGERPRINT
from judged_world import drops, people, predicted

from reid_index import Gallery

ERRORS = {"hat": 0.2, "gender": 0.05, "upper_color": 0.1}
NAMES = ("hat", "gender", "sleeve", "upper_color")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A gallery of people whose vectors say nearly nothing; its items, vectors and a split."""
    rng = np.random.default_rng(0)
    items = predicted(rng, people(rng, persons=12, crops=6, distractors=20), errors=ERRORS)
    codes = [12 if one is None else int(one) for one in items["person"].to_pylist()]
    vectors = rng.normal(size=(13, 8))[codes] + 1.5 * rng.normal(size=(len(codes), 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    items = items.append_column(
        "source", pa.array([f"{one}.jpg" for one in items["item"].to_pylist()])
    )
    folder = tmp_path_factory.mktemp("filter")
    Gallery.create(folder / "g", dim=8, fingerprint=FINGERPRINT).add(vectors, items)
    lines = ["file,split"]
    for row, person in enumerate(items["person"].to_pylist()):
        part = "query" if person is not None and row % 6 == 0 else "gallery"
        lines.append(f"{row}.jpg,{part}")
    (folder / "split.csv").write_text("\n".join(lines))
    return folder / "g", folder / "split.csv", items.to_pylist(), vectors


def by_loops(rows, vectors, thresholds):
    """mAP, mINP, rank-1, and the shares kept and dropped, from the definitions."""
    asked = [row for row in range(len(rows)) if rows[row]["person"] and row % 6 == 0]
    searched = [row for row in range(len(rows)) if row not in asked]
    counts = dict.fromkeys(("pairs", "dropped", "matches", "missed"), 0)
    ap, inp, first = [], [], []
    for q in asked:
        order = sorted(searched, key=lambda g: (-float(np.float32(vectors[q] @ vectors[g])), g))
        rank, ranks, relevant = 0, [], 0
        for g in order:
            match = rows[g]["person"] == rows[q]["person"]
            if match and rows[g]["camera"] == rows[q]["camera"]:
                continue
            gone = drops(rows[q], rows[g], thresholds)
            counts["pairs"] += 1
            counts["dropped"] += gone
            counts["matches"] += match
            counts["missed"] += match and gone
            relevant += match
            rank += not gone
            if match and not gone:
                ranks.append(rank)
        if relevant:
            ap.append(sum(i / r for i, r in enumerate(ranks, start=1)) / relevant)
            inp.append(relevant / ranks[-1] if len(ranks) == relevant else 0)
            first.append(bool(ranks) and ranks[0] == 1)
    return {
        "mAP": np.mean(ap), "mINP": np.mean(inp), "rank1": np.mean(first),
        "kept": 1 - counts["missed"] / counts["matches"],
        "dropped": counts["dropped"] / counts["pairs"],
    }  # fmt: skip


def evaluated(world, *options):
    folder, split, _, _ = world
    done = succeed("evaluate", folder, folder, "--split", split, *options, "--format", "json")
    return json.loads(done.stdout)


def found_in(record):
    filtered = record["auto_filter"]
    shares = {name: filtered[name] for name in ("kept", "dropped")}
    return {name: record[name] for name in ("mAP", "mINP", "rank1")} | shares


def test_figures_are_those_of_a_loop_with_and_without(world) -> None:
    _, _, rows, vectors = world
    thresholds = {"hat": 0.9, "gender": 0.7, "sleeve": 0.7, "upper_color": None}
    expected = by_loops(rows, vectors, thresholds)
    assert 0 < expected["dropped"] < 1
    assert 0 < expected["kept"] < 1

    record = evaluated(
        world, "--auto-filter", "0.7", "--filter-at", "hat=0.9", "--no-filter-by", "upper_color"
    )

    assert found_in(record) == pytest.approx(expected, abs=1e-9)
    assert record["auto_filter"]["thresholds"] == thresholds
    plain = evaluated(world)
    assert record["auto_filter"]["without"] == {
        name: plain[name] for name in record["auto_filter"]["without"]
    }
    assert list(record["auto_filter"]["without"])[:3] == ["mAP", "mINP", "rank1"]
    assert "auto_filter" not in plain


def test_thresholds_of_a_file(world, tmp_path) -> None:
    _, _, rows, vectors = world
    thresholds = {"hat": 0.8, "gender": None, "upper_color": 0.6}
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"format": 1, "thresholds": thresholds}))

    record = evaluated(world, "--auto-filter", path)

    assert found_in(record) == pytest.approx(by_loops(rows, vectors, thresholds), abs=1e-9)
    assert record["auto_filter"]["thresholds"] == {**thresholds, "sleeve": None}


def test_the_table_has_both_beside_each_other(world) -> None:
    folder, split, _, _ = world
    record = evaluated(world, "--auto-filter", "0.7")
    text = succeed("evaluate", folder, folder, "--split", split, "--auto-filter", "0.7").stdout
    lines = {line.split("  ")[0]: line.split() for line in text.splitlines() if line}

    without = record["auto_filter"]["without"]
    assert lines["mAP"] == ["mAP", f"{record['mAP']:.4f}", f"{without['mAP']:.4f}"]
    assert lines["gallery dropped"][-1] == f"{record['auto_filter']['dropped']:.4f}"


def test_ranks_per_query_of_what_is_dropped_are_unknown(world, tmp_path) -> None:
    path = tmp_path / "q.csv"
    evaluated(world, "--auto-filter", "0.5", "--per-query", path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))

    missed = [row for row in rows if row["last_rank"] == "" and row["relevant"] != "0"]
    assert missed
    assert {float(row["inp"]) for row in missed} == {0}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--auto-filter", "0.7", "--filter-at", "coat=0.9"], "has no attribute 'coat'"),
        (["--auto-filter", "0.7", "--no-filter-by", "coat"], "attributes: hat, gender, sleeve"),
        (["--auto-filter", "1.5"], "a confidence is from 0 to 1"),
        (["--filter-at", "hat=0.9"], "--filter-at belongs to --auto-filter"),
        (["--auto-filter", "0.7", "--report", "r"], "--report shows whole lists"),
        (
            ["--auto-filter", "0.7", "--protocol", "cuhk03-classic"],
            "draws one gallery item a person for its CMC",
        ),
        (["--auto-filter", "0.7", "--protocol", "mars-torchreid"], "is for single crops"),
        (
            ["--auto-filter", "0.7", *(f"--no-filter-by={one}" for one in NAMES)],
            "no attribute is used",
        ),
    ],
)  # fmt: skip
def test_refusals(world, options, text) -> None:
    folder, split, _, _ = world
    # Videos' protocols take no list of files.
    split = [] if "mars-torchreid" in options else ["--split", split]
    assert_refused(run("evaluate", folder, folder, *split, *options), code=2, text=text)
