"""A co-attention model from the command line: trained, built with, asked, rebuilt to."""

import json
import shutil
from pathlib import Path

import pytest
from cli_world import run, succeed
from PIL import Image
from training_world import crop

pytest.importorskip("torch", reason="PyTorch is not installed (the extra train)")

SMALL = "--system coattention --backbone resnet18_x0_125 --dim 16 --key 6 --value 8 --frames 2"
SMALL += " --input-size 64x32 --batch 4x2 --rate 0.002 --warmup 1 --epochs 2 --pad 2"

PEOPLE, FRAMES = 5, 7
"""Of each person two tracks of so many frames: segments of 4 from 0 and 2 and, the tail, 3."""

TRAINED = ("--extractor", "trained", "--weights")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`m.safetensors`, learnt from `tracks`: a folder for each person and camera; `g`, a gallery of
    their segments; `target`, a tracklet of person 0."""
    folder = tmp_path_factory.mktemp("coattention")
    rows = ["file,person,camera,track"]
    for person in range(PEOPLE):
        for number in range(2 * FRAMES):
            camera = number // FRAMES + 1
            name = f"tracks/p{person}c{camera}/{number:02d}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(crop(person, seed=number)).save(folder / name)
            rows.append(f"{name},{person},{camera},{person}-{camera}")
    (folder / "tracks.csv").write_text("\n".join(rows))
    (folder / "target").mkdir()
    for number in range(5):
        pixels = crop(0, seed=100 + number)
        Image.fromarray(pixels).save(folder / "target" / f"{number}.png")
    model = folder / "m.safetensors"
    succeed("train", folder / "tracks.csv", "--out", model, *SMALL.split())
    cut = ("--layout", "tracklets", "--segment", 4)
    succeed("build", folder / "tracks", *cut, *TRAINED, model, "--out", folder / "g")
    return folder


@pytest.fixture
def gallery(place: Path, tmp_path: Path) -> Path:
    """A copy of `g`, to do with it as a test likes."""
    return shutil.copytree(place / "g", tmp_path / "g")


def answers(*arguments: object) -> list[dict]:
    told = succeed("query", *arguments, "--format", "jsonl", "--top", 20).stdout
    return [json.loads(line) for line in told.splitlines()]


def test_targets_are_tracklets_and_pictures(place: Path) -> None:
    """Scores are sums of probabilities of pairs: 3 of a tracklet of 5 frames, else 1 a segment."""
    exact = answers(place / "g", place / "target", "--exact")
    assert len(exact) == 2 * PEOPLE
    assert {(row["pairs"], row["counted"]) for row in exact} == {(6, 2)}
    scores = [row["score"] for row in exact]
    assert scores == sorted(scores, reverse=True)
    assert 0 < scores[-1] < scores[0] <= 2
    for winner in exact[0]["winners"]:
        assert len(winner["attention"]) == 4
        assert sum(winner["attention"]) == pytest.approx(1)
    one = answers(place / "g", place / "target" / "0.png", "--exact", "--proportion", 1)
    assert {(row["pairs"], row["counted"]) for row in one} == {(3, 3)}
    # A segment of one frame: the same as a tracklet of that one picture.
    alone = place / "alone" / "t"
    alone.mkdir(parents=True)
    shutil.copy(place / "target" / "0.png", alone)
    assert answers(place / "g", alone, "--exact", "--proportion", 1) == one


def test_explain_says_what_a_shortlist_covers(place: Path) -> None:
    named = ("query", place / "g", place / "target", "--explain")
    assert "10 of 10 candidates have all of their pairs" in succeed(*named, "--exact").stderr
    short = succeed(*named, "--shortlist", 6, "--top", 2).stderr
    assert "not exact: 2 of 10 candidates have all of their pairs compared" in short
    table = succeed("inspect", place / "g").stdout
    assert "of 4 frames, every 2; of 10 candidates" in table
    assert "coattention" in table


def test_what_is_deleted_is_gone_and_the_rest_scores_as_before(place: Path, gallery: Path) -> None:
    before = answers(gallery, place / "target", "--exact")
    first = before[0]["track"]
    succeed("delete", gallery, "--where", f"track = '{first}'")
    rest = [(row["track"], row["score"]) for row in before[1:]]
    for command in ("compact", "verify"):
        found = answers(gallery, place / "target", "--exact")
        assert [(row["track"], row["score"]) for row in found] == rest
        succeed(command, gallery)
    told = succeed("add", gallery, place / "tracks" / first, "--layout", "tracklets")
    assert "3 segments of 7 frames in 1 track" in told.stderr
    assert answers(gallery, place / "target", "--exact")[0]["score"] == before[0]["score"]
    succeed("verify", gallery)


def test_damaged_frames_are_found(gallery: Path) -> None:
    [file] = gallery.glob("shards/*/vectors.h5")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    assert run("verify", gallery).exit_code == 1


def test_a_rebuild_makes_one_of_means_and_one_of_crops_of_co_attention(
    place: Path, tmp_path: Path
) -> None:
    """As if it had been built by the model; crops become segments of one frame."""
    means, crops, model = tmp_path / "means", tmp_path / "crops", place / "m.safetensors"
    layout = ("--layout", "tracklets", "--extractor", "stripes")
    succeed("build", place / "tracks", *layout, "--segment", 4, "--out", means)
    succeed("build", place / "tracks", *layout, "--out", crops)
    for path in (means, crops):
        succeed("rebuild", path, *TRAINED, model)
        succeed("verify", path)
    wanted = answers(place / "g", place / "target", "--exact")
    assert without_places(answers(means, place / "target", "--exact")) == without_places(wanted)
    single = answers(crops, place / "target", "--exact", "--segment", 1, "--stride", 1)
    assert {row["pairs"] for row in single} == {5 * FRAMES}
    refused = run("rebuild", crops, *TRAINED, model, "--metric", "euclidean")
    assert refused.exit_code == 2
    assert "choose cosine, or leave the matcher out" in refused.stderr


def without_places(rows: list[dict]) -> list[tuple]:
    return [(row["track"], row["score"], [one["item"] for one in row["winners"]]) for row in rows]
