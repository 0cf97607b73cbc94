"""`reid calibrate`, and the threshold that `reid query --threshold auto` takes from it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_world import assert_refused, run, succeed

from cli.calibrate import auto_threshold
from reid_index import Gallery
from reid_index.errors import UsageError

MakeGallery = Callable[..., Gallery]

# Of the 12 pairs of different people 8 are 0 alike, 2 −0.352 and 2 −0.6.
VECTORS = np.array(
    [[1, 0, 0], [0.96, 0.28, 0], [0, 0, 1], [0, 0, 1], [-0.6, 0.8, 0], [-0.6, 0.8, 0]], np.float32
)
PERSONS = "aabbcc"


@pytest.fixture
def gallery(make_gallery: MakeGallery) -> Gallery:
    gallery = make_gallery()
    gallery.add(VECTORS, [{"person": p, "camera": i % 2} for i, p in enumerate(PERSONS)])
    return gallery


def test_what_is_printed_and_kept(gallery: Gallery) -> None:
    result = succeed("calibrate", gallery.path, "--false-match-rate", "0.1")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["made", "from", "person", "labels,", "generation", "1,", "6", "items"],
        ["items", "compared", "6"],
        ["pairs", "of", "one", "person", "3"],
        ["pairs", "of", "two", "people", "12"],
        ["equal", "error", "rate", "0.0000"],
        ["false-match", "rate", "true-match", "rate", "similarity", "from"],
        f"0.1 1.0000 {2**-15} reid query --threshold auto".split(),
        ["0.01", "-", "-"],
        ["0.001", "-", "-"],
        ["0.0001", "-", "-"],
        ["-:", "too", "few", "pairs"],
    ]
    opened = Gallery.open(gallery.path)
    assert auto_threshold(opened, None) == auto_threshold(opened, 0.1) == 2**-15
    with pytest.raises(UsageError, match="cannot tell"):
        auto_threshold(opened, 0.01)


def test_json_has_the_same_and_can_be_wanted_again(gallery: Gallery) -> None:
    result = succeed(
        "calibrate", gallery.path, "--same-camera", "--false-match-rate", "0.5", "--format", "json"
    )
    told = json.loads(result.stdout)
    assert (told["positives"], told["negatives"], told["eer"]) == (3, 12, 0.0)
    assert (told["same_camera"], told["sampled"], told["generation"]) == (True, False, 1)
    assert told["rates"][1] == {
        "false_match_rate": 0.01,
        "true_match_rate": None,
        "threshold": None,
    }
    opened = Gallery.open(gallery.path)
    assert told["threshold"] == auto_threshold(opened, None)
    assert auto_threshold(opened, 0.7) == np.ceil(-0.352 * 2**15) / 2**15


def test_auto_can_answer_that_somebody_is_not_there(gallery: Gallery, tmp_path: Path) -> None:
    np.save(tmp_path / "known.npy", VECTORS[2:3])
    np.save(tmp_path / "stranger.npy", np.array([[0, -1, 0]], np.float32))
    refused = run("query", gallery.path, tmp_path / "known.npy", "--threshold", "auto")
    assert_refused(refused, code=1, text=f"`reid calibrate {gallery.path}` makes it")
    succeed("calibrate", gallery.path, "--false-match-rate", "0.1")
    query = ("--threshold", "auto", "--format", "jsonl")
    found = succeed("query", gallery.path, tmp_path / "known.npy", *query)
    assert [json.loads(line)["item"] for line in found.stdout.splitlines()] == [2, 3]
    nobody = succeed("query", gallery.path, tmp_path / "stranger.npy", *query)
    assert nobody.stdout == ""
    assert len(Gallery.open(gallery.path).search(VECTORS[2]).matches) == 6


def test_tracks_and_lists(make_gallery: MakeGallery, tmp_path: Path) -> None:
    gallery = make_gallery()
    seen = [{"track": p, "video": "v", "frame_first": i // 2} for i, p in enumerate("abab")]
    gallery.add(VECTORS[[0, 2, 1, 3]], seen)
    told = json.loads(
        succeed(
            *("calibrate", gallery.path, "--weak", "--false-match-rate", "0.25"),
            *("--format", "json"),
        ).stdout
    )
    assert (told["origin"], told["positives"], told["negatives"]) == ("tracks", 2, 4)
    path = tmp_path / "pairs.csv"
    path.write_text("a,b,same\n0,2,1\n0,1,0\n")
    result = succeed("calibrate", gallery.path, "--pairs", path, "--false-match-rate", "1")
    assert result.stdout.startswith("made from            a list of pairs, generation 2, 4 items\n")
    assert auto_threshold(Gallery.open(gallery.path), None) == -1.0


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--pairs", "p.csv", "--weak"], 2, "choose one"),
        (["--same-camera", "--weak"], 2, "is about labels"),
        (["--same-camera", "--pairs", "p.csv"], 2, "is about labels"),
        (["--weak"], 2, "no item has a track"),
        (["--pairs", "nothing.csv"], 1, "nothing.csv: cannot be read as a list of pairs"),
        ([], 2, "12 pairs of different people cannot tell a false-match rate of 0.001"),
        (["--false-match-rate", "0"], 2, "above 0"),
    ],
)
def test_what_is_refused_changes_nothing(
    gallery: Gallery, options: list[str], code: int, text: str
) -> None:
    assert_refused(run("calibrate", gallery.path, *options), code=code, text=text)
    assert Gallery.open(gallery.path).attached("calibration") is None


def test_a_picture_of_the_histograms(gallery: Gallery, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "scores.svg"
    succeed("calibrate", gallery.path, "--false-match-rate", "0.5", "--picture", path)
    assert path.read_text().startswith("<svg")
    generation = Gallery.open(gallery.path).manifest.generation
    refused = run("calibrate", gallery.path, "--picture", tmp_path / "scores.pdf")
    assert_refused(refused, code=2, text="a .svg or .png file, please")
    assert Gallery.open(gallery.path).manifest.generation == generation
