"""The benchmark scripts run, on little data, and keep their raw results."""

import json
from pathlib import Path

from click.testing import CliRunner

from benchmarks import extract, query
from cli.world import draw_world


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
