"""What a search of rows on a GPU costs, held against what the device can move and multiply.

    python -m benchmarks.device                              10,000,000 × 512 float16 on a GPU
    python -m benchmarks.device --device cpu --rows 20000    the same code, small, on the CPU

One query under a filter: the bytes of the allowed rows a second, as a share of what a copy within
the device moves, bytes read and written; with the filter handed over each time and with it on the
device already. Many queries without a filter: beside the bare matrix product of the same dtype.
Both ways at several shares allowed show where gathering and masking cost the same. What the
candidates hold of the true matches is told by double precision, on some queries.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import keep, spread
from reid_index.metric import Metric
from reid_index.search.device_rows import DeviceRows, Way, crossover
from reid_index.search.exact import Block

SHARES = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
WAYS: tuple[Way, ...] = ("gather", "dense")
TOP = 10
LEAST_ROWS = 1000
"""Below, a tenth of the rows would hardly hold the first 10."""


@click.command()
@click.option("--device", default="cuda", show_default=True)
@click.option(
    "--rows",
    type=click.IntRange(min=LEAST_ROWS),
    help="By default 10,000,000 on a GPU, 20,000 on the CPU.",
)
@click.option("--dim", default=512, show_default=True)
@click.option("--dtype", type=click.Choice(["float16", "float32"]), default="float16")
@click.option("--batch", default=1024, show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--check", default=8, show_default=True, help="Queries compared with float64.")
@click.option("--out", type=click.Path(path_type=Path), help="Raw results as JSON.")
def main(
    device: str,
    rows: int | None,
    dim: int,
    dtype: Any,
    batch: int,
    rounds: int,
    check: int,
    out: Path | None,
) -> None:
    """Measure searches on a device."""
    rows = rows or (20_000 if device == "cpu" else 10_000_000)
    vectors = make_vectors(rows, dim=dim, dtype=dtype)
    block = Block(vectors, 1.001)  # length 1, rounded
    rng = np.random.default_rng(1)
    queries = vectors[rng.integers(0, rows, batch)].astype(np.float32)
    queries += 0.3 * dim**-0.5 * rng.standard_normal(queries.shape, dtype=np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    start = time.perf_counter()
    loaded = DeviceRows.load([block], devices=[device], metric=Metric.COSINE, dtype=dtype)
    seconds = time.perf_counter() - start
    results: dict[str, Any] = {
        "size": [rows, dim, dtype, batch],
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if device != "cpu" else "CPU",
        "torch": torch.__version__,
        "fused": loaded.fused,
        "halves": loaded.halves,
        "load_seconds": seconds,
    }
    click.echo(f"{results['device_name']}, {rows:,} × {dim} {dtype}: loaded in {seconds:.1f} s")
    results["one_query"] = _one_query(loaded, queries[:1], rounds)
    results["crossover"] = _crossover(loaded, queries, rounds)
    results["batch"] = _batch(loaded, queries, rounds)
    results["recall"] = _recall(loaded, vectors, queries[:check])
    keep(out, results)


def make_vectors(rows: int, *, dim: int, dtype: str) -> NDArray[Any]:
    """Vectors of length 1 (rows, dim), 20 around each of rows / 20 centres, as crops of people."""
    rng = np.random.default_rng(0)
    vectors = np.empty((rows, dim), dtype)
    for start in range(0, rows, 200_000):
        some = vectors[start : start + 200_000]
        centres = rng.standard_normal((len(some) // 20 + 1, dim), dtype=np.float32)
        made = centres[np.arange(len(some)) // 20]
        made += 0.7 * rng.standard_normal(made.shape, dtype=np.float32)
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        some[:] = made
    return vectors


def _seconds(device: str, function: Callable[[], object], rounds: int) -> list[float]:
    """Wall seconds of each of some rounds, the device's work included, two warm ones before."""
    taken = []
    for _ in range(rounds + 2):
        _wait(device)
        start = time.perf_counter()
        function()
        _wait(device)
        taken.append(time.perf_counter() - start)
    return taken[2:]


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def _one_query(loaded: DeviceRows, query: NDArray[np.float32], rounds: int) -> dict[str, Any]:
    """One query, a tenth of the rows allowed, held against a copy of 1 GiB, or of all rows."""
    device = loaded.devices[0]
    part = loaded.parts[0].rows
    half = min(len(part) // 2, 2**30 // (part.nbytes // len(part)))
    other = torch.empty_like(part[:half])
    copies = _seconds(device, lambda: other.copy_(part[:half]), rounds)
    bandwidth = 2 * other.nbytes / float(np.median(copies))
    allowed = _allowed(len(loaded), 0.1)
    ready = loaded.allow(allowed)
    size = len(allowed) * loaded.bytes // len(loaded)
    found: dict[str, Any] = {"bandwidth": bandwidth, "copies": copies, "bytes": size}
    click.echo(f"copy: {bandwidth / 1e9:,.0f} GB/s, read and written")
    filters: dict[str, Any] = {"filter handed over": allowed, "filter there already": ready}
    for name, rows in filters.items():
        taken = _seconds(device, partial(loaded.candidates, query, 26, rows=rows), rounds)
        shares = [size / seconds / bandwidth for seconds in taken]
        found[name] = {"seconds": taken, "share_of_bandwidth": shares}
        milliseconds = spread([1000 * seconds for seconds in taken])
        click.echo(f"1 query, 10 %, {name}: ms {milliseconds}, of the bandwidth {spread(shares)}")
    return found


def _crossover(
    loaded: DeviceRows, queries: NDArray[np.float32], rounds: int
) -> list[dict[str, Any]]:
    """Both ways at several shares allowed, for one query and for all."""
    measured = []
    itemsize = loaded.parts[0].rows.element_size()
    for some in (queries[:1], queries):
        told = crossover(
            queries=len(some),
            dim=loaded.dim,
            itemsize=itemsize,
            fused=loaded.fused and len(some) == 1,
        )
        click.echo(f"{len(some)} queries, gather | dense, ms; crossover told: {told:.2f}")
        for share in SHARES:
            ready = loaded.allow(_allowed(len(loaded), share))
            row: dict[str, Any] = {"queries": len(some), "share": share, "told": told}
            for way in WAYS:
                search = partial(loaded.candidates, some, 26, rows=ready, way=way)
                row[way] = _seconds(loaded.devices[0], search, min(rounds, 5))
            measured.append(row)
            times = (spread([1000 * taken for taken in row[way]]) for way in WAYS)
            click.echo(f"  {share:4.0%}  {' | '.join(times)}")
    return measured


def _batch(loaded: DeviceRows, queries: NDArray[np.float32], rounds: int) -> dict[str, Any]:
    """All queries without a filter, beside the bare product, whose answer is thrown away."""
    device, rows = loaded.devices[0], loaded.parts[0].rows
    sent = torch.tensor(queries, device=device).to(rows.dtype)
    step = max(1, 2**28 // len(queries))
    room = torch.empty((len(queries), min(step, len(rows))), dtype=rows.dtype, device=device)

    def product() -> None:
        for start in range(0, len(rows), step):
            piece = rows[start : start + step]
            torch.mm(sent, piece.T, out=room[:, : len(piece)])

    searches, products = [], []
    for _ in range(rounds):
        products += _seconds(device, product, 1)
        searches += _seconds(device, lambda: loaded.candidates(queries, 26), 1)
    shares = [bare / whole for bare, whole in zip(products, searches, strict=True)]
    rate = 2 * len(queries) * len(rows) * loaded.dim / float(np.median(products))
    click.echo(
        f"{len(queries)} queries, all rows: ms {spread([1000 * taken for taken in searches])}; "
        f"of the product's rate ({rate / 1e12:.3g} Tflop/s) {spread(shares)}"
    )
    return {"searches": searches, "products": products, "share_of_product": shares}


def _allowed(rows: int, share: float) -> NDArray[np.int64]:
    return np.flatnonzero(np.random.default_rng(2).random(rows) < share)


def _recall(
    loaded: DeviceRows, vectors: NDArray[Any], queries: NDArray[np.float32]
) -> dict[str, Any]:
    """The share of the true first 10 that the 26 candidates of one query, and of some together,
    hold; unfiltered and with a tenth allowed; and whether all keys are within their bound."""
    keys = np.empty((len(queries), len(vectors)))
    for start in range(0, len(vectors), 65536):
        piece = vectors[start : start + 65536].astype(np.float64)
        keys[:, start : start + len(piece)] = queries.astype(np.float64) @ piece.T
    found: dict[str, Any] = {}
    for name, rows in (("all", None), ("10 %", _allowed(len(vectors), 0.1))):
        true = keys if rows is None else keys[:, rows]
        best = np.argpartition(-true, TOP - 1, axis=1)[:, :TOP]
        best = best if rows is None else rows[best]
        for size in (1, len(queries)):
            held, within = [], True
            for at in range(0, len(queries), size):
                answer = loaded.candidates(queries[at : at + size], 26, rows=rows)
                for one in range(len(answer.rows)):
                    held.append(len(np.intersect1d(answer.rows[one], best[at + one])) / TOP)
                    off = np.abs(answer.keys[one] - keys[at + one][answer.rows[one]])
                    within &= bool((off <= answer.bound[one]).all())
            found[f"{name}, {size} at once"] = {"recall": held, "within_bound": within}
            click.echo(f"recall@{TOP}, {name}, {size} at once: {np.mean(held):.4f}, {within=}")
    return found


if __name__ == "__main__":
    main()
