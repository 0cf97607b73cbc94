"""What each ingredient of training is worth, and what training costs beside its network alone.

    python -m benchmarks.training ablate CROPS --split LIST --out FILE
    python -m benchmarks.training speed CROPS --split LIST --out FILE

`ablate` trains small networks, each with one thing left out or exchanged, by several seeds, and
scores them on query and gallery of the split. `speed` times training, from crops in memory to the
stepped weights, beside forward and backward of the same network on the same batches, in turn.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import keep, spread
from cli.sides import split_pictures
from extractors.preprocess import MEAN, STD, Preprocess
from extractors.systems import Plan
from extractors.systems.system import System
from extractors.training import train as training_module
from extractors.training.augment import Augment, prepare
from extractors.training.batches import Batches
from extractors.training.crops import Labelled, decode, read_labelled
from extractors.training.losses import Losses
from extractors.training.schedule import Schedule
from extractors.training.train import Training, train
from reid_index import evaluate_distances

FED = Preprocess(height=128, width=64, scale=1 / 255, mean=MEAN, std=STD)
"""How crops are fed to all networks here."""
_CPU = torch.device("cpu")


def whole(backbone: str, *, epochs: int) -> Training:
    """With everything that the others lack."""
    return Training(
        plan=Plan(backbone=backbone, dim=0),
        preprocess=FED,
        augment=Augment(pad=5),
        schedule=Schedule(warmup=min(3.0, epochs / 4)),
        epochs=epochs,
        rate=2e-3,
    )


def variants(training: Training) -> dict[str, Training]:
    """Name → training."""
    unsmoothed = replace(training.losses, smoothing=0.0)
    return {
        "whole": training,
        "no random erasing": replace(training, augment=replace(training.augment, erase=0.0)),
        "no label smoothing": replace(training, losses=unsmoothed),
        "no warm-up": replace(training, schedule=replace(training.schedule, warmup=0.0)),
        "circle for triplet": replace(training, losses=replace(training.losses, metric="circle")),
        "no triplet": replace(training, losses=replace(training.losses, metric="none")),
        "no BNNeck": replace(training, plan=replace(training.plan, neck=False)),
    }


Sides = list[tuple[NDArray[np.uint8], Labelled]]


class Crops:
    """Crops of a split, decoded: to train on, and both sides to be scored on.

    sides: of query and gallery, crops uint8 (N, 128, 64, 3) and who is on them.
    """

    def __init__(self, folder: Path, split: Path) -> None:
        parts: dict[str, Labelled] = {
            part: read_labelled([split_pictures(folder, split, part)])
            for part in ("train", "query", "gallery")
        }
        self.train = decode(parts["train"], FED)
        self.classes = parts["train"].classes
        self.sides: Sides = [
            (decode(parts[part], FED), parts[part]) for part in ("query", "gallery")
        ]

    def score(
        self, embed: Callable[[torch.Tensor], torch.Tensor], sides: Sides | None = None
    ) -> tuple[float, float]:
        """mAP and rank-1. embed: of a system, float32 (B, 3, 128, 64) → (B, D). sides: others than
        its own."""
        vectors, persons, cameras = [], [], []
        for crops, labelled in sides or self.sides:
            vectors.append(_vectors(embed, crops))
            columns = [person.columns for _, person in labelled.people]
            persons.append([one["person"] for one in columns])
            cameras.append([one["camera"] for one in columns])
        found = evaluate_distances(1 - vectors[0] @ vectors[1].T, *persons, *cameras)
        return found.mAP, float(found.cmc[0])


def run_on(
    crops: NDArray[np.uint8], network: Callable[[torch.Tensor], torch.Tensor]
) -> NDArray[np.float32]:
    """What a network says of crops, (N, …), a batch at a time."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(crops), 128):
            fed = np.stack([FED.normalise(crop) for crop in crops[start : start + 128]])
            found.append(network(torch.from_numpy(fed)).numpy())
    return np.concatenate(found)


def _vectors(
    embed: Callable[[torch.Tensor], torch.Tensor], crops: NDArray[np.uint8]
) -> NDArray[np.float32]:
    vectors = run_on(crops, embed)
    normed: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normed


@click.group()
def main() -> None:
    """Measure training."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--split", type=click.Path(path_type=Path), required=True)
@click.option("--backbone", default="resnet18_x0_125", show_default=True)
@click.option("--epochs", default=15, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Raw results as JSON.")
def ablate(
    folder: Path, split: Path, backbone: str, epochs: int, seeds: int, out: Path | None
) -> None:
    """Train with one thing left out at a time."""
    crops = Crops(folder, split)
    runs: list[dict[str, Any]] = []
    for seed in range(seeds):
        for name, training in variants(whole(backbone, epochs=epochs)).items():
            start = time.perf_counter()
            made = train(
                replace(training, seed=seed), crops.train, crops.classes, state=None, device=_CPU
            )
            seconds = time.perf_counter() - start
            mAP, first = crops.score(made.system.embed)
            runs.append(
                {"name": name, "seed": seed, "mAP": mAP, "rank-1": first, "seconds": seconds}
            )
            click.echo(f"{name}, seed {seed}: mAP {mAP:.4f}, rank-1 {first:.4f}, {seconds:.0f} s")
            keep(out, {"benchmark": "ablate", "backbone": backbone, "epochs": epochs, "runs": runs})
    for line in _table(runs):
        click.echo(line)


def _table(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Means with their range, and the mean difference to the whole of the same seed."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by_name.setdefault(run["name"], []).append(run)
    base = {run["seed"]: run for run in by_name["whole"]}
    yield "| | mAP | rank-1 | mAP, less the whole of the same seed |\n|---|---|---|---|"
    for name, some in by_name.items():
        cells = [cell([run[key] for run in some], "") for key in ("mAP", "rank-1")]
        cells.append(cell([run["mAP"] - base[run["seed"]]["mAP"] for run in some], "+"))
        yield f"| {name} | {' | '.join(cells)} |"


def cell(shares: list[float], sign: str) -> str:
    """Mean and range, in hundredths. sign: "+" for differences."""
    mean, low, high = (100 * one for one in (statistics.mean(shares), min(shares), max(shares)))
    return f"{mean:{sign}.1f} ({low:{sign}.1f} … {high:{sign}.1f})"


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--split", type=click.Path(path_type=Path), required=True)
@click.option("--backbone", default="osnet_x0_25", show_default=True)
@click.option("--batches", default=20, show_default=True, help="Of each, in a round.")
@click.option("--rounds", default=7, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Raw results as JSON.")
def speed(
    folder: Path, split: Path, backbone: str, batches: int, rounds: int, out: Path | None
) -> None:
    """Time training beside its network alone."""
    crops = Crops(folder, split)
    training = replace(whole(backbone, epochs=1), plan=Plan(backbone=backbone, dim=512))
    run = training_module._Run.begin(
        training,
        crops.train,
        crops.classes,
        state=None,
        device=_CPU,
        also={},
        start=lambda _system: None,
    )
    chosen = Batches(crops.classes, persons=16, crops=4, seed=0).epoch(0)[:batches]
    run.batches.epoch = lambda _number: chosen  # type: ignore[method-assign]
    rng = np.random.default_rng(0)
    fed = [
        torch.from_numpy(prepare(crops.train[one], training.augment, FED, rng)) for one in chosen
    ]
    rates: dict[str, list[float]] = {"whole": [], "bare": []}
    with training_module.ThreadPoolExecutor(1) as preparer:
        for number in range(rounds + 1):  # the first is a warm-up
            done = run.learn(crops.train, crops.classes, preparer, lambda _crops: None)
            start = time.perf_counter()
            for one, images in zip(chosen, fed, strict=True):
                _bare(run.system, run.losses, images, torch.from_numpy(crops.classes[one]))
            bare = done.crops / (time.perf_counter() - start)
            if number:
                rates["whole"].append(done.rate)
                rates["bare"].append(bare)
    ratios = [a / b for a, b in zip(rates["whole"], rates["bare"], strict=True)]
    click.echo(f"crops/s in training: {spread(rates['whole'])}")
    click.echo(f"crops/s forward and backward alone: {spread(rates['bare'])}")
    click.echo(f"training ÷ alone: {spread(ratios)}")
    keep(out, {"benchmark": "training speed", "backbone": backbone, "rates": rates})


def _bare(system: System, losses: Losses, images: torch.Tensor, classes: torch.Tensor) -> None:
    """Forward and backward, with the losses, as there is no gradient without one."""
    system.zero_grad(set_to_none=True)
    total, _ = losses(system(images.contiguous(memory_format=torch.channels_last)), classes)
    total.backward()


if __name__ == "__main__":
    main()
