"""Extraction from files on disk to a committed shard, beside its floor, in one run.

    python -m benchmarks.extract FOLDER --extractor onnx --weights MODEL.onnx
    python -m benchmarks.extract FOLDER --extractor osnet          (x1.0, random weights)
    python -m benchmarks.extract FOLDER --extractor onnx --weights MODEL.onnx --memory

Each round measures the bare forward pass, decoding alone, the whole way, and the forward pass
again; ratios are taken within a round, because shared machines change speed between them.

    ratio to forward   forward seconds a crop ÷ whole seconds a crop
    ratio to floor     (forward + decode ÷ cores) ÷ whole
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import click
import numpy as np

from benchmarks.machine import keep, spread
from extractors import open_extractor
from extractors.extractor import Extractor
from extractors.harvest import Pace, harvest
from extractors.images import read_image
from extractors.pictures import Picture, Source, find_pictures
from reid_index import Gallery, Metric


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--extractor", "name", default="onnx", show_default=True)
@click.option("--weights", type=click.Path(path_type=Path))
@click.option("--crops", default=1024, show_default=True, help="Crops in a round.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--memory", is_flag=True, help="Peak memory at 3,000 crops and at all, instead.")
@click.option("--out", type=click.Path(path_type=Path), help="Raw results as JSON.")
def main(
    folder: Path,
    name: str,
    weights: Path | None,
    crops: int,
    rounds: int,
    batch_size: int,
    memory: bool,
    out: Path | None,
) -> None:
    """Measure extraction of the crops in FOLDER."""
    with tempfile.TemporaryDirectory() as scratch:
        if name == "osnet" and weights is None:
            weights = _random_osnet(Path(scratch))
        if memory:
            _memory(folder, name, weights, Path(scratch), out)
        else:
            extractor = open_extractor(name, weights=weights)
            _speed(_first(folder, crops), extractor, rounds, batch_size, Path(scratch), out)


def _random_osnet(scratch: Path) -> Path:
    import torch

    from extractors.osnet import OSNet

    torch.manual_seed(0)
    path = scratch / "osnet_x1_0.pth"
    torch.save(OSNet(width=1.0, norm="batch").state_dict(), path)
    return path


def _first(folder: Path, crops: int) -> Source:
    whole = find_pictures([folder])
    pictures: list[Picture] = list(islice(whole.pictures(), crops))
    return Source(whole.root, len(pictures), whole.columns, {}, lambda: iter(pictures))


def _speed(
    source: Source,
    extractor: Extractor,
    rounds: int,
    batch_size: int,
    scratch: Path,
    out: Path | None,
) -> None:
    cores = os.cpu_count() or 1
    inputs = [
        extractor.prepare(read_image(picture.path)) for picture in islice(source.pictures(), 256)
    ]
    batches = [np.stack(inputs[at : at + batch_size]) for at in range(0, len(inputs), batch_size)]
    _whole(source, extractor, batch_size, cores, scratch / "warm")
    _forward(extractor, batches)
    rows = []
    for turn in range(rounds):
        before = _forward(extractor, batches)
        decode = _decode(source, extractor)
        whole = _whole(source, extractor, batch_size, cores, scratch / f"round{turn}")
        forward = (before + _forward(extractor, batches)) / 2
        row = {"forward": forward, "decode": decode, "whole": whole}
        row["ratio_to_forward"] = forward / whole
        row["ratio_to_floor"] = (forward + decode / cores) / whole
        rows.append(row)
        click.echo(
            f"round {turn + 1}: crops/s {1 / whole:.1f}, forward {1 / forward:.1f}, "
            f"decode {1 / decode:.1f} a core; to forward {row['ratio_to_forward']:.3f}, "
            f"to floor {row['ratio_to_floor']:.3f}"
        )
    for key in ("ratio_to_forward", "ratio_to_floor"):
        click.echo(f"{key}: {spread([row[key] for row in rows])}")
    keep(out, {"crops": source.count, "batch_size": batch_size, "rounds": rows})


def _forward(extractor: Extractor, batches: list[np.ndarray]) -> float:
    """Seconds a crop of the forward pass alone, all cores at its disposal.

    In a thread of its own, as `harvest` has it: PyTorch was a tenth faster there than in the main
    thread, and the floor should be the faster of the two.
    """
    with ThreadPoolExecutor(1) as thread:
        thread.submit(extractor.embed, batches[0]).result()
        start = time.perf_counter()
        for batch in batches:
            thread.submit(extractor.embed, batch).result()
        return (time.perf_counter() - start) / sum(map(len, batches))


def _decode(source: Source, extractor: Extractor) -> float:
    """Seconds a crop of reading, decoding and preparing, on one thread."""
    pictures = list(islice(source.pictures(), 256))
    start = time.perf_counter()
    for picture in pictures:
        extractor.prepare(read_image(picture.path))
    return (time.perf_counter() - start) / len(pictures)


def _whole(
    source: Source, extractor: Extractor, batch_size: int, workers: int, scratch: Path
) -> float:
    """Seconds a crop from files on disk to a committed gallery."""
    start = time.perf_counter()
    taken = harvest(
        source,
        extractor,
        scratch / "parts",
        metric=Metric.COSINE,
        pace=Pace(batch_size=batch_size, workers=workers),
    )
    gallery = Gallery.create(
        scratch / "gallery", dim=extractor.dim, fingerprint=extractor.fingerprint
    )
    gallery.add_shards(taken.parts)
    return (time.perf_counter() - start) / taken.rows


def _memory(folder: Path, name: str, weights: Path | None, scratch: Path, out: Path | None) -> None:
    """Peak resident memory of `reid build`, a process of its own for each size."""
    names = [picture.source for picture in find_pictures([folder]).pictures()]
    peaks = {}
    for count in (3000, len(names)):
        # Copies, so that the walk and the names are what they would be in a folder of that size;
        # links that lead out of it would be refused.
        crops = scratch / f"crops{count}"
        crops.mkdir()
        for source in names[:count]:
            shutil.copyfile(folder / source, crops / Path(source).name)
        command = ["build", str(crops), "--out", str(scratch / f"g{count}"), "--extractor", name]
        if weights is not None:
            command += ["--weights", str(weights)]
        peaks[count] = _peak(command)
        click.echo(f"{count:,} crops: peak {peaks[count] / 2**20:.1f} MiB")
    small, large = peaks.values()
    click.echo(f"growth: {100 * (large / small - 1):+.1f} %")
    keep(out, {"peak_bytes": peaks})


def _peak(arguments: list[str]) -> int:
    """Peak resident bytes of the reid command with these arguments."""
    program = (
        "import json, resource, sys; from cli.main import main; "
        "main(json.loads(sys.argv[1]), standalone_mode=False); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1]) * 1024


if __name__ == "__main__":
    main()
