"""What predicting attributes costs beside the vectors: crops a second of each alone, and of both.

    python -m benchmarks.attribute_speed FOLDER --extractor openvino --weights MODEL.xml \\
        --attributes person-attributes-recognition-crossroad-0230.xml --out FILE.json

Each round takes the same crops, already decoded, in batches: `prepare` on this thread and the
network on all cores, first the extractor, then the predictor, then both as `reid build
--attributes` has them. Ratios are taken within a round, because shared machines change speed.
"""

import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import keep, spread
from extractors import open_extractor
from extractors.attributes import WithAttributes
from extractors.images import read_image
from extractors.pictures import find_pictures
from extractors.predictors import predictor_of

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("folder", type=PATH)
@click.option("--extractor", "name", default="trained", show_default=True)
@click.option("--weights", type=PATH)
@click.option("--attributes", required=True, type=PATH)
@click.option("--crops", default=512, show_default=True, help="Crops in a round.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--out", type=PATH, help="Raw results as JSON.")
def main(
    folder: Path,
    name: str,
    weights: Path | None,
    attributes: Path,
    crops: int,
    rounds: int,
    batch_size: int,
    out: Path | None,
) -> None:
    """Measure prediction beside embedding on the crops in FOLDER."""
    pictures = [read_image(one.path) for one in islice(find_pictures([folder]).pictures(), crops)]
    batches = [pictures[at : at + batch_size] for at in range(0, len(pictures), batch_size)]
    extractor = open_extractor(name, weights=weights)
    predictor = predictor_of(attributes)
    ways: dict[str, Callable[[Sequence[Any]], object]] = {
        "vectors": extractor.extract,
        "attributes": predictor.extract,
        "both": WithAttributes(extractor, predictor).extract,
    }
    for way in ways.values():
        way(batches[0])
    rows = []
    for turn in range(rounds):
        row = {}
        for said, way in ways.items():
            start = time.perf_counter()
            for batch in batches:
                way(batch)
            row[said] = len(pictures) / (time.perf_counter() - start)
        rows.append(row)
        click.echo(f"round {turn + 1}: " + ", ".join(f"{k} {v:.0f}/s" for k, v in row.items()))
    for said in ways:
        click.echo(f"{said}, crops/s: {spread([row[said] for row in rows])}")
    click.echo(f"both ÷ vectors: {spread([row['both'] / row['vectors'] for row in rows])}")
    keep(out, {"extractor": name, "crops": len(pictures), "batch": batch_size, "rounds": rows})


if __name__ == "__main__":
    main()
