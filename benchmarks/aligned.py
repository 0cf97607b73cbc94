"""Parts compared on a shortlist: the path distances of one query beside the bare product of its
stripes with theirs.

    python -m benchmarks.aligned --out raw

In every round the query and its candidates are others, from parts that lie in a mapped file as a
gallery's do, so copying them together is timed too. All answers are compared with the equations
in plain NumPy.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import keep_raw, spread
from reid_index.search.aligned import local_distances

_FEW = 2**20


@click.command()
@click.option("--rows", default=20_000, show_default=True, help="Of the whole gallery.")
@click.option("--candidates", default=1000, show_default=True)
@click.option("--stripes", default=8, show_default=True)
@click.option("--dim", default=128, show_default=True)
@click.option("--rounds", default=200, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for raw results.")
def main(rows: int, candidates: int, stripes: int, dim: int, rounds: int, out: Path | None) -> None:
    """Measure shortlists."""
    for dtype in ("float32", "float16"):
        with tempfile.TemporaryDirectory() as scratch:
            parts = drawn_parts(Path(scratch) / "parts", (rows, stripes, dim), dtype)
            times, largest = _measure(parts, candidates, rounds)
        results = {
            "benchmark": "aligned",
            "size": [rows, candidates, stripes, dim],
            "dtype": dtype,
            "largest_difference": largest,
        }
        keep_raw(out, f"aligned-{dtype}", results, times=times)
        for line in summary(times, largest):
            click.echo(f"{dtype}: {line}")


def drawn_parts(path: Path, shape: tuple[int, int, int], dtype: str) -> NDArray[np.generic]:
    """Parts in a file, mapped."""
    rng = np.random.default_rng(0)
    written = np.memmap(path, mode="w+", dtype=dtype, shape=shape)
    step = max(1, _FEW // (shape[1] * shape[2]))
    for at in range(0, shape[0], step):
        some = (min(step, shape[0] - at), *shape[1:])
        written[at : at + step] = rng.standard_normal(some, np.float32)
    written.flush()
    return np.memmap(path, mode="r", dtype=dtype, shape=shape)


def _measure(
    parts: NDArray[np.generic], candidates: int, rounds: int
) -> tuple[list[dict[str, Any]], float]:
    """Seconds of each round, the first few left out, and how far the farthest answer is from the
    reference's."""
    rng = np.random.default_rng(1)
    times, largest = [], 0.0
    for turn in range(-3, rounds):
        query = np.array(parts[rng.integers(len(parts))])
        rows = rng.choice(len(parts), min(candidates, len(parts)), replace=False)
        begin = time.perf_counter()
        there = parts[rows]
        gathered = time.perf_counter()
        found = local_distances(query, there)
        compared = time.perf_counter()
        a, b = (one.astype(np.float32).reshape(-1, one.shape[-1]) for one in (query, there))
        room = np.zeros((len(a), len(b)), np.float32)
        start = time.perf_counter()
        np.matmul(a, b.T, out=room)
        multiplied = time.perf_counter()
        largest = max(largest, float(np.abs(found - by_numpy(query, there)).max()))
        taken = {
            "gather": gathered - begin,
            "compare": compared - gathered,
            "gather and compare": compared - begin,
            "product": multiplied - start,
        }
        if turn >= 0:
            times += [{"round": turn, "what": what, "seconds": s} for what, s in taken.items()]
    return times, largest


def by_numpy(query: NDArray[np.generic], there: NDArray[np.generic]) -> NDArray[np.float64]:
    """The equations of AlignedReID++ in double precision: (n,)."""
    one, other = (parts.astype(np.float64) for parts in (query, there))
    one /= np.linalg.norm(one, axis=-1, keepdims=True)
    other /= np.linalg.norm(other, axis=-1, keepdims=True)
    squared = np.maximum(2 - 2 * np.einsum("id,njd->nij", one, other), 0)
    path = np.tanh(np.sqrt(squared) / 2)
    stripes = len(one)
    for i in range(stripes):
        for j in range(stripes):
            before = [path[:, i - 1, j]] * (i > 0) + [path[:, i, j - 1]] * (j > 0)
            if before:
                path[:, i, j] += np.minimum(before[0], before[-1])
    return path[:, -1, -1]


def summary(times: list[dict[str, Any]], largest: float) -> list[str]:
    """Milliseconds, the ratio to the product, the largest difference."""
    taken = {
        what: [1000 * row["seconds"] for row in times if row["what"] == what]
        for what in dict.fromkeys(row["what"] for row in times)
    }
    ratio = float(np.median(taken["compare"])) / float(np.median(taken["product"]))
    return [
        *(f"{what}, ms: {spread(some)}" for what, some in taken.items()),
        f"compare ÷ product: {ratio:.2f}",
        f"largest difference from NumPy's double precision: {largest:.1e}",
    ]


if __name__ == "__main__":
    main()
