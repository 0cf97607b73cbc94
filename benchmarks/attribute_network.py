"""The network of source 002 step by step beside the plain network that it adds to, as the source's
tables 4 and 7 have it.

    python -m benchmarks.attribute_network CROPS --split LIST --labels FILE --out FILE

Trains BoT, for as many epochs and for as long as the others; with regions (FLS); with attributes
told from the whole, from regions (ALM), and re-weighted (AWM); by several seeds, and scores each on
query and gallery of the split: mAP and rank-1 by cosine of the whole, and by all parts where there
are some (eq. 13); and attributes against their labels, on persons held out. Runs that FILE has
already are not made again.
"""

import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa

from benchmarks.machine import keep
from benchmarks.split_scores import Crops, cell, runs_of, table, trained
from benchmarks.training import whole
from extractors.attribute_labels import join_labels, read_labels
from extractors.systems import Plan
from extractors.systems.fls import FLS
from extractors.told import told_columns
from extractors.training.looks import Looks, Words, read_words
from extractors.training.losses import LossPlan
from extractors.training.train import Training
from reid_index.evaluation.attributes import judge_attributes

BASES = {
    "FLS": "BoT",
    "FLS, by parts": "BoT",
    "FLS, attributes of the whole": "FLS",
    "FLS, attributes of the whole, by parts": "FLS, by parts",
    "FLS + ALM": "FLS",
    "FLS + ALM, by parts": "FLS, by parts",
    "FLS + ALM + AWM": "FLS + ALM",
    "FLS + ALM + AWM, by parts": "FLS + ALM, by parts",
}
"""Step → what it adds to, and its gain is counted from."""

_LONGER = 3

_TOLD_FROM = {
    "FLS, attributes of the whole": "global",
    "FLS + ALM": "regions",
    "FLS + ALM + AWM": "weighted",
}


def trainings(
    backbone: str, *, dim: int, epochs: int, words: Words, weight: float
) -> dict[str, Training]:
    """Name → training, all of so many epochs, and BoT also of so many that it takes as long as
    the others."""
    base = replace(whole(backbone, epochs=epochs), losses=LossPlan(attributes=weight))
    regions = Plan(system="fls", backbone=backbone, dim=dim)
    longer = whole(backbone, epochs=_LONGER * epochs)
    return {
        "BoT": base,
        f"BoT, {_LONGER} × the epochs": replace(longer, losses=base.losses),
        "FLS": replace(base, plan=regions),
        **{
            name: replace(base, plan=replace(regions, words=words, told_from=told_from))
            for name, told_from in _TOLD_FROM.items()
        },
    }


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--split", type=click.Path(path_type=Path), required=True)
@click.option("--labels", type=click.Path(path_type=Path), required=True, help="Of persons.")
@click.option("--backbone", default="resnet18_x0_125", show_default=True)
@click.option("--dim", default=64, show_default=True, help="Of each vector.")
@click.option("--epochs", default=10, show_default=True)
@click.option("--attribute-loss", default=0.6, show_default=True, help="Its weight.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--only", multiple=True, help="These steps alone.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Raw results as JSON.")
def main(
    folder: Path,
    split: Path,
    labels: Path,
    backbone: str,
    dim: int,
    epochs: int,
    attribute_loss: float,
    seeds: int,
    only: tuple[str, ...],
    out: Path,
) -> None:
    """Train and score each step on the same crops."""
    asked = {
        "backbone": backbone,
        "dim": dim,
        "epochs": epochs,
        "attribute_loss": attribute_loss,
    }
    runs = runs_of(out, asked)
    crops = Crops(folder, split, whole(backbone, epochs=epochs).preprocess)
    words, shares, _ = read_words(labels, crops.labelled)
    steps = trainings(backbone, dim=dim, epochs=epochs, words=words, weight=attribute_loss)
    for seed in range(seeds):
        for name, training in steps.items():
            if only and name not in only:
                continue
            if any(run["name"] == name and run["seed"] == seed for run in runs):
                continue
            looks = Looks(words=shares) if training.plan.words else None
            system, seconds = trained(crops, training, seed=seed, looks=looks)
            spent = {"seed": seed, "seconds": seconds}
            scored = {name: crops.score(system.embed)}
            if isinstance(system, FLS):
                scored[f"{name}, by parts"] = crops.score_parts(system, system.matcher)
            for called, (mAP, first) in scored.items():
                runs.append({"name": called, "mAP": mAP, "rank-1": first, **spent})
                click.echo(f"{called}, seed {seed}: mAP {mAP:.4f}, rank-1 {first:.4f}")
            if training.plan.words:
                runs[-1]["attributes"] = _judged(crops, system, words, labels)
                click.echo(json.dumps(runs[-1]["attributes"]))
            keep(out, {"benchmark": "attribute_network", **asked, "runs": runs})
    for line in (*table(runs, BASES), "", *_attribute_table(runs)):
        click.echo(line)


def _judged(crops: Crops, system: FLS, words: Words, labels: Path) -> dict[str, list[float]]:
    """Attribute → accuracy and balanced accuracy on query and gallery together."""
    sides, persons = crops.told(system)
    columns = told_columns(np.concatenate(sides), words, origin="model fls")
    table = {"item": list(range(len(persons))), "person": persons, **columns}
    items = pa.table(table)
    found = judge_attributes(items, join_labels(read_labels(labels, by="person"), items).table)
    return {
        name: [one.accuracy or 0.0, one.balanced_accuracy or 0.0] for name, one in found.items()
    }


def _attribute_table(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Means over seeds, and of their mean over attributes the range too."""
    by_name: dict[str, list[Mapping[str, list[float]]]] = {}
    for run in runs:
        if "attributes" in run:
            by_name.setdefault(run["name"].removesuffix(", by parts"), []).append(run["attributes"])
    if not by_name:
        return
    for place, kind in enumerate(("accuracy", "balanced accuracy")):
        yield f"| {kind} | {' | '.join(by_name)} |"
        yield f"|---|{'---|' * len(by_name)}"
        for name in next(iter(by_name.values()))[0]:
            means = (statistics.mean(run[name][place] for run in some) for some in by_name.values())
            yield f"| {name} | {' | '.join(f'{100 * mean:.1f}' for mean in means)} |"
        each = (
            [statistics.mean(one[place] for one in run.values()) for run in some]
            for some in by_name.values()
        )
        yield f"| mean | {' | '.join(cell(one, '') for one in each)} |"
        yield ""


if __name__ == "__main__":
    main()
