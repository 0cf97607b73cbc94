"""The benchmark of training: every variant is trained by every seed, and compared by seed."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from training_world import write_people

from benchmarks import models, split_scores, systems
from benchmarks.split_scores import table
from benchmarks.training import main, variants, whole


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = write_people(tmp_path / "crops", range(1, 23), crops=4)
    rows = ["file,split"]
    for path in sorted(folder.iterdir()):
        held_out = "query" if "_c1" in path.name else "gallery"
        rows.append(f"{path.name},{held_out if int(path.name[:4]) > 18 else 'train'}")
    (tmp_path / "split.csv").write_text("\n".join(rows))
    return tmp_path


def asked(place: Path, *words: str) -> str:
    command = [words[0], str(place / "crops"), "--split", str(place / "split.csv"), *words[1:]]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    result = CliRunner().invoke(main, [*command, "--out", str(place / "raw.json")])
    torch.set_num_threads(before)
    assert result.exception is None, result.output
    return result.output


def test_each_ingredient_is_left_out_by_each_seed(place: Path) -> None:
    told = asked(place, "ablate", "--epochs", "1", "--seeds", "1", "--backbone", "resnet18_x0_125")
    raw = json.loads((place / "raw.json").read_text())
    names = list(variants(whole("resnet18_x0_125", epochs=1)))
    assert [run["name"] for run in raw["runs"]] == names
    assert all(0 < run["mAP"] <= 1 for run in raw["runs"])
    assert [line.split(" | ")[0] for line in told.splitlines()[-len(names) :]] == [
        f"| {name}" for name in names
    ]


def test_the_smallest_numbers_are_zero_while_it_trains(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_arguments: object, **_options: object) -> None:
        seen.append((torch.full((1,), 2e-40) / 2).item())
        raise KeyboardInterrupt

    seen: list[float] = []
    training = whole("resnet18_x0_125", epochs=1)
    crops = split_scores.Crops(place / "crops", place / "split.csv", training.preprocess)
    monkeypatch.setattr(split_scores, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        split_scores.trained(crops, training, seed=0)
    assert seen == [0.0]


def test_variants_differ_from_the_whole_in_one_thing() -> None:
    every = variants(whole("resnet18_x0_125", epochs=8))
    base = every.pop("whole").to_json()
    for name, training in every.items():
        said = training.to_json()
        changed = {
            (part, key)
            for part in said
            for key in (said[part] if isinstance(said[part], dict) else [""])
            if (said[part][key] if key else said[part]) != (base[part][key] if key else base[part])
        }
        assert len(changed) == 1, name


def test_differences_are_taken_by_seed() -> None:
    runs = [
        {"name": name, "seed": seed, "mAP": value, "rank-1": 0.5}
        for name, values in {"whole": (0.1, 0.5), "less": (0.05, 0.55)}.items()
        for seed, value in enumerate(values)
    ]
    runs.append({**runs[0], "name": "other", "seed": 7})
    lines = list(table(runs, {"less": "whole", "other": "whole"}))
    assert lines[1] == "| whole | 30.0 (10.0 … 50.0) | 50.0 (50.0 … 50.0) |  |  |"
    assert lines[2] == (
        "| less | 30.0 (5.0 … 55.0) | 50.0 (50.0 … 50.0) | +0.0 (-5.0 … +5.0) | whole |"
    )
    # There is nothing of that seed to compare it with.
    assert lines[3] == "| other | 10.0 (10.0 … 10.0) | 50.0 (50.0 … 50.0) |  |  |"


def test_systems_are_trained_by_each_seed_and_gone_on_with(place: Path) -> None:
    words = [str(place / "crops"), "--split", str(place / "split.csv"), "--epochs", "1"]
    words += ["--out", str(place / "raw.json"), "--only", "bot", "--only", "aligned", "--seeds"]
    told = [CliRunner().invoke(systems.main, [*words, seeds]) for seeds in ("1", "2")]
    assert [one.exception for one in told] == [None, None]
    runs = json.loads((place / "raw.json").read_text())["runs"]
    names = ["bot", "aligned", "aligned, by parts"]
    assert [(run["name"], run["seed"]) for run in runs] == [(n, s) for s in (0, 1) for n in names]
    assert [line.split(",")[0] for line in told[1].output.splitlines()[:3]] == [
        "bot",
        "aligned",
        "aligned",
    ]
    assert "| aligned, by parts | " in told[0].output
    assert "| aligned | 0.19 M | 20 M | " in told[0].output
    other = CliRunner().invoke(systems.main, [*words, "1", "--backbone", "resnet18_x0_25"])
    assert "has runs of other networks" in other.output


def test_every_system_of_the_comparison_adds_to_one_that_is_in_it() -> None:
    every = systems.trainings("resnet18_x0_125", "convnext_atto_x0_25", epochs=4)
    assert set(systems.BASES.values()) <= every.keys()
    assert {name.removesuffix(", by parts") for name in systems.BASES} <= every.keys()


def test_models_are_compared_on_the_same_crops(place: Path) -> None:
    words = ["trained", "stripes", "--split", str(place / "split.csv"), "--out"]
    words += [str(place / "raw.json"), "--rounds", "2", "--crops", "6"]
    result = CliRunner().invoke(models.main, [str(place / "crops"), *words])
    assert result.exception is None, result.output
    lines = result.output.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| trained", "| stripes"]
    raw = json.loads((place / "raw.json").read_text())["models"]
    assert [len(one["crops a second"]) for one in raw.values()] == [2, 2]
    assert all(0 < one["mAP"] <= 1 for one in raw.values())
    assert lines[3].startswith(f"| stripes | {raw['stripes']['mAP']:.3f} | ")


def test_training_is_timed_beside_its_network(place: Path) -> None:
    words = ["speed", "--batches", "2", "--rounds", "2", "--backbone", "resnet18_x0_125"]
    told = asked(place, *words)
    raw = json.loads((place / "raw.json").read_text())
    assert [len(some) for some in raw["rates"].values()] == [2, 2]
    assert "training ÷ alone: " in told
