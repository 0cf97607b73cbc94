"""Whether weighing head and shoulders helps where light and sharpness are bad.

    python -m benchmarks.hard_conditions CROPS --split LIST --out FILE

Trains HAA and its global model alone (BoT of the same backbone, width and number of epochs), by the
same seeds, and scores both on query and gallery of the split, as they are and as `spoiled` makes
both sides of it; HAA by each way of weighting that needs no table. w_g is what the adaptive way
gives the global feature, the mean over both sides: it should be less where crops are spoiled.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from benchmarks.machine import keep
from benchmarks.split_scores import Crops, Sides, cell, trained
from benchmarks.training import FED, whole
from extractors.systems import Plan
from extractors.systems.haa import DIM, HAA
from extractors.systems.system import System
from extractors.training.train import Training
from extractors.weighting import WAYS, weighting_of

GAMMA, GAIN = 2.2, 0.4
BLUR = 1.5
"""Pixels at 128 × 64."""

BASE = "bot"


def spoiled(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (N, 128, 64, 3), dark and out of focus: values v in 0…1 become GAIN · v^GAMMA; then a
    Gaussian of BLUR pixels, the border going on beyond it. The same crops give the same."""
    out = np.empty_like(crops)
    for number, crop in enumerate(crops):
        dark = GAIN * (crop / 255.0) ** GAMMA
        blurred = gaussian_filter(dark, (BLUR, BLUR, 0), mode="nearest")
        out[number] = np.rint(255 * blurred)
    return out


def trainings(backbone: str, *, epochs: int) -> dict[str, Training]:
    """Name → training: they differ in the system alone."""
    training = whole(backbone, epochs=epochs)
    return {
        name: replace(training, plan=Plan(system=name, backbone=backbone, dim=DIM))
        for name in (BASE, "haa")
    }


def _ways(system: System) -> dict[str, Callable[[Tensor], Tensor]]:
    """Name → what makes its vectors."""
    if not isinstance(system, HAA):
        return {BASE: system.embed}
    return {f"haa, {way}": weighting_of(way).embed(system, FED) for way in WAYS}


def _measured(system: System, crops: Crops, sides: dict[str, Sides]) -> Iterator[dict[str, Any]]:
    """sides: condition → query and gallery."""
    for name, embed in _ways(system).items():
        found: dict[str, Any] = {"name": name}
        for condition, both in sides.items():
            mAP, first = crops.score(embed, both)
            found |= {f"{condition} mAP": mAP, f"{condition} rank-1": first}
            if isinstance(system, HAA) and name == "haa, adaptive":
                found[f"{condition} w_g"] = _mean_weight(system, crops, both)
        yield found


def _mean_weight(system: HAA, crops: Crops, both: Sides) -> float:
    weights = [crops.run_on(some, lambda x: system.features(x)[2]) for some, _ in both]
    return float(np.concatenate(weights).mean())


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--split", type=click.Path(path_type=Path), required=True)
@click.option("--backbone", default="resnet18_x0_125", show_default=True)
@click.option("--epochs", default=15, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Raw results as JSON.")
def main(
    folder: Path, split: Path, backbone: str, epochs: int, seeds: int, out: Path | None
) -> None:
    """Score HAA beside its global model, on crops as they are and spoiled."""
    crops = Crops(folder, split, FED)
    sides = {
        "clean": crops.sides,
        "spoiled": [(spoiled(some), labelled) for some, labelled in crops.sides],
    }
    runs: list[dict[str, Any]] = []
    for seed in range(seeds):
        for training in trainings(backbone, epochs=epochs).values():
            system, seconds = trained(crops, training, seed=seed)
            for found in _measured(system, crops, sides):
                runs.append({**found, "seed": seed, "seconds": seconds})
                said = ", ".join(f"{key} {found[key]:.4f}" for key in found if key != "name")
                click.echo(f"{found['name']}, seed {seed}: {said}, trained in {seconds:.0f} s")
            about = {"backbone": backbone, "epochs": epochs, "runs": runs}
            keep(out, {"benchmark": "hard conditions", **about})
    for line in table(runs):
        click.echo(line)


def table(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Means with their range, in hundredths but w_g, and the mean difference to the global model
    alone of the same seed."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by_name.setdefault(run["name"], []).append(run)
    base = {run["seed"]: run for run in by_name[BASE]}
    conditions = ("clean", "spoiled")
    heads = [
        f"{condition}: {what}"
        for condition in conditions
        for what in ("mAP", f"less {BASE}'s", "rank-1", "w_g")
    ]
    yield f"| | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}"
    for name, some in by_name.items():
        cells = []
        for condition in conditions:
            key = f"{condition} mAP"
            cells.append(cell([run[key] for run in some], ""))
            cells.append(cell([run[key] - base[run["seed"]][key] for run in some], "+"))
            cells.append(cell([run[f"{condition} rank-1"] for run in some], ""))
            weights = [run[f"{condition} w_g"] for run in some if f"{condition} w_g" in run]
            cells.append(_weight(weights) if weights else "")
        yield f"| {name} | {' | '.join(cells)} |"


def _weight(found: list[float]) -> str:
    return f"{statistics.mean(found):.3f} ({min(found):.3f} … {max(found):.3f})"


if __name__ == "__main__":
    main()
