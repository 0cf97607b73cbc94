"""The systems beside each other: the same backbone, crops and budget, and each beside the plain
network that it adds to.

    python -m benchmarks.systems CROPS --split LIST --out FILE [--only NAME …]

Trains each by several seeds and scores it on query and gallery of the split, by cosine of what a
gallery stores, and by parts too where the system has them. Seeds come first, so that a run that is
cut short has all systems by fewer seeds. Runs that FILE has already are not made again.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import keep
from benchmarks.training import Crops, table, whole
from extractors.preprocess import Preprocess
from extractors.systems import Plan
from extractors.systems.system import System
from extractors.training.losses import LossPlan
from extractors.training.train import Training, train

_STRIPES = 4
"""Of a map of 8 rows, or of ConvNeXt's 4; 8 of aligned."""

_BASES = {
    "pcb": "plain, classes only",
    "pcb_mean": "plain, classes only",
    "pcb_shared": "plain, classes only",
    "pcb_rpp": "pcb",
    "icnn": "bot",
    "scpnet": "bot",
    "aligned": "bot",
    "mgn, 96 rows": "bot, 96 rows",
    "convnext with simam": "convnext",
    "convnext_ap": "convnext",
}
"""System → what it adds to, and its gain is counted from."""

_SLOWER = 1e-3
"""Adam's rate for ConvNeXt."""


def trainings(backbone: str, convnext: str, *, epochs: int) -> dict[str, Training]:
    """Name → training, all of the same budget. MGN's thirds and halves want a map of 6 rows."""
    base = whole(backbone, epochs=epochs)
    low = replace(base, preprocess=replace(base.preprocess, height=96))
    both = replace(base, rate=_SLOWER, losses=LossPlan(metric="triplet+circle"))

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
    runs = _runs_of(out, asked)
    of_all = trainings(backbone, convnext, epochs=epochs)
    chosen = {name: one for name, one in of_all.items() if not only or name in only}
    fed = {training.preprocess for training in chosen.values()}
    decoded = {preprocess: Crops(folder, split, preprocess) for preprocess in fed}
    for seed in range(seeds):
        for name, training in chosen.items():
            if any(run["name"] == name and run["seed"] == seed for run in runs):
                continue
            crops = decoded[training.preprocess]
            start = time.perf_counter()
            made = train(
                replace(training, seed=seed),
                crops.train,
                crops.classes,
                state=None,
                device=torch.device("cpu"),
            )
            seconds = time.perf_counter() - start
            mAP, first = crops.score(made.system)
            run = {"name": name, "seed": seed, "mAP": mAP, "rank-1": first, "seconds": seconds}
            runs.append({**run, **_costs(made.system, training.preprocess)})
            click.echo(f"{name}, seed {seed}: mAP {mAP:.4f}, rank-1 {first:.4f}, {seconds:.0f} s")
            keep(out, {"benchmark": "systems", **asked, "runs": runs})
    for line in table(runs, _BASES):
        click.echo(line)
    for line in _cost_table(runs):
        click.echo(line)


def _runs_of(out: Path, asked: dict[str, Any]) -> list[dict[str, Any]]:
    if not out.exists():
        return []
    kept = json.loads(out.read_text())
    if any(kept[name] != value for name, value in asked.items()):
        raise click.UsageError(f"{out} has runs of other networks: name another file")
    return list(kept["runs"])


def _costs(system: System, preprocess: Preprocess) -> dict[str, float]:
    """Of searching: parameters without classifiers, multiplications and additions of one crop
    (counted as two, as torch does), numbers stored of it, and crops a second in batches of 64."""
    crops = torch.randn(64, 3, preprocess.height, preprocess.width)
    names = system.state_dict(keep_vars=True).items()
    used = [
        one
        for name, one in names
        if isinstance(one, torch.nn.Parameter) and not name.startswith("classifier.")
    ]
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            system.embed(crops[:1])
        times = []
        for _ in range(4):
            start = time.perf_counter()
            vectors = system.embed(crops)
            times.append(time.perf_counter() - start)
    return {
        "parameters": sum(one.numel() for one in used),
        "flops": counter.get_total_flops(),
        "numbers": vectors.shape[1],
        "crops a second": len(crops) / min(times[1:]),
    }


def _cost_table(runs: list[dict[str, Any]]) -> list[str]:
    lines = ["| | parameters | FLOPs a crop | crops/s | bytes an item, float32 |"]
    lines.append("|---|---|---|---|---|")
    for name in dict.fromkeys(run["name"] for run in runs):
        own = [run for run in runs if run["name"] == name]
        speed = max(run["crops a second"] for run in own)
        one = own[0]
        lines.append(
            f"| {name} | {one['parameters'] / 1e6:.2f} M | {one['flops'] / 1e6:.0f} M | "
            f"{speed:,.0f} | {4 * one['numbers']:,} |"
        )
    return lines


if __name__ == "__main__":
    main()
