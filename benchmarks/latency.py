"""One query of a whole gallery beside reading its matrix once, and queries from several threads.

    python -m benchmarks.latency --keep stores --out raw

The matrix is read by a compiled sum on all cores, in turn with the queries in one loop, so their
ratio is of the same moments of a machine whose speed wanders.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import click
import numba
import numpy as np
from numpy.typing import NDArray

from benchmarks.filter import prepare
from benchmarks.filter_world import QUERIES, World, open_world
from benchmarks.machine import in_fresh_process, keep_raw, spread, told
from reid_index import Fingerprint, Gallery
from reid_index.threads import over_ranges

THREADS = (1, 2, 4)
K = 10

_PIECE = 2**22
"""Numbers of 8 bytes that are summed at a time: 32 MiB."""


@click.command()
@click.option(
    "--keep", type=click.Path(path_type=Path), required=True, help="Galleries, made once."
)
@click.option("--rows", default=200_000, show_default=True)
@click.option("--dim", default=512, show_default=True)
@click.option("--rounds", default=200, show_default=True)
@click.option("--seconds", default=5.0, show_default=True, help="For each number of threads.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for raw results.")
def main(keep: Path, rows: int, dim: int, rounds: int, seconds: float, out: Path | None) -> None:
    """Measure single queries."""
    folder = prepare(keep.resolve(), rows=rows, dim=dim)
    for dtype in ("float32", "float16"):
        with told(f"{dtype}, {rows:,} rows"):
            found = in_fresh_process(
                "benchmarks.latency",
                "measure",
                folder=str(folder),
                dtype=dtype,
                rounds=rounds,
                seconds=seconds,
            )
        tables = {name: found.pop(name) for name in ("times", "answers")}
        keep_raw(out, f"latency-{rows}-{dtype}", found, **tables)
        for line in summary(tables["times"], tables["answers"]):
            click.echo(f"{dtype}: {line}")


def measure(*, folder: str, dtype: str, rounds: int, seconds: float) -> dict[str, Any]:
    """One gallery's; runs in a process of its own."""
    world = open_world(Path(folder) / "world")
    gallery = _gallery(Path(folder) / f"latency-{dtype}", world, dtype)
    times = _beside_reading(gallery, world, rounds)
    answers = [
        {"threads": threads, "seconds": taken, "until": until}
        for threads in THREADS
        for taken, until in _from_threads(gallery, world, threads, seconds)
    ]
    return {
        "benchmark": "latency",
        "size": [len(gallery), gallery.dim],
        "dtype": dtype,
        "k": K,
        "times": times,
        "answers": answers,
    }


def _gallery(folder: Path, world: World, dtype: str) -> Gallery:
    if not (folder / "CURRENT").exists():
        fingerprint = Fingerprint(name="external:b", version="1")
        dim = world.vectors.shape[1]
        Gallery.create(folder, dim=dim, fingerprint=fingerprint, dtype=dtype).add(world.vectors)
    return Gallery.open(folder)


def _beside_reading(gallery: Gallery, world: World, rounds: int) -> list[dict[str, Any]]:
    matrices = gallery.blocks
    ways: dict[str, Callable[[NDArray[np.float32]], object]] = {
        "read": lambda query: [read(matrix) for matrix in matrices],
        "nearest": lambda query: gallery.nearest(query, k=K),
        "search": lambda query: gallery.search(query, k=K),
    }
    rows = []
    for turn in range(-3, rounds):
        for what, way in ways.items():
            start = time.perf_counter()
            way(world.queries[turn % QUERIES])
            taken = time.perf_counter() - start
            if turn >= 0:
                rows.append({"round": turn, "what": what, "seconds": taken})
    return rows


def read(matrix: NDArray[np.generic]) -> int:
    """Read every number of a matrix (N, D) once, on all cores: the sum of its bytes, eight taken
    as one whole number, modulo 2⁶⁴. N × D must fill whole eights."""
    numbers = matrix.reshape(-1).view(np.uint64)
    parts = over_ranges(partial(_sum, numbers), len(numbers), piece=_PIECE)
    return sum(map(int, parts)) % 2**64


@numba.njit(nogil=True, cache=True)
def _sum(numbers, start, stop):  # type: ignore[no-untyped-def]
    total = np.uint64(0)
    for place in range(start, stop):
        total += numbers[place]
    return total


def _from_threads(
    gallery: Gallery, world: World, threads: int, seconds: float
) -> list[tuple[float, float]]:
    """Whole searches from so many threads at once: what each took, and when it was done, in
    seconds since all began."""
    begin = time.perf_counter()

    def ask(number: int) -> list[tuple[float, float]]:
        done: list[tuple[float, float]] = []
        turn = number
        while not done or done[-1][1] < seconds:
            start = time.perf_counter()
            gallery.search(world.queries[turn % QUERIES], k=K)
            now = time.perf_counter()
            done.append((now - start, now - begin))
            turn += threads
        return done

    with ThreadPoolExecutor(threads) as pool:
        return [one for many in pool.map(ask, range(threads)) for one in many]


def summary(times: list[dict[str, Any]], answers: list[dict[str, Any]]) -> list[str]:
    """Ratios to reading, percentiles, throughput."""
    taken = {
        what: [row["seconds"] for row in times if row["what"] == what]
        for what in dict.fromkeys(row["what"] for row in times)
    }
    lines = [f"{what}, ms: {spread([1000 * one for one in some])}" for what, some in taken.items()]
    for what in ("nearest", "search"):
        ratio = float(np.median(taken[what])) / float(np.median(taken["read"]))
        p50, p95, p99 = 1000 * np.percentile(taken[what], [50, 95, 99])
        lines.append(
            f"{what} ÷ reading the matrix once: {ratio:.2f}; p50 {p50:.2f}, p95 {p95:.2f}, "
            f"p99 {p99:.2f} ms"
        )
    for threads in dict.fromkeys(row["threads"] for row in answers):
        own = [row for row in answers if row["threads"] == threads]
        rate = len(own) / max(row["until"] for row in own)
        p50, p95 = 1000 * np.percentile([row["seconds"] for row in own], [50, 95])
        lines.append(
            f"{threads} threads: {rate:.1f} queries/s; each p50 {p50:.1f}, p95 {p95:.1f} ms"
        )
    return lines


if __name__ == "__main__":
    main()
