"""`reid train`: from folders of crops to a model that builds, queries and evaluates."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from cli_world import run, succeed
from training_world import write_people

import extractors.training.train
from extractors.trained import read_card, read_model
from reid_index import Gallery

SMALL = "--backbone resnet18_x0_125 --dim 16 --input-size 64x32 --batch 4x2 --rate 0.002 --warmup 1"
SMALL += " --epochs 4 --pad 2 --validate-every 2"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`crops` of 16 persons, the last six of them query and gallery by `split.csv`."""
    folder = tmp_path_factory.mktemp("train")
    write_people(folder / "crops", range(1, 17), crops=4)
    rows = ["file,split"]
    for path in sorted((folder / "crops").iterdir()):
        person, camera = int(path.name[:4]), path.name[6]
        held_out = "query" if camera == "1" else "gallery"
        rows.append(f"{path.name},{held_out if person > 10 else 'train'}")
    (folder / "split.csv").write_text("\n".join(rows))
    # The same camera on both sides.
    one, other = "_c1s1_000002_01.png,query", "_c1s1_000002_01.png,gallery"
    apart = [row.replace("gallery", "train").replace(one, other) for row in rows]
    (folder / "apart.csv").write_text("\n".join(apart))
    return folder


@pytest.fixture(scope="module")
def trained(place: Path):
    words = f"train crops --split split.csv --out m.safetensors {SMALL} --data drawn --licence free"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return succeed(*words.split(), "--onnx", "m.onnx")


def test_a_model_comes_of_it_and_a_card(place: Path, trained) -> None:
    assert trained.stdout == ""
    lines = trained.stderr.splitlines()
    assert lines[0] == "40 crops of 10 persons, 0 of them with one crop only"
    assert [line.startswith(f"epoch {n}, identity ") for n, line in enumerate(lines[1:5], 1)] == [
        True
    ] * 4
    assert ["mAP" in line for line in lines[1:5]] == [False, True, False, True]
    assert re.fullmatch(r"m\.onnx: cosine to the model (1\.0+|0\.9999\d+) at least", lines[5])
    assert re.fullmatch(r"m\.safetensors: [0-9,]+ bytes", lines[6])
    card = read_card(place / "m.safetensors")
    assert (card["data"], card["licence"]) == ("drawn", "free")
    assert card["figures"].keys() == {"mAP", "rank-1"}
    assert card["training"]["crops"] == 40
    assert [one["epoch"] for one in card["training"]["told"]] == [1, 2, 3, 4]
    assert card["training"]["seed"] == 0
    assert sorted(path.name for path in place.iterdir()) == [
        *("apart.csv", "crops", "m.json", "m.onnx", "m.safetensors", "split.csv")
    ]


def test_the_model_builds_and_is_as_good_as_its_card_says(
    place: Path, trained, tmp_path: Path
) -> None:
    built = succeed(
        "build",
        place / "crops",
        "--out",
        tmp_path / "g",
        "--extractor",
        "trained",
        "--weights",
        place / "m.safetensors",
    )
    assert built.exit_code == 0
    words = ["--split", place / "split.csv", "--format", "json"]
    found = json.loads(succeed("evaluate", tmp_path / "g", tmp_path / "g", *words).stdout)
    figures = read_card(place / "m.safetensors")["figures"]
    assert found["mAP"] == pytest.approx(figures["mAP"], abs=2e-3)
    with Gallery.open(tmp_path / "g") as gallery:
        assert gallery.fingerprint.name == "trained"
    picture = sorted((place / "crops").iterdir())[0]
    assert succeed("query", tmp_path / "g", picture, "--top", "1").exit_code == 0


def test_the_smallest_numbers_are_zero_in_training_alone(
    place: Path, tmp_path: Path, monkeypatch
) -> None:
    seen = []

    def stop(*_arguments, **_options):
        seen.append(halved())
        raise KeyboardInterrupt

    def halved() -> float:
        return (torch.full((1,), 2e-40) / 2).item()

    monkeypatch.chdir(place)
    monkeypatch.setattr(extractors.training.train, "train", stop)
    result = run("train", "crops", "--out", tmp_path / "m.safetensors", *SMALL.split()[:-2])
    assert result.exit_code != 0
    assert seen == [0.0]
    assert halved() > 0


def test_an_interrupted_training_goes_on(place: Path, trained, tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(place / "crops", tmp_path / "crops")
    shutil.copy(place / "split.csv", tmp_path)
    monkeypatch.chdir(tmp_path)
    words = f"train crops --split split.csv --out m.safetensors {SMALL}".split()
    learn = extractors.training.train._Run.learn

    def interrupted(run, *given):
        if run.epoch == 2:
            raise KeyboardInterrupt
        return learn(run, *given)

    with monkeypatch.context() as patch:
        patch.setattr(extractors.training.train._Run, "learn", interrupted)
        assert run(*words).exit_code != 0
    assert (tmp_path / "m.safetensors.state").exists()
    result = succeed(*words)
    assert [line[:8] for line in result.stderr.splitlines() if line.startswith("epoch")] == [
        *("epoch 3,", "epoch 4,")
    ]
    assert not (tmp_path / "m.safetensors.state").exists()
    one, other = read_model(place / "m.safetensors"), read_model(tmp_path / "m.safetensors")
    for (name, a), b in zip(
        one.system.state_dict().items(), other.system.state_dict().values(), strict=True
    ):
        assert name.startswith("classifier") or torch.equal(a, b), name
    assert [one["epoch"] for one in other.about["training"]["told"]] == [1, 2, 3, 4]


def test_distractors_and_lonely_people_are_searched_when_validating(
    place: Path, tmp_path: Path, monkeypatch
) -> None:
    """As `reid evaluate` does: one crop of each person on each side, and people whom nobody asks
    for. A folder that two parts name alike is told apart by its path."""
    monkeypatch.chdir(tmp_path)
    write_people(tmp_path / "crops/a", range(1, 9), crops=4)
    write_people(tmp_path / "crops/b", range(1, 7), crops=2)
    for number, path in enumerate(sorted((tmp_path / "crops/b").iterdir())[:4]):
        path.rename(path.with_name(f"0000_c2s1_{number:06d}_01.png"))
    rows = ["file,split", *(f"a/{path.name},train" for path in (tmp_path / "crops/a").iterdir())]
    for path in sorted((tmp_path / "crops/b").iterdir()):
        side = "query" if "_c1" in path.name else "gallery"
        rows.append(f"b/{path.name},{side}")
    (tmp_path / "split.csv").write_text("\n".join(rows))
    words = f"train crops --split split.csv --out m.safetensors {SMALL}".split()
    assert succeed(*words).stderr.startswith("32 crops of 8 persons")
    succeed("build", "crops", "--out", "g", "--extractor", "trained", "--weights", "m.safetensors")
    found = succeed("evaluate", "g", "g", "--split", "split.csv", "--format", "json").stdout
    figures = read_card(tmp_path / "m.safetensors")["figures"]
    assert json.loads(found)["mAP"] == pytest.approx(figures["mAP"], abs=2e-3)
    assert json.loads(found)["gallery"] == 8


def test_it_can_begin_from_a_model(place: Path, trained, tmp_path: Path) -> None:
    words = [*SMALL.split(), "--init", place / "m.safetensors", "--out", tmp_path / "n.safetensors"]
    succeed("train", place / "crops", *words, "--epochs", "1", "--rate", "1e-12")
    one, two = read_model(place / "m.safetensors"), read_model(tmp_path / "n.safetensors")
    first = "backbone.conv1.weight"
    torch.testing.assert_close(one.system.state_dict()[first], two.system.state_dict()[first])
    assert two.about["training"]["init"] == "m.safetensors"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ("--out m.pth", 2, "call it NAME.safetensors"),
        ("--out m.safetensors", 2, "is there already"),
        ("--out no/n.safetensors", 2, "there is no folder no"),
        ("--out n.safetensors --onnx no/n.onnx", 2, "there is no folder no"),
        ("--out n.safetensors --onnx m.onnx", 2, "m.onnx is there already"),
        ("--out n.safetensors --onnx n.json", 2, "call it NAME.onnx"),
        ("--out n.safetensors --data \udcff", 2, "is not UTF-8"),
        ("--out n.safetensors --split apart.csv", 2, "no query's person is in its gallery from"),
        ("--out n.safetensors --input-size 2x2 --backbone osnet_x0_25", 2, "2x2 are too small"),
        ("--out n.safetensors --batch 4", 2, "--batch '4': two whole numbers with an x between"),
        ("--out n.safetensors --input-size 64", 2, "--input-size '64'"),
        (
            "--out n.safetensors --backbone vit",
            2,
            "there is no backbone 'vit'; there are osnet_x0_25",
        ),
        ("--out n.safetensors --system vit", 2, "there is no system 'vit'"),
        ("--out n.safetensors --loss hinge", 2, "there is no loss 'hinge'"),
        ("--out n.safetensors --batch 64x2", 2, "a batch of 64 persons cannot be had of 16"),
        ("--out n.safetensors --split nowhere.csv", 1, "nowhere.csv"),
        ("--out n.safetensors --init split.csv", 1, "split.csv"),
        ("--out n.safetensors --device cuda:7", 2, "device 'cuda:7' is not to be had"),
    ],
)
def test_bad_input_gets_one_line(place: Path, trained, monkeypatch, words, code, text) -> None:
    monkeypatch.chdir(place)
    before = sorted(path.name for path in place.iterdir())
    result = run("train", "crops", *SMALL.split(), *words.split())
    assert (result.exit_code, result.stdout) == (code, "")
    last = result.stderr.splitlines()[-1]
    assert last.startswith("reid: ")
    assert text in last
    assert sorted(path.name for path in place.iterdir()) == before
