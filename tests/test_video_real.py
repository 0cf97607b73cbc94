"""A real video: whoever walks through its first half of a track is found in the second one."""

import csv
import json

import pytest
from cli_world import real, succeed

VIDEO = ("video", "one-by-one-person-detection.mp4")
TRACKS = ("video", "one-by-one-person-detection.tracks.csv")


def halves(folder):
    """The video's tracks, each cut in two by frames: first.csv, second.csv, and their names."""
    with real(*TRACKS).open(newline="") as file:
        reader = csv.DictReader(file)
        tracks = {}
        for row in reader:
            tracks.setdefault(row["track"], []).append(row)
    for name, is_first in (("first", True), ("second", False)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, reader.fieldnames)
            writer.writeheader()
            for rows in tracks.values():
                middle = len(rows) // 2
                writer.writerows(rows[:middle] if is_first else rows[middle:])
    return list(tracks)


@pytest.mark.parametrize(
    ("extractor", "weights"),
    [
        ("openvino", "person-reidentification-retail-0286.xml"),
        ("onnx", "osnet_x0_25_msmt17.onnx"),
    ],
)
def test_every_first_half_finds_its_second_half(tmp_path, extractor, weights):
    pytest.importorskip("av", reason="PyAV is not installed")
    pytest.importorskip(extractor if extractor == "openvino" else "onnxruntime")
    video, model = real(*VIDEO), real("models", weights)
    tracks = halves(tmp_path)
    assert len(tracks) == 6
    build = ["build", video, "--tracks", tmp_path / "second.csv", "--out", tmp_path / "g"]
    succeed(*build, "--extractor", extractor, "--weights", model)
    found = {}
    for track in tracks:
        query = ["query", tmp_path / "g", video, "--tracks", tmp_path / "first.csv"]
        result = succeed(*query, "--track", track, "--format", "jsonl")
        rows = [json.loads(line) for line in result.stdout.splitlines()]
        assert len(rows) == 6
        found[track] = rows[0]["track"]
    assert found == {track: track for track in tracks}
