"""What writing costs beside how much is there: adding and deleting in a small and a large gallery.

    python -m benchmarks.writes --keep STORES --out FILE

In turn, in the same round: 1,000 rows are added to each gallery, opened just before; 1,000 items
all over it are deleted by id, and those of one track by an expression. Then the large one is
compacted in a fresh process, beside copying its files: time and peak memory.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.machine import in_fresh_process, keep, memory_of, spread, told
from reid_index import Fingerprint, Gallery

_DIM = 512
_PIECE = 50_000
_ADDED = _DELETED = 1_000
_TRACK = 20
"""Items of a track, one after the other."""


@click.command()
@click.option("--rows", nargs=2, type=int, default=(10_000, 1_000_000), show_default=True)
@click.option("--rounds", default=8, show_default=True)
@click.option("--keep", "kept", type=click.Path(path_type=Path), help="Folder of built galleries.")
@click.option("--out", type=click.Path(path_type=Path), help="Raw results as JSON.")
def main(rows: tuple[int, int], rounds: int, kept: Path | None, out: Path | None) -> None:
    """Measure writes."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = kept or Path(scratch)
        for count in rows:
            _build(folder / f"{count}", count)
        galleries = []
        for count in rows:
            galleries.append(Path(scratch) / f"copy-{count}")
            shutil.copytree(folder / f"{count}", galleries[-1])
        times = list(_rounds(galleries, rows, rounds))
        for what in dict.fromkeys(row["what"] for row in times):
            small, large = (
                [row["seconds"] for row in times if (row["what"], row["rows"]) == (what, count)]
                for count in rows
            )
            ratios = [b / a for a, b in zip(small, large, strict=True)]
            click.echo(f"{what}: ms {spread([1000 * s for s in small])} of {rows[0]:,} rows")
            click.echo(f"{what}: ms {spread([1000 * s for s in large])} of {rows[1]:,} rows")
            click.echo(f"{what}: large ÷ small {spread(ratios)}")
        compacted = in_fresh_process("benchmarks.writes", "compact", folder=str(galleries[1]))
        over = compacted["memory"]["peak"] - compacted["memory"]["before"]
        click.echo(
            f"compaction of {rows[1]:,} rows: {compacted['seconds']:.1f} s, copying its files "
            f"{compacted['copying']:.1f} s; {compacted['memory']['peak'] / 1e6:.0f} MB at the "
            f"peak, {over / 1e6:.0f} over what the process held"
        )
    keep(out, {"benchmark": "writes", "rounds": rounds, "times": times, "compaction": compacted})


def _build(folder: Path, rows: int) -> None:
    """A gallery of so many rows in one shard, unless it is there."""
    if folder.exists():
        return
    parts = folder.with_name(f"{folder.name}.parts")
    shutil.rmtree(parts, ignore_errors=True)
    fingerprint = Fingerprint(name="external:drawn", version="1")
    with told(f"{rows:,} rows"):
        made = []
        for first in range(0, rows, _PIECE):
            count = min(_PIECE, rows - first)
            part = Gallery.create(
                parts / f"{first}", dim=_DIM, fingerprint=fingerprint, dtype="float16"
            )
            part.add(_vectors(first, count), _items(first, count), root="/crops")
            made.append(part.path / "shards/000001")
            part.close()
        # Without ids they can be joined to one shard, as `reid build` does.
        building = folder.with_name(f"{folder.name}.building")
        shutil.rmtree(building, ignore_errors=True)
        gallery = Gallery.create(building, dim=_DIM, fingerprint=fingerprint, dtype="float16")
        gallery.add_shards(made)
        gallery.close()
        shutil.rmtree(parts)
        building.rename(folder)


def _vectors(first: int, count: int) -> NDArray[np.float32]:
    return np.random.default_rng(first).standard_normal((count, _DIM), np.float32)


def _items(first: int, count: int, *, ids: bool = True) -> pa.Table:
    number = np.arange(first, first + count)
    start = np.datetime64("2024-01-01T00:00:00", "us") + number * np.timedelta64(1, "s")
    columns: dict[str, Any] = {
        "item": number,
        "source": [f"day/camera{n % 64:02d}/track{n // _TRACK:07d}_{n:08d}.jpg" for n in number],
        "camera": (number % 64).astype(np.int32),
        "track": [f"t{n // _TRACK}" for n in number],
        "start": pa.array(start).cast(pa.timestamp("us", tz="UTC")),
        "attr.upper": [("red", "blue", "grey", "black")[n % 4] for n in number],
    }
    return pa.table(columns if ids else {k: v for k, v in columns.items() if k != "item"})


def _rounds(galleries: list[Path], rows: tuple[int, int], rounds: int) -> Iterator[dict[str, Any]]:
    """In each round first the one gallery, then the other."""
    for number in range(-1, rounds):  # the first is a warm-up
        vectors = _vectors(10**8 + number, _ADDED)
        items = _items(10**8, _ADDED, ids=False)
        for path, count in list(zip(galleries, rows, strict=True))[:: 1 if number % 2 else -1]:
            some = np.arange(number + 1, count, rounds + 1)
            ids = some[np.linspace(0, len(some) - 1, _DELETED).astype(np.int64)]
            for what in ("add", "delete by id", "delete by expression"):
                gallery = Gallery.open(path)
                start = time.perf_counter()
                if what == "add":
                    gallery.add(vectors, items, root="/crops")
                elif what == "delete by id":
                    assert gallery.delete(items=ids.tolist()) == len(ids)
                else:
                    gallery.delete(where=f"track = 't{10**8 // _TRACK + number + 1}'")
                seconds = time.perf_counter() - start
                gallery.close()
                if number >= 0:
                    yield {"what": what, "rows": count, "round": number, "seconds": seconds}


def compact(folder: str) -> dict[str, Any]:
    """Compact a gallery, in this process; and copy its shards, for comparison."""
    gallery = Gallery.open(folder)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=Path(folder).parent) as scratch:
        shutil.copytree(Path(folder) / "shards", Path(scratch) / "shards")
        copying = time.perf_counter() - start
    start = time.perf_counter()
    memory, made = memory_of(lambda: gallery.compact(remake=False))
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "copying": copying,
        "memory": memory,
        "removed": made.removed,
        "rows": made.rows,
        "shards": [made.shards_before, made.shards_after],
    }


if __name__ == "__main__":
    main()
