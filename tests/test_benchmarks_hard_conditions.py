"""The benchmark of bad light: what spoils crops, and that both systems are scored on both sides."""

import json
from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner
from training_world import write_people

from benchmarks.hard_conditions import main, spoiled, table, trainings
from extractors.conditions import measure


def test_spoiled_crops_are_dark_and_blurred_and_the_same_again(rng: np.random.Generator) -> None:
    light = rng.integers(100, 256, (2, 128, 64, 3), np.uint8)
    found = spoiled(light)
    assert (found.shape, found.dtype) == (light.shape, np.uint8)
    assert [measure(one).features() for one in found] == [("dark", "blurred")] * 2
    np.testing.assert_array_equal(found, spoiled(light))
    # All of one colour, only gamma and gain are left.
    grey = spoiled(np.full((1, 128, 64, 3), 200, np.uint8))
    assert np.unique(grey).tolist() == [round(255 * 0.4 * (200 / 255) ** 2.2)]
    # A light point among black ones spreads as a Gaussian of 1.5 pixels.
    point = np.zeros((1, 128, 64, 3), np.uint8)
    point[0, 60:65, 30:35] = 255
    spread = spoiled(point)[0, :, :, 0].astype(float)
    places = np.arange(128) - 62
    variance = (spread.sum(axis=1) * places**2).sum() / spread.sum()
    assert abs(variance - (2 + 1.5**2)) < 0.3


def test_trainings_differ_in_the_system_alone() -> None:
    both = [one.to_json() for one in trainings("resnet18_x0_125", epochs=2).values()]
    plans = [one.pop("plan") for one in both]
    assert both[0] == both[1]
    assert [one.pop("system") for one in plans] == ["bot", "haa"]
    assert plans[0] == plans[1]


def test_both_are_scored_on_both(tmp_path: Path) -> None:
    folder = write_people(tmp_path / "crops", range(1, 22), crops=4)
    rows = ["file,split"]
    for path in sorted(folder.iterdir()):
        held_out = "query" if "_c1" in path.name else "gallery"
        rows.append(f"{path.name},{held_out if int(path.name[:4]) > 17 else 'train'}")
    (tmp_path / "split.csv").write_text("\n".join(rows))
    words = [str(folder), "--split", str(tmp_path / "split.csv"), "--epochs", "1", "--seeds", "1"]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    result = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "raw.json")])
    torch.set_num_threads(before)
    assert result.exception is None, result.output
    runs = json.loads((tmp_path / "raw.json").read_text())["runs"]
    assert [run["name"] for run in runs] == ["bot", "haa, adaptive", "haa, plain", "haa, rule"]
    for run in runs:
        assert 0 < run["clean mAP"] <= 1
        assert 0 < run["spoiled mAP"] <= 1
        assert run["clean mAP"] != run["spoiled mAP"] or run["clean rank-1"] == 1
    weights = {key: runs[1][key] for key in ("clean w_g", "spoiled w_g")}
    assert 0 < weights["clean w_g"] < 1
    assert weights["clean w_g"] != weights["spoiled w_g"]
    assert [line.split(" | ")[0] for line in result.output.splitlines()[-4:]] == [
        f"| {run['name']}" for run in runs
    ]


def test_differences_are_taken_by_seed() -> None:
    runs = []
    for name, values in {"bot": (0.1, 0.5), "haa, adaptive": (0.2, 0.4)}.items():
        for seed, value in enumerate(values):
            run = {"name": name, "seed": seed}
            for condition in ("clean", "spoiled"):
                run |= {f"{condition} mAP": value, f"{condition} rank-1": 0.5}
                if name != "bot":
                    run[f"{condition} w_g"] = value
            runs.append(run)
    half = "30.0 (20.0 … 40.0) | +0.0 (-10.0 … +10.0) | 50.0 (50.0 … 50.0) | 0.300 (0.200 … 0.400)"
    assert list(table(runs))[-1] == f"| haa, adaptive | {half} | {half} |"
