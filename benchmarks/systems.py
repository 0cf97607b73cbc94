"""The systems beside each other: the same backbone, crops and budget, and each beside the plain
network that it adds to.

    python -m benchmarks.systems CROPS --split LIST --out FILE [--only NAME …]

Trains each by several seeds and scores it on query and gallery of the split, by cosine of what a
gallery stores, and by parts too where the system has them. Seeds come first, so that a run that is
cut short has all systems by fewer seeds. Runs that FILE has already are not made again.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import keep
from benchmarks.split_scores import Crops, runs_of, table, trained
from benchmarks.training import whole
from extractors.systems import Plan, make_system
from extractors.systems.system import System
from extractors.training.losses import LossPlan
from extractors.training.train import Training

_STRIPES = 4
"""Of a map of 8 rows, or of ConvNeXt's 4; 8 of aligned."""

BASES = {
    "pcb": "plain, classes only",
    "pcb_mean": "plain, classes only",
    "pcb_shared": "plain, classes only",
    "pcb_rpp": "pcb",
    "icnn": "bot",
    "scpnet": "bot",
    "aligned": "bot",
    "aligned, by parts": "bot",
    "mgn, 96 rows": "bot, 96 rows",
    "haa": "bot",
    "convnext with simam": "convnext",
    "convnext_ap": "convnext",
}
"""System → what it adds to, and its gain is counted from."""

_CONVNEXT_RATE = 3e-3
"""Adam's. With 1e-3 the plain one is further behind: 8.7 mAP instead of 11.6 after 8 epochs."""


def trainings(backbone: str, convnext: str, *, epochs: int) -> dict[str, Training]:
    """Name → training, all of the same budget. MGN's thirds and halves want a map of 6 rows."""
    base = whole(backbone, epochs=epochs)
    low = replace(base, preprocess=replace(base.preprocess, height=96))
    both = replace(base, rate=_CONVNEXT_RATE, losses=LossPlan(metric="triplet+circle"))

    def of(system: str, stripes: int = _STRIPES) -> Plan:
        return Plan(system=system, backbone=backbone, stripes=stripes)

    bot = of("bot", 0)
    weighing = f"{convnext}_simam"
    refined = Plan(system="convnext_ap", backbone=weighing, stripes=_STRIPES)
    return {
        "plain, classes only": replace(base, plan=bot, losses=LossPlan(metric="none")),
        "bot": replace(base, plan=bot),
        "pcb": replace(base, plan=of("pcb")),
        "pcb_rpp": replace(base, plan=of("pcb_rpp")),
        "icnn": replace(base, plan=of("icnn")),
        "scpnet": replace(base, plan=of("scpnet")),
        "aligned": replace(base, plan=of("aligned", 8)),
        "bot, 96 rows": replace(low, plan=bot),
        "mgn, 96 rows": replace(low, plan=of("mgn", 0)),
        "haa": replace(base, plan=of("haa", 0)),
        "convnext": replace(both, plan=Plan(backbone=convnext)),
        "convnext with simam": replace(both, plan=Plan(backbone=weighing)),
        "convnext_ap": replace(both, plan=refined),
        "pcb_mean": replace(base, plan=of("pcb_mean")),
        "pcb_shared": replace(base, plan=of("pcb_shared")),
    }


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--split", type=click.Path(path_type=Path), required=True)
@click.option("--backbone", default="resnet18_x0_125", show_default=True)
@click.option("--convnext", default="convnext_atto_x0_25", show_default=True)
@click.option("--epochs", default=10, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--only", multiple=True, help="These systems alone.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Raw results as JSON.")
def main(
    folder: Path,
    split: Path,
    backbone: str,
    convnext: str,
    epochs: int,
    seeds: int,
    only: tuple[str, ...],
    out: Path,
) -> None:
    """Train and score systems on the same crops."""
    asked = {"backbone": backbone, "convnext": convnext, "epochs": epochs}
    runs = runs_of(out, asked)
    of_all = trainings(backbone, convnext, epochs=epochs)
    chosen = {name: one for name, one in of_all.items() if not only or name in only}
    fed = {training.preprocess for training in chosen.values()}
    decoded = {preprocess: Crops(folder, split, preprocess) for preprocess in fed}
    for seed in range(seeds):
        for name, training in chosen.items():
            if any(run["name"] == name and run["seed"] == seed for run in runs):
                continue
            crops = decoded[training.preprocess]
            system, seconds = trained(crops, training, seed=seed)
            spent = {"seed": seed, "seconds": seconds}
            scored = {name: crops.score(system.embed)}
            if system.matcher is not None:
                by_parts = crops.score_parts(system, system.matcher)
                scored[f"{name}, by parts"] = by_parts
            for called, (mAP, first) in scored.items():
                runs.append({"name": called, "mAP": mAP, "rank-1": first, **spent})
                click.echo(
                    f"{called}, seed {seed}: mAP {mAP:.4f}, rank-1 {first:.4f}, {seconds:.0f} s"
                )
            keep(out, {"benchmark": "systems", **asked, "runs": runs})
    for line in table(runs, BASES):
        click.echo(line)
    costs = list(_costs(chosen))
    for line in _cost_table(costs):
        click.echo(line)
    keep(out, {"benchmark": "systems", **asked, "runs": runs, "costs": costs})


_ROUNDS = 7
_BATCH = 64


def _costs(chosen: dict[str, Training]) -> Iterator[dict[str, Any]]:
    """Of searching, with weights as they are made: parameters without classifiers, multiplications
    and additions of one crop (counted as two, as torch does), numbers stored of it, and crops a
    second in batches of 64, all systems in turn."""
    systems = {name: make_system(one.plan, classes=1).eval() for name, one in chosen.items()}
    rates: dict[str, list[float]] = {name: [] for name in systems}
    with torch.inference_mode():
        for number in range(_ROUNDS + 1):  # the first is a warm-up
            for name, system in systems.items():
                crops = _noise(chosen[name])
                start = time.perf_counter()
                _embed(system, crops)
                if number:
                    rates[name].append(_BATCH / (time.perf_counter() - start))
        for name, system in systems.items():
            crops = _noise(chosen[name])[:1]
            with FlopCounterMode(display=False) as counter:
                vectors = _embed(system, crops)
            yield {
                "name": name,
                "parameters": sum(
                    one.numel()
                    for called, one in system.named_parameters()
                    if not called.startswith("classifier.")
                ),
                "flops": counter.get_total_flops(),
                "numbers": sum(one.numel() for one in vectors),
                "crops a second": rates[name],
            }


def _noise(training: Training) -> torch.Tensor:
    return torch.randn(_BATCH, 3, training.preprocess.height, training.preprocess.width)


def _embed(system: System, crops: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (system.embed(crops),) if system.matcher is None else system.embed_parts(crops)


def _cost_table(costs: list[dict[str, Any]]) -> Iterator[str]:
    yield "| | parameters | FLOPs a crop | crops/s | bytes an item, float32 |"
    yield "|---|---|---|---|---|"
    for one in costs:
        low, middle, high = (
            choose(one["crops a second"]) for choose in (min, statistics.median, max)
        )
        yield (
            f"| {one['name']} | {one['parameters'] / 1e6:.2f} M | {one['flops'] / 1e6:.0f} M | "
            f"{middle:,.0f} ({low:,.0f} … {high:,.0f}) | {4 * one['numbers']:,} |"
        )


if __name__ == "__main__":
    main()
