"""The benchmark of searches for videos runs, on little data, and keeps its raw results."""

import json
from pathlib import Path

import pyarrow.parquet as pq
from click.testing import CliRunner

from benchmarks import videos


def test_times_stand_beside_the_product_and_answers_beside_plain_ones(tmp_path: Path) -> None:
    words = "--rows 600 --tracks 40 --dim 16 --targets 3 --segments 90 --shortlist 40 --frames 3"
    words += f" --width 8 --rounds 2 --out {tmp_path}"
    done = CliRunner().invoke(videos.main, words.split(), catch_exceptions=False)
    assert done.exit_code == 0
    results = json.loads((tmp_path / "videos-float32.json").read_text())
    assert results["size"] == [600, 16, 40, 3]
    assert results["largest_difference"] < 1e-6
    rows = pq.read_table(tmp_path / "videos-float32-times.parquet").to_pylist()
    assert {(row["round"], row["what"]) for row in rows} == {
        (turn, way) for turn in (0, 1) for way in ("product", "score", "search")
    }
    for targets in (1, 3):
        for dtype in ("float32", "float16"):
            of_frames = json.loads(
                (tmp_path / f"videos-coattention-{targets}-{dtype}.json").read_text()
            )
            assert of_frames["size"] == [90, 40, 3, 8, targets]
            assert 0 < of_frames["largest_difference"] < 1e-6
    assert "score ÷ product" in done.output
