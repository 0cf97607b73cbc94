"""The benchmark of parts that both show runs, on little data, and keeps its raw results."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import visibility


def test_times_stand_beside_the_product_and_answers_beside_the_equation(tmp_path: Path) -> None:
    sizes = ["--rows", "90", "--candidates", "40", "--parts", "3", "--dim", "8"]
    words = [*sizes, "--rounds", "2", "--queries", "7", "--out", str(tmp_path / "raw.json")]
    done = CliRunner().invoke(visibility.main, words, catch_exceptions=False)
    assert done.exit_code == 0
    results = json.loads((tmp_path / "raw.json").read_text())
    assert [results[name] for name in ("rows", "candidates", "parts", "dim")] == [90, 40, 3, 8]
    found = {(case["dtype"], case["distance"], case["visible"]) for case in results["cases"]}
    assert len(found) == len(results["cases"]) == 8
    for case in results["cases"]:
        assert case["largest_difference"] < 1e-6
        assert case["largest_difference_of_pairs"] < 1e-5
        rounds = {what: len(taken) for what, taken in case["milliseconds"].items()}
        ways = ("gather", "compare", "search", "product")
        assert rounds == {**dict.fromkeys(ways, 2), "7 × 90 pairs": 5}
        assert all(one > 0 for taken in case["milliseconds"].values() for one in taken)
    assert "search, ms" in done.output


def test_the_equation_of_two_parts() -> None:
    query, there = np.array([[1.0, 0], [2, 0]]), np.array([[[0, 2.0], [5, 0]]])
    seen, cosines = np.array([1, 1]), np.array([0.5], np.float32)
    for shown, distance, wanted in (
        ([1, 1], "cosine", 1.5 / 3),
        ([1, 0], "cosine", 1.5 / 2),
        ([0, 0], "cosine", 0.5),
        ([1, 1], "euclidean", (np.sqrt(2) + 1) / 3),
    ):
        found = visibility.by_numpy(query, seen, there, np.array([shown]), cosines, distance)
        assert found.tolist() == pytest.approx([wanted])
