"""What each ingredient of training is worth, and what training costs beside its network alone.

    python -m benchmarks.training ablate CROPS --split LIST --out FILE
    python -m benchmarks.training speed CROPS --split LIST --out FILE

`ablate` trains small networks, each with one thing left out or exchanged, by several seeds, and
scores them on query and gallery of the split. `speed` times training, from crops in memory to the
stepped weights, beside forward and backward of the same network on the same batches, in turn.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.machine import keep, spread
from benchmarks.split_scores import Crops, table, trained
from extractors.preprocess import MEAN, STD, Preprocess
from extractors.systems import Plan
from extractors.systems.system import System
from extractors.training import train as training_module
from extractors.training.augment import Augment, prepare
from extractors.training.batches import Batches
from extractors.training.looks import Looks
from extractors.training.losses import Losses
from extractors.training.schedule import Schedule
from extractors.training.train import Training

FED = Preprocess(height=128, width=64, scale=1 / 255, mean=MEAN, std=STD)
"""How crops are fed here."""
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
    crops = Crops(folder, split, FED)
    runs: list[dict[str, Any]] = []
    for seed in range(seeds):
        for name, training in variants(whole(backbone, epochs=epochs)).items():
            system, seconds = trained(crops, training, seed=seed)
            mAP, first = crops.score(system.embed)
            runs.append(
                {"name": name, "seed": seed, "mAP": mAP, "rank-1": first, "seconds": seconds}
            )
            click.echo(f"{name}, seed {seed}: mAP {mAP:.4f}, rank-1 {first:.4f}, {seconds:.0f} s")
            keep(out, {"benchmark": "ablate", "backbone": backbone, "epochs": epochs, "runs": runs})
    for line in table(runs, dict.fromkeys(variants(whole(backbone, epochs=epochs)), "whole")):
        click.echo(line)


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
    crops = Crops(folder, split, FED)
    training = replace(whole(backbone, epochs=1), plan=Plan(backbone=backbone, dim=512))
    run = training_module._Run.begin(
        training,
        crops.train,
        crops.classes,
        state=None,
        device=_CPU,
        tracks=None,
        looks=Looks(),
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
