"""The benchmarks of writing and of survival run, on little data, and can fail."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import soak, writes
from reid_index import Gallery


def test_writes_are_measured_in_a_small_and_a_large_gallery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "_DIM", 8)
    monkeypatch.setattr(writes, "_ADDED", 10)
    monkeypatch.setattr(writes, "_DELETED", 10)
    out = tmp_path / "raw.json"
    words = ["--rows", "60", "200", "--rounds", "2", "--out", str(out)]
    done = CliRunner().invoke(writes.main, words, catch_exceptions=False)
    assert done.exit_code == 0
    raw = json.loads(out.read_text())
    whats = ["add", "delete by id", "delete by expression"]
    assert {row["what"] for row in raw["times"]} == set(whats)
    assert len(raw["times"]) == 2 * 2 * 3
    # By id 10 in each of three rounds; of what was added, track by track, the first one's 10.
    gone = 3 * 10 + 10
    assert raw["compaction"]["removed"] == gone
    assert raw["compaction"]["rows"] == 200 + 30 - gone
    assert raw["compaction"]["memory"]["peak"] > raw["compaction"]["memory"]["before"] > 0


def test_readers_beside_a_writer(tmp_path: Path) -> None:
    out = tmp_path / "raw.json"
    words = ["readers", "--seconds", "3", "--readers", "1", "--out", str(out)]
    done = CliRunner().invoke(soak.main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    raw = json.loads(out.read_text())
    assert raw["codes"] == [0, 0]
    assert raw["told"][1]["answers"] > 0


def test_a_wrong_answer_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "g"
    items = np.arange(200)
    with soak._new_gallery(path) as gallery:
        soak.take(gallery, soak.Step("add", items, items))
        rng = random.Random(1)
        for _ in range(10):
            soak._ask(gallery, items, rng)
        with pytest.raises(AssertionError):
            soak._ask(gallery, np.delete(items, 7), rng)


def test_kills_lose_nothing(tmp_path: Path) -> None:
    out = tmp_path / "raw.json"
    words = ["kills", "--times", "3", "--out", str(out)]
    done = CliRunner().invoke(soak.main, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert len(json.loads(out.read_text())["killed"]) == 3


def test_a_lost_item_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "g"
    soak._new_gallery(path).close()
    rng = random.Random(5)
    step = soak.next_step(rng, np.empty(0, np.int64), 0)
    with Gallery.open(path) as gallery:
        soak.take(gallery, step)
    present, following, _ = soak._after(path, 5, 1, np.empty(0, np.int64), 0)
    assert (len(present), following) == (len(step.after), len(step.after))
    with Gallery.open(path) as gallery:
        gallery.delete(items=[0])
    with pytest.raises(AssertionError, match="neither before nor after"):
        soak._after(path, 5, 1, np.empty(0, np.int64), 0)
