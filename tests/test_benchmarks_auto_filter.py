"""The benchmark of filtering by attributes runs, on little data, and keeps its raw results."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import FINGERPRINT

from benchmarks import auto_filter
from reid_index import Gallery


def test_both_ways_stand_beside_what_is_kept(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = [
        {
            "person": str(n % 5),
            "camera": n % 2,
            "attr.hat": "yes" if n % 5 < 2 else "no",
            "attr.hat.confidence": 0.9 if n % 3 else 0.6,
        }
        for n in range(30)
    ]
    for name in ("gallery", "queries"):
        made = Gallery.create(tmp_path / name, dim=6, fingerprint=FINGERPRINT)
        made.add(rng.standard_normal((30, 6)), rows)
    words = ["--rows", "30", "--rows", "70", "--dim", "6", "--dim", "4", "--count", "3"]
    out = tmp_path / "out.json"
    folders = [str(tmp_path / "gallery"), str(tmp_path / "queries")]
    done = CliRunner().invoke(
        auto_filter.main, [*folders, *words, "--out", str(out)], catch_exceptions=False
    )
    assert done.exit_code == 0
    results = json.loads(out.read_text())
    assert (results["threshold"], results["items"]) == (0.7, 30)
    times = results["times"]
    assert [(one["rows"], one["dim"]) for one in times[::6]] == [
        *((30, 6), (70, 6), (30, 4), (70, 4))
    ]
    assert [(one["k"], one["turn"]) for one in times[:6]] == [
        *(("all", 0), ("all", 1), ("all", 2), (20, 0), (20, 1), (20, 2))
    ]
    for one in times:
        assert min(one["plain"], one["filtered"]) > 0
        assert one["kept"] == one["right"] > 0  # one person's attributes are all the same
        assert one["dropped"] in (0.0, pytest.approx(0.4, abs=0.02), pytest.approx(0.27, abs=0.02))
    assert "true matches kept 1.0000" in done.output


def test_turning_up_keeps_angles_and_the_same_width_keeps_vectors() -> None:
    vectors = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    unit = auto_filter.turned(vectors, 8)
    assert unit == pytest.approx(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    wide = auto_filter.turned(vectors, 20)
    assert wide @ wide.T == pytest.approx(unit @ unit.T, abs=1e-5)
    assert auto_filter.turned(vectors, 3).shape == (5, 3)
