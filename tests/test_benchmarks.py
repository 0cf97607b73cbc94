"""The benchmark scripts run, on little data, and keep their raw results."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from benchmarks import evaluate, extract, query, report, rerank
from benchmarks import map as map_benchmark
from benchmarks.machine import keep_raw
from cli.world import draw_world
from reid_index import Fingerprint, Gallery
from reid_index.evaluation.protocol import NOBODY


def run(main: click.Command, *words: str | Path) -> None:
    done = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0


def raw(folder: Path) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """The one run in a folder: its .json and its tables."""
    (path,) = folder.glob("*.json")
    tables = {
        table.stem.removeprefix(f"{path.stem}-"): pq.read_table(table).to_pylist()
        for table in folder.glob("*.parquet")
    }
    return json.loads(path.read_text()), tables


def test_query_benchmark_reports_recall_beside_time(tmp_path: Path) -> None:
    out = tmp_path / "raw.json"
    words = ["--rows", "400", "--dim", "16", "--queries", "3", "--top", "5", "--out", str(out)]
    done = CliRunner().invoke(query.main, words, catch_exceptions=False)
    assert done.exit_code == 0
    raw = json.loads(out.read_text())
    assert raw["rows"] == 400
    assert set(raw["filters"]) == set(query.FILTERS)
    for measured in raw["filters"].values():
        assert len(measured["ms"]) == 3
        assert measured["recall"] == [1, 1, 1]


def test_extraction_benchmark_relates_the_whole_to_its_parts(tmp_path: Path) -> None:
    draw_world(tmp_path / "crops", people=4, cameras=2, crops_per_camera=2)
    out = tmp_path / "raw.json"
    words = [str(tmp_path / "crops"), "--extractor", "stripes", "--rounds", "1", "--out", str(out)]
    done = CliRunner().invoke(extract.main, words, catch_exceptions=False)
    assert done.exit_code == 0
    raw = json.loads(out.read_text())
    (row,) = raw["rounds"]
    assert raw["crops"] == len(list((tmp_path / "crops").iterdir()))
    assert row["ratio_to_forward"] == row["forward"] / row["whole"]
    assert row["ratio_to_floor"] > row["ratio_to_forward"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each run, with its raw results."""
    folder = tmp_path_factory.mktemp("runs")
    few = ("--queries", "30", "--rows", "300", "--dim", "16")
    run(evaluate.main, *few, "--rounds", "2", "--check", "10", "--out", folder / "evaluate")
    few = ("--queries", "10", "--rows", "200", "--dim", "16")
    run(rerank.main, *few, "--rounds", "2", "--dense", "--out", folder / "joint")
    run(rerank.main, *few, "--rounds", "1", "--device", "cpu", "--out", folder / "device")
    few = ("--queries", "4", "--rows", "4100", "--dim", "64")
    both = ("--approximate", "--exact-too")
    run(rerank.main, "--alone", *few, *both, "--out", folder / "alone")
    few = ("--people", "8", "--per-person", "1", "--seeds", "2")
    run(map_benchmark.main, *few, "--out", folder / "map")
    return folder


def test_a_gallery_of_ones_own_is_divided_into_queries_and_rest(tmp_path: Path) -> None:
    path = query.make_gallery(tmp_path / "gallery", rows=60, dim=8)
    people = evaluate.load_people(str(path), queries=10, rows=0, dim=0)
    gallery = Gallery.open(path)
    items = [side["item"].to_pylist() for side in (people.query_items, people.gallery_items)]
    assert (len(items[0]), len(items[1])) == (10, 50)
    assert sorted(items[0] + items[1]) == gallery.items["item"].to_pylist()
    np.testing.assert_array_equal(people.queries, gallery.vectors(items[0]))
    np.testing.assert_array_equal(people.gallery, gallery.vectors(items[1]))


def test_junk_of_a_gallery_of_ones_own_is_left_out(tmp_path: Path) -> None:
    persons = np.repeat(["-1", "0", "1"], 8)
    vectors = np.repeat(np.eye(3, dtype=np.float32), 8, axis=0)
    gallery = Gallery.create(
        tmp_path / "gallery", dim=3, fingerprint=Fingerprint(name="external:b", version="1")
    )
    gallery.add(vectors, pa.table({"source": persons, "person": persons}))
    people, labelled = evaluate.labelled_people(
        str(tmp_path / "gallery"), queries=12, rows=0, dim=0
    )
    assert 0 < len(people.queries) < 12
    assert len(people.queries) + len(people.gallery) == 16
    assert evaluate.evaluated(people, labelled).mAP == 1


def test_evaluation_benchmark_checks_ranks_beside_the_time(runs: Path) -> None:
    results, tables = raw(runs / "evaluate")
    assert results["size"] == [30, 300, 16]
    assert results["exact"] == results["checked"] == 10
    assert [row["equals_oracle"] for row in tables["queries"]].count(True) == 10
    known = [row["ap"] for row in tables["queries"] if row["relevant"]]
    assert results["mAP"] == pytest.approx(np.mean(known))
    assert results["memory"]["peak"] >= results["memory"]["before"] > 1e7
    stages = {"product, numpy", "product, torch", "evaluation", "ranks", "measures"}
    assert {(row["round"], row["what"]) for row in tables["times"]} == {
        (turn, what) for turn in (0, 1) for what in stages
    }
    for name in ("processor", "memory", "commit", "packages"):
        assert name in results["machine"]


@pytest.mark.parametrize(("folder", "facts"), [("joint", "dense"), ("device", "checked")])
def test_joint_benchmarks_compare_all_answers(runs: Path, folder: str, facts: str) -> None:
    results, tables = raw(runs / folder)
    found = results[facts]
    assert (found["nodes"], found["queries"], found["pairs"]) == (210, 10, 2000)
    assert 0 < found["largest_difference"] < 1e-5
    assert found["over"] == 0
    assert found["same_top"] == 10
    assert len(tables["answers"]) == 10 * rerank.TOP
    for row in tables["answers"]:
        assert row["row"] == row["reference_row"]
        assert row["distance"] == pytest.approx(row["reference_distance"], abs=1e-5)


def test_joint_benchmark_times_the_whole_beside_the_product(runs: Path) -> None:
    results, tables = raw(runs / "joint")
    taken = {row["what"]: row["seconds"] for row in tables["times"] if row["round"] == 1}
    assert taken["whole"] == taken["graph"] + taken["distances"]
    assert min(taken["product, numpy"], taken["product, torch"]) > 0
    assert results["dense"]["seconds"] > 0
    dense, ours = results["dense"]["memory"], results["memory"]
    assert dense["peak"] >= dense["before"] > 1e7
    assert ours["peak"] >= ours["before"] > 1e7


def test_alone_benchmark_says_how_often_the_approximate_graph_errs(runs: Path) -> None:
    results, tables = raw(runs / "alone")
    assert results["graph"] == "approximate"
    assert set(results["graph_seconds"]) == {"approximate", "exact"}
    assert 0.5 < results["neighbours_found"] < 1
    assert results["checked"]["largest_difference"] < 1e-6
    assert results["checked"]["same_top"] == results["checked"]["queries"] == 4
    lists = [tables["answers"][at : at + rerank.TOP] for at in range(0, 4 * rerank.TOP, rerank.TOP)]
    same = [[row["row"] == row["reference_row"] for row in rows] for rows in lists]
    assert 0 < results["differ"]["lists"] == sum(not all(rows) for rows in same)
    assert results["differ"]["firsts"] == sum(not rows[0] for rows in same)
    shared = [
        len({row["row"] for row in rows} & {row["reference_row"] for row in rows}) for rows in lists
    ]
    assert results["differ"]["shared"] == pytest.approx(np.mean(shared) / rerank.TOP)
    for row in tables["times"]:
        assert row["added"] == pytest.approx(row["re-ranked"] - row["k-NN"])


def test_map_benchmark_leaves_out_what_so_few_items_do_not_allow(runs: Path) -> None:
    results, tables = raw(runs / "map")
    assert results["extractor"] == "trained"
    variants: dict[Any, list[str]] = {}
    for row in tables["figures"]:
        variants.setdefault((row["per_person"], row["seed"]), []).append(row["variant"])
        own = [
            other
            for other in tables["queries"]
            if all(other[name] == row[name] for name in ("per_person", "seed", "variant"))
        ]
        known = [other for other in own if other["relevant"]]
        assert (len(own), len(known)) == (row["queries"], row["answerable"])
        assert row["mAP"] == pytest.approx(np.mean([other["ap"] for other in known]))
        areas = [other["ap_trapezoid"] for other in known]
        assert row["mAP_trapezoid"] == pytest.approx(np.mean(areas)) != row["mAP"]
    # A graph of 8 items has no 20 neighbours; with the queries in it there are enough.
    assert variants[1, 0] == variants[1, 1] == ["plain", "joint 20/6/0.3"]
    assert variants[None, 0] == list(map_benchmark.VARIANTS)


def test_at_most_so_many_items_of_each_person_but_every_distractor() -> None:
    person = np.array([3, 3, NOBODY, 7, 3, 7, NOBODY, 5])
    rows = map_benchmark.at_most(2, person, seed=0)
    assert list(rows) == sorted(rows)
    assert sorted(person[rows].tolist()) == [NOBODY, NOBODY, 3, 3, 5, 7, 7]
    draws = {tuple(map_benchmark.at_most(1, person, seed=seed)) for seed in range(20)}
    assert len(draws) == 6


def test_report_takes_ratios_within_a_round_to_the_faster_product(tmp_path: Path) -> None:
    seconds = {"product, numpy": (2.0, 1.0), "product, torch": (1.0, 2.0), "evaluation": (1.5, 3.0)}
    keep_raw(
        tmp_path,
        "evaluate-some",
        {
            "benchmark": "evaluate",
            "size": [10, 2000, 4],
            "memory": {"before": 50_000_000, "peak": 250_000_000},
            "checked": 9,
            "exact": 8,
        },
        times=[
            {"round": turn, "what": what, "seconds": taken[turn]}
            for turn in (0, 1)
            for what, taken in seconds.items()
        ],
    )
    cells = [cell.strip() for cell in report.tables(tmp_path).splitlines()[-1].split("|")[1:-1]]
    assert cells == [
        *("10 × 2,000 × 4", "2.25 (1.5 … 3)", "2.25 (1.5 … 3)", "1 (1 … 1)", "200", "250"),
        "8 of 9 queries",
    ]


def test_report_has_a_table_of_every_benchmark(runs: Path, tmp_path: Path) -> None:
    for path in runs.glob("*/*"):
        (tmp_path / path.name).symlink_to(path)
    text = report.tables(tmp_path)
    assert "nan" not in text.lower()
    figure = json.loads(next((runs / "alone").glob("*.json")).read_text())["neighbours_found"]
    assert f"| {100 * figure:.2f} % |" in text
    heads = [line for line in text.splitlines() if line.startswith("| ---")]
    assert len(heads) == 1 + 2 + 1 + 1 + 2  # evaluate, joint with N × N, device, alone, map
