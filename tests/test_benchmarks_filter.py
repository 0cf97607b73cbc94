"""The benchmarks of filtered search: their data and judgements by value, and each system that is
installed, on little data."""

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from benchmarks import filter as filter_benchmark
from benchmarks import filter_penalty, filter_report, latency
from benchmarks.filter_world import CROPS, K, World, make_world, open_world
from benchmarks.peers import PEERS
from reid_index.errors import UsageError
from reid_index.filters.where import compile_where
from reid_index.metric import Metric
from reid_index.search.oracle import nearest_by_numpy

ROWS, DIM = 2000, 16


@pytest.fixture(scope="module")
def keep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def world(keep: Path) -> World:
    return open_world(filter_benchmark.prepare(keep, rows=ROWS, dim=DIM) / "world")


def test_filters_pass_the_share_that_they_are_named_for(tmp_path: Path) -> None:
    made = make_world(tmp_path / "world", rows=200_000, dim=2)
    assert len(made.filters) == 25
    for chosen in made.filters:
        mask = chosen.mask(made.columns)
        allowed = 200_000 if mask is None else np.count_nonzero(mask)
        assert chosen.allowed == allowed == pytest.approx(chosen.rate * 200_000, rel=0.1)
        assert len(chosen.conditions) == {"none": 0, "three": 3}.get(chosen.family, 1)


def test_an_attribute_is_all_of_a_persons_rows_and_a_zone_is_not(world: World) -> None:
    latent = world.vectors @ world.vectors.T
    same = latent > np.sort(latent, axis=1)[:, -CROPS // 2, None]  # the nearest are one's own
    outfits, zones = world.columns["outfit"], world.columns["zone"]
    rows, others = np.nonzero(same)
    assert np.mean(outfits[rows] == outfits[others]) > 0.9
    assert np.mean(zones[rows] == zones[others]) < 0.6


def test_where_and_numpy_allow_the_same_rows(world: World) -> None:
    table = pa.table(dict(world.columns))
    for chosen in world.filters[1:]:
        where = chosen.sql()
        assert where is not None
        np.testing.assert_array_equal(
            compile_where(where).mask(table), chosen.mask(world.columns), err_msg=where
        )


def test_truth_is_the_oracles(world: World) -> None:
    ids = np.arange(ROWS)
    for place in (0, 3, 12, 20, 24):
        mask = world.filters[place].mask(world.columns)
        answers = nearest_by_numpy(
            world.vectors, ids, world.queries, K, metric=Metric.COSINE, allowed=mask
        )
        for query, (rows, scores) in enumerate(answers):
            np.testing.assert_array_equal(world.truth[place, query, : len(rows)], rows)
            assert (world.truth[place, query, len(rows) :] == -1).all()
            assert world.kth[place, query] == pytest.approx(scores[-1], abs=1e-7)


def test_recall_counts_what_is_as_near_as_the_truth(world: World) -> None:
    place = 2  # half of the rows
    truth = world.truth[place, 0]
    mask = world.filters[place].mask(world.columns)
    assert mask is not None
    scores = np.where(mask, world.vectors @ world.queries[0], np.inf)
    assert world.recall(place, 0, truth) == 1
    assert world.recall(place, 0, np.append(truth[:7], [-1, -1, -1])) == 0.7
    assert world.recall(place, 0, np.append(truth[:9], scores.argmin())) == 0.9
    with pytest.raises(ValueError, match="does not pass the filter"):
        world.recall(place, 0, np.append(truth[:9], np.flatnonzero(~mask)[0]))
    with pytest.raises(ValueError, match="found twice"):
        world.recall(place, 0, np.append(truth[:9], truth[0]))
    few = next(n for n, chosen in enumerate(world.filters) if chosen.allowed == 2)
    assert world.recall(few, 0, world.truth[few, 0]) == 1


def test_a_world_of_too_few_people_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="from 2000 up"):
        make_world(tmp_path / "world", rows=1980)


def installed() -> list[str]:
    return [name for name, peer in PEERS.items() if importlib.util.find_spec(peer.needs)]


def in_this_process(module: str, function: str, **arguments: Any) -> Any:
    return getattr(importlib.import_module(module), function)(**arguments)


@pytest.fixture(scope="module")
def raw(keep: Path, world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw results of everything that is installed, and of the penalty; what surely needs no
    process of its own here gets none, which saves seconds."""
    out = tmp_path_factory.mktemp("raw")
    size = ["--keep", str(keep), "--rows", str(ROWS), "--dim", str(DIM), "--out", str(out)]
    here = ("ours", "faiss-hnsw")
    others = [word for name in installed() if name not in here for word in ("--only", name)]
    _invoke(filter_benchmark.main, *size, "--quick", *others)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filter_benchmark, "in_fresh_process", in_this_process)
        _invoke(filter_benchmark.main, *size, "--quick", *(f"--only={name}" for name in here))
        _invoke(filter_benchmark.main, *size, "--quick", "--penalty")
    return out


def _invoke(main: click.Command, *words: str) -> None:
    assert CliRunner().invoke(main, words, catch_exceptions=False).exit_code == 0


@pytest.mark.parametrize("name", installed())
def test_each_system_answers_all_filters(name: str, raw: Path, world: World) -> None:
    results = json.loads((raw / f"filter-{ROWS}-{name}.json").read_text())
    times = pq.read_table(raw / f"filter-{ROWS}-{name}-times.parquet").to_pylist()
    assert (results["rows"], results["dim"]) == (ROWS, DIM)
    assert min(results["build"]["seconds"].values()) > 0
    assert results["build"]["bytes"] > ROWS * DIM * 4
    variants = list(dict.fromkeys(row["variant"] for row in times))
    cells = {(row["variant"], row["family"], row["rate"], row["batch"]) for row in times}
    assert len(cells) == len(variants) * len(world.filters) * 2
    exact = [
        row["recall"]
        for row in times
        if row["variant"].lower() in ("exact", "flat") or row["variant"].startswith("IDSelector")
    ]
    assert all(recall == 1 for recall in exact)
    assert exact or "ef" in variants[0]


def test_a_store_is_built_once(raw: Path, keep: Path) -> None:
    record = keep / f"{ROWS}x{DIM}" / "faiss-flat.json"
    before = record.read_text()
    filter_benchmark.ensure_built(keep / f"{ROWS}x{DIM}", "faiss-flat")
    assert record.read_text() == before


def test_no_graph_is_built_at_a_million_rows() -> None:
    from benchmarks.peers import faiss_flat, faiss_hnsw

    assert faiss_hnsw.variants(1_000_000) == ()
    assert len(faiss_hnsw.variants(200_000)) == len(faiss_flat.variants(1_000_000)) == 2


def timed(path: str, *milliseconds: float, recall: float = 1, **cell: Any) -> list[dict[str, Any]]:
    common = {"request": "exact", "family": "three", "rate": 0.1, "allowed": 9, "batch": 1, **cell}
    return [
        {**common, "path": path, "words": path, "seconds": taken / 1000, "recall": recall}
        for taken in milliseconds
    ]


def test_penalty_is_of_medians_and_of_paths_that_reach_the_recall() -> None:
    approximate = {"request": "recall 0.95", "batch": 32}
    one, two, small = filter_penalty.penalties(
        [
            *timed("planner", 6, 4, 100),
            *timed("scan", 5, 5, 5),
            *timed("gather", 9, 1, 9),
            *timed("planner", 3, **approximate),
            *timed("index", 2, recall=0.96, **approximate),
            *timed("index", 1, recall=0.93, **approximate),
            *timed("dense", 2.5, **approximate),
            *timed("planner", 0.5, rate=0.01),
            *timed("scan", 0.4, rate=0.01),
        ]
    )
    assert (one.planner, one.path, one.ratio) == (0.006, "scan", pytest.approx(1.2))
    assert (two.path, two.ratio) == ("dense", pytest.approx(1.2))  # 0.945 is not 0.95
    assert small.ratio is None
    assert small.over == pytest.approx(0.0001)
    more = "1 of 1 ms or more: mean 1.200, worst 1.20"
    assert filter_penalty.summary([one, two, small]) == [
        f"exact: 2 cells; {more}; 1 below: at most +0.100 ms over",
        f"recall 0.95: 1 cells; {more}",
    ]


def cell(system: str, variant: str, seconds: float, recall: float) -> filter_report.Cell:
    return filter_report.Cell(200_000, system, variant, "three", 0.1, 20_000, 1, (seconds,), recall)


def test_a_peer_is_held_against_the_fastest_of_ours_with_its_recall() -> None:
    text = filter_report.faster_peers(
        [
            cell("ours", "exact", 0.010, 1.0),
            cell("ours", "recall 0.95", 0.002, 0.96),
            cell("qdrant", "HNSW ef 128", 0.004, 0.97),
            cell("hnswlib", "ef 128", 0.003, 0.90),
            cell("pgvector", "exact", 0.100, 1.0),
        ]
    )
    assert text.startswith("Of 3 cells of peers (200,000 rows)")
    assert "in 2.\n" in text
    assert text.splitlines()[-1] == (
        "| three 10 % | 1 | qdrant, HNSW ef 128 | 4 (0.97) | 10 (exact) | 2.50 |"
    )


def test_report_has_a_table_of_everything_and_a_plot(raw: Path, tmp_path: Path) -> None:
    text = filter_report.tables(raw)
    assert "nan" not in text.lower()
    for name in installed():
        assert f"| {name}, " in text
    assert "the planner beside the best path" in text
    assert text.count("one query, three predicates ANDed: p50") == 1
    runs = filter_report.runs_in(raw, "filter")
    filter_report.draw(filter_report.cells(runs), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_an_empty_folder_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no raw results"):
        filter_report.tables(tmp_path)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_reading_sums_every_number_once(dtype: type[np.floating[Any]]) -> None:
    matrix = np.random.default_rng(0).standard_normal((300, 64)).astype(dtype)
    assert latency.read(matrix) == sum(matrix.view(np.uint64).ravel().tolist()) % 2**64


def test_latency_is_told_beside_reading(
    keep: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "in_fresh_process", in_this_process)
    words = ["--keep", keep, "--rows", ROWS, "--dim", DIM, "--rounds", 3, "--seconds", 0.05]
    _invoke(latency.main, *map(str, words), "--out", str(tmp_path))
    for dtype in ("float32", "float16"):
        answers = pq.read_table(tmp_path / f"latency-{ROWS}-{dtype}-answers.parquet").to_pylist()
        assert {row["threads"] for row in answers} == set(latency.THREADS)
    assert filter_report.tables(tmp_path).count("nearest ÷ reading the matrix once") == 2


def test_ratio_of_latency_is_of_medians() -> None:
    times = [
        {"what": what, "seconds": taken}
        for what, some in {"read": (1, 2, 9), "nearest": (3, 3, 3), "search": (4, 1, 8)}.items()
        for taken in some
    ]
    answers = [{"threads": 2, "seconds": 1.0, "until": until} for until in (1.0, 1.0, 2.0, 2.0)]
    lines = latency.summary(times, answers)
    assert "nearest ÷ reading the matrix once: 1.50" in "\n".join(lines)
    assert lines[-1].startswith("2 threads: 2.0 queries/s")
