"""How good and how fast extractors are, one beside the other, on a split.

    python -m benchmarks.models CROPS --split LIST --out FILE trained onnx:m.onnx openvino:m.xml

In each round every model embeds the same crops, decoded before: crops a second from pictures in
memory to vectors. All of query and gallery are embedded once, for mAP and rank-1 by cosine.
"""

import time
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import keep, spread
from cli.sides import split_pictures
from extractors import open_extractor
from extractors.extractor import Crop, Extractor
from extractors.images import read_image
from extractors.training.crops import read_labelled
from reid_index import evaluate_distances

_BATCH = 32


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("models", nargs=-1, required=True, metavar="NAME[:FILE]...")
@click.option("--split", type=click.Path(path_type=Path), required=True)
@click.option("--crops", default=512, show_default=True, help="That are timed.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Raw results as JSON.")
def main(
    folder: Path, models: tuple[str, ...], split: Path, crops: int, rounds: int, out: Path | None
) -> None:
    """Compare extractors."""
    sides = [read_labelled([split_pictures(folder, split, part)]) for part in ("query", "gallery")]
    pictures = [[read_image(one.path) for one, _ in side.people] for side in sides]
    columns = [[person.columns for _, person in side.people] for side in sides]
    persons = [[one["person"] for one in some] for some in columns]
    cameras = [[one["camera"] for one in some] for some in columns]
    extractors = {model: _opened(model) for model in models}
    results: dict[str, dict[str, object]] = {}
    for model, extractor in extractors.items():
        query, gallery = (_vectors(extractor, some) for some in pictures)
        found = evaluate_distances(1 - query @ gallery.T, *persons, *cameras)
        results[model] = {"mAP": found.mAP, "rank-1": float(found.cmc[0]), "dim": extractor.dim}
    rates: dict[str, list[float]] = {model: [] for model in models}
    timed = [crop for some in pictures for crop in some][:crops]
    for number in range(rounds + 1):  # the first is a warm-up
        for model, extractor in extractors.items():
            start = time.perf_counter()
            _vectors(extractor, timed)
            rate = len(timed) / (time.perf_counter() - start)
            if number:
                rates[model].append(rate)
    click.echo("| | mAP | rank-1 | dimensions | crops/s |\n|---|---|---|---|---|")
    for model, said in results.items():
        said["crops a second"] = rates[model]
        name = model.rpartition("/")[2] if ":" in model else model
        click.echo(
            f"| {name} | {said['mAP']:.3f} | {said['rank-1']:.3f} | {said['dim']} | "
            f"{spread(rates[model])} |"
        )
    keep(out, {"benchmark": "models", "crops": len(timed), "models": results})


def _opened(model: str) -> Extractor:
    name, _, file = model.partition(":")
    return open_extractor(name, weights=Path(file) if file else None)


def _vectors(extractor: Extractor, crops: list[Crop]) -> NDArray[np.float32]:
    found = [
        extractor.extract(crops[start : start + _BATCH]).global_
        for start in range(0, len(crops), _BATCH)
    ]
    vectors = np.concatenate(found)
    normed: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normed


if __name__ == "__main__":
    main()
