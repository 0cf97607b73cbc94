"""The benchmark of building from video runs, on seconds of it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("av", reason="PyAV is not installed (the extra video)")

from benchmarks import video_build
from extractors.video.decode import read_frames


def test_it_measures_builds(tmp_path: Path) -> None:
    out = tmp_path / "raw.json"
    words = ["--seconds", "1", "2", "--out", str(out)]
    done = CliRunner().invoke(video_build.main, words, catch_exceptions=False)
    assert done.exit_code == 0
    builds = json.loads(out.read_text())["builds"]
    assert [(one["frames"], one["segments"]) for one in builds] == [(25, 6), (50, 12)]
    assert all(one["peak"] > 10**7 and one["seconds"] > 0 for one in builds)


def test_loops_follow_each_other(tmp_path: Path) -> None:
    frames = video_build.LOOP + 3
    video, _ = video_build.draw(tmp_path / "v.mp4", frames=frames, people=1)
    pictures = list(read_frames(video))
    assert [picture.number for picture in pictures] == list(range(frames))
    (x, y), again = video_build.boxes(2, 1)[0], pictures[video_build.LOOP + 2].image()
    assert abs(again[y + 9, x + 9].astype(int) - again[y + 9, x - 9]).max() > 20
    assert abs(again.astype(int) - pictures[2].image()).mean() < 1
