"""What attributes that were said later cost: writing them, and opening a gallery with them.

    python -m benchmarks.overlays                    1,000,000 items
    python -m benchmarks.overlays --rows 200000

Twelve attributes of all items, as a model says them: ten words and two sets of colours, each with a
confidence, one word in twenty unknown; then one that a person corrects. In every round a gallery
without any is opened, too; what is seen is compared with what was said. Beside the time that passes
stands that of the cores, which others who share them change less.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import pyarrow as pa

from benchmarks.machine import keep, spread
from reid_index import Fingerprint, Gallery

T = TypeVar("T")

_COLORS = np.array(["black", "white", "red", "yellow", "gray", "blue", "green", "brown"])
_WORDS, _SETS = 10, 2


@click.command()
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Raw results as JSON.")
def main(rows: int, rounds: int, out: Path | None) -> None:
    """Measure saying attributes and seeing them."""
    folder = Path(tempfile.mkdtemp(dir="."))
    try:
        result = _measure(folder, rows, rounds)
    finally:
        shutil.rmtree(folder)
    for name, times in result["seconds"].items():
        busy = spread(result["cores"][name])
        click.echo(f"{rows:>9,} items, {name:28s} s {spread(times):22s} of a core {busy}")
    click.echo(f"the overlay has {result['bytes'] / rows:.1f} bytes an item")
    keep(out, result)


def _measure(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(rows, 8)).astype(np.float32)
    fingerprint = Fingerprint(name="external:drawn", version="1")
    items = pa.table({"camera": pa.array(rng.integers(0, 6, rows), pa.int32())})
    for name in ("bare", "told"):
        with Gallery.create(folder / name, dim=8, fingerprint=fingerprint) as made:
            made.add(vectors, items)
    said = _said(rows, rng)
    seconds: dict[str, list[float]] = {}
    cores: dict[str, list[float]] = {}

    def timed(name: str, function: Callable[[], T]) -> T:
        begin, busy = time.perf_counter(), time.process_time()
        made = function()
        cores.setdefault(name, []).append(time.process_time() - busy)
        seconds.setdefault(name, []).append(time.perf_counter() - begin)
        return made

    def opened(name: str) -> pa.Table:
        with Gallery.open(folder / name) as gallery:
            return gallery.items

    with Gallery.open(folder / "told") as gallery:
        origin = "model drawn 1 0123456789ab"
        timed("say 12 attributes of all", lambda: gallery.set_attributes(said, origin=origin))
        size = gallery.manifest.overlays[0].entry.size
    for round_ in range(rounds):
        timed("open, items, nothing said", lambda: opened("bare"))
        seen = timed("open, items, one overlay", lambda: opened("told"))
        for name in said.column_names:
            assert seen[name].slice(0, 1000).to_pylist() == said[name].slice(0, 1000).to_pylist(), (
                name
            )
        if round_ == 0:
            with Gallery.open(folder / "told") as gallery:
                timed(
                    "a person corrects one cell",
                    lambda: gallery.set_attributes(
                        [{"item": rows - 1, "attr.a0": "yes"}], origin="person"
                    ),
                )
            said_later = opened("told")
            assert said_later["attr.a0.origin"][-1].as_py() == "person"
            with Gallery.open(folder / "told") as gallery:
                timed("compact two overlays to one", gallery.compact)
                assert len(gallery.manifest.overlays) == 1
    return {"rows": rows, "rounds": rounds, "bytes": size, "seconds": seconds, "cores": cores}


def _said(rows: int, rng: np.random.Generator) -> pa.Table:
    columns: dict[str, Any] = {"item": pa.array(np.arange(rows))}
    for number in range(_WORDS):
        codes = pa.array(rng.integers(0, 2, rows), pa.int32(), mask=rng.random(rows) < 0.05)
        words = pa.DictionaryArray.from_arrays(codes, pa.array(["no", "yes"]))
        columns[f"attr.a{number}"] = words
        sure = (0.5 + rng.random(rows) / 2).astype(np.float32)
        columns[f"attr.a{number}.confidence"] = pa.array(sure, mask=words.is_null().to_numpy(False))
    for number in range(_SETS):
        # Ascending, as they are kept.
        picked = np.sort(rng.permuted(np.tile(np.arange(8), (rows, 1)), axis=1)[:, :2], axis=1)
        names = np.sort(_COLORS)[picked].reshape(-1)
        offsets = pa.array(np.arange(0, 2 * rows + 1, 2), pa.int32())
        columns[f"attr.c{number}"] = pa.ListArray.from_arrays(offsets, pa.array(names))
        sure = rng.random(rows).astype(np.float32)
        columns[f"attr.c{number}.confidence"] = pa.array(sure)
    return pa.table(columns)


if __name__ == "__main__":
    main()
