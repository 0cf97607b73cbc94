"""The benchmark of co-attention: tracks are searched by means, pairs and codes, and rightly."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from training_world import FED, write_people

from benchmarks.coattention import BEFORE, Side, by_means, main
from extractors.systems import Plan, make_system
from extractors.trained import Model, write_model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`crops` of 13 persons, the last four held out, by `split.csv`; `m.safetensors`, a new BoT."""
    place = tmp_path_factory.mktemp("coattention")
    folder = write_people(place / "crops", range(1, 14), crops=6)
    rows = ["file,split"]
    for path in sorted(folder.iterdir()):
        held_out = "query" if "000000" in path.name or "000001" in path.name else "gallery"
        rows.append(f"{path.name},{held_out if int(path.name[:4]) > 9 else 'train'}")
    (place / "split.csv").write_text("\n".join(rows))
    plan = Plan(backbone="resnet18_x0_125", dim=16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Model(make_system(plan, classes=2).eval(), plan, FED, {})
    write_model(place / "m.safetensors", model)
    return place


def test_tracks_of_both_sides_are_scored_together(place: Path) -> None:
    from extractors.trained import read_model

    model = read_model(place / "m.safetensors")
    side = Side.read(place / "crops", place / "split.csv", model)
    assert [len(crops) for crops in side.tracks.crops] == [3] * 8
    assert sorted(side.persons) == sorted([f"{person:04d}" for person in range(10, 14)] * 2)
    frames = side.frames(model.system, model).astype(np.float64)
    unit = frames / np.linalg.norm(frames, axis=1, keepdims=True)
    means = np.stack([unit[crops].mean(axis=0) for crops in side.tracks.crops])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    ranks = []
    for asked in range(8):
        person, camera = side.persons[asked], side.tracks.cameras[asked]
        others = [
            other
            for other in np.argsort(-means @ means[asked], kind="stable")
            if (side.persons[other], side.tracks.cameras[other]) != (person, camera)
        ]
        ranks.append([side.persons[other] for other in others].index(person) + 1)
    found = by_means(side, frames.astype(np.float32))
    # One right answer each.
    assert found == pytest.approx([np.mean(1 / np.array(ranks)), np.mean(np.array(ranks) == 1)])


def test_runs_are_kept_and_not_made_again(place: Path, tmp_path: Path) -> None:
    words = [str(place / "crops"), "--split", str(place / "split.csv"), "--epochs", "1"]
    words += ["--init", str(place / "m.safetensors"), "--out", str(tmp_path / "raw.json")]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for seeds, freeze in (("1", "2"), ("2", "2"), ("2", "0")):
        options = [*words, "--seeds", seeds, "--freeze", freeze]
        result = CliRunner().invoke(main, options)
        if freeze == "0":
            assert "has runs of other networks" in result.output
            continue
        assert result.exception is None, result.output
        runs = json.loads((tmp_path / "raw.json").read_text())["runs"]
        assert {run["seed"] for run in runs} == set(range(int(seeds)))
        assert ("seed 0" in result.output) is (seeds == "1")
    torch.set_num_threads(before)
    assert [run["name"] for run in runs if run["seed"] == 1] == [
        BEFORE,
        "mean, of the same network",
        "pairs, best fifth, sum",
        "pairs, all, sum",
        "pairs, best fifth, mean",
        "pairs, all, mean",
        "codes",
    ]
    assert all(0 < run["mAP"] <= 1 for run in runs)
