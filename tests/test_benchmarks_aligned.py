"""The benchmark of shortlists runs, on little data, and keeps its raw results."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from benchmarks import aligned


def test_times_stand_beside_the_product_and_answers_beside_the_equations(tmp_path: Path) -> None:
    words = ["--rows", "90", "--candidates", "40", "--stripes", "3", "--dim", "8", "--rounds", "2"]
    done = CliRunner().invoke(
        aligned.main, [*words, "--out", str(tmp_path)], catch_exceptions=False
    )
    assert done.exit_code == 0
    for dtype in ("float32", "float16"):
        results = json.loads((tmp_path / f"aligned-{dtype}.json").read_text())
        assert results["size"] == [90, 40, 3, 8]
        assert 0 < results["largest_difference"] < 1e-6
        rows = pq.read_table(tmp_path / f"aligned-{dtype}-times.parquet").to_pylist()
        ways = {"gather", "compare", "gather and compare", "product"}
        assert {(row["round"], row["what"]) for row in rows} == {
            (turn, way) for turn in (0, 1) for way in ways
        }
    assert "compare ÷ product" in done.output


def test_the_equations_of_one_stripe() -> None:
    found = aligned.by_numpy(np.array([[1.0, 0]]), np.array([[[0, 2.0]], [[-3.0, 0]]]))
    assert found.tolist() == pytest.approx([np.tanh(np.sqrt(2) / 2), np.tanh(1)])
